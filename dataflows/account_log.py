"""The account log: whole slices of scored signals, reports and commands, in the one order in which they act.

The recorder writes slices (one record each, whatever the frames were), the listener commands and reports; the
account reads it. Each record acts at its place; after a crash the account meets the same order again.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from dataflows.pipeline import ACCOUNT
from infra.abreast import SLICE
from infra.dead_letters import Letter, letter
from infra.gated_sink import Record, event_record
from infra.kafka import SCHEMA
from infra.ranges import Messages
from risk import account
from risk.commands import Command, obey
from risk.ledger import LedgerFrame
from risk.limits import Params as Account
from risk.reports import LOST, Report, hear
from schemas import codec
from schemas.calendar import Calendar
from schemas.events import Leg, Reason
from schemas.frames import SliceFrame
from schemas.identity import nanos
from schemas.records import Command as CommandRecord
from schemas.records import ExecutionReport as ReportRecord
from schemas.records import LogEntry, LogKind, ScoredSlice
from schemas.scored_columns import pack, unpack

Act: TypeAlias = SliceFrame | Command | Report


def records(name: str, frames: tuple[SliceFrame, ...]) -> tuple[str, list[Record]]:
    """Slices for an account's log."""
    return ACCOUNT, [_record(name, frame) for frame in frames]


def _record(name: str, frame: SliceFrame) -> Record:
    slices = frame.slices
    entry = LogEntry(
        kind=LogKind.SLICE, account=name, ts=slices.upto, source_topic="market.slices", source_partition=-1,
        source_offset=-1, slice=ScoredSlice(after=slices.after, upto=slices.upto, columns=pack(frame)),
    )  # fmt: skip
    return event_record(f"{SLICE}{slices.upto}", slices.upto, ACCOUNT.encode(), entry)


def command_records(name: str, messages: Messages) -> tuple[list[Record], list[Letter]]:
    """Commands to this account, as its log has them; letters for what is no command."""
    return _taken(name, messages, CommandRecord, "command", command_of)


def report_records(name: str, messages: Messages) -> tuple[list[Record], list[Letter]]:
    """Reports on this account's orders, as its log has them; letters for what is no report."""
    return _taken(name, messages, ReportRecord, "report", report_of)


def _taken(
    name: str, messages: Messages, kind: type[Any], field: str, read: Callable[[Any, int], Any]
) -> tuple[list[Record], list[Letter]]:
    """What is for this account, with its source offset as id; whatever the account could not read is a letter."""
    found, letters = [], []
    for at, offset in enumerate(messages.offsets):
        try:
            said = codec.decode(kind, messages.values[at], dict(messages.headers[at]).get(SCHEMA))
            ts = nanos(said.ts)
            if said.account == name:
                read(said, offset)
        except ValueError as error:
            letters.append(letter(messages, at, "undecodable", str(error)))
            continue
        if said.account == name:
            entry = LogEntry(
                kind=LogKind(field), account=name, ts=ts, source_topic=messages.topic,
                source_partition=messages.partition, source_offset=offset, **{field: said},
            )  # fmt: skip
            found.append(event_record(f"{field}:{offset}", ts, ACCOUNT.encode(), entry))
    return found, letters


def command_of(said: CommandRecord, offset: int) -> Command:
    """What the account is told; its place in its topic is its number."""
    return Command(number=offset, kind=said.kind.value, until=said.until, issuer=said.issuer, reason=said.reason)


def report_of(said: ReportRecord, offset: int) -> Report:
    """What the account hears. Raises ValueError for an order that cannot be this account's."""
    parts = said.order_id.split("|")
    if len(parts) != 4 or parts[0] != said.account:
        raise ValueError(f"order {said.order_id!r}: want {said.account}|symbol|slice|leg")
    cost = said.cost or said.price * said.quantity
    try:
        leg, reason = Leg[parts[3].upper()], Reason[said.reason.upper()] if said.reason else Reason.NONE
    except KeyError as error:
        raise ValueError(f"order {said.order_id!r}, reason {said.reason!r}: {error} is not known") from None
    return Report(offset, parts[1], _sent(parts[2]), leg, said.status, said.quantity, cost, said.filled, reason)


def _sent(stamp: str) -> int:
    """The slice in an order's id, `20240102T150000Z`; LOST for `lost1704207600`, which reconciliation writes."""
    if re.fullmatch(r"lost\d+", stamp):
        return LOST
    found = re.fullmatch(r"(\d{4})(\d\d)(\d\dT\d\d)(\d\d)(\d\dZ)", stamp)
    if found is None:
        raise ValueError(f"slice {stamp!r} of an order: want it as 20240102T150000Z")
    year, month, hour, minute, second = found.groups()
    return nanos(f"{year}-{month}-{hour}:{minute}:{second}")


def acts(calendar: Calendar, messages: Messages) -> Iterator[tuple[str, Act]]:
    """What the records say, each to act in its turn. Raises where one cannot be read: only we write here."""
    for value, headers in zip(messages.values, messages.headers, strict=True):
        yield ACCOUNT, act(calendar, codec.decode(LogEntry, value, dict(headers).get(SCHEMA)))


def act(calendar: Calendar, entry: LogEntry) -> Act:
    """What a record of the log brings to the account; nothing in it is passed over."""
    if entry.slice is not None:
        one = entry.slice
        index = calendar.index_after(one.after)
        return unpack(one.columns, calendar.slices(index, index + 1, one.after, one.upto))
    if entry.command is not None:
        return command_of(entry.command, entry.source_offset)
    if entry.report is not None:
        return report_of(entry.report, entry.source_offset)
    raise ValueError(f"a record of the account log of kind {entry.kind.value} holds nothing")


def step(calendar: Calendar, params: Account, state: account.State, one: Act) -> tuple[account.State, LedgerFrame]:
    """One record acts."""
    if isinstance(one, SliceFrame):
        state, ledger = account.step(params, state, one)
        ledger = _with_bars(one, ledger)
    elif isinstance(one, Command):
        state, ledger = obey(params, state, one)
    elif params.venue.kind != "broker":
        raise ValueError(f"{one}: orders are filled in the simulation (venue.kind); nothing can be heard of a broker")
    else:
        state, ledger = hear(params, state, one, *under_way(calendar, int(state.book.funds[0].ts)))
    return state, _with_lots(state, ledger)


def _with_lots(state: account.State, ledger: LedgerFrame) -> LedgerFrame:
    """The answer, with which entry each lot began that is still held; one that ended is among the trades."""
    if not ledger.fills.size and not ledger.updates.size:
        return ledger
    rows = state.book.rows
    return replace(ledger, entered=np.where(rows["shares"] > 0, rows["order_ts"], 0))


def _with_bars(frame: SliceFrame, ledger: LedgerFrame) -> LedgerFrame:
    """The answer to one slice, with what it was given of the published signals' bars and models."""
    signals = ledger.signals
    if not signals.symbol.size:
        return ledger
    place = np.zeros(frame.names.size, np.int32)
    place[frame.symbol] = np.arange(frame.symbol.size, dtype=np.int32)  # a slice has one bar of a symbol
    rows = place[signals.symbol]
    known = np.append(b"", frame.models)  # by number
    version = known[np.where(signals.model < known.size, signals.model, 0)]
    return replace(ledger, signals=replace(signals, price=frame.close[rows], volatility=frame.volatility[rows],
                                           version=version))  # fmt: skip


def under_way(calendar: Calendar, ts: int) -> tuple[int, int]:
    """End and session of the slice after the one that ended at `ts` (0: none has)."""
    if ts == 0:
        return 0, -1
    index = calendar.index_after(ts)
    return calendar.ts_at(index), int(calendar.session_at(np.array([index]))[0])
