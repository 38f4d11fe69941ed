"""Sixteen partitions abreast: none is read further ahead of the barrier than a number of slices.

How far the barrier is stands in the account log, which it writes: whoever asks, on whichever host, reads the
newest slice there. So what waits at the barrier for the slowest partition is bounded, whatever the others hold.
"""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from bytewax.inputs import StatefulSourcePartition

from infra.kafka import ID, Cluster, consumer, event_time, lost, passing, stated_time
from infra.ranges import Messages
from infra.tail import TailSource
from schemas.calendar import Calendar

SLICE = "slice:"  # how ids of slices in the account log begin
WAIT = timedelta(milliseconds=5)  # before a part that is ahead looks again
LOOK_SECONDS = 0.05
BACK = 200  # records


class Frontier:
    """The newest slice in the account log, as last seen; one thread and one consumer per process."""

    def __init__(self, where: Cluster, topic: str = "account.log"):
        self._where, self._topic = where, topic
        self._upto: int | None = None
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="frontier", daemon=True)
        self._thread.start()

    @property
    def upto(self) -> int | None:
        """End of that slice, UTC ns; None before there is one."""
        if self._error is not None:
            raise self._error
        return self._upto

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join(10.0)

    def _watch(self) -> None:
        try:
            self._follow()
        except Exception as error:  # raised again by whoever asks
            self._error = error

    def _follow(self) -> None:
        from confluent_kafka import KafkaException

        client, seen = consumer(self._where), 0
        try:
            while not self._stop.is_set():
                try:
                    seen = self._look(client, seen)
                except KafkaException as error:  # the broker is away: nobody moves meanwhile
                    if not passing(error.args[0]):
                        raise
                self._stop.wait(LOOK_SECONDS)
        finally:
            client.close()

    def _look(self, client: Any, seen: int) -> int:
        """Read what was appended since the last look; returns how far."""
        from confluent_kafka import TopicPartition

        place = TopicPartition(self._where.topic(self._topic), 0)
        low, high = client.get_watermark_offsets(place, timeout=30.0)
        if high == seen:
            return seen
        if high < seen:  # a log that was made anew, or that lost its end: what was seen of the other one holds nobody
            seen, self._upto = 0, None
        # A few records back: the last may be commands. Older slices than the newest do no harm.
        place.offset = max(low, seen, high - BACK)
        client.assign([place])
        try:
            return self._read(client, place.offset, high)
        finally:
            client.unassign()  # no fetch is under way while there is nothing new

    def _read(self, client: Any, first: int, high: int) -> int:
        """Take in records up to the end; returns how far."""
        while not self._stop.is_set():
            message = client.poll(0.1)
            if message is None:
                (place,) = client.position(client.assignment())
                if place.offset >= high:
                    return high
            elif message.error() is None:
                if _is_slice(message.headers()):
                    self._upto = max(self._upto or 0, event_time(message))
                if message.offset() + 1 >= high:
                    return high
            elif not passing(message.error()):
                raise lost(self._where.topic(self._topic), 0, first, message.error())
        return high


class AbreastSource(TailSource):
    """A tail of `market.slices` that waits for the barrier."""

    def __init__(
        self, where: Cluster, topic: str, calendar: Calendar, ahead: int, starts: Mapping[int, int] | None = None
    ):
        super().__init__(where, topic, starts)
        self._calendar, self._ahead = calendar, ahead

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "AbreastPart":
        """Begin, or go on."""
        inner = super().build_part(step_id, for_part, resume_state)
        return AbreastPart(inner, Shared.join(self._where), self._calendar, self._ahead)


class Shared:
    """The frontier that the parts of a process share."""

    _lock = threading.Lock()
    _open: ClassVar[dict[Cluster, tuple[Frontier, int]]] = {}

    @classmethod
    def join(cls, where: Cluster) -> "Shared":
        """Use it, or start it."""
        with cls._lock:
            frontier, users = cls._open.get(where) or (Frontier(where), 0)
            cls._open[where] = frontier, users + 1
        return cls(where, frontier)

    def __init__(self, where: Cluster, frontier: Frontier):
        self._where, self.frontier = where, frontier

    def leave(self) -> None:
        """The last to leave ends it."""
        with self._lock:
            frontier, users = self._open.pop(self._where)
            if users > 1:
                self._open[self._where] = frontier, users - 1
                return
        frontier.close()


class Place:
    """Where in time the records of one partition are, by what their headers state.

    A header can say anything: a record that cannot be used must neither stop its partition for ever nor move it. So a
    time is believed that is at most the next slice's. The first one, and a jump over a hole, are believed when the
    record after them goes on from there; they themselves pass unmeasured.
    """

    def __init__(self, calendar: Calendar):
        self._calendar = calendar
        self._at: int | None = None  # end of the newest slice that is believed, UTC ns
        self._doubted: int | None = None
        self.first: int | None = None  # the measure before there is a frontier

    def believes(self, ts: int) -> bool:
        """Take in the next record's time; whether it tells where the partition is."""
        if not self._calendar.opens[0] < ts < self._calendar.closes[-2]:
            return False
        if self._at is None or ts > self.after(self._at, 1):
            if self._doubted is None or ts != self.after(self._doubted, 1):
                self._doubted = ts
                return False
            self.first = self._doubted  # whatever came before the hole
        self._at, self._doubted = max(self._at or 0, ts), None
        return True

    def after(self, ts: int, slices: int) -> int:
        """End of the slice that comes so many after an instant; the calendar's last one at the most."""
        last = self._calendar.index_after(int(self._calendar.closes[-2]))
        return self._calendar.ts_at(min(self._calendar.index_after(ts) - 1 + slices, last))


class AbreastPart(StatefulSourcePartition[Messages, int]):
    """One partition; what is too far ahead is kept here until the barrier has moved."""

    def __init__(self, inner: "StatefulSourcePartition[Messages, int]", shared: Shared, calendar: Calendar, ahead: int):
        self._inner, self._shared, self._ahead = inner, shared, ahead
        self._held: Messages | None = None
        self._measured: list[int | None] = []  # of the records that are held: their times, where they are believed
        self._place = Place(calendar)

    def next_batch(self) -> list[Messages]:
        """Records that are not too far ahead."""
        if self._held is None:
            batch = self._inner.next_batch()
            if not batch:
                return []
            (self._held,) = batch
            times = (stated_time(headers) for headers in self._held.headers)
            self._measured = [ts if ts is not None and self._place.believes(ts) else None for ts in times]
        ready = self._ready()
        if not ready:
            return []
        given, rest = self._held.cut(ready)
        self._held, self._measured = (rest if rest.offsets else None), self._measured[ready:]
        return [given]

    def _ready(self) -> int:
        """How many of those that are held may go on; one without a time goes with the one before it."""
        base = self._shared.frontier.upto or self._place.first
        if base is None:
            return len(self._measured)
        last = self._place.after(base, self._ahead)
        return next((k for k, ts in enumerate(self._measured) if ts is not None and ts > last), len(self._measured))

    def next_awake(self) -> datetime | None:
        """Soon, while it has to wait."""
        return datetime.now(UTC) + WAIT if self._held is not None else self._inner.next_awake()

    def snapshot(self) -> int:
        """The first offset that was not given out."""
        return self._held.offsets[0] if self._held is not None else self._inner.snapshot()

    def close(self) -> None:
        """Leave the broker and the frontier."""
        self._inner.close()
        self._shared.leave()


def _is_slice(headers: Any) -> bool:
    name = dict(headers or ()).get(ID)
    return isinstance(name, bytes) and name.startswith(SLICE.encode())
