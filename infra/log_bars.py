"""A range of `market.slices` as bars for a backtest: the log again, offset by offset, through the live flow's intake.

    utp backtest kafka://market.slices --from 2026-03-02T14:30Z --to 2026-03-06T21:00Z

A chunk is a session; its frames are made of the very records that the live flow read, holes included.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, cast

import numpy as np

from infra import intake
from infra.heap import keep_freed
from infra.kafka import SCHEMA, Cluster, bounds, records, wait_for
from infra.offsets import offsets_at
from infra.ranges import Free, Part, Shared
from infra.reference import Files
from operators.hold import Holding
from operators.slice_columns import UPTO, decode
from operators.split import Memory, of_its_own
from schemas import codec
from schemas.calendar import Calendar
from schemas.errors import UserError
from schemas.frames import SHARDS, UNKNOWN_DAYS, Actions, Ints, Listing, Longs, RawFrame
from schemas.identity import iso
from schemas.records import InForce, SliceBars
from schemas.universe import Universe

SCHEME = "kafka://"
BATCH = 1_000  # records
TRIED = 100  # records, of which one must be a slice
PAUSE = 0.0005  # seconds until a part that has nothing is asked again
ROWS = ("ts", "symbol", "slot", "open", "high", "low", "close", "volume")
BESIDE = {"bid": np.nan, "ask": np.nan, "earnings_days": np.int32(UNKNOWN_DAYS), "average_volume": np.nan,
          "market": np.nan}  # with what stands where only other frames have them  # fmt: skip


class LogBars:
    """The slices of a range of the log; what `infra.bars.Bars` is for files.

    `start`, `stop`: UTC ns, inclusive, of slices' ends; None: where the log begins, and where it ends.
    """

    synthetic = False
    market = None

    def __init__(self, where: Cluster, topic: str, start: int | None = None, stop: int | None = None):
        keep_freed()
        wait_for(where)  # says so when it takes long
        self._where, self._topic = where, topic
        self._fresh: Callable[[], Holding] | None = None
        self._watched: Holding | None = None
        self.label, self.files = f"{SCHEME}{topic}", Files()
        held = bounds(where, topic)
        if any(low >= high for low, high in held.values()) or len(held) != SHARDS:
            raise UserError(f"{self.label}: holds no slices yet")
        self._starts = (
            offsets_at(where, topic, start) if start is not None else {n: low for n, (low, _) in held.items()}
        )
        self._stops = (
            offsets_at(where, topic, stop + 1) if stop is not None else {n: high for n, (_, high) in held.items()}
        )
        if any(self._starts[n] >= self._stops[n] for n in held):
            oldest, newest = self._slice(0, range(*held[0])), self._slice(0, range(*held[0])[::-1])
            raise UserError(
                f"{self.label}: no slices in the range; the log has {iso(oldest.after)} to {iso(newest.upto)}"
            )
        begins = {(one := self._slice(n, range(self._starts[n], self._stops[n]))).after: one.timeframe for n in held}
        if len(begins) > 1:
            last = iso(max(begins))
            raise UserError(f"{self.label}: its partitions begin at different slices, the last after {last}; "
                            "give a later --from")  # fmt: skip
        ((self.after, self.timeframe),) = begins.items()
        self.calendar = Calendar.whole(self.timeframe)
        self._survey()
        self._begin, self._end = self.calendar.index_after(self.after), self.calendar.index_after(self.upto)
        closes = self.calendar.closes[(self.calendar.closes > self.after) & (self.calendar.closes < self.upto)]
        self._edges = [self.after, *closes.tolist(), self.upto]
        self.chunks = len(self._edges) - 1
        self.first_ts, self.last_ts = self.calendar.ts_at(self._begin), self.upto
        span = sorted((n, self._starts[n], self._stops[n]) for n in held)
        told = repr((where.topic(topic), self.after, self.upto, span))
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]

    def _slice(self, number: int, offsets: range) -> SliceBars:
        """The first of these records of a partition that is a slice: what nobody can use may stand before it."""
        for offset in offsets[:TRIED]:
            for message in records(self._where, self._topic, number, offset, offset + 1):
                with suppress(codec.UndecodableError):
                    return codec.decode(SliceBars, message.value(), dict(message.headers() or ()).get(SCHEMA))
        raise UserError(f"{self.label} partition {number}: no slice at offset {offsets[0]}, nor near it; "
                        f"name the topic of slices, {SCHEME}market.slices")  # fmt: skip

    def _survey(self) -> None:
        """Count the bars; find names, models, what stands beside, and the last slice that all partitions have."""
        self.rows, self.has_quotes, names, last = 0, False, set(), []
        self.models: list[InForce] = []  # of the range, and all before it
        self.beside: set[str] = set()  # sources of reference data that the records have
        self.listed: dict[int, dict[str, Listing]] = {}  # by shard: symbols of the first session, before the range
        opening = self.calendar.session_of(self.after + 1)
        origin = offsets_at(
            self._where, self._topic, int(self.calendar.opens[self.calendar.sessions.searchsorted(opening)])
        )
        for number in range(SHARDS):
            upto, listed = self.after, self.listed.setdefault(number, {})
            for offsets, values in self._batches(
                number, min(origin[number], self._starts[number]), self._stops[number]
            ):
                columns = decode(values)
                own = int(np.searchsorted(offsets, self._starts[number]))
                self.rows += int(columns.starts[-1] - columns.starts[own])
                self.has_quotes |= columns.bid.size > 0
                self.beside |= {"earnings"} if columns.earnings_days.size else set()
                self.beside |= {"volumes"} if columns.average_volume.size else set()
                upto = max(upto, int(columns.heads[columns.flaws == 0, UPTO].max(initial=upto)))
                for at in columns.lists.tolist():
                    found = codec.decode(SliceBars, values[at])
                    names |= {entry.name for entry in found.listed}
                    self.beside |= {"actions"} if found.actions else set()
                    if number == 0:
                        self.models += [one for one in found.models if one not in self.models]
                    if at < own:
                        listed |= {entry.name: Listing(entry.symbol, entry.slot, entry.name) for entry in found.listed}
            last.append(upto)
        self.upto, self.universe = min(last), Universe(sorted(names))

    def _batches(self, number: int, first: int, stop: int) -> Iterator[tuple[list[int], list[bytes]]]:
        part = Part(self._where, self._topic, number, (first, stop), first, Shared(BATCH, False, Free()))
        try:
            while True:
                try:
                    batch = part.next_batch()
                except StopIteration:
                    return
                for messages in batch:
                    yield messages.offsets, intake.values(messages)
                if not batch:
                    time.sleep(PAUSE)
        finally:
            part.close()

    @property
    def slices(self) -> int:
        """How many slices of the calendar are covered."""
        return self._end - self._begin

    def instants(self, most: int) -> Longs:
        """UTC ns: about `most` ends of slices, evenly, the ends of all sessions, and the last slice's."""
        step = max(-(-self.slices // most), 1)
        evenly = self.calendar.ends_at(np.arange(self._begin, self._end, step))
        return np.unique(np.concatenate([evenly, self._edges[1:]]))

    def watch(self, fresh: Callable[[], Holding]) -> Callable[[], Holding]:
        """Ask afterwards for one of these that has seen all bars.

        One watches whatever pass over the frames begins at the start; where none came to the end, they are read anew.
        """
        self._fresh = fresh
        return self._seen

    def _seen(self) -> Holding:
        if self._watched is None:
            for _ in self.frames():
                pass
        return cast(Holding, self._watched)

    def _show(self, held: Holding, number: Ints, frames: list[RawFrame]) -> Ints:
        """Let one see a session; `number`: by id in the log that of the universe, which is given back with new ones."""
        for entry in (entry for frame in frames for entry in frame.listed):
            number = np.pad(number, (0, max(0, entry.symbol + 1 - number.size)), constant_values=-1)
            number[entry.symbol] = self.universe.ids[entry.name]
        ts, symbol, close = (np.concatenate([getattr(frame, name) for frame in frames])
                             for name in ("ts", "symbol", "close"))  # fmt: skip
        order = np.argsort(ts, kind="stable")
        held.see(ts[order], number[symbol[order]], close[order])
        return number

    @property
    def bytes_per_chunk(self) -> int:
        """Of memory that `frames` asks for: none."""
        return 0

    def frames(
        self, shards: Iterable[int] = range(SHARDS), first: int = 0, memory: Memory = of_its_own
    ) -> Iterator[list[RawFrame]]:
        """From session `first` on, the frames of these shards in ascending order, empty ones too.

        Records are decoded into memory of their own, whatever `memory` there is.
        """
        shared = Shared(BATCH, False, Free())
        readers = [Sessions(self, shard, self._edges[first], shared) for shard in sorted(set(shards))]
        sees_all = not first and len(readers) == SHARDS
        held, number = self._fresh() if self._fresh is not None and sees_all else None, np.zeros(0, np.int32)
        try:
            for chunk in range(first, self.chunks):
                made = [[reader.upto(self._edges[chunk + 1]) for reader in readers]]
                if held is not None:
                    number = self._show(held, number, made[0])
                    if chunk + 1 == self.chunks:
                        self._watched = held
                yield made.pop()  # a generator at rest holds what its names stand for
        finally:
            for reader in readers:
                reader.close()


def _actions(frames: list[RawFrame], begins: list[int]) -> Actions:
    """Those of all frames, placed in the slices of the whole."""
    at = [frame.actions.at + np.int32(begin) for frame, begin in zip(frames, begins, strict=True)]
    rest = [np.concatenate([getattr(frame.actions, name) for frame in frames])
            for name in list(Actions.__dataclass_fields__)[1:]]  # fmt: skip
    return Actions(np.concatenate(at), *rest)


class Sessions:
    """One partition of a range, session by session."""

    def __init__(self, bars: LogBars, shard: int, after: int, shared: Shared):
        where, topic, self._calendar = bars._where, bars._topic, bars.calendar
        begin = bars._starts[shard] if after == bars.after else offsets_at(where, topic, after + 1)[shard]
        self._part = Part(where, topic, shard, (begin, bars._stops[shard]), begin, shared)
        self._state, self._frames = intake.start(after), list[RawFrame]()
        self._listed = tuple(bars.listed[shard].values()) if after == bars.after else ()

    def upto(self, ts: int) -> RawFrame:
        """The frame that ends with a slice."""
        while not self._frames or self._frames[-1].slices.upto < ts:
            batch = self._part.next_batch()
            for messages in batch:
                self._state, answer = intake.step(self._calendar, self._state, messages)
                self._frames += answer.frames
            if not batch:
                time.sleep(PAUSE)
        own = [frame for frame in self._frames if frame.slices.upto <= ts]
        self._frames = self._frames[len(own) :]
        if not own or own[-1].slices.upto != ts:
            raise UserError(f"partition {own[0].shard if own else '?'}: no record ends with the slice at {iso(ts)}")
        listed, self._listed = self._listed, ()
        return own[0] if len(own) == 1 and not listed else self._joined(own, listed)

    def _joined(self, frames: list[RawFrame], listed: tuple[Listing, ...]) -> RawFrame:
        after, upto = frames[0].slices.after, frames[-1].slices.upto
        first, last = self._calendar.index_after(after), self._calendar.index_after(upto)
        columns: dict[str, Any] = {name: np.concatenate([getattr(frame, name) for frame in frames]) for name in ROWS}
        for name, unknown in BESIDE.items():
            parts = [getattr(frame, name) for frame in frames]
            sizes = [frame.slices.size if name == "market" else frame.ts.size for frame in frames]
            filled = [part if part.size else np.full(size, unknown) for part, size in zip(parts, sizes, strict=True)]
            columns[name] = np.concatenate(filled if any(part.size for part in parts) else parts)
        listed += tuple(entry for frame in frames for entry in frame.listed)
        slices = self._calendar.slices(first, last, after, upto)
        begins = [int(np.searchsorted(slices.ts, frame.slices.after, side="right")) for frame in frames]
        models = tuple(one._replace(at=one.at + begin) for frame, begin in zip(frames, begins, strict=True)
                       for one in frame.models)  # fmt: skip
        return RawFrame(shard=frames[0].shard, slices=slices, listed=listed, actions=_actions(frames, begins),
                        acted=np.concatenate([frame.acted for frame in frames]), models=models, **columns)  # fmt: skip

    def close(self) -> None:
        """Leave the broker."""
        self._part.close()
