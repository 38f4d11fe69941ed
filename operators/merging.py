"""Merging: what all shards have said of the same slices -> whole slices, rows in order of `(ts, symbol name)`."""

import ctypes
from typing import Any

import numpy as np

from operators.kernel import kernel
from schemas.events import Absence, Reason
from schemas.frames import (
    GAP,
    JUMPED,
    NO_ACTIONS,
    NO_COUNTS,
    NO_FLOATS,
    NO_NAMES,
    NO_OUTCOMES,
    STALE,
    Actions,
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

REASONS, ABSENCES = max(Reason) + 1, max(Absence) + 1
MAX_SPREAD = 0.1  # of the close; a wider quote is a stub, and would be booked as a price
COUNTED = GAP | STALE | JUMPED
DENSE = 4  # places, one for each symbol in each slice, to a row: with more, counting is cheaper than laying out
COPIED = 4096  # bytes that are copied sooner than asked where they lie


def merge(frames: list[SignalFrame], names: Names, rank: Ints) -> SliceFrame:
    """Rows of all shards, in order of `(ts, symbol name)`."""
    slices = _span(frames)
    some = [frame for frame in frames if frame.bars.at.size] or frames[:1]  # nothing is joined of empty ones
    place = joined([_place(frame, slices) for frame in some])
    symbol = joined([frame.bars.symbol for frame in some])
    reason = joined([frame.reason for frame in some])
    starts, order = order_of(place, symbol, rank, slices.size)
    stopped = np.zeros((4, REASONS), np.int64)
    count(reason, stopped)
    return SliceFrame(
        slices=slices, starts=starts, order=order, names=names, rank=rank,
        refused=_refused([frame.bars.refused for frame in frames], rank),
        rows=place.size, stopped=stopped.sum(0), symbol=symbol,
        half_spread=_half_spread(some), reason=reason,
        actions=_actions(frames, slices, rank), quality=_quality(some, rank.size),
        **{name: joined([getattr(frame.bars, name) for frame in some])
           for name in ("open", "high", "low", "close", "volume")},
        **{name: joined([getattr(frame, name) for frame in some])
           for name in ("volatility", "direction", "score", "confidence", "regime", "views")},
        **_forecasts(frames, some, rank),
    )  # fmt: skip


def order_of(place: Ints, symbol: Ints, rank: Ints, slices: int) -> tuple[Longs, Ints]:
    """Where each slice begins, and the rows by slice, then by the symbol's rank."""
    starts, order = np.zeros(slices + 1, np.int64), np.empty(place.size + 1, np.int32)
    if slices * rank.size <= DENSE * place.size:
        grid = np.full(slices * rank.size, -1, np.int32)
        if lay(place, symbol, rank, grid):
            collect(grid, starts, order)
            return starts, order[:-1]
    by_rank, spare, free = np.zeros(rank.size + 1, np.int64), np.empty(place.size, np.int32), np.empty(slices, np.int64)
    arrange(place, symbol, rank, starts, order, by_rank, spare, free)
    return starts, order[:-1]


def _forecasts(frames: list[SignalFrame], some: list[SignalFrame], rank: Ints) -> dict[str, Any]:
    """The forecasts' columns and counts; nothing where no model is configured."""
    told = [frame for frame in frames if frame.absence.size]
    if not told:
        return {}
    absent = np.bincount(joined([frame.absence for frame in told]), minlength=ABSENCES).astype(np.int64)
    columns = {name: joined([getattr(frame, name) for frame in some])
               for name in ("q10", "q50", "q90", "probability", "age", "model", "is_calibrated")}  # fmt: skip
    alarms = tuple(sorted(alarm for frame in frames for alarm in frame.alarms))
    return {**columns, "absent": absent, "made": int(np.count_nonzero(columns["age"] == 0)), "alarms": alarms,
            "outcomes": _outcomes([frame.outcomes for frame in told], rank), "models": _models(some)}  # fmt: skip


def _models(frames: list[SignalFrame]) -> Names:
    """By number, the models whose forecasts stand in the rows; none where two shards mean different ones by it.

    Of these rows alone: what a slice says must not depend on what else came in the frames that brought it.
    """
    found: dict[int, bytes] = {}
    for frame in frames:
        for number in np.flatnonzero(np.bincount(frame.model)).tolist():
            if 0 < number <= frame.models.size:
                name = bytes(frame.models[number - 1])
                found[number] = name if found.get(number, name) == name else b""
    names = [found.get(number, b"") for number in range(1, max(found, default=0) + 1)]
    return np.array(names, np.bytes_) if any(names) else NO_NAMES


def _outcomes(parts: list[Outcomes], rank: Ints) -> Outcomes:
    """Of all shards, in order of `(ts, symbol name, horizon)`; a shard's own are in order of the last two."""
    whole = Outcomes._make(joined(list(columns)) for columns in zip(*parts, strict=True))
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
    marked = [frame.bars for frame in frames if np.bitwise_or.reduce(frame.bars.marks) & COUNTED]
    if not marked:
        return NO_COUNTS
    counts, rows = np.zeros((symbols, 4), np.int64), np.empty(max(bars.marks.size for bars in marked), np.int32)
    for bars in marked:
        add_marks(bars.marks, bars.missing, bars.symbol, rows, counts)
    return counts


@kernel
def add_marks(marks: Codes, missing: Ints, symbol: Ints, rows: Ints, counts: Longs) -> None:
    """Count what is said of bars; which rows are marked is found first, by stores that depend on no guess."""
    found = 0
    for i in range(marks.size):
        rows[found] = i
        found += (marks[i] & COUNTED) != 0
    for i in rows[:found]:
        own = counts[symbol[i]]
        own[0] += missing[i]
        own[1] += (marks[i] & GAP) != 0
        own[2] += (marks[i] & STALE) != 0
        own[3] += (marks[i] & JUMPED) != 0


def joined(parts: list[Any]) -> Any:
    """The parts one after the other; where they lie so already, as those of one split do, not copied."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    base = first.base
    if first.nbytes < COPIED or not isinstance(base, np.ndarray) or not base.flags.c_contiguous:
        return np.concatenate(parts)
    begin = end = address(first)
    for part in parts:
        if part.base is not base or address(part) != end:
            return np.concatenate(parts)
        end += part.nbytes
    return np.ndarray((end - begin) // first.itemsize, first.dtype, base, begin - address(base))


def address(array: Any) -> int:
    """Where an array's memory begins, -1 if it has gaps; numpy itself takes five times as long to tell."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # nobody may write there, it has gaps, or there is nothing
        return int(array.ctypes.data) if array.flags.c_contiguous else -1


def _half_spread(frames: list[SignalFrame]) -> Floats:
    """Half the quoted spread in USD, NaN without a usable quote; empty where no source has quotes."""
    if not any(frame.bars.bid.size for frame in frames):
        return NO_FLOATS
    bid, ask = (joined([_quotes(frame.bars, name) for frame in frames]) for name in ("bid", "ask"))
    half: Floats = np.empty(bid.size)
    halve(bid, ask, joined([frame.bars.close for frame in frames]), half)
    return half


def _quotes(bars: BarFrame, name: str) -> Floats:
    """A column of quotes, NaN where the frame has none."""
    column: Floats = getattr(bars, name)
    return column if column.size else np.full(bars.at.size, np.nan)


@kernel
def halve(bid: Floats, ask: Floats, close: Floats, half: Floats) -> None:
    """Half the spread of each usable quote."""
    for i in range(bid.size):  # `&` instead of `and`: no branch, so several rows at a time
        spread = ask[i] - bid[i]
        usable = (bid[i] > 0.0) & (ask[i] >= bid[i]) & (spread <= MAX_SPREAD * close[i])
        half[i] = spread / 2.0 if usable else np.nan


def _refused(parts: list[Refused], rank: Ints) -> Refused:
    if not any(part.ts.size for part in parts):
        return parts[0]
    columns = [joined([getattr(part, name) for part in parts]) for name in Refused.__dataclass_fields__]
    order = np.lexsort((rank[columns[1]], columns[0]))
    return Refused(*(column[order] for column in columns))


@kernel
def count(reason: Codes, stopped: Longs) -> None:
    """Add rows by reason; into four rows in turn, as equal ones would wait for each other."""
    for i in range(reason.size):
        stopped[i & 3, reason[i]] += 1


@kernel
def lay(at: Ints, symbol: Ints, rank: Ints, grid: Ints) -> bool:
    """Put each row in its slice's and its symbol's place, -1 before; False where two rows meet."""
    for i in range(at.size):
        place = at[i] * rank.size + rank[symbol[i]]
        if grid[place] >= 0:
            return False
        grid[place] = i
    return True


@kernel
def collect(grid: Ints, starts: Longs, order: Ints) -> None:
    """The rows in the order of their places; `order` has room for one more, which means nothing."""
    wide, k = grid.size // max(starts.size - 1, 1), 0
    for s in range(starts.size - 1):
        for i in range(s * wide, (s + 1) * wide):
            order[k] = grid[i]
            k += grid[i] >= 0
        starts[s + 1] = k


@kernel
def arrange(
    at: Ints, symbol: Ints, rank: Ints, starts: Longs, order: Ints, by_rank: Longs, sorted_by_rank: Ints, free: Longs
) -> None:
    """The same for few rows in many places: two counting sorts, the second one stable.

    What is counted begins with zeros; `sorted_by_rank` and `free` are room to work in, for each row and for each slice.
    """
    for i in range(at.size):
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
