"""Corporate actions: what a split or a dividend does to a lot, its open orders and the funds."""

from operators.kernel import kernel
from risk.exits import cancel_entry, end_survivor
from risk.limits import Limits
from risk.portfolio import LIVE_LEGS, MAX_MONEY, NO_LEGS, TRIGGERED, Book, Funds, Row, part_of, take_out
from risk.tape import Tape, end_stop, end_target, write_trade, write_update
from schemas.events import Leg, Reason, Status
from schemas.frames import Floats
from schemas.units import TICKS_PER_CENT

MAX_RATIO = 100_000  # new or old shares of one split
MAX_SHARES_HELD = 10_000_000  # after a split, so that the dearest fill still fits int64
MAX_TICKS = 100_000_000_000_000  # of a price after a split, for the same reason


@kernel
def act(limits: Limits, book: Book, tape: Tape, ts: int, symbol: int, new: int, old: int, dividend: int) -> None:
    """Apply one action to its symbol, the split before the dividend."""
    funds, row = book.funds[0], book.rows[symbol]
    if new != old:
        rescale(book.closes[symbol], new, old)
        rescale(book.recent[:, symbol], new, old)
        if row.entry_shares > 0:  # decided on a price that is no more
            cancel_entry(limits, funds, row, tape, ts, symbol, Reason.SPLIT)
        if row.shares > 0:
            split(funds, row, tape, ts, symbol, new, old)
    if row.shares > 0:
        amount = row.side * row.shares * dividend  # a short lot owes it
        funds.cash += amount
        funds.dividends += amount
    funds.overflow = funds.overflow or funds.cash > MAX_MONEY or funds.cash < -MAX_MONEY


@kernel
def rescale(closes: Floats, new: int, old: int) -> None:
    """Closes in the shares after a split."""
    for k in range(closes.size):
        closes[k] = closes[k] * old / new


@kernel
def split(funds: Funds, row: Row, tape: Tape, ts: int, symbol: int, new: int, old: int) -> None:
    """Each `old` shares of the lot become `new`; a fraction of a share is settled in cash at the mark."""
    whole = row.shares * new
    shares, rest = whole // old, whole % old
    if shares == 0:
        drop_orders(row, tape, ts, symbol)
    # rest / old of a new share, each worth mark * old / new; rounded against us
    amount = row.side * (row.side * rest * row.mark // new)
    take_out(funds, row, amount, part_of(row.cost, rest, whole))
    row.shares = shares
    row.mark = rescaled(row.mark, new, old)
    row.best, row.worst = rescaled(row.best, new, old), rescaled(row.worst, new, old)
    row.basis = row.basis * old / new
    row.stop, row.target = rescaled_to_cents(row.stop, new, old), rescaled_to_cents(row.target, new, old)
    row.half_spread = -(-row.half_spread * old // new)
    highest = max(row.mark, row.best, row.worst)
    funds.overflow = funds.overflow or shares > MAX_SHARES_HELD or highest > MAX_TICKS
    if shares == 0:
        write_trade(tape, ts, symbol, row, Reason.SPLIT)


@kernel
def drop_orders(row: Row, tape: Tape, ts: int, symbol: int) -> None:
    """Nothing will be left of the lot: neither of what was to close it."""
    if row.legs == LIVE_LEGS:
        end_target(tape, ts, symbol, row, Status.CANCELED, Reason.SPLIT)
        end_stop(tape, ts, symbol, row, Status.CANCELED, Reason.SPLIT)
    if row.legs == TRIGGERED:
        end_stop(tape, ts, symbol, row, Status.CANCELED, Reason.SPLIT)
    end_survivor(row, tape, ts, symbol)
    if row.exit_reason != Reason.NONE:
        write_update(tape, ts, symbol, row.exit_ts, Leg.EXIT, Status.CANCELED, row.shares, Reason.SPLIT)
    row.legs, row.exit_reason = NO_LEGS, Reason.NONE


@kernel
def rescaled(price: int, new: int, old: int) -> int:
    """A price in the shares after a split, to the nearest tick; a half rounds up."""
    return (2 * price * old + new) // (2 * new)


@kernel
def rescaled_to_cents(price: int, new: int, old: int) -> int:
    """A price in the shares after a split, to the nearest cent; a half rounds up."""
    return (2 * price * old + TICKS_PER_CENT * new) // (2 * TICKS_PER_CENT * new) * TICKS_PER_CENT
