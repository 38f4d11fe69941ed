"""Quality: vendor bars -> BarFrame. A bar is let in or refused with a reason; none is repaired."""

from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from operators.kernel import grown, kernel, table
from schemas.events import Reason
from schemas.frames import BarFrame, Codes, Floats, Ints, Longs, RawFrame, Refused, Table
from schemas.units import MAX_PRICE_USD

MAX_VOLUME = 1e15


class Row(Protocol):
    """The last bar of a symbol that was let in."""

    ts: int


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to set yet."""


class State(NamedTuple):
    """One Row per slot."""

    version: int
    rows: Table


def start() -> State:
    """No bar seen."""
    return State(1, table(Row, 0))


def step(params: Params, state: State, frame: RawFrame) -> tuple[State, BarFrame]:
    """Let good bars in, refuse the others; rows must come in order of time."""
    size = frame.ts.size
    slots = int(frame.slot.max()) + 1 if size else 0
    rows = grown(state.rows, slots)
    at = np.empty(size, np.int32)
    reason = np.empty(size, np.int8)
    refused = advance(rows, frame.slices.ts, frame.ts, frame.slot, frame.open, frame.high, frame.low,
                      frame.close, frame.volume, at, reason) if size else 0  # fmt: skip
    kept: slice | Longs = slice(None) if not refused else np.flatnonzero(reason == Reason.NONE)
    gone = np.flatnonzero(reason != Reason.NONE) if refused else np.zeros(0, np.int64)
    quoted = frame.bid.size > 0
    return State(state.version, rows), BarFrame(
        frame.shard, frame.slices, frame.listed,
        Refused(frame.ts[gone], frame.symbol[gone], reason[gone], frame.open[gone], frame.high[gone],
                frame.low[gone], frame.close[gone], frame.volume[gone]),
        slots, at[kept], frame.symbol[kept], frame.slot[kept], frame.open[kept], frame.high[kept],
        frame.low[kept], frame.close[kept], frame.volume[kept],
        frame.bid[kept] if quoted else frame.bid, frame.ask[kept] if quoted else frame.ask,
    )  # fmt: skip


@kernel
def advance(
    rows: Table,
    slices: Longs,
    ts: Longs,
    slot: Ints,
    open: Floats,  # noqa: A002  (the column's name)
    high: Floats,
    low: Floats,
    close: Floats,
    volume: Floats,
    at: Ints,
    reason: Codes,
) -> int:
    """Find each row's slice and judge it; returns how many are refused."""
    refused = 0
    k = 0
    for i in range(ts.size):
        while k < slices.size and slices[k] < ts[i]:
            k += 1
        at[i] = k
        row = rows[slot[i]]
        why = Reason.NONE
        if k == slices.size or slices[k] != ts[i]:
            why = Reason.OFF_SESSION
        elif ts[i] <= row.ts:
            why = repeated(ts[i], row.ts)
        else:
            why = flaw(open[i], high[i], low[i], close[i], volume[i])
        reason[i] = why
        if why == Reason.NONE:
            row.ts = ts[i]
        else:
            refused += 1
    return refused


@kernel
def repeated(ts: int, last: int) -> Reason:
    """A second bar of one slice, or one that comes too late."""
    if ts == last:
        return Reason.DUPLICATE
    return Reason.OUT_OF_ORDER


@kernel
def flaw(open: float, high: float, low: float, close: float, volume: float) -> Reason:  # noqa: A002
    """What is wrong with the numbers of a bar, or NONE."""
    if not (open == open and high == high and low == low and close == close and volume == volume):
        return Reason.NOT_A_NUMBER
    if low <= 0.0 or open <= 0.0 or close <= 0.0 or high > MAX_PRICE_USD:
        return Reason.BAD_PRICE
    if low > min(open, close) or high < max(open, close):
        return Reason.BAD_RANGE
    if volume < 0.0 or volume > MAX_VOLUME:
        return Reason.BAD_VOLUME
    return Reason.NONE
