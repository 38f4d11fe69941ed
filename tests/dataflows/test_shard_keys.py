"""Where Bytewax reads a shard, and where it keeps the shard's state."""

import threading

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.testing import TestingSink, cluster_main

from dataflows import backtest
from dataflows.pipeline import ASIDE, KEYS, WRITER, partition_of
from infra import result_sink, source
from infra.ranges import part_name
from infra.settings import load
from operators.drive import scan
from schemas.frames import SHARDS


def test_a_key_begins_with_its_shard():
    for keys in (KEYS, ASIDE):
        assert [partition_of(key) for key in keys] == list(range(SHARDS))


class _Log(FixedPartitionedSource[int, None]):
    """Parts named as those of a topic; each gives out its number."""

    def list_parts(self):
        return [part_name("market.slices", number) for number in range(SHARDS)]

    def build_part(self, step_id, for_part, resume_state):
        return _Part(self.list_parts().index(for_part))


class _Part(StatefulSourcePartition[int, None]):
    def __init__(self, number):
        self._left = [number]

    def next_batch(self):
        if not self._left:
            raise StopIteration
        return [self._left.pop()]

    def snapshot(self):
        return None


@pytest.mark.parametrize("workers", [2, 4, 8, 16])
def test_a_partition_of_the_log_is_read_where_the_state_of_its_shard_is_and_each_worker_has_as_many(workers):
    """Parts are dealt out in order of their names, so a name must sort as its number does."""
    read, kept = {}, {}

    def key(number):
        read[number] = threading.get_ident()
        return KEYS[number], number

    def keep(state, number):
        kept[number] = threading.get_ident()
        return state, number

    graph = Dataflow("partitions")
    keyed = op.map("shard", op.input("slices", graph, _Log()), key)
    op.output("out", scan("keep", keyed, (), keep), TestingSink([]))
    cluster_main(graph, [], 0, worker_count_per_proc=workers)
    assert read == kept
    assert sorted(read) == list(range(SHARDS))
    assert [list(kept.values()).count(worker) for worker in set(kept.values())] == [SHARDS // workers] * workers


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_in_a_backtest_the_account_is_where_its_results_are_and_bars_are_read_elsewhere(workers, tmp_path, monkeypatch):
    where = {}

    def noted(kind, name):
        own = getattr(kind, name)

        def call(self, *given):
            where.setdefault(kind.__name__, threading.get_ident())
            return own(self, *given)

        monkeypatch.setattr(kind, name, call)

    noted(source.Part, "_is_far_ahead")  # of the one that reads
    noted(result_sink.Recorder, "add")
    decided = {}
    step = backtest.pipeline.step

    def deciding(params, state, frame):
        decided[frame.shard] = threading.get_ident()
        return step(params, state, frame)

    def accounting(params, state, frame):
        where["account"] = threading.get_ident()
        return account_step(params, state, frame)

    account_step = backtest.pipeline.account.step
    monkeypatch.setattr(backtest.pipeline, "step", deciding)
    monkeypatch.setattr(backtest.pipeline.account, "step", accounting)
    job = backtest.plan("synthetic:symbols=64,days=1,seed=1", load(None, (), environ={}), tmp_path / "run")
    graph, sink = backtest.build(job)
    cluster_main(graph, [], 0, worker_count_per_proc=workers)
    assert sink.summary()["counts"]["bars"] > 0
    assert where["account"] == where["Recorder"] != where["Part"]
    assert where["account"] not in decided.values()
    assert len(decided) == SHARDS


@pytest.mark.parametrize("workers", [2, 4, 8, 16])
def test_a_backtests_account_is_on_the_first_worker(workers):
    """As is the only part of a sink."""
    kept = {}

    def keep(state, key):
        kept[key] = threading.get_ident()
        return state, key

    graph = Dataflow("account")
    keyed = op.map("key", op.input("in", graph, _Log()), lambda number: ((WRITER, *KEYS)[min(number, 1)],) * 2)
    op.output("out", scan("keep", keyed, (), keep), TestingSink([]))
    cluster_main(graph, [], 0, worker_count_per_proc=workers)
    assert kept[WRITER] == kept[KEYS[0]]
