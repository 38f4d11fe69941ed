"""Reference data beside bars: of each value only what was known by then."""

from typing import Any, NamedTuple

import numpy as np

from operators.clean import flaw
from operators.kernel import kernel
from schemas.events import Reason
from schemas.frames import UNKNOWN_DAYS, Floats, Ints, Longs

NEVER = 2**31 - 1  # days to the next report of a symbol that reports nothing, as funds do


class Known(NamedTuple):
    """Values by symbol, each with the instant from which it is known; there is no way to read one earlier."""

    first: Longs  # by symbol id: where its rows begin; one more for the end
    since: Longs  # UTC ns, rising within a symbol
    values: tuple[Any, ...]  # columns, one value a row

    def at(self, symbol: Ints, ts: Longs) -> Longs:
        """The row of the latest value known at each instant; -1 for none."""
        rows = np.empty(symbol.size, np.int64)
        latest(self.first, self.since, symbol, ts, rows)
        return rows


def known(symbols: int, symbol: Ints, since: Longs, *values: Any) -> Known:
    """Rows in any order; of two of one symbol and instant the later one counts."""
    order = np.lexsort((since, symbol))
    first = np.searchsorted(symbol[order], np.arange(symbols + 1)).astype(np.int64)
    return Known(first, since[order], tuple(column[order] for column in values))


@kernel
def latest(first: Longs, since: Longs, symbol: Ints, ts: Longs, out: Longs) -> None:
    """Binary search in the rows of each symbol."""
    for i in range(symbol.size):
        low, high = first[symbol[i]], first[symbol[i] + 1]
        begin = low
        while low < high:
            middle = (low + high) // 2
            if since[middle] <= ts[i]:
                low = middle + 1
            else:
                high = middle
        out[i] = low - 1 if low > begin else -1


@kernel
def days_to_report(
    first: Longs, since: Longs, date: Longs, symbol: Ints, ts: Longs, session: Ints, stale_days: int, out: Ints
) -> None:
    """Days to the nearest report date known, past or coming; unknown if the last one is too long ago."""
    for i in range(symbol.size):
        nearest, last = NEVER, -NEVER
        for j in range(first[symbol[i]], first[symbol[i] + 1]):
            if since[j] > ts[i]:
                break
            last = max(last, date[j])
            if date[j] != NEVER:
                nearest = min(nearest, abs(date[j] - session[i]))
        out[i] = nearest if session[i] - last <= stale_days else UNKNOWN_DAYS


@kernel
def closes_by_slice(
    slices: Longs, ts: Longs, open: Floats, high: Floats, low: Floats, close: Floats, volume: Floats,  # noqa: A002
    out: Floats,
) -> None:  # fmt: skip
    """One symbol's first good close of each slice; the others are left alone."""
    k, last = 0, -(2**63)
    for i in range(ts.size):
        while k < slices.size and slices[k] < ts[i]:
            k += 1
        is_good = flaw(open[i], high[i], low[i], close[i], volume[i]) == Reason.NONE
        if is_good and ts[i] > last and k < slices.size and slices[k] == ts[i]:
            out[k], last = close[i], ts[i]
