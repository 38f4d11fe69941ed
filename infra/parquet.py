"""Columns as a run holds them -> Parquet: numbers, instants, words by their codes, ids of orders.

A writer of our own, because Arrow's spends most of its time on what these tables are made of: words that are here as
codes of a byte already, and can stand in the file as they are (docs/decisions/0014). The format:
https://github.com/apache/parquet-format
"""

import base64
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import pyarrow as pa

from infra.thrift import Long, Struct, encoded, varint
from risk.order_ids import Forms, packed_ids
from risk.packing import packed
from schemas.frames import Bools, Codes, Ints, Longs

GROUP_ROWS = 1 << 17  # rows in a row group of a Parquet file
_PAGE_ROWS = 1 << 14  # in a page of ids

# Numbers of the format.
_BOOLEAN, _INT32, _INT64, _DOUBLE, _BYTE_ARRAY = 0, 1, 2, 5, 6
_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8
_UNCOMPRESSED, _LZ4_RAW = 0, 7
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_REQUIRED, _OPTIONAL = 0, 1
_STRING: Struct = {1: {}}
_NANOSECONDS_UTC: Struct = {8: {1: True, 2: {3: {}}}}
_BY_TYPE: Struct = {1: {}}  # the order of a column is that of its type
_MAGIC = b"PAR1"
_MOST_PIECES = 1_000  # that the system takes at once; its bound is 1,024
_PHYSICAL = {"f8": _DOUBLE, "i8": _INT64, "i4": _INT32}

Bytes: TypeAlias = Any  # whatever has a buffer


class Numbers(NamedTuple):
    """Values as they are."""

    values: np.ndarray[Any, Any]  # f8, i8 or i4


class Flags(NamedTuple):
    """Yes or no."""

    values: Bools


class Instants(NamedTuple):
    """UTC ns."""

    values: Longs


class Coded(NamedTuple):
    """Words by their codes."""

    codes: Codes | Ints
    lexicon: "Lexicon"


class Ids(NamedTuple):
    """Ids of orders; those that are `there`, where not every row has one."""

    symbol: Ints
    sent: Longs
    leg: Codes
    forms: Forms
    there: Bools | None = None


Column: TypeAlias = Numbers | Flags | Instants | Coded | Ids
Columns = Mapping[str, Column]


class Lexicon:
    """Words, and the place of the word that each code means."""

    def __init__(self, words: Sequence[str], place: Codes | Ints | None = None):
        """Without `place` code k means word k; one of 256 bytes is for codes of a byte, negative ones at its end."""
        self.words = list(words)
        self._place = place

    def places(self, codes: Codes | Ints) -> Codes | Ints:
        """Where the words of these codes stand."""
        if self._place is None:
            return codes
        if self._place.itemsize == 1 == codes.itemsize:  # faster than an index
            return np.frombuffer(codes.tobytes().translate(self._place.tobytes()), np.int8)
        return self._place[codes]

    def kind(self, codes: Codes | Ints) -> np.dtype[Any]:
        """The type of these places."""
        return codes.dtype if self._place is None else self._place.dtype

    @cached_property
    def width(self) -> int:
        """Bytes of a place in a file."""
        return 1 if len(self.words) <= 1 << 8 else 2 if len(self.words) <= 1 << 16 else 4

    @cached_property
    def text(self) -> bytes:
        """The words as a dictionary's page has them, each behind its length."""
        return b"".join(struct.pack("<I", len(word)) + word for word in map(str.encode, self.words))


class Writer:
    """A file that is written group by group."""

    def __init__(self, path: Path):
        self._schema: Columns = {}
        self._groups: list[Struct] = []
        self._rows = self._at = 0
        self._pieces: list[Bytes] = []  # not handed over yet
        self._file = path.open("wb", buffering=0)
        self._put([_MAGIC])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.leave()

    def close(self) -> None:
        """Write what makes it a file."""
        with self._file:
            footer = encoded(self._footer())
            self._put([footer, struct.pack("<I", len(footer)), _MAGIC])
            hand_over(self._file, self._pieces)

    def leave(self) -> None:
        """It will be none."""
        self._file.close()

    def write(self, columns: Columns) -> None:
        """One group, in columns as the first one had them; one without rows only tells what they are."""
        self._schema = self._schema or columns
        begin, rows = self._at, _rows(next(iter(columns.values())))
        if not rows:
            return
        chunks = [self._chunk(name, column) for name, column in columns.items()]
        told = [chunk[3] for chunk in chunks]
        plain, stored = (Long(sum(each[field] for each in told)) for field in (6, 7))
        self._groups.append({1: chunks, 2: plain, 3: Long(rows), 5: Long(begin), 6: stored})
        self._rows += rows
        hand_over(self._file, self._pieces)
        self._pieces.clear()

    def _put(self, pieces: Sequence[Bytes]) -> None:
        for piece in pieces:
            self._pieces.append(piece)
            self._at += memoryview(piece).nbytes

    def _chunk(self, name: str, column: Column) -> Struct:
        """A column of a group, its words first, where it has some; answers what the footer says of it."""
        begin, saved = self._at, 0
        if isinstance(column, Coded):
            text, count = column.lexicon.text, len(column.lexicon.words)
            self._put([encoded({1: _DICTIONARY_PAGE, 2: len(text), 3: len(text), 7: {1: count, 2: _PLAIN}}), text])
        values, coding = self._at, _RLE_DICTIONARY if isinstance(column, Coded) else _PLAIN
        packs = isinstance(column, Instants | Ids)  # they repeat, and shrink enough to be worth it; measurements do not
        for part in _pages(column):
            size, pieces = _body(part)
            stored = sum(memoryview(piece).nbytes for piece in pieces)
            saved += size - stored
            head = encoded({1: _DATA_PAGE, 2: size, 3: stored, 5: {1: _rows(part), 2: coding, 3: _RLE, 4: _RLE}})
            self._put([head, *pieces])
        told = {
            1: _physical(column), 2: sorted({_PLAIN, _RLE, coding}), 3: [name],
            4: _LZ4_RAW if packs else _UNCOMPRESSED, 5: Long(_rows(column)),
            6: Long(self._at - begin + saved), 7: Long(self._at - begin), 9: Long(values),
        }  # fmt: skip
        if isinstance(column, Coded):
            told[11] = Long(begin)
        if isinstance(column, Instants):
            told[12] = _bounds(column)
        return {2: Long(begin), 3: told}

    def _footer(self) -> Struct:
        fields = [pa.field(name, _arrow(column), _optional(column)) for name, column in self._schema.items()]
        return {
            1: 2,
            2: [{4: "schema", 5: len(fields)}, *(_element(name, column) for name, column in self._schema.items())],
            3: Long(self._rows),
            4: self._groups,
            # so that Arrow gives words as it was given them: by code
            5: [{1: "ARROW:schema", 2: base64.b64encode(pa.schema(fields).serialize())}],
            6: "unified-trading-platform",
            7: [_BY_TYPE] * len(fields),
        }


def hand_over(file: FileIO, pieces: Sequence[Bytes]) -> None:
    """Write all pieces at once: the system keeps large writes in large pieces, which cost it half the time."""
    ahead = [memoryview(piece).cast("B") for piece in pieces if memoryview(piece).nbytes]
    while ahead:
        taken, whole = os.writev(file.fileno(), ahead[:_MOST_PIECES]), 0
        while whole < len(ahead) and taken >= ahead[whole].nbytes:
            taken -= ahead[whole].nbytes
            whole += 1
        ahead = ahead[whole:]
        if taken:  # of one only a part: a disk that is nearly full, or very much at once
            ahead[0] = ahead[0][taken:]


def _rows(column: Column) -> int:
    return int(column[0].size)


def _optional(column: Column) -> bool:
    return isinstance(column, Ids) and column.there is not None


def _pages(column: Column) -> Iterator[Column]:
    """The column; ids in pieces, so that what is made on the way stays in the caches."""
    if not isinstance(column, Ids):
        yield column
        return
    symbol, sent, leg, forms, there = column
    for first in range(0, symbol.size, _PAGE_ROWS):
        cut = slice(first, first + _PAGE_ROWS)
        yield Ids(symbol[cut], sent[cut], leg[cut], forms, None if there is None else there[cut])


def _body(column: Column) -> tuple[int, list[Bytes]]:
    """What stands in a page, in pieces, and how many bytes these are unpacked."""
    match column:
        case Numbers(values):
            return _as_is([np.ascontiguousarray(values)])
        case Flags(values):
            return _as_is([np.packbits(values, bitorder="little")])
        case Coded(codes, lexicon):
            places, bits = lexicon.places(codes).astype(f"u{lexicon.width}", copy=False), 8 * lexicon.width
            return _as_is([bytes([bits]), *_run(codes.size, bits, places)])
        case Instants(values):
            return values.nbytes, [packed(values)]
        case Ids(symbol, sent, leg, forms, there):
            levels = b""
            if there is not None:
                symbol, sent, leg = symbol[there], sent[there], leg[there]
                levels = b"".join(_run(there.size, 1, np.packbits(there, bitorder="little")))
                levels = struct.pack("<I", len(levels)) + levels
            size, ids = packed_ids(forms, symbol, sent, leg, levels)
            return size, [ids]


def _as_is(pieces: list[Bytes]) -> tuple[int, list[Bytes]]:
    return sum(memoryview(piece).nbytes for piece in pieces), pieces


def _run(count: int, bits: int, packed: Bytes) -> list[Bytes]:
    """One run of the format's hybrid encoding: so many numbers of so many bits, packed already, in groups of eight."""
    groups = -(-count // 8)
    return [varint(groups << 1 | 1), packed, bytes(groups * bits - packed.nbytes)]


def _bounds(column: Instants) -> Struct:
    """The earliest and the latest, so that readers may skip groups, and that none is missing."""
    least, most = (struct.pack("<q", value) for value in (column.values.min(), column.values.max()))
    return {3: Long(0), 5: most, 6: least}


def _physical(column: Column) -> int:
    match column:
        case Numbers(values):
            return _PHYSICAL[values.dtype.str[1:]]
        case Flags():
            return _BOOLEAN
        case Instants():
            return _INT64
        case _:
            return _BYTE_ARRAY


def _element(name: str, column: Column) -> Struct:
    """A column as the file's schema has it."""
    told = {1: _physical(column), 3: _OPTIONAL if _optional(column) else _REQUIRED, 4: name}
    match column:
        case Coded() | Ids():
            return {**told, 6: 0, 10: _STRING}
        case Instants():
            return {**told, 10: _NANOSECONDS_UTC}
        case _:
            return told


def _arrow(column: Column) -> Any:
    """A column's type as Arrow has it."""
    match column:
        case Numbers(values) | Flags(values):
            return pa.from_numpy_dtype(values.dtype)
        case Instants():
            return pa.timestamp("ns", "UTC")
        case Coded(codes, lexicon):
            return pa.dictionary(pa.from_numpy_dtype(lexicon.kind(codes)), pa.string())
        case _:
            return pa.string()
