"""A table of bars -> one raw frame per shard; the only loop over rows between a file and a step."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from operators.kernel import kernel
from schemas.frames import SHARDS, Codes, Floats, Ints, Listing, Longs, RawFrame, Slices
from schemas.universe import Universe


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
        return Columns(*(column[begin:end] for column in self))


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
    return parts[0] if len(parts) == 1 else Columns(*(np.concatenate(column) for column in zip(*parts)))


def split(
    table: Columns,
    where: Places,
    shards: Sequence[int],
    slices: Slices,
    listed: Mapping[int, tuple[Listing, ...]],
) -> list[RawFrame]:
    """One frame per asked shard, in the order asked, empty ones too; rows by `(ts, symbol name)`.

    Rows that agree in both keep the table's order. The frames of one call are views of the same
    arrays, none of which is the table's.
    """
    lane = np.full(SHARDS, -1, np.int8)
    lane[list(shards)] = np.arange(len(shards), dtype=np.int8)
    lanes = lane[where.shard]
    edges = np.zeros(len(shards) + 1, np.int64)
    if not count(table.ts, table.symbol, lanes, where.rank, edges):
        order = np.lexsort((where.rank[table.symbol], table.ts))
        table = Columns(*(column[order] if column.size else column for column in table))
    np.cumsum(edges, out=edges)
    source = np.empty(edges[-1], np.int64)
    deal(table.symbol, lanes, edges[:-1].copy(), source)
    rows = Columns(*(column.take(source) if column.size else column for column in table))
    slot = where.slot.take(rows.symbol)
    frames = []
    for i, shard in enumerate(shards):
        own = slice(edges[i], edges[i + 1])
        frames.append(
            RawFrame(
                shard, slices, listed.get(shard, ()),
                rows.ts[own], rows.symbol[own], slot[own],
                rows.open[own], rows.high[own], rows.low[own], rows.close[own], rows.volume[own],
                rows.bid[own], rows.ask[own],
            )
        )  # fmt: skip
    return frames


@kernel
def count(ts: Longs, symbol: Ints, lanes: Codes, rank: Ints, edges: Longs) -> bool:
    """Rows per lane, lane i into `edges[i + 1]`; are the rows in `(ts, name)` order already?"""
    ordered = True
    last_ts, last_rank = np.int64(-(2**63)), np.int32(-1)
    for i in range(ts.size):
        who = symbol[i]
        if who < 0 or lanes[who] < 0:
            continue
        edges[lanes[who] + 1] += 1
        if ts[i] < last_ts or (ts[i] == last_ts and rank[who] < last_rank):
            ordered = False
        last_ts, last_rank = ts[i], rank[who]
    return ordered


@kernel
def deal(symbol: Ints, lanes: Codes, head: Longs, source: Longs) -> None:
    """A counting sort: which row goes to each place; `head` holds the next free place of each lane."""
    for i in range(symbol.size):
        who = symbol[i]
        if who >= 0 and lanes[who] >= 0:
            source[head[lanes[who]]] = i
            head[lanes[who]] += 1
