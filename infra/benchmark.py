"""What the money would have done otherwise: the benchmark of a run, from its own bars or another curve."""

import hashlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Protocol, TypedDict

import numpy as np

from operators.hold import Holding
from schemas.frames import Floats, Longs
from schemas.universe import Universe

INDEXES = ("SPY", "QQQ")  # the first of these among a run's own symbols is its benchmark
POINTS = 600  # of the curve, beside the ends of the sessions


class Curve(NamedTuple):
    """What the money would have been worth; only ratios of values count."""

    ts: Longs  # UTC ns
    values: Floats


Points = Callable[[], Curve]


class Bars(Protocol):
    """What it reads of a run's bars."""

    universe: Universe
    fingerprint: str

    def instants(self, most: int) -> Longs:
        """Where the curve has its points, UTC ns."""

    def watch(self, fresh: Callable[[], Holding]) -> Callable[[], Holding]:
        """Ask afterwards for one of these that has seen the times, symbols and closes of all bars, in order of time."""


class About(TypedDict):
    """What a run's summary says of its benchmark."""

    name: str
    meaning: str  # a sentence's part, for the page
    source: str  # `bars`, or the file
    fingerprint: str


class Benchmark(NamedTuple):
    """A curve that is complete when the run is over."""

    about: About
    points: Points


def of_bars(bars: Bars) -> Benchmark:
    """Buy the index at its first close and hold it; without one, all symbols for equal money each."""
    index = next((name for name in INDEXES if name in bars.universe.names), None)
    if index:
        about = About(name=index, meaning=f"{index} of the run's own bars, bought at its first close and held",
                      source="bars", fingerprint=bars.fingerprint)  # fmt: skip
        return Benchmark(about, _held(bars, [bars.universe.ids[index]]))
    number = len(bars.universe)
    about = About(
        name=f"equal weight of {number:,} symbols" if number > 1 else bars.universe.names[0],
        meaning="every symbol of the run bought at its first close for the same amount, and held",
        source="bars", fingerprint=bars.fingerprint,
    )  # fmt: skip
    return Benchmark(about, _held(bars, list(range(number))))


def of_curve(name: str, source: str, ts: Longs, values: Floats, after: int, upto: int) -> Benchmark:
    """Another curve: what of it lies in the run, and the value before that."""
    first = max(int(np.searchsorted(ts, after, side="right")) - 1, 0)
    last = int(np.searchsorted(ts, upto, side="right"))
    ts, values = ts[first:last], values[first:last]
    digest = hashlib.sha256(ts.tobytes() + values.tobytes()).hexdigest()[:16]
    about = About(name=name, meaning=f"{source}, as it was on each date's close", source=source, fingerprint=digest)
    return Benchmark(about, lambda: Curve(ts, values))


def _held(bars: Bars, members: list[int]) -> Points:
    """The mean of last / first close over the members; one that has not come yet is still cash."""
    wanted = np.zeros(len(bars.universe), np.bool_)
    wanted[members] = True
    watched = bars.watch(lambda: Holding(bars.instants(POINTS), wanted))

    @cache
    def points() -> Curve:
        held = watched()
        values = held.values()
        begun = np.flatnonzero(values != 1.0)  # before anything was bought there is nothing to compare with
        start = max(int(begun[0]) - 1, 0) if begun.size else 0
        return Curve(held.instants[start:], values[start:])

    return points
