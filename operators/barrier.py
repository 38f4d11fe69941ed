"""Barrier: the shards' frames -> whole slices in one order, closed by data, never by a clock.

Each frame promises a covered range; the barrier releases what all shards have covered. Its memory
is what the fastest shard is ahead of the slowest, which the sources bound.
"""

from typing import Any, NamedTuple

import numpy as np

from operators.drive import unflat
from operators.kernel import kernel
from schemas.events import Absence, Reason
from schemas.frames import (
    GAP,
    JUMPED,
    NO_ACTIONS,
    NO_COUNTS,
    NO_FLOATS,
    NO_OUTCOMES,
    SHARDS,
    STALE,
    Actions,
    Alarm,
    BarFrame,
    Codes,
    Floats,
    Ints,
    Longs,
    Names,
    Outcomes,
    Refused,
    SignalFrame,
    SliceFrame,
    Slices,
)
from schemas.universe import MAX_NAME

REASONS, ABSENCES = max(Reason) + 1, max(Absence) + 1
UNBEGUN = -(2**62)
MAX_SPREAD = 0.1  # of the close; a wider quote is a stub, and would be booked as a price


class GapError(RuntimeError):
    """A shard's frame does not begin where its last one ended: rows are missing or repeated."""


class State(NamedTuple):
    """How far each shard is, whose frames are waiting, and the names seen so far."""

    version: int
    covered: Longs  # by shard, UTC ns
    names: Names  # by symbol id
    rank: Ints  # by symbol id
    waiting: tuple[SignalFrame, ...]  # of one shard in order of time


def start(after: int = UNBEGUN) -> State:
    """The log begins after `after`, UTC ns; or with the first frame, then the others' must begin there too."""
    nothing = np.zeros(0, f"S{MAX_NAME}")
    return State(4, np.full(SHARDS, after, np.int64), nothing, np.zeros(0, np.int32), ())


def restore(first: State, snapshot: Any) -> State:
    """A state from its flattened form."""
    *plain, waiting = snapshot
    return unflat(first, (*plain, ()))._replace(waiting=tuple(_frame(parts) for parts in waiting))


def _frame(parts: tuple[Any, ...]) -> SignalFrame:
    own = dict(zip(BarFrame.__dataclass_fields__, parts[0], strict=True))
    whole = {"slices": Slices(*own["slices"]), "refused": Refused(*own["refused"]), "actions": Actions(*own["actions"])}
    bars = BarFrame(**own | whole)
    scored = dict(zip(SignalFrame.__dataclass_fields__, parts, strict=True))
    told = {"alarms": tuple(Alarm(*alarm) for alarm in scored["alarms"]), "outcomes": Outcomes(*scored["outcomes"])}
    return SignalFrame(**scored | {"bars": bars} | told)


def step(state: State, frame: SignalFrame) -> tuple[State, SliceFrame | None]:
    """Take in one shard's frame; answer with the slices that are now complete, if any.

    Raises GapError when a frame does not continue its shard.
    """
    after, upto = _least(state.covered), _least((state := _take(state, frame)).covered)
    return (state, None) if upto == after or after == UNBEGUN else _release(state, upto)


def _least(covered: Longs) -> int:
    """What all shards have covered; of so few numbers Python finds the least faster than numpy."""
    least: int = min(covered.tolist())
    return least


def step_singly(state: State, frame: SignalFrame) -> tuple[State, tuple[SliceFrame, ...] | None]:
    """The same, but a frame of its own for each slice: what is written into a log must not depend on arrival."""
    upto = (state := _take(state, frame)).covered.min()
    own = (one.bars.slices.ts for one in state.waiting if one.bars.shard == frame.bars.shard)
    answers = []
    for ts in np.concatenate([np.zeros(0, np.int64), *own]):
        if ts <= upto:
            state, answer = _release(state, int(ts))
            answers.append(answer)
    return state, tuple(answers) or None


def _take(state: State, frame: SignalFrame) -> State:
    bars = frame.bars
    covered = state.covered.copy()
    if covered[bars.shard] == UNBEGUN:
        covered[:] = bars.slices.after
    if bars.slices.after != covered[bars.shard]:
        raise GapError(
            f"shard {bars.shard}: frame begins after {bars.slices.after}, the one before ended at {covered[bars.shard]}"
        )
    covered[bars.shard] = bars.slices.upto
    names, rank = _admit(state, frame)
    return State(state.version, covered, names, rank, (*state.waiting, frame))


def _release(state: State, upto: int) -> tuple[State, SliceFrame]:
    """What all shards have covered; the rest keeps waiting."""
    ready, rest = [], []
    for one in state.waiting:
        head, tail = cut(one, upto)
        ready += [head] if head is not None else []
        rest += [tail] if tail is not None else []
    return state._replace(waiting=tuple(rest)), merge(ready, state.names, state.rank)


def _admit(state: State, frame: SignalFrame) -> tuple[Names, Ints]:
    listed = frame.bars.listed
    if not listed:
        return state.names, state.rank
    size = max(state.names.size, 1 + max(entry.symbol for entry in listed))
    names = np.zeros(size, f"S{MAX_NAME}")
    names[: state.names.size] = state.names
    for entry in listed:
        names[entry.symbol] = entry.name.encode()
    rank = np.empty(size, np.int32)
    rank[np.argsort(names, kind="stable")] = np.arange(size, dtype=np.int32)
    return names, rank


def cut(frame: SignalFrame, ts: int) -> tuple[SignalFrame | None, SignalFrame | None]:
    """A frame's parts up to and including `ts`, and after it; None where that promises nothing."""
    slices = frame.bars.slices
    if slices.upto <= ts:
        return frame, None
    if slices.after >= ts:
        return None, frame
    early, late = slices.cut(ts)
    row = int(np.searchsorted(frame.bars.at, early.size))
    gone = frame.bars.refused.ts <= ts
    return _select(frame, early, slice(None, row), 0, gone), _select(frame, late, slice(row, None), early.size, ~gone)


def _select(frame: SignalFrame, slices: Slices, rows: slice, first: int, gone: Any) -> SignalFrame:
    bars = frame.bars
    refused = Refused(*(getattr(bars.refused, name)[gone] for name in Refused.__dataclass_fields__))
    columns = {name: getattr(bars, name)[rows] for name in list(BarFrame.__dataclass_fields__)[6:-3]}
    listed = bars.listed if first == 0 else ()
    at = bars.at[rows] - np.int32(first)
    acted = _acted(bars.actions, first, first + slices.size)
    picked = BarFrame(bars.shard, slices, listed, refused, bars.slots, at, **columns, actions=acted)
    own = {name: getattr(frame, name)[rows] for name in list(SignalFrame.__dataclass_fields__)[1:-2]}
    alarms = tuple(alarm for alarm in frame.alarms if slices.after < alarm.ts <= slices.upto)
    due = (frame.outcomes.ts > slices.after) & (frame.outcomes.ts <= slices.upto)
    outcomes = Outcomes._make(column[due] for column in frame.outcomes)
    return SignalFrame(picked, **own, alarms=alarms, outcomes=outcomes)


def _acted(actions: Actions, first: int, last: int) -> Actions:
    """The actions of the slices `first <= at < last`, placed from `first` on."""
    if not actions.at.size:
        return actions
    own = (actions.at >= first) & (actions.at < last)
    at, *columns = (getattr(actions, name)[own] for name in Actions.__dataclass_fields__)
    return Actions(at - np.int32(first), *columns)


def merge(frames: list[SignalFrame], names: Names, rank: Ints) -> SliceFrame:
    """Rows of all shards, in order of `(ts, symbol name)`."""
    slices = _span(frames)
    some = [frame for frame in frames if frame.bars.at.size] or frames[:1]  # nothing is joined of empty ones
    place = _joined([_place(frame, slices) for frame in some])
    symbol = _joined([frame.bars.symbol for frame in some])
    reason = _joined([frame.reason for frame in some])
    starts, order = np.zeros(slices.size + 1, np.int64), np.empty(place.size, np.int32)
    stopped, by_rank = np.zeros(REASONS, np.int64), np.zeros(rank.size + 1, np.int64)
    spare, free = np.empty(place.size, np.int32), np.empty(slices.size, np.int64)
    arrange(place, symbol, rank, reason, starts, order, stopped, by_rank, spare, free)
    return SliceFrame(
        slices=slices, starts=starts, order=order, names=names, rank=rank,
        refused=_refused([frame.bars.refused for frame in frames], rank),
        rows=place.size, stopped=stopped, symbol=symbol,
        half_spread=_half_spread(some), reason=reason,
        actions=_actions(frames, slices, rank), quality=_quality(some, rank.size),
        **{name: _joined([getattr(frame.bars, name) for frame in some])
           for name in ("open", "high", "low", "close", "volume")},
        **{name: _joined([getattr(frame, name) for frame in some])
           for name in ("volatility", "direction", "score", "confidence", "regime", "views")},
        **_forecasts(frames, some, rank),
    )  # fmt: skip


def _forecasts(frames: list[SignalFrame], some: list[SignalFrame], rank: Ints) -> dict[str, Any]:
    """The forecasts' columns and counts; nothing where no model is configured."""
    told = [frame for frame in frames if frame.absence.size]
    if not told:
        return {}
    absent = np.bincount(_joined([frame.absence for frame in told]), minlength=ABSENCES).astype(np.int64)
    columns = {name: _joined([getattr(frame, name) for frame in some])
               for name in ("q10", "q50", "q90", "probability", "age", "model", "is_calibrated")}  # fmt: skip
    alarms = tuple(sorted(alarm for frame in frames for alarm in frame.alarms))
    return {**columns, "absent": absent, "made": int(np.count_nonzero(columns["age"] == 0)), "alarms": alarms,
            "outcomes": _outcomes([frame.outcomes for frame in told], rank)}  # fmt: skip


def _outcomes(parts: list[Outcomes], rank: Ints) -> Outcomes:
    """Of all shards, in order of `(ts, symbol name, horizon)`; a shard's own are in order of the last two."""
    whole = Outcomes._make(_joined(list(columns)) for columns in zip(*parts, strict=True))
    if not whole.ts.size:
        return NO_OUTCOMES
    order = np.lexsort((whole.horizon, rank[whole.symbol], whole.ts))
    return Outcomes._make(column[order] for column in whole)


def _span(frames: list[SignalFrame]) -> Slices:
    """The released range; all shards promise the same one, in pieces of their own."""
    pieces = sorted(
        (frame.bars.slices for frame in frames if frame.bars.shard == frames[0].bars.shard),
        key=lambda piece: piece.after,
    )
    if len(pieces) == 1:
        return pieces[0]
    columns = [np.concatenate([getattr(p, name) for p in pieces]) for name in list(Slices.__dataclass_fields__)[2:]]
    return Slices(pieces[0].after, pieces[-1].upto, *columns)


def _place(frame: SignalFrame, slices: Slices) -> Ints:
    """Where each row's slice stands in the released range."""
    offset = _offset(frame, slices)
    return frame.bars.at + offset if offset else frame.bars.at


def _offset(frame: SignalFrame, slices: Slices) -> np.int32:
    """Where the frame's first slice stands in the released range."""
    own = frame.bars.slices
    if own.size == 0 or own.after == slices.after:
        return np.int32(0)
    return np.int32(np.searchsorted(slices.ts, own.ts[0]))


def _actions(frames: list[SignalFrame], slices: Slices, rank: Ints) -> Actions:
    """All shards' actions, in order of `(at, symbol name)`."""
    acting = [frame for frame in frames if frame.bars.actions.at.size]
    if not acting:
        return NO_ACTIONS
    at = np.concatenate([frame.bars.actions.at + _offset(frame, slices) for frame in acting])
    rest = [np.concatenate([getattr(frame.bars.actions, name) for frame in acting])
            for name in list(Actions.__dataclass_fields__)[1:]]  # fmt: skip
    order = np.lexsort((rank[rest[0]], at))
    return Actions(at[order], *(column[order] for column in rest))


def _quality(frames: list[SignalFrame], symbols: int) -> Longs:
    """By symbol: bars missing, gaps, stale bars, jumps; empty when there are none."""
    marked = [frame.bars for frame in frames if frame.bars.marks.size]
    if not marked:
        return NO_COUNTS
    counts = np.zeros((symbols, 4), np.int64)
    marks, missing, symbol = (
        _joined([getattr(bars, name) for bars in marked]) for name in ("marks", "missing", "symbol")
    )
    return counts if add_marks(marks, missing, symbol, counts) else NO_COUNTS


@kernel
def add_marks(marks: Codes, missing: Ints, symbol: Ints, counts: Longs) -> bool:
    """Count what is said of bars; whether there is anything."""
    found = False
    for i in range(marks.size):
        if not marks[i] & (GAP | STALE | JUMPED):
            continue
        found = True
        own = counts[symbol[i]]
        own[0] += missing[i]
        own[1] += (marks[i] & GAP) != 0
        own[2] += (marks[i] & STALE) != 0
        own[3] += (marks[i] & JUMPED) != 0
    return found


def _joined(parts: list[Any]) -> Any:
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _half_spread(frames: list[SignalFrame]) -> Floats:
    """Half the quoted spread in USD, NaN without a usable quote; empty where no source has quotes."""
    if not any(frame.bars.bid.size for frame in frames):
        return NO_FLOATS
    bid, ask = (_joined([_quotes(frame.bars, name) for frame in frames]) for name in ("bid", "ask"))
    half: Floats = np.empty(bid.size)
    halve(bid, ask, _joined([frame.bars.close for frame in frames]), half)
    return half


def _quotes(bars: BarFrame, name: str) -> Floats:
    """A column of quotes, NaN where the frame has none."""
    column: Floats = getattr(bars, name)
    return column if column.size else np.full(bars.at.size, np.nan)


@kernel
def halve(bid: Floats, ask: Floats, close: Floats, half: Floats) -> None:
    """Half the spread of each usable quote."""
    for i in range(bid.size):
        usable = bid[i] > 0.0 and ask[i] >= bid[i] and ask[i] - bid[i] <= MAX_SPREAD * close[i]
        half[i] = (ask[i] - bid[i]) / 2.0 if usable else np.nan


def _refused(parts: list[Refused], rank: Ints) -> Refused:
    if not any(part.ts.size for part in parts):
        return parts[0]
    joined = [np.concatenate([getattr(p, name) for p in parts]) for name in Refused.__dataclass_fields__]
    order = np.lexsort((rank[joined[1]], joined[0]))
    return Refused(*(column[order] for column in joined))


@kernel
def arrange(
    at: Ints, symbol: Ints, rank: Ints, reason: Codes, starts: Longs, order: Ints, stopped: Longs,
    by_rank: Longs, sorted_by_rank: Ints, free: Longs,
) -> None:  # fmt: skip
    """Order rows by slice, then by the symbol's rank: two counting sorts, the second one stable. Counts reasons.

    What is counted begins with zeros; `sorted_by_rank` and `free` are room to work in, for each row and for each slice.
    """
    for i in range(at.size):
        stopped[reason[i]] += 1
        by_rank[rank[symbol[i]] + 1] += 1
        starts[at[i] + 1] += 1
    for k in range(rank.size):
        by_rank[k + 1] += by_rank[k]
    for k in range(starts.size - 1):
        starts[k + 1] += starts[k]
    for i in range(at.size):
        k = rank[symbol[i]]
        sorted_by_rank[by_rank[k]] = i
        by_rank[k] += 1
    for k in range(free.size):
        free[k] = starts[k]
    for j in range(at.size):
        i = sorted_by_rank[j]
        order[free[at[i]]] = i
        free[at[i]] += 1
