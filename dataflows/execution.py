"""`utp execute`: from the account's orders to the broker, and from the broker to the account's log.

    account.orders -> desk -> broker -> execution.reports

A plain process: its state is in these topics and at the broker, so that it may be killed anywhere. One thread follows
the broker's stream, one works off orders and reconciles, the first one waits for a signal.
"""

import contextlib
import fcntl
import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from broker import guard, safety
from broker.alpaca import AlpacaBroker, Refused, SystemClock, Unanswered
from broker.desk import Desk
from broker.guard import Exposure
from broker.journal import Journal
from broker.port import ExecutionReport, TradingStopped
from broker.progress import Progress
from broker.reconcile import Finding
from broker.repair import Reconciliation, described
from broker.safety import Gates
from broker.submitter import Submitter
from broker.updates import TradeUpdates
from dataflows import commands
from dataflows.execution_reports import ReportLog, Undelivered, written
from dataflows.lease import Fenced, Lease, holder
from infra.abreast import Frontier
from infra.kafka import SCHEMA, Cluster, Headers, bounds, cluster, records
from infra.settings import Settings
from infra.tail import TailSource
from infra.topics import create_topics
from schemas import codec
from schemas.calendar import NEW_YORK, TIMEFRAMES
from schemas.errors import UserError
from schemas.events import word
from schemas.records import CommandKind, Order
from schemas.units import NS_PER_MINUTE, NS_PER_SECOND

if TYPE_CHECKING:
    from prometheus_client import Counter

LOG = logging.getLogger("utp.execution")
ORDERS = "account.orders"
IDLE_SECONDS = 0.05  # between two looks at an empty topic
FRONTIER_SECONDS = 30.0  # for the newest slice; a log that holds commands alone has none
LEAVE_SECONDS = 20.0  # that a stop waits for what is under way
DAY = 86_400 * NS_PER_SECOND


class Leaving(BaseException):
    """The process is to end: whatever waits stops waiting."""


class StoppableClock(SystemClock):
    """The machine's, that does not sleep through a stop."""

    def __init__(self, stop: threading.Event):
        self._stop = stop

    def sleep(self, seconds: float) -> None:  # noqa: D102
        if self._stop.wait(seconds):
            raise Leaving


@contextlib.contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Whoever executes an account's orders does so alone on this host: a UserError for the second one."""
    path = Path(settings.live.folder) / f"execute.{settings.run.account}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"account {settings.run.account} is executed already, by process {_holder(file)} ({path}): "
                f"end that one first; it reconciles by itself"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "?"


class Room:
    """All parts of one account's execution, connected; nothing has been sent yet."""

    def __init__(self, settings: Settings, where: Cluster, stop: threading.Event):
        self.settings, self.where, self.stop = settings, where, stop
        self.account = settings.run.account
        there, keys = safety.of_environ(settings.broker, os.environ)
        self.clock = StoppableClock(stop)
        self.failure: BaseException | None = None
        name = holder(Path(settings.live.folder), self.account)
        self.lease = Lease(where, self.account, name, settings.execution.lease_seconds, stop, self._fenced)
        self.lease.take()
        self.broker = AlpacaBroker(there, keys, settings.broker, settings.guard, self.clock, self.lease.check)
        self.reader = AlpacaBroker(there, keys, settings.broker, settings.guard, self.clock)
        gates = Gates(settings.broker, there, keys, self.account, enabled=safety.trading_enabled(os.environ))
        told = written(where, self.account)
        self.journal = Journal(told)
        self._correlations: dict[str, str] = {}
        self.log = ReportLog(where, self.account, self._take, lambda order_id: self._correlations.get(order_id, ""))
        self.submitter = Submitter(self.broker, gates, settings.guard, self._exposure, session, self.clock)
        self.submitter.guard = guard.State(sent=tuple(
            (first.ts, session(first.ts), first.symbol) for first in self.journal.entries()
        ))  # fmt: skip
        self.updates = TradeUpdates(self.reader, Progress(self.account, told), self._deliver, 0)
        slice_ns = TIMEFRAMES[settings.live.timeframe] * NS_PER_MINUTE
        self.desk = Desk(self.account, self.submitter, self.updates, self.journal, self._deliver, settings.execution,
                         slice_ns)  # fmt: skip
        self.reconciliation = Reconciliation(self.desk, self._halt)
        self._delivery, self._broken = threading.RLock(), False
        self.ready = threading.Event()  # book and broker have been compared: orders are worked off
        low, high = bounds(where, ORDERS)[0]
        self.next = low
        for message in records(where, ORDERS, 0, low, high):
            self.take(message.value(), message.headers())
            self.next = int(message.offset() or 0) + 1
        self.updates.since = self.since()

    def take(self, value: bytes | None, headers: "Headers | None") -> None:
        """An order of the log. Raises where it cannot be read: only the account writes there."""
        order = codec.decode(Order, value, dict(headers or ()).get(SCHEMA))
        if order.account == self.account:
            self._correlations[order.order_id] = order.correlation_id
            self.desk.take(order)

    def _fenced(self, error: Fenced) -> None:
        self.failure = self.failure or error
        self.stop.set()

    def close(self) -> None:
        """Let connections and the account go."""
        self.broker.close()
        self.reader.close()
        self.lease.close(release=not isinstance(self.failure, Undelivered))
        if not isinstance(self.failure, Undelivered):  # it would wait for the log again
            self.log.close()

    def since(self) -> int:
        """From when on the broker's orders are read: a day back, and before whatever is not settled.

        A test exchange is told its time, so nothing of it is left out.
        """
        if self.settings.broker.kind == "exchange":
            return 0
        wanted = [intent.slice_ts for intent in self.desk.waiting.values()]
        open_orders = [one.ts for one in self.journal.entries() if not self.journal.is_final(one.order_id)]
        return max(min([self.clock.now() - DAY, *wanted, *open_orders]), 0)

    def _deliver(self, told: list[ExecutionReport]) -> None:
        """Into the log, all or nothing more: a later report after a lost one would hide it from the next start."""
        self.lease.check()
        with self._delivery:
            if self._broken:
                raise Undelivered("execution reports before these were not written")
            self._broken = True
            try:
                self.log.deliver(told)
            except Undelivered as error:
                self.failure = self.failure or error
                raise
            self._broken = False

    def _take(self, report: ExecutionReport) -> None:
        self.journal.take(report)
        self.submitter.heard(report)
        LOG.info("%s %s: %d at %d, %d in all%s", report.order_id, report.status, report.qty,
                 report.cost // report.qty if report.qty else 0, report.filled_qty,
                 f" ({word(report.reason)})" if report.reason else "")  # fmt: skip

    def _exposure(self) -> Exposure:
        return self.journal.exposure(self.desk.value_of_entries())

    def _halt(self, findings: list[Finding]) -> None:
        """No more entries: the narrowest word that the account knows is `revoke`."""
        count(findings)
        said = "; ".join(described(finding) for finding in findings)
        try:
            commands.send(self.where, self.account, CommandKind.REVOKE, f"reconciliation: {said}"[:500],
                          issuer="reconciliation")  # fmt: skip
        except UserError as error:  # entries are halted here all the same
            LOG.error("revoke: %s", error)


def session(now: int) -> int:
    """The exchange day of an instant, counted."""
    return datetime.fromtimestamp(now // NS_PER_SECOND, UTC).astimezone(NEW_YORK).toordinal()


def count(findings: list[Finding]) -> None:
    """`reconcile_errors_total{type}`, for Prometheus."""
    for finding in findings:
        _errors().labels(type=word(finding.difference)).inc()


@functools.cache
def _errors() -> "Counter":
    """Made at first use: the import takes its time."""
    from prometheus_client import Counter

    return Counter("reconcile_errors", "Differences between book and broker that halted entries.", ["type"])


class Service:
    """The threads of one room."""

    def __init__(self, room: Room, told: Callable[[str], None]):
        self.room, self.told = room, told
        self._frontier = Frontier(room.where)
        self._threads = [threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
                         for name, work in (("updates", self._follow), ("desk", self._work))]  # fmt: skip

    def run(self) -> None:
        """Until told to stop; raises what ended it otherwise."""
        room = self.room
        for thread in self._threads:
            thread.start()
        while not room.stop.wait(0.2):
            pass
        deadline = time.monotonic() + LEAVE_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.1))
        self._frontier.close()
        if room.failure is not None:
            raise room.failure

    def _guarded(self, work: Callable[[], None]) -> None:
        """A thread that ends takes the process along."""
        try:
            work()
        except Leaving:
            pass
        except BaseException as error:
            self.room.failure = self.room.failure or error
        finally:
            self.room.stop.set()

    def _follow(self) -> None:
        self.room.updates.run(self.room.stop)

    def _work(self) -> None:
        room = self.room
        self._patiently(lambda: room.updates.catch_up())
        self._patiently(lambda: room.reconciliation.run())
        self._await_time()
        part = TailSource(room.where, ORDERS, {0: room.next}).build_part("orders", f"{ORDERS}:000", None)
        self.told(f"account {room.account}: {len(room.desk.waiting)} orders to settle, "
                  f"{len(room.journal.open())} open at the broker")  # fmt: skip
        room.ready.set()
        clock, own = room.clock, room.settings.execution
        orders = positions = clock.monotonic()
        try:
            while not room.stop.is_set():
                batches = part.next_batch()
                for messages in batches:
                    for value, headers in zip(messages.values, messages.headers, strict=True):
                        room.take(value, headers)
                room.desk.step(self._now())
                now = clock.monotonic()
                if now - orders >= own.orders_seconds * NS_PER_SECOND:
                    orders, whole = now, now - positions >= own.positions_seconds * NS_PER_SECOND
                    positions = now if whole else positions
                    self._reconcile(whole)
                if not batches:
                    clock.sleep(IDLE_SECONDS)
        finally:
            part.close()

    def _await_time(self) -> None:
        """Until the log's newest slice is read, if it has any: before, nothing would look old."""
        low, high = bounds(self.room.where, "account.log")[0]
        deadline = self.room.clock.monotonic() + int(FRONTIER_SECONDS * NS_PER_SECOND)
        while high > low and self._frontier.upto is None and self.room.clock.monotonic() < deadline:
            self.room.clock.sleep(IDLE_SECONDS)

    def _now(self) -> int:
        """The market's time: of the log's newest slice, and on the paper host of the clock, if that is later."""
        upto = self._frontier.upto or 0
        return upto if self.room.settings.broker.kind == "exchange" else max(upto, self.room.clock.now())

    def _reconcile(self, positions: bool) -> None:
        self.room.updates.since = self.room.since()  # or each reading would be longer than the last
        try:
            self.room.reconciliation.run(positions=positions)
        except (Refused, Unanswered) as error:
            LOG.warning("reconciliation: %s; done again later", error)

    def _patiently(self, act: Callable[[], object]) -> None:
        """Until the broker answers: nothing is sent before."""
        attempt = 0
        while True:
            try:
                act()
                return
            except (Refused, Unanswered) as error:
                LOG.warning("broker: %s; asked again", error)
                attempt += 1
                self.room.clock.sleep(guard.delay(attempt, 0.5, 10.0, 0.5 + self.room.clock.uniform() / 2))


def run(settings: Settings, told: Callable[[str], None]) -> None:
    """Execute one account's orders until interrupted. What stops trading for good is one line."""
    if settings.venue.kind != "broker":
        raise UserError(
            f"venue.kind is {settings.venue.kind}: account {settings.run.account} fills its orders itself, so none is "
            f"sent from here; set it to broker (VENUE__KIND=broker) for the live flow and here"
        )
    where = cluster()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with alone(settings), ended_in_a_line():
        create_topics(where)
        if settings.execution.metrics_port:
            from prometheus_client import start_http_server

            own = settings.execution
            try:
                start_http_server(own.metrics_port, addr=own.metrics_host)
            except OSError as error:
                raise UserError(
                    f"execution.metrics_port {own.metrics_port} at {own.metrics_host}: {error.strerror or error}"
                ) from error
        room = Room(settings, where, stop)
        for reason, message in room.submitter.gates.shut(room.clock.now()):
            told(f"shut: {word(reason)} ({message})")
        try:
            Service(room, told).run()
        finally:
            room.close()
    told("stopped")


@contextlib.contextmanager
def ended_in_a_line() -> Iterator[None]:
    """What ends the process and is nobody's bug."""
    from confluent_kafka import KafkaException

    try:
        yield
    except KafkaException as error:
        raise UserError(f"Kafka: {error.args[0].str()}; the orders that stand at the broker are untouched") from error
    except TradingStopped as error:
        raise UserError(f"trading stopped ({word(error.reason)}): {error}") from error
    except Fenced as error:
        raise UserError(f"{error}: this one has stopped, and what it had sent stands") from error
    except Undelivered as error:
        raise UserError(str(error)) from error
    except (Refused, Unanswered) as error:
        raise UserError(f"broker: {error}") from error
