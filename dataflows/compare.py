"""Two runs, table by table: whether they say the same, and if not, where they part first.

Symbols are compared by name: how a run numbered them is its own affair. So is in which order a broker spoke of several
symbols within a slice: rows are taken in order of slice and symbol, those of one symbol as they happened.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import UserError

TABLES = ("orders", "verdicts", "fills", "updates", "trades", "equity", "signals", "quarantine")


class Difference(NamedTuple):
    """The first row of a table in which two runs differ; None: the other run has more rows."""

    table: str
    row: int
    ours: dict[str, Any] | None
    theirs: dict[str, Any] | None

    def __str__(self) -> str:
        """One line for each side."""
        return f"{self.table} row {self.row}:\n  {self.ours}\n  {self.theirs}"


def compare(ours: list[Path], theirs: list[Path], tables: tuple[str, ...] = TABLES) -> list[Difference]:
    """The first difference of each table; runs of several folders (sessions) are taken one after the other."""
    return [found for table in tables if (found := _first(table, read(ours, table), read(theirs, table))) is not None]


def read(folders: list[Path], table: str) -> pa.Table:
    """A table of a run: by slice and symbol, else in the order of the file; words in full."""
    try:
        rows = pa.concat_tables(_plain(pq.read_table(folder / f"{table}.parquet")) for folder in folders)
    except OSError as error:
        raise UserError(f"{folders[0]}: no run, or an unfinished one ({error})") from error
    keys = [(name, "ascending") for name in ("exit_ts" if table == "trades" else "ts", "symbol")
            if name in rows.column_names]  # fmt: skip
    return rows.take(pc.sort_indices(rows, keys)) if keys else rows  # stable


def _plain(table: pa.Table) -> pa.Table:
    """Dictionaries as the words they stand for."""
    columns = [column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
               for column in table.columns]  # fmt: skip
    return pa.table(columns, table.column_names)


def _first(name: str, ours: pa.Table, theirs: pa.Table) -> Difference | None:
    if ours.equals(theirs):
        return None
    both = min(ours.num_rows, theirs.num_rows)
    row = min(_places(ours.slice(0, both), theirs.slice(0, both)), default=both)
    if row == both and ours.num_rows == theirs.num_rows:
        if ours.schema.equals(theirs.schema):
            return None  # they differ in nothing but NaN, which is not equal to itself
        raise UserError(f"{name}: the tables have other columns: {ours.column_names} and {theirs.column_names}")
    return Difference(name, row, _row(ours, row), _row(theirs, row))


def _places(ours: pa.Table, theirs: pa.Table) -> Iterator[int]:
    """For each column in which they differ, the first row."""
    for name in ours.column_names:
        if name in theirs.column_names and not ours[name].equals(theirs[name]):
            same = pc.fill_null(pc.equal(ours[name], theirs[name]), fill_value=False)
            both_null = pc.and_(pc.is_null(ours[name], nan_is_null=True), pc.is_null(theirs[name], nan_is_null=True))
            place = pc.index(pc.or_(same, both_null), pa.scalar(value=False)).as_py()
            if place >= 0:
                yield int(place)


def _row(table: pa.Table, row: int) -> dict[str, Any] | None:
    return table.slice(row, 1).to_pylist()[0] if row < table.num_rows else None
