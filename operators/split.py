"""A table of bars -> one raw frame per shard; the only loop over rows between a file and a step."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from operators.kernel import kernel
from operators.scoring import WIDTH
from schemas.frames import SHARDS, Codes, Floats, Ints, Listing, Longs, RawFrame, Slices, Space
from schemas.universe import Universe

Memory: TypeAlias = Callable[[int], npt.NDArray[np.uint8]]  # so many bytes to write into


def of_its_own(size: int) -> npt.NDArray[np.uint8]:
    """Memory of this process."""
    return np.empty(size, np.uint8)


class Rows(Protocol):
    """Bars that are dealt out: each number is read when its turn comes, and once."""

    @property
    def ts(self) -> Longs:
        """As in Columns."""

    @property
    def symbol(self) -> Ints:
        """As in Columns."""

    @property
    def has_quotes(self) -> bool:
        """Whether there are bids and asks."""

    def read(self, name: str) -> Iterable[Floats]:
        """A number of all rows, in their order, in pieces; of several `Rows` the earlier first."""


class Columns(NamedTuple):
    """Bars as columns of equal length; without quotes `bid` and `ask` are empty."""

    ts: Longs  # end of the bar, UTC ns
    symbol: Ints  # id; negative: nobody asked for this row
    open: Floats  # USD per share
    high: Floats
    low: Floats
    close: Floats
    volume: Floats  # shares
    bid: Floats
    ask: Floats

    def rows(self, begin: int, end: int) -> "Columns":
        """The rows `begin <= i < end`, as views."""
        return Columns._make(column[begin:end] for column in self)

    @property
    def has_quotes(self) -> bool:
        """Whether there are bids and asks; none without rows."""
        return self.bid.size > 0

    def read(self, name: str) -> Iterable[Floats]:
        """A number, in one piece."""
        return (getattr(self, name),)


_NUMBERS = Columns._fields[2:]
NO_BARS = Columns._make(np.zeros(0, kind) for kind in ("i8", "i4", *["f8"] * len(_NUMBERS)))


class Places(NamedTuple):
    """Where each symbol belongs, by id."""

    shard: Codes
    slot: Ints
    rank: Ints  # the name's place in alphabetical order


def places(universe: Universe) -> Places:
    """The places of every symbol known so far."""
    rank = np.empty(len(universe), np.int32)
    rank[np.argsort(np.array(universe.names, dtype=np.bytes_))] = np.arange(len(universe), dtype=np.int32)
    return Places(universe.shards, universe.slots, rank)


def joined(parts: Sequence[Columns]) -> Columns:
    """One table of several, in the order given; at least one."""
    if len(parts) == 1:
        return parts[0]
    return Columns._make(np.concatenate(column) for column in zip(*parts, strict=True))


def split(
    parts: Sequence[Rows],
    where: Places,
    shards: Sequence[int],
    slices: Slices,
    listed: Mapping[int, tuple[Listing, ...]],
    memory: Memory = of_its_own,
) -> list[RawFrame]:
    """One frame per asked shard, in the order asked, empty ones too; rows by `(ts, symbol name)`.

    `parts` follow each other. Rows that agree in both keep their order. All parts have quotes or
    none has. The frames of one call are views of the same `memory`, in the order of the frames,
    and so is their space.
    """
    lane = np.full(SHARDS, -1, np.int8)
    lane[list(shards)] = np.arange(len(shards), dtype=np.int8)
    lanes = lane[where.shard]
    edges = np.zeros(len(shards) + 1, np.int64)
    last = np.full(2, -(2**63), np.int64)
    ordered = [count(part.ts, part.symbol, lanes, where.rank, edges, last) for part in parts]
    if not all(ordered):
        parts = [_in_order(parts, where.rank)]
    is_one = int(edges.max()) == sum(part.ts.size for part in parts)  # all of one shard, in the order that they keep
    np.cumsum(edges, out=edges)
    rows = int(edges[-1])
    out, slot, space = _room(rows, any(part.has_quotes for part in parts), memory)
    if is_one:
        _copy(parts, out)
    else:
        _deal(parts, lanes, edges[:-1].copy(), out)
    look_up(where.slot, out.symbol, slot)
    frames = []
    for i, shard in enumerate(shards):
        ts, symbol, *numbers = out.rows(int(edges[i]), int(edges[i + 1]))
        opened, high, low, close, volume, bid, ask = numbers
        own = slot[edges[i] : edges[i + 1]]
        frames.append(RawFrame(shard, slices, listed.get(shard, ()), ts, symbol, own, opened, high, low, close, volume,
                               bid, ask, space=Space(space, rows, int(edges[i])) if ts.size else None))  # fmt: skip
    return frames


def _in_order(parts: Sequence[Rows], rank: Ints) -> Columns:
    """All rows by `(ts, symbol name)`."""
    ts, symbol = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ts", "symbol"))
    order = np.lexsort((rank[symbol], ts))
    numbers = (np.concatenate([*_read(parts, name), np.zeros(0)]) for name in _NUMBERS)
    return Columns(ts[order], symbol[order], *(column[order] if column.size else column for column in numbers))


def _read(parts: Sequence[Rows], name: str) -> Iterator[Floats]:
    """A number of all rows; nothing where there is none."""
    for part in parts:
        if part.has_quotes or name not in ("bid", "ask"):
            yield from part.read(name)


def _copy(parts: Sequence[Rows], out: Columns) -> None:
    """One row after the other."""
    for name, to in out._asdict().items():
        pieces = [getattr(part, name) for part in parts] if name in ("ts", "symbol") else _read(parts, name)
        at = 0
        for piece in pieces:
            to[at : at + piece.size] = piece
            at += piece.size


def _deal(parts: Sequence[Rows], lanes: Codes, head: Longs, out: Columns) -> None:
    """Each row to the next free place of its lane, column by column: of what is read, little is there at once."""
    target = np.empty(sum(part.ts.size for part in parts), np.int64)
    at = 0
    for part in parts:
        own = target[at : at + part.ts.size]
        deal(part.symbol, lanes, head, own)
        scatter(part.ts, own, out.ts)
        scatter(part.symbol, own, out.symbol)
        at += own.size
    for name in _NUMBERS:
        at = 0
        for piece in _read(parts, name):
            scatter(piece, target[at : at + piece.size], getattr(out, name))
            at += piece.size


def row_bytes(quotes: bool) -> int:
    """Of memory, in a split's frames."""
    return 8 * (_wide(quotes) + 1) + WIDTH


def _wide(quotes: bool) -> int:
    """Columns of eight bytes; symbol and slot take one more together."""
    return 8 if quotes else 6


def _room(rows: int, quotes: bool, memory: Memory) -> tuple[Columns, Ints, Any]:
    """Columns and slots to be written, and space for what is made of them, in one piece: many cost the system more."""
    wide, whole = _wide(quotes), memory(rows * row_bytes(quotes))
    size = 8 * rows * (wide + 1)
    room = whole[:size].view(np.int64)
    narrow = room[:rows].view(np.int32)
    ts, *numbers = room[rows:].reshape(wide, rows)
    floats = [column.view(np.float64) for column in numbers]
    none = [np.zeros(0)] * (0 if quotes else 2)
    return Columns._make((ts, narrow[:rows], *floats, *none)), narrow[rows:], whole[size:]


@kernel
def count(ts: Longs, symbol: Ints, lanes: Codes, rank: Ints, edges: Longs, last: Longs) -> bool:
    """Add rows per lane, lane i into `edges[i + 1]`; whether the rows are in `(ts, name)` order so far.

    `last` holds time and rank of the row before, and is moved on.
    """
    ordered = True
    before, name = last[0], last[1]
    for i in range(ts.size):
        who = symbol[i]
        if who < 0 or lanes[who] < 0:
            continue
        edges[lanes[who] + 1] += 1
        if ts[i] < before or (ts[i] == before and rank[who] < name):
            ordered = False
        before, name = ts[i], np.int64(rank[who])
    last[0], last[1] = before, name
    return ordered


@kernel
def deal(symbol: Ints, lanes: Codes, head: Longs, target: Longs) -> None:
    """A counting sort: the new place of each row, -1 for none; `head` has each lane's next free place."""
    for i in range(symbol.size):
        who = symbol[i]
        target[i] = -1
        if who >= 0 and lanes[who] >= 0:
            target[i] = head[lanes[who]]
            head[lanes[who]] += 1


@kernel
def look_up(values: Ints, place: Ints, out: Ints) -> None:
    """The value in each place; numpy would make the places wider first."""
    for i in range(place.size):
        out[i] = values[place[i]]


@kernel
def scatter(column: Any, target: Longs, out: Any) -> None:
    """Put each value in its new place."""
    for i in range(target.size):
        if target[i] >= 0:
            out[target[i]] = column[i]
