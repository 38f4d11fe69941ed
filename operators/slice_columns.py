"""Records of `market.slices` as columns: a compiled walk over the Avro bytes of many records at once.

It knows one schema, that of `schemas.records.SliceBars` with its fields in their order; a test holds it against
the reference decoder. Nothing in the bytes is trusted: a record that does not fit has a flaw and no rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from operators.kernel import kernel
from schemas.frames import SHARDS, UNKNOWN_DAYS, Floats, Ints, Longs

Bytes: TypeAlias = npt.NDArray[np.uint8]
Grid: TypeAlias = npt.NDArray[np.int64]  # [records, fields]

FLAWS = ("", "cut short", "columns of different lengths", "bytes left over", "impossible shard or range of slices",
         "impossible symbol or slot")  # fmt: skip
SHORT, UNEVEN, OVER, RANGE, SYMBOL = 1, 2, 3, 4, 5
SHARD, TIMEFRAME, TS, AFTER, UPTO, ROWS, LISTS, FLAW, FIELDS = 0, 1, 2, 3, 4, 5, 6, 7, 8
_I4, _I8, _F8 = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.float64)
# symbol, slot, bar_ts, open, high, low, close, volume, bid, ask; behind the actions earnings_days,
# average_volume, market
DTYPES = (_I4, _I4, _I8, *[_F8] * 7, _I4, _F8, _F8)
BID = 8  # this column and those after it may be empty
EARNINGS, MARKET = 10, 12  # the last one has a value by slice, not by row
BLANKS = np.zeros((len(DTYPES), 8), np.uint8)  # what a row has whose record is without the column, as bytes
BLANKS[:] = np.frombuffer(np.float64(np.nan).tobytes(), np.uint8)
BLANKS[EARNINGS, :4] = np.frombuffer(np.int32(UNKNOWN_DAYS).tobytes(), np.uint8)


class Columns(NamedTuple):
    """Many records: numbers by record, and the rows of those without a flaw one after the other."""

    heads: Grid  # of each record: SHARD, TIMEFRAME in minutes, TS, AFTER, UPTO, ROWS, LISTS, FLAW
    starts: Longs  # record i has the rows starts[i] : starts[i + 1]
    symbol: Ints
    slot: Ints
    bar_ts: Longs
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    bid: Floats  # empty where no record has quotes, NaN where only others have
    ask: Floats
    earnings_days: Ints  # likewise, UNKNOWN_DAYS
    average_volume: Floats
    market: Floats  # likewise, by record

    @property
    def ts(self) -> Longs:
        """Ends of the slices, UTC ns."""
        return self.heads[:, TS]

    @property
    def flaws(self) -> Longs:
        """By record, the place in FLAWS."""
        return self.heads[:, FLAW]

    @property
    def lists(self) -> Longs:
        """Good records with listings, corporate actions or models, which are rare and not read here."""
        return self.heads[:, LISTS].nonzero()[0]

    def sound(self, shard: int, timeframe: int, after: int) -> bool:
        """Whether all records are good ones of this shard and timeframe, each going on where the one before ended."""
        return follow(self.heads, shard, timeframe, after)


def decode(values: Sequence[bytes]) -> Columns:
    """All records of a batch."""
    count, data = len(values), np.frombuffer(b"".join(values), np.uint8)
    heads, places = np.zeros((count, FIELDS), np.int64), np.empty((count, len(DTYPES)), np.int64)
    starts, has = np.zeros(count + 1, np.int64), np.zeros(len(DTYPES), np.int64)
    walk(data, np.array(list(map(len, values)), np.int64), heads, places, starts, has)
    rows = int(starts[-1])
    sizes = [*[rows] * BID, *[rows if found else 0 for found in has[BID:MARKET]], count if has[MARKET] else 0]
    columns: list[Any] = [np.empty(size, kind) for size, kind in zip(sizes, DTYPES, strict=True)]
    gather(data, starts, places, BLANKS, *[column.view(np.uint8) for column in columns])
    return Columns(heads, starts, *columns)


@kernel
def walk(data: Bytes, sizes: Longs, heads: Grid, places: Grid, starts: Longs, has: Longs) -> None:
    """Find in each record its numbers and where its columns begin, and which columns any record has."""
    begin = 0
    for i in range(sizes.size):
        places[i] = -1
        heads[i, FLAW] = walk_one(data, begin, begin + sizes[i], heads[i], places[i])
        if heads[i, FLAW]:
            heads[i, ROWS], heads[i, LISTS] = 0, 0
        starts[i + 1] = starts[i] + heads[i, ROWS]
        for k in range(has.size):
            has[k] |= places[i, k] >= 0
        begin += sizes[i]


@kernel
def follow(heads: Grid, shard: int, timeframe: int, after: int) -> bool:
    """Whether all records have no flaw, this shard and timeframe, and begin where the one before ended."""
    for i in range(heads.shape[0]):
        head = heads[i]
        if head[FLAW] or head[SHARD] != shard or head[TIMEFRAME] != timeframe or head[AFTER] != after:
            return False
        after = head[UPTO]
    return True


@kernel
def walk_one(data: Bytes, begin: int, end: int, head: Longs, place: Longs) -> int:
    """One record; returns its flaw, or 0."""
    at = begin
    for field in range(5):
        at = number(data, at, end, head, field)
    at = items(data, at, end, head, 2, 1)  # listings: symbol, slot, name
    rows = np.int64(-1)
    for k in range(13):
        if k == EARNINGS:
            at = items(data, at, end, head, 5, 0)  # actions: symbol, new, old, dividend, slot
        at = number(data, at, end, head, ROWS)  # the length in bytes, for now
        length = head[ROWS]
        if at < 0 or length < 0 or length > end - at:
            return SHORT
        width = 4 if k < 2 or k == EARNINGS else 8
        if k == 0:
            rows = length // 4
        if k < BID or length > 0:
            if length != (1 if k == MARKET else rows) * width:
                return UNEVEN
            place[k] = at
        at += length
    if (place[BID] < 0) != (place[BID + 1] < 0) and rows > 0:
        return UNEVEN
    at = items(data, at, end, head, 1, 2)  # models: since, model, bundle_sha256
    if at < 0:
        return SHORT
    if at != end:
        return OVER
    head[ROWS] = rows
    if not 0 <= head[SHARD] < SHARDS or not head[AFTER] < head[TS] <= head[UPTO]:
        return RANGE
    for row in range(rows):
        if not possible(data, place[0] + 4 * row) or not possible(data, place[1] + 4 * row):
            return SYMBOL
    return 0


@kernel
def number(data: Bytes, at: int, end: int, head: Longs, field: int) -> int:
    """Read a variable-length number into a field; returns the place after it, -1 where there is none."""
    if at < 0:
        return -1
    value = np.int64(0)
    for k in range(10):
        if at + k >= end:
            return -1
        byte = np.int64(data[at + k])
        value |= (byte & 127) << (7 * k)
        if byte < 128:
            head[field] = ((value >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(value & 1)
            return at + k + 1
    return -1


@kernel
def items(data: Bytes, at: int, end: int, head: Longs, numbers: int, texts: int) -> int:
    """Step over an array of items, each of so many numbers and then so many texts; that there are any is noted."""
    while at >= 0:
        at = block(data, at, end, head)
        left = head[ROWS]
        if at < 0 or left == 0:
            return at
        head[LISTS] = 1
        while left > 0 and at >= 0:
            for _ in range(numbers):
                at = number(data, at, end, head, ROWS)
            for _ in range(texts):
                at = number(data, at, end, head, ROWS)
                if at < 0 or head[ROWS] < 0 or head[ROWS] > end - at:
                    return -1
                at += head[ROWS]
            left -= 1
    return at


@kernel
def block(data: Bytes, at: int, end: int, head: Longs) -> int:
    """The number of items in an array's next block, into ROWS; a negative one is followed by the block's size."""
    at = number(data, at, end, head, ROWS)
    count = head[ROWS]
    if at >= 0 and count < 0:
        at = number(data, at, end, head, ROWS)
        head[ROWS] = -count
    return at


@kernel
def possible(data: Bytes, at: int) -> bool:
    """Whether this int32 is a symbol's or a slot's number."""
    return bool(data[at + 3] == 0)  # 0 .. 2^24 - 1: neither negative nor so large that no state for it would fit


@kernel
def gather(
    data: Bytes, starts: Longs, places: Grid, blanks: npt.NDArray[np.uint8], symbol: Bytes, slot: Bytes, bar_ts: Bytes,
    opens: Bytes, high: Bytes, low: Bytes, close: Bytes, volume: Bytes, bid: Bytes, ask: Bytes, days: Bytes,
    average: Bytes, market: Bytes,
) -> None:  # fmt: skip
    """Copy the columns of all records that have them; the others' rows are blank."""
    columns = (symbol, slot, bar_ts, opens, high, low, close, volume, bid, ask, days, average, market)
    for i in range(starts.size - 1):
        for k in range(len(columns)):
            column = columns[k]
            if not column.size:
                continue
            width = 4 if k < 2 or k == EARNINGS else 8
            row, rows = (i, 1) if k == MARKET else (starts[i], starts[i + 1] - starts[i])
            to = np.uint64(row * width)  # unsigned: an index that may be negative costs more than the copy
            if places[i, k] < 0:
                for j in range(np.uint64(rows * width)):
                    column[to + j] = blanks[k, j % np.uint64(width)]
                continue
            at = np.uint64(places[i, k])
            for j in range(np.uint64(rows * width)):
                column[to + j] = data[at + j]
