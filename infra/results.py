"""Ledger frames -> the folder of a run: summary.json, report.html and Parquet tables.

While a run lasts, rows lie in parts: in memory up to a bound, then in `<out>.partial/parts` as
numbered Arrow files. A snapshot puts all of them there and names the next numbers, a resume drops
what was written after it. `finish` turns the parts into Parquet, row groups of a fixed size, so that
the bytes depend on the ledger alone and the memory not on its length, and moves the whole folder to
`<out>` in one rename. A half-written `<out>` never exists.
"""

import fcntl
import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.benchmark import About, Points
from infra.settings import Settings, describe, settings_hash
from operators.ordering import order_of
from operators.outcome import UNIT
from risk.ledger import LedgerFrame, uncalibrated
from risk.limits import limits
from risk.order_ids import order_ids
from schemas.errors import UserError
from schemas.events import Absence, Direction, Kind, Leg, Reason, Regime, Side, Status, word
from schemas.frames import Bools, Codes, Floats, Ints, Longs, Names, Outcomes
from schemas.units import NS_PER_SECOND, TICKS_PER_USD, to_usd

VERSION = 4
GROUP_ROWS = 1 << 17  # rows in a row group of a Parquet file
PART_ROWS = GROUP_ROWS  # rows of a part, but for the last before a snapshot
HELD_BYTES = 1 << 27  # of full parts in memory before they are written

Columns = dict[str, np.ndarray[Any, Any]]
State = dict[str, Any]

_CODES = 128  # reasons fit an int8
_FILLED = -1  # of an entry, beside the reasons for which it was not
_ENDED = (Status.CANCELED, Status.EXPIRED, Status.REJECTED)

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
_OUTLOOK = {"q10": "f8", "q50": "f8", "q90": "f8", "probability": "f8", "age": "i4", "model": "i1"}
TABLES = tuple(_PARTS)
_BY_SIZE = ("signals", "orders", *(name for name in TABLES if name not in ("signals", "orders")))
_FUNDS = ("cash", "cost", "value", "realised", "fees", "dividends", "positions", "pending", "drawdown_latches",
          "latch_releases", "killed")  # fmt: skip

# Where a row's signal may end, stage by stage; codes 10..19 are the filters'.
_STAGES = (
    ("insights", (Reason.NOT_WARM, Reason.NO_INSIGHT)),
    ("direction", (Reason.NEUTRAL,)),
    ("published", (Reason.BELOW_PUBLISH_GATE,)),
    ("decided", (Reason.NO_FORECAST, Reason.BELOW_DECISION_GATE, Reason.EXPECTED_RETURN, Reason.LOW_PROBABILITY)),
    ("filters", tuple(range(10, 20))),
)
_JUDGED = ("forecasts", "inside", "measured", "compared", "loss", "usual")
_SAID = ("decisions", "right", "said")
BINS = 20  # of a forecast's probability, 0 to 1
_ODD = ("missing_bars", "gaps", "stale_bars", "jumps")  # columns of a frame's `quality`
_ODDEST = 20  # symbols that the summary names


class LedgerError(RuntimeError):
    """The ledger contradicts itself: a gap in its slices, or totals that do not reconcile."""


class Header(TypedDict):
    """What the summary says of a run beside what happened in it."""

    account: str
    initial_cash: int  # ticks
    alphas: list[str]  # alpha k is digit k of `views`
    bars: dict[str, Any]  # label, fingerprint, rows, symbols, ...: as the source describes itself
    synthetic: bool
    timeframe: str
    after: int  # UTC ns; the run covers after < ts <= upto
    upto: int
    off: list[str]  # what was not there or switched off: forecast, quotes, earnings, liquidity
    benchmark: About | None
    settings_hash: str
    settings: dict[str, Any]
    forecast: NotRequired[dict[str, Any]]  # where a model is configured: `models` (k has number k + 1), `events`


def header(
    settings: Settings,
    *,
    alphas: Sequence[str],
    bars: Mapping[str, Any],
    synthetic: bool,
    timeframe: str,
    after: int,
    upto: int,
    off: Sequence[str] = (),
    benchmark: About | None = None,
    forecast: Mapping[str, Any] | None = None,
) -> Header:
    """The header of a run with these settings; `forecast`: who does, None where no model is configured."""
    made = Header(
        account=settings.run.account,
        initial_cash=limits(settings.account).initial_cash,
        alphas=list(alphas),
        bars=dict(bars),
        synthetic=synthetic,
        timeframe=timeframe,
        after=after,
        upto=upto,
        off=list(off),
        benchmark=benchmark,
        settings_hash=settings_hash(settings),
        settings=describe(settings),
    )
    if forecast is not None:
        made["forecast"] = dict(forecast)
    return made


def _parts(header: Header) -> dict[str, dict[str, str]]:
    """What the parts of a run hold, by table: its signals carry forecasts where a model is configured."""
    return {**_PARTS, "signals": _PARTS["signals"] | _OUTLOOK} if "forecast" in header else _PARTS


def check_out(out: Path) -> Path:
    """The absolute path of a run's folder; refuses one that holds something else."""
    out = out.resolve()
    try:
        return _free(out)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from error


def _free(out: Path) -> Path:
    if out.is_mount():
        raise UserError(f"--out {out}: is the root of a file system; name a folder in it")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file, want a folder")
    if out.is_dir() and not (out / "summary.json").exists() and any(out.iterdir()):
        raise UserError(f"--out {out}: holds files but no summary.json, so it is no run; name another folder")
    return out


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run."""
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no finished run (summary.json cannot be read)") from error
    return summary


def write_timing(folder: Path, timing: Mapping[str, Any]) -> None:
    """How long things took, in seconds; beside the summary, which must not depend on a clock."""
    (folder / "timing.json").write_text(json.dumps(dict(timing), indent=2) + "\n")


def _identity(header: Header) -> str:
    """Which run this is: the same bars, range and settings."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _locked(work: Path) -> int:
    """The working folder, for this process alone: an open file whose lock goes with the process."""
    out = work.with_suffix("")
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = os.open(work / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        if isinstance(error, PermissionError) and not (work / "lock").exists():
            raise UserError(f"--out {out}: {error.strerror}") from error
        raise UserError(f"--out {out}: another run is writing here; name another folder") from None
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from error
    return lock


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """A disk that is full or not ours is the user's to mend."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
        raise UserError(f"--out {out}: {reason}; free some space or name another folder") from error


class Recorder:
    """Takes ledger frames in order; `finish` makes the folder."""

    def __init__(self, out: Path, header: Header, benchmark: Points | None = None):
        """A fresh start: what an earlier run has left unfinished here is dropped."""
        self._begin(out, header, benchmark)
        try:
            if (self._work / "old").exists() and not self.out.exists():  # a crash between two renames
                (self._work / "old").rename(self.out)
            for left in self._work.iterdir():
                if left.is_dir():
                    shutil.rmtree(left)
            self._parts.mkdir()
        except OSError as error:
            raise UserError(f"--out {self.out}: {error.strerror or error}") from error

    @classmethod
    def resume(
        cls, out: Path, header: Header, state: State, benchmark: Points | None = None, *, keep: bool = False
    ) -> "Recorder":
        """Go on after a snapshot; if the run has been finished since, its folder is left as it is.

        `keep`: the parts were kept, and more frames may come.
        """
        if state["version"] != VERSION:
            raise LedgerError(f"results: state of version {state['version']}, want {VERSION}")
        if state["run"] != _identity(header):
            raise UserError(
                "the recovery store belongs to a run with other bars or settings: give the same ones, or a new store"
            )
        self = cls.__new__(cls)
        self._begin(out, header, benchmark)
        self.upto, self.rows = state["upto"], state["rows"]
        self._names = state["names"].copy()
        self._rank = _ranks(self._names)
        self._totals.restore(state["totals"])
        self._next, self._written = dict(state["next"]), dict(state["written"])
        if not keep and self.complete and self._is_there():
            self.finished = True
            shutil.rmtree(self._work, ignore_errors=True)
        else:
            self._drop_later_parts()
        return self

    def _begin(self, out: Path, header: Header, benchmark: Points | None) -> None:
        self.out = check_out(out)
        self._work = self.out.with_name(self.out.name + ".partial")
        self._parts = self._work / "parts"
        weakref.finalize(self, os.close, _locked(self._work))
        self.header, self._benchmark = header, benchmark
        self.finished = False
        self.interrupted = False  # set by Ctrl-C from another thread: do not finish any more
        self.upto = header["after"]  # UTC ns; everything up to here is recorded
        self.rows = 0  # bars that reached the account
        self._names: Names = np.zeros(0, "S1")
        self._rank: Ints = np.zeros(0, np.int32)  # by symbol: place in alphabetical order
        at_broker = header["settings"].get("venue", {}).get("kind") == "broker"
        self._totals = _Totals(header["initial_cash"], header["after"], at_broker)
        self._next = dict.fromkeys(TABLES, 0)  # number of the next part
        self._written = dict.fromkeys(TABLES, 0)  # rows in parts
        self._held: list[tuple[str, Columns]] = []  # parts that are not on disk yet
        self._dtypes = _parts(header)
        self._buffers = {
            table: _Rows(columns, PART_ROWS, partial(self._hold, table)) for table, columns in self._dtypes.items()
        }

    @property
    def complete(self) -> bool:
        """True when the whole range has been recorded."""
        return self.upto == self.header["upto"]

    @property
    def has_parts(self) -> bool:
        """True when there are parts on disk, from which an earlier snapshot may have to go on."""
        return any(self._next.values())

    @property
    def trades(self) -> int:
        """Round trips so far."""
        return self._written["trades"] + self._buffers["trades"].size

    @property
    def equity_usd(self) -> float:
        """Equity after the last slice so far."""
        return to_usd(self._totals.equity)

    def add(self, frame: LedgerFrame) -> None:
        """Take in one frame; raises LedgerError unless it follows the one before."""
        if self.finished:
            raise LedgerError("results: the run is finished, no frame can follow")
        if frame.slices.after != self.upto:
            raise LedgerError(f"results: a frame after {_iso(frame.slices.after)} follows {_iso(self.upto)}")
        if frame.names.size != self._names.size:
            self._names = frame.names.copy()
            self._rank = _ranks(self._names)
        self.rows += frame.rows
        self._totals.frame(frame)
        with _writing(self.out):
            for table in TABLES:
                self._take(table, _rows(frame, table, self._dtypes[table]))
        self.upto = frame.slices.upto

    def snapshot(self) -> State:
        """Everything so far is in closed files; plain values from which `resume` goes on."""
        if not self.finished:
            with _writing(self.out):
                self._flush()
                self._write_parts()
        return {
            "version": VERSION,
            "run": _identity(self.header),
            "upto": self.upto,
            "rows": self.rows,
            "names": self._names.copy(),
            "next": dict(self._next),
            "written": dict(self._written),
            "totals": self._totals.plain(),
        }

    def finish(self, timing: Mapping[str, float] | None = None, *, keep: bool = False) -> dict[str, Any]:
        """Make the folder and return the summary; raises LedgerError before the range is complete.

        Doing it twice is harmless. `timing` (seconds) goes into timing.json. `keep`: more frames may come, which cover
        no slice; the parts stay, to make the folder anew with them, until `drop_parts`.
        """
        if self.finished:
            return read_summary(self.out)
        if not self.complete:
            upto = _iso(self.header["upto"])
            raise LedgerError(f"results: recorded up to {_iso(self.upto)} of {upto}; left in {self._work}")
        with _writing(self.out):
            summary = self._finish(timing)
            shutil.rmtree(self._work / "old" if keep else self._work, ignore_errors=True)
        self.finished = not keep
        return summary

    def drop_parts(self) -> None:
        """No more frames come after `finish(keep=True)`."""
        shutil.rmtree(self._work, ignore_errors=True)
        self.finished = True

    def discard(self) -> None:
        """Drop what is not finished; the former run stays as it is. For a run that cannot be resumed."""
        if self.finished:
            return
        if (self._work / "old").exists() and not self.out.exists():
            (self._work / "old").rename(self.out)
        shutil.rmtree(self._work, ignore_errors=True)

    def _finish(self, timing: Mapping[str, float] | None) -> dict[str, Any]:
        from risk import report

        self._flush()
        summary = self._totals.summary(self.header, self.rows, self._written, self._names)
        run = self._work / "run"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        models = [model["id"] for model in self.header.get("forecast", {}).get("models", [])]
        words = _Words(self.header["account"], self.header["alphas"], self._names, models)
        with ThreadPoolExecutor(2) as pool:  # compiled code without the GIL, for the most part
            list(pool.map(lambda table: self._write_parquet(table, run / f"{table}.parquet", words), _BY_SIZE))
        text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
        (run / "summary.json").write_text(text, encoding="utf-8")
        if timing is not None:
            write_timing(run, timing)
        if self._benchmark is not None:
            ts, value = self._benchmark()
            pq.write_table(pa.table({"ts": words.ts(ts), "value": value}), run / "benchmark.parquet")
        self._heed()
        report.write(run)
        self._heed()
        old = self._work / "old"
        if self.out.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.out.rename(old)
        run.rename(self.out)
        return summary

    def _heed(self) -> None:
        """After Ctrl-C a run that is nearly finished is not put in the place of the former one."""
        if self.interrupted:
            raise KeyboardInterrupt

    # Parts.

    def _take(self, table: str, columns: Columns) -> None:
        """Add a frame's rows of one table, put into order of (ts, symbol name) where they are not."""
        ts = columns["exit_ts" if table == "trades" else "ts"]
        if not ts.size:
            return
        if ts.size > 1 and "symbol" in columns:
            order = order_of(ts, columns["symbol"], self._rank)
            if order is not None:
                columns = {name: column[order] for name, column in columns.items()}
        self._buffers[table].add(columns)

    def _flush(self) -> None:
        for buffer in self._buffers.values():
            buffer.flush()

    def _hold(self, table: str, columns: Columns) -> None:
        """Take over a part."""
        self._held.append((table, columns))
        self._totals.part(table, columns)
        self._written[table] += len(next(iter(columns.values())))
        if sum(column.nbytes for _, part in self._held for column in part.values()) > HELD_BYTES:
            self._write_parts()

    def _write_parts(self) -> None:
        """Put what is held on disk; what could not be written is still held."""
        while self._held:
            table, columns = self._held[0]
            batch = pa.RecordBatch.from_pydict(columns)
            path = self._part(table, self._next[table])
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
            self._next[table] += 1
            del self._held[0]

    def _part(self, table: str, number: int) -> Path:
        return self._parts / f"{table}-{number:06}.arrow"

    def _read_parts(self, table: str) -> Iterator[Columns]:
        rows = 0
        for number in range(self._next[table]):
            with pa.memory_map(str(self._part(table, number))) as file:
                batch = pa.ipc.open_file(file).get_batch(0)
                rows += batch.num_rows
                yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in self._dtypes[table]}
        for held, columns in self._held:
            if held == table:
                rows += len(next(iter(columns.values())))
                yield columns
        if rows != self._written[table]:
            raise LedgerError(f"results: {rows} rows of {table} are there, {self._written[table]} were written")

    def _drop_later_parts(self) -> None:
        kept = {self._part(table, number) for table in TABLES for number in range(self._next[table])}
        there = set(self._parts.glob("*.arrow"))
        if kept - there:
            missing = min(kept - there).name
            raise UserError(f"{self._work}: {missing} and others of the interrupted run are gone; start the run anew")
        self._parts.mkdir(parents=True, exist_ok=True)
        for path in there - kept:
            path.unlink()

    def _is_there(self) -> bool:
        """True when the folder holds this very run."""
        if not (self.out / "summary.json").exists():
            return False
        summary = read_summary(self.out)
        wanted = self._totals.summary(self.header, self.rows, self._written, self._names)
        return bool(summary == json.loads(json.dumps(wanted)))

    # Parquet.

    def _write_parquet(self, table: str, path: Path, words: "_Words") -> None:
        convert = _CONVERT[table]
        empty = {name: np.zeros(0, dtype) for name, dtype in self._dtypes[table].items()}
        schema = pa.schema(
            [field.with_nullable(field.name == "parent_id") for field in pa.table(convert(words, empty)).schema]
        )
        writer = pq.ParquetWriter(
            path,
            schema,
            compression={field.name: "lz4" if _repeats(field.type) else "none" for field in schema},
            use_dictionary=[field.name for field in schema if pa.types.is_dictionary(field.type)],
            write_statistics=[name for name in ("ts", "exit_ts", "symbol") if name in schema.names],
            write_batch_size=GROUP_ROWS,
        )

        with writer:
            parts = self._sorted_quarantine() if table == "quarantine" else self._read_parts(table)
            for columns in _groups(parts, GROUP_ROWS):
                writer.write_table(pa.table(convert(words, columns), schema), GROUP_ROWS)

    def _sorted_quarantine(self) -> Iterator[Columns]:
        """Refused bars may lie anywhere in time: the one table that is sorted as a whole, in memory."""
        parts = list(self._read_parts("quarantine"))
        if not parts:
            return
        whole = _joined(parts)
        order = np.lexsort((self._rank[whole["symbol"]], whole["ts"]))
        yield {name: column[order] for name, column in whole.items()}


def _iso(ts: int) -> str:
    """UTC ns -> `2024-01-02T15:00:00Z`."""
    return datetime.fromtimestamp(ts // NS_PER_SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rows(frame: LedgerFrame, table: str, names: Mapping[str, str]) -> Columns:
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


def _ranks(names: Names) -> Ints:
    rank = np.empty(names.size, np.int32)
    rank[np.argsort(names)] = np.arange(names.size, dtype=np.int32)
    return rank


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]


def _groups(parts: Iterable[Columns], most: int) -> Iterator[Columns]:
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
                yield _joined(some)
                some, room = [], most
    if some:
        yield _joined(some)


def _repeats(kind: Any) -> bool:
    """Whether columns of this type shrink enough to be worth it: slices' ends and ids do, measurements do not."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_string(kind))


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


# Totals.


def _entry(columns: Columns, row: int) -> tuple[int, int]:
    """The entry that a row speaks of."""
    return int(columns["symbol"][row]), int(columns["order_ts"][row])


def _by_code(codes: np.ndarray[Any, Any]) -> Longs:
    return np.bincount(codes, minlength=_CODES)


class _Totals:
    """Sums over the whole ledger, by reason where there is one; money in ticks."""

    def __init__(self, initial_cash: int, after: int, at_broker: bool):
        self.after = after  # UTC ns; entries sent before are an earlier run's
        self.at_broker = at_broker
        self.fates: dict[tuple[int, int], int] = {}  # at a broker, by symbol and slice of an entry: why it ended, or -1
        self.equity = initial_cash
        self.worst = 0.0  # drawdown
        self.slices = 0
        self.first = self.last = 0  # slices' ends, UTC ns
        self.stopped: Longs = np.zeros(_CODES, np.int64)
        self.refused: Longs = np.zeros(_CODES, np.int64)
        self.rejected: Longs = np.zeros(_CODES, np.int64)
        self.unfilled: Longs = np.zeros(_CODES, np.int64)  # entries that ended without a fill
        self.exits: Longs = np.zeros(_CODES, np.int64)  # trades
        self.approved = 0
        self.entries = 0  # filled
        self.wins = 0
        self.gains = 0
        self.losses = 0
        self.quality: Longs = np.zeros((0, len(_ODD)), np.int64)  # by symbol
        self.absent: Longs = np.zeros(max(Absence) + 1, np.int64)  # rows by Absence of a forecast
        self.made = 0  # forecasts
        self.alarms: list[tuple[Any, ...]] = []  # as Alarm
        self.judged: Longs = np.zeros((0, 0, len(_JUDGED)), np.int64)  # forecasts by model and horizon
        self.said: Longs = np.zeros((0, BINS, len(_SAID)), np.int64)  # by model and bin of the probability
        self.funds: dict[str, int] = {**dict.fromkeys(_FUNDS, 0), "cash": initial_cash}

    def plain(self) -> State:
        """A copy of everything in plain types."""
        return {
            name: value.copy() if isinstance(value, np.ndarray | dict) else value for name, value in vars(self).items()
        }

    def restore(self, plain: State) -> None:
        """The inverse of `plain`."""
        for name, value in plain.items():
            setattr(self, name, value.copy() if isinstance(value, np.ndarray | dict) else value)

    def frame(self, frame: LedgerFrame) -> None:
        """Add what a frame says as a whole."""
        if frame.slices.size:
            self.first = self.first or int(frame.slices.ts[0])
            self.last = int(frame.slices.ts[-1])
        self.slices += frame.slices.size
        self.stopped[: frame.stopped.size] += frame.stopped
        if frame.quality.size:
            missing = len(frame.quality) - len(self.quality)
            self.quality = np.pad(self.quality, ((0, missing), (0, 0))) + frame.quality
        if frame.absent.size:
            self.absent = self.absent + frame.absent
            self.made += frame.made
            self.alarms = [*self.alarms, *(tuple(alarm) for alarm in frame.alarms)]
            self._judge(frame.outcomes)
        if frame.equity.size:
            self.equity = int(frame.equity["equity"][-1])
        if frame.funds.size:
            last = frame.funds.view(np.ndarray)[-1]
            self.funds = {name: int(last[name]) for name in _FUNDS}

    def _judge(self, told: Outcomes) -> None:
        """Add what has become known of forecasts; whole numbers, so that nothing depends on how frames are cut."""
        if not told.ts.size:
            return
        models, horizons = int(told.model.max()), int(told.horizon.max()) + 1
        old = self.judged
        self.judged = np.zeros((max(models, len(old)), max(horizons, old.shape[1]), len(_JUDGED)), np.int64)
        self.judged[: len(old), : old.shape[1]] = old
        self.said = np.concatenate(
            [self.said, np.zeros((len(self.judged) - len(self.said), *self.said.shape[1:]), np.int64)]
        )
        model = told.model - 1
        measured = np.maximum(np.stack([told.loss, told.usual], axis=1), 0)
        counts = np.column_stack(
            [np.ones(model.size, np.int64), told.inside, told.loss >= 0, told.usual >= 0, measured]
        )
        np.add.at(self.judged, (model, told.horizon), counts)
        own = told.said >= 0
        place = np.minimum(told.said[own] * BINS // UNIT, BINS - 1)
        counts = np.column_stack([np.ones(place.size, np.int64), told.right[own], told.said[own]])
        np.add.at(self.said, (model[own], place), counts)

    def part(self, table: str, columns: Columns) -> None:
        """Add the rows of a part."""
        match table:
            case "equity":
                self.worst = max(self.worst, float(columns["drawdown"].max()))
            case "quarantine":
                self.refused += _by_code(columns["reason"])
            case "verdicts":
                self.approved += int(columns["approved"].sum())
                self.rejected += _by_code(columns["reason"][~columns["approved"]])
            case "updates":
                lost = (columns["leg"] == Leg.ENTRY) & np.isin(columns["status"], _ENDED)
                lost &= (columns["reason"] != Reason.PARTIAL_ENTRY) & (columns["order_ts"] > self.after)
                if self.at_broker:
                    for row in np.flatnonzero(lost).tolist():
                        self.fates.setdefault(_entry(columns, row), int(columns["reason"][row]))
                else:
                    self.unfilled += _by_code(columns["reason"][lost])
            case "fills":
                came = (columns["leg"] == Leg.ENTRY) & (columns["order_ts"] > self.after)
                if self.at_broker:  # in parts, and perhaps after a cancel was asked for
                    self.fates.update((_entry(columns, row), _FILLED) for row in np.flatnonzero(came).tolist())
                else:
                    self.entries += int(came.sum())
            case "trades":
                pnl = columns["pnl"]
                self.exits += _by_code(columns["reason"])
                self.wins += int((pnl > 0).sum())
                self.gains += int(pnl[pnl > 0].sum())
                self.losses -= int(pnl[pnl < 0].sum())

    def summary(self, header: Header, rows: int, written: Mapping[str, int], names: Names) -> dict[str, Any]:
        """What summary.json holds; raises LedgerError where the totals do not reconcile."""
        funds, initial = self.funds, header["initial_cash"]
        self._reconcile(initial, rows, written)
        final = funds["cash"] + funds["value"]
        trades = written["trades"]
        return {
            "version": VERSION,
            "account": header["account"],
            "bars": header["bars"],
            "synthetic": header["synthetic"],
            "timeframe": header["timeframe"],
            "data": {
                "after": _iso(header["after"]),
                "upto": _iso(header["upto"]),
                "first_slice": _iso(self.first) if self.slices else None,
                "last_slice": _iso(self.last) if self.slices else None,
            },
            "alphas": header["alphas"],
            "off": header["off"],
            "benchmark": header["benchmark"],
            "initial_cash": to_usd(initial),
            "final_equity": to_usd(final),
            "cash": to_usd(funds["cash"]),
            "realised_pnl": to_usd(funds["realised"]),
            "unrealised_pnl": to_usd(funds["value"] - funds["cost"]),
            "fees": to_usd(funds["fees"]),
            "dividends": to_usd(funds["dividends"]),
            "return": (final - initial) / initial,
            "max_drawdown": self.worst,
            "win_rate": self.wins / trades if trades else None,
            "profit_factor": self.gains / self.losses if self.losses else None,
            "counts": {
                "slices": self.slices,
                "bars": rows,
                "refused": written["quarantine"],
                "refused_by_reason": _words_of(self.refused),
                "signals": written["signals"],
                "candidates": int(self.stopped[Reason.NONE]),
                "verdicts": written["verdicts"],
                "approved": self.approved,
                "rejected": int(self.rejected.sum()),
                "rejected_by_reason": _words_of(self.rejected),
                "orders": written["orders"],
                "fills": written["fills"],
                "trades": trades,
                "trades_by_reason": _words_of(self.exits),
                "open_positions": funds["positions"],
                "pending_orders": funds["pending"],
                "drawdown_latches": funds["drawdown_latches"],
                "latch_releases": funds["latch_releases"],
                "killed": bool(funds["killed"]),
            },
            "quality": self._quality(names),
            **({"forecasts": self._forecasts(header["forecast"])} if "forecast" in header else {}),
            "funnel": self._funnel(rows, written),
            "settings_hash": header["settings_hash"],
            "settings": header["settings"],
        }

    def _forecasts(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Who forecast, how many rows had a forecast, and why the others had none."""
        missing = {word(Absence(code)): int(self.absent[code]) for code in np.argsort(-self.absent, kind="stable")
                   if code and self.absent[code]}  # fmt: skip
        first = min(self.alarms, default=None)
        return {
            **told,
            "made": self.made,
            "rows": int(self.absent[Absence.NONE]),
            "missing": missing,
            "drift_alarms": len(self.alarms),
            "first_drift_alarm": None if first is None else {
                "ts": _iso(first[0]), "shard": first[1], "model": told["models"][first[2] - 1]["id"],
                "edge": first[3], "reference": first[4],
            },
            "judged": [self._judged(number, model) for number, model in enumerate(told["models"])],
        }  # fmt: skip

    def _judged(self, number: int, model: Mapping[str, Any]) -> dict[str, Any]:
        """How right one model's forecasts were, by horizon, and whether its probabilities came true."""
        there = number < len(self.judged)
        horizons = []
        for k, bars in enumerate(model["horizons"]):
            known = self.judged[number, k].tolist() if there and k < self.judged.shape[1] else [0] * len(_JUDGED)
            count, inside, measured, compared, loss, usual = known
            horizons.append({
                "bars": bars, "forecasts": count, "coverage": inside / count if count else None,
                "pinball": loss / measured / UNIT if measured else None,
                "empirical_pinball": usual / compared / UNIT if compared else None,
                "skill": 1.0 - loss / usual if compared and usual else None,
            })  # fmt: skip
        bins = [
            {"from": k / BINS, "upto": (k + 1) / BINS, "decisions": count, "said": said / count / UNIT,
             "came": right / count}
            for k, (count, right, said) in enumerate(self.said[number].tolist() if there else []) if count
        ]  # fmt: skip
        return {"id": model["id"], "horizons": horizons, "probability": bins}

    def _quality(self, names: Names) -> dict[str, Any]:
        """What was odd about bars that were let in, and the symbols with the most of it."""
        sums = self.quality.sum(axis=1)
        oddest = sorted(np.flatnonzero(sums).tolist(), key=lambda symbol: (-int(sums[symbol]), names[symbol]))
        by_symbol = {
            names[symbol].decode(): dict(zip(_ODD, self.quality[symbol].tolist(), strict=True))
            for symbol in oddest[:_ODDEST]
        }
        return dict(zip(_ODD, self.quality.sum(axis=0).tolist(), strict=True)) | {"by_symbol": by_symbol}

    def _reconcile(self, initial: int, rows: int, written: Mapping[str, int]) -> None:
        """Exactly, in ticks."""
        funds = self.funds
        final = funds["cash"] + funds["value"]
        unrealised = funds["value"] - funds["cost"]
        for left, right, what in (
            (
                funds["cash"] + funds["cost"] + funds["fees"] - funds["realised"] - funds["dividends"],
                initial,
                "cash + cost of lots + fees - realised profit - dividends, against the initial cash",
            ),
            (
                initial + funds["realised"] + unrealised - funds["fees"] + funds["dividends"],
                final,
                "initial cash + realised + unrealised profit - fees + dividends, against the final equity",
            ),
            (self.equity, final, "the last row of the equity curve, against cash + value of lots"),
            (int(self.stopped.sum()), rows, "rows by where their signal ended, against all rows"),
            (self.approved + int(self.rejected.sum()), written["verdicts"], "verdicts"),
        ):
            if left != right:
                raise LedgerError(f"results do not reconcile: {what}: {left}, {right} (ticks or rows)")

    def _funnel(self, rows: int, written: Mapping[str, int]) -> list[dict[str, Any]]:
        """From rows to fills: how many came so far, how many were lost on the step and mostly why."""
        known = {Reason.NONE, *(code for _, codes in _STAGES for code in codes)}
        strange = [code for code in np.flatnonzero(self.stopped) if code not in known]
        if strange:
            raise LedgerError(f"results: rows ended with {_word(int(strange[0]))}, which is no stage of a signal")
        stages = [_stage("rows", rows, _words_of(self.refused))]
        count = rows
        for stage, codes in _STAGES:
            lost = {_word(code): int(self.stopped[code]) for code in codes if self.stopped[code]}
            count -= sum(lost.values())
            stages.append(_stage(stage, count, lost))
        flips = count - written["verdicts"]  # short signals on a held symbol are exits and get no verdict
        if flips < 0:
            raise LedgerError(f"results: {written['verdicts']} verdicts on {count} candidates")
        rejected = _words_of(self.rejected) | ({word(Reason.SIGNAL_FLIP): flips} if flips else {})
        stages.append(_stage("approved", self.approved, rejected))
        entries, lost_entries = self._ended()
        waiting = self.approved - entries - int(lost_entries.sum())  # sent in the last slice
        if waiting < 0:
            raise LedgerError(f"results: {self.approved} entries approved, {self.approved - waiting} ended")
        unfilled = _words_of(lost_entries) | ({word(Reason.ORDER_PENDING): waiting} if waiting else {})
        stages.append(_stage("filled", entries, unfilled))
        return stages

    def _ended(self) -> tuple[int, Longs]:
        """How many entries were filled, and how many were not, by reason."""
        if not self.at_broker:
            return self.entries, self.unfilled
        fates = np.array(list(self.fates.values()), np.int64)
        return int((fates == _FILLED).sum()), _by_code(fates[fates != _FILLED])


def _stage(stage: str, count: int, lost: Mapping[str, int]) -> dict[str, Any]:
    """One step of the funnel; `lost` are those that came to it and no further."""
    reason = max(lost, key=lambda name: lost[name], default=None)
    return {
        "stage": stage,
        "count": count,
        "lost": sum(lost.values()),
        "commonest_reason": reason,
        "reason_count": lost[reason] if reason else 0,
    }


def _word(code: int) -> str:
    """A reason's word; a number for one that has no name."""
    return word(Reason(code)) if code in set(Reason) else str(code)


def _words_of(counts: Longs) -> dict[str, int]:
    """Counts by word, commonest first, ties by code."""
    codes = [int(code) for code in np.argsort(-counts, kind="stable") if counts[code]]
    return {_word(code): int(counts[code]) for code in codes}


# Codes -> what a reader sees.


class _Words:
    """Turns numbers of one run into names; everything column by column."""

    def __init__(self, account: str, alphas: Sequence[str], names: Names, models: Sequence[str] = ()):
        self.alphas = alphas
        self._models = pa.array(["", *models], pa.string())
        texts = [name.decode() for name in names.tolist()]
        self.names = pa.array(texts, pa.string())
        self._heads = [f"{account}|{text}|" for text in texts]
        self._tails = [f"Z|{word(leg)}" for leg in sorted(Leg)]

    def ts(self, ts: Longs) -> Any:
        return pa.array(ts).cast(pa.timestamp("ns", "UTC"))

    def symbol(self, symbol: Ints) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(symbol), self.names)

    def model(self, number: Codes) -> Any:
        """Ids of models; empty where there was none."""
        return pa.DictionaryArray.from_arrays(pa.array(number), self._models)

    def code(self, kind: type[IntEnum], codes: np.ndarray[Any, Any]) -> Any:
        """Words of an enumeration."""
        members = sorted(kind)
        place = np.zeros(256, np.int8)
        place[np.array(members, np.int8).view(np.uint8)] = np.arange(len(members))
        words = pa.array([word(member) for member in members], pa.string())
        places = np.frombuffer(codes.tobytes().translate(place.tobytes()), np.int8)  # faster than an index
        return pa.DictionaryArray.from_arrays(pa.array(places), words)

    def votes(self, views: Ints) -> Any:
        """`rsi+ ema_cross-` for each row: base 3, alpha 0 in the lowest digit; 0 down, 1 none, 2 up."""
        there: Bools = np.bincount(views, minlength=3 ** len(self.alphas)) > 0
        place = np.cumsum(there, dtype=np.int32) - 1
        words = pa.array([self._votes(int(view)) for view in np.flatnonzero(there)], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(place[views]), words)

    def _votes(self, view: int) -> str:
        digits = ((name, view // 3**k % 3) for k, name in enumerate(self.alphas))
        return " ".join(f"{name}{'-+'[digit // 2]}" for name, digit in digits if digit != 1)

    def order_id(self, symbol: Ints, sent: Longs, leg: Codes, there: Any = None) -> Any:
        """`account|symbol|20240102T150000Z|leg`; null where the bits of `there` are not set."""
        starts, text = order_ids(self._heads, self._tails, symbol, sent, leg)
        return pa.StringArray.from_buffers(symbol.size, pa.py_buffer(starts), pa.py_buffer(text), there)

    def entry_id(self, symbol: Ints, sent: Longs, there: Any = None) -> Any:
        """The id of the order that opened a lot."""
        return self.order_id(symbol, sent, np.full(symbol.size, Leg.ENTRY, np.int8), there)


def _usd(ticks: Longs) -> Floats:
    return ticks / float(TICKS_PER_USD)


def _equity(words: _Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "equity": _usd(c["equity"]),
        "cash": _usd(c["cash"]),
        "exposure": _usd(c["exposure"]),
        "drawdown": c["drawdown"],
    }


def _signals(words: _Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "direction": words.code(Direction, c["direction"]),
        "confidence": c["confidence"],
        "score": c["score"],
        "regime": words.code(Regime, c["regime"]),
        "votes": words.votes(c["views"]),
        "reason": words.code(Reason, c["reason"]),
        **(_outlook(words, c) if "q50" in c else {}),
    }


def _outlook(words: _Words, c: Columns) -> dict[str, Any]:
    return {**{name: c[name] for name in _OUTLOOK if name != "model"}, "model": words.model(c["model"])}


def _verdicts(words: _Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "direction": words.code(Direction, c["direction"]),
        "approved": c["approved"],
        "reason": words.code(Reason, c["reason"]),
        "measured": c["measured"],
        "limit": c["limit"],
        "confidence": c["confidence"],
        "cvar_95": c["cvar_95"],
        "risk_score": c["risk_score"],
        "max_loss": _usd(c["max_loss"]),
        "uncalibrated": c["uncalibrated"],
    }


def _orders(words: _Words, c: Columns) -> dict[str, Any]:
    entry = c["leg"] == Leg.ENTRY
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "side": words.code(Side, c["side"]),
        "qty": c["qty"],
        "kind": words.code(Kind, c["kind"]),
        "price": _usd(c["price"]),
        "order_id": words.order_id(c["symbol"], c["ts"], c["leg"]),
        "parent_id": words.entry_id(c["symbol"], c["entry_ts"], pa.py_buffer(np.packbits(~entry, bitorder="little"))),
        "leg": words.code(Leg, c["leg"]),
        "reason": words.code(Reason, c["reason"]),
    }


def _updates(words: _Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "order_id": words.order_id(c["symbol"], c["order_ts"], c["leg"]),
        "status": words.code(Status, c["status"]),
        "qty": c["qty"],
        "reason": words.code(Reason, c["reason"]),
    }


def _fills(words: _Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "side": words.code(Side, c["side"]),
        "qty": c["qty"],
        "price": _usd(c["price"]),
        "expected_price": _usd(c["expected"]),
        "fee": _usd(c["fee"]),
        "order_id": words.order_id(c["symbol"], c["order_ts"], c["leg"]),
        "reason": words.code(Reason, c["reason"]),
    }


def _trades(words: _Words, c: Columns) -> dict[str, Any]:
    return {
        "symbol": words.symbol(c["symbol"]),
        "decided_ts": words.ts(c["order_ts"]),
        "entry_ts": words.ts(c["entry_ts"]),
        "exit_ts": words.ts(c["exit_ts"]),
        "entry_price": _usd(c["cost"]) / c["qty"],
        "exit_price": _usd(c["proceeds"]) / c["qty"],
        "side": words.code(Side, c["side"]),
        "qty": c["qty"],
        "pnl": _usd(c["pnl"]),
        "fees": _usd(c["fees"]),
        "exit_reason": words.code(Reason, c["reason"]),
        "mae": c["mae"],
        "mfe": c["mfe"],
        "entry_order_id": words.entry_id(c["symbol"], c["order_ts"]),
    }


def _quarantine(words: _Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "reason": words.code(Reason, c["reason"]),
        **{name: c[name] for name in ("open", "high", "low", "close", "volume")},
    }


_CONVERT: dict[str, Callable[[_Words, Columns], dict[str, Any]]] = {
    "equity": _equity,
    "signals": _signals,
    "verdicts": _verdicts,
    "orders": _orders,
    "updates": _updates,
    "fills": _fills,
    "trades": _trades,
    "quarantine": _quarantine,
}
