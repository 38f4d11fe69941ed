"""Barrier: the shards' frames -> whole slices in one order, closed by data, never by a clock.

Each frame promises a covered range; the barrier releases what all shards have covered. Its memory
is what the fastest shard is ahead of the slowest, which the sources bound.
"""

from typing import Any, NamedTuple

import numpy as np

from operators.drive import unflat
from operators.merging import merge
from schemas.frames import (
    NO_NAMES,
    SHARDS,
    Actions,
    Alarm,
    BarFrame,
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

UNBEGUN = -(2**62)


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
    return State(5, np.full(SHARDS, after, np.int64), nothing, np.zeros(0, np.int32), ())


def restore(first: State, snapshot: Any) -> State:
    """A state from its flattened form; in version 4 frames did not name their models."""
    *plain, waiting = snapshot
    if plain[0] == 4:
        plain[0], waiting = 5, tuple((*parts, NO_NAMES) for parts in waiting)
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
    ready, rest = list[SignalFrame](), list[SignalFrame]()
    for one in state.waiting:
        head, tail = cut(one, upto)
        ready += [head] if head is not None else []
        rest += [tail] if tail is not None else []
    ready.sort(key=lambda one: one.bars.shard)  # as they lie side by side, in whatever order they came
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
    own = {name: getattr(frame, name)[rows] for name in list(SignalFrame.__dataclass_fields__)[1:-3]}
    alarms = tuple(alarm for alarm in frame.alarms if slices.after < alarm.ts <= slices.upto)
    due = (frame.outcomes.ts > slices.after) & (frame.outcomes.ts <= slices.upto)
    outcomes = Outcomes._make(column[due] for column in frame.outcomes)
    return SignalFrame(picked, **own, alarms=alarms, outcomes=outcomes, models=frame.models)


def _acted(actions: Actions, first: int, last: int) -> Actions:
    """The actions of the slices `first <= at < last`, placed from `first` on."""
    if not actions.at.size:
        return actions
    own = (actions.at >= first) & (actions.at < last)
    at, *columns = (getattr(actions, name)[own] for name in Actions.__dataclass_fields__)
    return Actions(at - np.int32(first), *columns)
