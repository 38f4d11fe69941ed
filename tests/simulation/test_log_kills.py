"""From log to log through SIGKILLs of the flow and of the broker, with other numbers of workers."""

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infra.embedded import Broker
from infra.kafka import Cluster, bounds
from infra.topics import Topic, create_topics
from tests.infra.logkit import dump, fill
from tests.simulation.log_flow import INPUTS, OUTPUTS, expected

ROOT = Path(__file__).resolve().parents[2]


def begin(where, each, store, workers):
    script = f"tests/simulation/log_flow.py:flow({where.servers!r}, {where.prefix!r}, {each})"
    command = [sys.executable, "-m", "bytewax.run", script, "-r", str(store), "-s", "1", "-b", "0", "-w", str(workers)]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )


def prepare(where, each, tmp_path):
    create_topics(where, [Topic("in", INPUTS), Topic("out", OUTPUTS)])
    for number in range(INPUTS):
        fill(where, "in", number, [b"%d" % (i * INPUTS + number) for i in range(each)])
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run([sys.executable, "-m", "bytewax.recovery", str(store), "2"], check=True)
    return store


def written(where):
    return sum(high for _, high in bounds(where, "out").values())


def wait_until(where, goal, run):
    """Until so many records are out, or the flow has ended."""
    while run.poll() is None and written(where) < goal:
        time.sleep(0.01)


def check(where, each):
    rows = [row for part in dump(where, "out").values() for row in part]
    assert len(rows) == INPUTS * each, "lost or doubled"
    assert {row[0]: row[2] for row in rows} == expected(each)
    for part in dump(where, "out").values():  # each key's records in the order in which they were made
        for key in {row[1] for row in part}:
            assert [int(row[2].split()[0]) for row in part if row[1] == key] == list(
                range(1, 1 + sum(row[1] == key for row in part))
            )


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_or_doubled_through_kills_and_rescaling(kafka, tmp_path, seed):
    each, draw = 15_000, random.Random(seed)
    store = prepare(kafka, each, tmp_path)
    goals = sorted(draw.sample(range(1, INPUTS * each), 3))
    for k, goal in enumerate(goals):
        run = begin(kafka, each, store, 1 + k % 2)
        wait_until(kafka, goal, run)
        run.kill()
        run.communicate()
    run = begin(kafka, each, store, 2)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    check(kafka, each)


@pytest.mark.skipif("KAFKA_BOOTSTRAP_SERVERS" in os.environ, reason="stops its own broker, not yours")
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_broker_that_comes_back_costs_only_time(tmp_path, how):
    broker = Broker(tmp_path / "broker")
    broker.start()
    each, where = 15_000, Cluster(broker.servers, "x.")
    store = prepare(where, each, tmp_path)
    run = begin(where, each, store, 1)
    while written(where) < 5_000:
        assert run.poll() is None
        time.sleep(0.005)
    getattr(broker, how)()
    time.sleep(3.0)
    assert run.poll() is None  # it waits
    broker.start()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    check(where, each)
    broker.stop()


@pytest.mark.skipif("KAFKA_BOOTSTRAP_SERVERS" in os.environ, reason="starts its own broker late")
def test_a_flow_may_start_before_its_broker(tmp_path):
    broker = Broker(tmp_path / "broker")
    broker.start()
    each, where = 100, Cluster(broker.servers, "x.")
    store = prepare(where, each, tmp_path)
    broker.stop()
    run = begin(where, each, store, 1)
    threading.Timer(4.0, broker.start).start()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    check(where, each)
    broker.stop()
