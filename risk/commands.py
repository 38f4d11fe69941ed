"""What a human tells the account between two slices: kill, resume, revoke, approve.

A command acts at its place in the account's log, before the next slice; the orders it causes go out at
once, in the name of the last slice seen.
"""

from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from operators.kernel import kernel
from risk.account import State, answer, convert, widened
from risk.exits import cancel_entries, send_exit
from risk.halts import kill, release_latch
from risk.ledger import LedgerFrame, SignalColumns
from risk.limits import Limits, Params
from risk.portfolio import FOREVER, LONG_AGO, TRIGGERED, Book, dismiss_idle
from risk.tape import PER_SYMBOL, Tape, blank
from schemas.events import Reason
from schemas.frames import Floats, Refused, Slices

KINDS = ("kill", "resume", "revoke", "approve")
KILL, RESUME, REVOKE, APPROVE = range(4)


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of KINDS. Numbers rise along the log of commands, so that one that is repeated acts once."""

    number: Annotated[int, Meta(ge=0)]
    kind: Literal["kill", "resume", "revoke", "approve"]
    until: int | None = None  # approve: the last slice in which entries may go out, UTC ns; None: until revoked
    issuer: str = ""
    reason: str = ""


def obey(params: Params, state: State, command: Command) -> tuple[State, LedgerFrame]:
    """The account after a command, and what it caused; nothing if its number was seen before."""
    book = widened(state.book, state.names.size)
    funds = book.funds[0]
    tape = blank(0, PER_SYMBOL * (int(funds.busy) + 1))
    if command.number > funds.command:
        funds.command = command.number
        until = FOREVER if command.until is None else min(command.until, FOREVER)
        carry_out(convert(params), book, tape, KINDS.index(command.kind), until)
    return State(state.version, book, state.names), between_slices(state, book, tape)


@kernel
def carry_out(limits: Limits, book: Book, tape: Tape, kind: int, until: int) -> None:
    """What each command means."""
    funds = book.funds[0]
    if kind == KILL:
        kill(limits, funds)
        cancel_entries(limits, book, tape, funds.ts, Reason.KILL_SWITCH)
        if limits.kill_flatten:
            flatten(book, tape, funds.ts)
    elif kind == RESUME:  # losses are measured anew, or the switch would go on again with the next slice
        funds.killed = False
        funds.day_equity = funds.equity
        release_latch(funds)
    elif kind == REVOKE:
        funds.allowed_until = LONG_AGO
        cancel_entries(limits, book, tape, funds.ts, Reason.REVOKED)
    elif kind == APPROVE:
        funds.allowed_until = until
    dismiss_idle(book)


@kernel
def flatten(book: Book, tape: Tape, ts: int) -> None:
    """Send an exit for every lot that is not being closed yet."""
    for k in range(book.funds[0].busy):
        symbol = book.busy[k]
        row = book.rows[symbol]
        waits = row.entry_shares > 0 or row.exit_ts == ts  # for a broker's last word; for the next slice, and its id
        if row.shares > 0 and row.exit_reason == Reason.NONE and row.legs != TRIGGERED and not waits:
            send_exit(row, tape, ts, symbol, Reason.KILL_SWITCH)


def between_slices(state: State, book: Book, tape: Tape) -> LedgerFrame:
    """An answer that covers no slice."""
    ts = int(book.funds[0].ts)
    floats: Floats = np.zeros(0)
    longs, ints, codes = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int8)
    slices = Slices(ts, ts, longs, ints, ints, ints, codes)
    refused = Refused(longs, ints, codes, floats, floats, floats, floats, floats)
    signals = SignalColumns(longs, ints, codes, floats, floats, codes, ints, codes)
    rank = np.argsort(np.argsort(state.names)).astype(np.int32)
    return answer((slices, state.names, 0, longs, refused, signals), rank, book, tape)
