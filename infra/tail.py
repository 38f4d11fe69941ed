"""Topics from explicit offsets on, for ever: all partitions that a process tails come through one consumer.

A consumer has threads, buffers and a request of its own under way to each broker, so seventeen of them cost
seventeen times that for the same records. One thread reads and puts what comes into a queue per partition; a
part of the dataflow takes from its queue and never waits.

A broker should hold an empty fetch until something comes. One that answers at once (the embedded one does) would
keep the client and itself busy all the time; when that is seen, the reader rests between two looks.
"""

import contextlib
import json
import threading
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from typing import Any, ClassVar, NamedTuple

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from infra.kafka import Cluster, at_end, bounds, consumer, lost, partitions, passing, wait_for
from infra.ranges import BATCH, Messages, check_place, messages_of, part_name

IDLE = timedelta(milliseconds=2)  # before an empty queue is asked again
LOOK = 0.05  # seconds that the reader waits for a record, or to hear that there is none
REST = 0.006  # seconds that it rests, where empty fetches come back at once
BUSY = 500  # answers of the broker a second, without records, that tell such a broker
FULL, DRAINED = 8 * BATCH, 2 * BATCH  # records in a queue: no more are fetched; fetched again

Place = tuple[str, int]  # topic as the cluster knows it, partition


class Queue:
    """What came of one partition and was not taken yet."""

    def __init__(self) -> None:
        self.messages: deque[Any] = deque()
        self.end = 0  # of the log, as last heard


class Reader:
    """The consumer of a process, its thread and its queues."""

    _open: ClassVar[dict[Cluster, "Reader"]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, where: Cluster):
        self._where = where
        self._queues: dict[Place, Queue] = {}
        self._asked: SimpleQueue[tuple[Place, int | None]] = SimpleQueue()  # offset to begin with; None: leave
        self._full: set[Place] = set()
        self._error: Exception | None = None
        self._stop, self._rests, self._seen = threading.Event(), False, 0
        self._answers, self._records = 0, 0
        self._thread = threading.Thread(target=self._run, name="kafka-reader", daemon=True)
        self._thread.start()

    @classmethod
    def join(cls, where: Cluster, place: Place, first: int) -> tuple["Reader", Queue]:
        """Read a partition from an offset on; the first to join starts the reader."""
        with cls._lock:
            reader = cls._open.get(where)
            if reader is None:
                reader = cls._open[where] = cls(where)
            if place in reader._queues:
                raise RuntimeError(f"{place[0]} partition {place[1]} is read twice in this process")
            reader._queues[place] = Queue()
        reader._asked.put((place, first))
        return reader, reader._queues[place]

    def leave(self, place: Place) -> None:
        """Read it no more; the last to leave ends the reader."""
        with self._lock:
            del self._queues[place]
            self._asked.put((place, None))
            if self._queues:
                return
            del self._open[self._where]
        self._stop.set()
        self._thread.join(10.0)

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        client = consumer(self._where, stats_cb=self._listen, statistics_interval_ms=1_000, enable_partition_eof=True)
        try:
            while not self._stop.is_set():
                self._assign(client)
                self._look(client)
        except Exception as error:  # raised again by the parts
            self._error = error
        finally:
            client.close()

    def _assign(self, client: Any) -> None:
        from confluent_kafka import TopicPartition

        while not self._asked.empty():
            place, first = self._asked.get()
            if first is None:
                client.incremental_unassign([TopicPartition(*place)])
                self._full.discard(place)
            else:
                client.incremental_assign([TopicPartition(*place, first)])

    def _look(self, client: Any) -> None:
        first = client.poll(LOOK)
        found = [first, *client.consume(BATCH, 0.001 if self._rests else 0.0)] if first is not None else []
        taken = sum(self._take(message) for message in found)
        self._throttle(client)
        if self._rests and not taken and self._queues:
            self._rest(client)

    def _take(self, message: Any) -> bool:
        """Put a record into its queue; whether it was one."""
        place = message.topic(), message.partition()
        error = message.error()
        if error is None:
            queue = self._queues.get(place)
            if queue is not None:
                queue.messages.append(message)
                self._records += 1
            return queue is not None
        if not (passing(error) or at_end(error)):
            raise lost(*place, message.offset(), error)
        return False

    def _throttle(self, client: Any) -> None:
        """Fetch nothing for a queue that is full, until it is drained."""
        from confluent_kafka import TopicPartition

        for place, queue in list(self._queues.items()):
            size = len(queue.messages)
            if size > FULL and place not in self._full:
                client.pause([TopicPartition(*place)])
                self._full.add(place)
            elif size < DRAINED and place in self._full:
                client.resume([TopicPartition(*place)])
                self._full.discard(place)

    def _rest(self, client: Any) -> None:
        """Ask for nothing for a while.

        A client that had nothing to fetch may sleep for a second before it looks whether it has now; any request to
        the broker wakes it.
        """
        from confluent_kafka import KafkaException, TopicPartition

        idle = [TopicPartition(*place) for place in list(self._queues) if place not in self._full]
        if not idle:
            return
        client.pause(idle)
        self._stop.wait(REST)
        client.resume(idle)
        with contextlib.suppress(KafkaException):  # the broker is away: the client goes on by itself
            client.get_watermark_offsets(idle[0], timeout=1.0)

    def _listen(self, text: str) -> None:
        """Statistics, once a second: how busy the broker keeps us, and where the logs end."""
        told = json.loads(text)
        answers = sum(broker["rx"] for broker in told["brokers"].values())
        quiet = self._records == self._seen
        if not self._rests and quiet and answers - self._answers > BUSY:
            self._rests = True
        self._answers, self._seen = answers, self._records
        for topic, one in told["topics"].items():
            for number, state in one["partitions"].items():
                queue = self._queues.get((topic, int(number)))
                if queue is not None:
                    queue.end = max(queue.end, int(state["hi_offset"]))


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
    """

    def __init__(self, where: Cluster, topic: str, starts: Mapping[int, int] | None = None):
        self._where, self._topic, self._starts = where, topic, starts or {}

    def list_parts(self) -> list[str]:
        """All partitions."""
        wait_for(self._where)
        return [part_name(self._topic, number) for number in partitions(self._where, self._topic)]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> "StatefulSourcePartition[Messages, int]":
        """Begin, or go on; a UserError where retention has removed the place."""
        number = int(for_part.rpartition(":")[2])
        first = self._starts.get(number) if resume_state is None else resume_state
        if first is None:
            first = bounds(self._where, self._topic, [number])[number][0]
        check_place(self._where, self._topic, number, first)
        return Part(self._where, self._topic, number, first)


class Part(StatefulSourcePartition[Messages, int]):
    """One partition; the snapshot is the next offset, always a number."""

    def __init__(self, where: Cluster, topic: str, number: int, first: int):
        self._topic, self._number, self._place = topic, number, (where.topic(topic), number)
        self._next, self._empty = first, False
        self._reader, self._queue = Reader.join(where, self._place, first)
        _PARTS[topic, number] = self

    def next_batch(self) -> list[Messages]:
        """What has come, up to a batch, as one item."""
        self._reader.check()
        queue = self._queue.messages
        messages = [queue.popleft() for _ in range(min(len(queue), BATCH))]
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
        return datetime.now(UTC) + IDLE if self._empty else None

    def snapshot(self) -> int:
        """The next offset."""
        return self._next

    def close(self) -> None:
        """Leave the reader."""
        _PARTS.pop((self._topic, self._number), None)
        self._reader.leave(self._place)
