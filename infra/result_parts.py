"""The rows of a run while it lasts: in memory up to a bound, then as numbered Arrow files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infra.barfiles import plain
from infra.parquet import GROUP_ROWS
from infra.result_header import Header, LedgerError
from risk.ledger import LedgerFrame, uncalibrated
from schemas.errors import UserError

PART_ROWS = GROUP_ROWS  # rows of a part, but for the last before a snapshot
HELD_BYTES = 64 << 20  # of full parts in memory before they are written: those of some million bars

Columns = dict[str, np.ndarray[Any, Any]]

# What parts hold, by table: the ledger's columns, codes narrowed.
_PARTS: dict[str, dict[str, str]] = {
    "equity": {"ts": "i8", "equity": "i8", "cash": "i8", "exposure": "i8", "drawdown": "f8"},
    "signals": {
        "ts": "i8", "symbol": "i4", "direction": "i1", "confidence": "f8", "score": "f8", "regime": "i1",
        "views": "i4", "reason": "i1",
    },
    "verdicts": {
        "ts": "i8", "symbol": "i4", "direction": "i1", "approved": "?", "reason": "i1", "measured": "f8",
        "limit": "f8", "confidence": "f8", "cvar_95": "f8", "risk_score": "f8", "max_loss": "i8", "uncalibrated": "?",
    },
    "orders": {
        "ts": "i8", "symbol": "i4", "side": "i1", "qty": "i8", "kind": "i1", "leg": "i1", "entry_ts": "i8",
        "reason": "i1", "price": "i8",
    },
    "updates": {
        "ts": "i8", "symbol": "i4", "order_ts": "i8", "leg": "i1", "status": "i1", "qty": "i8",
        "reason": "i1",
    },
    "fills": {
        "ts": "i8", "symbol": "i4", "side": "i1", "qty": "i8", "price": "i8", "fee": "i8", "order_ts": "i8",
        "leg": "i1", "reason": "i1", "expected": "i8",
    },
    "trades": {
        "exit_ts": "i8", "symbol": "i4", "order_ts": "i8", "entry_ts": "i8", "side": "i1", "qty": "i8", "cost": "i8",
        "proceeds": "i8", "fees": "i8", "pnl": "i8", "reason": "i1", "mae": "f8", "mfe": "f8",
    },
    "quarantine": {
        "ts": "i8", "symbol": "i4", "reason": "i1", "open": "f8", "high": "f8", "low": "f8", "close": "f8",
        "volume": "f8",
    },
}  # fmt: skip
OUTLOOK = {"q10": "f8", "q50": "f8", "q90": "f8", "probability": "f8", "age": "i4", "model": "i1"}
TABLES = tuple(_PARTS)


def dtypes_of(header: Header) -> dict[str, dict[str, str]]:
    """What the parts of a run hold, by table: its signals carry forecasts where a model is configured."""
    return {**_PARTS, "signals": _PARTS["signals"] | OUTLOOK} if "forecast" in header else _PARTS


class Parts:
    """The tables of one run; `full` sees each part when it is."""

    def __init__(self, folder: Path, header: Header, full: Callable[[str, Columns], None]):
        self.folder, self._full = folder, full
        self.next = dict.fromkeys(TABLES, 0)  # number of the next part
        self.written = dict.fromkeys(TABLES, 0)  # rows in parts
        self._held: list[tuple[str, Columns]] = []  # parts that are not on disk yet
        self.dtypes = dtypes_of(header)
        self._buffers = {
            table: _Rows(columns, PART_ROWS, partial(self._hold, table)) for table, columns in self.dtypes.items()
        }

    @property
    def are_there(self) -> bool:
        """True when there are some on disk, from which an earlier snapshot may have to go on."""
        return any(self.next.values())

    @property
    def on_disk(self) -> int:
        """Bytes of those there."""
        return sum(path.stat().st_size for path in self.folder.glob("*.arrow"))

    def size(self, table: str) -> int:
        """Rows of a table so far."""
        return self.written[table] + self._buffers[table].size

    def add(self, table: str, columns: Columns) -> None:
        """Take in rows of one table, in their order."""
        self._buffers[table].add(columns)

    def flush(self) -> None:
        """Make parts of what is there, full or not."""
        for buffer in self._buffers.values():
            buffer.flush()

    def _hold(self, table: str, columns: Columns) -> None:
        """Take over a part."""
        self._held.append((table, columns))
        self._full(table, columns)
        self.written[table] += len(next(iter(columns.values())))
        if sum(column.nbytes for _, part in self._held for column in part.values()) > HELD_BYTES:
            self.write()

    def write(self) -> None:
        """Put what is held on disk; what could not be written is still held."""
        if self._held:
            self.folder.mkdir(exist_ok=True)
        while self._held:
            table, columns = self._held[0]
            batch = pa.RecordBatch.from_arrays([_arrow(column) for column in columns.values()], names=list(columns))
            path = self._path(table, self.next[table])
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
            self.next[table] += 1
            del self._held[0]

    def _path(self, table: str, number: int) -> Path:
        return self.folder / f"{table}-{number:06}.arrow"

    def read(self, table: str) -> Iterator[Columns]:
        """All parts of a table, in their order."""
        rows = 0
        for number in range(self.next[table]):
            with pa.memory_map(str(self._path(table, number))) as file:
                batch = pa.ipc.open_file(file).get_batch(0)
                rows += batch.num_rows
                yield {name: plain(batch.column(name)).view(dtype) for name, dtype in self.dtypes[table].items()}
        for held, columns in self._held:
            if held == table:
                rows += len(next(iter(columns.values())))
                yield columns
        if rows != self.written[table]:
            raise LedgerError(f"results: {rows} rows of {table} are there, {self.written[table]} were written")

    def forget(self) -> None:
        """The folder is made: what is in memory is needed no more."""
        self._held.clear()

    def drop_later(self) -> None:
        """Parts that were written after the snapshot from which it goes on."""
        kept = {self._path(table, number) for table in TABLES for number in range(self.next[table])}
        there = set(self.folder.glob("*.arrow"))
        if kept - there:
            missing = min(kept - there).name
            work = self.folder.parent
            raise UserError(f"{work}: {missing} and others of the interrupted run are gone; start the run anew")
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in there - kept:
            path.unlink()


def _arrow(column: np.ndarray[Any, Any]) -> Any:
    """The column where it lies; flags as bytes. Arrow's own way imports pandas: 46 MB."""
    numbers = column.view(np.int8) if column.dtype == np.bool_ else column
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), numbers.size, [None, pa.py_buffer(numbers)])


def rows_of(frame: LedgerFrame, table: str, names: Mapping[str, str]) -> Columns:
    """The columns of a frame's table, and those that follow from its other tables."""
    if table == "verdicts":
        own = {name: kind for name, kind in names.items() if name != "uncalibrated"}
        return _columns(frame.verdicts, own) | {"uncalibrated": uncalibrated(frame)}
    return _columns(frame.refused if table == "quarantine" else getattr(frame, table), names)


def _columns(rows: Any, names: Mapping[str, str]) -> Columns:
    """Columns of a table of rows, or of a frame that has them as attributes."""
    if isinstance(rows, np.ndarray):
        plain = rows.view(np.ndarray)  # a recarray is slow at giving its columns
        return {name: plain[name] for name in names}
    return {name: getattr(rows, name) for name in names}


def joined(parts: Sequence[Columns]) -> Columns:
    """One part of several, at least one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]


def grouped(parts: Iterable[Columns], most: int) -> Iterator[Columns]:
    """The same rows, `most` at a time; the last are what is left. Parts of this size are not copied."""
    some: list[Columns] = []
    room = most
    for part in parts:
        rows, taken = len(next(iter(part.values()))), 0
        while taken < rows:
            end = min(taken + room, rows)
            some.append({name: column[taken:end] for name, column in part.items()})
            room, taken = room - (end - taken), end
            if not room:
                yield joined(some)
                some, room = [], most
    if some:
        yield joined(some)


class _Rows:
    """Columns of a fixed capacity; when they are full, `full` gets them for good."""

    def __init__(self, dtypes: Mapping[str, str], capacity: int, full: Callable[[Columns], None]):
        self.size = 0
        self._dtypes, self._capacity, self._full = dtypes, capacity, full
        self._columns: Columns = {}

    def add(self, columns: Columns) -> None:
        """Copy rows in; the caller's arrays are not kept."""
        rows, taken = len(next(iter(columns.values()))), 0
        while taken < rows:
            if not self.size:
                self._columns = {name: np.empty(self._capacity, dtype) for name, dtype in self._dtypes.items()}
            some = min(rows - taken, self._capacity - self.size)
            for name, column in self._columns.items():
                column[self.size : self.size + some] = columns[name][taken : taken + some]
            self.size += some
            taken += some
            if self.size == self._capacity:
                self.flush()

    def flush(self) -> None:
        """Hand over what is there."""
        if self.size:
            columns = {name: column[: self.size] for name, column in self._columns.items()}
            self.size, self._columns = 0, {}
            self._full(columns)
