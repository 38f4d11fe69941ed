"""The yardstick of `utp bench`: the same alphas in one compiled pass over all columns, with a toy position.

What a vectorised backtester is asked for: RSI, EMA cross and MACD vote with equal weights, along the regime, and a
position is opened at the next open and closed at its stop, at its target, after so many bars or when the score turns.
No checks of bars, calendar, filters, rules, verdicts, orders, portfolio or files: what those cost is the platform's
rate over this one.
"""

from typing import Protocol

from operators import ema_cross, macd, regime, rsi
from operators.kernel import kernel
from schemas.events import Regime
from schemas.frames import Floats, Ints, Longs, Table

ENTER = 0.3  # of a score between -1 and 1: what passes the decision gate along the regime
STOP, TARGET, BARS = 0.985, 1.03, 60
BUDGET = 1_000.0  # USD per position
SLIPPAGE = 0.0005


class Row(Protocol):
    """One symbol's position."""

    seen: int
    wanted: int  # 1 buys and -1 sells at the next bar's open
    shares: float
    price: float  # paid per share
    entered: int  # UTC ns
    until: int  # bars seen when it has been held long enough


class Trade(Protocol):
    """A round trip."""

    symbol: int
    entered: int
    left: int
    shares: float
    gain: float  # USD


@kernel
def walk(
    rows: Table, strength: Table, cross: Table, convergence: Table, trend: Table, trades: Table, ts: Longs,
    symbol: Ints, open: Floats, high: Floats, low: Floats, close: Floats, bid: Floats, ask: Floats,  # noqa: A002
) -> float:  # fmt: skip
    """Goes through all bars in order of time; the last cash in USD."""
    cash, written = 0.0, 0
    for i in range(close.size):
        s = symbol[i]
        row, half = rows[s], (ask[i] - bid[i]) / 2.0
        row.seen += 1
        price = 0.0
        if row.wanted > 0:
            row.price, row.entered, row.until = open[i] * (1.0 + SLIPPAGE) + half, ts[i], row.seen + BARS
            row.shares = BUDGET // row.price
            cash -= row.shares * row.price
        elif row.wanted < 0:
            price = open[i]
        if row.shares > 0.0 and price == 0.0:
            if low[i] <= STOP * row.price:
                price = min(open[i], STOP * row.price)
            elif high[i] >= TARGET * row.price:
                price = max(open[i], TARGET * row.price)
        if price > 0.0:
            price = price * (1.0 - SLIPPAGE) - half
            cash += row.shares * price
            if written < trades.size:
                trade = trades[written]
                trade.symbol, trade.entered, trade.left = s, row.entered, ts[i]
                trade.shares, trade.gain = row.shares, row.shares * (price - row.price)
                written += 1
            row.shares = 0.0
        vote = rsi.follow(strength[s], close[i], 14, 14) + ema_cross.follow(cross[s], close[i], 12, 26, 12)
        score = (vote + macd.follow(convergence[s], close[i], 12, 26, 9, 12, False, 0.0)) / 3.0
        way = regime.follow(trend[s], close[i], 20, 50, 2)
        row.wanted = 0
        if row.shares > 0.0:
            if score < -ENTER or row.seen >= row.until:
                row.wanted = -1
        elif score > ENTER and way == Regime.BULL:
            row.wanted = 1
    return cash
