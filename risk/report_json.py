"""A chart's columns as JSON, by compiled walks: byte for byte what an encoder makes of a list of them."""

from typing import Any

import msgspec
import numpy as np

from operators.kernel import kernel
from risk.order_ids import DAY, STAMP, write_clock, write_stamp
from risk.packing import Bytes, copy
from risk.report_words import Labels, words
from schemas.calendar import on_the_clock
from schemas.frames import Bools, Floats, Ints, Longs
from schemas.units import NS_PER_DAY, NS_PER_SECOND

_TIME = len('"2024-01-02T15:00:00",')
_NUMBER = len("-999999999.999999,")
_MOST = 1e15  # below it a number with all its digits is the shortest text of its double
_FINE = 6  # digits after the point, at most


def rounded(values: Floats, digits: int) -> msgspec.Raw:
    """Numbers as short as they may be, with so many digits after the point, 1 to 6; NaN is null, a gap in a line."""
    text = np.empty(values.size * _NUMBER, np.uint8)
    size = write_numbers(np.require(values, np.float64, ["C", "W"]), 10.0**digits, digits, text)
    return _listed(text[:size]) if size >= 0 else msgspec.Raw(msgspec.json.encode(np.round(values, digits).tolist()))


@kernel
def write_numbers(values: Floats, scale: float, digits: int, text: Bytes) -> int:
    """`-12.5,` of each, rounded as numpy rounds; how many bytes these are, -1 where a number is too large for it."""
    at = 0
    for i in range(values.size):
        shown = np.rint(values[i] * scale)
        if np.isnan(shown):
            for code in (ord("n"), ord("u"), ord("l"), ord("l")):
                text[at] = code
                at += 1
        elif abs(shown) < _MOST:
            text[at] = ord("-")
            at = write_number(int(abs(shown)), digits, text, at + np.signbit(shown))
        else:
            return -1
        text[at] = ord(",")
        at += 1
    return at


@kernel
def write_number(number: int, digits: int, text: Bytes, at: int) -> int:
    """A whole number, the last digits behind a point and without needless zeros; the place behind it."""
    if digits == _FINE and 0 < number < 10:
        text[at], text[at + 1], text[at + 2], text[at + 3] = 48 + number, ord("e"), ord("-"), 48 + _FINE
        return at + 4
    size, bound = digits + 1, 10
    for _ in range(digits):
        bound *= 10
    while number >= bound:
        size, bound = size + 1, bound * 10
    point = at + size - digits
    end = at + size
    for k in range(end, at - 1, -1):
        if k == point:
            text[k] = ord(".")
        else:
            text[k] = 48 + number % 10
            number //= 10
    while text[end] == 48 and end > point + 1:
        end -= 1
    return end + 1


def local(ts: Longs) -> msgspec.Raw:
    """New York's clock, as a date axis takes it."""
    return _listed(_times(on_the_clock(ts)))


def dates(days: Longs) -> msgspec.Raw:
    """Days since 1970-01-01, as a date axis takes them."""
    return _listed(_cut(_times(days * NS_PER_DAY), len('"2024-01-02')))


def noons(days: Longs) -> msgspec.Raw:
    """Where the bar of a day stands."""
    return _listed(_cut(_times(days * NS_PER_DAY + NS_PER_DAY // 2), len('"2024-01-02T12:00')))


def _times(shown: Longs) -> Bytes:
    text = np.empty((shown.size, _TIME), np.uint8)
    write_times(shown, np.zeros(STAMP, np.uint8), text)
    return text


def _cut(text: Bytes, size: int) -> Bytes:
    """What stands first in each row, and its end."""
    cut = text[:, : size + 2].copy()
    cut[:, size:] = text[:, -2:]
    return cut


@kernel
def write_times(shown: Longs, stamp: Bytes, text: Bytes) -> None:
    """`"2024-01-02T15:00:00",` of each; `stamp` is room for one without the marks."""
    day = 0
    for i in range(shown.size):
        second = shown[i] // NS_PER_SECOND
        if i > 0 and second // DAY == day:  # most often; the time of day is all that changes
            for k in range(_TIME):
                text[i, k] = text[i - 1, k]
            write_clock(stamp, second)
        else:
            day = second // DAY
            write_stamp(stamp, second)
            text[i, 0], text[i, 5], text[i, 8] = ord('"'), ord("-"), ord("-")
            text[i, 14], text[i, 17], text[i, 20], text[i, 21] = ord(":"), ord(":"), ord('"'), ord(",")
            text[i, 11] = ord("T")
            for k in range(4):
                text[i, 1 + k] = stamp[k]
            for k in range(2):
                text[i, 6 + k], text[i, 9 + k] = stamp[4 + k], stamp[6 + k]
        for k in range(2):
            text[i, 12 + k], text[i, 15 + k], text[i, 18 + k] = stamp[9 + k], stamp[11 + k], stamp[13 + k]


def phrases(first: Labels, second: Labels) -> msgspec.Raw:
    """Two words of each row as one text."""
    heads = [msgspec.json.encode(words(name))[:-1] + b" " for name in first.names]
    tails = [msgspec.json.encode(words(name))[1:] + b"," for name in second.names]
    return _spelled(heads, first.place, tails, second.place)


def either(flags: Bools, yes: str, no: str) -> msgspec.Raw:
    """One of two words for each row."""
    tails = [msgspec.json.encode(word) + b"," for word in (no, yes)]
    return _spelled([b""], np.zeros(flags.size, np.int32), tails, flags)


def _spelled(heads: list[bytes], head_of: Any, tails: list[bytes], tail_of: Any) -> msgspec.Raw:
    head, tail = _padded(heads), _padded(tails)
    text = np.empty((len(head_of) + 1) * (head.shape[1] + tail.shape[1]), np.uint8)  # padding runs over
    first, second = (np.require(place, np.int32, ["C", "W"]) for place in (head_of, tail_of))
    size = write_words(head, _sizes(heads), first, tail, _sizes(tails), second, text)
    return _listed(text[:size])


def _padded(texts: list[bytes]) -> Bytes:
    """Rows of equal width."""
    rows = np.array(texts, np.bytes_)
    return rows.view(np.uint8).reshape(rows.size, rows.itemsize)


def _sizes(texts: list[bytes]) -> Ints:
    return np.array([len(text) for text in texts], np.int32)


@kernel
def write_words(
    head: Bytes, head_size: Ints, head_of: Ints, tail: Bytes, tail_size: Ints, tail_of: Ints, text: Bytes
) -> int:
    """Head and tail of each row, in full width: the next one covers what was too much. How many bytes these are."""
    at = 0
    for i in range(head_of.size):
        copy(head[head_of[i]], text[at : at + head.shape[1]])
        at += head_size[head_of[i]]
        copy(tail[tail_of[i]], text[at : at + tail.shape[1]])
        at += tail_size[tail_of[i]]
    return at


def _listed(text: Bytes) -> msgspec.Raw:
    """What stands before commas, as a list."""
    return msgspec.Raw(b"[%b]" % text.tobytes()[:-1])
