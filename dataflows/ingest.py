"""Ingest: a feed -> `market.raw` -> the slicer -> `market.slices`, late bars and dead letters.

    python -m bytewax.run dataflows.ingest -r var/recovery/ingest -s 10 -b 0

What the feed delivers is written down as it came, its clock's beats included; everything after that is a
function of the log. So a crash at any moment closes no slice twice and no slice differently. Models that were
announced in `model.activated` are written down there, too, in every partition. What stands beside the bars
(earnings, splits, dividends, volumes) enters with the slice in which it is known.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dataflows.flows import assemble, by_shard, first, grid, some
from dataflows.pipeline import KEYS, partition_of
from infra import slice_log
from infra.bars import Bars, open_bars
from infra.dead_letters import TOPIC as LETTERS
from infra.dead_letters import Letter, letter
from infra.dead_letters import record as letter_record
from infra.feed import Disorder, PacedFeed, Received
from infra.gated_sink import GatedSink, Record
from infra.kafka import SCHEMA, Cluster
from infra.ranges import Messages
from infra.raw_log import LATE, RAW, arrivals, market_record, model_record
from infra.raw_log import record as raw_record
from infra.reference import Files, Reference, open_reference
from infra.settings import Settings
from infra.tail import TailSource
from operators import slicer
from operators.drive import scan
from schemas import codec
from schemas.calendar import Calendar, timeframe_name
from schemas.errors import UserError
from schemas.events import word
from schemas.frames import SHARDS, Actions, RawFrame
from schemas.identity import iso
from schemas.records import InForce, ModelActivated
from schemas.units import NS_PER_SECOND
from schemas.universe import shard_of

if TYPE_CHECKING:
    from bytewax.dataflow import Dataflow

NUMBERS = ("open", "high", "low", "close", "volume", "bid", "ask")
MODELS = "model.activated"


class Sliced(NamedTuple):
    """What the slicer makes of some records of one partition."""

    closed: list[slicer.Closed]
    late: list[slicer.Arrival]
    letters: list[Letter]


def flow(settings: str | None = None, sets: Sequence[str] = ()) -> "Dataflow":
    """The dataflow, for `python -m bytewax.run`; `UTP_SETTINGS` may name the settings file."""
    return assemble("ingest", settings, sets, build)


def build(graph: "Dataflow", settings: Settings, where: Cluster) -> None:
    """The feed and the models into the raw log, and the raw log into slices."""
    import bytewax.operators as op

    own = settings.ingest
    bars = open_bars(own.source, symbols=own.symbols, files=Files(quotes=own.quotes or None),
                     reference=settings.reference)  # fmt: skip
    calendar = grid(settings)
    if bars.timeframe > calendar.timeframe:
        raise UserError(
            f"ingest.source = {own.source!r}: bars of {bars.timeframe} minutes "
            f"make no slices of {settings.live.timeframe}"
        )
    grace_ns = round(own.grace_seconds * NS_PER_SECOND)
    universe = frozenset(bars.universe.names)
    market = bars.market if bars.market in universe else None
    params = slicer.Params(calendar, grace_ns, universe, universe if own.wait_for_all else None, market or "")
    disorder = Disorder(own.seed, own.jitter_seconds, own.late, own.missing, own.repeated)
    beside = _beside(settings, bars, calendar, market)
    timeframe = timeframe_name(bars.timeframe)

    received = op.input("feed", graph, PacedFeed(bars, own.speed, grace_ns, disorder))
    raw = op.flat_map_batch("raw_record", received, partial(raw_records, timeframe, market))
    op.output("raw", raw, GatedSink(where, RAW, "feed", partition_of))
    announced = op.map("announced", op.input("models", graph, TailSource(where, MODELS)), models)
    told = op.flat_map("model_record", announced, lambda item: model_records(item[0]))
    op.output("raw_models", told, GatedSink(where, RAW, "models", partition_of))
    refused = op.flat_map("model_letter", announced, lambda item: _letters("models", MODELS, item[1]))
    op.output("model_letters", refused, GatedSink(where, LETTERS, "models", first))

    arriving = op.map("shard", op.input("arrivals", graph, TailSource(where, RAW)), by_shard)
    sliced = scan("slicer", arriving, slicer.start(), partial(step, params), slicer.restore)
    closed = op.flat_map("slice_record", sliced, partial(slice_records, calendar, beside))
    op.output("slices", closed, GatedSink(where, slice_log.TOPIC, "slicer", partition_of, linger_ms=0))
    late = op.flat_map("late_record", sliced, partial(late_records, timeframe))
    op.output("late", late, GatedSink(where, LATE, "slicer", partition_of))
    letters = op.flat_map("letter", sliced, lambda item: _letters("slicer", item[0], item[1].letters))
    op.output("letters", letters, GatedSink(where, LETTERS, "slicer", first))


def _beside(settings: Settings, bars: Bars, calendar: Calendar, market: str | None) -> Reference:
    """The files that stand beside the bars."""
    own = settings.ingest
    files = Files(earnings=own.earnings or None, actions=own.actions or None, volumes=own.volumes or None)
    return open_reference(files, settings.reference, bars.universe, calendar, bars.after, market)


def raw_records(timeframe: str, market: str | None, batch: Iterable[Received]) -> Iterator[tuple[str, list[Record]]]:
    """Records for the raw log, those of a partition together; each learns of the market symbol's bars."""
    told = sorted(_told(timeframe, market, batch), key=itemgetter(0))
    for partition, group in groupby(told, key=itemgetter(0)):
        yield KEYS[partition], [record for _, record in group]


def _told(timeframe: str, market: str | None, batch: Iterable[Received]) -> Iterator[tuple[int, Record]]:
    for one in batch:
        yield one.partition, raw_record(RAW, one.id, one.arrival, timeframe, "feed")
        if market and one.arrival.symbol == market:
            copy = market_record(f"{one.id}:market", one.arrival)
            yield from ((shard, copy) for shard in range(SHARDS) if shard != shard_of(market))


def models(messages: Messages) -> tuple[list[tuple[str, ModelActivated]], list[Letter]]:
    """Announcements with the id of their records in the raw log; letters for what is none."""
    found, letters = [], []
    for at, (offset, value) in enumerate(zip(messages.offsets, messages.values, strict=True)):
        try:
            event = codec.decode(ModelActivated, value, dict(messages.headers[at]).get(SCHEMA))
            found.append((f"model:{offset}", event))
        except ValueError as error:
            letters.append(letter(messages, at, "undecodable", str(error)))
    return found, letters


def model_records(found: list[tuple[str, ModelActivated]]) -> Iterator[tuple[str, list[Record]]]:
    """The same records in every partition."""
    for key in KEYS if found else ():
        yield key, [model_record(name, event) for name, event in found]


def step(params: slicer.Params, state: slicer.State, messages: Messages) -> tuple[slicer.State, Sliced]:
    """Raw records through the slicer."""
    read = list(arrivals(messages))
    letters = [one for one in read if isinstance(one, Letter)]
    good = [one for one in read if not isinstance(one, Letter)]
    state, (closed, turned) = slicer.step(params, state._replace(shard=messages.partition), good)
    at = {offset: k for k, offset in enumerate(messages.offsets)}
    letters += [letter(messages, at[one.arrival.offset], word(one.reason), _numbers(one.arrival))
                for one in turned if one.reason]  # fmt: skip
    return state, Sliced(closed, [one.arrival for one in turned if not one.reason], letters)


def _numbers(bar: slicer.Arrival) -> str:
    numbers = f"open {bar.open}, high {bar.high}, low {bar.low}, close {bar.close}, volume {bar.volume}"
    return f"{bar.symbol} {iso(bar.ts)}: {numbers}"


def slice_records(calendar: Calendar, beside: Reference, item: tuple[str, Sliced]) -> list[tuple[str, list[Record]]]:
    """The slices that were closed, one record each."""
    key, sliced = item
    return some(key, [
        slice_log.record(attached(beside, one, frame(calendar, one)), calendar.timeframe,
                         [InForce(since=told.since, model=told.model, bundle_sha256=told.bundle)
                          for told in one.models]) for one in sliced.closed])  # fmt: skip


def attached(beside: Reference, one: slicer.Closed, bare: RawFrame) -> RawFrame:
    """The frame with what was known at its bars; symbols keep the numbers that the log gives them."""
    market = np.zeros(0) if beside.market is None else beside.market_steady(bare.slices, np.array([one.market]))
    ids = np.array([beside.universe.ids[bar.symbol] for bar in one.bars], np.int32)
    full = beside.attach(replace(bare, symbol=ids), market)
    listed = {entry.name: entry for entry in one.listed}  # an action acts in a session's first slice: all are here
    names = [beside.universe.names[symbol] for symbol in full.actions.symbol]
    own = [k for k, name in enumerate(names) if name in listed]  # another has had no bar yet: nothing to act on
    at, _, *columns = (getattr(full.actions, name)[own] for name in Actions.__dataclass_fields__)
    symbol = np.array([listed[names[k]].symbol for k in own], np.int32)
    slots = np.array([listed[names[k]].slot for k in own], np.int32)
    return replace(full, symbol=bare.symbol, actions=Actions(at, symbol, *columns), acted=slots)


def frame(calendar: Calendar, one: slicer.Closed) -> RawFrame:
    """A closed slice as a frame."""
    index = calendar.index_after(one.after)
    slices = calendar.slices(index, index + 1, one.after, one.ts)
    ts = np.full(len(one.bars), one.ts, np.int64)
    columns = {name: np.array([getattr(bar, name) for bar in one.bars], np.float64) for name in NUMBERS}
    if np.isnan([columns["bid"], columns["ask"]]).all():
        columns["bid"] = columns["ask"] = np.zeros(0)
    return RawFrame(shard=one.shard, slices=slices, listed=one.listed, ts=ts, symbol=np.array(one.symbols, np.int32),
                    slot=np.array(one.slots, np.int32), **columns)  # type: ignore[arg-type]  # fmt: skip


def late_records(timeframe: str, item: tuple[str, Sliced]) -> list[tuple[str, list[Record]]]:
    """Bars that came after their slice."""
    key, sliced = item
    return some(key, [raw_record(LATE, f"raw:{key}:{bar.offset}", bar, timeframe, "slicer") for bar in sliced.late])


def _letters(agent: str, key: str, letters: Sequence[Letter]) -> list[tuple[str, list[Record]]]:
    """What could not be used."""
    return some(key, [letter_record(one, agent) for one in letters])
