"""A dataflow into the log, each record once, through any crash.

Delivery is proven in the snapshot, so an epoch is committed only when its records are in the log. After a
crash the flow emits some of them again: the sink has read the tail of the log since its snapshot, knows them
by their ids, and drops them. The same id with other content means that the flow is no function of its
input, or has changed: that stops the worker, for a doubled order costs more than a late one.

One writer per partition; records of other writers (the header `by`) are left alone.
"""

import hashlib
import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import msgspec
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from infra.kafka import DELIVERY_MS, ID, LINGER_MS, SCHEMA, TS, Cluster, bounds, partitions, producer, records, wait_for
from infra.ranges import part_name
from infra.reader import Reader
from schemas import codec
from schemas.errors import UserError

LOG = logging.getLogger(__name__)
BY = "by"  # the header that names the writer
SLACK = 10_000  # records that parts of one flow may be apart, generously
REPAIRS = 20  # new clients in a row
KEPT = 50_000  # records handed over before a part waits until they are written
VERSION = 1

State = tuple[int, int, tuple[int, ...]]  # version, offset from which the tail is read, offsets in it that were met


class Record(NamedTuple):
    """What goes into the log; `id` is a function of what happened, never of when it was computed."""

    id: str
    ts: int  # event time, UTC ns
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()  # more than id, ts and by, as the schema's fingerprint


def event_record(name: str, ts: int, key: bytes | None, event: msgspec.Struct) -> Record:
    """An event of schemas.records under its id, with the fingerprint of its schema."""
    return Record(name, ts, key, codec.encode(event), ((SCHEMA, codec.mark(type(event))),))


Made: TypeAlias = tuple[Record, list[tuple[str, str | bytes | None]]]  # with all its headers


class DeliveryError(RuntimeError):
    """A record could not be written in time; after a restart the flow emits it again."""


class OtherContentError(RuntimeError):
    """The log holds this id with other content."""


def crc(key: str) -> int:
    """Where a symbol is placed: in its shard's partition, if there are as many as shards."""
    return zlib.crc32(key.encode())


class GatedSink(FixedPartitionedSink[Sequence[Record], State]):
    """Writes keyed batches of records to one topic.

    `writer` names the flow and must outlive its versions. `place` gives the partition of a stream key, modulo their
    number: `crc` for symbols, the shard for what has one. A part without a snapshot compares with the log from `since`
    (offsets by partition) on, by default all of it: a new store then doubles nothing either.
    """

    def __init__(
        self,
        where: Cluster,
        topic: str,
        writer: str,
        place: Callable[[str], int] = crc,
        linger_ms: int = LINGER_MS,
        since: Mapping[int, int] | None = None,
    ):
        self._where, self._topic, self._writer, self._place = where, topic, writer, place
        self._linger_ms, self._since = linger_ms, since or {}

    def list_parts(self) -> list[str]:
        """The topic's partitions, whichever worker asks."""
        wait_for(self._where)
        return [part_name(self._topic, number) for number in partitions(self._where, self._topic)]

    def part_fn(self, item_key: str) -> int:
        """The partition, which Bytewax takes modulo their number."""
        return self._place(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> "Part":
        """Read the tail, then write; a UserError where this is not the log that the store knows."""
        number = int(for_part.rpartition(":")[2])
        wait_for(self._where)
        low, high = bounds(self._where, self._topic, [number])[number]
        if resume_state is None:
            resume_state = (VERSION, self._since.get(number, low), ())
        version, base, met = resume_state
        if version != VERSION:
            raise UserError(f"{for_part}: the store's sink has version {version}, this code {VERSION}: start a new one")
        if base > high:
            raise UserError(
                f"{self._where.topic(self._topic)} partition {number}: the log ends at {high}, before offset {base} of "
                f"the recovery store: this is not the log it belongs to; name the right cluster, or begin a new store"
            )
        tail = Tail(self._where, self._topic, number, self._writer, max(base, low), high, met)
        return Part(self._where, self._topic, number, self._writer, tail, self._linger_ms)


class Tail:
    """Records that are in the log and that the flow may emit again: id -> offset and content."""

    def __init__(self, where: Cluster, topic: str, number: int, writer: str, base: int, high: int, met: Sequence[int]):
        self._known: dict[str, tuple[int, bytes]] = {}
        self._met = set(met)
        self._place = f"{where.topic(topic)} partition {number}"
        for message in records(where, topic, number, base, high):
            headers = dict(message.headers() or ())
            if message.offset() in self._met or headers.get(BY) != writer.encode() or not headers.get(ID):
                continue
            name, content = headers[ID].decode(), digest(message.key(), message.value(), message.headers())
            offset, other = self._known.setdefault(name, (message.offset(), content))
            if other != content:
                raise OtherContentError(f"{self._place}: id {name} has one content at {offset}, "
                                        f"another at {message.offset()}")  # fmt: skip
        self.end = high  # the place after our last record
        self._left = 2 * len(self._known) + SLACK  # records until the rest cannot come any more

    def meets(self, record: Record, headers: Sequence[tuple[str, Any]]) -> bool:
        """Is this record in the log already? Raises OtherContentError where only its id is."""
        if not self._known:
            return False
        self._left -= 1
        if record.id not in self._known:
            return False
        offset, content = self._known.pop(record.id)
        if content != digest(record.key, record.value, headers):
            raise OtherContentError(
                f"{self._place}: id {record.id} is at offset {offset} with other content than the flow gives it now: "
                f"the program or its settings changed after a crash; resume once with those that wrote it"
            )
        self._met.add(offset)
        return True

    def snapshot(self) -> State:
        """From where a resumed flow has to compare, and what it need not expect."""
        if self._known and self._left < 0:
            LOG.warning("%s: %d records were not emitted again, first %s: written by another version?",
                        self._place, len(self._known), min(self._known.values())[0])  # fmt: skip
            self._known.clear()
        if not self._known:
            self._met.clear()
            return VERSION, self.end, ()
        base = min(offset for offset, _ in self._known.values())
        self._met = {offset for offset in self._met if offset > base}
        return VERSION, base, tuple(sorted(self._met))


class Part(StatefulSinkPartition[Sequence[Record], State]):
    """One partition.

    The records of this epoch and of the one before are kept. When the client or the broker falters, the part reads
    the log from there on and writes with a new client what is missing: the same as after a crash, without one.
    So a broker that comes back without the last records that it had acknowledged (a kill with unsynced disks
    does that to a single one) does no harm either.
    """

    def __init__(self, where: Cluster, topic: str, number: int, writer: str, tail: Tail, linger_ms: int):
        self._where, self._topic, self._number, self._writer = where, topic, number, writer
        self._place = f"{where.topic(topic)} partition {number}"
        self._tail = tail
        self._outbox = Outbox.open(where, linger_ms)
        self._kept: list[Made] = []  # in order
        self._young = 0  # place in `_kept` where this epoch begins
        self._since = self._middle = tail.end  # where in the log both epochs, and where this one begins
        self._shaken = self._outbox.shaken
        self._asked = 0  # of these, how many the client has yet to answer
        self._answers: deque[tuple[Any, int]] = deque()  # error or None, offset: put here by whichever thread polls
        self._next = tail.end  # the place after the last record of ours
        self._proven = False  # has this client written a record here?
        self._trouble: Any = None  # the first error since the last repair
        self._repairs = 0  # in a row

    def write_batch(self, values: list[Sequence[Record]]) -> None:
        """Hand over what the log does not hold yet."""
        by = (BY, self._writer.encode())
        for batch in values:
            for record in batch:
                headers: list[tuple[str, str | bytes | None]] = [
                    (ID, record.id.encode()),
                    (TS, b"%d" % record.ts),
                    by,
                    *record.headers,
                ]
                if not self._tail.meets(record, headers):
                    self._kept.append((record, headers))
                    self._produce(record, headers)
            if len(self._kept) > KEPT:
                self._flush()
        self._outbox.poll(0)
        self._settle()

    def _produce(self, record: Record, headers: list[tuple[str, str | bytes | None]]) -> None:
        """Give a record to the client, however long its queue is full; after trouble leave it to the repair."""
        from confluent_kafka import KafkaException

        name = self._where.topic(self._topic)
        while self._trouble is None:
            try:
                self._outbox.client.produce(
                    name, record.value, record.key, self._number, headers=headers, on_delivery=self._delivered
                )
                self._asked += 1
                break
            except BufferError:  # the broker is slow or away
                self._outbox.poll(0.05)
                self._take_answers()
            except KafkaException as error:
                self._trouble = error.args[0]
        Reader.expect(self._where, (name, self._number))
        while not self._proven and self._trouble is None:  # the first record goes alone, see Unproven
            self._outbox.poll(0.005)
            self._take_answers()

    def _delivered(self, error: Any, message: Any) -> None:
        self._answers.append((error, message.offset()))

    def _take_answers(self) -> None:
        while self._answers:
            error, offset = self._answers.popleft()
            self._asked -= 1
            if error is None and offset >= self._middle:
                self._next, self._proven = max(self._next, offset + 1), True  # threads may mix up the order
            elif self._trouble is None:
                self._trouble = error or UNPROVEN

    def _settle(self) -> None:
        """Take in what became of records; mend what can be mended and raise the rest."""
        self._take_answers()
        while self._trouble is not None and not self._asked:  # first hear what became of all
            if not mendable(self._trouble) or self._repairs == REPAIRS:
                raise DeliveryError(f"{self._place}: not written: {self._trouble.str()}")
            LOG.warning("%s: going on with a new client, after: %s", self._place, self._trouble.str())
            self._repairs += 1
            self._repair()

    def _repair(self) -> None:
        """Write with a new client what of the kept records is not in the log."""
        self._outbox, self._trouble, self._proven = self._outbox.renewed(), None, False
        self._shaken = self._outbox.shaken
        wait_for(self._where)
        _, high = bounds(self._where, self._topic, [self._number])[self._number]
        if high < self._since:
            raise DeliveryError(f"{self._place}: the broker has lost records that it had acknowledged: "
                                f"the log ends at {high}, want {self._since} or more")  # fmt: skip
        there = set()
        for message in records(self._where, self._topic, self._number, self._since, high):
            found = dict(message.headers() or ())
            if found.get(BY) == self._writer.encode():
                there.add(found.get(ID))
        self._kept = [made for made in self._kept if made[0].id.encode() not in there]
        self._young, self._since, self._middle, self._next = 0, high, high, high
        for record, headers in self._kept:
            self._produce(record, headers)
            self._take_answers()

    def _flush(self) -> None:
        """Wait until the log holds everything."""
        deadline = time.monotonic() + DELIVERY_MS / 1e3 + 30.0
        while True:
            self._settle()
            if not self._asked and self._trouble is None:
                if self._shaken == self._outbox.shaken:
                    break
                self._trouble = SHAKEN
                continue
            self._outbox.poll(0.005)  # another worker's thread may take our answers: do not wait long
            if time.monotonic() > deadline:
                raise DeliveryError(f"{self._place}: {self._asked} records not written")
        del self._kept[: self._young]
        self._young, self._repairs = len(self._kept), 0
        self._since, self._middle, self._tail.end = self._middle, self._next, self._next

    def snapshot(self) -> State:
        """Everything handed over so far is in the log, or this raises."""
        self._flush()
        return self._tail.snapshot()

    def close(self) -> None:
        """The flow has ended; a record that is not written even now must not go unnoticed."""
        self._flush()
        self._outbox.leave()


class Shaken:
    """The connection broke: what was acknowledged before may be gone."""

    def fatal(self) -> bool:
        """Look, and go on."""
        return True

    def str(self) -> str:
        """What the log of the process says."""
        return "the connection to a broker broke"


class Unproven:
    """An answer of success whose offset lies before the end: the broker took the record for one it has.

    The embedded broker does that after a restart, when it gives a new producer the number of an old one;
    the record is lost. Seen at the first record of a client, which is therefore sent alone.
    """

    def fatal(self) -> bool:
        """Like a client that has given up: another one may do."""
        return True

    def str(self) -> str:
        """What the log of the process says."""
        return "the broker said it was written, but not where"


SHAKEN, UNPROVEN = Shaken(), Unproven()


def mendable(error: Any) -> bool:
    """Whether the client gave up over its own book-keeping, so that a new one can go on.

    A broker that comes back without its memory of producers refuses the old one's numbers, for good.
    """
    from confluent_kafka import KafkaError

    return bool(error.fatal()) or error.code() in (
        KafkaError._FATAL, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, KafkaError.UNKNOWN_PRODUCER_ID, KafkaError.INVALID_PRODUCER_EPOCH,
    )  # fmt: skip


class Line:
    """The connection to the brokers; the client knows only this, so that it ends when its outbox does and not later."""

    def __init__(self) -> None:
        self.breaks = 0

    def note(self, error: Any) -> None:
        """The client says that it broke."""
        self.breaks += 1


class Outbox:
    """The producer that the parts of a process share: each has threads and buffers of its own."""

    _open: ClassVar[dict[tuple[Cluster, int], "Outbox"]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, key: tuple[Cluster, int]):
        self._line = Line()
        self.client, self._key, self._parts = producer(*key, self._line.note), key, 0

    @property
    def shaken(self) -> int:
        """How often a connection broke."""
        return self._line.breaks

    @classmethod
    def open(cls, where: Cluster, linger_ms: int) -> "Outbox":
        """Join it, or start it."""
        key = (where, linger_ms)
        with cls._lock:
            if key not in cls._open:
                cls._open[key] = cls(key)
            box = cls._open[key]
            box._parts += 1
            return box

    def poll(self, seconds: float) -> None:
        """Hear answers; that the client as a whole has given up, each record's answer says too."""
        from confluent_kafka import KafkaException

        try:
            self.client.poll(seconds)
        except KafkaException as error:
            LOG.debug("poll: %s", error)

    def renewed(self) -> "Outbox":
        """Leave a broken one and join the next, which the first of the parts to ask starts."""
        with self._lock:
            if self._open.get(self._key) is self:
                del self._open[self._key]
        box = self.open(*self._key)
        self.leave()
        return box

    def leave(self) -> None:
        """The last to leave closes it."""
        with self._lock:
            self._parts -= 1
            if not self._parts and self._open.get(self._key) is self:
                del self._open[self._key]


def digest(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, Any]] | None) -> bytes:
    """A hash of all that a record says."""
    parts = [b"" if key is None else b"+" + key, b"" if value is None else b"+" + value]
    parts += [part for name, text in headers or () for part in (name.encode(), text or b"")]
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(b"%d:" % len(part))
        state.update(part)
    return state.digest()
