"""A live day again: decide it anew from the log and compare, slice by slice and order by order.

    utp replay --account paper-1 --day 2026-03-04

State comes from the hashed snapshots of the session before (or is cold, if the log begins with this day); slices from
`market.slices`; commands and execution reports act where the account log has them. Nothing of what the live flow
computed is read but to compare with it, forecasts aside: another processor may compute other last bits
(`--recompute` asks the models). Compared are slices, orders, and all states at the close with those that were kept.
"""

from collections.abc import Container, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dataflows import account_log, parting, pipeline
from dataflows.flows import grid
from dataflows.live import identity, snapshots_of, writer_of
from infra.forecast_log import Counts, Recorded
from infra.forecaster import live_forecaster
from infra.kafka import SCHEMA, Cluster, bounds, records
from infra.log_bars import LogBars
from infra.settings import Settings, of_log
from infra.snapshots import read, session_name, sessions
from operators import barrier
from operators.drive import unflat
from risk import account
from schemas import codec
from schemas.errors import UserError
from schemas.frames import SHARDS, SliceFrame
from schemas.identity import iso
from schemas.records import LogEntry, Order


class Outcome(NamedTuple):
    """What a replay found."""

    slices: int
    orders: int
    differences: list[str]  # the first one of each kind
    forecasts: Counts | None = None  # None: no model is configured


class Start(NamedTuple):
    """Where a replay begins."""

    after: int  # UTC ns
    decide: dict[int, pipeline.State]  # by shard
    account: account.State


def run(
    settings: Settings, where: Cluster, day: date, snapshots: Path | None = None, recompute: bool = False
) -> Outcome:
    """Replay a session. Raises UserError where the log or the snapshot before it is not there.

    Forecasts are those that were recorded; `recompute`: the models are asked again, and the answers compared.
    """
    settings = of_log(settings)
    calendar = grid(settings)
    session = (day - date(1970, 1, 1)).days
    try:
        close = calendar.close_of(session)
    except KeyError:
        raise UserError(f"--day {day}: no session of the exchange") from None
    _check_account(where, settings.run.account)
    folder = snapshots or snapshots_of(settings)
    begin = _start(settings, folder, session)
    bars = LogBars(where, "market.slices", None if begin is None else begin.after + 1, close)
    if begin is None:
        begin = Start(bars.after, {}, account.start(settings.account))
    if bars.after != begin.after or bars.upto != close:
        raise UserError(f"--day {day}: the log has {iso(bars.after)} to {iso(bars.upto)}, "
                        f"want {iso(begin.after)} to {iso(close)}")  # fmt: skip
    models = live_forecaster(settings.forecast, calendar)
    recorded = None if models is None else Recorded(models, where, begin.after, close, recompute)
    states: dict[str, Any] = {}
    redecided = {frame.slices.upto: frame for frame in _decide(settings, bars, begin, recorded, states)}
    outcome = _trade(settings, where, begin, close, redecided, states)
    found = [*outcome.differences, *_parted_states(settings, folder, session, states, bool(outcome.differences))]
    return outcome._replace(differences=found, forecasts=None if recorded is None else recorded.counts)


def _check_account(where: Cluster, name: str) -> None:
    """A UserError where the account log is another account's."""
    low, high = bounds(where, "account.log")[0]
    others = set()
    for message in records(where, "account.log", 0, low, high):
        entry = codec.decode(LogEntry, message.value(), dict(message.headers() or ()).get(SCHEMA))
        if entry.account == name:
            return
        others.add(entry.account)
    whose = f"it is the log of {', '.join(sorted(others))}" if others else "it is empty: nothing was decided yet"
    raise UserError(f"--account {name}: {where.topic('account.log')} has nothing of it; {whose}")


def _start(settings: Settings, folder: Path, session: int) -> Start | None:
    """The states at the last close before a session; None if no session was kept before it."""
    before = [one for one in sessions(folder, "account") if one < session]
    if not before:
        return None
    params = pipeline.decide_params(settings, grid(settings).timeframe)
    kept = read(folder, before[-1], "account")
    if kept.identity != identity(settings):
        raise UserError(f"{folder}: {session_name(before[-1])} was made with other settings ({kept.identity}, "
                        f"these are {identity(settings)}); replay with those")  # fmt: skip
    shards = {shard: unflat(pipeline.start(params), read(folder, before[-1], _key(shard)).state)
              for shard in range(SHARDS)}  # fmt: skip
    return Start(kept.upto, shards, unflat(account.start(settings.account), kept.state))


def _decide(
    settings: Settings, bars: LogBars, begin: Start, forecaster: Recorded | None, states: dict[str, Any]
) -> Iterator[SliceFrame]:
    """The day's slices, scored anew; `states` takes those at the close, by the keys of their snapshots."""
    params = pipeline.decide_params(settings, bars.timeframe, forecaster)
    states |= {_key(shard): state for shard, state in begin.decide.items()}
    gate = barrier.start(begin.after)
    for frames in bars.frames():
        for frame in frames if forecaster is None else map(forecaster.told, frames):
            before = states.get(_key(frame.shard), pipeline.start(params))
            states[_key(frame.shard)], scored = pipeline.step(params, before, frame)
            gate, released = barrier.step_singly(gate, scored)
            yield from released or ()


def _key(shard: int) -> str:
    return f"decide.{shard:02}"


def _parted_states(
    settings: Settings, folder: Path, session: int, states: dict[str, Any], differs: bool
) -> Iterator[str]:
    """Where the states at the close part from those that were kept there; a word on the settings where all differs."""
    if session not in sessions(folder, "account"):
        return
    kept = read(folder, session, "account").identity
    if kept != identity(settings):
        if differs:
            yield f"settings: the day was decided by {kept}, these are {identity(settings)}; `utp doctor` shows yours"
        return
    found = (parting.states(state, read(folder, session, key).state, key) for key, state in sorted(states.items()))
    yield from (f"state at the close, {one}" for one in [next((each for each in found if each), "")] if one)


def _trade(
    settings: Settings, where: Cluster, begin: Start, close: int, redecided: dict[int, SliceFrame],
    states: dict[str, Any],
) -> Outcome:  # fmt: skip
    """The account over the re-decided slices and the recorded commands and reports, in the order of its log."""
    state, writer, found = begin.account, writer_of(settings), _Differences()
    made: dict[str, Order] = {}
    later: dict[str, Order] = {}  # between the close and the next slice: they bear its time, and are the next day's
    slices, calendar, closed = len(redecided), grid(settings), False
    for entry in _entries(where, settings.run.account, begin, close):
        told = account_log.act(calendar, entry)
        if isinstance(told, SliceFrame):
            frame = redecided.pop(told.slices.upto, None)
            if frame is None:
                found.note("slices", f"slice {iso(told.slices.upto)} is in the account log and was not decided again")
                continue
            if parted := parting.slices(_as_known(frame, told), told):
                found.note("slices", f"slice {iso(frame.slices.upto)}: {parted}")
            told = frame
        state, ledger = account_log.step(calendar, settings.account, state, told)
        sent = later if closed and not isinstance(told, SliceFrame) else made
        sent |= {record.id: _decided(codec.decode(Order, record.value)) for record in writer.orders(ledger)}
        if isinstance(told, SliceFrame) and told.slices.upto == close:
            closed, states["account"] = True, state
    for ts in redecided:
        found.note("slices", f"slice {iso(ts)} was decided again and is not in the account log")
    recorded = _orders(where, settings.run.account, begin.after, close, made)
    for key in later:
        recorded.pop(key, None)
    for key in sorted(made.keys() | recorded.keys()):
        if made.get(key) != recorded.get(key):
            ours, theirs = (log.get(key, "nothing") for log in (made, recorded))
            found.note("orders", f"order {key}:\n  replayed {ours}\n  recorded {theirs}")
    return Outcome(slices, len(recorded), found.lines)


class _Differences:
    """The first of each kind."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._seen: set[str] = set()

    def note(self, kind: str, line: str) -> None:
        """Keep it if it is the first of its kind."""
        if kind not in self._seen:
            self._seen.add(kind)
            self.lines.append(line)


def _as_known(frame: SliceFrame, recorded: SliceFrame) -> SliceFrame:
    """A slice with what was known at it: a replay reads a session at once, later listings too.

    Models' names are left away where the record has none, as those of the time before they were told.
    """
    own = frame.names[: recorded.names.size].copy()
    own[recorded.names[: own.size] == b""] = b""
    models = frame.models if recorded.models.size else recorded.models
    return replace(frame, names=own, quality=frame.quality[: own.size], models=models)


def _entries(where: Cluster, name: str, begin: Start, close: int) -> Iterator[LogEntry]:
    """The account's log from where the state is, or from its begin, to before the first slice after `close`."""
    low, high = bounds(where, "account.log")[0]
    inside = not begin.decide  # cold: no record has acted yet
    for message in records(where, "account.log", 0, low, high):
        entry = codec.decode(LogEntry, message.value(), dict(message.headers() or ()).get(SCHEMA))
        if entry.slice is not None and entry.slice.upto > close:
            return
        if inside and entry.account == name:
            yield entry
        inside = inside or (entry.slice is not None and entry.slice.upto == begin.after)


def _orders(where: Cluster, name: str, after: int, close: int, made: Container[str]) -> dict[str, Order]:
    """What the account sent in the session, by id; what bears the time of the close before it only if it was made."""
    low, high = bounds(where, "account.orders")[0]
    found: dict[str, Order] = {}
    for message in records(where, "account.orders", 0, low, high):
        order = codec.decode(Order, message.value(), dict(message.headers() or ()).get(SCHEMA))
        if order.account != name:
            continue
        if after < order.slice_ts <= close or (order.slice_ts == after and order.idempotency_key in made):
            found[order.idempotency_key] = _decided(order)
    return found


def _decided(order: Order) -> Order:
    """What was decided of an order: under whose id its chain of events goes is how it is told."""
    return msgspec.structs.replace(order, correlation_id="")
