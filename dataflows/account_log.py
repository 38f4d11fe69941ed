"""The account log: whole slices of scored signals, reports and commands, in the one order in which they act.

The recorder writes it (one record per slice, whatever the frames were), the account reads it. Each record acts at
its place; after a crash the account meets the same order again.
"""

from collections.abc import Iterator
from typing import NamedTuple

from infra.abreast import SLICE
from infra.dead_letters import Letter, letter
from infra.gated_sink import Record
from infra.kafka import SCHEMA
from infra.ranges import Messages
from risk import account
from risk.commands import Command, obey
from risk.ledger import LedgerFrame
from risk.limits import Params as Account
from schemas import codec
from schemas.calendar import Calendar
from schemas.frames import SliceFrame
from schemas.identity import nanos
from schemas.records import Command as CommandRecord
from schemas.records import LogEntry, LogKind, ScoredSlice
from schemas.scored_columns import pack, unpack

KEY = "account"


class Entry(NamedTuple):
    """A record of the log."""

    offset: int
    written: int  # when it was appended, UTC ms
    acts: SliceFrame | Command


class Logged(NamedTuple):
    """What the account made of a record of its log."""

    entry: Entry
    ledger: LedgerFrame


def records(name: str, frames: tuple[SliceFrame, ...]) -> tuple[str, list[Record]]:
    """Slices for an account's log."""
    return KEY, [_record(name, frame) for frame in frames]


def _record(name: str, frame: SliceFrame) -> Record:
    slices = frame.slices
    entry = LogEntry(
        kind=LogKind.SLICE, account=name, ts=slices.upto, source_topic="market.slices", source_partition=-1,
        source_offset=-1, slice=ScoredSlice(after=slices.after, upto=slices.upto, columns=pack(frame)),
    )  # fmt: skip
    mark = (SCHEMA, codec.mark(LogEntry))
    return Record(f"{SLICE}{slices.upto}", slices.upto, KEY.encode(), codec.encode(entry), (mark,))


def command_records(name: str, messages: Messages) -> tuple[list[Record], list[Letter]]:
    """Commands to this account, as its log has them; letters for what is no command."""
    found, letters = [], []
    for at, offset in enumerate(messages.offsets):
        try:
            command = codec.decode(CommandRecord, messages.values[at], dict(messages.headers[at]).get(SCHEMA))
            ts = nanos(command.ts)
        except ValueError as error:
            letters.append(letter(messages, at, "undecodable", str(error)))
            continue
        if command.account == name:
            entry = LogEntry(
                kind=LogKind.COMMAND, account=name, ts=ts, source_topic=messages.topic,
                source_partition=messages.partition, source_offset=offset, command=command,
            )  # fmt: skip
            mark = (SCHEMA, codec.mark(LogEntry))
            found.append(Record(f"command:{offset}", ts, KEY.encode(), codec.encode(entry), (mark,)))
    return found, letters


def entries(calendar: Calendar, messages: Messages) -> Iterator[tuple[str, Entry]]:
    """What the records say. Raises where one cannot be read: only we write here."""
    for at, (offset, value, written) in enumerate(
        zip(messages.offsets, messages.values, messages.written, strict=True)
    ):
        record = codec.decode(LogEntry, value, dict(messages.headers[at]).get(SCHEMA))
        if record.slice is not None:
            yield KEY, Entry(offset, written, _frame(calendar, record.slice))


def _frame(calendar: Calendar, one: ScoredSlice) -> SliceFrame:
    index = calendar.index_after(one.after)
    return unpack(one.columns, calendar.slices(index, index + 1, one.after, one.upto))


def obeyed(params: Account, state: account.State, entry: LogEntry) -> tuple[account.State, LedgerFrame]:
    """A command of the log acts."""
    assert entry.command is not None  # noqa: S101  (it is neither slice nor report)
    return obey(params, state, _command(entry.source_offset, entry.command))


def _command(number: int, one: CommandRecord) -> Command:
    return Command(number=number, kind=one.kind.value, until=one.until, issuer=one.issuer, reason=one.reason)


def step(params: Account, state: account.State, entry: Entry) -> tuple[account.State, Logged]:
    """One record acts."""
    act = account.step if isinstance(entry.acts, SliceFrame) else obey
    state, ledger = act(params, state, entry.acts)  # type: ignore[arg-type]
    return state, Logged(entry, ledger)
