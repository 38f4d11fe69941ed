"""Bar files as tables: Parquet and CSV, one batch at a time, every column checked on the way in."""

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from operators.split import Columns, joined
from schemas.errors import UserError
from schemas.frames import Floats, Ints, Longs
from schemas.universe import MAX_NAME

PRICES = ("open", "high", "low", "close", "volume")
QUOTES = ("bid", "ask")
NUMBERS = (*PRICES, *QUOTES)
NEEDED = ("symbol", "ts", *PRICES)
KINDS = (".parquet", ".csv", ".csv.gz")

_GROUP = 131_072  # rows of a row group that we write
_BATCH = _GROUP // 2  # rows decoded at once: fewer are dearer, more are memory that is never warm
_BUFFER = 1 << 20  # bytes of one column read at once, so that a row group may be of any size
_PER_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_NAIVE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?")
_NONE: Floats = np.zeros(0)

A = TypeVar("A", bound=np.ndarray[Any, Any])


class Table(NamedTuple):
    """Bars with names of their own: `columns.symbol` points into `names`, which are upper-cased."""

    names: tuple[str, ...]
    columns: Columns


class Keys(NamedTuple):
    """Times and symbols of bars, with names of their own as in a Table; numbers are read when they are asked for."""

    names: tuple[str, ...]
    ts: Longs
    symbol: Ints


class Column:
    """A number of bars whose keys came before, read as it is taken."""

    def __init__(self) -> None:
        self._ahead: deque[Iterator[Floats]] = deque()
        self._rest: Floats = _NONE

    def add(self, values: Iterable[Floats]) -> None:
        """What follows behind all that was added."""
        self._ahead.append(iter(values))

    def take(self, rows: int) -> Iterator[Floats]:
        """So many values, in pieces as they are read."""
        while rows:
            values = self._rest if self._rest.size else self._read()
            piece = values[:rows]
            self._rest = values[rows:] if rows < values.size else _NONE  # a view would keep all of it
            rows -= piece.size
            del values
            yield piece

    def _read(self) -> Floats:
        while self._ahead:
            for values in self._ahead[0]:
                if values.size:
                    return values
            self._ahead.popleft()
        raise RuntimeError("a column has fewer rows than there are keys")


class Extent(NamedTuple):
    """What a choice of bars amounts to."""

    rows: int
    first: int  # UTC ns
    last: int


@dataclass(frozen=True)
class BarFile:
    """One file whose columns are known to be those of bars."""

    path: Path
    size: int  # bytes
    mtime_ns: int
    groups: tuple[int, ...]  # rows of each row group; none for CSV, which has to be read from the start
    has_quotes: bool

    @property
    def parquet(self) -> bool:
        """Whether it can be read from the middle."""
        return self.path.name.lower().endswith(".parquet")

    def tables(self, groups: Sequence[int] | None = None, numbers: Sequence[str] = NUMBERS) -> Iterator[Table]:
        """The rows of consecutive row groups (of the whole file), in file order.

        Beside `ts` and `symbol` only these `numbers` are read, the other columns are empty. Nulls in
        numbers are NaN. Raises UserError for what is no symbol, time or number, with its row.
        """
        numeric = tuple(name for name in numbers if self.has_quotes or name not in QUOTES)
        if not self.parquet:
            yield from self._texts(numeric)
            return
        columns = {name: Column() for name in numeric}
        for names, ts, symbol in self.keys(range(len(self.groups)) if groups is None else groups, columns):
            values = (np.concatenate([*columns[name].take(ts.size)]) if name in columns else _NONE for name in NUMBERS)
            yield Table(names, Columns(ts, symbol, *values))

    def keys(self, groups: Sequence[int], numbers: Mapping[str, Column]) -> Iterator[Keys]:
        """Times and symbols of consecutive row groups of a Parquet file, some rows at a time.

        The same rows' numbers are to be taken from these columns; quotes that the file lacks are NaN. Both raise
        UserError for what is no symbol, time or number, with its row.
        """
        with reading(self.path):
            file = pq.ParquetFile(self.path, read_dictionary=["symbol"], pre_buffer=False, buffer_size=_BUFFER)
        is_small = sum(self.groups[group] for group in groups) <= _BATCH
        for name, column in numbers.items():
            values = self._values(file, groups, name)
            column.add(list(values) if is_small else values)  # of many small files few are open at a time
        decoder = self._decoder(groups)
        for batch in self._batches(file, groups, "symbol", "ts"):
            yield decoder.keys(batch)

    def _values(self, file: Any, groups: Sequence[int], name: str) -> Iterator[Floats]:
        """A number of these rows."""
        if name in QUOTES and not self.has_quotes:
            yield from (frozen(np.full(self.groups[group], np.nan)) for group in groups)
            return
        decoder = self._decoder(groups)
        for batch in self._batches(file, groups, name):
            yield decoder.numbers(name, batch)

    def _decoder(self, groups: Sequence[int]) -> "Decoder":
        return Decoder(self.path, sum(self.groups[: groups[0]]) if groups else 0)

    def _batches(self, file: Any, groups: Sequence[int], *columns: str) -> Iterator[pa.RecordBatch]:
        """Arrow batches with these columns."""
        with reading(self.path):
            yield from file.iter_batches(_BATCH, row_groups=list(groups), columns=list(columns), use_threads=False)

    def _texts(self, numeric: Sequence[str]) -> Iterator[Table]:
        """All rows of a file that is text."""
        columns = ["symbol", "ts", *numeric]
        options = pyarrow.csv.ConvertOptions(
            include_columns=columns, column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=True, null_values=[""],
        )  # fmt: skip
        one = pyarrow.csv.ReadOptions(use_threads=False, block_size=1 << 22)
        decoder = Decoder(self.path)
        with reading(self.path), _text(self.path) as stream:
            for batch in pyarrow.csv.open_csv(stream, read_options=one, convert_options=options):
                floats = {name: decoder.floats(name, batch.column(name)) for name in numeric}
                names, ts, symbol = decoder.keys(batch)
                yield Table(names, Columns(ts, symbol, *(floats.get(name, _NONE) for name in NUMBERS)))


class Decoder:
    """Arrow batches of one file -> columns; counts rows, so that an error can name one."""

    def __init__(self, path: Path, row: int = 0):
        self.path, self.row = path, row
        self._dictionary: Any = None
        self.names: tuple[str, ...] = ()

    def keys(self, batch: pa.RecordBatch) -> Keys:
        """Whose bars the rows of a batch are, and of when."""
        symbol, ts = self.codes(batch.column("symbol")), self.instants(batch.column("ts"))
        self.row += batch.num_rows
        return Keys(self.names, frozen(ts), frozen(symbol))

    def numbers(self, name: str, batch: pa.RecordBatch) -> Floats:
        """One number of the rows of a batch."""
        values = self.floats(name, batch.column(name))
        self.row += batch.num_rows
        return frozen(values)

    def codes(self, array: Any) -> Ints:
        """Places in the names; a new dictionary becomes new names."""
        self._present("symbol", array)
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        if self._dictionary is None or not array.dictionary.equals(self._dictionary):
            self._dictionary = array.dictionary
            self.names = tuple(self._symbol(name) for name in array.dictionary.to_pylist())
        codes: Ints = plain(array.indices).astype(np.int32, copy=False)
        return codes

    def _symbol(self, name: str) -> str:
        """The name as the platform knows it."""
        if not (name and len(name) <= MAX_NAME and name.isascii() and name.isprintable() and " " not in name):
            raise UserError(
                f"{self.path}: symbol {name!r}: want 1 to {MAX_NAME} visible ASCII characters without spaces"
            )
        return name.upper()

    def instants(self, array: Any, name: str = "ts") -> Longs:
        """UTC ns."""
        self._present(name, array)
        if is_text(array.type):
            array = self.parsed(name, array, pa.timestamp("ns", "UTC"))
        factor = _PER_NS[array.type.unit]
        ts: Longs = plain(array.view(pa.int64()))
        if factor == 1 or not ts.size:
            return ts
        bound = (2**63 - 1) // factor
        if ts.max() > bound or ts.min() < -bound:
            at = int(np.argmax(np.abs(ts.astype(np.float64))))
            far = f"{name} {ts[at]} {array.type.unit} since 1970 is no date"
            raise UserError(f"{self.path}: row {self.row + at + 1}: {far}")
        return ts * factor

    def floats(self, name: str, array: Any) -> Floats:
        """Numbers, with NaN for null."""
        if is_text(array.type):
            array = self.parsed(name, array, pa.float64())
        if array.type != pa.float64():
            array = array.cast(pa.float64(), safe=False)
        values: Floats = array.to_numpy(zero_copy_only=False) if array.null_count else plain(array)
        return values

    def _present(self, name: str, array: Any) -> None:
        """A row needs its symbol and its time."""
        if pa.types.is_dictionary(array.type) and array.dictionary.null_count:
            array = array.cast(array.type.value_type)
        if array.null_count:
            row = self.row + pc.index(array.is_null(), value=True).as_py() + 1
            raise UserError(f"{self.path}: row {row} has no {name}; give it one or take the row out")

    def parsed(self, name: str, array: Any, kind: Any) -> Any:
        """Text -> numbers or instants; the first that cannot be read is named."""
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        array = pc.utf8_trim_whitespace(array)
        try:
            return pc.cast(array, kind)
        except pa.ArrowInvalid:
            for at, value in enumerate(array):
                try:
                    pc.cast(value, kind)
                except pa.ArrowInvalid:
                    raise UserError(self._unreadable(name, kind, at, value.as_py())) from None
            raise

    def _unreadable(self, name: str, kind: Any, at: int, value: str) -> str:
        start = f"{self.path}: row {self.row + at + 1}, column {name}: {value!r}"
        if kind == pa.date32():
            return f"{start} is no date; write it as 2024-01-02"
        if kind == pa.float64():
            return f"{start} is not a number"
        if _NAIVE.fullmatch(value):
            return f"{start} has no time zone; write UTC as in 2024-01-02T14:31:00Z"
        return f"{start} is no time; write it as in 2024-01-02T14:31:00Z"


def open_folder(path: Path) -> list[BarFile]:
    """The bar files of a folder by name, or the one file; each one's columns checked."""
    with reading(path):
        if not path.is_dir():
            return [open_file(path)]
        found = sorted(each for each in path.iterdir() if _kind(each) and not each.name.startswith("."))
    if not found:
        raise UserError(f"{path}: no bar files in this folder; want {', '.join(KINDS)}")
    return [open_file(each) for each in found]


def look(path: Path) -> os.stat_result:
    """A file that there is something in. Raises UserError."""
    if not path.exists():
        raise UserError(f"{path}: no such file{_nearest_file(path)}")
    if not _kind(path):
        raise UserError(f"{path}: unknown kind of file; want {', '.join(KINDS)}")
    with reading(path):
        stat = path.stat()
    if not stat.st_size:
        raise UserError(f"{path} is empty; want a header and rows")
    return stat


def read_table(path: Path) -> pa.Table:
    """A whole file, for what is small beside bars; text where the file is text. Raises UserError."""
    look(path)
    with reading(path):
        if _kind(path) == ".parquet":
            return pq.read_table(path)
        with _text(path) as stream:
            names = pyarrow.csv.open_csv(stream, pyarrow.csv.ReadOptions(use_threads=False)).schema.names
        options = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        )
        with _text(path) as stream:
            return pyarrow.csv.read_csv(stream, convert_options=options)


def open_file(path: Path) -> BarFile:
    """Look at a file's columns. Raises UserError, one line, for anything that is no bar file."""
    stat = look(path)
    with reading(path):
        if _kind(path) != ".parquet":
            with _text(path) as stream:
                names = pyarrow.csv.open_csv(stream, pyarrow.csv.ReadOptions(use_threads=False)).schema.names
            columns: dict[str, Any] = dict.fromkeys(names, pa.string())
            groups: tuple[int, ...] = ()
        else:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                columns = {field.name: field.type for field in file.schema_arrow}
                groups = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
    twice = [name for name in (*NEEDED, *QUOTES) if names.count(name) > 1]
    if twice:
        raise UserError(f"{path} has two columns {twice[0]}; leave one")
    _check_columns(path, columns)
    return BarFile(path, stat.st_size, stat.st_mtime_ns, groups, "bid" in columns)


def _check_columns(path: Path, columns: dict[str, Any]) -> None:
    """All that is needed, each of a type that can be read."""
    quotes = [name for name in QUOTES if name in columns]
    for name in (*NEEDED, *(QUOTES if quotes else ())):
        if name not in columns:
            if name in QUOTES:
                raise UserError(f"{path} has {quotes[0]} without {name}; give both or none")
            raise UserError(f"{path} has no column {name}{nearest(name, columns)}")
        kind = columns[name]
        if name == "symbol":
            if not is_text(kind):
                raise UserError(f"{path}: column symbol is {kind}; want text")
        elif name == "ts":
            _check_time(path, kind)
        elif not is_text(kind) and not _is_number(kind):
            raise UserError(f"{path}: column {name} is {kind}; want numbers")


def _check_time(path: Path, kind: Any) -> None:
    if pa.types.is_timestamp(kind):
        if kind.tz is None:
            raise UserError(f"{path}: column ts has no time zone; store it as timestamp[us, UTC]")
    elif not is_text(kind):
        raise UserError(f"{path}: column ts is {kind}; store it as timestamp[us, UTC], the end of the bar")


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: Any) -> bool:
    of = pa.types
    return bool(of.is_floating(kind) or of.is_integer(kind) or of.is_decimal(kind) or of.is_null(kind))


def _kind(path: Path) -> str:
    """The ending that says how to read a file; none of ours: empty."""
    return next((ending for ending in KINDS if path.name.lower().endswith(ending)), "")


def _text(path: Path) -> Any:
    return pa.input_stream(str(path), compression="gzip" if _kind(path) == ".csv.gz" else None)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or what there is, or nothing."""
    words = {each.lower(): each for each in known}
    close = get_close_matches(word.lower(), words, 1, 0.5)
    if close:
        return f"; did you mean {words[close[0]]}?"
    some = sorted(words.values())[:8]
    return f"; there is {', '.join(some)}{' ...' if len(words) > len(some) else ''}" if some else ""


def _nearest_file(path: Path) -> str:
    """A neighbour with a similar name."""
    try:
        names = [each.name for each in path.parent.iterdir() if _kind(each) or each.is_dir()]
    except OSError:
        return ""
    close = get_close_matches(path.name, names, 1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read, as one line."""
    try:
        yield
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as {_kind(path)[1:] or 'a folder'}: {reason}; is it whole?") from error


def frozen(array: A) -> A:
    """The same, not to be written to: as Arrow's are, so that loops over either have one compiled form."""
    array.flags.writeable = False
    return array


def plain(array: Any) -> np.ndarray[Any, Any]:
    """An Arrow array's numbers where they lie, none of them null; Arrow's own way imports pandas: 46 MB."""
    return np.from_dlpack(array)


def write_tables(path: Path, tables: Iterable[Table], has_quotes: bool) -> int:
    """Write tables to a Parquet file in row groups of their own size; returns the rows written."""
    names = (*PRICES, *(QUOTES if has_quotes else ()))
    kinds = {"symbol": pa.dictionary(pa.int32(), pa.string()), "ts": pa.timestamp("ns", "UTC")}
    # What is never null says so: a column then has no levels to decode, which is a third of the reading.
    schema = pa.schema(
        [pa.field(name, kinds.get(name, pa.float64()), nullable=False) for name in ("symbol", "ts", *names)]
    )
    rows = 0
    # Dictionaries alone halve prices on a grid, and cost less to read than any compression.
    with pq.ParquetWriter(path, schema, compression="none", dictionary_pagesize_limit=4 << 20) as writer:
        for table in _regrouped(tables):
            columns = table.columns._asdict()
            arrays = [
                pa.DictionaryArray.from_arrays(columns["symbol"], pa.array(table.names, pa.string())),
                pa.array(columns["ts"]).cast(schema.field("ts").type),
                *(pa.array(columns[name]) for name in names),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema), row_group_size=_GROUP)
            rows += columns["ts"].size
    return rows


def _regrouped(tables: Iterable[Table]) -> Iterator[Table]:
    """Tables of the same names, put together to the size of a row group."""
    held: list[Columns] = []
    names: tuple[str, ...] = ()
    for table in tables:
        if held and table.names != names:
            yield Table(names, joined(held))
            held = []
        names = table.names
        held.append(table.columns)
        size = sum(part.ts.size for part in held)
        if size >= _GROUP:
            whole = joined(held)
            for begin in range(0, size - _GROUP + 1, _GROUP):
                yield Table(names, whole.rows(begin, begin + _GROUP))
            held = [whole.rows(size - size % _GROUP, size)]
    if held:
        yield Table(names, joined(held))
