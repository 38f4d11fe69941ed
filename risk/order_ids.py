"""Ids of orders, `account|symbol|20240102T150000Z|leg`, many at a time."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from operators.kernel import kernel
from risk.packing import FARTHEST, Bytes, copy, literals, repeat, room
from schemas.frames import Codes, Ints, Longs
from schemas.units import NS_PER_SECOND

STAMP = 15  # bytes of `20240102T150000`
_DATE = 9  # of them, with the T
_SECOND = STAMP + 1  # and a Z
DAY = 86_400  # seconds
_LENGTH = 4  # bytes in front of an id


class Forms(NamedTuple):
    """The ids of a run without their seconds, by symbol and leg, each behind its length as Parquet has strings."""

    legs: int
    rows: Bytes  # [symbols x legs, as wide as the longest]
    size: Ints  # bytes of each row that are meant
    place: Ints  # where its second goes


def forms(heads: Sequence[str], tails: Sequence[str]) -> Forms:
    """Of what stands before the second, by symbol, and after it, by leg."""
    before, after = [head.encode() for head in heads], [tail.encode() for tail in tails]
    texts = [struct.pack("<I", len(b) + _SECOND + len(a)) + b + bytes(_SECOND) + a for b in before for a in after]
    width = max(map(len, texts), default=1)
    rows = np.array(texts, f"S{width}").view(np.uint8).reshape(-1, width)
    place = np.repeat(np.array([_LENGTH + len(b) for b in before], np.int32), len(after))
    return Forms(len(after), rows, np.array([len(text) for text in texts], np.int32), place)


def packed_ids(forms: Forms, symbol: Ints, sent: Longs, leg: Codes, before: bytes = b"") -> tuple[int, Bytes]:
    """Ids one after the other, each behind its length in four bytes, as LZ4; and how many bytes they are unpacked.

    `sent`: UTC ns, whose second they tell. `before` stands in front of them.
    """
    most = len(before) + symbol.size * forms.rows.shape[1]
    block, text = room(most), np.empty(most, np.uint8)
    text[: len(before)] = np.frombuffer(before, np.uint8)
    stamp = np.full(_SECOND, ord("Z"), np.uint8)
    # writable, so that there is one compiled form
    symbol, sent, leg = np.require(symbol, None, "W"), np.require(sent, None, "W"), np.require(leg, None, "W")
    known = np.full((2, len(forms.rows)), -FARTHEST - 1, np.int64)
    end, size = pack_ids(*forms, symbol, sent, leg, stamp, known[0], known[1], text, len(before), block)
    return int(size), block[:end]  # of numpy, where it was not compiled


@kernel
def pack_ids(
    legs: int, rows: Bytes, size: Ints, place: Ints, symbol: Ints, sent: Longs, leg: Codes, stamp: Bytes,
    begins: Longs, days: Longs, text: Bytes, wait: int, block: Bytes,
) -> tuple[int, int]:  # fmt: skip
    """Of each id only the time of day, where one of its form, with its date, is near; where the block and the ids end.

    `stamp` is room for a second, which ends with its Z; `begins` and `days` for where each form stood last, and its
    day. `text` holds what waits to be written as literals, `wait` bytes.
    """
    known, midnight, at, begin = -1, -DAY, 0, wait
    for i in range(symbol.size):
        second = sent[i] // NS_PER_SECOND
        if second != known:
            known = second
            if midnight <= second < midnight + DAY:
                write_clock(stamp, second)
            else:
                midnight = second // DAY * DAY
                write_stamp(stamp, second)
        form = symbol[i] * legs + leg[i]
        head, whole, back = place[form], size[form], begin - begins[form]
        if back <= FARTHEST and days[form] == midnight and i < symbol.size - 1:  # the last one are literals
            behind = literals(text, 0, wait, block, at)
            at, wait = repeat(back, head + _DATE, block, at, behind), 0
            behind = literals(stamp, _DATE, STAMP, block, at)
            at = repeat(back, whole - head - STAMP, block, at, behind)
        else:
            copy(rows[form, :whole], text[wait : wait + whole])
            copy(stamp, text[wait + head : wait + head + _SECOND])
            wait += whole
        begins[form], days[form] = begin, midnight
        begin += whole
    return literals(text, 0, wait, block, at), begin


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
