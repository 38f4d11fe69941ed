"""LZ4 written outright: who makes a text knows where it repeats itself, so nobody has to search for that.

A block is literals and what stood so many bytes before them, in turn; it ends with literals.
https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md
"""

import numpy as np

from operators.kernel import kernel
from schemas.frames import Longs

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
FARTHEST = 65_535  # bytes back
_LEAST = 4  # bytes that can be repeated
_IN_TOKEN = 15  # from here on a length goes on behind its token
_WIDTH = 8  # bytes of a number
_LOW = 5  # of these, the ones in which instants of a day differ
_ENDS = 2  # numbers at the end that are literals, whatever they are: the format asks for twelve bytes


def room(size: int) -> Bytes:
    """For a text of so many bytes, however little of it repeats."""
    return np.empty(size + size // 255 + 16, np.uint8)


def packed(values: Longs) -> Bytes:
    """Numbers of which equal ones stand together, such as the instants of a table's rows."""
    block = room(values.nbytes)
    values = np.require(values, None, ["C", "W"])  # writable, so that there is one compiled form
    return block[: pack(values, values.view(np.uint8), block)]


def unpacked(block: Bytes, size: int) -> Longs:
    """So many numbers that were packed."""
    import pyarrow as pa

    text = pa.Codec("lz4_raw").decompress(pa.py_buffer(block), size * _WIDTH)
    return np.frombuffer(text, np.int64)


@kernel
def pack(values: Longs, text: Bytes, block: Bytes) -> int:
    """Each number once, its high bytes only where they are new; `text` has the same as bytes. Where the block ends."""
    at = begin = i = 0
    last = values.size - _ENDS
    while i < last:
        end = i + 1
        while end < last and values[end] == values[i]:
            end += 1
        if end > i + 1:
            is_near = i > 0 and values[i] >> 8 * _LOW == values[i - 1] >> 8 * _LOW
            new = _WIDTH * i + (_LOW if is_near else _WIDTH)
            behind = literals(text, begin, new, block, at)
            at, begin = repeat(_WIDTH, _WIDTH * end - new, block, at, behind), _WIDTH * end
        i = end
    return literals(text, begin, text.size, block, at)


@kernel
def literals(text: Bytes, begin: int, end: int, block: Bytes, token: int) -> int:
    """A token and these bytes behind it; where they end."""
    size, at = end - begin, token + 1
    block[token] = min(size, _IN_TOKEN) << 4
    if size >= _IN_TOKEN:
        at = go_on(size - _IN_TOKEN, block, at)
    copy(text[begin:end], block[at : at + size])
    return at + size


@kernel
def copy(text: Bytes, to: Bytes) -> None:
    """A loop from nought, which becomes moves of many bytes."""
    for k in range(text.size):
        to[k] = text[k]


@kernel
def repeat(back: int, size: int, block: Bytes, token: int, at: int) -> int:
    """After the literals of this token, which end at `at`: so many bytes from so far back; where that ends."""
    block[at], block[at + 1] = back & 255, back >> 8
    more = size - _LEAST
    block[token] |= min(more, _IN_TOKEN)
    return go_on(more - _IN_TOKEN, block, at + 2) if more >= _IN_TOKEN else at + 2


@kernel
def go_on(rest: int, block: Bytes, at: int) -> int:
    """The rest of a length; where it ends."""
    while rest >= 255:
        block[at] = 255
        at, rest = at + 1, rest - 255
    block[at] = rest
    return at + 1
