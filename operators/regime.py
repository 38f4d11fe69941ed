"""Regime: bull, bear or sideways, from two averages and the price.

A change holds once it was seen in `hysteresis` bars running, so that a price on an edge does not flicker.
"""

from typing import Annotated, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from operators.indicators import mean, put
from operators.kernel import grown, kernel, table
from schemas.events import Regime
from schemas.frames import BarFrame, Codes, Floats, Ints, RegimeFrame, Table

RING = 64


class Row(Protocol):
    """The last closes of one symbol, and sums over two windows of them."""

    seen: int  # bars
    origin: float  # the first close: sums are of differences to it, so a frozen price has none
    fast: float  # sum over the last `fast` closes
    slow: float
    regime: int  # the one that holds
    other: int  # what was seen instead ...
    times: int  # ... in so many bars running
    closes: Annotated[Floats, RING]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Periods of the two simple means in bars, and how many bars confirm a change (1: none)."""

    fast: Annotated[int, Meta(ge=1, le=RING)] = 20
    slow: Annotated[int, Meta(ge=2, le=RING)] = 50
    hysteresis: Annotated[int, Meta(ge=1, le=1_000)] = 2

    def __post_init__(self) -> None:
        if not self.fast < self.slow:
            raise ValueError(f"fast = {self.fast}, slow = {self.slow}: want fast < slow")


class State(NamedTuple):
    """One Row per slot."""

    version: int
    rows: Table


def start() -> State:
    """Nothing seen yet."""
    return State(2, table(Row, 0))


def step(params: Params, state: State, frame: BarFrame) -> tuple[State, RegimeFrame]:
    """Take in bars, answer each with the regime; UNKNOWN for the first `slow` - 1 bars."""
    regime = np.empty(frame.at.size, np.int8)
    if not regime.size:
        return state, RegimeFrame(frame, regime)
    rows = grown(state.rows, frame.slots)
    advance(params.fast, params.slow, params.hysteresis, rows, frame.slot, frame.steady, regime)
    return State(state.version, rows), RegimeFrame(frame, regime)


@kernel
def advance(fast: int, slow: int, bars: int, rows: Table, slot: Ints, close: Floats, regime: Codes) -> None:
    """The loop over bars, in order."""
    for i in range(close.size):
        regime[i] = follow(rows[slot[i]], close[i], fast, slow, bars)


@kernel
def follow(row: Row, close: float, fast: int, slow: int, bars: int) -> int:
    """Move the windows on by one close; the regime that holds."""
    slide(row, close, fast, slow)
    if row.seen >= slow:
        confirm(row, seen_at(row, close, fast, slow), bars)
    return row.regime


@kernel
def seen_at(row: Row, close: float, fast: int, slow: int) -> Regime:
    """What price and means say; sums are divided only where the means are near each other, or near the price."""
    means = row.origin + row.fast * (1.0 / fast), row.origin + row.slow * (1.0 / slow)
    near = 1e-9 * (abs(row.origin) + abs(row.fast) + abs(row.slow))
    if abs(means[0] - means[1]) > near and abs(close - means[0]) > near:
        return classify(close, means[0], means[1])
    return classify(close, row.origin + row.fast / fast, row.origin + row.slow / slow)


@kernel
def slide(row: Row, close: float, fast: int, slow: int) -> None:
    """Move both windows on by one close.

    The sums are taken afresh every RING bars, so rounding errors never add up.
    """
    row.seen += 1
    if row.seen == 1:
        row.origin = close
    mask = RING - 1
    last = row.seen - 1
    row.fast += close - (row.closes[(last - fast) & mask] if row.seen > fast else row.origin)
    row.slow += close - (row.closes[(last - slow) & mask] if row.seen > slow else row.origin)
    put(row.closes, row.seen, close)
    if row.seen % RING == 0:
        row.fast = (mean(row.closes, row.seen, fast) - row.origin) * fast
        row.slow = (mean(row.closes, row.seen, slow) - row.origin) * slow


@kernel
def confirm(row: Row, seen: int, bars: int) -> None:
    """Go over to what was seen once it was seen often enough; the first time at once."""
    holds = seen == row.regime
    times = row.times + 1 if seen == row.other else 1
    changes = (times >= bars) | (row.regime == Regime.UNKNOWN)
    row.other = row.other if holds else seen
    row.times = 0 if holds | changes else times
    row.regime = seen if changes else row.regime


@kernel
def classify(close: float, fast: float, slow: float) -> Regime:
    """Bull: fast over slow and the price over fast; bear: the reverse of both."""
    if fast > slow and close > fast:
        return Regime.BULL
    if fast < slow and close < fast:
        return Regime.BEAR
    return Regime.SIDEWAYS
