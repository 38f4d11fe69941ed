import os
import subprocess
import sys
from pathlib import Path

import pytest
from bytewax.recovery import init_db_dir

ROOT = Path(__file__).resolve().parents[2]
FLOW = """
import os
from typing import NamedTuple

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource

from infra.recovery import accepts_loss, check_store, folder_of
from operators.drive import scan


class State(NamedTuple):
    version: int
    seen: int


def flow():
    graph = Dataflow("counting")
    numbers = op.input("in", graph, TestingSource([("all", 1), TestingSource.EOF(), ("all", 1)]))
    first = State(int(os.environ["VERSION"]), 0)
    counted = scan(os.environ["STEP"], numbers, first, lambda state, one: (state._replace(seen=state.seen + one), one))
    op.output("out", counted, TestingSink([]))
    check_store(graph, folder_of(), accepts_loss())
    return graph
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "counting.py").write_text(FLOW)
    (tmp_path / "store").mkdir()
    init_db_dir(tmp_path / "store", 1)
    return tmp_path


def run(folder, *more, version="1", step="count"):
    command = [sys.executable, "-m", "infra.run", "counting:flow()", "-r", str(folder / "store"), "-s", "0", "-b", "0",
               *more]  # fmt: skip
    environ = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "VERSION": version, "STEP": step}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60)


def test_a_store_whose_state_has_another_version_is_refused_in_one_line(folder):
    assert run(folder).returncode == 0
    done = run(folder, version="2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    wanted = "counting: the snapshot has version 1, this code 2: run the version that wrote it, or begin with a new"
    assert wanted in done.stderr


def test_state_that_no_step_has_is_left_behind_when_one_says_so(folder):
    assert run(folder).returncode == 0
    done = run(folder, step="tally")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "holds state of counting.count, which is no step of counting" in done.stderr
    assert run(folder, "--accept-state-loss", step="tally").returncode == 0
