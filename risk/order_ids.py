"""Ids of orders, `account|symbol|20240102T150000Z|leg`, many at a time."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from operators.kernel import kernel
from schemas.frames import Codes, Ints, Longs
from schemas.units import NS_PER_SECOND

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
STAMP = 15  # bytes of `20240102T150000`
_SECOND = STAMP + 1  # and a Z
DAY = 86_400  # seconds
_LENGTH = 4  # bytes in front of an id
_MOVE = 32  # bytes that are copied at once


class Forms(NamedTuple):
    """The ids of a run without their seconds, by symbol and leg, each behind its length as Parquet has strings."""

    legs: int
    rows: Bytes  # [symbols x legs, a multiple of _MOVE]
    size: Ints  # bytes of each row that are meant
    place: Ints  # where its second goes


def forms(heads: Sequence[str], tails: Sequence[str]) -> Forms:
    """Of what stands before the second, by symbol, and after it, by leg."""
    before, after = [head.encode() for head in heads], [tail.encode() for tail in tails]
    texts = [struct.pack("<I", len(b) + _SECOND + len(a)) + b + bytes(_SECOND) + a for b in before for a in after]
    width = -(-max(map(len, texts), default=1) // _MOVE) * _MOVE
    rows = np.array(texts, f"S{width}").view(np.uint8).reshape(-1, width)
    place = np.repeat(np.array([_LENGTH + len(b) for b in before], np.int32), len(after))
    return Forms(len(after), rows, np.array([len(text) for text in texts], np.int32), place)


def order_ids(forms: Forms, symbol: Ints, sent: Longs, leg: Codes) -> Bytes:
    """Ids one after the other, each behind its length in four bytes; `sent`: UTC ns, whose second they tell."""
    text = np.empty((symbol.size + 1) * forms.rows.shape[1], np.uint8)
    # writable, so that there is one compiled form
    symbol, sent, leg = np.require(symbol, None, "W"), np.require(sent, None, "W"), np.require(leg, None, "W")
    return text[: write(*forms, symbol, sent, leg, np.full(_SECOND, ord("Z"), np.uint8), text)]


@kernel
def write(
    legs: int, rows: Bytes, size: Ints, place: Ints, symbol: Ints, sent: Longs, leg: Codes, stamp: Bytes, text: Bytes
) -> int:
    """Each form in full width, the next one covers what was too much, and its second; where the last one ends.

    `stamp` is room for a second, which ends with its Z.
    """
    known, begin = -1, 0
    for i in range(symbol.size):
        second = sent[i] // NS_PER_SECOND
        if second != known:
            write_next(stamp, known, second)
            known = second
        form = symbol[i] * legs + leg[i]
        move(rows[form], text[begin : begin + rows.shape[1]])
        at = begin + place[form]
        move_second(stamp, text[at : at + _SECOND])
        begin += size[form]
    return begin


@kernel
def move(form: Bytes, text: Bytes) -> None:
    """In moves of a size that the compiler knows: without a loop over bytes."""
    for first in range(0, form.size, _MOVE):
        for k in range(_MOVE):
            text[first + k] = form[first + k]


@kernel
def move_second(stamp: Bytes, text: Bytes) -> None:
    """One move."""
    for k in range(_SECOND):
        text[k] = stamp[k]


@kernel
def write_next(stamp: Bytes, known: int, second: int) -> None:
    """The date only where it is another one than that of the second which is known."""
    if second // DAY == known // DAY:
        write_clock(stamp, second)
    else:
        write_stamp(stamp, second)


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
    stamp[8] = ord("T")
    write_clock(stamp, second)


@kernel
def write_clock(stamp: Bytes, second: int) -> None:
    """The part of a stamp behind its T."""
    write_pairs(stamp, 9, second % DAY // 3_600, second // 60 % 60, second % 60)


@kernel
def write_pairs(stamp: Bytes, begin: int, first: int, second: int, third: int) -> None:
    """Three numbers of two digits."""
    for k, number in enumerate((first, second, third)):
        stamp[begin + 2 * k], stamp[begin + 2 * k + 1] = 48 + number // 10, 48 + number % 10
