"""The rows of a run while it lasts: in memory up to a bound, and in a file what a snapshot speaks of.

The file has parts of tables, each a header and the bytes of its columns, as narrow as their numbers allow: a run with
recovery pays for every byte that goes to the system, and for every file even more.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np

from infra.parquet import GROUP_ROWS, hand_over
from infra.result_header import Header, LedgerError
from risk.ledger import LedgerFrame, uncalibrated
from risk.packing import packed, unpacked
from schemas.errors import UserError

HELD_BYTES = 64 << 20  # of full parts in memory before they are only on disk: those of some million bars

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
_RISING = {"ts", "exit_ts"}  # instants by which a table is in order: equal ones stand together
_HEADER = 1 << 10  # bytes
OUTLOOK = {"q10": "f8", "q50": "f8", "q90": "f8", "probability": "f8", "age": "i4", "model": "i1"}
TABLES = tuple(_PARTS)
# Rows of a part in memory, and of a row group in the file, but for the last; fewer where few come, wide ones.
PART_ROWS = dict.fromkeys(TABLES, GROUP_ROWS) | {"fills": GROUP_ROWS // 2, "trades": GROUP_ROWS // 4}


def dtypes_of(header: Header) -> dict[str, dict[str, str]]:
    """What the parts of a run hold, by table: its signals carry forecasts where a model is configured."""
    return {**_PARTS, "signals": _PARTS["signals"] | OUTLOOK} if "forecast" in header else _PARTS


class Parts:
    """The tables of one run; `new` sees their rows once each, some at a time.

    With `taken`, which gets each part for good, none is kept or saved.
    """

    def __init__(
        self,
        folder: Path,
        header: Header,
        new: Callable[[str, Columns], None],
        taken: Callable[[str, Columns], None] | None = None,
    ):
        self.folder, self._new, self._taken = folder, new, taken
        self.end = 0  # bytes of the file that count
        self.written = dict.fromkeys(TABLES, 0)  # rows that `new` has seen
        self.unheld = 0  # of these, the bytes of parts that are not in memory
        self._places: list[_Place] = []  # of the parts in the file
        self._unsaved: list[tuple[str, Columns]] = []  # rows that are not on disk yet
        self._held: list[tuple[str, Columns]] = []  # parts in memory, on disk or not
        self._bytes = 0  # of these
        self.dtypes = dtypes_of(header)
        self._buffers = {
            table: _Rows(columns, PART_ROWS[table], partial(self._see, table), partial(self._hold, table))
            for table, columns in self.dtypes.items()
        }

    def go_on(self, end: int, written: Mapping[str, int]) -> None:
        """From what a snapshot has left on disk; what is behind it does not count."""
        self.end, self.unheld, self.written = end, end, dict(written)

    def size(self, table: str) -> int:
        """Rows of a table so far."""
        return self.written[table] + self._buffers[table].unseen

    def add(self, table: str, columns: Columns) -> None:
        """Take in rows of one table, in their order."""
        self._buffers[table].add(columns)
        if self._bytes > HELD_BYTES:
            self.flush()
            self.write()
            self._let_go()
            self.unheld = self.end

    def flush(self) -> None:
        """Make parts of what is there, full or not."""
        for buffer in self._buffers.values():
            buffer.flush()

    def save(self) -> None:
        """Put on disk what is not there yet. It stays in memory, too: the end of the run reads nothing back."""
        for buffer in self._buffers.values():
            buffer.show()
        self.write()

    def _see(self, table: str, columns: Columns) -> None:
        """Some rows that are new."""
        if self._taken is None:
            self._unsaved.append((table, columns))
        self._new(table, columns)
        self.written[table] += size_of(columns)

    def _hold(self, table: str, columns: Columns) -> None:
        """Take over a part."""
        if self._taken is not None:
            self._taken(table, columns)
            return
        self._held.append((table, columns))
        self._bytes += sum(column.nbytes for column in columns.values())

    def _let_go(self) -> None:
        self._held.clear()
        self._bytes = 0

    def write(self) -> None:
        """Put on disk what was seen; what could not be written is still there."""
        if not self._unsaved:
            return
        self.folder.mkdir(exist_ok=True)
        with self._path.open("r+b" if self.end else "wb", buffering=0) as file:
            file.seek(self.end)
            while self._unsaved:
                place, pieces = _saved(*self._unsaved[0], self.end)
                hand_over(file, pieces)
                self._places.append(place)
                self.end = place.end
                del self._unsaved[0]

    @property
    def _path(self) -> Path:
        return self.folder / "rows"

    def read(self, table: str) -> Iterator[Columns]:
        """All parts of a table, in their order."""
        rows = 0
        for columns in chain(self._unheld(table), (columns for held, columns in self._held if held == table)):
            rows += size_of(columns)
            yield columns
        if rows != self.written[table]:
            raise LedgerError(f"results: {rows} rows of {table} are there, {self.written[table]} were written")

    def _unheld(self, table: str) -> Iterator[Columns]:
        for place in self._places:
            if place.table == table and place.end <= self.unheld:
                with self._path.open("rb") as file:
                    yield _read(file, place, self.dtypes[table])

    def forget(self) -> None:
        """The folder is made: what is in memory is needed no more."""
        self._let_go()
        self._unsaved.clear()

    def find(self) -> None:
        """Where the parts are from which it goes on."""
        there = self._path.stat().st_size if self._path.exists() else 0
        if there < self.end:
            raise UserError(f"{self.folder.parent}: rows of the interrupted run are gone; start the run anew")
        self.folder.mkdir(parents=True, exist_ok=True)
        at = 0
        while at < self.end:
            with self._path.open("rb") as file:
                file.seek(at)
                table, rows, columns = msgspec.json.decode(file.read(_HEADER))
            self._places.append(_Place(table, rows, columns, at))
            at = self._places[-1].end


class _Place(NamedTuple):
    """A part in the file."""

    table: str
    rows: int
    columns: list[tuple[str, str, int]]  # name, type and size of each, in their order
    begin: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.begin + _HEADER + sum(size * np.dtype(kind).itemsize for _, kind, size in self.columns)


def size_of(columns: Columns) -> int:
    """How many rows."""
    return len(next(iter(columns.values())))


def _saved(table: str, columns: Columns, begin: int) -> tuple[_Place, list[Any]]:
    """A part as it is on disk, in pieces; wide columns first, so that each begins at a multiple of its width."""
    saved = {name: packed(column) if name in _RISING else _narrow(column) for name, column in columns.items()}
    order = sorted(saved, key=lambda name: -saved[name].itemsize)
    place = _Place(table, size_of(columns), [(name, saved[name].dtype.str, saved[name].size) for name in order], begin)
    header = msgspec.json.encode(place[:-1]).ljust(_HEADER)
    return place, [header, *(saved[name] for name in order)]


def _narrow(column: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whole numbers in as few bytes as hold them all."""
    if column.dtype.kind != "i" or column.itemsize == 1:
        return column
    least, most = int(column.min()), int(column.max())
    width = next(width for width in (1, 2, 4, 8) if -(1 << 8 * width - 1) <= least and most < 1 << 8 * width - 1)
    return column.astype(f"i{width}", copy=False)


def _read(file: BinaryIO, place: _Place, dtypes: Mapping[str, str]) -> Columns:
    """The columns of a part on disk."""
    file.seek(place.begin + _HEADER)
    columns = {}
    for name, kind, size in place.columns:
        column = np.fromfile(file, kind, size)
        columns[name] = unpacked(column, place.rows) if name in _RISING else column.astype(dtypes[name], copy=False)
    return columns


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
        rows, taken = size_of(part), 0
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
    """Columns of a fixed capacity: `seen` gets rows once each, `full` the whole when there is no room any more."""

    def __init__(
        self, dtypes: Mapping[str, str], capacity: int,
        seen: Callable[[Columns], None], full: Callable[[Columns], None],
    ):  # fmt: skip
        self._size = self._shown = 0
        self._dtypes, self._capacity, self._seen, self._full = dtypes, capacity, seen, full
        self._columns: Columns = {}

    @property
    def unseen(self) -> int:
        """Rows that were not shown yet."""
        return self._size - self._shown

    def add(self, columns: Columns) -> None:
        """Copy rows in; the caller's arrays are not kept."""
        rows, taken = size_of(columns), 0
        while taken < rows:
            if not self._size:
                # one by one: a large piece finds no gap in the heap
                self._columns = {name: np.empty(self._capacity, dtype) for name, dtype in self._dtypes.items()}
            some = min(rows - taken, self._capacity - self._size)
            for name, column in self._columns.items():
                column[self._size : self._size + some] = columns[name][taken : taken + some]
            self._size += some
            taken += some
            if self._size == self._capacity:
                self.flush()

    def show(self) -> None:
        """Let what is new be seen; it stays."""
        if self.unseen:
            self._seen({name: column[self._shown : self._size] for name, column in self._columns.items()})
            self._shown = self._size

    def flush(self) -> None:
        """Hand over what is there."""
        if self._size:
            self.show()
            columns = {name: column[: self._size] for name, column in self._columns.items()}
            self._size, self._shown, self._columns = 0, 0, {}
            self._full(columns)
