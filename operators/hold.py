"""Buy and hold: what symbols bought at their first close are worth at some instants."""

import numpy as np

from operators.kernel import kernel
from schemas.frames import Bools, Floats, Ints, Longs


class Holding:
    """Takes in closes in order of time; symbols are places in `wanted`, negative ones are none.

    Instants, UTC ns, rise.
    """

    def __init__(self, instants: Longs, wanted: Bools):
        self.instants, self._wanted = instants, wanted
        self._members = np.flatnonzero(wanted)
        self._first, self._last = np.full((2, wanted.size), np.nan)
        self._at = 0  # instants that have passed
        self._values: Floats = np.ones(instants.size)

    def see(self, ts: Longs, symbol: Ints, close: Floats) -> None:
        """Some bars; an instant is over when a later bar comes."""
        if not ts.size:
            return
        end = int(np.searchsorted(self.instants, ts[-1], side="left"))
        passed = max(end - self._at, 0)
        ratios = np.ones((passed, self._members.size))
        seen = np.zeros(self._wanted.size, np.int64)
        follow(ts, symbol, close, self._wanted, self._members, self.instants[self._at : end], self._first, self._last,
               seen, ratios)  # fmt: skip
        self._values[self._at : self._at + passed] = ratios.mean(axis=1)
        self._at += passed

    def values(self) -> Floats:
        """The mean of last / first close over the members at each instant; one that has not come yet is cash."""
        ratio = (self._last / self._first)[self._members]
        self._values[self._at :] = np.where(np.isnan(ratio), 1.0, ratio).mean()
        return self._values


@kernel
def follow(
    ts: Longs, symbol: Ints, close: Floats, wanted: Bools, members: Longs, instants: Longs,
    first: Floats, last: Floats, seen: Longs, ratios: Floats,
) -> None:  # fmt: skip
    """Fold bars into the first and the last close of each symbol; note the ratios at each instant that passes.

    `seen` is room for a number by symbol.
    """
    begin = 0
    for at in range(instants.size + 1):
        end = ts.size
        if at < instants.size:
            end = begin + np.searchsorted(ts[begin:], instants[at], side="right")
        if are_bought(members, first):
            look_back(symbol, close, wanted, members.size, begin, end, last, seen)
        else:
            look_on(symbol, close, wanted, begin, end, first, last)
        if at < instants.size:
            for k in range(members.size):
                one = members[k]
                if first[one] == first[one]:
                    ratios[at, k] = last[one] / first[one]
        begin = end


@kernel
def are_bought(members: Longs, first: Floats) -> bool:
    """Whether all have had a first close."""
    missing = 0
    for k in range(members.size):
        missing += first[members[k]] != first[members[k]]
    return missing == 0


@kernel
def counts(symbol: int, close: float, wanted: Bools) -> bool:
    """Whether a bar is one of a member's, with a close."""
    return symbol >= 0 and wanted[symbol] and 0.0 < close < np.inf


@kernel
def look_on(
    symbol: Ints, close: Floats, wanted: Bools, begin: int, end: int, first: Floats, last: Floats
) -> None:  # fmt: skip
    """Bars `begin` to `end` in their order."""
    for i in range(begin, end):
        one = symbol[i]
        if counts(one, close[i], wanted):
            if first[one] != first[one]:
                first[one] = close[i]
            last[one] = close[i]


@kernel
def look_back(
    symbol: Ints, close: Floats, wanted: Bools, members: int, begin: int, end: int, last: Floats, seen: Longs
) -> None:  # fmt: skip
    """The same from their end, until every member's last close is found: far fewer than all, as a rule."""
    left, i = members, end - 1
    while left > 0 and i >= begin:
        one = symbol[i]
        if counts(one, close[i], wanted) and seen[one] != end:
            last[one], seen[one] = close[i], end
            left -= 1
        i -= 1
