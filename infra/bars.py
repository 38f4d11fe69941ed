"""Bars from a file, a folder or the generator, cut into frames along the exchange's calendar."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from infra.barfiles import NUMBERS, PRICES, BarFile, Column, Extent, Keys, frozen, nearest, open_folder
from infra.reference import MARKETS, Files, open_reference
from infra.settings import Reference as ReferenceParams
from infra.sorting import Survey, arranged
from infra.synthetic import Market, parse
from operators.hold import Holding
from operators.split import NO_BARS, Columns, Memory, joined, of_its_own, places, row_bytes, split
from operators.tally import LONG
from schemas.calendar import DAY, FIRST, LAST, TIMEFRAMES, Calendar
from schemas.errors import UserError
from schemas.frames import NO_FLOATS, NO_LONGS, SHARDS, Floats, Ints, Listing, Longs, RawFrame, Slices
from schemas.universe import Universe

AUTO_ROWS = 262_144  # in a chunk, over all shards: enough to hide what a frame and a chunk cost
SYNTHETIC = "synthetic"
NO_FILES, DEFAULTS = Files(), ReferenceParams()


class Feed(Protocol):
    """Where bars come from, in order of time."""

    label: str
    fingerprint: str
    synthetic: bool
    timeframe: int  # minutes between a symbol's bars; -1: cannot be told
    names: tuple[str, ...]  # of all symbols, upper-cased, alphabetical
    has_quotes: bool

    def extent(self, symbols: Sequence[str], start: int, stop: int) -> Extent:
        """Count these symbols' bars with `start <= ts <= stop`."""

    def keys(self, after: int, upto: int, numbers: Mapping[str, Column]) -> Iterator[Keys]:
        """At least the bars with `after < ts <= upto`, and as few others as is cheap.

        The same rows' numbers are to be taken from these columns.
        """


class Bars:
    """Bars of one timeframe as frames: chunk k holds the slices `k * slices_per_chunk ..` of the grid.

    What the frames hold depends only on the set of bars (and on the order of a symbol's bars with
    equal `ts`), not on how files order or divide them.
    """

    def __init__(
        self,
        feed: Feed,
        timeframe: int,
        symbols: Sequence[str],
        extent: Extent,
        start: int | None,
        frame_slices: int,
        files: Files,
        params: ReferenceParams,
    ):
        self.label, self.fingerprint, self.synthetic = feed.label, feed.fingerprint, feed.synthetic
        self.files, self.beside, mark = files, set(files.given()), files.fingerprint()
        if mark:
            self.fingerprint = hashlib.sha256(f"{self.fingerprint} {mark}".encode()).hexdigest()[:16]
        self.has_quotes = feed.has_quotes or files.quotes is not None
        self.market = next((name for name in MARKETS if name in feed.names), None)
        self.timeframe = timeframe
        self.universe = Universe(symbols)
        self.rows, self.first_ts, self.last_ts = extent
        self.calendar = _calendar(feed.label, timeframe, extent)
        # From the slice before the first bar's to the last bar: no slice is promised beyond what is known.
        begin = self.calendar.index_after(self.first_ts - 1)
        self.after = max(self.calendar.ts_at(begin - 1), -(2**63) if start is None else start - 1)
        self.upto = self.last_ts
        self.reference = open_reference(files, params, self.universe, self.calendar, self.after, self.market)
        self._begin = self.calendar.index_after(self.after)
        self._end = self.calendar.index_after(self.upto)
        self.slices_per_chunk = frame_slices or max(-(-AUTO_ROWS // len(self.universe)), 1)
        self.chunks = max(-(-(self._end - self._begin) // self.slices_per_chunk), 1)
        self._feed = feed
        self._fresh: Callable[[], Holding] | None = None
        self._watched: Holding | None = None

    @property
    def slices(self) -> int:
        """How many slices of the calendar are covered."""
        return self._end - self._begin

    @property
    def bytes_per_chunk(self) -> int:
        """Of memory that `frames` asks for; of a full chunk about as much."""
        rows = min(self.slices_per_chunk * len(self.universe), self.rows)
        return rows * row_bytes(self.has_quotes)

    def frames(
        self, shards: Iterable[int] = range(SHARDS), first: int = 0, memory: Memory = of_its_own
    ) -> Iterator[list[RawFrame]]:
        """From chunk `first` on, the frames of these shards in ascending order, empty ones too, in such memory.

        Only chunk 0 lists symbols: whoever starts later has them from before. Each call reads
        for itself; files are open until the iterator ends or is closed.
        """
        wanted = sorted(set(shards))
        where = places(self.universe)
        numbers = {name: Column() for name in (NUMBERS if self._feed.has_quotes else PRICES)}
        held = None if first or self._fresh is None else self._fresh()
        keys = self._keys(self._edge(first), numbers)
        rest = next(keys, None)
        for chunk in range(first, self.chunks):
            slices = _laid(self._slices(chunk), memory)
            parts = []
            while rest is not None:
                n = int(np.searchsorted(rest.ts, slices.upto, side="right"))
                parts.append(_Stretch(rest.rows(0, n), numbers, held))
                if n < rest.ts.size:
                    rest = rest.rows(n, rest.ts.size)
                    break
                rest = next(keys, None)
            frames = split(parts, where, wanted, slices, {} if chunk else self._listings(), memory)
            market = self._market_closes(slices, parts)
            made = [[self.reference.attach(frame, market) for frame in frames]]
            if held is not None and chunk == self.chunks - 1:
                self._watched = held
            parts, frames = [], []  # a generator at rest holds what its names stand for
            del slices
            yield made.pop()

    def _market_closes(self, slices: Slices, parts: Sequence["_Stretch"]) -> Floats:
        """By slice, from the market's bars among those that were read."""
        if self.market is None:
            return NO_FLOATS
        bars = joined([part.market() for part in parts]) if parts else NO_BARS
        return self.reference.market_closes(slices, bars)

    def _edge(self, chunk: int) -> int:
        """Where a chunk begins: its range is `edge(k) < ts <= edge(k + 1)`."""
        if chunk <= 0:
            return self.after
        if chunk >= self.chunks:
            return self.upto
        return self.calendar.ts_at(self._begin + chunk * self.slices_per_chunk - 1)

    def _slices(self, chunk: int) -> Slices:
        first = self._begin + chunk * self.slices_per_chunk
        last = min(first + self.slices_per_chunk, self._end)
        return self.calendar.slices(first, last, self._edge(chunk), self._edge(chunk + 1))

    def _listings(self) -> dict[int, tuple[Listing, ...]]:
        """All symbols by shard, as the universe admitted them."""
        listed: dict[int, list[Listing]] = {}
        places = zip(self.universe.shards.tolist(), self.universe.slots.tolist(), self.universe.names, strict=True)
        for symbol, (shard, slot, name) in enumerate(places):
            listed.setdefault(shard, []).append(Listing(symbol, slot, name))
        return {shard: tuple(listings) for shard, listings in listed.items()}

    def instants(self, most: int) -> Longs:
        """UTC ns: about `most` ends of slices, evenly, the ends of all sessions, and the last bar's."""
        step = max(-(-self.slices // most), 1)
        evenly = self.calendar.ends_at(np.arange(self._begin, self._end, step))
        closes = self.calendar.closes
        ends = closes[(closes > self.after) & (closes <= self.upto)]
        return np.unique(np.concatenate([evenly, ends, [self.upto]]))

    def watch(self, fresh: Callable[[], Holding]) -> Callable[[], Holding]:
        """Ask afterwards for one of these that has seen all bars.

        One watches whatever pass over the frames begins at the start; where none came to the end, the closes are read.
        """
        self._fresh = fresh
        return lambda: self._seen(fresh()) if self._watched is None else self._watched

    def _seen(self, held: Holding) -> Holding:
        for ts, symbol, close in self.closes():
            held.see(ts, symbol, close)
        return held

    def closes(self) -> Iterator[tuple[Longs, Ints, Floats]]:
        """Times, symbols and closes of all bars in order of time, as they are; symbols not asked for are -1."""
        numbers = {"close": Column()}
        for keys in self._keys(self.after, numbers):
            at = 0
            for close in numbers["close"].take(int(np.searchsorted(keys.ts, self.upto, side="right"))):
                end = at + close.size
                yield keys.ts[at:end], keys.symbol[at:end], close
                at = end

    def _keys(self, after: int, numbers: Mapping[str, Column]) -> Iterator["_Keys"]:
        """At least the bars with `after < ts <= upto`, and whose they are."""
        known: tuple[str, ...] | None = None
        ids: Ints = np.zeros(0, np.int32)
        is_same, code = False, -1
        for names, ts, symbol in self._feed.keys(after, self.upto, numbers):
            if names is not known:
                known, ids = names, np.array([self.universe.ids.get(name, -1) for name in names], np.int32)
                is_same = bool((ids == np.arange(ids.size)).all())
                code = names.index(self.market) if self.market in names else -1
            early = int(np.searchsorted(ts, after, side="right"))
            own = symbol if is_same and not early else ids.take(symbol)
            if early:
                own[:early] = -1
            yield _Keys(ts, frozen(own), np.flatnonzero(symbol == code) if code >= 0 else NO_LONGS)


class _Keys(NamedTuple):
    """Whose bars there are, and of when, rising."""

    ts: Longs
    symbol: Ints  # ids; -1: nobody asked for this row
    market: Longs  # rows of the market's, asked for or not

    def rows(self, begin: int, end: int) -> "_Keys":
        """The rows `begin <= i < end`."""
        first, last = np.searchsorted(self.market, (begin, end))
        return _Keys(self.ts[begin:end], self.symbol[begin:end], self.market[first:last] - begin)


class _Stretch:
    """Bars of one chunk: who holds the benchmark sees what is read of them, and the market's are kept."""

    def __init__(self, keys: _Keys, numbers: Mapping[str, Column], held: Holding | None):
        self.ts, self.symbol = keys.ts, keys.symbol
        self.has_quotes = "bid" in numbers
        self._rows, self._numbers, self._held = keys.market, numbers, held
        self._market: dict[str, list[Floats]] = {name: [] for name in PRICES}

    def read(self, name: str) -> Iterator[Floats]:
        """A number of all rows, once."""
        begin = 0
        for values in self._numbers[name].take(self.ts.size):
            end = begin + values.size
            if name == "close" and self._held is not None:
                self._held.see(self.ts[begin:end], self.symbol[begin:end], values)
            if self._rows.size and name in self._market:
                first, last = np.searchsorted(self._rows, (begin, end))
                self._market[name].append(values[self._rows[first:last] - begin])
            yield values
            begin = end

    def market(self) -> Columns:
        """The market's bars, when all was read."""
        ts, symbol = self.ts[self._rows], self.symbol[self._rows]
        prices = (np.concatenate([*self._market[name], NO_FLOATS]) for name in PRICES)
        return Columns._make((ts, symbol, *prices, NO_FLOATS, NO_FLOATS))


def _laid(slices: Slices, memory: Memory) -> Slices:
    """The same in such memory, since every frame of a chunk has them."""
    columns = [getattr(slices, name) for name in list(Slices.__dataclass_fields__)[2:]]  # the widest come first
    room, at, laid = memory(sum([column.nbytes for column in columns])), 0, []
    for column in columns:
        laid.append(np.ndarray(column.shape, column.dtype, room, at))
        laid[-1][:] = column
        at += column.nbytes
    return Slices(slices.after, slices.upto, *laid)


def open_bars(
    spec: str,
    *,
    timeframe: str = "auto",
    symbols: Sequence[str] = (),
    start: int | None = None,
    stop: int | None = None,
    frame_slices: int = 0,
    files: Files = NO_FILES,
    reference: ReferenceParams = DEFAULTS,
) -> Bars:
    """Open a bar file, a folder of them, or `synthetic:symbols=20,days=5,seed=7`.

    Bars with `start <= ts <= stop` (UTC ns) of `symbols` (all when empty) are taken. `frame_slices`
    0 chooses by the number of symbols. The universe is the chosen symbols of the whole file,
    whatever the range. `files` stand beside the bars. Raises UserError, one line, for whatever of this cannot be had.
    """
    if frame_slices < 0:
        raise UserError(f"frame_slices {frame_slices}: want a number of slices, or 0 to choose")
    asked = _minutes(timeframe)
    feed: Feed
    if spec == SYNTHETIC or spec.startswith(f"{SYNTHETIC}:"):
        feed = Market(parse(spec, asked))
    else:
        feed = _files(spec)
    minutes = asked or _told(feed)
    chosen = _chosen(feed, symbols)
    return Bars(feed, minutes, chosen, _extent(feed, chosen, start, stop), start, frame_slices, files, reference)


class _Files:
    """Bar files in order of time."""

    synthetic = False

    def __init__(self, label: str, given: Sequence[BarFile], files: Sequence[BarFile], survey: Survey):
        self.label = label
        known = [(file.path.name, file.size, file.mtime_ns) for file in given]
        self.fingerprint = hashlib.sha256(repr(known).encode()).hexdigest()[:16]
        self.timeframe = survey.gap
        self.names = survey.names
        self.has_quotes = any(file.has_quotes for file in files)
        self._files = files
        self._survey = survey

    def extent(self, symbols: Sequence[str], start: int, stop: int) -> Extent:
        s = self._survey
        own = set(symbols)
        if start <= min(s.first) and stop >= max(s.last):
            of = [i for i, name in enumerate(s.names) if name in own]
            return Extent(sum(s.rows[i] for i in of), min(s.first[i] for i in of), max(s.last[i] for i in of))
        rows, first, last = 0, 2**63 - 1, -(2**63)
        for names, times, symbol in self.keys(start - 1, stop, {}):
            begin = int(np.searchsorted(times, start, side="left"))
            end = int(np.searchsorted(times, stop, side="right"))
            wanted = np.array([name in own for name in names], np.bool_)[symbol[begin:end]]
            ts = times[begin:end][wanted]
            if ts.size:
                rows, first, last = rows + ts.size, min(first, int(ts[0])), int(ts[-1])
        return Extent(rows, first, last)

    def keys(self, after: int, upto: int, numbers: Mapping[str, Column]) -> Iterator[Keys]:
        for at, file in enumerate(self._files):
            units = (unit for unit in self._survey.units if unit.file == at)
            groups = [unit.group for unit in units if unit.last > after and unit.first <= upto]
            if groups:  # those without rows lie in no unit; read along, they cost nothing
                yield from file.keys(range(groups[0], groups[-1] + 1), numbers)


def _files(spec: str) -> _Files:
    given = open_folder(Path(spec).expanduser())
    return _Files(spec, given, *arranged(given))


def _minutes(timeframe: str) -> int:
    """A timeframe's minutes; 0 for auto."""
    if timeframe == "auto":
        return 0
    if timeframe not in TIMEFRAMES:
        raise UserError(f"timeframe {timeframe!r}{nearest(timeframe, TIMEFRAMES)} (or auto)")
    return TIMEFRAMES[timeframe]


def _told(feed: Feed) -> int:
    """The timeframe that the bars show."""
    if feed.timeframe in TIMEFRAMES.values():
        return feed.timeframe
    if feed.timeframe < 0:
        seen = "no symbol has two bars"
    elif feed.timeframe == 0:
        seen = "most bars are less than a minute apart"
    elif feed.timeframe >= LONG:
        seen = "most bars are more than a day apart"
    else:
        seen = f"most bars are {feed.timeframe} minutes apart"
    raise UserError(f"{feed.label}: {seen}; give the timeframe, one of {', '.join(TIMEFRAMES)}")


def _chosen(feed: Feed, symbols: Sequence[str]) -> list[str]:
    """The asked symbols in alphabetical order, all of them known."""
    chosen = sorted({symbol.strip().upper() for symbol in symbols} or feed.names)
    known = set(feed.names)
    for symbol in chosen:
        if symbol not in known:
            raise UserError(f"{feed.label} has no symbol {symbol}{nearest(symbol, feed.names)}")
    return chosen


def _extent(feed: Feed, symbols: Sequence[str], start: int | None, stop: int | None) -> Extent:
    """What there is in the range; something, or an error."""
    if start is not None and stop is not None and start > stop:
        raise UserError(f"range from {_iso(start)} to {_iso(stop)}: it ends before it starts")
    extent = feed.extent(symbols, _FROM if start is None else start, _TO if stop is None else stop)
    if extent.rows:
        return extent
    whole = feed.extent(symbols, _FROM, _TO)
    asked = f"from {_iso(start)}" if start is not None else ""
    asked += f" to {_iso(stop)}" if stop is not None else ""
    there = f"there are some from {_iso(whole.first)} to {_iso(whole.last)}"
    raise UserError(f"{feed.label}: no bars {asked.strip()}; {there}")


_FROM, _TO = -(2**63) + 1, 2**63 - 1


def _calendar(label: str, timeframe: int, extent: Extent) -> Calendar:
    """A calendar that spans the bars and a day more on either side, for the exchange's date."""
    days = []
    for ts in (extent.first, extent.last):
        day = date(1970, 1, 1) + timedelta(days=ts // (DAY * 60_000_000_000))
        if not FIRST < day < LAST:
            raise UserError(
                f"{label}: a bar of {_iso(ts)}; bars may be from {FIRST} to {LAST}: "
                f"give a start or stop that leaves it out, or mend ts"
            )
        days.append(day)
    return Calendar(timeframe, days[0] - timedelta(days=1), days[1] + timedelta(days=1))


def _iso(ts: int) -> str:
    """UTC, to the second."""
    return datetime.fromtimestamp(ts // 1_000_000_000, UTC).isoformat().replace("+00:00", "Z")
