"""The log into a dataflow: from offset to offset, or from an offset on for ever.

One part per (topic, partition), each with a consumer of its own; the snapshot is the next offset, always
a number. An item is one `Messages`: parallel lists, for an object per record costs more than
reading it.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from infra.kafka import SCHEMA, Cluster, Headers, bounds, consumer, lost, passing, wait_for
from schemas.errors import UserError

BATCH = 1_000  # records in an item, at most
AT_ONCE = 10_000  # records that a part asks the client for
BYTES = 4_000_000  # that a part takes from the client in advance
IDLE = timedelta(milliseconds=2)  # before an empty partition is asked again


class Messages(NamedTuple):
    """Records of one partition, in order of their offsets, as they are in the log."""

    topic: str  # without the prefix
    partition: int
    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]  # empty where the source was told to leave them
    written: list[int]  # when the record was appended, UTC ms: of the broker's clock, for latencies only
    schema: bytes | None = None  # the fingerprint that all of them have, where the headers were left

    def cut(self, count: int) -> tuple["Messages", "Messages"]:
        """The first so many records, and the rest."""
        return self._part(slice(count)), self._part(slice(count, None))

    def _part(self, rows: slice) -> "Messages":
        return self._replace(offsets=self.offsets[rows], keys=self.keys[rows], values=self.values[rows],
                             headers=self.headers[rows], written=self.written[rows])  # fmt: skip


def part_name(topic: str, number: int) -> str:
    """The key of a part in the recovery store."""
    return f"{topic}:{number:03}"


class RangeSource(FixedPartitionedSource[Messages, int]):
    """Offsets `start <= offset < stop` of each (topic, partition): the log, again."""

    def __init__(
        self,
        where: Cluster,
        ranges: Mapping[tuple[str, int], tuple[int, int]],
        batch: int = BATCH,
        headers: bool = True,
    ):
        self._where, self._batch, self._headers = where, batch, headers
        self._ranges = {part_name(*place): (*place, *span) for place, span in ranges.items()}
        for topic, number, start, stop in self._ranges.values():
            if not 0 <= start <= stop:
                raise ValueError(f"{topic} partition {number}: from {start} to {stop} is no range of offsets")

    def list_parts(self) -> list[str]:
        """All of them, whichever worker asks."""
        return sorted(self._ranges)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "Part":
        """Begin, or go on; a UserError where the log no longer has the range, or not yet."""
        topic, number, start, stop = self._ranges[for_part]
        wait_for(self._where)
        first = start if resume_state is None else resume_state
        if first < stop:
            end = check_place(self._where, topic, number, first)
            if stop > end:
                raise UserError(
                    f"{self._where.topic(topic)} partition {number}: the log ends at {end}, before offset {stop}"
                )
        return Part(self._where, topic, number, first, stop, self._batch, self._headers)


def check_place(where: Cluster, topic: str, number: int, first: int) -> int:
    """Is this offset, or the place after the last record, in the log? Returns its end."""
    low, high = bounds(where, topic, [number])[number]
    if first < low:
        raise UserError(
            f"{where.topic(topic)} partition {number}: offset {first} is no longer in the log, which begins at {low}; "
            f"retention has removed it. Start from a later snapshot, or from the archive"
        )
    if first > high:
        raise UserError(
            f"{where.topic(topic)} partition {number}: the log ends at {high}, before offset {first}: this is not the "
            f"log that the store or the range was made from; name the right cluster, or begin with a new store"
        )
    return high


def messages_of(topic: str, number: int, found: list[Any], headers: bool = True) -> Messages:
    """The client's messages, which are of one partition, as one item."""
    schema = None if headers else _schema(found)
    return Messages(
        topic,
        number,
        [message.offset() for message in found],
        [message.key() for message in found],
        [message.value() for message in found],
        [message.headers() or () for message in found] if schema is None else [],
        [message.timestamp()[1] for message in found],
        schema,
    )


class Part(StatefulSourcePartition[Messages, int]):
    """One partition, read in order; never waits for the network.

    It gives on whole batches only, except the last one: an item costs as much for few records as for many. And it
    leaves the broker as soon as it has all: one that answers empty fetches at once would keep the client busy.
    """

    def __init__(
        self,
        where: Cluster,
        topic: str,
        number: int,
        first: int,
        stop: int,
        batch: int = BATCH,
        headers: bool = True,
    ):
        from confluent_kafka import TopicPartition

        self._topic, self._number, self._name = topic, number, where.topic(topic)
        self._next, self._stop, self._batch, self._headers = first, stop, batch, headers
        self._kept: list[Any] = []  # until they are a batch
        self._bytes, self._given, self._empty = 0, first, False
        self._place = TopicPartition(self._name, number, first)
        self._client = consumer(where, enable_partition_eof=True)
        if first < stop:
            self._client.assign([self._place])

    def next_batch(self) -> list[Messages]:
        """A batch, or what is left, as one item, once it is there; nothing is waited for."""
        if self._given >= self._stop:
            raise StopIteration
        self._fetch()
        if len(self._kept) < self._batch and self._bytes < BYTES and self._next < self._stop:
            return []
        batch, self._kept = self._kept[: self._batch], self._kept[self._batch :]
        self._bytes -= sum(len(message) for message in batch)
        self._given = batch[-1].offset() + 1 if self._kept else self._next
        return [messages_of(self._topic, self._number, batch, self._headers)] if batch else []

    def _fetch(self) -> None:
        """Take what the client has."""
        self._empty = False
        if self._next >= self._stop or self._bytes >= BYTES:
            return
        found = list(self._good(self._client.consume(AT_ONCE, 0.0)))
        self._kept += found
        self._bytes += sum(len(message) for message in found)
        self._empty = not found
        if self._next >= self._stop:
            self._client.unassign()

    def _good(self, found: list[Any]) -> Iterator[Any]:
        """Records within the range; the client mends what can be mended, the rest is an error."""
        from confluent_kafka import KafkaError

        for message in found:
            error = message.error()
            if error is None:
                if message.offset() >= self._stop:
                    self._next = self._stop
                    return
                self._next = message.offset() + 1
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                # Offsets without records (compacted, or marks of transactions) end a range too.
                if message.offset() >= self._stop:
                    self._next = self._stop
            elif not passing(error):
                raise lost(self._name, self._number, self._next, error)

    def next_awake(self) -> datetime | None:
        """Soon, while there is nothing."""
        return datetime.now(UTC) + IDLE if self._empty else None

    def snapshot(self) -> int:
        """The first offset that was not given on."""
        return self._given

    def close(self) -> None:
        """Leave the broker."""
        self._client.close()


def _schema(messages: list[Any]) -> bytes | None:
    """The fingerprint of the first and the last record, if it is one: headers cost more than all the rest.

    A partition has one writer, whose schema changes when it is deployed. If that happened twice within a batch, the
    records in between do not fit this schema, for a change adds bytes: they become dead letters.
    """
    first, last = (dict(message.headers() or ()).get(SCHEMA) for message in (messages[0], messages[-1]))
    return first if first == last else None
