"""Whatever a user gets wrong: one clear line, exit code 2, and nothing written."""

import gzip
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataflows import cli

ROOT = Path(__file__).resolve().parents[2]
HEAD = "symbol,ts,open,high,low,close,volume"
ROWS = [f"AAPL,2024-01-02T14:{31 + k}:00Z,10,11,9,10,100" for k in range(9)]
SMALL = "synthetic:symbols=2,days=1,seed=1"
Write = Callable[[Path], object]


def csv(*rows: str, head: str = HEAD, name: str = "b.csv") -> Write:
    return lambda folder: (folder / name).write_text("\n".join([head, *rows]) + "\n")


def raw(content: bytes, name: str) -> Write:
    return lambda folder: (folder / name).write_bytes(content)


def bars(**other: object) -> pa.Table:
    """Nine good bars as an Arrow table, with other columns where they are given; None leaves one out."""
    columns: dict[str, object] = {
        "symbol": ["AAPL"] * 9,
        "ts": pa.array([1_704_205_860_000_000_000 + k * 60_000_000_000 for k in range(9)], pa.timestamp("ns", "UTC")),
        **{name: [10.0] * 9 for name in ("open", "high", "low", "close")},
        "volume": [100.0] * 9,
    }
    return pa.table({name: column for name, column in (columns | other).items() if column is not None})


def parquet(name: str = "b.parquet", **other: object) -> Write:
    return lambda folder: pq.write_table(bars(**other), folder / name)


def cut(name: str, write: Write, share: float) -> Write:
    """The same file, of which the end is missing."""

    def make(folder: Path) -> None:
        write(folder)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])

    return make


def both(*writes: Write) -> Write:
    return lambda folder: [write(folder) for write in writes]


def folder_of(name: str, *writes: Write) -> Write:
    def make(folder: Path) -> None:
        (folder / name).mkdir()
        for write in writes:
            write(folder / name)

    return make


@dataclass
class Case:
    """Arguments, what to say, and what lies there; `{}` in arguments is the folder."""

    says: str
    arguments: list[str]
    there: Write = lambda folder: None
    environ: dict[str, str] = field(default_factory=dict)


def backtest(says: str, of: str, there: Write = lambda folder: None, *more: str, **environ: str) -> Case:
    return Case(says, ["backtest", of, "--out", "{}/out", "--loop", *more], there, environ)


def settings(says: str, text: str | bytes, *more: str) -> Case:
    content = text if isinstance(text, bytes) else text.encode()
    return backtest(says, SMALL, raw(content, "s.toml"), "--settings", "{}/s.toml", *more)


def setting(says: str, *values: str) -> Case:
    return backtest(says, SMALL, csv(), *(part for value in values for part in ("--set", value)))


def curve(says: str, head: str, *rows: str, name: str = "c.csv") -> Case:
    return Case(says, ["metrics", f"{{}}/{name}"], csv(*rows, head=head, name=name))


GZ = gzip.compress("\n".join([HEAD, *ROWS * 400]).encode())
CASES = {
    # files of bars
    "no such file": backtest("none.csv: no such file", "{}/none.csv"),
    "nearly the name": backtest("did you mean", "{}/bars.csv", csv(name="bar.csv")),
    "unknown kind": backtest("unknown kind of file; want .parquet, .csv, .csv.gz", "{}/b.txt", raw(b"x", "b.txt")),
    "empty CSV": backtest("is empty; want a header and rows", "{}/b.csv", raw(b"", "b.csv")),
    "empty Parquet": backtest("is empty", "{}/b.parquet", raw(b"", "b.parquet")),
    "header alone": backtest("b.csv", "{}/b.csv", csv()),
    "no rows": backtest("b.parquet", "{}/b.parquet", lambda f: pq.write_table(bars().slice(0, 0), f / "b.parquet")),
    "missing column": backtest("has no column close", "{}/b.csv", csv(head="symbol,ts,open,high,low,volume")),
    "misspelt column": backtest("did you mean clos?", "{}/b.csv", csv(*ROWS, head=HEAD.replace("close", "clos"))),
    "missing column, Parquet": backtest("has no column symbol", "{}/b.parquet", parquet(symbol=None)),
    "column twice": backtest("has two columns close; leave one", "{}/b.csv",
                             csv(*[f"{row},7" for row in ROWS], head=f"{HEAD},close")),
    "text price": backtest("row 2, column low: 'nine' is not a number", "{}/b.csv",
                           csv(ROWS[0], ROWS[1].replace(",9,", ",nine,"), *ROWS[2:])),
    "text price, Parquet": backtest("'x' is not a number", "{}/b.parquet", parquet(open=["x"] * 9)),
    "true price": backtest("column open is bool; want numbers", "{}/b.parquet", parquet(open=[True] * 9)),
    "naive time": backtest("has no time zone; write UTC as in", "{}/b.csv", csv(ROWS[0].replace("Z", ""))),
    "naive time, Parquet": backtest("ts has no time zone", "{}/b.parquet",
                                    parquet(ts=pa.array(range(9), pa.timestamp("ns")))),
    "time as number": backtest("column ts is int64", "{}/b.parquet", parquet(ts=list(range(9)))),
    "no time": backtest("'noon' is no time", "{}/b.csv", csv("AAPL,noon,1,1,1,1,1")),
    "time missing": backtest("row 1 has no ts", "{}/b.csv", csv("AAPL,,1,1,1,1,1")),
    "symbol missing": backtest("row 3 has no symbol", "{}/b.parquet", parquet(symbol=["A", "A", None, *"AAAAAA"])),
    "symbol with a space": backtest("want 1 to", "{}/b.csv", csv("A B,2024-01-02T14:31:00Z,1,1,1,1,1")),
    "symbol as number": backtest("column symbol is int64; want text", "{}/b.parquet", parquet(symbol=list(range(9)))),
    "junk CSV": backtest("b.csv", "{}/b.csv", raw(bytes(range(256)) * 9, "b.csv")),
    "junk Parquet": backtest("cannot be read as parquet", "{}/b.parquet", raw(b"PAR1" + bytes(99), "b.parquet")),
    "junk gzip": backtest("cannot be read as csv.gz", "{}/b.csv.gz", raw(bytes(range(256)), "b.csv.gz")),
    "not UTF-8": backtest("b.csv", "{}/b.csv", raw(f"{HEAD}\n".encode() + b"\xff\xfe,x,1,1,1,1,1\n", "b.csv")),
    "truncated Parquet": backtest("is it whole?", "{}/b.parquet", cut("b.parquet", parquet(), 0.6)),
    "truncated gzip": backtest("is it whole?", "{}/b.csv.gz", raw(GZ[: len(GZ) // 2], "b.csv.gz")),
    "ragged rows": backtest("is it whole?", "{}/b.csv", csv(*ROWS, "AAPL,2024")),
    "folder without bars": backtest("no bar files in this folder", "{}/d", folder_of("d", raw(b"x", "notes.txt"))),
    "folder with one bad file": backtest("z.csv has no column", "{}/d",
                                         folder_of("d", parquet(), csv(head="a,b", name="z.csv"))),
    "bid without ask": backtest("has bid without ask; give both or none", "{}/b.parquet", parquet(bid=[1.0] * 9)),
    "seconds apart": backtest("less than a minute apart; give the timeframe", "{}/b.csv",
                              csv(*[f"A,2024-01-02T14:31:0{k}Z,1,1,1,1,1" for k in range(9)])),
    "one bar": backtest("no symbol has two bars; give the timeframe", "{}/b.csv", csv(ROWS[0])),
    "before the calendar": backtest("bars may be from 1990-01-01", "{}/b.csv",
                                    csv("A,1900-01-02T14:31:00Z,1,1,1,1,1", "A,1900-01-02T14:32:00Z,1,1,1,1,1")),
    # generated bars
    "unknown key": backtest("unknown key 'symbol'; did you mean symbols?", "synthetic:symbol=3"),
    "no symbols": backtest("symbols=0: want 1 to 20000", "synthetic:symbols=0"),
    "no number": backtest("days=x: want a whole number", "synthetic:days=x"),
    "no date": backtest("start=soon: want a date", "synthetic:start=soon"),
    "no timeframe": backtest("timeframe=7m", "synthetic:timeframe=7m"),
    "two timeframes": backtest("but 5m was asked for; name one", "synthetic:timeframe=1m", csv(), "--timeframe", "5m"),
    # arguments
    "unknown command": Case("No such command", ["backtets"]),
    "unknown option": backtest("No such option", SMALL, csv(), "--wrokers", "2"),
    "nothing to run": Case("Missing argument 'BARS'", ["backtest"]),
    "too much": backtest("unexpected extra argument", SMALL, csv(), "more"),
    "no workers": backtest("Invalid value for '--workers'", SMALL, csv(), "--workers", "0"),
    "workers as text": backtest("Invalid value for '--workers'", SMALL, csv(), "--workers", "two"),
    "unknown symbol": backtest("has no symbol SYN01; did you mean SYN001?", SMALL, csv(), "--symbols", "SYN01"),
    "empty symbol": backtest("want names with commas between them", SMALL, csv(), "--symbols", "A,,B"),
    "no day": backtest("want a date as 2024-01-02", SMALL, csv(), "--from", "2024-13-01"),
    "naive bound": backtest("has no time zone", SMALL, csv(), "--to", "2024-01-02T10:00"),
    "range upside down": backtest("nothing lies between them", SMALL, csv(), "--from", "2024-01-03", "--to",
                                  "2024-01-02"),
    "range without bars": backtest("no bars from 2020-01-01", "{}/b.csv", csv(*ROWS), "--from", "2020-01-01", "--to",
                                   "2020-01-02"),
    "unknown timeframe": backtest("timeframe '7m'", "{}/b.csv", csv(*ROWS), "--timeframe", "7m"),
    "unknown profile": backtest("profile fast: want one of research", SMALL, csv(), "--profile", "fast"),
    # settings
    "no settings file": backtest("settings file none.toml: No such file", SMALL, csv(), "--settings", "none.toml"),
    "settings is a folder": backtest("Is a directory", SMALL, csv(), "--settings", "{}"),
    "settings not UTF-8": settings("not UTF-8 text", b"# \xff"),
    "settings no TOML": settings("s.toml: ", "rules = {"),
    "key twice": settings("s.toml: Cannot overwrite a value", "[rules]\nmax_shares = 1\nmax_shares = 2\n"),
    "section twice": settings("s.toml: Cannot declare", "[rules]\n[exits]\n[rules]\n"),
    "unknown setting in a file": settings("rules.max_share: no such setting; the nearest is rules.max_shares",
                                          "[rules]\nmax_share = 1\n"),
    "unknown section": settings("rulez: no such section", "[rulez]\nmax_shares = 1\n"),
    "section as a value": settings("rules", "rules = 3\n"),
    "unknown setting": setting("the nearest is exits.take_profit", "exits.take_profti=1"),
    "out of range": setting("rules.max_shares = 0: want a whole number", "rules.max_shares=0"),
    "wrong type": setting('rules.max_shares = "many": want a whole number', "rules.max_shares=many"),
    "fraction of a share": setting("rules.max_shares = 1.5: want a whole number", "rules.max_shares=1.5"),
    "not a number": setting("want a finite number", "cash.initial_cash_usd=nan"),
    "no value": setting("want section.key=value", "rules.max_shares"),
    "unknown alpha": setting("no such alpha; did you mean rsi?", "ensemble.weights.rsy=1"),
    "gates crossed": setting("gate", "ensemble.publish_gate=0.9", "ensemble.decision_gate=0.6"),
    "periods crossed": setting("fast", "alphas.ema_cross.fast=30"),
    "environment": backtest("(environment RULES__MAX_SHARES)", SMALL, csv(), RULES__MAX_SHARES="-1"),
    # where results go
    "out is a file": Case("is a file, want a folder", ["backtest", SMALL, "--out", "{}/b.csv", "--loop"], csv()),
    "out holds other things": Case("holds files but no summary.json", ["backtest", SMALL, "--out", "{}/d"],
                                   folder_of("d", csv())),
    "out in a file": Case("Not a directory", ["backtest", SMALL, "--out", "{}/b.csv/out", "--loop"], csv()),
    "out in a file, flow": Case("Not a directory", ["backtest", SMALL, "--out", "{}/b.csv/out"], csv()),
    "out is a device": Case("is a file, want a folder", ["backtest", SMALL, "--out", "/dev/full"]),
    "out is the root": Case("is the root of a file system", ["backtest", SMALL, "--out", "/"]),
    "features into a folder": Case("--out", ["features", SMALL, "--out", "{}/d"], folder_of("d")),
    "features in a file": Case("--out", ["features", SMALL, "--out", "{}/b.csv/f.parquet"], csv()),
    "features without out": Case("Missing option '--out'", ["features", SMALL]),
    "features of nothing": Case("no such file", ["features", "{}/b.csv", "--out", "{}/f.parquet"]),
    "features of a text price": Case("is not a number", ["features", "{}/b.csv", "--out", "{}/f.parquet"],
                                     csv(*ROWS, "AAPL,2024-01-02T14:50:00Z,1,1,1,x,1")),
    # benchmarks
    "no benchmark": backtest("none.csv: no such file", SMALL, csv(), "--benchmark", "{}/none.csv"),
    "benchmark without values": backtest("no column one of equity", SMALL, csv("2024-01-02,1", head="date,x"),
                                         "--benchmark", "{}/b.csv"),
    "benchmark of other days": backtest("has no value on the dates of the bars", SMALL,
                                        csv("1999-01-04,1", "1999-01-05,2", head="date,close"),
                                        "--benchmark", "{}/b.csv"),
    "benchmark of many": backtest("2 symbols and SPY or QQQ is not among them", SMALL,
                                  csv("2024-01-02,A,1", "2024-01-02,B,2", head="date,symbol,close"),
                                  "--benchmark", "{}/b.csv"),
    # curves
    "curve without values": curve("no column one of equity, value, nav", "date,x", "2024-01-02,1"),
    "curve without time": curve("no column ts or date", "day,equity", "2024-01-02,1"),
    "curve of one day": curve("holds one day", "date,equity", "2024-01-02,1"),
    "curve of text": curve("is not all numbers", "date,equity", "2024-01-02,1", "2024-01-03,much"),
    "curve below zero": curve("want a number above 0", "date,equity", "2024-01-02,1", "2024-01-03,-1"),
    "curve with a hole": curve("nan on 2024-01-03", "date,equity", "2024-01-02,1", "2024-01-03,", "2024-01-04,1"),
    "curve with a day twice": curve("two rows of the same time on 2024-01-02", "date,equity", *["2024-01-02,1"] * 2),
    "curve with naive times": curve("ts has no time zone", "ts,equity", "2024-01-02T10:00:00,1", "2024-01-03T10:00,2"),
    "curve without rows": curve("no rows in date", "date,equity"),
    "lost more than all": curve("want a number above -1", "date,returns", "2024-01-02,0.1", "2024-01-03,-1.5"),
    "curve of an unknown kind": curve("want a run's folder or a file", "a", name="c.txt"),
    "no curve": Case("no such file", ["metrics", "{}/none.csv"]),
    "impossible rate": Case("want a fraction per year", ["metrics", "{}/c.csv", "--risk-free", "4"]),
    "benchmark apart": Case("shares no two days", ["metrics", "{}/a.csv", "--benchmark", "{}/b.csv"],
                            both(csv("2024-01-02,1", "2024-01-03,2", head="date,equity", name="a.csv"),
                                 csv("2023-01-03,1", "2023-01-04,2", head="date,close"))),
    # runs
    "metrics of no run": Case("no finished run", ["metrics", "{}"]),
    "report of no run": Case("no finished run", ["report", "{}"]),
    "report of another summary": Case("is not that of a run", ["report", "{}"], raw(b"{}", "summary.json")),
    "report of a list": Case("is not that of a run", ["report", "{}"], raw(b"[1]", "summary.json")),
    "report of junk": Case("no finished run", ["report", "{}"], raw(b"\xff{", "summary.json")),
    "why of no run": Case("no finished run", ["why", "{}", "AAPL", "2024-01-02 10:00"]),
    "why at no time": Case('want "2024-01-02 10:30" (New York)', ["why", "{}", "AAPL", "tea time"]),
    "bench of no size": Case("want one of A, B, C", ["bench", "--size", "X"]),
}  # fmt: skip


def tree(folder: Path) -> dict[str, str]:
    """Everything under a folder, with what it holds."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def said(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the line on stderr; it is one, without a traceback, and there is nothing on stdout."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("utp: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    assert len(err) < 700
    assert isinstance(stop.value.code, int)
    return stop.value.code, err[5:-1]


@pytest.fixture(autouse=True)
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the repository, and with a cache of sorted files of its own."""
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line_and_code_2_and_nothing_is_written(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    folder = tmp_path / "here"
    folder.mkdir()
    case.there(folder)
    for key, value in case.environ.items():
        monkeypatch.setenv(key, value)
    before = tree(tmp_path)
    code, line = said(capfd, *(argument.replace("{}", str(folder)) for argument in case.arguments))
    assert code == 2, line
    assert case.says in line, line
    assert tree(tmp_path) == before


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 100


# A run that was good, and then was not.


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    parquet()(folder)
    with pytest.raises(SystemExit) as stop:
        cli.main(["backtest", str(folder / "b.parquet"), "--out", str(folder / "run"), "--loop", "--json"])
    assert stop.value.code == 0
    return folder


def junk(path: Path) -> None:
    path.write_bytes(b"junk")


BROKEN: dict[str, tuple[str, list[str], Callable[[Path], object]]] = {
    "report, a table is gone": ("trades.parquet: cannot be read", ["report", "{}/run"],
                                lambda f: (f / "run" / "trades.parquet").unlink()),
    "report, a table is junk": ("signals.parquet: cannot be read", ["report", "{}/run"],
                                lambda f: junk(f / "run" / "signals.parquet")),
    "report, another table": ("no column", ["report", "{}/run"],
                              lambda f: shutil.copy(f / "b.parquet", f / "run" / "trades.parquet")),
    "metrics, a table is gone": ("equity.parquet: no such file", ["metrics", "{}/run"],
                                 lambda f: (f / "run" / "equity.parquet").unlink()),
    "metrics, a table is junk": ("trades.parquet cannot be read", ["metrics", "{}/run"],
                                 lambda f: junk(f / "run" / "trades.parquet")),
    "why, another symbol": ("symbol IBM: not in this run; it has AAPL", ["why", "{}/run", "IBM", "2024-01-02 09:35"],
                            lambda f: None),
    "why, no bar": ("there is no bar that ends then", ["why", "{}/run", "AAPL", "2024-01-02 09:35:30"], lambda f: None),
    "why, before the run": ("the run's first bar ends at 2024-01-02T14:31:00Z",
                            ["why", "{}/run", "AAPL", "2001-01-02 09:35"], lambda f: None),
    "why, bars are gone": ("b.parquet: no such file", ["why", "{}/run", "AAPL", "2024-01-02 09:35"],
                           lambda f: (f / "b.parquet").unlink()),
    "why, bars have changed": ("no longer the bars of this run", ["why", "{}/run", "AAPL", "2024-01-02 09:35"],
                               lambda f: pq.write_table(bars(volume=[7.0] * 9), f / "b.parquet", compression="none")),
    "why, a table is gone": ("verdicts.parquet", ["why", "{}/run", "AAPL", "2024-01-02 09:35"],
                             lambda f: (f / "run" / "verdicts.parquet").unlink()),
    "the run there stays": ("no column close", ["backtest", "{}/c.parquet", "--out", "{}/run"],
                            parquet("c.parquet", close=None)),
    "the run there stays, found late": ("is not a number", ["backtest", "{}/c.csv", "--out", "{}/run", "--loop"],
                                        csv(*ROWS[:8], ROWS[8].replace("100", "x"), name="c.csv")),
    "the run there stays, found late by the flow": (
        "is not a number", ["backtest", "{}/c.csv", "--out", "{}/run"],
        csv(*ROWS[:8], ROWS[8].replace("100", "x"), name="c.csv")),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_one_line_and_stays_as_it_is(
    name: str, good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    says, arguments, spoil = BROKEN[name]
    text = (good / "run" / "summary.json").read_text()
    folder = tmp_path / "here"
    shutil.copytree(good, folder)
    (folder / "run" / "summary.json").write_text(text.replace(str(good), str(folder)))
    keep = (good / "b.parquet").stat()
    os.utime(folder / "b.parquet", ns=(keep.st_atime_ns, keep.st_mtime_ns))  # part of the fingerprint
    spoil(folder)
    before = tree(tmp_path)
    code, line = said(capfd, *(argument.replace("{}", str(folder)) for argument in arguments))
    assert code == 2, line
    assert says in line, line
    assert tree(tmp_path) == before


# A disk that is full, a folder that is not ours.


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: it fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def nobody() -> Iterator[None]:
    """Without the rights of root, where the tests run as root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that everyone may enter and nobody write to, with bars that may not be read."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="utp-locked-", dir="/tmp"))
    csv(*ROWS)(folder)
    (folder / "b.csv").chmod(0o000)
    (folder / "shut").mkdir()
    csv(*ROWS)(folder / "shut")
    csv("2024-01-02,1", "2024-01-03,2", head="date,equity", name="c.csv")(folder)
    (folder / "c.csv").chmod(0o000)
    (folder / "s.toml").write_text("")
    (folder / "s.toml").chmod(0o000)
    (folder / "shut").chmod(0o000)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    (folder / "shut").chmod(0o755)
    shutil.rmtree(folder)


CLOSED = {
    "bars": ("no permission to read it", ["backtest", "{}/b.csv", "--out", "{}/out", "--loop"]),
    "folder of bars": ("no permission to read it", ["backtest", "{}/shut", "--out", "{}/out", "--loop"]),
    "bars in a shut folder": ("no permission to read it", ["backtest", "{}/shut/b.csv", "--out", "{}/out", "--loop"]),
    "out": ("Permission denied", ["backtest", SMALL, "--out", "{}/out", "--loop"]),
    "out below": ("Permission denied", ["backtest", SMALL, "--out", "{}/shut/out", "--loop"]),
    "features": ("Permission denied", ["features", SMALL, "--out", "{}/f.parquet"]),
    "settings": ("Permission denied", ["backtest", SMALL, "--out", "{}/out", "--settings", "{}/s.toml"]),
    "curve": ("no permission to read it", ["metrics", "{}/c.csv"]),
    "run": ("no finished run", ["metrics", "{}/shut"]),
}


@pytest.mark.parametrize("name", CLOSED)
def test_no_permission_is_one_line(name: str, locked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    says, arguments = CLOSED[name]
    before = sorted(path.name for path in locked.iterdir())
    with nobody():
        code, line = said(capfd, *(argument.replace("{}", str(locked)) for argument in arguments))
    assert code == 2, line
    assert says in line, line
    assert sorted(path.name for path in locked.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["backtest", SMALL, "--out", "{}/out", "--loop"],
        ["backtest", SMALL, "--out", "{}/out"],
        ["features", SMALL, "--out", "{}/f.parquet"],
        ["report", "{}/run"],
    ],
    ids=["backtest, loop", "backtest", "features", "report"],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    arguments: list[str], good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(good / "run", tmp_path / "run")
    before = tree(tmp_path)
    with small_files(2_000):
        code, line = said(capfd, *(argument.replace("{}", str(tmp_path)) for argument in arguments))
    assert code == 2, line
    assert "File too large" in line, line
    assert tree(tmp_path) == before


def test_a_former_run_stays_when_the_disk_is_full(
    good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(good / "run", tmp_path / "run")
    before = tree(tmp_path)
    with small_files(2_000):
        assert said(capfd, "backtest", SMALL, "--out", str(tmp_path / "run"), "--loop")[0] == 2
    assert tree(tmp_path) == before


# As a program of its own.

UTP = [sys.executable, "-c", "from dataflows.cli import main; main()"]


@pytest.mark.parametrize("name", ["unknown setting", "truncated Parquet", "unknown option", "report of no run"])
def test_a_program_ends_with_code_2(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.there(tmp_path)
    before = tree(tmp_path)
    done = subprocess.run(
        [*UTP, *(argument.replace("{}", str(tmp_path)) for argument in case.arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("utp: ")
    assert done.stderr.count("\n") == 1
    assert case.says in done.stderr
    assert tree(tmp_path) == before


def test_ctrl_c_in_features_is_130_and_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "f.parquet"
    process = subprocess.Popen(
        [*UTP, "features", "synthetic:symbols=50,days=200,seed=3", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not out.with_name("f.parquet.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said_, complained = process.communicate(timeout=60)
    assert (process.returncode, said_, complained) == (130, "", "utp: interrupted\n")
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
