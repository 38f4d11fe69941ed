"""Columns as a run holds them -> Parquet, by Arrow: numbers, instants, words by their codes, ids of orders."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from risk.order_ids import order_ids
from schemas.frames import Bools, Codes, Ints, Longs

_KEYS = ("ts", "exit_ts", "symbol")  # whose lowest and highest value in each group of rows readers may ask for
GROUP_ROWS = 1 << 17  # rows in a row group of a Parquet file


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
    heads: Sequence[str]  # by symbol
    tails: Sequence[str]  # by leg
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

    @cached_property
    def text(self) -> Any:
        """The words as Arrow has them."""
        return pa.array(self.words, pa.string())


class Writer:
    """A file that is written group by group; `schema` tells its columns, with or without rows."""

    def __init__(self, path: Path, schema: Columns):
        self._schema = pa.schema([
            pa.field(name, _array(column).type, isinstance(column, Ids) and column.there is not None)
            for name, column in schema.items()
        ])  # fmt: skip
        kinds = {name: type(column) for name, column in schema.items()}
        self._file = pq.ParquetWriter(
            path, self._schema,
            # instants and ids repeat, and shrink enough to be worth it; measurements do not
            compression={name: "lz4" if kind in (Instants, Ids) else "none" for name, kind in kinds.items()},
            use_dictionary=[name for name, kind in kinds.items() if kind is Coded],
            write_statistics=[name for name in _KEYS if name in kinds],
            write_batch_size=GROUP_ROWS,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def write(self, columns: Columns) -> None:
        """One group of at least one row, in the order of the schema."""
        group = pa.RecordBatch.from_arrays([_array(column) for column in columns.values()], schema=self._schema)
        self._file.write_batch(group, group.num_rows)


def _array(column: Column) -> Any:
    match column:
        case Numbers(values) | Flags(values):
            return pa.array(values)
        case Instants(values):
            return pa.array(values).view(pa.timestamp("ns", "UTC"))
        case Coded(codes, lexicon):
            return pa.DictionaryArray.from_arrays(pa.array(lexicon.places(codes)), lexicon.text, safe=False)
        case Ids(symbol, sent, leg, heads, tails, there):
            starts, text = order_ids(heads, tails, symbol, sent, leg)
            lacks = None if there is None else pa.py_buffer(np.packbits(there, bitorder="little"))
            return pa.StringArray.from_buffers(symbol.size, pa.py_buffer(starts), pa.py_buffer(text), lacks)
