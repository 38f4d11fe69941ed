"""What a broker says of the account's orders, where it fills them: `venue.kind = broker`.

A report acts at its place in the account's log, like a command; the orders it causes go out at once, in the name of the
last slice seen. A fill belongs to the slice that is under way, as in the simulation. Reports are numbered along their
log and tell of each order how many shares it has come to, so what is said twice is booked once; what cannot be stops
the account. docs/account.md says it rule by rule.
"""

from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from operators.kernel import grown, kernel
from risk.account import State, convert
from risk.actions import MAX_SHARES_HELD
from risk.commands import between_slices
from risk.exits import send_exit
from risk.fills import book_exit, watch
from risk.halts import open_session
from risk.ledger import LedgerFrame
from risk.limits import Limits, Params
from risk.portfolio import (
    LIVE_LEGS,
    MAX_MONEY,
    NO_LEG,
    NO_LEGS,
    STOP,
    TARGET,
    TRIGGERED,
    Book,
    Funds,
    Row,
    dismiss_idle,
    extend_lot,
    open_lot,
    part_of,
    release,
)
from risk.tape import (
    PER_SYMBOL,
    Tape,
    blank,
    stop_leg,
    target_leg,
    write_fill,
    write_legs,
    write_update,
)
from schemas.events import Leg, Reason, Side, Status, word
from schemas.identity import iso
from schemas.units import MAX_PRICE_USD, TICKS_PER_USD

LOST = 0  # instead of the slice of an order: reconciliation has found that the shares are gone
OPEN = -1  # an order of which more may be heard
ENDS = {"filled": Status.FILLED, "canceled": Status.CANCELED, "expired": Status.EXPIRED, "rejected": Status.REJECTED}
BOOKED, NOT_SENT, GAP, TOO_MANY = range(4)
WRONG = {
    NOT_SENT: "it fills an order that was not sent, or is no more",
    GAP: "fills before it were not reported",
    TOO_MANY: "it fills more shares than were open",
}
MAX_PRICE = int(MAX_PRICE_USD * TICKS_PER_USD)

Shares = Annotated[int, Meta(ge=0, le=MAX_SHARES_HELD)]


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of one order, which is named by its symbol, the slice it was sent in, and its leg.

    Numbers rise along the log of reports.
    """

    number: Annotated[int, Meta(ge=0)]
    symbol: str
    order_ts: int
    leg: Leg
    status: str  # the broker's word; only ENDS matter, shares speak for themselves
    qty: Shares = 0  # shares of this fill, 0 for a mere change of state
    cost: Annotated[int, Meta(ge=0, le=MAX_MONEY)] = 0  # ticks, what they cost or brought
    filled: Shares = 0  # shares of the order up to here
    reason: Reason = Reason.NONE

    def __post_init__(self) -> None:
        if self.filled < self.qty or not self.qty <= self.cost <= self.qty * MAX_PRICE:
            raise ValueError(f"{self}: {self.qty} shares for {self.cost} ticks, {self.filled} so far")

    def __str__(self) -> str:
        return f"report {self.number} of {self.symbol}|{iso(self.order_ts)}|{word(self.leg)} ({self.status})"


def hear(params: Params, state: State, report: Report, ts: int, session: int) -> tuple[State, LedgerFrame]:
    """The account after a report, and what it caused; nothing if it says nothing new.

    `ts` and `session` are those of the slice under way. Raises ValueError for what contradicts the book.
    """
    book = state.book
    book = Book(grown(book.funds, 1), grown(book.rows, 0), book.busy.copy(), book.closes, book.recent)
    funds, tape = book.funds[0], blank(0, 2 * PER_SYMBOL)
    if report.number > funds.report:
        funds.report = report.number
        found = np.flatnonzero(state.names == report.symbol.encode())
        said = NOT_SENT if report.qty and report.order_ts != LOST else BOOKED
        if found.size:
            end = ENDS.get(report.status, OPEN)
            said = take(convert(params), book, tape, ts, session, int(found[0]), report.order_ts, int(report.leg),
                        int(end), report.qty, report.cost, report.filled, int(_reason(report)))  # fmt: skip
        if said != BOOKED:
            raise ValueError(f"{report}, {report.qty} shares, {report.filled} so far: {WRONG[said]}")
        if funds.overflow:
            raise OverflowError(f"{report}: the account's money no longer fits int64")
    ledger = replace(between_slices(state, book, tape), report=report.number)
    return State(state.version, book, state.names), ledger


def _reason(report: Report) -> Reason:
    """Why an order has ended, as far as it is known."""
    if report.reason != Reason.NONE:
        return report.reason
    if report.status == "expired":
        return Reason.DAY_ORDER
    is_leg = report.leg not in (Leg.ENTRY, Leg.EXIT)
    return Reason.SIBLING if is_leg and report.status == "canceled" else Reason.REFUSED


@kernel
def take(
    limits: Limits, book: Book, tape: Tape, ts: int, session: int, symbol: int,
    order_ts: int, leg: int, end: int, qty: int, cost: int, filled: int, reason: int,
) -> int:  # fmt: skip
    """Book a report on an order of one symbol; returns BOOKED or what is wrong with it."""
    funds, row = book.funds[0], book.rows[symbol]
    if leg == Leg.EXIT and order_ts == LOST:
        return lose(limits, funds, row, book, tape, ts, session, symbol, qty, cost)
    if not is_last(row, leg, order_ts):
        return NOT_SENT if qty > 0 else BOOKED
    booked = booked_of(row, leg)
    if filled - qty > booked or (filled > booked and filled - qty != booked):
        return GAP
    if filled > booked:
        if qty > (row.entry_shares if leg == Leg.ENTRY else row.shares):
            return TOO_MANY
        if leg == Leg.EXIT and row.exit_reason == Reason.NONE:
            return NOT_SENT
        open_session(limits, funds, session)
        if leg == Leg.ENTRY:
            fill_entry(limits, funds, row, tape, ts, symbol, qty, cost, filled)
        elif leg == Leg.EXIT:
            fill_exit(limits, funds, row, tape, ts, symbol, qty, cost, filled)
        elif leg == target_leg(row):
            fill_target(limits, funds, row, tape, ts, symbol, qty, cost, filled)
        else:
            fill_stop(limits, funds, row, tape, ts, symbol, qty, cost, filled)
    if end == Status.FILLED and leg == Leg.ENTRY and row.entry_shares > 0:
        return GAP
    if end != OPEN and is_open(row, leg) and (end != Status.FILLED or leg == Leg.EXIT):
        if end == Status.REJECTED:
            open_session(limits, funds, session)
        # what expires after a close belongs to the session, unless it was sent in its last slice
        when = ts if funds.session == session or order_ts == funds.ts else int(funds.ts)
        if leg == Leg.ENTRY:
            end_entry(limits, funds, row, tape, when, symbol, end, reason)
        elif leg == Leg.EXIT and end == Status.FILLED:  # fewer shares were left to sell, the broker thought
            row.exit_reason = Reason.NONE
        elif leg == Leg.EXIT:
            write_update(tape, when, symbol, row.exit_ts, Leg.EXIT, end, row.shares, reason)
            row.exit_reason = Reason.NONE
        else:
            end_leg(row, tape, when, symbol, leg == target_leg(row), end, reason)
    dismiss_idle(book)
    return BOOKED


@kernel
def is_last(row: Row, leg: int, order_ts: int) -> bool:
    """Whether this is the last entry, exit or leg of its kind that was sent: nothing older can be open."""
    if leg == Leg.ENTRY:
        return bool(order_ts == row.order_ts)
    if leg == Leg.EXIT:
        return bool(order_ts == row.exit_ts)
    return bool(order_ts == row.legs_ts and (leg == target_leg(row) or leg == stop_leg(row)))


@kernel
def is_open(row: Row, leg: int) -> bool:
    """Whether the last order of this kind is open, as far as the account has heard and has not ended it itself."""
    if leg == Leg.ENTRY:
        return bool(row.entry_shares > 0)
    if leg == Leg.EXIT:
        return bool(row.exit_reason != Reason.NONE)
    if leg == target_leg(row):
        return bool(row.legs == LIVE_LEGS or row.survivor == TARGET)
    return bool(row.legs != NO_LEGS or row.survivor == STOP)


@kernel
def booked_of(row: Row, leg: int) -> int:
    """Shares that the last order of this kind has come to."""
    if leg == Leg.ENTRY:
        return int(row.entry_filled)
    if leg == Leg.EXIT:
        return int(row.exit_filled)
    return int(row.target_filled) if leg == target_leg(row) else int(row.stop_filled)


@kernel
def price_of(side: int, cost: int, qty: int) -> int:
    """The price of a fill, to the tick against us; what counts in the book is its cost."""
    return -(-cost // qty) if side == Side.BUY else cost // qty


@kernel
def fill_entry(
    limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int, qty: int, cost: int, filled: int
) -> None:
    """Shares came: the lot begins or grows. Once the entry is complete the broker's legs are live."""
    price = price_of(row.side, cost, qty)
    funds.reserved -= row.entry_price * qty
    row.entry_shares -= qty
    row.entry_filled = filled
    if row.shares == 0:
        open_lot(funds, row, qty, cost, price, limits.commission)
        row.entry_ts, row.entry_slice, row.entry_session = ts, funds.slices + 1, funds.session
        row.mark = price  # until its next bar
    else:
        extend_lot(funds, row, qty, cost, price)
    funds.overflow = funds.overflow or funds.cash > MAX_MONEY or funds.cash < -MAX_MONEY
    write_fill(tape, ts, symbol, row.side, qty, price, limits.commission, row.order_ts, Leg.ENTRY, Reason.NONE,
               row.entry_price)  # fmt: skip
    watch(limits, funds, ts, row.side, price, row.entry_price)
    if row.entry_shares > 0:
        write_update(tape, ts, symbol, row.order_ts, Leg.ENTRY, Status.PARTIALLY_FILLED, qty, Reason.NONE)
        return
    write_update(tape, ts, symbol, row.order_ts, Leg.ENTRY, Status.FILLED, qty, Reason.NONE)
    release(funds, row)
    row.legs = LIVE_LEGS
    leave(limits, funds, row, tape, symbol)


@kernel
def end_entry(limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int, end: int, reason: int) -> None:
    """Nothing more will come. What came is protected, or closed if that was decided while this word was awaited."""
    if not row.cancelling:  # else that has been said
        write_update(tape, ts, symbol, row.order_ts, Leg.ENTRY, end, row.entry_shares, reason)
    release(funds, row)
    if row.shares > 0 and not leave(limits, funds, row, tape, symbol):
        now = int(funds.ts)
        row.oco, row.legs_ts, row.legs = True, now, LIVE_LEGS
        row.target_filled = row.stop_filled = 0
        write_legs(tape, now, symbol, row, row.shares, row.order_ts, Reason.PARTIAL_ENTRY)


@kernel
def leave(limits: Limits, funds: Funds, row: Row, tape: Tape, symbol: int) -> bool:
    """Send the exit that had to wait for the entry's end, if there is one."""
    if funds.killed and limits.kill_flatten:
        row.leaving = Reason.KILL_SWITCH
    if row.leaving == Reason.NONE:
        return False
    send_exit(row, tape, int(funds.ts), symbol, row.leaving)
    return True


@kernel
def fill_exit(
    limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int, qty: int, cost: int, filled: int
) -> None:
    """The exit closes shares, at what it was decided on or worse."""
    row.exit_filled = filled
    price = price_of(-row.side, cost, qty)
    book_exit(limits, funds, row, tape, ts, symbol, qty, cost, price, row.exit_price, row.exit_ts, Leg.EXIT,
              row.exit_reason)  # fmt: skip


@kernel
def fill_target(
    limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int, qty: int, cost: int, filled: int
) -> None:
    """The target closes shares; with the last one the stop is over."""
    held, leaving = row.shares, row.exit_reason != Reason.NONE
    row.target_filled = filled
    book_exit(limits, funds, row, tape, ts, symbol, qty, cost, price_of(-row.side, cost, qty), row.target, row.legs_ts,
              target_leg(row), Reason.TAKE_PROFIT)  # fmt: skip
    if row.shares > 0:
        return
    if row.legs != NO_LEGS or row.survivor == STOP:
        write_update(tape, ts, symbol, row.legs_ts, stop_leg(row), Status.CANCELED, held, Reason.SIBLING)
    end_orders(row, tape, ts, symbol, held, leaving)


@kernel
def fill_stop(
    limits: Limits, funds: Funds, row: Row, tape: Tape, ts: int, symbol: int, qty: int, cost: int, filled: int
) -> None:
    """The stop closes shares: it is triggered, and the target is over."""
    held, leaving = row.shares, row.exit_reason != Reason.NONE
    row.stop_filled = filled
    book_exit(limits, funds, row, tape, ts, symbol, qty, cost, price_of(-row.side, cost, qty), row.stop, row.legs_ts,
              stop_leg(row), Reason.STOP_LOSS)  # fmt: skip
    if row.legs == LIVE_LEGS or row.survivor == TARGET:
        write_update(tape, ts, symbol, row.legs_ts, target_leg(row), Status.CANCELED, held, Reason.SIBLING)
    if row.shares == 0:
        end_orders(row, tape, ts, symbol, held, leaving)
        return
    if row.legs == LIVE_LEGS or row.survivor == STOP:
        row.legs = TRIGGERED
    row.survivor = NO_LEG


@kernel
def lose(
    limits: Limits, funds: Funds, row: Row, book: Book, tape: Tape, ts: int, session: int, symbol: int, qty: int,
    cost: int,
) -> int:  # fmt: skip
    """Shares that the broker does not have leave the book, nobody knows how; what was to close them ends.

    More than the lot has were not the account's: somebody else's at the broker went with them.
    """
    if row.shares == 0 or qty == 0:
        return BOOKED
    if qty > row.shares:
        qty, cost = row.shares, part_of(cost, row.shares, qty)
    open_session(limits, funds, session)
    held, leaving, price = row.shares, row.exit_reason != Reason.NONE, price_of(-row.side, cost, qty)
    book_exit(limits, funds, row, tape, ts, symbol, qty, cost, price, price, ts, Leg.EXIT, Reason.STATE_UNKNOWN)
    if row.shares == 0:
        if row.legs == LIVE_LEGS or row.survivor == TARGET:
            write_update(tape, ts, symbol, row.legs_ts, target_leg(row), Status.CANCELED, held, Reason.SIBLING)
        if row.legs != NO_LEGS or row.survivor == STOP:
            write_update(tape, ts, symbol, row.legs_ts, stop_leg(row), Status.CANCELED, held, Reason.SIBLING)
        end_orders(row, tape, ts, symbol, held, leaving)
    dismiss_idle(book)
    return BOOKED


@kernel
def end_orders(row: Row, tape: Tape, ts: int, symbol: int, held: int, leaving: bool) -> None:
    """The lot was closed by something else: an exit that was under way is called back."""
    row.legs, row.survivor = NO_LEGS, NO_LEG
    if leaving:
        write_update(tape, ts, symbol, row.exit_ts, Leg.EXIT, Status.CANCELED, held, Reason.SIBLING)


@kernel
def end_leg(row: Row, tape: Tape, ts: int, symbol: int, is_target: bool, end: int, reason: int) -> None:
    """A leg is over without a fill: the lot counts as bare, and its stop and target are watched at closes."""
    if is_target:
        write_update(tape, ts, symbol, row.legs_ts, target_leg(row), end, row.shares, reason)
    else:
        write_update(tape, ts, symbol, row.legs_ts, stop_leg(row), end, row.shares, reason)
    row.survivor = NO_LEG
    if row.legs == LIVE_LEGS:
        row.survivor = STOP if is_target else TARGET
    row.legs = NO_LEGS
