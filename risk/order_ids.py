"""Ids of orders, `account|symbol|20240102T150000Z|leg`, many at a time."""

from collections.abc import Sequence

import numpy as np

from operators.kernel import kernel
from schemas.frames import Codes, Ints, Longs
from schemas.units import NS_PER_SECOND

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
STAMP = 15  # bytes of `20240102T150000`
DAY = 86_400  # seconds


def order_ids(heads: Sequence[str], tails: Sequence[str], symbol: Ints, sent: Longs, leg: Codes) -> tuple[Ints, Bytes]:
    """One after the other: where each begins (and the last one ends), and their bytes.

    `heads` by symbol, `tails` by leg: what stands before and after the second, UTC, in which it was sent.
    """
    head, head_size = _padded(heads)
    tail, tail_size = _padded(tails)
    starts = np.zeros(symbol.size + 1, np.int32)
    np.cumsum(head_size[symbol] + tail_size[leg] + STAMP, out=starts[1:])
    text = np.empty(int(starts[-1]) + head.shape[1] + STAMP + tail.shape[1], np.uint8)  # padding runs over
    # writable, so that there is one compiled form
    symbol, sent, leg = np.require(symbol, None, "W"), np.require(sent, None, "W"), np.require(leg, None, "W")
    write(head, head_size, tail, symbol, sent, leg, starts, np.empty(STAMP, np.uint8), text)
    return starts, text


def _padded(words: Sequence[str]) -> tuple[Bytes, Ints]:
    """Rows of equal width, and how much of each is meant."""
    coded = [word.encode() for word in words]
    rows = np.array(coded, np.bytes_)
    return rows.view(np.uint8).reshape(rows.size, rows.itemsize), np.array([len(word) for word in coded], np.int32)


@kernel
def write(
    head: Bytes, head_size: Ints, tail: Bytes, symbol: Ints, sent: Longs, leg: Codes, starts: Ints, stamp: Bytes,
    text: Bytes,
) -> None:  # fmt: skip
    """Head, second, tail; each in full width, the next one covers what was too much. `stamp` is room for a second."""
    known = -1
    for i in range(symbol.size):
        second = sent[i] // NS_PER_SECOND
        if second != known:
            write_stamp(stamp, second)
            known = second
        begin = starts[i]
        copy(text, begin, head[symbol[i]])
        copy(text, begin + head_size[symbol[i]], stamp)
        copy(text, begin + head_size[symbol[i]] + STAMP, tail[leg[i]])


@kernel
def copy(text: Bytes, begin: int, part: Bytes) -> None:
    """A loop, which becomes moves of many bytes."""
    for k in range(part.size):
        text[begin + k] = part[k]


@kernel
def write_stamp(stamp: Bytes, second: int) -> None:
    """`20240102T150000`; the date as in Hinnant's `civil_from_days`, whose years begin in March."""
    day = second // DAY + 719_468  # since 0000-03-01
    era, of_era = day // 146_097, day % 146_097
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    date = of_year - (153 * month + 2) // 5 + 1
    years = era * 400 + year + month // 10
    write_pairs(stamp, 0, years // 100, years % 100, (month + 2) % 12 + 1)
    write_pairs(stamp, 6, date, 0, 0)
    write_pairs(stamp, 9, second % DAY // 3_600, second // 60 % 60, second % 60)
    stamp[8] = ord("T")


@kernel
def write_pairs(stamp: Bytes, begin: int, first: int, second: int, third: int) -> None:
    """Three numbers of two digits."""
    for k, number in enumerate((first, second, third)):
        stamp[begin + 2 * k], stamp[begin + 2 * k + 1] = 48 + number // 10, 48 + number % 10
