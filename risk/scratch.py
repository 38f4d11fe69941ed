"""Room to work in, lent to the account's kernels for one call; what lies in it means nothing afterwards."""

from typing import NamedTuple

import numpy as np

from schemas.frames import Floats, Ints, Longs

TAIL = 20  # the worst returns are one part in so many


class Returns(NamedTuple):
    """Of three names, or of two and their sum; and the worst of one."""

    one: Floats
    other: Floats
    total: Floats
    worst: Floats


class Stock(NamedTuple):
    """What all verdicts of a slice ask of the whole book; one look at each name is enough for them."""

    sectors: Longs  # ticks held and reserved, by the sector's number
    opened: Longs  # one number: lots of this session that may still become day trades


class Scratch(NamedTuple):
    """For the rows of one frame, of one slice, and for the symbols."""

    bar_of: Ints  # by symbol: the row of its bar in this slice, -1 without one
    candidates: Longs  # rows of one slice, and room for one more
    spare: Longs  # as many
    urgency: Floats  # by row of a candidate: what they are judged in order of
    returns: Returns
    stock: Stock


def scratch(symbols: int, rows: int, widest: int, window: int, sectors: int) -> Scratch:
    """For frames of so many symbols and rows, of which a slice has `widest` at most; returns of `window` slices."""
    one, other, total = np.empty((3, window))
    returns = Returns(one, other, total, np.empty(window // TAIL + 1))
    return Scratch(np.empty(symbols, np.int32), np.empty(widest + 1, np.int64), np.empty(widest, np.int64),
                   np.empty(rows), returns, Stock(np.empty(sectors, np.int64), np.empty(1, np.int64)))  # fmt: skip
