"""Kafka: where the cluster is, how its clients are set, and where in a topic things lie.

The environment says where: `KAFKA_BOOTSTRAP_SERVERS`, `KAFKA_TOPIC_PREFIX`, `KAFKA_REPLICATION`, and for a
secured cluster `KAFKA_SECURITY_PROTOCOL`, `KAFKA_SASL_MECHANISM`, `KAFKA_SASL_USERNAME`,
`KAFKA_SASL_PASSWORD`, `KAFKA_SSL_CA_LOCATION`. None of it is a setting: it changes no decision.

Every record that we write carries its event time in the header `ts` (UTC ns, decimal); the broker's
own timestamp is the wall clock of the append, so that retention counts from there also in a replay of
old bars.
"""

import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from infra.retry import BROKER, retrying
from schemas.errors import UserError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer
    from confluent_kafka.admin import AdminClient

LOG = logging.getLogger("kafka")
T = TypeVar("T")
Headers: TypeAlias = "Sequence[tuple[str, bytes | None]]"

TS, ID, SCHEMA = "ts", "id", "schema"  # headers: event time, idempotency key, fingerprint of the Avro schema
PATIENCE = 120.0  # seconds that a start waits for the cluster
ANSWER = 5.0  # seconds that one question waits for its answer
REMEDY = "start it (`utp broker`), or set KAFKA_BOOTSTRAP_SERVERS"
DELIVERY_MS = 120_000  # within which a record is delivered or the flow stops
LINGER_MS = 10
_LATEST = 2**63 - 1  # UTC ns: the year 2262; a header can say anything
_SECURITY = {
    "KAFKA_SECURITY_PROTOCOL": "security.protocol",
    "KAFKA_SASL_MECHANISM": "sasl.mechanism",
    "KAFKA_SASL_USERNAME": "sasl.username",
    "KAFKA_SASL_PASSWORD": "sasl.password",
    "KAFKA_SSL_CA_LOCATION": "ssl.ca.location",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the log is. Topic names everywhere else are without the prefix."""

    servers: str = "localhost:9092"
    prefix: str = ""
    replication: int = 1
    security: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # holds secrets

    def topic(self, name: str) -> str:
        """The name by which the cluster knows a topic."""
        return self.prefix + name

    @property
    def client(self) -> dict[str, Any]:
        """What every client is told."""
        return {
            "bootstrap.servers": self.servers,
            "reconnect.backoff.ms": 100,
            "reconnect.backoff.max.ms": 2_000,  # so that a broker that is back is noticed
            "logger": LOG,
            **dict(self.security),
        }


def cluster(environ: Mapping[str, str] | None = None) -> Cluster:
    """The cluster that the environment names."""
    given = os.environ if environ is None else environ
    replication = given.get("KAFKA_REPLICATION", "1")
    if not replication.isdecimal() or not 1 <= int(replication) <= 15:
        raise UserError(f"KAFKA_REPLICATION={replication}: want a whole number, 1 to 15")
    return Cluster(
        given.get("KAFKA_BOOTSTRAP_SERVERS") or Cluster().servers,
        given.get("KAFKA_TOPIC_PREFIX", ""),
        int(replication),
        tuple((name, given[variable]) for variable, name in _SECURITY.items() if given.get(variable)),
    )


def producer(where: Cluster, linger_ms: int = LINGER_MS, on_error: Callable[[Any], None] | None = None) -> "Producer":
    """A producer that keeps order and writes each record once, as long as it lives; `on_error` hears of cut lines."""
    from confluent_kafka import Producer

    return Producer(
        {
            **where.client,
            **({"error_cb": on_error} if on_error else {}),
            "acks": "all",
            "enable.idempotence": True,
            "retries": 5,  # of requests that were sent; while the broker is away nothing is
            "retry.backoff.ms": 100,
            "linger.ms": linger_ms,
            "compression.type": "lz4",
            "request.timeout.ms": 30_000,
            "delivery.timeout.ms": DELIVERY_MS,
            "partitioner": "murmur2_random",  # as other clients place keys; our sinks name the partition
        }
    )


def consumer(where: Cluster, **more: Any) -> "Consumer":
    """A consumer for explicit offsets: no group is joined, nothing is committed.

    `earliest` would silently step over what retention has eaten; here that is an error.
    """
    from confluent_kafka import Consumer

    return Consumer(
        {
            **where.client,
            "group.id": "unified-trading-platform",  # wanted by the client, not used
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "session.timeout.ms": 30_000,
            "max.poll.interval.ms": 300_000,
            "heartbeat.interval.ms": 10_000,
            "queued.max.messages.kbytes": 8_192,  # per consumer
            "fetch.queue.backoff.ms": 20,  # a full queue is soon drained
            "receive.message.max.bytes": 2**31 - 1,  # the embedded broker answers with all it has
            **{name if name.endswith("_cb") else name.replace("_", "."): value for name, value in more.items()},
        }
    )


def admin(where: Cluster) -> "AdminClient":
    """For topics."""
    from confluent_kafka.admin import AdminClient

    return AdminClient(where.client)


def wait_for(where: Cluster, seconds: float = PATIENCE) -> None:
    """Return once the cluster answers; a UserError if it does not in time."""
    from confluent_kafka import KafkaException

    client, deadline, told = admin(where), time.monotonic() + seconds, False
    while True:
        try:
            client.list_topics(timeout=max(0.1, min(2.0, deadline - time.monotonic())))
            return
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"Kafka at {where.servers} does not answer within {seconds:g} s ({error.args[0].str()}); {REMEDY}"
                ) from error
            if not told:  # a person at a terminal would wait for minutes without a word
                LOG.warning("Kafka at %s does not answer yet, waiting up to %g s; %s", where.servers, seconds, REMEDY)
                told = True


def topic_names(where: Cluster) -> set[str]:
    """What the cluster holds, prefixes and all."""
    wait_for(where)
    return set(_listed(where).topics)


def _listed(where: Cluster) -> Any:
    """What the cluster says of its topics; a UserError where it does not answer for minutes."""
    from confluent_kafka import KafkaException

    client = admin(where)
    try:
        return answered(lambda: client.list_topics(timeout=ANSWER))
    except KafkaException as error:
        raise UserError(f"Kafka at {where.servers} does not answer ({error.args[0].str()}); {REMEDY}") from error


def partitions(where: Cluster, topic: str) -> list[int]:
    """A topic's partitions; a UserError where there is no such topic."""
    listed = _listed(where).topics.get(where.topic(topic))  # naming it might create it
    if listed is None or not listed.partitions:
        raise UserError(
            f"there is no topic {where.topic(topic)} at {where.servers}; create it with `utp topics create`"
        )
    return sorted(listed.partitions)


def bounds(where: Cluster, topic: str, only: Iterable[int] | None = None) -> dict[int, tuple[int, int]]:
    """By partition: the first offset that is still there, and the one that comes next."""
    client = consumer(where)
    try:
        return {
            number: _watermarks(client, where.topic(topic), number)
            for number in (partitions(where, topic) if only is None else only)
        }
    finally:
        client.close()


def _watermarks(client: "Consumer", topic: str, number: int) -> tuple[int, int]:
    """A broker that has just come back knows its topics before it knows what is in them."""
    from confluent_kafka import KafkaException, TopicPartition

    place = TopicPartition(topic, number)
    try:
        low, high = answered(lambda: client.get_watermark_offsets(place, timeout=ANSWER))
    except KafkaException as error:
        raise lost(topic, number, 0, error.args[0]) from error
    return low, high


def answered(ask: Callable[[], T]) -> T:
    """The broker's answer, asked for again while what keeps it from answering may pass by itself."""
    from confluent_kafka import KafkaException

    def may_pass(error: Exception) -> bool:
        return isinstance(error, KafkaException) and passing(error.args[0])

    return retrying(ask, may_pass, time.sleep, random.random, BROKER)


def records(where: Cluster, topic: str, number: int, first: int, stop: int) -> Iterator[Any]:
    """The client's messages with `first <= offset < stop`; waits for them, and raises when they do not come."""
    from confluent_kafka import KafkaError, TopicPartition

    client = consumer(where, enable_partition_eof=True)
    client.assign([TopicPartition(where.topic(topic), number, first)])
    deadline = time.monotonic() + PATIENCE
    try:
        while first < stop:
            for message in client.consume(1_000, 0.01):
                error = message.error()
                offset = int(message.offset() or 0)
                if error is None and offset < stop:
                    yield message
                elif error is not None and error.code() != KafkaError._PARTITION_EOF and not passing(error):
                    raise lost(where.topic(topic), number, first, error)
                if error is None or error.code() == KafkaError._PARTITION_EOF:
                    first, deadline = offset + (error is None), time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                raise UserError(f"{where.topic(topic)} partition {number}: no answer for offset {first}")
    finally:
        client.close()


def passing(error: Any) -> bool:
    """Whether a client goes on by itself after this."""
    from confluent_kafka import KafkaError

    return bool(error.retriable()) or error.code() in (
        KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError._TIMED_OUT,
        KafkaError._DESTROY_BROKER, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION,
    )  # fmt: skip


def at_end(error: Any) -> bool:
    """Whether it only says that a partition has no more records now."""
    from confluent_kafka import KafkaError

    return bool(error.code() == KafkaError._PARTITION_EOF)


def stated_time(headers: Any) -> int | None:
    """The event time that a record's headers state, UTC ns; None where they state none."""
    value = dict(headers).get(TS)
    if value is None or not value.isdigit() or len(value) > len(str(_LATEST)):
        return None
    ts = int(value)
    return ts if ts <= _LATEST else None


def event_time(message: Any) -> int:
    """A record's event time, UTC ns; of a record that states none, when it was written."""
    stated = stated_time(message.headers() or ())
    return stated if stated is not None else int(message.timestamp()[1]) * 1_000_000


def lost(topic: str, number: int, offset: int, error: Any) -> UserError:
    """What to tell a user about a read that cannot go on."""
    from confluent_kafka import KafkaError

    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        return UserError(
            f"{topic} partition {number}: offset {offset} is no longer in the log; retention has removed it. "
            f"Start from a later snapshot, or from the archive, and set retention.ms=-1 on this topic"
        )
    return UserError(f"{topic} partition {number} at offset {offset}: {error.str()}")
