"""The log into a dataflow, from offset to offset.

One part per (topic, partition), all through one consumer; the snapshot is the next offset, always a number.
An item is one `Messages`: parallel lists, for an object per record costs more than reading it.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from infra.kafka import SCHEMA, Cluster, Headers, bounds
from infra.reader import Place, Reader
from infra.worker_thread import keep_state
from schemas.errors import UserError

BATCH = 1_000  # records in an item, at most
AHEAD = 4  # batches
BYTES = 4_000_000  # in an item, about: no more records are added
IDLE = timedelta(milliseconds=2)  # before an empty partition is asked again


class Messages(NamedTuple):
    """Records of one partition, in order of their offsets, as they are in the log."""

    topic: str  # without the prefix
    partition: int
    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]  # empty where the source was told to leave them
    schema: bytes | None = None  # the fingerprint that all of them have, where the headers were left

    def cut(self, count: int) -> tuple["Messages", "Messages"]:
        """The first so many records, and the rest."""
        return self._part(slice(count)), self._part(slice(count, None))

    def _part(self, rows: slice) -> "Messages":
        return self._replace(
            offsets=self.offsets[rows], keys=self.keys[rows], values=self.values[rows], headers=self.headers[rows]
        )


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
        self._where, self._shared = where, Shared(batch, headers, Pace())
        self._ranges = {part_name(*place): (*place, *span) for place, span in ranges.items()}
        topics = {topic: [number for name, number in ranges if name == topic] for topic, _ in ranges}
        self._held = {topic: Held(where, topic, numbers) for topic, numbers in topics.items()}
        for topic, number, start, stop in self._ranges.values():
            if not 0 <= start <= stop:
                raise ValueError(f"{topic} partition {number}: from {start} to {stop} is no range of offsets")

    def list_parts(self) -> list[str]:
        """All of them, whichever worker asks."""
        return sorted(self._ranges)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "Part":
        """Begin, or go on; a UserError where the log no longer has the range, or not yet."""
        keep_state()
        topic, number, start, stop = self._ranges[for_part]
        first = start if resume_state is None else resume_state
        if first < stop:
            end = check_place(self._where, topic, number, first, self._held[topic].of(number))
            if stop > end:
                raise UserError(
                    f"{self._where.topic(topic)} partition {number}: the log ends at {end}, before offset {stop}"
                )
        return Part(self._where, topic, number, (start, stop), first, self._shared)


class Held:
    """Where the partitions of a topic begin and end, as their parts ask when they are built, one after the other.

    All are asked for at once: a client for each of them costs more than reading its records. No answer serves twice.
    """

    def __init__(self, where: Cluster, topic: str, numbers: Sequence[int] | None = None):
        self._where, self._topic, self._numbers = where, topic, numbers
        self._found: dict[int, tuple[int, int]] = {}

    def ask(self) -> list[int]:
        """Have the answers at hand when the parts are built; which partitions there are."""
        self._found = bounds(self._where, self._topic, self._numbers)
        return list(self._found)

    def of(self, number: int) -> tuple[int, int]:
        """The first offset that is there, and the one that comes next."""
        if number not in self._found:
            self.ask()
        return self._found.pop(number)


def check_place(where: Cluster, topic: str, number: int, first: int, held: tuple[int, int]) -> int:
    """Is this offset, or the place after the last record, in the log that is held? Returns its end."""
    low, high = held
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
    from confluent_kafka import Message

    schema = None if headers else _schema(found)
    offsets: list[Any] = list(map(Message.offset, found))  # the client's types know records without one
    return Messages(
        topic,
        number,
        offsets,
        list(map(Message.key, found)),
        list(map(Message.value, found)),
        [message.headers() or () for message in found] if schema is None else [],
        schema,
    )


class Pace:
    """How far the parts of a source are in this process: none goes AHEAD batches further than its share of the slowest.

    What follows a source waits for the slowest part, and holds in memory what all others give meanwhile.
    """

    def __init__(self) -> None:
        self._parts: dict[Place, tuple[tuple[int, int], int]] = {}  # span, next

    def note(self, place: Place, span: tuple[int, int], given: int) -> None:
        """A part is built, or has given out more."""
        self._parts[place] = span, given

    def leave(self, place: Place) -> None:
        """A part is closed."""
        self._parts.pop(place, None)

    def limit(self, span: tuple[int, int], batch: int) -> int:
        """Offset that a part of this span may not go beyond; the slowest can always go on."""
        start, stop = span
        share = min(((given - first) / (last - first) for (first, last), given in list(self._parts.values())
                     if given < last), default=1.0)  # fmt: skip
        return start + int(share * (stop - start)) + AHEAD * batch


class Free(Pace):
    """No limit: whoever takes from the parts asks them in turn."""

    def limit(self, span: tuple[int, int], batch: int) -> int:
        """Beyond the end."""
        return span[1] + 1


class Shared:
    """What the parts of one source have in common."""

    def __init__(self, batch: int, headers: bool, pace: Pace):
        self.batch, self.headers, self.pace = batch, headers, pace
        self.user = uuid.uuid4().hex  # of a reader of their own


class Part(StatefulSourcePartition[Messages, int]):
    """One partition, read in order; never waits for the network.

    It gives on whole batches only, except the last one: an item costs as much for few records as for many.
    """

    def __init__(self, where: Cluster, topic: str, number: int, span: tuple[int, int], first: int, shared: "Shared"):
        self._topic, self._number, self._place = topic, number, (where.topic(topic), number)
        self._span, self._given, self._empty = span, first, False
        self._shared = shared
        shared.pace.note(self._place, span, first)
        self._kept: list[Any] = []  # taken from the queue and not given on yet
        self._bytes = 0  # of these
        self._reader: Reader | None = None
        if first < span[1]:
            self._reader, self._queue = Reader.join(where, shared.user, self._place, first, span[1])

    def next_batch(self) -> list[Messages]:
        """A batch, or what is left, as one item, once it is there; nothing is waited for."""
        if self._given >= self._span[1]:
            raise StopIteration
        complete = self._fetch()
        whole = complete or len(self._kept) == self._shared.batch or self._bytes >= BYTES
        self._empty = not whole or self._given >= self._shared.pace.limit(self._span, self._shared.batch)
        if self._empty:
            return []
        batch, self._kept, self._bytes = self._kept, [], 0
        self._given = self._span[1] if complete else batch[-1].offset() + 1
        self._shared.pace.note(self._place, self._span, self._given)
        return [messages_of(self._topic, self._number, batch, self._shared.headers)] if batch else []

    def _fetch(self) -> bool:
        """Take what is wanted next; whether the range has no more."""
        if self._reader is None:
            return True
        self._reader.check()
        complete = self._queue.complete  # asked first: what came before it is in the queue
        if self._bytes < BYTES:
            found, size = self._queue.take(self._shared.batch - len(self._kept))
            if found and found[-1].offset() >= self._span[1]:
                found = [message for message in found if message.offset() < self._span[1]]
            self._kept += found
            self._bytes += size
        if not complete or self._queue.runs:
            return False
        self._leave()
        return True

    def _leave(self) -> None:
        if self._reader is not None:
            self._reader.leave(self._place)
            self._reader = None

    def next_awake(self) -> datetime | None:
        """Soon, while there is nothing."""
        return datetime.now(UTC) + IDLE if self._empty else None

    def snapshot(self) -> int:
        """The first offset that was not given on."""
        return self._given

    def close(self) -> None:
        """Leave the broker."""
        self._shared.pace.leave(self._place)
        self._leave()


def _schema(messages: list[Any]) -> bytes | None:
    """The fingerprint of the first and the last record, if it is one: headers cost more than all the rest.

    A partition has one writer, whose schema changes when it is deployed. If that happened twice within a batch, the
    records in between do not fit this schema, for a change adds bytes: they become dead letters.
    """
    first, last = (dict(message.headers() or ()).get(SCHEMA) for message in (messages[0], messages[-1]))
    return first if first == last else None
