"""Where Bytewax reads a shard, and where it keeps the shard's state."""

import threading

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.testing import TestingSink, cluster_main

from dataflows.pipeline import KEYS, partition_of
from infra.ranges import part_name
from operators.drive import scan
from schemas.frames import SHARDS


def test_a_key_begins_with_its_shard():
    assert [partition_of(key) for key in KEYS] == list(range(SHARDS))
    assert len(set(KEYS)) == SHARDS


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
