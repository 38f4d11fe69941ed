"""One order log, however it is run: loop, workers, processes, frames of any size, through crashes."""

import hashlib
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataflows import backtest
from infra.settings import load

ROOT = Path(__file__).resolve().parent.parent.parent
SPEC = "synthetic:symbols=12,days=4,seed=11"
SETS = ["run.frame_slices=25", "rules.max_orders_per_minute=1000", "rules.cooldown_seconds=60"]
TABLES = ("equity", "signals", "verdicts", "orders", "updates", "fills", "trades", "quarantine", "benchmark")


def digest(run: Path, summary: bool = True) -> dict[str, str]:
    """What two runs must agree on: every table, byte for byte, and the summary."""
    files = [f"{table}.parquet" for table in TABLES] + (["summary.json", "report.html"] if summary else [])
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in files}


def bytewax(module: str, out: Path, *arguments: str) -> list[str]:
    call = f"dataflows.backtest:flow({SPEC!r}, out={str(out)!r}, sets={SETS!r})"
    return [sys.executable, "-m", f"bytewax.{module}", call, *arguments]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run by a plain loop; it trades, or the comparisons below would say nothing."""
    out = tmp_path_factory.mktemp("runs") / "loop"
    summary = backtest.run(backtest.plan(SPEC, load(None, SETS), out), loop=True)
    assert summary["counts"]["trades"] > 40
    return out


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("run", []),
        ("run", ["-w", "2"]),
        ("run", ["-w", "3"]),
        ("testing", ["-p", "2"]),
        ("testing", ["-p", "3"]),
        ("testing", ["-p", "2", "-w", "2"]),
    ],
    ids=[
        "one worker",
        "two threads",
        "three threads",
        "two processes",
        "three processes",
        "two processes of two threads",
    ],
)
def test_workers_and_processes_do_not_matter(expected: Path, tmp_path: Path, module: str, arguments: list[str]) -> None:
    out = tmp_path / "run"
    subprocess.run(bytewax(module, out, *arguments), cwd=ROOT, check=True, timeout=300)
    assert digest(out) == digest(expected)


@pytest.mark.parametrize("slices", [1, 7, 1000])
@pytest.mark.parametrize("loop", [True, False], ids=["loop", "bytewax"])
def test_the_size_of_frames_does_not_matter(expected: Path, tmp_path: Path, slices: int, loop: bool) -> None:
    settings = load(None, [*SETS, f"run.frame_slices={slices}"])
    backtest.run(backtest.plan(SPEC, settings, tmp_path / "run"), loop=loop)
    assert digest(tmp_path / "run", summary=False) == digest(expected, summary=False)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_crashes_do_not_matter(expected: Path, tmp_path: Path, seed: int) -> None:
    """Killed at random moments and resumed with other worker counts, the run ends the same."""
    rng = random.Random(seed)
    out, store = tmp_path / "run", tmp_path / "recovery"
    store.mkdir()
    subprocess.run([sys.executable, "-m", "bytewax.recovery", str(store), "2"], cwd=ROOT, check=True)
    recovery = ["-r", str(store), "-s", "0", "-b", "0"]
    ways = [("run", []), ("run", ["-w", "2"]), ("testing", ["-p", "2"])]
    killed = 0
    for _ in range(4):
        module, arguments = rng.choice(ways)
        process = subprocess.Popen(bytewax(module, out, *arguments, *recovery), cwd=ROOT, start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        wait_for_progress(process, store)
        time.sleep(rng.uniform(0.0, 0.4))  # of the second or more that a run takes from its first epoch on
        if process.poll() is None:
            killed += 1
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "summary.json").exists() or digest(out) == digest(expected)  # all of it or nothing
    subprocess.run(bytewax("run", out, *recovery), cwd=ROOT, check=True, timeout=300)
    assert killed >= 2
    assert digest(out) == digest(expected)
    assert not out.with_name("run.partial").exists()


def wait_for_progress(process: "subprocess.Popen[bytes]", store: Path) -> None:
    """Until the flow has written to its recovery store since it was started, or has ended."""
    before = time.time()
    while process.poll() is None and time.time() < before + 120:
        if any(written(path) > before for path in store.iterdir()):
            return
        time.sleep(0.02)


def written(path: Path) -> float:
    """When `path` was last written; never, where SQLite has taken away its log since the folder was read."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return -math.inf


def test_a_finished_run_is_left_alone_when_it_is_resumed(expected: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "run", tmp_path / "recovery"
    store.mkdir()
    subprocess.run([sys.executable, "-m", "bytewax.recovery", str(store), "1"], cwd=ROOT, check=True)
    recovery = ["-r", str(store), "-s", "1", "-b", "0"]
    for _ in range(2):
        subprocess.run(bytewax("run", out, *recovery), cwd=ROOT, check=True, timeout=300)
        assert digest(out) == digest(expected)


def test_another_run_cannot_take_over_a_recovery_store(tmp_path: Path) -> None:
    """Resumed with other settings it would mix two runs; it stops and says so."""
    out, store = tmp_path / "run", tmp_path / "recovery"
    store.mkdir()
    subprocess.run([sys.executable, "-m", "bytewax.recovery", str(store), "1"], cwd=ROOT, check=True)
    recovery = ["-r", str(store), "-s", "1", "-b", "0"]
    subprocess.run(bytewax("run", out, *recovery), cwd=ROOT, check=True, timeout=300)
    before = digest(out)
    command = bytewax("run", out, *recovery)
    command[3] = command[3].replace("cooldown_seconds=60", "cooldown_seconds=61")
    other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert other.returncode != 0
    assert "the recovery store belongs to a run with other bars or settings" in other.stderr
    assert digest(out) == before


def test_two_runs_cannot_write_into_one_folder(tmp_path: Path) -> None:
    recorder = backtest.Recorder(tmp_path / "run", backtest.plan(SPEC, load(None, SETS), tmp_path / "run").header)
    command = [sys.executable, "-c", "from dataflows.cli import main; main()", "backtest", SPEC]
    other = subprocess.run([*command, "--out", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True)
    message = f"utp: --out {tmp_path / 'run'}: another run is writing here; name another folder\n"
    assert (other.returncode, other.stderr) == (2, message)
    assert recorder.rows == 0
