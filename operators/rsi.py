"""RSI alpha: an oversold price will rise, an overbought one fall.

As LEAN's RsiAlphaModel: a view begins when the index (Wilder's form) enters LOW or HIGH; a state is
left only beyond a margin of 5. One named deviation: without any movement the index is 50, not 100.
"""

from typing import Annotated, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from operators.indicators import strength_index, wilder
from operators.kernel import grown, kernel, table
from schemas.events import Direction
from schemas.frames import BarFrame, Floats, Ints, Table, ViewFrame

OVERSOLD, OVERBOUGHT, MARGIN = 30.0, 70.0, 5.0


class Row(Protocol):
    """All that one symbol remembers."""

    seen: int  # bars
    close: float  # USD per share
    gain: float
    loss: float
    zone: int  # -1 LOW, 0 MIDDLE, 1 HIGH
    trend: int  # the Direction of the last view
    until: int  # the view holds while seen < until


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Period and life of a view, in bars."""

    period: Annotated[int, Meta(ge=2, le=10_000)] = 14
    life: Annotated[int, Meta(ge=1, le=10_000)] = 14


class State(NamedTuple):
    """One Row per slot."""

    version: int
    rows: Table


def start() -> State:
    """Nothing seen yet."""
    return State(1, table(Row, 0))


def step(params: Params, state: State, frame: BarFrame) -> tuple[State, ViewFrame]:
    """Take in bars, answer each with one vote; 0 until warm (`period` + 1 bars)."""
    vote = np.empty(frame.at.size)
    if not vote.size:
        return state, ViewFrame(frame, vote)
    rows = grown(state.rows, frame.slots)
    advance(params.period, params.life, rows, frame.slot, frame.steady, vote)
    return State(state.version, rows), ViewFrame(frame, vote)


@kernel
def advance(period: int, life: int, rows: Table, slot: Ints, close: Floats, vote: Floats) -> None:
    """The loop over bars, in order."""
    for i in range(close.size):
        vote[i] = follow(rows[slot[i]], close[i], period, life)


@kernel
def follow(row: Row, close: float, period: int, life: int) -> float:
    """Fold one close into the mean gain and loss; the vote."""
    row.seen += 1
    if row.seen > 1:
        average(row, close - row.close, period)
    row.close = close
    if row.seen > period and not stays(row.zone, row.gain, row.loss):
        move(row, strength_index(row.gain, row.loss), life)
    return row.trend * max(row.until - row.seen, 0) / life


@kernel
def stays(zone: int, gain: float, loss: float) -> bool:
    """Whether the index surely keeps its zone, told without dividing; where it is near a bound, `move` knows."""
    least = OVERSOLD if zone == 0 else OVERBOUGHT - MARGIN if zone == 1 else -1.0
    most = OVERBOUGHT if zone == 0 else OVERSOLD + MARGIN if zone == -1 else 101.0
    total, part = gain + loss, 100.0 * gain
    near = 1e-7 * total + 1e-200
    return (part - least * total > near) & (most * total - part > near)


@kernel
def average(row: Row, change: float, period: int) -> None:
    """Fold one change into the mean gain and the mean loss."""
    row.gain = wilder(row.gain, max(change, 0.0), period, row.seen - 1)
    row.loss = wilder(row.loss, max(-change, 0.0), period, row.seen - 1)


@kernel
def move(row: Row, index: float, life: int) -> None:
    """Change the zone; entering LOW or HIGH begins a view."""
    before = row.zone
    if index > OVERBOUGHT:
        row.zone = 1
    elif index < OVERSOLD:
        row.zone = -1
    elif (row.zone == -1 and index > OVERSOLD + MARGIN) or (row.zone == 1 and index < OVERBOUGHT - MARGIN):
        row.zone = 0
    if row.zone == before:
        return
    if row.zone == -1:
        row.trend, row.until = Direction.LONG, row.seen + life
    if row.zone == 1:
        row.trend, row.until = Direction.SHORT, row.seen + life
