"""What the simulated venue does with a symbol's open orders in one bar, and what expires at the close.

What a broker does instead is heard of in `risk.reports`; a bar then says no more than what a lot is worth.
"""

import math

from broker.venue import base_is_stale, fill_price, room, stop_raw, target_price
from operators.kernel import kernel
from risk.limits import Limits
from risk.portfolio import (
    LIVE_LEGS,
    NO_LEGS,
    TRIGGERED,
    Book,
    Funds,
    Row,
    open_lot,
    reduce_lot,
    release,
    widen,
)
from risk.scratch import BarRow
from risk.tape import (
    Tape,
    end_stop,
    end_target,
    stop_leg,
    target_leg,
    write_fill,
    write_legs,
    write_trade,
    write_update,
)
from schemas.events import Leg, Reason, Status
from schemas.units import TICKS_PER_USD, to_ticks

ticks = kernel(to_ticks)


@kernel
def fill(limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int, bar: BarRow) -> None:
    """Run one symbol's open orders through one bar; then widen its excursions and mark it."""
    left = room(bar.volume, limits.volume_bps)
    if row.entry_shares > 0:
        left -= fill_entry(limits, funds, row, tape, ts, symbol, bar.open, left)
    elif row.legs == TRIGGERED or row.exit_reason != Reason.NONE:
        left -= fill_exit(limits, funds, row, tape, ts, symbol, bar.open, left)
    # an OCO sent in this slice is live from the next bar on
    if row.shares > 0 and row.legs == LIVE_LEGS and not (row.oco and row.legs_ts == ts):
        fill_legs(limits, funds, row, tape, ts, symbol, bar.open, bar.high, bar.low, left)
    if row.shares > 0:
        widen(row, bar.high, bar.low)
    row.mark = bar.close


@kernel
def see(row: Row, high_usd: float, low_usd: float, close_usd: float) -> None:
    """One bar of a symbol whose orders are at a broker: widen the lot's excursions and mark it."""
    if row.shares > 0:
        widen(row, ticks(high_usd), ticks(low_usd))
    row.mark = ticks(close_usd)


@kernel
def quote(row: Row, half_spread_usd: float) -> None:
    """Remember a bar's quote, if it has one, for fills in later bars."""
    if half_spread_usd == half_spread_usd:
        row.half_spread = math.ceil(half_spread_usd * TICKS_PER_USD)


@kernel
def fill_entry(
    limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int, open_price: int, left: int
) -> int:
    """Buy, or sell short, at the open what the bar's volume allows; returns the shares.

    The venue refuses when the bracket no longer surrounds the price, or when the cash does not suffice.
    """
    wanted = row.entry_shares
    if base_is_stale(open_price, row.stop, row.target):
        refuse(funds, row, tape, ts, symbol, Reason.STALE_BASE)
        return 0
    shares = min(wanted, left)
    if shares <= 0:
        return 0
    price = fill_price(row.side, open_price, limits.slippage_bps, row.half_spread)
    if price * shares + limits.commission > funds.cash - funds.collateral:
        refuse(funds, row, tape, ts, symbol, Reason.INSUFFICIENT_CASH)
        return 0
    release(funds, row)
    open_lot(funds, row, shares, price * shares, price, limits.commission)
    row.entry_ts, row.entry_slice, row.entry_session = ts, funds.slices, funds.session
    write_fill(tape, ts, symbol, row.side, shares, price, limits.commission, row.order_ts, Leg.ENTRY,
               Reason.NONE, open_price)  # fmt: skip
    watch(limits, funds, ts, row.side, price, open_price)
    row.legs = LIVE_LEGS
    if shares == wanted:
        write_update(tape, ts, symbol, row.order_ts, Leg.ENTRY, Status.FILLED, shares, Reason.NONE)
    else:
        protect(row, tape, ts, symbol, shares, wanted - shares)
    return shares


@kernel
def watch(limits: Limits, funds: Funds, ts: int, side: int, price: int, expected: int) -> None:
    """Remember a fill that was far dearer than expected."""
    slip = side * (price - expected)
    if slip * 10_000 > limits.guard_bps * max(expected, 1):
        funds.slipped_ts, funds.slipped = ts, slip / max(expected, 1)


@kernel
def refuse(funds: Funds, row: Row, tape: Tape, ts: int, symbol: int, reason: Reason) -> None:
    """The venue rejects a pending entry, legs and all."""
    write_update(tape, ts, symbol, row.order_ts, Leg.ENTRY, Status.REJECTED, row.entry_shares, reason)
    release(funds, row)


@kernel
def protect(row: Row, tape: Tape, ts: int, symbol: int, shares: int, rest: int) -> None:
    """After a partial entry: cancel the rest and send an OCO for what was filled."""
    write_update(tape, ts, symbol, row.order_ts, Leg.ENTRY, Status.PARTIALLY_FILLED, shares, Reason.NONE)
    write_update(tape, ts, symbol, row.order_ts, Leg.ENTRY, Status.CANCELED, rest, Reason.PARTIAL_ENTRY)
    row.oco, row.legs_ts = True, ts
    write_legs(tape, ts, symbol, row, shares, row.order_ts, Reason.PARTIAL_ENTRY)


@kernel
def fill_exit(
    limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int, open_price: int, left: int
) -> int:
    """Close at the open what the bar's volume allows, for an exit order or a triggered stop."""
    if row.legs == TRIGGERED:
        return close_shares(limits, funds, row, tape, ts, symbol, left, open_price, row.legs_ts, stop_leg(row),
                           Reason.STOP_LOSS)  # fmt: skip
    return close_shares(limits, funds, row, tape, ts, symbol, left, open_price, row.exit_ts, Leg.EXIT,
                       row.exit_reason)  # fmt: skip


@kernel
def fill_legs(
    limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int,
    open_price: int, high: int, low: int, left: int,
) -> None:  # fmt: skip
    """The stop first, then the target: when one bar touches both, the worse is assumed."""
    held = row.shares
    raw = stop_raw(row.side, open_price, high, low, row.stop)
    if raw >= 0:
        if left > 0:
            close_shares(limits, funds, row, tape, ts, symbol, left, raw, row.legs_ts, stop_leg(row),
                        Reason.STOP_LOSS)  # fmt: skip
            row.legs = TRIGGERED if row.shares > 0 else NO_LEGS
            write_update(tape, ts, symbol, row.legs_ts, target_leg(row), Status.CANCELED, held, Reason.SIBLING)
        return
    price = target_price(row.side, open_price, high, low, row.target)
    if price >= 0 and left > 0:  # a limit gets its price or better, without slippage
        shares = min(held, left)
        book_exit(limits, funds, row, tape, ts, symbol, shares, price * shares, price, price, row.legs_ts,
                  target_leg(row), Reason.TAKE_PROFIT)  # fmt: skip
        if row.shares == 0:
            row.legs = NO_LEGS
            write_update(tape, ts, symbol, row.legs_ts, stop_leg(row), Status.CANCELED, held, Reason.SIBLING)


@kernel
def close_shares(
    limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int,
    left: int, raw: int, order_ts: int, leg: Leg, reason: int,
) -> int:  # fmt: skip
    """Close at `raw`, friction against us, as much as is left of the bar's volume; returns the shares."""
    shares = min(row.shares, left)
    if shares <= 0:
        return 0
    price = fill_price(-row.side, raw, limits.slippage_bps, row.half_spread)
    book_exit(limits, funds, row, tape, ts, symbol, shares, price * shares, price, raw, order_ts, leg, reason)
    return shares


@kernel
def book_exit(
    limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int,
    shares: int, amount: int, price: int, expected: int, order_ts: int, leg: Leg, reason: int,
) -> None:  # fmt: skip
    """Book a fill that closes shares, for `amount` in all; the last one closes the lot."""
    reduce_lot(funds, row, shares, amount, limits.commission)
    watch(limits, funds, ts, -row.side, price, expected)
    write_fill(tape, ts, symbol, -row.side, shares, price, limits.commission, order_ts, leg, reason, expected)
    if row.shares > 0:
        write_update(tape, ts, symbol, order_ts, leg, Status.PARTIALLY_FILLED, shares, reason)
        return
    write_update(tape, ts, symbol, order_ts, leg, Status.FILLED, shares, reason)
    widen(row, price, price)
    row.exit_reason = Reason.NONE
    row.last_ts = ts
    if row.entry_session == funds.session:
        funds.day_trades += 1
    if row.legs == TRIGGERED:
        row.legs = NO_LEGS
    write_trade(tape, ts, symbol, row, reason)


@kernel
def expire(limits: Limits, book: Book, tape: Tape, ts: int) -> None:
    """The session is over: whatever is still open expires, bracket legs only if they are day orders."""
    funds = book.funds[0]
    for k in range(funds.busy):
        symbol = book.busy[k]
        row = book.rows[symbol]
        if row.entry_shares > 0:
            write_update(tape, ts, symbol, row.order_ts, Leg.ENTRY, Status.EXPIRED, row.entry_shares,
                         Reason.DAY_ORDER)  # fmt: skip
            release(funds, row)
        if row.exit_reason != Reason.NONE:
            write_update(tape, ts, symbol, row.exit_ts, Leg.EXIT, Status.EXPIRED, row.shares, Reason.DAY_ORDER)
            row.exit_reason = Reason.NONE
        if row.legs == TRIGGERED:
            end_stop(tape, ts, symbol, row, Status.EXPIRED, Reason.DAY_ORDER)
            row.legs = NO_LEGS
        if row.legs == LIVE_LEGS and limits.legs_expire:
            end_target(tape, ts, symbol, row, Status.EXPIRED, Reason.DAY_ORDER)
            end_stop(tape, ts, symbol, row, Status.EXPIRED, Reason.DAY_ORDER)
            row.legs = NO_LEGS
