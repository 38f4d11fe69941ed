"""Orders into the log, the service beside the exchange, reports out of the log."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from broker import safety
from broker.book import Book
from broker.exchange import Exchange
from broker.exchange_server import ExchangeServer
from dataflows.execution import Room, Service
from dataflows.execution_reports import TOPIC, written
from infra.gated_sink import BY
from infra.kafka import ID, SCHEMA, TS, bounds, producer, records
from infra.settings import load
from infra.topics import create_topics
from schemas import codec
from schemas.events import Leg, word
from schemas.identity import envelope, nanos
from schemas.records import Command, Order
from tests.broker.rooms import ACCOUNT, KEYS, until

ROOT = Path(__file__).resolve().parents[2]
SETS = [
    f"run.account={ACCOUNT}", "venue.kind=broker", "broker.kind=exchange", "broker.dry_run=false",
    "broker.timeout_seconds=1",
    "broker.entry_seconds=4", "broker.exit_seconds=4", "guard.cooldown_seconds=0", "guard.max_orders_per_minute=100000",
    "guard.max_orders_per_symbol_per_day=100000", "guard.breaker_failures=100000", "guard.max_notional_usd=100000",
    "guard.slippage_times=1000", "execution.retry_seconds=0.05", "execution.legs_seconds=1.5",
    "execution.doubt_seconds=2", "execution.orders_seconds=0.5", "execution.positions_seconds=0.5",
]  # fmt: skip


def slice_of(order_id):
    stamp = order_id.split("|")[2]
    return nanos(f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:11]}:{stamp[11:13]}:{stamp[13:]}")


def submits(order):
    """The records that the account writes for a request: an entry's legs stand beside it."""
    ts = slice_of(order.id)
    legs = {Leg.ENTRY: (Leg.ENTRY, Leg.TAKE_PROFIT, Leg.STOP_LOSS), Leg.EXIT: (Leg.EXIT,),
            Leg.OCO_TAKE_PROFIT: (Leg.OCO_TAKE_PROFIT, Leg.OCO_STOP_LOSS)}[order.leg]  # fmt: skip
    base = order.id.rpartition("|")[0]
    for leg in legs:
        one, main = f"{base}|{word(leg)}", leg is Leg.ENTRY
        stops, market = leg in (Leg.STOP_LOSS, Leg.OCO_STOP_LOSS), leg in (Leg.ENTRY, Leg.EXIT)
        yield Order(
            **envelope("account.orders", one, order.symbol, ts, "account"), account=order.account, order_id=one,
            action="submit", side="sell" if not main and order.leg is Leg.ENTRY else word(order.side),
            kind="market" if market else "stop" if stops else "limit", leg=word(leg), quantity=order.qty,
            limit=None if market or stops else order.take_profit, stop=order.stop_loss if stops else None,
            take_profit=order.take_profit if main else None, stop_loss=order.stop_loss if main else None,
            slice_ts=ts, price=order.price if market else 0,
        )  # fmt: skip


def cancels(order_id):
    ts = slice_of(order_id)
    return Order(**envelope("account.orders", f"{order_id}|cancel", order_id.split("|")[1], ts, "account"),
                 account=ACCOUNT, order_id=order_id, action="cancel", side="", kind="", leg=order_id.split("|")[3],
                 quantity=1, slice_ts=ts)  # fmt: skip


class Floor:
    """A log, an exchange and what a service of its own needs."""

    def __init__(self, kafka, folder, server):
        self.where, self.folder, self.server = kafka, folder, server
        create_topics(kafka)
        self.sets = [*SETS, f"live.folder={folder}", f"broker.approval_file={folder / 'approval'}",
                     f"broker.approval_key_file={folder / 'key'}"]  # fmt: skip
        self._producer = producer(kafka, 0)
        self.process = None
        self.approve()

    @property
    def exchange(self):
        return self.server.exchange

    @property
    def environ(self):
        return {"ALPACA_BASE_URL": self.server.url, "ALPACA_API_KEY": KEYS.key_id, "ALPACA_SECRET_KEY": KEYS.secret,
                "TRADING_ENABLED": "true", "KAFKA_BOOTSTRAP_SERVERS": self.where.servers,
                "KAFKA_TOPIC_PREFIX": self.where.prefix}  # fmt: skip

    def settings(self, *more):
        return load(None, [*self.sets, *more], {})

    def approve(self):
        safety.approve(self.settings().broker, issuer="ann", account=ACCOUNT, scope="entries", minutes=60,
                       now=time.time_ns())  # fmt: skip

    # The log.

    def write(self, *orders):
        """Orders, or cancels, in this order."""
        for order in orders:
            for one in [order] if isinstance(order, Order) else submits(order):
                self._put("account.orders", one.idempotency_key, one.slice_ts, codec.encode(one), codec.mark(Order))
        self._producer.flush(30.0)

    def slice(self, ts):
        """The account log has come to a slice."""
        self._put("account.log", f"slice:{ts}", ts, b"slice", b"")
        self._producer.flush(30.0)

    def _put(self, topic, name, ts, value, mark):
        headers = [(ID, name.encode()), (TS, b"%d" % ts), (BY, b"account"), (SCHEMA, mark)]
        self._producer.produce(self.where.topic(topic), value, b"k", 0, headers=headers)

    def reports(self):
        return written(self.where, ACCOUNT)

    def ids(self):
        """Of all records of reports, as they lie there."""
        low, high = bounds(self.where, TOPIC)[0]
        return [dict(m.headers())[ID].decode() for m in records(self.where, TOPIC, 0, low, high)]

    def commands(self):
        low, high = bounds(self.where, "account.commands")[0]
        return [codec.decode(Command, m.value()) for m in records(self.where, "account.commands", 0, low, high)]

    def said(self):
        """By content id: the last status, with its reason if it has one."""
        return {one.order_id: (one.status, word(one.reason)) if one.reason else one.status for one in self.reports()}

    def agrees(self):
        """Whether the reports are the exchange's ledger."""
        book = Book.of(self.reports())
        return book.cash == self.exchange.cash - self.exchange.initial_cash and book.qty == self.exchange.held

    # The service.

    @contextmanager
    def serving(self, monkeypatch, *more):
        """The service in this process; gives its room."""
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)
        room = Room(self.settings(*more), self.where, threading.Event())
        raised = []

        def work():
            try:
                Service(room, lambda line: None).run()
            except Exception as error:
                raised.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        room.raised, room.thread = raised, thread
        try:
            yield room
        finally:
            room.stop.set()
            thread.join(30.0)
            room.close()
        assert not thread.is_alive()

    def start(self):
        """The service as its users start it."""
        with (self.folder / "execute.log").open("ab") as log:
            arguments = [part for one in self.sets for part in ("--set", one)]
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from dataflows.cli import main; main()", "execute", *arguments], cwd=ROOT,
                env={**os.environ, **self.environ}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self.process

    def end(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        return self.process.wait(40.0)

    def printed(self):
        return (self.folder / "execute.log").read_text()


@contextmanager
def floor(kafka, folder, price=1_900_000, symbols=("AAPL", "MSFT"), **options):
    exchange = Exchange(**options)
    for symbol in symbols:
        exchange.quote(symbol, price)
    with ExchangeServer(exchange, KEYS, rate=10**9) as server:
        one = Floor(kafka, folder, server)
        try:
            yield one
        finally:
            if one.process is not None and one.process.poll() is None:
                one.end()


__all__ = ["Floor", "cancels", "floor", "submits", "until"]
