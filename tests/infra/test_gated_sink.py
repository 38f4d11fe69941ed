import threading
import time

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from infra import gated_sink
from infra.gated_sink import DeliveryError, GatedSink, OtherContentError, Record, digest
from infra.kafka import Cluster
from infra.topics import Topic, create_topics
from schemas.errors import UserError
from tests.infra.logkit import dump, fill, numbered, trim


@pytest.fixture
def log(kafka):
    create_topics(kafka, [Topic("out", 2)])
    return kafka


def part(where, resume=None, writer="flow", number=0, **more):
    return GatedSink(where, "out", writer, **more).build_part("step", f"out:{number:03}", resume)


def ids(where, number=0):
    return [row[0] for row in dump(where, "out")[number]]


def test_records_stand_in_their_partition_in_order(log):
    sink = part(log, number=1)
    sink.write_batch([numbered(0, 3), numbered(3, 5)])
    assert sink.snapshot() == (1, 5, ())
    sink.close()
    assert dump(log, "out") == {0: [], 1: [(f"id{i}", b"k", b"v%d" % i, i, "flow") for i in range(5)]}


def test_a_key_has_its_partition(log):
    sink = GatedSink(log, "out", "flow")
    assert sink.list_parts() == ["out:000", "out:001"]
    assert sink.part_fn("AAPL") == gated_sink.crc("AAPL") == 3_060_094_812
    assert GatedSink(log, "out", "flow", place=int).part_fn("07") == 7


def test_who_reads_the_partition_here_expects_what_is_written(log, monkeypatch):
    expected = []
    monkeypatch.setattr(gated_sink.Reader, "expect", lambda *asked: expected.append(asked))
    sink = part(log, number=1)
    assert expected == []
    sink.write_batch([numbered(0, 2)])
    assert expected == [(log, (log.topic("out"), 1))] * 2
    sink.close()


def test_what_is_in_the_log_is_not_written_again(log):
    sink = part(log)
    sink.write_batch([numbered(0, 3)])
    state = sink.snapshot()
    sink.write_batch([numbered(3, 6)])
    sink.snapshot()  # delivered, yet this epoch is never committed: a crash
    again = part(log, state)
    again.write_batch([numbered(3, 8)])
    assert again.snapshot() == (1, 8, ())
    assert ids(log) == [f"id{i}" for i in range(8)]


def test_a_second_crash_in_the_middle_of_what_is_repeated_doubles_nothing(log):
    sink = part(log)
    state = sink.snapshot()
    sink.write_batch([numbered(0, 6)])
    sink.snapshot()
    again = part(log, state)
    again.write_batch([[numbered(0, 6)[i] for i in (0, 1, 3)]])  # keys interleave otherwise the second time
    state = again.snapshot()
    assert state == (1, 2, (3,))
    third = part(log, state)
    third.write_batch([[numbered(0, 6)[i] for i in (4, 2, 5)], numbered(6, 8)])
    assert third.snapshot() == (1, 8, ())
    assert ids(log) == [f"id{i}" for i in range(8)]


def test_a_new_store_doubles_nothing_either(log):
    first = part(log)
    first.write_batch([numbered(0, 4)])
    first.close()
    sink = part(log)
    sink.write_batch([numbered(0, 5)])
    sink.close()
    assert ids(log) == [f"id{i}" for i in range(5)]


def test_a_new_store_may_compare_from_an_offset_on(log):
    first = part(log)
    first.write_batch([numbered(0, 4)])
    first.close()
    sink = part(log, since={0: 3})
    sink.write_batch([numbered(0, 5)])
    sink.close()
    assert ids(log) == ["id0", "id1", "id2", "id3", "id0", "id1", "id2", "id4"]


@pytest.mark.parametrize("changed", [{"value": b"other"}, {"ts": 9}, {"key": None}, {"headers": (("schema", b"2"),)}])
def test_the_same_id_with_other_content_stops_the_worker(log, changed):
    sink = part(log)
    sink.write_batch([numbered(0, 2)])
    sink.close()
    again = part(log)
    again.write_batch([numbered(0, 1)])
    with pytest.raises(OtherContentError, match=r"out partition 0: id id1 is at offset 1 with other content"):
        again.write_batch([[numbered(1, 2)[0]._replace(**changed)]])
    assert ids(log) == ["id0", "id1"]


def test_two_contents_of_one_id_in_the_log_itself_are_found(log):
    headers = [("id", b"x"), ("by", b"flow")]
    fill(log, "out", 0, [b"one", b"other"], headers=headers)
    with pytest.raises(OtherContentError, match="id x has one content at 0, another at 1"):
        part(log)


def test_other_writers_are_left_alone(log):
    fill(log, "out", 0, [b"by hand"])
    one, other = part(log, writer="one"), part(log, writer="other")
    one.write_batch([numbered(0, 2)])
    one.snapshot()
    other.write_batch([numbered(0, 2, b"w")])
    other.snapshot()
    again = part(log, writer="one")
    again.write_batch([numbered(0, 3)])
    again.close()
    assert [(row[0], row[4]) for row in dump(log, "out")[0]] == [
        ("", ""), ("id0", "one"), ("id1", "one"), ("id0", "other"), ("id1", "other"), ("id2", "one")
    ]  # fmt: skip


def test_what_is_never_emitted_again_is_forgotten_in_the_end(log, monkeypatch, caplog):
    monkeypatch.setattr(gated_sink, "SLACK", 4)
    sink = part(log)
    state = sink.snapshot()
    sink.write_batch([numbered(0, 2)])
    sink.snapshot()
    again = part(log, state)  # a version that does not emit id0
    again.write_batch([numbered(1, 9)])
    assert again.snapshot() == (1, 0, (1,))
    again.write_batch([numbered(9, 12)])
    assert again.snapshot() == (1, 12, ())
    assert "1 records were not emitted again, first 0" in caplog.text


def test_another_log_than_the_stores_is_refused(log):
    with pytest.raises(UserError, match=r"the log ends at 0, before offset 3 of the recovery store"):
        part(log, (1, 3, ()))


def test_a_tail_that_retention_has_eaten_is_no_obstacle(log):
    sink = part(log)
    sink.write_batch([numbered(0, 4)])
    sink.close()
    trim(log, "out", 0, 2)
    again = part(log, (1, 0, ()))
    again.write_batch([numbered(2, 5)])
    again.close()
    assert ids(log) == ["id2", "id3", "id4"]


def test_a_full_local_queue_is_waited_for(log, monkeypatch):
    small = gated_sink.producer
    monkeypatch.setattr(gated_sink, "producer", lambda where, linger, heard: Full(small(where, linger, heard)))
    sink = part(log)
    sink.write_batch([numbered(0, 30)])
    assert sink.snapshot() == (1, 30, ())
    assert sink._outbox.client.refused == 30
    sink.close()
    assert ids(log) == [f"id{i}" for i in range(30)]


class Full:
    """A client whose queue is full at every first attempt."""

    def __init__(self, client):
        self.client, self.refused, self.full = client, 0, True

    def produce(self, *args, **named):
        self.full = not self.full
        if not self.full:
            self.refused += 1
            raise BufferError("Local: Queue full")
        self.client.produce(*args, **named)

    def poll(self, seconds):
        return self.client.poll(seconds)


def test_a_queue_of_the_real_client_that_is_full_is_waited_for_too(log, monkeypatch):
    def tiny(where, linger, heard):
        return Producer({**where.client, "queue.buffering.max.messages": 5, "linger.ms": 1})

    monkeypatch.setattr(gated_sink, "producer", tiny)
    sink = part(log)
    sink.write_batch([numbered(0, 2_000)])
    sink.close()
    assert ids(log) == [f"id{i}" for i in range(2_000)]


def test_a_full_queue_is_waited_for_while_the_broker_is_away(broker, monkeypatch):
    def tiny(where, linger, heard):
        return Producer({**where.client, "queue.buffering.max.messages": 5, "linger.ms": 1, "enable.idempotence": True,
                         "error_cb": heard})  # fmt: skip

    monkeypatch.setattr(gated_sink, "producer", tiny)
    where = Cluster(broker.servers)
    create_topics(where, [Topic("out", 1)])
    sink = part(where)
    sink.write_batch([numbered(0, 3)])
    sink.snapshot()
    time.sleep(2.5)  # it writes to its disk about once a second
    broker.kill()
    back = threading.Timer(3.0, broker.start)
    back.start()
    begun = time.monotonic()
    sink.write_batch([numbered(3, 200)])
    assert time.monotonic() - begun > 2.0  # it waited, for there was no room
    assert sink.snapshot() == (1, 200, ())
    back.join()
    sink.close()
    assert ids(where) == [f"id{i}" for i in range(200)]


def test_a_record_that_cannot_be_written_stops_the_worker(log):
    sink = part(log)
    with pytest.raises(DeliveryError, match=r"out partition 0: not written: .*too large"):
        sink.write_batch([numbered(0, 1), [Record("large", 1, b"k", b"x" * 2_000_000)]])


def test_a_client_that_has_given_up_is_replaced(log):
    sink = part(log)
    sink.write_batch([numbered(0, 3)])
    sink.snapshot()
    sink.write_batch([numbered(3, 6)])
    sink._outbox.client.flush(10)  # in the log, yet the client says it is not
    sink._answers = type(sink._answers)([(KafkaError(KafkaError._FATAL), -1)] * 3)
    sink.write_batch([numbered(6, 9)])
    assert sink.snapshot() == (1, 9, ())
    sink.close()
    assert ids(log) == [f"id{i}" for i in range(9)]


def test_a_success_without_a_place_in_the_log_is_not_believed(broker):
    where = Cluster(broker.servers)
    create_topics(where, [Topic("out", 1)])
    first = part(where)
    first.write_batch([numbered(0, 5)])
    first.close()
    time.sleep(2.5)  # it writes to its disk about once a second
    broker.kill()
    broker.start()  # gives the next producer the number of the first, and takes its records for known ones
    second = part(where)
    second.write_batch([numbered(0, 5), numbered(5, 9), numbered(9, 12)])
    assert second.snapshot() == (1, 12, ())
    second.close()
    assert ids(where) == [f"id{i}" for i in range(12)]


def test_a_broker_that_forgets_what_it_acknowledged_is_told_again(broker):
    where = Cluster(broker.servers)
    create_topics(where, [Topic("out", 1)])
    sink = part(where)
    sink.write_batch([numbered(0, 5)])
    sink.snapshot()
    time.sleep(2.5)
    sink.write_batch([numbered(5, 9)])
    sink.snapshot()
    broker.kill()  # before these four have reached its disk
    broker.start()
    sink.write_batch([numbered(9, 12)])
    assert sink.snapshot() == (1, 12, ())
    sink.close()
    assert ids(where) == [f"id{i}" for i in range(12)]


def test_a_client_is_not_replaced_for_ever(log, monkeypatch):
    monkeypatch.setattr(gated_sink, "producer", lambda where, linger, heard: Fatal())
    sink = part(log)
    with pytest.raises(DeliveryError, match="not written"):
        sink.write_batch([numbered(0, 1)])
    assert sink._repairs == gated_sink.REPAIRS
    assert ids(log) == []
    sink._outbox.leave()


class Fatal:
    def produce(self, *args, **named):
        raise KafkaException(KafkaError(KafkaError._FATAL))

    def poll(self, seconds):
        return 0


def test_the_hash_tells_apart_what_differs():
    ways = [(None, b"a", ()), (b"", b"a", ()), (b"a", b"", ()), (b"a", None, ()), (b"", b"", [("a", b"")]),
            (b"", b"", [("", b"a")]), (b"", b"", [("a", b""), ("", b"")])]  # fmt: skip
    assert len({digest(*way) for way in ways}) == len(ways)


def test_a_record_needs_an_id_and_an_event_time():
    assert Record("x", 1, None, b"")[:2] == ("x", 1)
