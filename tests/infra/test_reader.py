"""What the reader does beside reading; what it reads is tested with the sources."""

import gc
import time
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, Message
from hypothesis import given
from hypothesis import strategies as st

from infra.kafka import Cluster
from infra.ranges import RangeSource
from infra.reader import ENVELOPE, YOUNG, Queue, Reader, Seldom
from infra.topics import Topic, create_topics
from tests.infra.logkit import drain, fill

PLACES = [("a", 0), ("a", 1), ("b", 0)]


def _message(place, offset, value=b"", end=False):
    """What the client hands over: a record, or the end of a partition."""
    error = KafkaError(KafkaError._PARTITION_EOF) if end else None
    return Message(topic=place[0], partition=place[1], offset=offset, value=value, error=error)


@pytest.mark.parametrize("places", [PLACES, [place for place in PLACES if place[0] == "a"]])
@given(data=st.data(), most=st.integers(1, 9))
def test_each_queue_gets_its_records_in_order_and_hears_of_an_end_after_what_came_before_it(places, data, most):
    """Records of partitions in any order, ends of partitions (0) among them; one partition was left meanwhile."""
    left = "a" if len(places) == 2 else "left", 9
    given_out = data.draw(st.lists(st.tuples(st.sampled_from([*places, left]), st.integers(0, 3)), max_size=60))
    queues = {place: Queue(10**6) for place in places}
    reader = SimpleNamespace(
        _queues=queues, _records=0, _expected=None, _topics={topic for topic, _ in [*places, left]}
    )
    for name in ("_put", "_heed", "_sort_out"):
        setattr(reader, name, getattr(Reader, name).__get__(reader))
    wanted, count, found = {place: [] for place in places}, dict.fromkeys([*places, left], 0), []
    for place, kind in given_out:
        found.append(_message(place, count[place], b"x" * kind, end=kind == 0))
        if kind:
            count[place] += 1
            wanted.get(place, []).append(found[-1])
    own = sum(map(len, wanted.values()))
    assert Reader._sort(reader, found) == (own > 0)
    assert reader._records == own
    for place, queue in queues.items():
        assert [message for run, _ in queue.runs for message in run] == wanted[place]
        assert queue.reached in ([-1, 0] if not wanted[place] else [count[place]])
        assert queue.size == sum(map(len, wanted[place])) + ENVELOPE * len(wanted[place])
        taken = []
        while queue.runs:
            batch, size = queue.take(most)
            assert 0 < len(batch) <= most
            assert size == sum(map(len, batch)) + ENVELOPE * len(batch)
            taken += batch
        assert queue.take(most) == ([], 0)
        assert (taken, queue.size) == (wanted[place], 0)


def test_while_a_range_is_read_the_collector_looks_more_seldom_and_then_as_before(kafka):
    create_topics(kafka, [Topic("a", 1)])
    fill(kafka, "a", 0, [b"v"] * 5)
    before = gc.get_threshold()
    part = RangeSource(kafka, {("a", 0): (0, 5)}, batch=2).build_part("step", "a:000", None)
    assert sum(len(item.offsets) for item in drain(part)) == 5
    part.close()
    assert gc.get_threshold() == before
    with Seldom.wanted(True):
        with Seldom.wanted(True), Seldom.wanted(False):
            assert gc.get_threshold() == (YOUNG, *before[1:])
        assert gc.get_threshold() == (YOUNG, *before[1:])
    assert gc.get_threshold() == before
    with Seldom.wanted(False):
        assert gc.get_threshold() == before


def test_a_client_that_cannot_be_made_is_told_to_the_parts(monkeypatch):
    """Else the thread would end unheard, and its parts wait for ever."""

    def none(where, **more):
        raise OSError("no thread left")

    monkeypatch.setattr("infra.reader.consumer", none)
    where = Cluster("127.0.0.1:1")
    reader, _ = Reader.join(where, "nobody", ("a", 0), 0)
    reader._thread.join(10.0)
    try:
        with pytest.raises(OSError, match="no thread left"):
            reader.check()
    finally:
        reader.leave(("a", 0))


def test_a_record_of_our_own_is_expected_until_it_has_come(kafka, monkeypatch):
    monkeypatch.setattr("infra.reader.EXPECTED", 600.0)
    create_topics(kafka, [Topic("own", 1)])
    place = kafka.topic("own"), 0
    reader, queue = Reader.join(kafka, "test", place, 0)
    try:
        for where, other in ((kafka, (place[0], 1)), (Cluster("127.0.0.1:1"), place)):
            Reader.expect(where, other)
            assert not reader.expecting  # nobody reads that here
        Reader.expect(kafka, place)
        assert reader.expecting
        fill(kafka, "own", 0, [b"one"])
        found, deadline = [], time.monotonic() + 60.0
        while not found and time.monotonic() < deadline:
            found, _ = queue.take(9)
            reader.check()
        assert [one.value() for one in found] == [b"one"]
        assert not reader.expecting
        monkeypatch.setattr("infra.reader.EXPECTED", 0.0)
        Reader.expect(kafka, place)
        assert not reader.expecting  # it is long over
    finally:
        reader.leave(place)
