"""Bar files in order of time: as they are where that is so, else through a sorted copy in the cache."""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from infra.barfiles import PRICES, QUOTES, BarFile, Table, open_file, write_tables
from operators.kernel import cache_root
from operators.split import Columns
from operators.tally import Tally
from schemas.errors import UserError

VERSION = 1  # of the cached files; another one is never read
KEPT_BYTES = 8 << 30  # sorted copies beyond this go, those unused for longest first
_KEPT_SURVEYS = 500
_STALE_S = 86_400  # leftovers of killed processes
_MEMORY = "512MB"  # of DuckDB, before it spills
_BATCH = 131_072  # rows of the sorted copy fetched at once


class Unit(msgspec.Struct, frozen=True, array_like=True):
    """A row group, with the time that it spans."""

    file: int
    group: int
    rows: int
    first: int  # UTC ns
    last: int


class Survey(msgspec.Struct, frozen=True):
    """What files in order of time hold, found by reading `ts` and `symbol` once."""

    files: tuple[int, ...]  # the order in which they follow each other; empty for a sorted copy
    units: tuple[Unit, ...]
    names: tuple[str, ...]  # alphabetical
    rows: tuple[int, ...]  # by name
    first: tuple[int, ...]
    last: tuple[int, ...]
    gap: int  # as Tally.gap, minutes


def arranged(files: Sequence[BarFile]) -> tuple[list[BarFile], Survey]:
    """Files that follow each other in time and are sorted inside, and what they hold.

    Where the given ones are not so, one sorted copy stands in for them; it is kept in the cache
    folder and used again until a file changes. Raises UserError for unreadable rows and when the
    copy cannot be written.
    """
    folder = cache_root() / "bars"
    key = identity(files)
    note, copy = folder / f"{key}.json", folder / f"{key}.parquet"
    known = _recall(note)
    if known and known.files:
        return [files[i] for i in known.files], known
    if known and copy.exists():
        with contextlib.suppress(OSError):
            os.utime(copy)
        return [open_file(copy)], known
    survey = _survey_as_is(files)
    if survey is None:
        _sort(files, copy)
        made = [open_file(copy)]
        survey = _survey(made)
        assert survey is not None  # noqa: S101  (it was sorted just now)
        files, given = made, files
    else:
        files, given = [files[i] for i in survey.files], files
    if not survey.units:
        copy.unlink(missing_ok=True)
        raise UserError(f"{_label(given)}: no rows; want one per bar")
    _note(note, survey)
    return list(files), survey


def _label(files: Sequence[BarFile]) -> Path:
    """The file, or the folder of several."""
    return files[0].path if len(files) == 1 else files[0].path.parent


def identity(files: Sequence[BarFile]) -> str:
    """Names files as they are now: path, size and time of change."""
    known = [(str(file.path.resolve()), file.size, file.mtime_ns) for file in files]
    return hashlib.sha256(repr((VERSION, known)).encode()).hexdigest()[:32]


def _survey_as_is(files: Sequence[BarFile]) -> Survey | None:
    """The survey of files that need no sorting; None where they do."""
    if not all(file.parquet for file in files):
        return None
    starts = {}
    for i, file in enumerate(files):
        head = next((t.columns.ts for t in file.tables(numbers=()) if t.columns.ts.size), None)
        if head is not None:
            starts[i] = int(head[0])
    order = sorted(starts, key=lambda i: (starts[i], i))
    survey = _survey([files[i] for i in order])
    return survey and msgspec.structs.replace(survey, files=tuple(order))


def _survey(files: Sequence[BarFile]) -> Survey | None:
    """Read time and symbol of all rows; None when time runs backwards, also from file to file."""
    tally, ids, units = Tally(), dict[str, int](), list[Unit]()
    for at, file in enumerate(files):
        before = tally.previous
        for group, rows in enumerate(file.groups):
            first = None
            for names, columns in file.tables([group], numbers=()) if rows else ():
                codes = np.array([ids.setdefault(name, len(ids)) for name in names], np.int32)
                if at and columns.ts.size and columns.ts[0] <= before:
                    return None  # files that touch are put together by sorting
                if not tally.add(columns.ts, codes[columns.symbol], len(ids)):
                    return None
                first = int(columns.ts[0]) if first is None else first
            if first is not None:
                units.append(Unit(at, group, rows, first, tally.previous))
    known = sorted(name for name in ids if tally.rows[ids[name]])
    by_name = [ids[name] for name in known]
    return Survey(
        files=(),
        units=tuple(units),
        names=tuple(known),
        rows=tuple(tally.rows[by_name].tolist()),
        first=tuple(tally.first[by_name].tolist()),
        last=tuple(tally.last[by_name].tolist()),
        gap=tally.gap,
    )


def _recall(note: Path) -> Survey | None:
    """A survey made earlier, by any process."""
    try:
        known = msgspec.json.decode(note.read_bytes(), type=Survey)
        os.utime(note)
    except (OSError, msgspec.DecodeError):
        return None
    return known


def _note(note: Path, survey: Survey) -> None:
    """Keep a survey; without a cache it is made again each time."""
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".note-", dir=note.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(survey))
        Path(name).replace(note)
        _prune(note.parent, note.with_suffix(".parquet"))


def _sort(files: Sequence[BarFile], copy: Path) -> None:
    """Write all rows by time, then name, then place in the files; appears under its name when whole."""
    import duckdb  # 80 ms that most runs need not spend

    where = f"the sorted copy of {_label(files)}"
    remedy = f"free space in {copy.parent} or let UTP_CACHE_DIR name another folder"
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".sort-", dir=copy.parent))
    except OSError as error:
        raise UserError(f"{where} cannot be written: {error}; {remedy}") from None
    try:
        has_quotes = any(file.has_quotes for file in files)
        write_tables(scratch / "sorted.parquet", _sorted(files, scratch, has_quotes), has_quotes)
        (scratch / "sorted.parquet").replace(copy)
    except (OSError, duckdb.Error, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where} cannot be written: {reason}; {remedy}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sorted(files: Sequence[BarFile], scratch: Path, has_quotes: bool) -> Iterator[Table]:
    """The rows of all files in order, by DuckDB, which spills to `scratch`."""
    import duckdb

    names = (*PRICES, *(QUOTES if has_quotes else ()))
    keys = [("symbol", pa.string()), ("ts", pa.int64()), ("row", pa.int64())]
    schema = pa.schema(keys + [(name, pa.float64()) for name in names])
    failed: list[UserError] = []

    def batches() -> Iterator[pa.RecordBatch]:
        row = 0
        try:
            for file in files:
                for table in file.tables():
                    batch = _batch(table, names, row)
                    row += batch.num_rows
                    yield batch
        except UserError as error:  # DuckDB would wrap it
            failed.append(error)
            raise

    with duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": str(scratch), "threads": 2}) as base:
        base.register("bars", pa.RecordBatchReader.from_batches(schema, batches()))
        try:
            reader: Any = base.sql("SELECT * EXCLUDE (row) FROM bars ORDER BY ts, symbol, row")
            for batch in reader.to_arrow_reader(_BATCH):
                yield _table(batch)
        except duckdb.Error:
            if failed:
                raise failed[0] from None
            raise


def _batch(table: Table, names: Sequence[str], row: int) -> pa.RecordBatch:
    """A table for DuckDB, its rows numbered from `row`; quotes that it lacks are NaN."""
    columns = table.columns
    symbol = pa.array(np.array(table.names, dtype=object), pa.string()).take(pa.array(columns.symbol))
    missing = np.full(columns.ts.size, np.nan)
    numbers = (getattr(columns, name) for name in names)
    return pa.RecordBatch.from_arrays(
        [
            symbol,
            pa.array(columns.ts),
            pa.array(np.arange(row, row + columns.ts.size)),
            *(pa.array(each if each.size else missing) for each in numbers),
        ],
        names=["symbol", "ts", "row", *names],
    )


def _table(batch: Any) -> Table:
    """The way back."""
    symbol = batch.column("symbol").dictionary_encode()
    numbers = {name: batch.column(name).to_numpy() for name in batch.schema.names[2:]}
    none = np.zeros(0)
    return Table(
        tuple(symbol.dictionary.to_pylist()),
        Columns(
            batch.column("ts").to_numpy(),
            symbol.indices.to_numpy(),
            *(numbers.get(name, none) for name in (*PRICES, *QUOTES)),
        ),
    )


def _prune(folder: Path, keep: Path) -> None:
    """Drop the sorted copies unused for longest, old surveys, and what killed processes left."""
    now = time.time()

    def newest(pattern: str) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                found.append((path, path.stat()))
        return sorted(found, key=lambda entry: entry[1].st_mtime, reverse=True)

    total = 0
    for path, stat in newest("*.parquet"):
        total += stat.st_size
        if total > KEPT_BYTES and path != keep:
            path.unlink(missing_ok=True)
    for path, _ in newest("*.json")[_KEPT_SURVEYS:]:
        path.unlink(missing_ok=True)
    for path, stat in newest(".*"):
        if now - stat.st_mtime > _STALE_S:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
