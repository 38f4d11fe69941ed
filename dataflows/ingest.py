"""Ingest: a feed -> `market.raw` -> the slicer -> `market.slices`, late bars and dead letters.

    python -m bytewax.run dataflows.ingest -r var/recovery/ingest -s 10 -b 0

What the feed delivers is written down as it came, its clock's beats included; everything after that is a
function of the log. So a crash at any moment closes no slice twice and no slice differently.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dataflows.pipeline import KEYS
from infra import slice_log
from infra.bars import open_bars
from infra.dead_letters import TOPIC as LETTERS
from infra.dead_letters import Letter, letter
from infra.dead_letters import record as letter_record
from infra.feed import Disorder, PacedFeed, Received
from infra.gated_sink import GatedSink, Record
from infra.kafka import Cluster, cluster
from infra.ranges import Messages
from infra.raw_log import LATE, RAW, arrivals
from infra.raw_log import record as raw_record
from infra.recovery import accepts_loss, check_store, folder_of
from infra.settings import Settings, load
from infra.tail import TailSource
from infra.topics import create_topics
from operators import slicer
from operators.drive import scan
from schemas.calendar import FIRST, LAST, TIMEFRAMES, Calendar, timeframe_name
from schemas.errors import UserError
from schemas.events import word
from schemas.frames import RawFrame
from schemas.identity import iso
from schemas.units import NS_PER_SECOND

if TYPE_CHECKING:
    from bytewax.dataflow import Dataflow

NUMBERS = ("open", "high", "low", "close", "volume", "bid", "ask")
SETTINGS = "UTP_SETTINGS"  # names the settings file, for flows that Bytewax starts


class Sliced(NamedTuple):
    """What the slicer makes of some records of one partition."""

    closed: list[slicer.Closed]
    late: list[slicer.Arrival]
    letters: list[Letter]


def flow(settings: str | None = None, sets: Sequence[str] = ()) -> "Dataflow":
    """The dataflow, for `python -m bytewax.run`; `UTP_SETTINGS` may name the settings file."""
    path = settings or os.environ.get(SETTINGS)
    loaded = load(Path(path) if path else None, sets)
    where = cluster()
    create_topics(where)
    graph = build(loaded, where)
    check_store(graph, folder_of(), accepts_loss())
    return graph


def grid(settings: Settings) -> Calendar:
    """The calendar of the live slices, from the first to the last year that is known."""
    name = settings.live.timeframe
    if name not in TIMEFRAMES:
        raise UserError(f"live.timeframe = {name!r}: want one of {', '.join(TIMEFRAMES)}")
    return Calendar(TIMEFRAMES[name], date(FIRST.year + 1, 1, 1), date(LAST.year - 1, 12, 31))


def build(settings: Settings, where: Cluster) -> "Dataflow":
    """Two chains: the feed into the raw log, and the raw log into slices."""
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow

    own = settings.ingest
    bars = open_bars(own.source, symbols=own.symbols)
    calendar = grid(settings)
    if bars.timeframe > calendar.timeframe:
        raise UserError(
            f"ingest.source = {own.source!r}: bars of {bars.timeframe} minutes "
            f"make no slices of {settings.live.timeframe}"
        )
    grace_ns = round(own.grace_seconds * NS_PER_SECOND)
    universe = frozenset(bars.universe.names)
    params = slicer.Params(calendar, grace_ns, universe, universe if own.wait_for_all else None)
    disorder = Disorder(own.seed, own.jitter_seconds, own.late, own.missing, own.repeated)

    graph = Dataflow("ingest")
    received = op.input("feed", graph, PacedFeed(bars, own.speed, grace_ns, disorder))
    raw = op.flat_map_batch("raw_record", received, partial(raw_records, timeframe_name(bars.timeframe)))
    op.output("raw", raw, GatedSink(where, RAW, "feed", int))

    arriving = op.map("shard", op.input("arrivals", graph, TailSource(where, RAW)), _by_shard)
    sliced = scan("slicer", arriving, slicer.start(), partial(step, params), slicer.restore)
    closed = op.flat_map("slice_record", sliced, partial(slice_records, calendar))
    op.output("slices", closed, GatedSink(where, slice_log.TOPIC, "slicer", int, linger_ms=0))
    late = op.flat_map("late_record", sliced, partial(late_records, timeframe_name(bars.timeframe)))
    op.output("late", late, GatedSink(where, LATE, "slicer", int))
    op.output("letters", op.flat_map("letter", sliced, letter_records), GatedSink(where, LETTERS, "slicer", _first))
    return graph


def _by_shard(messages: Messages) -> tuple[str, Messages]:
    return KEYS[messages.partition], messages


def _first(key: str) -> int:
    """The one partition."""
    return 0


def raw_records(timeframe: str, batch: Iterable[Received]) -> Iterator[tuple[str, list[Record]]]:
    """Records for the raw log, those of a partition together."""
    by_partition = sorted(batch, key=lambda one: one.partition)
    for partition, group in groupby(by_partition, key=lambda one: one.partition):
        yield KEYS[partition], [raw_record(RAW, one.id, one.arrival, timeframe, "feed") for one in group]


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


def slice_records(calendar: Calendar, item: tuple[str, Sliced]) -> Iterator[tuple[str, list[Record]]]:
    """The slices that were closed, one record each."""
    key, sliced = item
    if sliced.closed:
        yield key, [slice_log.record(frame(calendar, one), calendar.timeframe) for one in sliced.closed]


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


def late_records(timeframe: str, item: tuple[str, Sliced]) -> Iterator[tuple[str, list[Record]]]:
    """Bars that came after their slice."""
    key, sliced = item
    if sliced.late:
        yield key, [raw_record(LATE, f"raw:{key}:{bar.offset}", bar, timeframe, "slicer") for bar in sliced.late]


def letter_records(item: tuple[str, Sliced]) -> Iterator[tuple[str, list[Record]]]:
    """What could not be used."""
    key, sliced = item
    if sliced.letters:
        yield key, [letter_record(one, "slicer") for one in sliced.letters]
