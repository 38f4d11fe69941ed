import os
import subprocess
import sys
from pathlib import Path

from bytewax.recovery import init_db_dir

ROOT = Path(__file__).resolve().parents[2]
FLOW = """
import os
from typing import NamedTuple

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource

from operators.drive import scan


class State(NamedTuple):
    version: int
    seen: int


def flow():
    graph = Dataflow("counting")
    numbers = op.input("in", graph, TestingSource([("all", 1), TestingSource.EOF(), ("all", 1)]))
    first = State(int(os.environ["VERSION"]), 0)
    counted = scan("count", numbers, first, lambda state, one: (state._replace(seen=state.seen + one), one))
    op.output("out", counted, TestingSink([]))
    return graph
"""


def run(folder, version):
    command = [sys.executable, "-m", "infra.run", "counting:flow()", "-r", str(folder / "store"), "-s", "0", "-b", "0"]
    environ = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "VERSION": version}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60)


def test_a_store_whose_state_has_another_version_is_refused_in_one_line(tmp_path):
    (tmp_path / "counting.py").write_text(FLOW)
    (tmp_path / "store").mkdir()
    init_db_dir(tmp_path / "store", 1)
    assert run(tmp_path, "1").returncode == 0
    done = run(tmp_path, "2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert (
        "counting: the snapshot has version 1, this code 2: run the version that wrote it, or begin with a"
        in done.stderr
    )
