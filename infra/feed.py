"""Feeds: where bars come from when they come in time, and what a vendor's adapter has to give.

A feed is a Bytewax source of `Received`: bars as they arrive, and among them its beats, by which the slicer
knows the time. It promises that all 16 partitions begin with one and the same beat, and that a beat at each
slice's end and one when the slice's grace is over follow; a feed that was down sends the latest, which closes
all before it.

The paced feed plays a bar file or the synthetic market as if it happened now.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from msgspec import Meta

from infra.bars import Bars
from infra.worker_thread import keep_state
from operators.slicer import Arrival
from schemas.frames import SHARDS, RawFrame
from schemas.units import NS_PER_MINUTE, NS_PER_SECOND
from schemas.universe import shard_of

PART = "feed"
BATCH = 2_000  # records in one go when the feed is behind its pace

Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class Received(NamedTuple):
    """A record for `market.raw`; `id` tells it from every other of its partition."""

    partition: int
    id: str
    arrival: Arrival


class Disorder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How unlike a file a played feed is; seeded, so that it is the same again."""

    seed: int = 0
    jitter_seconds: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.0  # a bar comes up to so much after its slice
    late: Share = 0.0  # of the bars come after the grace
    missing: Share = 0.0  # of the bars never come
    repeated: Share = 0.0  # of the bars come twice


class Place(NamedTuple):
    """Where a feed goes on: the slice, counted from the first, and the record in it."""

    slice: int
    record: int


class PacedFeed(FixedPartitionedSource[Received, tuple[int, int]]):
    """Bars at `speed` × real time, the exchange's closed hours left out; speed 0: as fast as they are taken."""

    def __init__(self, bars: Bars, speed: float, grace_ns: int, disorder: Disorder | None = None):
        self._bars, self._speed, self._grace = bars, speed, grace_ns
        self._disorder = disorder or Disorder()

    def list_parts(self) -> list[str]:
        """One: a feed is one stream."""
        return [PART]

    def build_part(self, step_id: str, for_part: str, resume_state: tuple[int, int] | None) -> "Part":
        """Begin, or go on with the record that follows the snapshot's."""
        keep_state()
        place = Place(*resume_state) if resume_state else Place(0, 0)
        span = self._bars.timeframe * 60.0
        return Part(played(self._bars, self._grace, self._disorder, place.slice), place, span, self._speed)


class Part(StatefulSourcePartition[Received, tuple[int, int]]):
    """The paced records of a feed."""

    def __init__(
        self,
        slices: Iterator[list[tuple[float, Received]]],
        place: Place,
        span: float,
        speed: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._slices, self._place, self._span, self._speed, self._clock = slices, place, span, speed, clock
        self._now: list[tuple[float, Received]] | None = next(slices, None)
        self._begun: float | None = None  # when the first slice was due, by the clock
        self._first = place.slice

    def next_batch(self) -> list[Received]:
        """What is due."""
        batch: list[Received] = []
        while self._now is not None and len(batch) < BATCH:
            fresh = [one for _, one in islice(self._now, self._place.record, None)]
            if self._speed > 0:
                fresh = fresh[: self._due()]
            batch += fresh
            self._place = Place(self._place.slice, self._place.record + len(fresh))
            if self._place.record < len(self._now):
                break
            self._now = next(self._slices, None)
            self._place = Place(self._place.slice + 1, 0)
        if self._now is None and not batch:
            raise StopIteration
        return batch

    def _due(self) -> int:
        """How many of the slice's remaining records are due."""
        assert self._now is not None  # noqa: S101  (asked only then)
        rest = self._now[self._place.record :]
        return sum(1 for delay, _ in rest if self._wait(delay) <= 0.0)

    def _wait(self, delay: float) -> float:
        """Seconds until a record of this slice is due; a feed that goes on is due at once."""
        at = (self._place.slice - self._first) * self._span + delay
        if self._begun is None:
            self._begun = self._clock() - at / self._speed
        return self._begun + at / self._speed - self._clock()

    def next_awake(self) -> datetime | None:
        """When the next record is due."""
        if self._now is None or self._speed <= 0 or self._place.record >= len(self._now):
            return None
        wait = self._wait(self._now[self._place.record][0])
        return datetime.now(UTC) + timedelta(seconds=wait) if wait > 0 else None

    def snapshot(self) -> tuple[int, int]:
        """The record that comes next."""
        return self._place.slice, self._place.record


def played(bars: Bars, grace_ns: int, disorder: Disorder, first: int = 0) -> Iterator[list[tuple[float, Received]]]:
    """Per slice of the bars from the `first` on: its records in order of arrival, with their delay in seconds."""
    chunk = first // bars.slices_per_chunk
    place = chunk * bars.slices_per_chunk
    for frames in bars.frames(first=chunk):
        for ts, arrivals in _by_slice(frames, bars.universe.names):
            if place >= first:
                opening = _beats(bars.after, "begin") if place == 0 else []
                yield [(0.0, one) for one in opening] + _slice(ts, arrivals, bars.timeframe, grace_ns, disorder)
            place += 1


def _by_slice(frames: list[RawFrame], names: Sequence[str]) -> Iterator[tuple[int, list[Arrival]]]:
    """Each slice with its bars in order of `(ts, name)`; one between two slices goes with the later one."""
    columns = [np.concatenate([getattr(frame, name) for frame in frames])
               for name in ("ts", "symbol", "open", "high", "low", "close", "volume")]  # fmt: skip
    quoted = any(frame.bid.size for frame in frames)
    for name in ("bid", "ask"):
        columns += [np.concatenate([getattr(frame, name) for frame in frames])] if quoted else []
    rows = [Arrival(0, ts, names[symbol], *numbers)
            for ts, symbol, *numbers in zip(*(column.tolist() for column in columns), strict=True)]  # fmt: skip
    rows.sort(key=lambda row: (row.ts, row.symbol))
    begin = 0
    for ts in frames[0].slices.ts.tolist():
        end = begin
        while end < len(rows) and rows[end].ts <= ts:
            end += 1
        yield ts, rows[begin:end]
        begin = end


def _slice(
    ts: int, arrivals: list[Arrival], minutes: int, grace_ns: int, disorder: Disorder
) -> list[tuple[float, Received]]:
    """The slice's beat, its bars, the beat at the grace's end, the late ones; by delay."""
    grace, span = grace_ns / NS_PER_SECOND, minutes * 60.0
    records = [(0.0, one) for one in _beats(ts, "due")]
    records += [(grace, one) for one in _beats(ts + grace_ns, "over")]
    draw = np.random.default_rng([disorder.seed, ts // NS_PER_MINUTE])
    for k, bar in enumerate(arrivals):
        jitter, luck, gone, twice = draw.random(4).tolist()
        if gone < disorder.missing:
            continue
        delay = jitter * disorder.jitter_seconds
        if luck < disorder.late:
            delay = grace + jitter * (span - grace)
        one = Received(shard_of(bar.symbol), f"{ts}:{k}", bar)
        records.append((delay, one))
        if twice < disorder.repeated:
            records.append((delay + jitter, one._replace(id=f"{one.id}:again")))
    return sorted(records, key=lambda record: record[0])  # beats first among equals: sorting is stable


def _beats(ts: int, name: str) -> list[Received]:
    """One beat for each partition."""
    return [Received(shard, f"{ts}:{name}", Arrival(0, ts)) for shard in range(SHARDS)]
