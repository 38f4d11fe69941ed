"""A run that is stopped: by Ctrl-C, by a disk that is full. One line, the right code, nothing half-written."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
UTP = [sys.executable, "-c", "from dataflows.cli import main; main()"]
LONG = "synthetic:symbols=50,days=60,seed=3"
SHORT = "synthetic:symbols=50,days=4,seed=3"


@pytest.mark.parametrize("how", ["--loop", "--no-loop"])
def test_ctrl_c_is_one_line_and_130(tmp_path: Path, how: str) -> None:
    out = tmp_path / "run"
    command = [*UTP, "backtest", LONG, "--out", str(out), how, "--set", "run.frame_slices=20"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "run.partial"
    deadline = time.monotonic() + 60
    while not partial.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=60)
    assert (process.returncode, said, complained) == (130, "", "utp: interrupted\n")
    assert partial.exists()
    assert not out.exists()


@pytest.mark.parametrize("how", ["--loop", "--no-loop"])
def test_a_full_disk_is_one_line_and_2(tmp_path: Path, how: str) -> None:
    """No file may grow beyond 100 kB here, which fails as a full disk does."""
    out = tmp_path / "run"
    done = subprocess.run(
        [*UTP, "backtest", SHORT, "--out", str(out), how], cwd=ROOT, capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"utp: --out {out}: ")
    assert "free some space" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_bytewax_says_where_the_run_is_and_fails_when_it_cannot_be_written(tmp_path: Path) -> None:
    call = f"dataflows.backtest:flow({SHORT!r}, out={str(tmp_path / 'run')!r})"
    command = [sys.executable, "-m", "bytewax.run", call]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, f"report: {tmp_path / 'run' / 'report.html'}\n")
    full = subprocess.run(
        [*command[:-1], call.replace("/run'", "/other'")], cwd=ROOT, capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert full.returncode == 1
    assert "free some space" in full.stderr
    assert not (tmp_path / "other").exists()
