"""Topics from explicit offsets on, for ever."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from infra.kafka import Cluster, wait_for
from infra.ranges import BATCH, Held, Messages, check_place, messages_of, part_name
from infra.reader import Reader
from infra.worker_thread import keep_state

# Seconds: an empty queue is asked again at the clock's next multiple, all parts in one round; while a record of our own
# is expected more often.
TICK, QUICK = 0.002, 0.0005
USER = "tail"  # all tails of a process share a reader


class Reading(NamedTuple):
    """How far a part of this process is."""

    next: int
    end: int  # the log's, as last heard


_PARTS: dict[tuple[str, int], "Part"] = {}


def reading() -> dict[tuple[str, int], Reading]:
    """By topic (without prefix) and partition: how far this process has read, and how far it could."""
    return {place: part.reading for place, part in list(_PARTS.items())}


class TailSource(FixedPartitionedSource[Messages, int]):
    """A topic from explicit offsets on.

    `starts` gives offsets by partition; one that is not named begins with the oldest record that is
    there. Never with the end: what came while the flow was down would be stepped over.

    The log is asked where its partitions end before any part is built. A part's epochs are counted from when it was
    built, and Bytewax lets none go on before all parts of all sources have reached its epoch: 60 ms for a client of
    each topic would be 60 ms in which all others stand still, once in every epoch.
    """

    def __init__(self, where: Cluster, topic: str, starts: Mapping[int, int] | None = None):
        self._where, self._topic, self._starts = where, topic, starts or {}
        self._held = Held(where, topic)

    def list_parts(self) -> list[str]:
        """All partitions."""
        wait_for(self._where)
        return [part_name(self._topic, number) for number in self._held.ask()]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> "StatefulSourcePartition[Messages, int]":
        """Begin, or go on; a UserError where retention has removed the place."""
        keep_state()
        number = int(for_part.rpartition(":")[2])
        first, held = self._starts.get(number) if resume_state is None else resume_state, self._held.of(number)
        if first is None:
            first, _ = held
        else:
            check_place(self._where, self._topic, number, first, held)
        return Part(self._where, self._topic, number, first)


class Part(StatefulSourcePartition[Messages, int]):
    """One partition; the snapshot is the next offset, always a number."""

    def __init__(self, where: Cluster, topic: str, number: int, first: int):
        self._topic, self._number, self._place = topic, number, (where.topic(topic), number)
        self._next, self._empty = first, False
        self._reader, self._queue = Reader.join(where, USER, self._place, first)
        _PARTS[topic, number] = self

    def next_batch(self) -> list[Messages]:
        """What has come, up to a batch, as one item."""
        self._reader.check()
        messages, _ = self._queue.take(BATCH)
        self._empty = not messages
        if not messages:
            return []
        self._next = messages[-1].offset() + 1
        return [messages_of(self._topic, self._number, messages)]

    @property
    def reading(self) -> Reading:
        """How far it is."""
        return Reading(self._next, max(self._queue.end, self._next))

    def next_awake(self) -> datetime | None:
        """Soon, while there is nothing."""
        if not self._empty:
            return None
        tick = QUICK if self._reader.expecting else TICK
        return datetime.fromtimestamp((time.time() // tick + 1.0) * tick, UTC)

    def snapshot(self) -> int:
        """The next offset."""
        return self._next

    def close(self) -> None:
        """Leave the reader."""
        _PARTS.pop((self._topic, self._number), None)
        self._reader.leave(self._place)
