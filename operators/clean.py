"""Quality: vendor bars -> BarFrame. A bar is let in or refused with a reason; none is repaired.

What is odd about a bar that was let in is marked and counted: bars missing before it, the same numbers again
and again, a jump. Here corporate actions meet the bars, too: `scale` is how many shares one share of the
log's start has become, so price × scale and volume / scale have no step at a split. Whatever remembers prices
reads them so, and needs to know nothing of splits.
"""

from dataclasses import replace
from typing import Annotated, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from operators.kernel import grown, kernel, table
from schemas.events import Reason
from schemas.frames import (
    GAP,
    JUMPED,
    NO_CODES,
    NO_FLOATS,
    NO_INTS,
    NO_LONGS,
    OVERNIGHT,
    STALE,
    BarFrame,
    Codes,
    Floats,
    Ints,
    Longs,
    RawFrame,
    Refused,
    Table,
)
from schemas.units import MAX_PRICE_USD, TICKS_PER_USD

MAX_VOLUME = 1e15


class Row(Protocol):
    """The last bar of a symbol that was let in."""

    ts: int
    place: int  # of its slice, counted from the start of the log
    session: int
    steady: float  # close × scale, less dividends since; 0: no bar yet
    scale: float  # new shares per share at the start of the log; 0 stands for 1
    open: float
    high: float
    low: float
    close: float
    volume: float
    alike: int  # bars with these numbers, one after the other


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is marked as odd."""

    stale_bars: Annotated[int, Meta(ge=0, le=1_000_000)] = 5  # equal ones in a row, marked from this on; 0: never
    # Open or close against the last close, a fraction; beyond it entries are held for one slice. 0: never
    max_jump: Annotated[float, Meta(ge=0.0, le=1_000.0)] = 0.2


class State(NamedTuple):
    """One Row per slot."""

    version: int
    rows: Table
    slices: int  # so far
    is_scaled: bool  # has any symbol here had a split?


class Acts(NamedTuple):
    """Corporate actions as the kernel reads them."""

    at: Ints  # place in the frame's slices
    slot: Ints
    shares: Floats  # new per old
    dividend: Floats  # USD per new share


NONE_REFUSED = Refused(NO_LONGS, NO_INTS, NO_CODES, *(NO_FLOATS,) * 5)
BY_ROW = ("at", "symbol", "slot", "open", "high", "low", "close", "volume", "bid", "ask", "marks", "missing", "scale",
          "earnings_days", "average_volume")  # fmt: skip


def start() -> State:
    """No bar seen."""
    return State(2, table(Row, 0), 0, False)


def step(params: Params, state: State, frame: RawFrame) -> tuple[State, BarFrame]:
    """Let good bars in, refuse the others; rows must come in order of time."""
    size, slices, actions = frame.ts.size, frame.slices, frame.actions
    acts = actions.at.size > 0
    if not size and not acts:
        return state._replace(slices=state.slices + slices.size), _empty(frame)
    slots = int(frame.slot.max()) + 1 if size else 0
    rows = grown(state.rows, max(slots, int(frame.acted.max()) + 1) if acts else slots)
    at, missing = np.empty(size, np.int32), np.empty(size, np.int32)
    reason, marks = np.empty(size, np.int8), np.empty(size, np.int8)
    is_scaled = state.is_scaled or (acts and bool((actions.new != actions.old).any()))
    scale = np.empty(size) if is_scaled else NO_FLOATS
    shares, dividend = NO_FLOATS, NO_FLOATS
    if acts:
        shares, dividend = actions.new / actions.old, actions.dividend / TICKS_PER_USD
    refused = advance(params.stale_bars, params.max_jump, rows, state.slices, slices.ts, slices.session, frame.ts,
                      frame.slot, frame.open, frame.high, frame.low, frame.close, frame.volume, actions.at, frame.acted,
                      shares, dividend, at, reason, marks, missing, scale)  # fmt: skip
    bars = BarFrame(
        frame.shard, slices, frame.listed, NONE_REFUSED, slots, at, frame.symbol, frame.slot, frame.open, frame.high,
        frame.low, frame.close, frame.volume, frame.bid, frame.ask, marks, missing, scale, frame.earnings_days,
        frame.average_volume, frame.market, actions, frame.models,
    )  # fmt: skip
    after = State(state.version, rows, state.slices + slices.size, is_scaled)
    return after, _without(bars, frame.ts, reason) if refused else bars


def _empty(frame: RawFrame) -> BarFrame:
    """Of a range without bars: the range alone."""
    return BarFrame(
        frame.shard, frame.slices, frame.listed, NONE_REFUSED, 0, NO_INTS, frame.symbol, frame.slot, frame.open,
        frame.high, frame.low, frame.close, frame.volume, frame.bid, frame.ask, NO_CODES, NO_INTS, NO_FLOATS,
        frame.earnings_days, frame.average_volume, frame.market, frame.actions, frame.models,
    )  # fmt: skip


def _without(bars: BarFrame, ts: Longs, reason: Codes) -> BarFrame:
    """The bars that have no reason; the others become the refused ones."""
    kept, gone = np.flatnonzero(reason == Reason.NONE), np.flatnonzero(reason != Reason.NONE)
    columns = {name: getattr(bars, name) for name in BY_ROW}
    return replace(
        bars,
        refused=Refused(ts[gone], bars.symbol[gone], reason[gone], bars.open[gone], bars.high[gone], bars.low[gone],
                        bars.close[gone], bars.volume[gone]),
        **{name: column[kept] for name, column in columns.items() if column.size},
    )  # fmt: skip


@kernel
def advance(
    stale_bars: int, max_jump: float, rows: Table, before: int, slices: Longs, session: Ints, ts: Longs, slot: Ints,
    open: Floats, high: Floats, low: Floats, close: Floats, volume: Floats,  # noqa: A002
    acted_at: Ints, acted: Ints, shares: Floats, dividend: Floats,
    at: Ints, reason: Codes, marks: Codes, missing: Ints, scale: Floats,
) -> int:  # fmt: skip
    """Find each row's slice, judge it and mark it; returns how many are refused. `before`: slices so far."""
    refused, k, first = 0, 0, 0
    actions = Acts(acted_at, acted, shares, dividend)
    for i in range(ts.size):
        while k < slices.size and slices[k] < ts[i]:
            k += 1
        if first < acted_at.size and acted_at[first] <= k:
            first = act(rows, actions, first, k)
        at[i], marks[i], missing[i] = k, 0, 0
        row = rows[slot[i]]
        why = Reason.NONE
        if k == slices.size or slices[k] != ts[i]:
            why = Reason.OFF_SESSION
        elif ts[i] <= row.ts:
            why = repeated(ts[i], row.ts)
        else:
            why = flaw(open[i], high[i], low[i], close[i], volume[i])
        reason[i] = why
        if why != Reason.NONE:
            refused += 1
            continue
        if row.scale == 0.0:
            row.scale = 1.0
        if row.steady > 0.0:
            if row.session != session[k]:
                marks[i] = OVERNIGHT
            elif before + k > row.place + 1:
                marks[i], missing[i] = GAP, before + k - row.place - 1
            if jumps(row, open[i], close[i], max_jump):
                marks[i] |= JUMPED
        keep(row, open[i], high[i], low[i], close[i], volume[i])
        if 0 < stale_bars <= row.alike:
            marks[i] |= STALE
        row.ts, row.place, row.session = ts[i], before + k, session[k]
        if scale.size > 0:
            scale[i] = row.scale
    act(rows, actions, first, slices.size)
    return refused


@kernel
def act(rows: Table, actions: Acts, first: int, k: int) -> int:
    """Let the actions hold that begin by slice `k`; returns the first that does not."""
    while first < actions.at.size and actions.at[first] <= k:
        row = rows[actions.slot[first]]
        row.scale = (1.0 if row.scale == 0.0 else row.scale) * actions.shares[first]
        row.steady = max(row.steady - actions.dividend[first] * row.scale, 0.0)
        first += 1
    return first


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


@kernel
def jumps(row: Row, open: float, close: float, bound: float) -> bool:  # noqa: A002
    """Whether a bar is far from the last one, known splits and dividends aside."""
    room = bound * row.steady
    return bound > 0.0 and (abs(close * row.scale - row.steady) > room or abs(open * row.scale - row.steady) > room)


@kernel
def keep(row: Row, open: float, high: float, low: float, close: float, volume: float) -> None:  # noqa: A002
    """Remember a bar; count how often it has come, one after the other."""
    if close == row.close and open == row.open and high == row.high and low == row.low and volume == row.volume:
        row.alike += 1
    else:
        row.alike = 1
        row.open, row.high, row.low, row.close, row.volume = open, high, low, close, volume
    row.steady = close * row.scale
