"""Room to work in, lent to the account's kernels for one call; what lies in it means nothing afterwards."""

from typing import NamedTuple, Protocol

import numpy as np

from operators.kernel import dtype_of
from schemas.frames import Floats, Ints, Longs, Table

TAIL = 20  # the worst returns are one part in so many


class BarRow(Protocol):
    """A bar that meets open orders; prices in ticks."""

    open: int
    high: int
    low: int
    close: int
    volume: float  # shares
    half_spread: float  # USD, NaN without a quote


class Returns(NamedTuple):
    """Of three names, or of two and their sum; closes of one, and its worst."""

    one: Floats
    other: Floats
    total: Floats
    closes: Floats  # one more
    worst: Floats
    places: Longs  # of its worst among all


class Stock(NamedTuple):
    """What all verdicts of a slice ask of the whole book; one look at each name is enough for them."""

    sectors: Longs  # ticks held and reserved, by the sector's number
    opened: Longs  # one number: lots of this session that may still become day trades


class Scratch(NamedTuple):
    """For the rows of one slice, and for the symbols."""

    bar_of: Ints  # by symbol: the row of its bar in this slice, -1 without one
    candidates: Longs  # rows of one slice, and room for one more
    urgency: Floats  # of each candidate: what they are judged in order of
    turns: Longs  # that order
    spare: Longs  # as many
    volatility: Floats  # of each candidate
    bars: Table  # of busy symbols, in their order
    returns: Returns
    stock: Stock


def scratch(symbols: int, widest: int, window: int, sectors: int) -> Scratch:
    """For frames of so many symbols, of which a slice has `widest` at most; returns of `window` slices."""
    one, other, total = np.empty((3, window))
    returns = Returns(one, other, total, np.empty(window + 1), np.empty(window // TAIL + 1), np.empty(window, np.int64))
    return Scratch(np.empty(symbols, np.int32), np.empty(widest + 1, np.int64), np.empty(widest),
                   np.empty(widest, np.int64), np.empty(widest, np.int64), np.empty(widest),
                   np.empty(symbols, dtype_of(BarRow)), returns,
                   Stock(np.empty(sectors, np.int64), np.empty(1, np.int64)))  # fmt: skip
