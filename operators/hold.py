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
        follow(ts, symbol, close, self._wanted, self._members, self.instants[self._at : end], self._first, self._last,
               ratios)  # fmt: skip
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
    first: Floats, last: Floats, ratios: Floats,
) -> None:  # fmt: skip
    """Fold bars into the first and the last close of each symbol; note the ratios at each instant that passes."""
    at = 0
    for i in range(ts.size):
        while at < instants.size and ts[i] > instants[at]:
            for k in range(members.size):
                one = members[k]
                if first[one] == first[one]:
                    ratios[at, k] = last[one] / first[one]
            at += 1
        one = symbol[i]
        if one < 0 or not wanted[one] or not 0.0 < close[i] < np.inf:
            continue
        if first[one] != first[one]:
            first[one] = close[i]
        last[one] = close[i]
