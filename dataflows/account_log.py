"""The account log: whole slices of scored signals, reports and commands, in the one order in which they act.

The recorder writes it (one record per slice, whatever the frames were), the account reads it. Each record acts at
its place; after a crash the account meets the same order again.
"""

from collections.abc import Iterator

from dataflows.pipeline import ACCOUNT
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


def records(name: str, frames: tuple[SliceFrame, ...]) -> tuple[str, list[Record]]:
    """Slices for an account's log."""
    return ACCOUNT, [_record(name, frame) for frame in frames]


def _record(name: str, frame: SliceFrame) -> Record:
    slices = frame.slices
    entry = LogEntry(
        kind=LogKind.SLICE, account=name, ts=slices.upto, source_topic="market.slices", source_partition=-1,
        source_offset=-1, slice=ScoredSlice(after=slices.after, upto=slices.upto, columns=pack(frame)),
    )  # fmt: skip
    mark = (SCHEMA, codec.mark(LogEntry))
    return Record(f"{SLICE}{slices.upto}", slices.upto, ACCOUNT.encode(), codec.encode(entry), (mark,))


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
            found.append(Record(f"command:{offset}", ts, ACCOUNT.encode(), codec.encode(entry), (mark,)))
    return found, letters


def acts(calendar: Calendar, messages: Messages) -> Iterator[tuple[str, SliceFrame | Command]]:
    """What the records say, each to act in its turn. Raises where one cannot be read: only we write here."""
    for value, headers in zip(messages.values, messages.headers, strict=True):
        yield ACCOUNT, act(calendar, codec.decode(LogEntry, value, dict(headers).get(SCHEMA)))


def act(calendar: Calendar, entry: LogEntry) -> SliceFrame | Command:
    """What a record of the log brings to the account; nothing in it is passed over."""
    if entry.slice is not None:
        one = entry.slice
        index = calendar.index_after(one.after)
        return unpack(one.columns, calendar.slices(index, index + 1, one.after, one.upto))
    if entry.command is not None:
        said = entry.command
        return Command(number=entry.source_offset, kind=said.kind.value, until=said.until, issuer=said.issuer,
                       reason=said.reason)  # fmt: skip
    raise ValueError(f"a record of the account log of kind {entry.kind.value}: this version knows slices and commands")


def step(params: Account, state: account.State, one: SliceFrame | Command) -> tuple[account.State, LedgerFrame]:
    """One record acts."""
    return account.step(params, state, one) if isinstance(one, SliceFrame) else obey(params, state, one)
