"""Dead letters: records that could not be used, byte for byte, with the reason; and the way back.

A letter's id is a function of where its record stands, so a flow that is run again writes it once. To replay a
letter puts the original bytes back on their topic, with the same key, headers and idempotency key; bars go to
`market.late` instead, for their slice is closed and decisions have been made without them.
"""

import base64
import logging
import time
from collections.abc import Iterator
from typing import NamedTuple

from infra.gated_sink import Record, event_record
from infra.kafka import ID, SCHEMA, Cluster, Headers, bounds, producer, records, stated_time, wait_for
from infra.ranges import Messages
from schemas import codec
from schemas.errors import UserError
from schemas.identity import event_id, iso
from schemas.records import DlqRecord, Header

LOG = logging.getLogger(__name__)
TOPIC = "dlq.failed"
LATE = {"market.raw": "market.late", "market.slices": "market.late"}  # where the bars of a letter go
REPLAYED = "replayed_from"  # header of what a replay puts back: the topic it comes from
WHOLE = 600_000  # bytes of a record, at most, that a letter holds: base64 makes a third more, and a broker takes 1 MB
LEFT_OUT = "left_out"  # header, in a letter, of a larger one: how many bytes stay where they are


class Letter(NamedTuple):
    """A record that could not be used."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    kind: str  # a Reason's word or an error's class
    message: str
    retries: int = 0  # attempts after the first


class Replayed(NamedTuple):
    """What a replay did with one letter."""

    dlq_id: str
    topic: str


def letter(messages: Messages, at: int, kind: str, message: str, retries: int = 0) -> Letter:
    """The letter of the record at a place in a batch."""
    return Letter(
        messages.topic, messages.partition, messages.offsets[at], messages.keys[at], messages.values[at],
        messages.headers[at] if messages.headers else (), kind, message, retries,
    )  # fmt: skip


def record(one: Letter, agent: str) -> Record:
    """The letter as a gated sink writes it; `agent` is the flow that gave up.

    Bytes that no letter can hold stay where they are, and the letter says so.
    """
    place, ts = f"{one.topic}:{one.partition}:{one.offset}", stated_time(one.headers) or 0
    named = [(name, value or b"") for name, value in one.headers]
    size = sum(len(part) for part in (one.value or b"", one.key or b"", *(value for _, value in named)))
    key = dict(named).get(ID, b"")[:1_000].decode(errors="replace")
    if size > WHOLE:
        one = one._replace(value=None, key=None)
        named = [(LEFT_OUT, b"%d" % size)]
    event = DlqRecord(
        dlq_id=event_id(TOPIC, place),
        source_topic=one.topic,
        agent=agent,
        correlation_id=event_id(one.topic, key or place),
        original_payload=base64.b64encode(one.value or b"").decode(),
        error_type=one.kind,
        error_message=one.message,
        retry_count=one.retries,
        ts=iso(ts),
        source_partition=one.partition,
        source_offset=one.offset,
        original_key=one.key,
        original_headers=[Header(name=name, value=value) for name, value in named],
        idempotency_key=key,
    )
    return event_record(f"dlq:{event.dlq_id}", ts, agent.encode(), event)


def letters(where: Cluster) -> Iterator[DlqRecord]:
    """All that are in the log, the oldest first of each partition; what is no letter hides none of them."""
    wait_for(where)
    for number, (low, high) in bounds(where, TOPIC).items():
        for message in records(where, TOPIC, number, low, high):
            try:
                yield codec.decode(DlqRecord, message.value(), dict(message.headers() or ()).get(SCHEMA))
            except codec.UndecodableError as error:
                LOG.warning("%s partition %d offset %d is no dead letter, and passed over: %s",
                            where.topic(TOPIC), number, message.offset(), error)  # fmt: skip


def find(where: Cluster, dlq_id: str) -> DlqRecord:
    """The letter whose id begins so; a UserError where there is none, or more than one."""
    found = {one.dlq_id: one for one in letters(where) if one.dlq_id.startswith(dlq_id)}
    if len(found) != 1:
        raise UserError(f"dead letter {dlq_id}: {len(found) or 'none'} found; `utp dlq list` shows their ids")
    return found.popitem()[1]


def original(where: Cluster, one: DlqRecord) -> tuple[bytes, bytes | None, list[tuple[str, bytes | None]]]:
    """Value, key and headers as they were; a UserError where they were left in a log that has them no more."""
    headers: list[tuple[str, bytes | None]] = [(each.name, each.value) for each in one.original_headers]
    if [name for name, _ in headers] != [LEFT_OUT]:
        return base64.b64decode(one.original_payload), one.original_key, headers
    at = one.source_offset
    (message,) = records(where, one.source_topic, one.source_partition, at, at + 1)
    return message.value(), message.key(), list(message.headers() or ())


def replay(where: Cluster, chosen: list[DlqRecord]) -> list[Replayed]:
    """Put letters back where they were, bars among the late ones; returns when they are in the log.

    The partition is the record's own: it was placed by its symbol, which a client would hash otherwise.
    """
    wait_for(where)
    client, errors = producer(where, 0), []
    done = []
    for one in chosen:
        topic = LATE.get(one.source_topic, one.source_topic)
        if topic == "unknown":
            raise UserError(f"dead letter {one.dlq_id}: its topic is unknown, so there is no way back")
        value, key, headers = original(where, one)
        client.produce(
            where.topic(topic), value, key, one.source_partition,
            headers=[*headers, (REPLAYED, one.source_topic.encode())],
            on_delivery=lambda error, _: errors.append(error) if error else None,
        )  # fmt: skip
        client.poll(0)
        done.append(Replayed(one.dlq_id, topic))
    deadline = time.monotonic() + 120.0
    while len(client) and time.monotonic() < deadline:
        client.poll(0.1)
    if errors or len(client):
        raise UserError(f"replay: {len(errors) + len(client)} of {len(done)} letters were not written; try again")
    return done
