"""A run that is stopped: by Ctrl-C, by a disk that is full. One line, the right code, nothing half-written."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataflows import interrupts, live_demo

ROOT = Path(__file__).resolve().parent.parent.parent
UTP = [sys.executable, "-c", "from dataflows.cli import main; main()"]
LONG = "synthetic:symbols=50,days=60,seed=3"
SHORT = "synthetic:symbols=50,days=4,seed=3"


def started(command: list[str]) -> "subprocess.Popen[str]":
    """A program that heeds Ctrl-C, even where these tests run in the background and so do not."""
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def interrupted(process: "subprocess.Popen[str]") -> tuple[str, str, float]:
    """What it says after Ctrl-C, and the seconds it took; a busy machine may use up its patience."""
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=60)
    return said, complained, time.monotonic() - begun


def wait_for(path: Path, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert path.exists()


@pytest.mark.parametrize("how", ["--loop", "--no-loop"])
def test_ctrl_c_is_one_line_and_130(tmp_path: Path, how: str) -> None:
    out = tmp_path / "run"
    command = [*UTP, "backtest", LONG, "--out", str(out), how, "--set", "run.frame_slices=20"]
    process = started(command)
    partial = tmp_path / "run.partial"
    wait_for(partial)
    time.sleep(0.3)
    said, complained, took = interrupted(process)
    assert (process.returncode, said, complained) == (130, "", "utp: interrupted\n")
    assert not out.exists()
    assert took > interrupts.PATIENCE or not partial.exists()


@pytest.mark.parametrize("how", ["--loop", "--no-loop"])
@pytest.mark.parametrize("wait", [0.0, 0.1, 0.3])
def test_ctrl_c_while_a_run_is_finished_is_130_and_the_folder_is_whole_or_not_there(
    tmp_path: Path, how: str, wait: float
) -> None:
    out = tmp_path / "run"
    process = started([*UTP, "backtest", "synthetic:symbols=50,days=12,seed=3", "--out", str(out), how])
    wait_for(tmp_path / "run.partial" / "run")
    time.sleep(wait)
    _, complained, took = interrupted(process)
    assert (process.returncode, complained) in ((130, "utp: interrupted\n"), (0, ""))
    assert not out.exists() or (out / "report.html").read_bytes().endswith(b"</html>\n")
    assert took > interrupts.PATIENCE or not (tmp_path / "run.partial").exists()


STUCK = """
import sys, time, types, dataflows
from dataflows import cli, interrupts
interrupts.PATIENCE = 0.5
class Last:
    def __del__(self):
        time.sleep(60)
def run(*given, **more):
    print('up', flush=True)
    try:
        {body}
    finally:
        print('tidy', flush=True)
dataflows.backtest = sys.modules['dataflows.backtest'] = types.SimpleNamespace(
    plan=lambda *given, **more: None, run=run)
cli.main(['backtest', 'b', '--out', 'o'])
"""
WAYS = {  # what a run does, and what it still says after Ctrl-C
    "lost in a finaliser": ("Last(); time.sleep(60)", "tidy\n"),
    "lost in a callback whose caller then fails": ("Last(); raise RuntimeError('not made')", "tidy\n"),
    "held back by code that does not look": ("""
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                pass""", ""),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_cannot_be_swallowed(way: str) -> None:
    body, tidied = WAYS[way]
    process = started([sys.executable, "-c", STUCK.format(body=body)])
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=20)
    assert (process.returncode, said, complained) == (130, tidied, "utp: interrupted\n")


def test_who_ignores_ctrl_c_goes_on(tmp_path: Path) -> None:
    """As a job of `nohup`, or one in the background of a script."""
    process = subprocess.Popen(
        [*UTP, "backtest", SHORT, "--out", str(tmp_path / "run"), "--loop", "--json"], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    wait_for(tmp_path / "run.partial")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=400)[1] == ""
    assert process.returncode == 0


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


def test_a_flow_of_the_demo_that_does_not_end_is_killed_before_the_program_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert live_demo.LEAVE_SECONDS < interrupts.PATIENCE
    monkeypatch.setattr(live_demo, "LEAVE_SECONDS", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    flows = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
             for code in (deaf, "import time; print(flush=True); time.sleep(600)")]  # fmt: skip
    for flow in flows:
        assert flow.stdout is not None
        assert flow.stdout.readline() == b"\n"  # it is up
    live_demo._end(flows)
    assert [flow.poll() for flow in flows] == [-signal.SIGKILL, -signal.SIGTERM]
    for flow in flows:
        assert flow.stdout is not None
        flow.stdout.close()
