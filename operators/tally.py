"""What a table of bars holds: rows, first and last bar of each symbol, and the gaps between bars."""

import numpy as np

from operators.kernel import kernel
from schemas.frames import Ints, Longs
from schemas.units import NS_PER_MINUTE

LONG = 1441  # the gap class of everything above a day


class Tally:
    """Counts over tables that follow each other in time; symbols are numbered from 0 as they come."""

    def __init__(self) -> None:
        self.rows: Longs = np.zeros(0, np.int64)  # by symbol
        self.first: Longs = np.zeros(0, np.int64)  # UTC ns
        self.last: Longs = np.zeros(0, np.int64)
        self.gaps: Longs = np.zeros(LONG + 1, np.int64)  # by whole minutes between a symbol's bars
        self.previous = -(2**63)  # ts of the last row, UTC ns

    def add(self, ts: Longs, symbol: Ints, symbols: int) -> bool:
        """Take in a table; False, and no more to be trusted, when its time runs backwards."""
        more = symbols - self.rows.size
        if more > 0:
            self.rows, self.first, self.last = (
                np.concatenate([old, np.zeros(more, np.int64)]) for old in (self.rows, self.first, self.last)
            )
        if not ts.size:
            return True
        ordered = bool(tally(ts, symbol, self.previous, self.rows, self.first, self.last, self.gaps))
        self.previous = int(ts[-1])
        return ordered

    @property
    def gap(self) -> int:
        """The commonest whole minutes between two bars of a symbol, the shortest of equals; -1: none seen."""
        return int(np.argmax(self.gaps)) if self.gaps.any() else -1


@kernel
def tally(ts: Longs, symbol: Ints, previous: int, rows: Longs, first: Longs, last: Longs, gaps: Longs) -> bool:
    """The loop over rows; repeats of a symbol's bar are no gap."""
    for i in range(ts.size):
        if ts[i] < previous:
            return False
        previous = ts[i]
        who = symbol[i]
        if rows[who] == 0:
            first[who] = ts[i]
        elif ts[i] > last[who]:
            gaps[min((ts[i] - last[who]) // NS_PER_MINUTE, LONG)] += 1
        last[who] = ts[i]
        rows[who] += 1
    return True
