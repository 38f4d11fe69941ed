"""MACD alpha, in two named forms.

`signal` is LEAN's MacdAlphaModel: the signal line above 1 % of the price is an upward view, below
-1 % a downward one, anything else none; a view begins when that changes. Below daily bars it never
fires, so `histogram` is the default there: the histogram (MACD less its signal line) crossing zero.
"""

from typing import Annotated, Literal, NamedTuple, Protocol

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
    signal: float
    histogram: float
    trend: int  # the Direction of the last view
    until: int  # the view holds while seen < until


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Periods and life of a view in bars; `bounce` is a fraction of the price."""

    fast: Annotated[int, Meta(ge=1, le=10_000)] = 12
    slow: Annotated[int, Meta(ge=2, le=10_000)] = 26
    signal: Annotated[int, Meta(ge=1, le=10_000)] = 9
    life: Annotated[int, Meta(ge=1, le=10_000)] = 12
    form: Literal["auto", "histogram", "signal"] = "auto"  # auto: signal for daily bars
    bounce: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.01

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
    """Take in bars, answer each with one vote; 0 until warm (`slow` + `signal` bars)."""
    vote = np.empty(frame.at.size)
    if not vote.size:
        return state, ViewFrame(frame, vote)
    rows = grown(state.rows, frame.slots)
    advance(params.fast, params.slow, params.signal, params.life, params.form == "signal",
            params.bounce, rows, frame.slot, frame.steady, vote)  # fmt: skip
    return State(state.version, rows), ViewFrame(frame, vote)


@kernel
def advance(
    fast: int, slow: int, signal: int, life: int, by_signal: bool, bounce: float,
    rows: Table, slot: Ints, close: Floats, vote: Floats,
) -> None:  # fmt: skip
    """The loop over bars, in order."""
    for i in range(close.size):
        vote[i] = follow(rows[slot[i]], close[i], fast, slow, signal, life, by_signal, bounce)


@kernel
def follow(
    row: Row, close: float, fast: int, slow: int, signal: int, life: int, by_signal: bool, bounce: float
) -> float:  # fmt: skip
    """Fold one close into the averages; the vote."""
    before = row.histogram
    row.seen += 1
    if row.seen < slow + signal:
        warm(row, close, fast, slow, signal)
    else:
        average(row, close, fast, slow, signal)
        if by_signal:
            bounced(row, row.signal / close, bounce, life)
        else:
            crossed(row, before, life)
    return row.trend * max(row.until - row.seen, 0) / life


@kernel
def warm(row: Row, close: float, fast: int, slow: int, signal: int) -> None:
    """Fold one close into averages that are not all seeded; the signal line begins with the first MACD."""
    row.fast = ema(row.fast, close, fast, row.seen)
    row.slow = ema(row.slow, close, slow, row.seen)
    if row.seen >= slow:
        row.signal = ema(row.signal, row.fast - row.slow, signal, row.seen - slow + 1)
        row.histogram = row.fast - row.slow - row.signal


@kernel
def average(row: Row, close: float, fast: int, slow: int, signal: int) -> None:
    """Fold one close into averages that are seeded."""
    row.fast, row.slow = smooth(row.fast, close, fast), smooth(row.slow, close, slow)
    row.signal = smooth(row.signal, row.fast - row.slow, signal)
    row.histogram = row.fast - row.slow - row.signal


@kernel
def crossed(row: Row, before: float, life: int) -> None:
    """A view begins when the histogram leaves zero or crosses it."""
    if before * row.histogram > 0.0:
        return  # nearly always
    if before <= 0.0 < row.histogram:
        row.trend, row.until = Direction.LONG, row.seen + life
    if before >= 0.0 > row.histogram:
        row.trend, row.until = Direction.SHORT, row.seen + life


@kernel
def bounced(row: Row, share: float, bounce: float, life: int) -> None:
    """A view begins when the signal line leaves the band, and ends when it comes back."""
    trend = 0
    if share > bounce:
        trend = 1
    if share < -bounce:
        trend = -1
    if trend == row.trend:
        return
    row.trend, row.until = trend, row.seen + life  # without a trend the view is 0 all its life
