import os
import signal
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


ENDLESS = """
import os

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.testing import TestingSink

from infra.run import heed_bytewax_interrupts


class Part(StatelessSourcePartition):
    def next_batch(self):
        print("begun", flush=True)
        return []


class Source(DynamicSource):
    def build(self, step_id, worker_index, worker_count):
        return Part()


def flow():
    heed_bytewax_interrupts()
    graph = Dataflow("endless")
    op.output("out", op.input("in", graph, Source()), TestingSink([]))
    return graph
"""


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("runner", ["bytewax.run", "infra.run"])
def test_ctrl_c_is_one_line_and_code_130_whoever_runs_the_flow(tmp_path, runner, workers):
    (tmp_path / "endless.py").write_text(ENDLESS)
    command = [sys.executable, "-m", runner, "endless:flow()", "-w", workers]
    environ = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the child hears it, whoever started the tests
    try:
        with subprocess.Popen(command, cwd=ROOT, env=environ, text=True, stdout=-1, stderr=-1) as running:
            assert running.stdout.readline().startswith("begun")
            running.send_signal(signal.SIGINT)
            _, told = running.communicate(timeout=30)
    finally:
        signal.signal(signal.SIGINT, before)
    line = "interrupted; started again the flow goes on where its store says\n"
    assert (running.returncode, told) == (130, line)
