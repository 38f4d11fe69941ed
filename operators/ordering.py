"""Events in order of `(ts, symbol name)`: they come slice by slice, so only those of one slice change places."""

import numpy as np

from operators.kernel import kernel
from schemas.frames import Ints, Longs

FEW = 64  # rows of a slice that an insertion sort puts in order faster than a merge sort


def order_of(ts: Longs, symbol: Ints, rank: Ints) -> Longs | None:
    """The stable order by (ts, rank of the symbol); None where it is that already."""
    order = np.empty(ts.size, np.int64)
    moved = arrange(ts, symbol, rank, order)
    if moved < 0:
        return np.lexsort((rank[symbol], ts))
    return order if moved else None


@kernel
def arrange(ts: Longs, symbol: Ints, rank: Ints, order: Longs) -> int:
    """Fill in the order; returns 1 if any row changes its place, 0 if none, -1 where time runs backwards."""
    begin, moved = 0, 0
    for i in range(ts.size + 1):
        if i < ts.size:
            order[i] = i
            if i == 0 or ts[i] == ts[i - 1]:
                continue
            if ts[i] < ts[i - 1]:
                return -1
        if i - begin > 1 and not is_ranked(symbol[begin:i], rank):
            moved = 1
            if i - begin > FEW:
                order[begin:i] = begin + np.argsort(rank[symbol[begin:i]], kind="mergesort")
            else:
                insert(symbol, rank, order[begin:i])
        begin = i
    return moved


@kernel
def is_ranked(symbol: Ints, rank: Ints) -> bool:
    """Whether these are in order of their names."""
    falls = 0
    for i in range(1, symbol.size):
        falls += rank[symbol[i]] < rank[symbol[i - 1]]
    return falls == 0


@kernel
def insert(symbol: Ints, rank: Ints, order: Longs) -> None:
    """Put a few rows in order of their names, in place; those of one symbol stay as they were."""
    for k in range(1, order.size):
        row, place = order[k], k
        while place > 0 and rank[symbol[order[place - 1]]] > rank[symbol[row]]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = row
