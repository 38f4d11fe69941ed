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

from dataflows.pipeline import KEYS
from infra.bars import open_bars
from infra.feed import Disorder, PacedFeed, Received
from infra.gated_sink import GatedSink, Record
from infra.kafka import Cluster, cluster
from infra.log_codec import decode_arrival, encode_arrival, encode_slice
from infra.ranges import Messages
from infra.recovery import accepts_loss, check_store, folder_of
from infra.settings import Settings, load
from infra.tail import TailSource
from infra.topics import create_topics
from operators import slicer
from operators.drive import scan
from schemas.calendar import FIRST, LAST, TIMEFRAMES, Calendar
from schemas.errors import UserError
from schemas.units import NS_PER_SECOND

if TYPE_CHECKING:
    from bytewax.dataflow import Dataflow

SETTINGS = "UTP_SETTINGS"  # names the settings file, for flows that Bytewax starts


class Sliced(NamedTuple):
    """What the slicer makes of some records of one partition."""

    closed: list[slicer.Closed]
    turned: list[slicer.Turned]
    unreadable: list[tuple[int, bytes, str]]  # offset, value, why


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
    op.output(
        "raw", op.flat_map_batch("raw_record", received, raw_records), GatedSink(where, "market.raw", "feed", int)
    )

    arrivals = op.input("arrivals", graph, TailSource(where, "market.raw"))
    keyed = op.map("shard", arrivals, lambda messages: (KEYS[messages.partition], messages))
    sliced = scan("slicer", keyed, slicer.start(), partial(step, params), slicer.restore)
    closed = op.flat_map("slice_record", sliced, slice_records)
    op.output("slices", closed, GatedSink(where, "market.slices", "slicer", int, linger_ms=0))
    op.output("late", op.flat_map("late_record", sliced, late_records), GatedSink(where, "market.late", "slicer", int))
    return graph


def raw_records(batch: Iterable[Received]) -> Iterator[tuple[str, list[Record]]]:
    """Records for the raw log, those of a partition together."""
    by_partition = sorted(batch, key=lambda one: one.partition)
    for partition, group in groupby(by_partition, key=lambda one: one.partition):
        yield (
            KEYS[partition],
            [Record(one.id, one.arrival.ts, one.arrival.symbol.encode(), encode_arrival(one.arrival)) for one in group],
        )


def step(params: slicer.Params, state: slicer.State, messages: Messages) -> tuple[slicer.State, Sliced]:
    """Raw records through the slicer."""
    arrivals, unreadable = [], []
    for offset, value in zip(messages.offsets, messages.values, strict=True):
        try:
            arrivals.append(decode_arrival(offset, value or b""))
        except (ValueError, EOFError, IndexError, TypeError) as error:
            unreadable.append((offset, value or b"", f"{type(error).__name__}: {error}"))
    state, (closed, turned) = slicer.step(params, state._replace(shard=messages.partition), arrivals)
    return state, Sliced(closed, turned, unreadable)


def slice_records(item: tuple[str, Sliced]) -> Iterator[tuple[str, list[Record]]]:
    """The slices that were closed, one record each."""
    key, sliced = item
    if sliced.closed:
        yield key, [Record(f"slice:{one.ts}", one.ts, key.encode(), encode_slice(one)) for one in sliced.closed]


def late_records(item: tuple[str, Sliced]) -> Iterator[tuple[str, list[Record]]]:
    """Bars that came after their slice."""
    key, sliced = item
    late = [one.arrival for one in sliced.turned if not one.reason]
    if late:
        yield key, [Record(f"raw:{bar.offset}", bar.ts, bar.symbol.encode(), encode_arrival(bar)) for bar in late]
