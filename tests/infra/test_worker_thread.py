"""A worker's thread holds one state from its source's first part on, whatever the source is."""

import ctypes
import sys
from collections import defaultdict
from contextlib import nullcontext
from threading import get_ident

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, cluster_main

from dataflows.pipeline import KEYS
from infra import feed, source
from infra.bars import open_bars
from infra.parcels import opened
from infra.ranges import RangeSource
from infra.tail import TailSource
from infra.topics import Topic, create_topics
from infra.worker_thread import keep_state, waking_seldom
from operators.drive import scan
from tests.infra.logkit import fill

BARS = "synthetic:symbols=9,days=2,seed=3,timeframe=30m"
RECORDS = 40


def state_number():
    """Of this thread's state; no two of a process are the same."""
    current, number = ctypes.pythonapi.PyThreadState_Get, ctypes.pythonapi.PyThreadState_GetID
    current.restype, number.restype, number.argtypes = ctypes.c_void_p, ctypes.c_uint64, [ctypes.c_void_p]
    return number(current())


class EnoughError(Exception):
    """A tail has no end."""


def states_met(where_from, workers=1, most=None):
    """By thread: the numbers of the states in which a step met its items."""
    met, items = defaultdict(set), 0

    def meet(item):
        nonlocal items
        met[get_ident()].add(state_number())
        items += 1
        if items == most:
            raise EnoughError
        return item

    graph = Dataflow("meet")
    op.output("out", op.map("meet", op.input("in", graph, where_from), meet), TestingSink([]))
    with pytest.raises((EnoughError, RuntimeError)) if most else nullcontext():
        cluster_main(graph, [], 0, worker_count_per_proc=workers)
    return dict(met)


def test_bytewax_itself_gives_a_state_for_each_call():
    """Once it does not, `infra/worker_thread.py` can go."""
    ((_, numbers),) = states_met(TestingSource(range(20))).items()
    assert len(numbers) > 10


@pytest.mark.parametrize("workers", [1, 2])
def test_bars_keep_each_threads_state(workers):
    """That of the thread that reads them, and of those that get some."""
    met = defaultdict(set)

    def meet(state, frame):
        met[get_ident()].add(state_number())
        return state, frame.shard

    graph = Dataflow("meet")
    parcels = op.input("in", graph, source.BarInput(open_bars(BARS, frame_slices=2)))
    keyed = op.map("key", parcels, lambda parcel: (KEYS[parcel.frame.shard], parcel))
    op.output("out", scan("meet", keyed, (), meet, opened=opened), TestingSink([]))
    cluster_main(graph, [], 0, worker_count_per_proc=workers)
    assert len(met) == workers
    assert all(len(numbers) == 1 for numbers in met.values())


def test_a_feed_keeps_it(monkeypatch):
    monkeypatch.setattr(feed, "BATCH", 1)
    ((_, numbers),) = states_met(feed.PacedFeed(open_bars(BARS), 0.0, 5_000_000_000)).items()
    assert len(numbers) == 1


@pytest.mark.parametrize("make", [
    lambda where: RangeSource(where, {("a", 0): (0, RECORDS)}, batch=1),
    lambda where: TailSource(where, "a"),
])  # fmt: skip
def test_a_log_keeps_it(kafka, monkeypatch, make):
    monkeypatch.setattr("infra.tail.BATCH", 1)
    create_topics(kafka, [Topic("a", 1)])
    fill(kafka, "a", 0, [b"%d" % i for i in range(RECORDS)])
    ((_, numbers),) = states_met(make(kafka), most=RECORDS).items()
    assert len(numbers) == 1


def test_twice_is_harmless():
    keep_state()
    first = state_number()
    keep_state()
    assert state_number() == first


def slack():
    return ctypes.CDLL(None).prctl(30, 0)  # PR_GET_TIMERSLACK


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl")
def test_who_wakes_seldom_does_so_for_a_while():
    before = slack()
    with waking_seldom():
        assert slack() == 5_000_000
    assert slack() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl")
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_a_thread_that_wakes_seldom_wake_in_time(workers):
    seen = set()

    def see(state, frame):
        seen.add((get_ident(), slack()))
        return state, frame.shard

    graph = Dataflow("see")
    parcels = op.input("in", graph, source.BarInput(open_bars(BARS, frame_slices=2)))
    keyed = op.map("key", parcels, lambda parcel: (KEYS[parcel.frame.shard], parcel))
    op.output("out", scan("see", keyed, (), see, opened=opened), TestingSink([]))
    with waking_seldom():
        cluster_main(graph, [], 0, worker_count_per_proc=workers)
    assert len(seen) == workers
    assert {late for _, late in seen} == {50_000}
