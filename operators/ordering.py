"""Events in order of `(ts, symbol name)`: they come slice by slice, so only those of one slice change places."""

from typing import Any

import numpy as np

from operators.kernel import kernel
from schemas.frames import Ints, Longs

FEW = 32  # rows that an insertion sort puts in order faster than merging does


def order_of(ts: Longs, symbol: Ints, rank: Ints) -> Longs | None:
    """The stable order by (ts, rank of the symbol); None where it is that already."""
    order, spare, place = np.empty(ts.size, np.int64), np.empty(ts.size, np.int64), np.empty(ts.size, np.int32)
    moved = arrange(ts, symbol, rank, place, order, spare)
    if moved < 0:
        return np.lexsort((rank[symbol], ts))
    return order if moved else None


@kernel
def arrange(ts: Longs, symbol: Ints, rank: Ints, place: Ints, order: Longs, spare: Longs) -> int:
    """Fill in the order; returns 1 if any row changes its place, 0 if none, -1 where time runs backwards.

    `place` and `spare` are room to work in.
    """
    begin, falls, last, moved = 0, 0, 0, 0
    for i in range(ts.size):
        order[i], place[i] = i, rank[symbol[i]]
        if i == 0 or ts[i] == ts[i - 1]:
            if i > 0 and place[i] < place[i - 1]:
                falls, last = falls + 1, i
            continue
        if ts[i] < ts[i - 1]:
            return -1
        if falls > 0:
            settle(place, order, begin, i, falls, last, spare)
            moved = 1
        begin, falls = i, 0
    if falls > 0:
        settle(place, order, begin, ts.size, falls, last, spare)
        moved = 1
    return moved


@kernel
def settle(keys: Any, rows: Longs, begin: int, end: int, falls: int, last: int, spare: Longs) -> None:
    """Sort a part whose keys fall so often, the last time at `last`: with one fall it is two parts that are sorted."""
    if falls == 1:
        merge(keys, rows, begin, last, end, spare)
    else:
        sort(keys, rows[begin:end], spare)


@kernel
def sort(keys: Any, rows: Longs, spare: Longs) -> None:
    """Put rows in rising order of their keys, in place; equal ones keep their order. `spare` has room for as many."""
    for begin in range(0, rows.size, FEW):
        insert(keys, rows, begin, min(begin + FEW, rows.size))
    width = FEW
    while width < rows.size:
        for begin in range(0, rows.size - width, 2 * width):
            merge(keys, rows, begin, begin + width, min(begin + 2 * width, rows.size), spare)
        width *= 2


@kernel
def insert(keys: Any, rows: Longs, begin: int, end: int) -> None:
    """Sort a few rows by insertion."""
    for k in range(begin + 1, end):
        row, place = rows[k], k
        while place > begin and keys[rows[place - 1]] > keys[row]:
            rows[place] = rows[place - 1]
            place -= 1
        rows[place] = row


@kernel
def merge(keys: Any, rows: Longs, begin: int, middle: int, end: int, spare: Longs) -> None:
    """Two sorted parts become one; of equal rows those of the first part come first."""
    for k in range(begin, middle):
        spare[k - begin] = rows[k]
    left, right, place = 0, middle, begin
    while left < middle - begin:
        if right < end and keys[rows[right]] < keys[spare[left]]:
            rows[place] = rows[right]
            right += 1
        else:
            rows[place] = spare[left]
            left += 1
        place += 1
