"""What workers need is imported before they start: two threads that import at once may get half a module each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dataflows.livekit import ROOT, UTP, Site

SPY = """
import os, sys, threading

class Spy:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is not threading.main_thread():
            with open(os.environ["IMPORTS_SEEN"], "a") as seen:
                seen.write(f"{threading.current_thread().name}: {name}\\n")

sys.meta_path.insert(0, Spy())
"""
APART = ("numba", "llvmlite", "scipy", "cffi", "plotly")
BARS = "synthetic:symbols=12,days=1,seed=11,timeframe=5m"


@pytest.fixture
def spied(tmp_path):
    """Settings under which a process writes down what is imported by another thread than its first."""
    (tmp_path / "sitecustomize.py").write_text(SPY)
    return {"PYTHONPATH": str(tmp_path), "IMPORTS_SEEN": str(tmp_path / "seen")}


def seen(spied):
    """Less what Numba imports, under a lock of its own, and the one package whose folder is only looked up."""
    path = Path(spied["IMPORTS_SEEN"])
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.split(": ")[1].split(".")[0] not in APART]


def test_the_spy_sees(spied):
    code = "import threading; t = threading.Thread(target=lambda: __import__('wave')); t.start(); t.join()"
    subprocess.run([sys.executable, "-c", code], env=spied, check=True)
    assert next(line.split(": ")[1] for line in seen(spied)) == "wave"


def test_workers_of_the_live_flows_import_nothing(spied, kafka, tmp_path):
    settings = {"INGEST__SOURCE": BARS, "INGEST__SPEED": "0", "LIVE__TIMEFRAME": "5m", "RULES__COOLDOWN_SECONDS": "60"}
    site = Site(tmp_path / "site", kafka, **settings, **spied)
    site.start("live", "dataflows.live", "-w", "2")
    site.start("ingest", "dataflows.ingest", "-w", "2")
    try:
        site.wait(1)
    finally:
        site.stop_all()
    assert seen(spied) == []


def test_workers_of_a_backtest_import_nothing(spied, tmp_path):
    done = subprocess.run([*UTP, "backtest", BARS, "--workers", "2", "--out", str(tmp_path / "run")],
                          cwd=ROOT, env={**os.environ, **spied}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert seen(spied) == []
