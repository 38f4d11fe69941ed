"""When a lot is closed: one exit per lot, whoever asks for it first."""

from operators.kernel import kernel
from risk.limits import Limits
from risk.portfolio import LIVE_LEGS, NO_LEG, NO_LEGS, STOP, TARGET, TRIGGERED, Book, Funds, Row, release
from risk.tape import Tape, end_stop, end_target, write_order, write_update
from schemas.events import Kind, Leg, Phase, Reason, Status
from schemas.frames import Codes, Ints
from schemas.units import share_of

portion = kernel(share_of)


@kernel
def portion_up(amount: int, bps: int) -> int:
    """`amount * bps / 10 000`, rounded up."""
    return -portion(-amount, bps)


@kernel
def send_exits(limits: Limits, book: Book, tape: Tape, ts: int, phase: int, bar_of: Ints, direction: Codes) -> None:
    """Send a market order for every lot that should be closed and is not yet being closed."""
    funds = book.funds[0]
    for k in range(funds.busy):
        symbol = book.busy[k]
        row = book.rows[symbol]
        if row.shares == 0 or row.exit_reason != Reason.NONE or row.legs == TRIGGERED:
            continue
        flipped = bar_of[symbol] >= 0 and direction[bar_of[symbol]] == -row.side
        reason = exit_reason(limits, funds, row, phase, flipped)
        if row.entry_shares > 0:  # more of its entry may still come: the exit waits for the broker's last word on it
            if reason != Reason.NONE:
                row.leaving = reason
        elif reason != Reason.NONE:
            send_exit(row, tape, ts, symbol, reason)


@kernel
def exit_reason(limits: Limits, funds: Funds, row: Row, phase: int, flipped: bool) -> Reason:
    """The first reason to close this lot, or NONE. While legs live at the venue, they stop and take profit."""
    gain = row.side * (row.mark * row.shares - row.cost)
    if funds.killed and limits.kill_flatten:
        return Reason.KILL_SWITCH
    if funds.latched:
        return Reason.DRAWDOWN
    if row.legs == NO_LEGS and gain <= -portion_up(row.cost, limits.stop_loss_bps):
        return Reason.STOP_LOSS
    if row.side * (row.best - row.mark) * 10_000 >= limits.trailing_bps * row.best:
        return Reason.TRAILING_STOP
    if row.legs == NO_LEGS and gain >= portion_up(row.cost, limits.take_profit_bps):
        return Reason.TAKE_PROFIT
    if 0 < limits.max_holding_bars <= funds.slices - row.entry_slice:
        return Reason.TIME_EXIT
    if limits.end_of_day and phase == Phase.EVE:
        return Reason.END_OF_DAY
    if flipped:
        return Reason.SIGNAL_FLIP
    return Reason.NONE


@kernel
def send_exit(row: Row, tape: Tape, ts: int, symbol: int, reason: int) -> None:
    """Cancel the legs and close everything at the market."""
    if row.legs == LIVE_LEGS:
        end_target(tape, ts, symbol, row, Status.CANCELED, Reason.SIBLING)
        end_stop(tape, ts, symbol, row, Status.CANCELED, Reason.SIBLING)
        row.legs = NO_LEGS
    end_survivor(row, tape, ts, symbol)
    row.exit_reason, row.exit_ts, row.last_ts = reason, ts, ts
    row.exit_price, row.exit_filled, row.leaving = row.mark, 0, Reason.NONE
    write_order(tape, ts, symbol, -row.side, row.shares, Kind.MARKET, Leg.EXIT, row.order_ts, reason, row.mark)


@kernel
def end_survivor(row: Row, tape: Tape, ts: int, symbol: int) -> None:
    """Cancel the leg that was left when a broker ended the other."""
    if row.survivor == TARGET:
        end_target(tape, ts, symbol, row, Status.CANCELED, Reason.SIBLING)
    elif row.survivor == STOP:
        end_stop(tape, ts, symbol, row, Status.CANCELED, Reason.SIBLING)
    row.survivor = NO_LEG


@kernel
def cancel_entries(limits: Limits, book: Book, tape: Tape, ts: int, reason: Reason) -> None:
    """Cancel every pending entry."""
    funds = book.funds[0]
    for k in range(funds.busy):
        symbol = book.busy[k]
        if book.rows[symbol].entry_shares > 0:
            cancel_entry(limits, funds, book.rows[symbol], tape, ts, symbol, reason)


@kernel
def cancel_entry(limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int, reason: Reason) -> None:
    """Cancel a pending entry; a broker is asked to, once, and the entry is pending until its last word."""
    if limits.at_broker and reason == Reason.END_OF_DAY:
        row.leaving = reason  # should a fill win
    if row.cancelling:
        return
    write_update(tape, ts, symbol, row.order_ts, Leg.ENTRY, Status.CANCELED, row.entry_shares, reason)
    if limits.at_broker:
        row.cancelling = True
    else:
        release(funds, row)


@kernel
def cancel_rests(limits: Limits, book: Book, tape: Tape, ts: int) -> None:
    """Cancel what a broker has not filled of entries after a slice: their legs sleep until they are complete."""
    funds = book.funds[0]
    for k in range(funds.busy):
        symbol = book.busy[k]
        row = book.rows[symbol]
        if row.entry_shares > 0 and row.shares > 0:
            cancel_entry(limits, funds, row, tape, ts, symbol, Reason.PARTIAL_ENTRY)
