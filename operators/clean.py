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
FEW = 64


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


class Given(NamedTuple):
    """What the kernel reads of a frame, and its Params."""

    stale_bars: int
    max_jump: float
    before: int  # slices so far
    slices: Longs
    session: Ints
    ts: Longs
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats


class Told(NamedTuple):
    """What is said of each row; `scale` is empty where no symbol had a split."""

    at: Ints
    reason: Codes
    marks: Codes
    missing: Ints
    scale: Floats


class Room(NamedTuple):
    """What the kernel is lent for one frame."""

    slots: int  # one more than the highest of the frame's bars
    needed: int  # the same, its actions' among them
    is_scaled: bool
    shares: Floats  # of each action
    dividend: Floats
    told: Told


NONE_REFUSED = Refused(NO_LONGS, NO_INTS, NO_CODES, *(NO_FLOATS,) * 5)
BY_ROW = ("at", "symbol", "slot", "open", "high", "low", "close", "volume", "bid", "ask", "marks", "missing", "scale",
          "earnings_days", "average_volume")  # fmt: skip


def start() -> State:
    """No bar seen."""
    return State(2, table(Row, 0), 0, False)


def step(params: Params, state: State, frame: RawFrame) -> tuple[State, BarFrame]:
    """Let good bars in, refuse the others; rows must come in order of time."""
    if not frame.ts.size and not frame.actions.at.size:
        return State(state.version, state.rows, state.slices + frame.slices.size, state.is_scaled), _empty(frame)
    slices, actions, size = frame.slices, frame.actions, frame.ts.size
    room = prepare(state, frame, np.empty(size, np.int32), np.empty(size, np.int8), np.empty(size, np.int32))
    rows = grown(state.rows, room.needed)
    refused = advance(params.stale_bars, params.max_jump, rows, state.slices, slices.ts, slices.session, frame.ts,
                      frame.slot, frame.open, frame.high, frame.low, frame.close, frame.volume, actions.at, frame.acted,
                      room.shares, room.dividend, *room.told)  # fmt: skip
    after, bars = settle(state, frame, room, rows)
    return after, without(bars, frame.ts, room.told.reason) if refused else bars


def prepare(state: State, frame: RawFrame, at: Ints, marks: Codes, missing: Ints) -> Room:
    """What the kernel is lent for a frame that is not empty, beside columns for what is said of its rows."""
    size, actions = frame.ts.size, frame.actions
    slots = needed = _slots(frame.slot)
    is_scaled, shares, dividend = state.is_scaled, NO_FLOATS, NO_FLOATS
    if actions.at.size:
        needed = max(slots, _slots(frame.acted))
        is_scaled = is_scaled or bool((actions.new != actions.old).any())
        shares, dividend = actions.new / actions.old, actions.dividend / TICKS_PER_USD
    told = Told(at, np.empty(size, np.int8), marks, missing, np.empty(size) if is_scaled else NO_FLOATS)
    return Room(slots, needed, is_scaled, shares, dividend, told)


def _slots(slot: Ints) -> int:
    """One more than the highest one; of a few numbers Python finds it faster than numpy."""
    if slot.size < FEW:
        return max(slot.tolist(), default=-1) + 1
    return int(slot.max()) + 1


def settle(state: State, frame: RawFrame, room: Room, rows: Table) -> tuple[State, BarFrame]:
    """The state after a frame, and all of its bars, as the kernel has marked them."""
    told, slices = room.told, frame.slices
    bars = BarFrame(
        frame.shard, slices, frame.listed, NONE_REFUSED, room.slots, told.at, frame.symbol, frame.slot, frame.open,
        frame.high, frame.low, frame.close, frame.volume, frame.bid, frame.ask, told.marks, told.missing, told.scale,
        frame.earnings_days, frame.average_volume, frame.market, frame.actions, frame.models,
    )  # fmt: skip
    return State(state.version, rows, state.slices + slices.size, room.is_scaled), bars


def _empty(frame: RawFrame) -> BarFrame:
    """Of a range without bars: the range alone."""
    return BarFrame(
        frame.shard, frame.slices, frame.listed, NONE_REFUSED, 0, NO_INTS, frame.symbol, frame.slot, frame.open,
        frame.high, frame.low, frame.close, frame.volume, frame.bid, frame.ask, NO_CODES, NO_INTS, NO_FLOATS,
        frame.earnings_days, frame.average_volume, frame.market, frame.actions, frame.models,
    )  # fmt: skip


def without(bars: BarFrame, ts: Longs, reason: Codes) -> BarFrame:
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
    actions, told = Acts(acted_at, acted, shares, dividend), Told(at, reason, marks, missing, scale)
    given = Given(stale_bars, max_jump, before, slices, session, ts, open, high, low, close, volume)
    for i in range(ts.size):
        k = reach(slices, k, ts[i])
        if first < acted_at.size and acted_at[first] <= k:
            first = act(rows, actions, first, k)
        if not admit(given, rows[slot[i]], i, k, told):
            refused += 1
    act(rows, actions, first, slices.size)
    return refused


@kernel
def reach(slices: Longs, k: int, ts: int) -> int:
    """The first slice from the `k`th on that ends at an instant or after it."""
    while k < slices.size and slices[k] < ts:
        k += 1
    return k


@kernel
def admit(given: Given, row: Row, i: int, k: int, told: Told) -> bool:
    """Judge row `i`, which is of slice `k` or of none; mark it and remember it if it is let in."""
    ts, opened, high, low = given.ts[i], given.open[i], given.high[i], given.low[i]
    close, volume, place = given.close[i], given.volume[i], given.before + k
    why = Reason.NONE
    if k == given.slices.size or given.slices[k] != ts:
        why = Reason.OFF_SESSION
    elif ts <= row.ts:
        why = repeated(ts, row.ts)
    else:
        why = flaw(opened, high, low, close, volume)
    marks, missing = 0, 0
    told.at[i], told.reason[i] = k, why
    if why == Reason.NONE:
        session, steady, scale = given.session[k], row.steady, own_scale(row)
        if steady > 0.0:
            if row.session != session:
                marks = OVERNIGHT
            elif place > row.place + 1:
                marks, missing = GAP, place - row.place - 1
            if jumps(steady, opened * scale, close * scale, given.max_jump):
                marks |= JUMPED
        if 0 < given.stale_bars <= keep(row, opened, high, low, close, volume):
            marks |= STALE
        row.ts, row.place, row.session, row.steady, row.scale = ts, place, session, close * scale, scale
        if told.scale.size > 0:
            told.scale[i] = scale
    told.marks[i], told.missing[i] = marks, missing
    return bool(why == Reason.NONE)


@kernel
def own_scale(row: Row) -> float:
    """A symbol's scale."""
    return 1.0 if row.scale == 0.0 else row.scale


@kernel
def act(rows: Table, actions: Acts, first: int, k: int) -> int:
    """Let the actions hold that begin by slice `k`; returns the first that does not."""
    while first < actions.at.size and actions.at[first] <= k:
        row = rows[actions.slot[first]]
        row.scale = own_scale(row) * actions.shares[first]
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
    if 0.0 < low <= open <= high <= MAX_PRICE_USD and low <= close <= high and 0.0 <= volume <= MAX_VOLUME:
        return Reason.NONE  # nearly all; no number that is none compares
    if not (open == open and high == high and low == low and close == close and volume == volume):
        return Reason.NOT_A_NUMBER
    if low <= 0.0 or open <= 0.0 or close <= 0.0 or high > MAX_PRICE_USD:
        return Reason.BAD_PRICE
    if low > min(open, close) or high < max(open, close):
        return Reason.BAD_RANGE
    return Reason.BAD_VOLUME


@kernel
def jumps(before: float, open: float, close: float, bound: float) -> bool:  # noqa: A002
    """Whether a bar is far from the last close, known splits and dividends aside."""
    room = bound * before
    return bound > 0.0 and max(abs(close - before), abs(open - before)) > room


@kernel
def keep(row: Row, open: float, high: float, low: float, close: float, volume: float) -> int:  # noqa: A002
    """Remember a bar; how often it has come, one after the other."""
    if volume == row.volume and close == row.close and open == row.open and high == row.high and low == row.low:
        row.alike += 1
    else:
        row.alike = 1
        row.open, row.high, row.low, row.close, row.volume = open, high, low, close, volume
    return row.alike
