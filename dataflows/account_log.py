"""The account log: whole slices of scored signals, reports and commands, in the one order in which they act.

The recorder writes it (one record per slice, whatever the frames were), the account reads it. Each record acts at
its place; after a crash the account meets the same order again.
"""

from collections.abc import Iterator
from typing import NamedTuple

from infra.abreast import SLICE
from infra.gated_sink import Record
from infra.log_codec import decode_logged, encode_logged
from infra.ranges import Messages
from risk import account
from risk.ledger import LedgerFrame
from risk.limits import Params as Account
from schemas.calendar import Calendar
from schemas.frames import SliceFrame
from schemas.slice_columns import pack, unpack

KEY = "account"


class Entry(NamedTuple):
    """A record of the log."""

    offset: int
    written: int  # when it was appended, UTC ms
    frame: SliceFrame


class Logged(NamedTuple):
    """What the account made of a record of its log."""

    entry: Entry
    ledger: LedgerFrame


def records(name: str, frames: tuple[SliceFrame, ...]) -> tuple[str, list[Record]]:
    """Slices for an account's log."""
    return KEY, [_record(name, frame) for frame in frames]


def _record(name: str, frame: SliceFrame) -> Record:
    slices = frame.slices
    value = encode_logged(name, "slice", slices.after, slices.upto, pack(frame), None)
    return Record(f"{SLICE}{slices.upto}", slices.upto, KEY.encode(), value)


def entries(calendar: Calendar, messages: Messages) -> Iterator[tuple[str, Entry]]:
    """What the records say. Raises where one cannot be read: only we write here."""
    for offset, value, written in zip(messages.offsets, messages.values, messages.written, strict=True):
        record = decode_logged(value or b"")
        index = calendar.index_after(record["after"])
        slices = calendar.slices(index, index + 1, record["after"], record["ts"])
        yield KEY, Entry(offset, written, unpack(record["columns"], slices))


def step(params: Account, state: account.State, entry: Entry) -> tuple[account.State, Logged]:
    """One record acts."""
    state, ledger = account.step(params, state, entry.frame)
    return state, Logged(entry, ledger)
