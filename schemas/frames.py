"""Columns of one shard between operators.

A frame holds rows in order of `(ts, symbol name)` and promises a covered range: every slice with
`after < ts <= upto` is complete in it. Each derived frame holds the one before it and adds columns.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from schemas.events import Phase

Floats: TypeAlias = npt.NDArray[np.float64]
Longs: TypeAlias = npt.NDArray[np.int64]
Ints: TypeAlias = npt.NDArray[np.int32]
Codes: TypeAlias = npt.NDArray[np.int8]
Bools: TypeAlias = npt.NDArray[np.bool_]
Names: TypeAlias = npt.NDArray[np.bytes_]
Table: TypeAlias = npt.NDArray[Any]  # rows with named fields: a row's by attribute, columns as table["name"]

C = TypeVar("C", bound=type)

SHARDS = 16  # keys, fixed for good; workers come and go


def quick(frozen: C) -> C:
    """Let a frozen dataclass be made in a quarter of the time: as its like that is not frozen, until it is filled.

    A frozen one is filled through `object.__setattr__`, 0.1 µs a field; live, frames hold a few rows each.
    """
    own: list[Any] = [
        (one.name, one.type, field(default_factory=one.default_factory) if one.default_factory is not MISSING
         else field(default=one.default))
        for one in fields(frozen)
    ]  # fmt: skip
    like: Any = make_dataclass(frozen.__name__, own, eq=False, slots=True)
    fill, begin = like.__init__, object.__setattr__

    def init(self: Any, *values: Any, **named: Any) -> None:
        begin(self, "__class__", like)
        fill(self, *values, **named)
        self.__class__ = frozen

    frozen.__init__ = init  # type: ignore[misc]
    return frozen


class Listing(NamedTuple):
    """A symbol enters the universe: its id for good, and its row in the shard's state."""

    symbol: int
    slot: int
    name: str


class Activation(NamedTuple):
    """A model is in force from a slice on, an event of the log."""

    at: int  # place in `slices`
    model: str  # its id; empty: none from here on
    bundle: str = ""  # hash of its manifest, as it was announced; empty: of no matter


class Alarm(NamedTuple):
    """A shard has stopped its model's forecasts: they are less sure than they were when it was validated."""

    ts: int  # end of the slice, UTC ns
    shard: int
    model: int  # number
    edge: float  # median of the last forecasts
    reference: float


class Outcomes(NamedTuple):
    """Forecasts whose hour has come, one row for each and horizon, in order of time; sums of these are exact."""

    ts: Longs  # end of the slice they spoke of, UTC ns
    symbol: Ints
    model: Codes  # number
    horizon: Codes  # its place among the horizons
    inside: Bools  # did the return lie within [q10, q90]?
    loss: Longs  # pinball, billionths of a volatility unit; -1: the model's windows do not tell the volatility
    usual: Longs  # the same of the quantiles of the model's training labels; -1: it does not say
    said: Longs  # probability of the median's direction, billionths; -1: another horizon, or the price stood still
    right: Bools  # did that direction come true?


@dataclass(frozen=True, eq=False, slots=True)
class Slices:
    """The calendar's closed slices within `after < ts <= upto`; one entry each, empty ones too."""

    after: int  # UTC ns
    upto: int  # UTC ns
    ts: Longs  # end of the slice, UTC ns
    session: Ints  # exchange date, days since 1970-01-01
    minute: Ints  # minute of the exchange's day at the slice's end
    to_close: Ints  # minutes from the next slice's start to the close of its session
    phase: Codes  # Phase

    @property
    def size(self) -> int:
        """How many slices."""
        return int(self.ts.size)

    @property
    def closes(self) -> bool:
        """Whether a session ends with the last one."""
        return bool(self.size) and bool(self.phase[-1] == Phase.LAST and self.ts[-1] == self.upto)

    def cut(self, ts: int) -> tuple["Slices", "Slices"]:
        """Two ranges: up to and including `ts`, and after it."""
        k = int(np.searchsorted(self.ts, ts, side="right"))
        parts = [(self.ts[s], self.session[s], self.minute[s], self.to_close[s], self.phase[s])
                 for s in (slice(None, k), slice(k, None))]  # fmt: skip
        return Slices(self.after, ts, *parts[0]), Slices(ts, self.upto, *parts[1])


@dataclass(frozen=True, eq=False, slots=True)
class Actions:
    """Splits and cash dividends, in order of `(at, symbol name)`; each holds from the start of its slice.

    A split turns every `old` shares into `new`; a dividend is paid on each share held before the
    slice, after the split. One row may be both; 1 for 1 is no split.
    """

    at: Ints  # place in `slices`
    symbol: Ints
    new: Longs
    old: Longs
    dividend: Longs  # ticks of 1/10 000 USD per share


NO_ACTIONS = Actions(*(np.zeros(0, np.int32),) * 2, *(np.zeros(0, np.int64),) * 3)
NO_FLOATS: Floats = np.zeros(0)
NO_INTS: Ints = np.zeros(0, np.int32)
NO_CODES: Codes = np.zeros(0, np.int8)
NO_LONGS: Longs = np.zeros(0, np.int64)
NO_COUNTS: Longs = np.zeros((0, 4), np.int64)
NO_BOOLS: Bools = np.zeros(0, np.bool_)
NO_NAMES: Names = np.zeros(0, np.bytes_)
NO_OUTCOMES = Outcomes(NO_LONGS, NO_INTS, NO_CODES, NO_CODES, NO_BOOLS, NO_LONGS, NO_LONGS, NO_LONGS, NO_BOOLS)

# what is said of a bar that was let in; bits of `marks`
GAP = 1  # bars of its session are missing just before it
STALE = 2  # the same numbers as in too many bars before it
JUMPED = 4  # its open or close is far from the close before it
OVERNIGHT = 8  # the bar before it belongs to an earlier session
UNKNOWN_DAYS = -1  # to a report of earnings of which nothing is known


class Space:
    """Memory for what a step makes of a chunk's rows: a column lies there for all shards, one after the other.

    So whoever joins them (`operators/merging.py`) need not copy. A frame's rows are given once; who asks for them again
    gets arrays of its own, so that no answer is ever written over.
    """

    __slots__ = ("_is_given", "first", "memory", "rows")

    def __init__(self, memory: npt.NDArray[np.uint8], rows: int, first: int):
        self.memory, self.rows, self.first = memory, rows, first  # of the chunk; the first one of the frame
        self._is_given = False

    def columns(self, rows: int, kinds: Sequence[Any]) -> list[Any]:
        """A column of each of these types, wide ones first; what is in them means nothing."""
        if self._is_given:
            return [np.empty(rows, kind) for kind in kinds]
        self._is_given = True
        found, at = [], 0
        for kind in kinds:
            width = np.dtype(kind).itemsize
            found.append(np.ndarray(rows, kind, self.memory, at + self.first * width))
            at += self.rows * width
        return found


@quick
@dataclass(frozen=True, eq=False, slots=True)
class RawFrame:
    """Bars as a source delivers them: any order of time, anything in the numbers.

    What stands beside a bar was known at its end or before; a column is empty where the source has none.
    """

    shard: int
    slices: Slices
    listed: tuple[Listing, ...]  # symbols of this shard that are new in this frame
    ts: Longs  # end of the bar, UTC ns
    symbol: Ints
    slot: Ints
    open: Floats  # USD per share
    high: Floats
    low: Floats
    close: Floats
    volume: Floats  # shares
    bid: Floats  # NaN where no quote is fresh
    ask: Floats
    earnings_days: Ints = field(default_factory=lambda: NO_INTS)  # to the nearest report known, past or coming
    average_volume: Floats = field(default_factory=lambda: NO_FLOATS)  # shares per day; NaN: not known
    market: Floats = field(default_factory=lambda: NO_FLOATS)  # close of the market symbol by slice, or NaN
    actions: Actions = NO_ACTIONS
    acted: Ints = field(default_factory=lambda: NO_INTS)  # slots of the actions' symbols
    models: tuple[Activation, ...] = ()  # in order of time
    space: Space | None = None  # for what is made of it


@dataclass(frozen=True, eq=False, slots=True)
class Refused:
    """Bars that were not let in, with the reason."""

    ts: Longs
    symbol: Ints
    reason: Codes
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats


@quick
@dataclass(frozen=True, eq=False, slots=True)
class BarFrame:
    """Bars that passed the quality checks."""

    shard: int
    slices: Slices
    listed: tuple[Listing, ...]
    refused: Refused
    slots: int  # one more than the highest slot used here
    at: Ints  # the row's place in `slices`
    symbol: Ints
    slot: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    bid: Floats
    ask: Floats
    marks: Codes = field(default_factory=lambda: NO_CODES)  # GAP, STALE, JUMPED, OVERNIGHT
    missing: Ints = field(default_factory=lambda: NO_INTS)  # bars of its session just before it
    scale: Floats = field(default_factory=lambda: NO_FLOATS)  # shares per share of the start; empty: no split
    earnings_days: Ints = field(default_factory=lambda: NO_INTS)
    average_volume: Floats = field(default_factory=lambda: NO_FLOATS)
    market: Floats = field(default_factory=lambda: NO_FLOATS)  # by slice
    actions: Actions = NO_ACTIONS
    models: tuple[Activation, ...] = ()

    @property
    def steady(self) -> Floats:
        """Closes without a step at a split: in USD per share as shares were at the start of the log."""
        return self.close * self.scale if self.scale.size else self.close


@dataclass(frozen=True, eq=False, slots=True)
class FeatureFrame:
    """One row of features per bar; columns as named by the feature set; NaN before warm."""

    bars: BarFrame
    names: tuple[str, ...]
    values: Floats  # [rows, features]

    def column(self, name: str) -> Floats:
        """One feature of all rows."""
        return self.values[:, self.names.index(name)]


@dataclass(frozen=True, eq=False, slots=True)
class ForecastFrame:
    """The forecast in force at each row; NaN, FLAT and the reason where there is none."""

    features: FeatureFrame
    horizons: tuple[int, ...]  # bars ahead; none before the first model
    decision: int  # place of the horizon that trades
    quantiles: Floats  # [rows, horizons, 3] of the log return: 0.1, 0.5, 0.9, ascending
    age: Ints  # bars since it was made; -1: none
    direction: Codes
    strength: Floats  # 0..1
    probability: Floats  # that the direction of the median comes true; calibrated where a calibrator is kept
    model: Codes  # its number, in the order in which models came; 0: none
    is_calibrated: Bools
    absence: Codes  # Absence
    alarms: tuple[Alarm, ...] = ()
    volatility: Floats = field(default_factory=lambda: NO_FLOATS)  # of one bar in the window, where the model was asked
    # by model, for each horizon: the quantiles of its training labels in volatility units; empty: it does not say
    usual: tuple[tuple[tuple[float, ...], ...], ...] = ()
    models: Names = field(default_factory=lambda: NO_NAMES)  # ids by number, less one


@dataclass(frozen=True, eq=False, slots=True)
class ViewFrame:
    """One alpha's vote on each row: direction × share of its life that is left, 0 without a view."""

    bars: BarFrame
    vote: Floats


@dataclass(frozen=True, eq=False, slots=True)
class RegimeFrame:
    """The regime of each row's symbol."""

    bars: BarFrame
    regime: Codes


@dataclass(frozen=True, eq=False, slots=True)
class OpinionFrame:
    """All that the ensemble weighs."""

    features: FeatureFrame
    votes: Floats  # [alphas, rows], alphas in alphabetical order
    regime: Codes
    forecast: ForecastFrame | None = None  # None: no model is configured
    outcomes: Outcomes = NO_OUTCOMES


@quick
@dataclass(frozen=True, eq=False, slots=True)
class SignalFrame:
    """The verdict of the signal side on each row; `reason` NONE means: a candidate for an order."""

    bars: BarFrame
    volatility: Floats  # sample deviation of the last 5 one-bar returns, a fraction; after the filters only candidates'
    direction: Codes
    score: Floats  # -1..1
    confidence: Floats  # 0.5..1
    regime: Codes
    views: Ints  # who votes which way, one base-3 digit per alpha, the forecast last: 0 down, 1 none, 2 up
    reason: Codes
    # of the forecast at the decision horizon; all empty where no model is configured
    q10: Floats = field(default_factory=lambda: NO_FLOATS)  # log returns, NaN without a forecast
    q50: Floats = field(default_factory=lambda: NO_FLOATS)
    q90: Floats = field(default_factory=lambda: NO_FLOATS)
    probability: Floats = field(default_factory=lambda: NO_FLOATS)
    age: Ints = field(default_factory=lambda: NO_INTS)  # bars
    model: Codes = field(default_factory=lambda: NO_CODES)  # its number; 0: none
    is_calibrated: Bools = field(default_factory=lambda: NO_BOOLS)
    absence: Codes = field(default_factory=lambda: NO_CODES)  # Absence
    alarms: tuple[Alarm, ...] = ()
    outcomes: Outcomes = NO_OUTCOMES
    models: Names = field(default_factory=lambda: NO_NAMES)  # ids by number, less one: of all so far


@quick
@dataclass(frozen=True, eq=False, slots=True)
class SliceFrame:
    """Whole slices of all shards.

    Columns hold the shards' rows one shard after the other; `order` puts them in order of
    `(ts, symbol name)`, so that what nobody looks at need not be moved.
    """

    slices: Slices
    starts: Longs  # slice i has the rows order[starts[i] : starts[i + 1]]
    order: Ints
    names: Names  # by symbol id
    rank: Ints  # by symbol id: the name's place in alphabetical order
    refused: Refused
    rows: int
    stopped: Longs  # rows by Reason, to explain where signals end
    symbol: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    half_spread: Floats  # USD, NaN without a quote; empty where the source has none
    volatility: Floats
    direction: Codes
    score: Floats
    confidence: Floats
    regime: Codes
    views: Ints
    reason: Codes
    actions: Actions = NO_ACTIONS
    quality: Longs = field(default_factory=lambda: NO_COUNTS)  # by symbol: bars missing, gaps, stale, jumps
    # of the forecast at the decision horizon, as in SignalFrame; empty where no model is configured
    q10: Floats = field(default_factory=lambda: NO_FLOATS)
    q50: Floats = field(default_factory=lambda: NO_FLOATS)
    q90: Floats = field(default_factory=lambda: NO_FLOATS)
    probability: Floats = field(default_factory=lambda: NO_FLOATS)
    age: Ints = field(default_factory=lambda: NO_INTS)
    model: Codes = field(default_factory=lambda: NO_CODES)
    is_calibrated: Bools = field(default_factory=lambda: NO_BOOLS)
    absent: Longs = field(default_factory=lambda: NO_LONGS)  # rows by Absence
    made: int = 0  # forecasts
    alarms: tuple[Alarm, ...] = ()
    outcomes: Outcomes = NO_OUTCOMES  # in order of `(ts, symbol name, horizon)`
    models: Names = field(default_factory=lambda: NO_NAMES)  # ids by number, less one; of those in `model`
