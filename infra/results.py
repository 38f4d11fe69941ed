"""Ledger frames -> the folder of a run: summary.json, report.html and Parquet tables.

While a run lasts, rows lie in parts: in memory up to a bound, then in `<out>.partial/parts` as
a file. A snapshot puts there what is new and names the file's end, a resume writes over
what is behind it. `finish` turns the parts into Parquet, row groups of a fixed size, so that
the bytes depend on the ledger alone and the memory not on its length, and moves the whole folder to
`<out>` in one rename. A half-written `<out>` never exists. A run that cannot be resumed anyway turns its parts
into Parquet as they become full: then that work is done beside the account's, where there are two processes.
"""

import fcntl
import json
import os
import shutil
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from infra.benchmark import Curve, Points
from infra.heap import give_back
from infra.result_header import VERSION, Header, LedgerError, identity
from infra.result_parts import TABLES, Columns, Parts, rows_of
from infra.result_tables import Tables, Words
from infra.result_totals import Totals
from risk.ledger import LedgerFrame
from schemas.errors import UserError
from schemas.frames import Ints, Names
from schemas.identity import iso
from schemas.units import to_usd

UNHELD_BYTES = 32 << 20  # of parts that come back into memory beside what the chunks of bars took: then that goes

State = dict[str, Any]


def check_out(out: Path) -> Path:
    """The absolute path of a run's folder; refuses one that holds something else."""
    out = out.resolve()
    try:
        return _free(out)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}; name another folder") from error


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


def _locked(work: Path) -> int:
    """The working folder, for this process alone: an open file whose lock goes with the process."""
    out = work.with_suffix("")
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = os.open(work / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        if isinstance(error, PermissionError) and not (work / "lock").exists():
            raise UserError(f"--out {out}: {error.strerror}; name another folder") from error
        raise UserError(f"--out {out}: another run is writing here; name another folder") from None
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}; name another folder") from error
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

    def __init__(self, out: Path, header: Header, benchmark: Points | None = None, *, lasting: bool = True):
        """A fresh start: what an earlier run has left unfinished here is dropped.

        A run that is not `lasting` writes its tables while it goes on, and keeps nothing from which it could be
        resumed or finished twice.
        """
        self._begin(out, header, benchmark, lasting)
        try:
            if (self._work / "old").exists() and not self.out.exists():  # a crash between two renames
                (self._work / "old").rename(self.out)
            for left in self._work.iterdir():
                if left.is_dir():
                    shutil.rmtree(left)
        except OSError as error:
            raise UserError(f"--out {self.out}: {error.strerror or error}; name another folder") from error

    @classmethod
    def resume(
        cls, out: Path, header: Header, state: State, benchmark: Points | None = None, *, keep: bool = False
    ) -> "Recorder":
        """Go on after a snapshot; if the run has been finished since, its folder is left as it is.

        `keep`: the parts were kept, and more frames may come.
        """
        if "end" not in state:
            raise UserError("the recovery store belongs to an older version: run that one, or give a new store")
        if state["version"] != VERSION:
            raise LedgerError(f"results: state of version {state['version']}, want {VERSION}")
        if state["run"] != identity(header):
            raise UserError(
                "the recovery store belongs to a run with other bars or settings: give the same ones, or a new store"
            )
        self = cls.__new__(cls)
        self._begin(out, header, benchmark)
        self.upto, self.rows = state["upto"], state["rows"]
        self._names = state["names"].copy()
        self._rank = _ranks(self._names)
        self._totals.restore(state["totals"])
        self._parts.go_on(state["end"], state["written"])
        if not keep and self.complete and self._is_there():
            self.finished = True
            shutil.rmtree(self._work, ignore_errors=True)
        else:
            self._parts.find()
        return self

    def _begin(self, out: Path, header: Header, benchmark: Points | None, lasting: bool = True) -> None:
        self.out = check_out(out)
        self._work = self.out.with_name(self.out.name + ".partial")
        weakref.finalize(self, os.close, _locked(self._work))
        self.header, self._points = header, benchmark
        self.benchmark: Curve | None = None  # where it came with the frames
        self.finished = False
        self.interrupted = False  # set by Ctrl-C from another thread: do not finish any more
        self.upto = header["after"]  # UTC ns; everything up to here is recorded
        self.rows = 0  # bars that reached the account
        self._names: Names = np.zeros(0, "S1")
        self._rank: Ints = np.zeros(0, np.int32)  # by symbol: place in alphabetical order
        at_broker = header["settings"].get("venue", {}).get("kind") == "broker"
        self._totals = Totals(header["initial_cash"], header["after"], at_broker)
        self._lasting = lasting
        self._failed: BaseException | None = None  # what a run that does not last could not be finished for
        self._tables: Tables | None = None
        self._parts = Parts(self._work / "parts", header, self._totals.part, None if lasting else self._write)

    @property
    def complete(self) -> bool:
        """True when the whole range has been recorded."""
        return self.upto == self.header["upto"]

    @property
    def has_parts(self) -> bool:
        """True when there are parts on disk, from which an earlier snapshot may have to go on."""
        return self._parts.end > 0

    @property
    def trades(self) -> int:
        """Round trips so far."""
        return self._parts.size("trades")

    @property
    def equity_usd(self) -> float:
        """Equity after the last slice so far."""
        return to_usd(self._totals.equity)

    def add(self, frame: LedgerFrame) -> None:
        """Take in one frame; raises LedgerError unless it follows the one before."""
        if self.finished:
            raise LedgerError("results: the run is finished, no frame can follow")
        if frame.slices.after != self.upto:
            raise LedgerError(f"results: a frame after {iso(frame.slices.after)} follows {iso(self.upto)}")
        if frame.names.size != self._names.size:
            self._names = frame.names.copy()
            self._rank = _ranks(self._names)
        self.rows += frame.rows
        self._totals.frame(frame)
        with _writing(self.out):
            told = {table: rows_of(frame, table, self._parts.dtypes[table]) for table in TABLES}
            if not self._lasting:
                self._opened().expect(told["orders"])
            for table, columns in told.items():
                self._parts.add(table, columns)
        self.upto = frame.slices.upto

    def snapshot(self, *, made: bool = False) -> State:
        """Everything so far is in closed files; plain values from which `resume` goes on, if the run is `lasting`.

        `made`: the folder is, and no frame comes any more, so nothing is written for a resume.
        """
        if not self.finished and self._lasting and not made:
            with _writing(self.out):
                self._parts.save()
        return {
            "version": VERSION,
            "run": identity(self.header),
            "upto": self.upto,
            "rows": self.rows,
            "names": self._names.copy(),
            "end": self._parts.end,
            "written": dict(self._parts.written),
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
            upto = iso(self.header["upto"])
            raise LedgerError(f"results: recorded up to {iso(self.upto)} of {upto}; left in {self._work}")
        if self._failed is not None:
            raise self._failed
        try:
            summary = self._written(timing, keep)
        except BaseException as error:
            self._failed = None if self._lasting else error  # some of its rows are nowhere but in half a folder
            raise
        self.finished = not keep
        if self.finished:
            self._parts.forget()
        return summary

    def _written(self, timing: Mapping[str, float] | None, keep: bool) -> dict[str, Any]:
        with _writing(self.out):
            summary = self._finish(timing)
            shutil.rmtree(self._work / "old" if keep else self._work, ignore_errors=True)
        return summary

    def drop_parts(self) -> None:
        """No more frames come after `finish(keep=True)`."""
        shutil.rmtree(self._work, ignore_errors=True)
        self._parts.forget()
        self.finished = True

    def discard(self) -> None:
        """Drop what is not finished; the former run stays as it is. For a run that cannot be resumed."""
        if self.finished:
            return
        if self._tables is not None:
            self._tables.leave()
        if (self._work / "old").exists() and not self.out.exists():
            (self._work / "old").rename(self.out)
        shutil.rmtree(self._work, ignore_errors=True)

    def _finish(self, timing: Mapping[str, float] | None) -> dict[str, Any]:
        from risk import report

        self._parts.flush()
        if self._parts.unheld > UNHELD_BYTES:
            give_back()
        summary = self._totals.summary(self.header, self.rows, self._parts.written, self._names)
        tables, run = self._opened(), self._work / "run"
        text = msgspec.json.format(json.dumps(summary, allow_nan=False), indent=2) + "\n"
        (run / "summary.json").write_text(text, encoding="utf-8")
        if timing is not None:
            write_timing(run, timing)
        try:
            if self._lasting:
                self._make(tables)
            if self.benchmark is None and self._points is not None:
                self.benchmark = self._points()
            made = tables.close(json.loads(text), self._rank, self.benchmark)
            self._heed()
            report.write(run, made)
            tables.wait()
        finally:  # another try begins anew
            tables.leave()
            self._tables = None
        self._heed()
        old = self._work / "old"
        if self.out.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.out.rename(old)
        run.rename(self.out)
        return summary

    def _opened(self) -> Tables:
        """The tables, none of them written yet when it is asked for the first time."""
        if self._tables is None:
            run = self._work / "run"
            shutil.rmtree(run, ignore_errors=True)
            run.mkdir()
            models = [model["id"] for model in self.header.get("forecast", {}).get("models", [])]
            words = Words(self.header["account"], self.header["alphas"], self._names, models)
            self._tables = Tables(run, words, self._parts.dtypes)
        return self._tables

    def _write(self, table: str, columns: Columns) -> None:
        """A part of a run that does not last."""
        self._opened().add(table, columns)

    def _make(self, tables: Tables) -> None:
        """Put all parts into their tables."""
        for columns in self._parts.read("orders"):
            tables.expect(columns)
        for table in TABLES:
            for columns in self._parts.read(table):
                tables.add(table, columns)

    def _heed(self) -> None:
        """After Ctrl-C a run that is nearly finished is not put in the place of the former one."""
        if self.interrupted:
            raise KeyboardInterrupt

    def _is_there(self) -> bool:
        """True when the folder holds this very run."""
        if not (self.out / "summary.json").exists():
            return False
        summary = read_summary(self.out)
        wanted = self._totals.summary(self.header, self.rows, self._parts.written, self._names)
        return bool(summary == json.loads(json.dumps(wanted)))


def _ranks(names: Names) -> Ints:
    rank = np.empty(names.size, np.int32)
    rank[np.argsort(names)] = np.arange(names.size, dtype=np.int32)
    return rank
