"""Who executes an account's orders, on whichever host: one process at a time, and the log decides which.

    execution.claims: take(epoch 7, a) .. renew(7, a) .. renew(7, a) ..               take(8, b) .. renew(8, b)

The topic has one partition, so all read the same order. Whoever wrote the first claim of the highest epoch holds the
account. It renews, and trusts itself only for a while after a renewal that it has read back: `check` stands before
every request that changes something at the broker. Another one takes over once it has seen no renewal for longer than
that, or a release. No two clocks are compared: each measures its own spans, so they need only run at about one pace.
"""

import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.gated_sink import BY
from infra.kafka import ID, SCHEMA, TS, Cluster, bounds, consumer, lost, passing, producer, records
from schemas import codec
from schemas.errors import UserError
from schemas.identity import envelope
from schemas.records import ExecutionClaim

LOG = logging.getLogger("utp.execution")
TOPIC = "execution.claims"
BACK = 5_000  # records that are read at a start: all accounts' renewals of far longer than a lease
POLL_SECONDS = 0.05
WRITE_SECONDS = 30.0  # that a claim may take to be in the log


class Fenced(RuntimeError):  # noqa: N818
    """Another process executes the account now: this one must do nothing more."""


def holder(folder: Path, account: str) -> str:
    """The name of this host and folder, which survives restarts: what ran here before is over, its lock says so."""
    path = folder / f"execute.{account}.name"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12])
    return f"{socket.gethostname()}/{path.read_text().strip()}"


class Lease:
    """One process's claim to an account. `stop` ends waits; `ended` is called once if the account is taken over."""

    def __init__(
        self, where: Cluster, account: str, name: str, seconds: float, stop: threading.Event,
        ended: Callable[[Fenced], None] = lambda error: None,
    ):  # fmt: skip
        self.where, self.account, self.name, self.seconds = where, account, name, seconds
        self._stop, self._ended = stop, ended
        self._me = uuid.uuid4().hex
        self._epoch = 0  # the highest seen, and whose it is
        self._claim: ExecutionClaim | None = None
        self._mine = -1  # the epoch that this process has taken
        self._error: Exception | None = None
        self._trusted = 0.0  # monotonic: until then nobody else can have it
        self._written: dict[int, float] = {}  # by number: when a renewal went out
        self._number = 0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._producer: Any = None

    def take(self) -> None:
        """Hold the account, once whoever held it has let go. A UserError while another one is alive."""
        low, high = bounds(self.where, TOPIC)[0]
        seen = self._take_in(max(low, high - BACK), high)
        if self._is_anothers():
            seen = self._outwait(seen)
        self._producer = producer(self.where, 0)
        self._mine = self._epoch + 1
        self._write(released=False)
        if self._producer.flush(WRITE_SECONDS):
            raise UserError(f"Kafka: the claim to account {self.account} was not written in {WRITE_SECONDS:g} s")
        seen = self._take_in(seen, bounds(self.where, TOPIC)[0][1])  # somebody else may have been faster
        if self._error is not None:
            raise UserError(f"{self._error}: only one can")
        self._start(seen)

    def check(self) -> None:
        """Return while nobody else can hold the account; waits while the log says nothing. Raises Fenced."""
        while self._error is None and time.monotonic() >= self._trusted and not self._stop.is_set():
            self._stop.wait(POLL_SECONDS / 5)
        if self._error is not None:
            raise self._error
        if time.monotonic() >= self._trusted:
            raise Fenced(f"account {self.account}: told to stop while the log had not confirmed who executes it")

    def close(self, *, release: bool = True) -> None:
        """Let go; with `release` the next one need not wait."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(10.0)
        if self._producer is not None and release and self._error is None:
            self._write(released=True)
            if self._producer.flush(2.0):
                LOG.warning("account %s: nobody was told that it is free; the next one waits %g s", self.account,
                            self.seconds)  # fmt: skip
        self._trusted = 0.0

    # Taking over.

    def _is_anothers(self) -> bool:
        """Whether somebody may be alive: not one that has let go, nor one that ran where this one runs."""
        last = self._claim
        return last is not None and not last.released and last.holder != self.name

    def _outwait(self, seen: int) -> int:
        """Watch for signs of life; returns how far was read."""
        last = self._claim
        LOG.info("account %s was executed by %s: waiting %g s for a sign of life", self.account,
                 last and last.holder, self.seconds)  # fmt: skip
        since = time.monotonic()
        while time.monotonic() < since + self.seconds and not self._stop.wait(POLL_SECONDS):
            seen = self._take_in(seen, bounds(self.where, TOPIC)[0][1])
            if self._claim is not None and self._claim is not last:
                if not self._is_anothers():
                    return seen
                raise UserError(
                    f"account {self.account} is executed already, by {self._claim.holder}: end that one first; "
                    f"it reconciles by itself"
                )
        return seen

    def _take_in(self, first: int, stop: int) -> int:
        for message in records(self.where, TOPIC, 0, first, stop):
            self._read(message)
        return max(first, stop)

    # Holding.

    def _start(self, seen: int) -> None:
        self._thread = threading.Thread(target=self._hold, args=(seen,), name="lease", daemon=True)
        self._thread.start()

    def _hold(self, seen: int) -> None:
        """Renew, and hear of others."""
        from confluent_kafka import TopicPartition

        client, renewed = consumer(self.where), time.monotonic()
        try:
            client.assign([TopicPartition(self.where.topic(TOPIC), 0, seen)])
            while not self._closing.is_set() and self._error is None:
                message = client.poll(POLL_SECONDS)
                if message is not None and (error := message.error()) is None:
                    self._read(message)
                elif message is not None and not passing(error):
                    raise lost(self.where.topic(TOPIC), 0, seen, error)
                if time.monotonic() - renewed >= self.seconds / 3:
                    renewed = time.monotonic()
                    self._write(released=False)
        except Exception as error:  # whoever asks next hears of it
            self._fail(Fenced(f"account {self.account}: who executes it cannot be read any more ({error})"))
        finally:
            client.close()

    def _write(self, *, released: bool) -> None:
        """A claim; the log decides whether it counts."""
        now, self._number = time.time_ns(), self._number + 1
        key = f"{self.account}:{self._me}:{self._number}"
        one = ExecutionClaim(**envelope(TOPIC, key, "", now, "execution"), account=self.account, holder=self.name,
                             process=self._me, epoch=self._mine, number=self._number, released=released)  # fmt: skip
        headers = [(ID, key.encode()), (TS, b"%d" % now), (BY, b"execution"), (SCHEMA, codec.mark(ExecutionClaim))]
        self._written[self._number] = time.monotonic()
        self._producer.produce(self.where.topic(TOPIC), codec.encode(one), self.account.encode(), 0, headers=headers)
        self._producer.poll(0)

    def _read(self, message: Any) -> None:
        """One claim, in the log's order."""
        value, schema = message.value(), dict(message.headers() or ()).get(SCHEMA)
        one = codec.decode(ExecutionClaim, value, schema)
        if one.account != self.account:
            return
        if one.epoch > self._epoch:
            self._epoch, self._claim = one.epoch, one
        elif one.epoch == self._epoch and self._claim is not None and one.process == self._claim.process:
            self._claim = one
        if self._mine < 0:
            return
        if self._epoch > self._mine or (self._epoch == self._mine and self._claim and self._claim.process != self._me):
            by = self._claim.holder if self._claim else "another process"
            self._fail(Fenced(f"account {self.account} is executed by {by} now"))
        elif one.process == self._me and (sent := self._written.pop(one.number, None)) is not None:
            self._trusted = max(self._trusted, sent + self.seconds * 2 / 3)

    def _fail(self, error: Fenced) -> None:
        if self._error is None:
            self._error = error
            self._ended(error)
