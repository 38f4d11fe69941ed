"""What the tests of the log share: write records, read them all, run a part by hand."""

import time

from confluent_kafka import Producer, TopicPartition

from infra.gated_sink import BY, Record
from infra.kafka import ID, TS, admin, bounds, records


def fill(where, topic, number, values, ts=None, headers=()):
    """Append values to one partition; event times 1, 2, 3 ... unless given."""
    client = Producer({**where.client, "linger.ms": 0})  # not ours: an idempotent one begins half a second later
    for i, value in enumerate(values):
        stamp = (TS, str(i + 1 if ts is None else ts[i]).encode())
        client.produce(where.topic(topic), value, b"k", number, headers=[stamp, *headers])
        client.poll(0)
    assert client.flush(30) == 0


def dump(where, topic):
    """All records by partition: id, key, value, event time, writer."""
    found = {}
    for number, (low, high) in bounds(where, topic).items():
        found[number] = []
        for message in records(where, topic, number, low, high):
            headers = dict(message.headers() or ())
            name, by = headers.get(ID, b"").decode(), headers.get(BY, b"").decode()
            found[number].append((name, message.key(), message.value(), int(headers[TS]), by))
    return found


def trim(where, topic, number, offset):
    """Remove the records before an offset, as retention does."""
    client = admin(where)  # kept until the answer is here
    (answer,) = client.delete_records([TopicPartition(where.topic(topic), number, offset)]).values()
    answer.result(10)


def drain(part, seconds=20.0):
    """All items of a source part that ends, or what there is until nothing comes for a second."""
    items, quiet = [], time.monotonic()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and time.monotonic() - quiet < 1.0:
        try:
            batch = part.next_batch()
        except StopIteration:
            return items
        if batch:
            items += batch
            quiet = time.monotonic()
        else:
            time.sleep(0.002)
    return items


def numbered(first, last, text=b"v"):
    """Records with ids of their own."""
    return [Record(f"id{i}", i, b"k", text + b"%d" % i) for i in range(first, last)]
