"""One consumer for all partitions that a source reads in a process; its thread puts what comes into a queue each.

A consumer has threads, buffers and a request of its own under way to each broker, so seventeen of them cost
seventeen times that for the same records. A part of the dataflow takes from its queue and never waits.

A broker should hold an empty fetch until something comes. One that answers at once (the embedded one does) would
keep the client and itself busy all the time; when that is seen, the reader rests between two looks. It rests less
while a record is expected that this process wrote itself: a slice's orders come through the log.
"""

import contextlib
import gc
import json
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterator
from itertools import groupby
from queue import SimpleQueue
from typing import Any, ClassVar

from infra.kafka import Cluster, at_end, consumer, lost, passing

AT_ONCE = 1_000  # records that the client is asked for
LOOK = 0.05  # seconds that the reader waits for a record, or to hear that there is none
ANSWER = 0.001  # seconds that it waits for the rest of an answer, where it rests afterwards
REST, NAP = 0.004, 0.001  # seconds that it rests, where empty fetches come back at once; while a record is expected
EXPECTED = 0.02  # seconds after a record was handed to the client, in which it should come back
BUSY = 500  # answers of the broker a second, without records, that tell such a broker
FULL, DRAINED = 16_000_000, 4_000_000  # bytes in a queue: no more are fetched; fetched again
YOUNG = 100_000  # new objects after which the collector of cycles looks at them, while a range is read
ENVELOPE = 100  # bytes that a record takes beside its value, about

Place = tuple[str, int]  # topic as the cluster knows it, partition


def _place(message: Any) -> Place:
    return message.topic(), message.partition()


class Queue:
    """What came of one partition and was not taken yet; no field is written by both the reader and the taker."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop  # offset from which on nothing is wanted
        self.runs: deque[tuple[list[Any], int]] = deque()  # messages in order, and their bytes
        self.end = 0  # of the log, as last heard
        self.reached = -1  # nothing before this offset is still to come; written after what came before it
        self._put = self._taken = 0  # bytes

    @property
    def size(self) -> int:
        """Bytes that wait, about."""
        return self._put - self._taken

    @property
    def complete(self) -> bool:
        """Whether all that is wanted has come."""
        return self.stop is not None and self.reached >= self.stop

    def put(self, messages: list[Any]) -> None:
        """By the reader: records, in order."""
        size = _bytes(messages)
        self._put += size
        self.runs.append((messages, size))
        if self.stop is not None:
            self.reached = messages[-1].offset() + 1

    def take(self, most: int) -> tuple[list[Any], int]:
        """By whoever reads this partition: up to so many records, in order, and their bytes, about."""
        found, before = list[Any](), self._taken
        while self.runs and len(found) < most:
            run, size = self.runs.popleft()
            rest = run[most - len(found) :]
            if rest:
                self.runs.appendleft((rest, _bytes(rest)))
                run, size = run[: most - len(found)], size - _bytes(rest)
            found += run
            self._taken += size
        return found, self._taken - before


def _bytes(messages: list[Any]) -> int:
    return sum(map(len, messages)) + ENVELOPE * len(messages)


class Seldom:
    """The collector of cycles looks more seldom, while somebody wants it to.

    Each record that waits is an object that it would walk, again and again, and none is ever part of a cycle: that took
    a fifth of a replay's CPU.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _before: ClassVar[tuple[int, int, int]] = gc.get_threshold()
    _users: ClassVar[int] = 0

    @classmethod
    @contextlib.contextmanager
    def wanted(cls, really: bool) -> Iterator[None]:
        """Until the last one leaves."""
        cls._count(int(really))
        try:
            yield
        finally:
            cls._count(-int(really))

    @classmethod
    def _count(cls, more: int) -> None:
        with cls._lock:
            if more and not cls._users:
                cls._before = gc.get_threshold()
                gc.set_threshold(YOUNG, *cls._before[1:])
            cls._users += more
            if more and not cls._users:
                gc.set_threshold(*cls._before)


class Reader:
    """The consumer of a process, its thread and its queues."""

    _open: ClassVar[dict[tuple[Cluster, Hashable], "Reader"]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, where: Cluster, user: Hashable, bulk: bool):
        self._where, self._user, self._bulk = where, user, bulk
        self._users: set[Place] = set()
        self._asked: SimpleQueue[tuple[Place, int, Queue | None]] = SimpleQueue()  # from where on; None: leave
        self._queues: dict[Place, Queue] = {}  # the thread's: a place that is joined again gets nothing of before
        self._topics: set[str] = set()  # that were ever read
        self._assigned: set[Place] = set()  # the client fetches these, unless they are full
        self._full: set[Place] = set()
        self._error: Exception | None = None
        self._stop, self._stirred, self._rests, self._seen = threading.Event(), threading.Event(), False, 0
        self._answers, self._records = 0, 0
        self._expected: tuple[Place, float] | None = None  # a record, and until when, by the monotonic clock
        self._thread = threading.Thread(target=self._run, name="kafka-reader", daemon=True)
        self._thread.start()

    @classmethod
    def join(
        cls, where: Cluster, user: Hashable, place: Place, first: int, stop: int | None = None
    ) -> tuple["Reader", Queue]:
        """Read a partition from an offset on; the first to join starts the reader of this user."""
        with cls._lock:
            reader = cls._open.get((where, user))
            if reader is None:
                reader = cls._open[where, user] = cls(where, user, stop is not None)
            if place in reader._users:
                raise RuntimeError(f"{place[0]} partition {place[1]} is read twice in this process")
            reader._users.add(place)
        queue = Queue(stop)
        reader._asked.put((place, first, queue))
        return reader, queue

    @classmethod
    def expect(cls, where: Cluster, place: Place) -> None:
        """A record of this process goes there: who reads that partition looks at once, and often until it is there."""
        for reader in list(cls._open.values()):
            if place in reader._users and reader._where == where:
                reader._expected = place, time.monotonic() + EXPECTED
                reader._stirred.set()

    @property
    def expecting(self) -> bool:
        """Whether such a record has not come yet."""
        expected = self._expected
        return expected is not None and time.monotonic() < expected[1]

    def leave(self, place: Place) -> None:
        """Read it no more; the last to leave ends the reader."""
        with self._lock:
            self._users.discard(place)
            self._asked.put((place, 0, None))
            if self._users:
                return
            del self._open[self._where, self._user]
        self._stop.set()
        self._stirred.set()
        self._thread.join(10.0)

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            client = consumer(
                self._where, stats_cb=self._listen, statistics_interval_ms=1_000, enable_partition_eof=True
            )
            try:
                with Seldom.wanted(self._bulk):
                    while not self._stop.is_set():
                        self._assign(client)
                        self._look(client)
            finally:
                client.close()
        except Exception as error:  # raised again by the parts; no client is an error like any other
            self._error = error

    def _assign(self, client: Any) -> None:
        from confluent_kafka import TopicPartition

        while not self._asked.empty():
            place, first, queue = self._asked.get()
            if queue is None:
                self._unassign(client, place)
                del self._queues[place]
            else:
                client.incremental_assign([TopicPartition(*place, first)])
                self._assigned.add(place)
                self._topics.add(place[0])
                self._queues[place] = queue

    def _unassign(self, client: Any, place: Place) -> None:
        from confluent_kafka import TopicPartition

        if place in self._assigned:
            client.incremental_unassign([TopicPartition(*place)])
            self._assigned.discard(place)
            self._full.discard(place)

    def _look(self, client: Any) -> None:
        first = client.poll(LOOK)
        found = [] if first is None else [first]
        if found and self._rests:  # one answer speaks of all partitions: of records, or of an end
            found += client.consume(max(1, len(self._assigned) - 1), ANSWER)
        if found:
            found += client.consume(AT_ONCE, 0.0)
        taken = self._sort(found)
        for place in [place for place in self._assigned if self._queues[place].complete]:
            self._unassign(client, place)  # at once: a broker that answers empty fetches would keep it busy
        self._throttle(client)
        if not taken and self._rests and self._assigned:
            self._rest(client)

    def _sort(self, found: list[Any]) -> bool:
        """Put records into their queues, a run of one partition at once; whether there were any."""
        from confluent_kafka import Message

        taken = False
        for _, run in groupby(found, Message.partition if len(self._topics) == 1 else _place):
            messages = list(run)
            if any(map(Message.error, messages)):
                taken |= self._sort_out(messages)
            else:
                taken |= self._put(_place(messages[0]), messages)
        return taken

    def _sort_out(self, messages: list[Any]) -> bool:
        """The same of one partition, where some say that something is the matter."""
        taken = False
        for message in messages:
            error = message.error()
            if error is None:  # what came before an end of a partition is there before it is known
                taken |= self._put(_place(message), [message])
            else:
                self._heed(message, error)
        return taken

    def _put(self, place: Place, run: list[Any]) -> bool:
        """Into its queue, where there is one still; what is expected later is expected anew."""
        queue = self._queues.get(place)
        if queue is None or not run:
            return False
        queue.put(run)
        self._records += len(run)
        expected = self._expected
        if expected is not None and expected[0] == place:
            self._expected = None
        return True

    def _heed(self, message: Any, error: Any) -> None:
        """An end of a partition, or something worse."""
        place = message.topic(), message.partition()
        if at_end(error):
            if place in self._queues:
                self._queues[place].reached = message.offset()
        elif not passing(error):
            raise lost(*place, message.offset(), error)

    def _throttle(self, client: Any) -> None:
        """Fetch nothing for a queue that is full, until it is drained."""
        from confluent_kafka import TopicPartition

        for place in self._assigned:
            size = self._queues[place].size
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

        idle = [TopicPartition(*place) for place in self._assigned if place not in self._full]
        if not idle:
            return
        client.pause(idle)
        self._stirred.wait(NAP if self.expecting else REST)
        self._stirred.clear()
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
