"""Where Bytewax reads a shard, and where it keeps the shard's state."""

import threading

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, cluster_main

from dataflows.pipeline import KEYS, partition_of
from infra.bars import open_bars
from infra.source import BarInput
from operators.drive import scan
from schemas.frames import SHARDS


def test_a_key_begins_with_its_shard():
    assert [partition_of(key) for key in KEYS] == list(range(SHARDS))
    assert len(set(KEYS)) == SHARDS


@pytest.mark.parametrize("workers", [2, 4, 8, 16])
def test_a_shard_is_decided_on_the_worker_that_reads_it_and_each_has_as_many(workers):
    read, kept = {}, {}

    def key(frame):
        read[frame.shard] = threading.get_ident()
        return KEYS[frame.shard], frame.shard

    def keep(state, shard):
        kept[shard] = threading.get_ident()
        return state, shard

    graph = Dataflow("shards")
    bars = BarInput(open_bars("synthetic:symbols=64,days=1,seed=1"))
    keyed = op.map("shard", op.input("bars", graph, bars), key)
    op.output("out", scan("keep", keyed, (), keep), TestingSink([]))
    cluster_main(graph, [], 0, worker_count_per_proc=workers)
    assert read == kept
    assert sorted(read) == list(range(SHARDS))
    assert [list(kept.values()).count(worker) for worker in set(kept.values())] == [SHARDS // workers] * workers
