"""What is installed is compiled: a first run, and an image whose cache cannot be written, wait for no compiler."""

import os
import subprocess
import sys
from pathlib import Path

from tests.infra.barkit import LEAN, needs_lean

RUNS = (
    ("synthetic:symbols=50,days=12,seed=3", "--loop"),
    ("synthetic:symbols=20,days=9,seed=5", "--profile", "research"),
    (str(LEAN / "daily.parquet"), "--profile", "research"),
    (str(LEAN / "hour.parquet"),),
)


@needs_lean
def test_no_run_compiles_what_warm_has_compiled(tmp_path: Path) -> None:
    environ = os.environ | {"UTP_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_DEBUG_CACHE": "1"}
    environ.pop("NUMBA_CACHE_DIR", None)

    def saved(*command: str) -> list[str]:
        done = subprocess.run([sys.executable, "-m", *command], env=environ, capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if "data saved" in line]

    assert len(saved("dataflows.warm")) > 50
    for spec, *how in RUNS:
        assert saved("dataflows.cli", "backtest", spec, "--out", str(tmp_path / "run"), *how) == []
