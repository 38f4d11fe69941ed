"""EMA-cross alpha: after a crossing of two averages, expect the trend to hold for a while.

As LEAN's EmaCrossAlphaModel: the first `slow` bars only warm up; the first bar with fast over slow
counts as a crossing upward; equality clears the flag.
"""

from typing import Annotated, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from operators.indicators import ema, smooth
from operators.kernel import grown, kernel, table
from schemas.events import Direction
from schemas.frames import BarFrame, Floats, Ints, Table, ViewFrame


class Row(Protocol):
    """All that one symbol remembers."""

    seen: int  # bars
    fast: float  # USD per share
    slow: float
    over: bool  # was fast over slow?
    trend: int  # the Direction of the last crossing
    until: int  # the view holds while seen < until


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Periods and life of a view, in bars."""

    fast: Annotated[int, Meta(ge=1, le=10_000)] = 12
    slow: Annotated[int, Meta(ge=2, le=10_000)] = 26
    life: Annotated[int, Meta(ge=1, le=10_000)] = 12

    def __post_init__(self) -> None:
        if not self.fast < self.slow:
            raise ValueError(f"fast = {self.fast}, slow = {self.slow}: want fast < slow")


class State(NamedTuple):
    """One Row per slot."""

    version: int
    rows: Table


def start() -> State:
    """Nothing seen yet."""
    return State(1, table(Row, 0))


def step(params: Params, state: State, frame: BarFrame) -> tuple[State, ViewFrame]:
    """Take in bars, answer each with one vote; 0 until warm."""
    vote = np.empty(frame.at.size)
    if not vote.size:
        return state, ViewFrame(frame, vote)
    rows = grown(state.rows, frame.slots)
    advance(params.fast, params.slow, params.life, rows, frame.slot, frame.steady, vote)
    return State(state.version, rows), ViewFrame(frame, vote)


@kernel
def advance(fast: int, slow: int, life: int, rows: Table, slot: Ints, close: Floats, vote: Floats) -> None:
    """The loop over bars, in order."""
    for i in range(close.size):
        vote[i] = follow(rows[slot[i]], close[i], fast, slow, life)


@kernel
def follow(row: Row, close: float, fast: int, slow: int, life: int) -> float:
    """Fold one close into the averages; the vote."""
    row.seen += 1
    if row.seen > slow:
        row.fast, row.slow = smooth(row.fast, close, fast), smooth(row.slow, close, slow)
        cross(row, life)
    else:
        row.fast, row.slow = ema(row.fast, close, fast, row.seen), ema(row.slow, close, slow, row.seen)
    return row.trend * max(row.until - row.seen, 0) / life


@kernel
def cross(row: Row, life: int) -> None:
    """Begin a new view when the averages have changed sides; equality is neither side."""
    over = row.fast > row.slow
    if over != row.over and row.fast != row.slow:
        row.trend, row.until = Direction.LONG if over else Direction.SHORT, row.seen + life
    row.over = over
