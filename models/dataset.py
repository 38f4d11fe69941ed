"""Bars -> windows and labels, by the very operators that serve.

One float32 matrix holds every bar's features, a symbol's bars beneath each other; a window is a place in
it, gathered when it is needed. A window is whole or is not there: one symbol, every slice of the
calendar, no long pause, nothing missing. A label is the log return to the close `h` slices later over
volatility × √h, where volatility is the root mean square of the window's one-bar returns.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.decision import Circumstances, Observer, Policy
from models.training import Data
from operators import clean, features, known
from operators.forecast import LEAST_VOLATILITY
from schemas.calendar import Calendar
from schemas.errors import UserError
from schemas.frames import SHARDS, BarFrame, Bools, Codes, FeatureFrame, Floats, Ints, Longs, RawFrame

Singles = npt.NDArray[np.float32]
QUALITY, POLICY = clean.Params(), Policy()
_BLOCK = 1 << 14
_ROWS = ("_matrix", "_grid", "_who", "_nth", "_move", "_jump")  # columns with an entry for every bar
_KEPT = ("_row", "_regime", "_objection", "_cost")  # for those that may be samples


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """Features of all bars, and the samples among them in order of `(slice, symbol)`."""

    data: Data
    calendar: Calendar
    symbols: tuple[str, ...]  # alphabetical; symbol k has the number k + 1
    matrix: Singles  # [bars, features], by symbol, then by time
    grid: Ints  # [bars] the bar's slice, counted over the calendar
    end: Ints  # [samples] the matrix row of the window's last bar
    symbol: Ints  # [samples] number
    label: Singles  # [samples, horizons] in volatility units
    volatility: Singles  # [samples] of one bar, a fraction
    entry: Singles  # [samples] log of the next bar's open over this close
    around: Circumstances  # [samples] of a decision, beside the forecast

    def __len__(self) -> int:
        return int(self.end.size)

    @property
    def at(self) -> Ints:
        """The slice of each sample's decision."""
        return self.grid[self.end]

    @property
    def label_end(self) -> Longs:
        """The slice in which each sample's last label is known."""
        return self.at.astype(np.int64) + max(self.data.horizons)

    def ts(self, which: Longs | slice = slice(None)) -> Longs:
        """When samples are decided, UTC ns."""
        ends, back = np.unique(self.at[which], return_inverse=True)
        stamps = np.array([self.calendar.ts_at(int(index)) for index in ends], np.int64)
        return stamps[back]

    def windows(self, which: Longs) -> Singles:
        """[n, lookback, features] of these samples, a copy."""
        return windows(self.matrix, self.data.lookback, self.end[which])

    def future(self, which: Longs) -> Singles:
        """[n, horizons, known] of these samples."""
        return known.at_slices(self.calendar, self.at[which].astype(np.int64), self.data.horizons).astype(np.float32)

    def scale(self, which: Longs) -> Floats:
        """[n, horizons] log return per volatility unit of the label."""
        scale: Floats = self.volatility[which, None].astype(np.float64) * np.sqrt(np.array(self.data.horizons))
        return scale

    def returns(self, which: Longs) -> Floats:
        """Log return from the next open to the close of the decision horizon."""
        k = self.data.decision
        whole = self.label[which, k].astype(np.float64) * self.scale(which)[:, k]
        traded: Floats = whole - self.entry[which]
        return traded


def windows(matrix: Singles, lookback: int, ends: Ints | Longs) -> Singles:
    """The `lookback` rows that end at each of these, one block of memory each, gathered."""
    count = matrix.shape[1]
    if not ends.size:
        return np.zeros((0, lookback, count), np.float32)
    rows = np.lib.stride_tricks.as_strided(
        matrix,
        (matrix.shape[0] - lookback + 1, lookback * count),
        (matrix.strides[0], matrix.itemsize),
        writeable=False,
    )
    gathered: Singles = rows[np.asarray(ends, np.int64) - (lookback - 1)].reshape(-1, lookback, count)
    return gathered


def build(
    data: Data, calendar: Calendar, chunks: Iterable[Sequence[RawFrame]], rows: int = 0,
    quality: clean.Params = QUALITY, policy: Policy = POLICY,
) -> Dataset:  # fmt: skip
    """Replay bars through `clean` and `features` and cut samples; `rows`: how many bars to expect.

    Beside the matrix it needs about 40 % of its size for a while. Raises UserError where nothing is left.
    """
    store = _Store(data, calendar, rows, policy)
    for bars, featured in _replayed(chunks, quality):
        store.add(bars, featured)
    store.by_symbol()
    return store.samples()


def _replayed(chunks: Iterable[Sequence[RawFrame]], quality: clean.Params) -> Iterator[tuple[BarFrame, FeatureFrame]]:
    params = features.Params(set="all")
    states: dict[int, tuple[Any, Any]] = {shard: (clean.start(), features.start()) for shard in range(SHARDS)}
    for chunk in chunks:
        for frame in chunk:
            clean_state, feature_state = states[frame.shard]
            clean_state, bars = clean.step(quality, clean_state, frame)
            feature_state, featured = features.step(params, feature_state, bars)
            states[frame.shard] = clean_state, feature_state
            yield bars, featured


class _Store:
    """Rows as they arrive; columns are moved to their places one at a time, so that nothing is there twice."""

    def __init__(self, data: Data, calendar: Calendar, rows: int, policy: Policy):
        self._data, self._calendar, self._observer = data, calendar, Observer(policy)
        self._names: dict[int, str] = {}
        self._take = [features.ORDER.index(name) for name in data.features]
        self._size = 0
        self._matrix: Singles = np.empty((rows, len(data.features)), np.float32)
        self._grid: Ints = np.empty(rows, np.int32)
        self._who: Ints = np.empty(rows, np.int32)
        self._nth: Ints = np.empty(rows, np.int32)  # how many of the symbol's bars came before
        self._move: Singles = np.empty(rows, np.float32)  # log of close over the symbol's last close
        self._jump: Singles = np.empty(rows, np.float32)  # log of open over the symbol's last close
        self._residues: Ints = np.zeros(0, np.int32)  # modulo `every`, of the slices that may be sampled
        self._kept = 0  # rows of such slices, and their circumstances
        self._row: Ints = np.empty(rows // data.every, np.int32)
        self._regime: Codes = np.empty(rows // data.every, np.int8)
        self._objection: Codes = np.empty(rows // data.every, np.int8)
        self._cost: Floats = np.empty(rows // data.every)
        self._seen: Longs = np.zeros(0, np.int64)  # by symbol
        self._close: Floats = np.zeros(0)  # by symbol, the last one

    def add(self, bars: BarFrame, featured: FeatureFrame) -> None:
        """Append a frame's rows."""
        for listing in bars.listed:
            self._names[listing.symbol] = listing.name
        size = bars.at.size
        if not size:
            return
        if int(bars.symbol.max()) >= self._seen.size:
            fresh = int(bars.symbol.max()) + 1 - self._seen.size
            self._seen = np.concatenate([self._seen, np.zeros(fresh, np.int64)])
            self._close = np.concatenate([self._close, np.full(fresh, np.nan)])
        begin, self._size = self._size, self._size + size
        if self._size > self._grid.size:
            self._resize(_ROWS, max(self._size, self._grid.size + (self._grid.size >> 2)))
        own = slice(begin, self._size)
        self._matrix[own] = featured.values[:, self._take]
        self._grid[own] = self._calendar.index_of(bars.slices.ts)[bars.at]
        self._who[own] = bars.symbol
        self._keep(bars, own)
        order = np.argsort(bars.symbol, kind="stable")  # each symbol's bars in order of time
        symbol, close = bars.symbol[order], bars.steady[order]  # a split is no return
        opened = (bars.open * bars.scale if bars.scale.size else bars.open)[order]
        first = np.concatenate([[True], symbol[1:] != symbol[:-1]])
        before = np.where(first, self._close[symbol], np.concatenate([[np.nan], close[:-1]]))
        run = np.arange(size) - np.maximum.accumulate(np.where(first, np.arange(size), 0))
        self._nth[begin + order] = self._seen[symbol] + run
        self._move[begin + order] = np.log(close / before)
        self._jump[begin + order] = np.log(opened / before)
        self._seen += np.bincount(symbol, minlength=self._seen.size)
        self._close[symbol] = close  # of equal indices the last one stays

    def _keep(self, bars: BarFrame, own: slice) -> None:
        """The circumstances of those rows that may be samples."""
        around = self._observer.see(bars)
        if not self._residues.size:  # the first bar of all is within this frame's slices, in whichever shard
            years = range(_year(bars.slices.after), _year(bars.slices.upto) + 1)
            self._residues = np.unique([self._origin(year) % self._data.every for year in years]).astype(np.int32)
        some = np.flatnonzero(np.isin(self._grid[own] % self._data.every, self._residues))
        begin, self._kept = self._kept, self._kept + some.size
        if self._kept > self._row.size:
            self._resize(_KEPT, max(self._kept, self._row.size + (self._row.size >> 2)))
        into = slice(begin, self._kept)
        self._row[into] = own.start + some
        self._regime[into], self._objection[into], self._cost[into] = around.at(some)

    def _resize(self, names: Sequence[str], rows: int) -> None:
        for name in names:
            column = getattr(self, name)
            column.resize((rows, *column.shape[1:]), refcheck=False)

    def by_symbol(self) -> None:
        """Put each symbol's rows beneath each other, symbols in order of their names."""
        ids = sorted((symbol for symbol in self._names if symbol < self._seen.size), key=self._names.__getitem__)
        begins = np.zeros(self._seen.size, np.int64)
        begins[ids] = np.cumsum(self._seen[ids]) - self._seen[ids]
        self._symbols = tuple(self._names[symbol] for symbol in ids)
        self._counts = self._seen[ids]
        self._resize(_ROWS, self._size)  # rows that never came
        self._resize(_KEPT, self._kept)
        place = self._nth  # becomes the row's place
        for begin in range(0, self._size, _BLOCK):
            own = slice(begin, begin + _BLOCK)
            place[own] += begins[self._who[own]].astype(np.int32)
        self._who = np.zeros(0, np.int32)
        for k in range(self._matrix.shape[1]):
            self._matrix[:, k] = _moved(self._matrix[:, k], place)
        for name in ("_grid", "_move", "_jump"):
            setattr(self, name, _moved(getattr(self, name), place))
        self._row = place[self._row]
        self._nth = np.zeros(0, np.int32)

    def samples(self) -> Dataset:
        """Cut windows and labels."""
        data, horizons = self._data, np.array(self._data.horizons)
        whole = self._whole()
        origin = self._origin(_year(self._calendar.ts_at(int(self._grid.min())))) if self._size else 0
        parts: list[tuple[Any, ...]] = []
        column = self._data.features.index("returns_1")
        begin = 0
        for number, count in enumerate(self._counts.tolist(), 1):
            own = slice(begin, begin + count)
            grid = self._grid[own]
            level = np.cumsum(np.nan_to_num(self._move[own].astype(np.float64)))
            chosen = np.flatnonzero(whole[own] & ((grid - origin) % data.every == 0))
            target = np.searchsorted(grid, grid[chosen, None] + horizons)
            there = (target < count) & (grid[np.minimum(target, count - 1)] == grid[chosen, None] + horizons)
            chosen, target = chosen[there.all(axis=1)], target[there.all(axis=1)]
            scale = self._volatility(begin + chosen, column)
            label = (level[target] - level[chosen, None]) / (scale[:, None] * np.sqrt(horizons))
            parts.append(((begin + chosen).astype(np.int32), np.full(chosen.size, number, np.int32),
                          label.astype(np.float32), scale.astype(np.float32),
                          self._jump[begin + chosen + 1]))  # fmt: skip
            begin += count
        self._move = self._jump = np.zeros(0, np.float32)
        if not sum(part[0].size for part in parts):
            raise UserError(
                f"{self._size:,} bars, and no {data.lookback} of them in a row with {horizons.max()} more after them: "
                f"give more bars, or fewer with training.data.lookback and training.data.horizons"
            )
        end, symbol, label, volatility, entry = (np.concatenate(each) for each in zip(*parts, strict=True))
        parts.clear()
        order = np.lexsort((symbol, self._grid[end]))
        by_row = np.argsort(self._row)
        around = Circumstances(self._regime, self._objection, self._cost).at(
            by_row[np.searchsorted(self._row, end[order], sorter=by_row)]
        )
        return Dataset(data, self._calendar, self._symbols, self._matrix, self._grid, end[order], symbol[order],
                       label[order], volatility[order], entry[order], around)  # fmt: skip

    def _origin(self, year: int) -> int:
        """The first slice of the year before the bars': from it `every` counts, wherever their calendar begins."""
        return self._calendar.index_after(int(np.datetime64(f"{year - 1}-01-01", "ns").astype(np.int64)))

    def _whole(self) -> Bools:
        """Which rows end a window without a hole: same symbol, every slice, short pauses, nothing missing."""
        whole: Bools = np.zeros(self._size, np.bool_)
        if not self._size:
            return whole
        origin = int(self._grid.min())
        session = self._calendar.session_at(np.arange(origin, int(self._grid.max()) + 1))
        paused = np.diff(session, prepend=session[:1]) > self._data.gap_days
        heads = np.zeros(self._size + 1, np.bool_)
        heads[np.cumsum(self._counts)] = True
        heads[0] = True
        begun = 0  # the row in which the present run began
        for begin in range(0, self._size, _BLOCK):
            own = slice(begin, min(begin + _BLOCK, self._size))
            row = np.arange(own.start, own.stop)
            grid = self._grid[own]
            fresh = heads[own] | paused[grid - origin] | (np.diff(grid, prepend=self._grid[max(begin - 1, 0)]) != 1)
            finite = np.isfinite(self._matrix[own]).all(axis=1)
            starts = np.where(finite, np.where(fresh, row, 0), row + 1)
            run = np.maximum.accumulate(np.concatenate([[begun], starts]))[1:]
            whole[own] = row - run + 1 >= self._data.lookback
            begun = int(run[-1])
        return whole

    def _volatility(self, ends: Longs, column: int) -> Floats:
        """Root mean square of the window's one-bar returns, per bar."""
        answer: Floats = np.empty(ends.size)
        back = np.arange(1 - self._data.lookback, 1)
        for begin in range(0, ends.size, _BLOCK >> 6):
            own = slice(begin, begin + (_BLOCK >> 6))
            moves = self._matrix[ends[own, None] + back, column].astype(np.float64)
            answer[own] = np.sqrt(np.mean(moves * moves, axis=1))
        return np.maximum(answer, LEAST_VOLATILITY)


def _year(ts: int) -> int:
    """Of an instant, UTC."""
    return int(str(np.datetime64(ts, "ns"))[:4])


def _moved(column: Any, place: Ints) -> Any:
    """A column with each entry at its place."""
    answer = np.empty(column.size, column.dtype)
    for begin in range(0, column.size, _BLOCK):
        own = slice(begin, begin + _BLOCK)
        answer[place[own]] = column[own]
    return answer
