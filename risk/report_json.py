"""A chart's columns as JSON, by compiled walks: byte for byte what an encoder makes of a list of them."""

import msgspec
import numpy as np

from operators.kernel import kernel
from risk.order_ids import DAY, STAMP, Bytes, write_pairs, write_stamp
from risk.report_words import Labels, words
from schemas.calendar import on_the_clock
from schemas.frames import Bools, Floats, Longs
from schemas.units import NS_PER_SECOND

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
    size, rest = digits + 1, number
    for _ in range(digits + 1):
        rest //= 10
    while rest > 0:
        size, rest = size + 1, rest // 10
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
    text = np.empty((ts.size, _TIME), np.uint8)
    write_times(on_the_clock(ts), np.zeros(STAMP, np.uint8), text)
    return _listed(text)


@kernel
def write_times(shown: Longs, stamp: Bytes, text: Bytes) -> None:
    """`"2024-01-02T15:00:00",` of each; `stamp` is room for the same without the marks."""
    day = shown[0] // NS_PER_SECOND // DAY - 1 if shown.size else 0
    for i in range(shown.size):
        second = shown[i] // NS_PER_SECOND
        if second // DAY == day:  # most often; a date takes longer than a time
            write_pairs(stamp, 9, second % DAY // 3_600, second // 60 % 60, second % 60)
        else:
            write_stamp(stamp, second)
            day = second // DAY
        text[i, 0] = ord('"')
        at = 1
        for k in range(STAMP):
            if k in (4, 6):
                text[i, at] = ord("-")
                at += 1
            if k in (11, 13):
                text[i, at] = ord(":")
                at += 1
            text[i, at] = stamp[k]
            at += 1
        text[i, at], text[i, at + 1] = ord('"'), ord(",")


def phrases(first: Labels, second: Labels) -> msgspec.Raw:
    """Two words of each row as one text."""
    heads = [msgspec.json.encode(words(name))[:-1] + b" " for name in first.names]
    tails = [msgspec.json.encode(words(name))[1:] for name in second.names]
    pairs = zip(first.place.tolist(), second.place.tolist(), strict=True)
    return msgspec.Raw(b"[%b]" % b",".join([heads[one] + tails[other] for one, other in pairs]))


def either(flags: Bools, yes: str, no: str) -> msgspec.Raw:
    """One of two words for each row."""
    coded = msgspec.json.encode(no), msgspec.json.encode(yes)
    return msgspec.Raw(b"[%b]" % b",".join([coded[flag] for flag in flags.tolist()]))


def _listed(text: Bytes) -> msgspec.Raw:
    """What stands before commas, as a list."""
    return msgspec.Raw(b"[%b]" % text.tobytes()[:-1])
