"""The yardstick of `utp bench`: one compiled pass over all columns, with a toy decision and a toy position."""

from typing import Protocol

from operators.kernel import kernel
from schemas.frames import Floats, Ints, Longs, Table

FAST, SLOW = 2.0 / 13.0, 2.0 / 27.0  # weights of the newest close in averages of 12 and 26 bars
BUDGET = 10_000.0  # USD per position
FEE = 1.0  # USD per fill


class Row(Protocol):
    """One symbol: two averages and a position."""

    seen: int
    fast: float  # USD per share
    slow: float
    over: bool
    shares: float
    price: float  # paid per share
    entered: int  # UTC ns
    wanted: int  # 1 buys and -1 sells at the next bar's open


class Trade(Protocol):
    """A round trip."""

    symbol: int
    entered: int
    left: int
    shares: float
    gain: float  # USD


@kernel
def walk(
    rows: Table, trades: Table, ts: Longs, symbol: Ints,
    open: Floats, high: Floats, low: Floats, close: Floats, volume: Floats, bid: Floats, ask: Floats,  # noqa: A002
) -> float:  # fmt: skip
    """Buy when the averages cross, sell when they cross back, at the stop or at the target; the last cash in USD."""
    cash, written = 0.0, 0
    for i in range(close.size):
        row = rows[symbol[i]]
        half = (ask[i] - bid[i]) / 2.0
        price = 0.0
        if row.wanted > 0 and row.shares == 0.0:
            row.price, row.entered = open[i] + half, ts[i]
            row.shares = min(BUDGET // row.price, volume[i])
            cash -= row.shares * row.price + FEE
        elif row.wanted < 0 and row.shares > 0.0:
            price = open[i] - half
        elif row.shares > 0.0 and low[i] <= 0.99 * row.price:
            price = min(open[i], 0.99 * row.price) - half
        elif row.shares > 0.0 and high[i] >= 1.02 * row.price:
            price = max(open[i], 1.02 * row.price)
        if price > 0.0:
            cash += row.shares * price - FEE
            if written < trades.size:
                trade = trades[written]
                trade.symbol, trade.entered, trade.left = symbol[i], row.entered, ts[i]
                trade.shares, trade.gain = row.shares, row.shares * (price - row.price) - 2.0 * FEE
                written += 1
            row.shares = 0.0
        row.seen += 1
        if row.seen == 1:
            row.fast = row.slow = close[i]
        row.fast += FAST * (close[i] - row.fast)
        row.slow += SLOW * (close[i] - row.slow)
        over = row.fast > row.slow
        row.wanted = int(row.seen > 26 and over and not row.over) - int(row.over and not over)
        row.over = over
    return cash
