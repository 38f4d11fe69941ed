"""From log to log through SIGKILLs of the flow and of the broker, with other numbers of workers."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from infra.kafka import Cluster, consumer
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


@contextmanager
def running(*given):
    """The flow, which does not outlive a test that fails."""
    run = begin(*given)
    try:
        yield run
    finally:
        run.kill()
        run.communicate()


def prepare(where, each, tmp_path):
    create_topics(where, [Topic("in", INPUTS), Topic("out", OUTPUTS)])
    for number in range(INPUTS):
        fill(where, "in", number, [b"%d" % (i * INPUTS + number) for i in range(each)])
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run([sys.executable, "-m", "bytewax.recovery", str(store), "2"], check=True)
    return store


class Written:
    """How many records are out, asked often."""

    def __init__(self, where):
        self.client = consumer(where)
        self.places = [TopicPartition(where.topic("out"), number) for number in range(OUTPUTS)]

    def __call__(self):
        return sum(self.client.get_watermark_offsets(place, timeout=10)[1] for place in self.places)


def finish(run):
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors[-3000:]


def check(where, each):
    rows = [row for part in dump(where, "out").values() for row in part]
    times = Counter(row[0] for row in rows)
    assert [name for name in expected(each) if name not in times] == [], "lost"
    assert [name for name, number in times.items() if number > 1] == [], "doubled"
    assert {row[0]: row[2] for row in rows} == expected(each)
    for part in dump(where, "out").values():  # each key's records in the order in which they were made
        for key in {row[1] for row in part}:
            assert [int(row[2].split()[0]) for row in part if row[1] == key] == list(
                range(1, 1 + sum(row[1] == key for row in part))
            )


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_or_doubled_through_kills_and_rescaling(kafka, tmp_path, seed):
    each, draw = 8_000, random.Random(seed)
    store = prepare(kafka, each, tmp_path)
    written = Written(kafka)
    for k, goal in enumerate(sorted(draw.sample(range(1, INPUTS * each), 3))):
        with running(kafka, each, store, 1 + k % 2) as run:
            while run.poll() is None and written() < goal:
                time.sleep(0.01)
    finish(begin(kafka, each, store, 2))
    check(kafka, each)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_broker_that_comes_back_costs_only_time(broker, tmp_path, how):
    each, where = 15_000, Cluster(broker.servers, "x.")
    store = prepare(where, each, tmp_path)
    with running(where, each, store, 1) as run:
        written = Written(where)
        while written() < 5_000:
            assert run.poll() is None
            time.sleep(0.005)
        getattr(broker, how)()
        time.sleep(3.0)
        assert run.poll() is None  # it waits
        broker.start()
        finish(run)
    check(where, each)


def test_a_flow_may_start_before_its_broker(broker, tmp_path):
    each, where = 100, Cluster(broker.servers, "x.")
    store = prepare(where, each, tmp_path)
    broker.stop()
    with running(where, each, store, 1) as run:
        time.sleep(4.0)
        assert run.poll() is None
        broker.start()
        finish(run)
    check(where, each)
