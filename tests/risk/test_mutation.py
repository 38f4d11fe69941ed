"""The tool that breaks the account on purpose can do so: it reads the account's code, and nobody runs it every day."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_mutants_can_be_made_and_what_is_listed_is_among_them() -> None:
    command = [sys.executable, "-m", "tests.mutation", "--check", "--histories", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
