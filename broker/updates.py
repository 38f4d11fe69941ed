"""Execution reports: the stream of trade updates, and after every connect what was missed, fetched and merged.

The stream replays nothing. So it is subscribed first, then open and recent orders are read, and what both
tell is counted once (`Progress`). The library's stream reconnects by itself, tells nobody, and follows
redirects; this one does none of that.
"""

import json
import logging
import threading
from collections.abc import Iterable
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from broker import guard, wire
from broker.alpaca import BASE_SECONDS, CAP_SECONDS, AlpacaBroker, Refused, Unanswered
from broker.port import Deliver, Execution, ExecutionReport, OrderState, TradingStopped
from broker.progress import Progress
from broker.safety import UnsafeBroker, endpoint
from schemas.events import Reason
from schemas.units import NS_PER_SECOND

LOG = logging.getLogger("utp.broker.updates")
LOG.setLevel(logging.INFO)  # at DEBUG the library logs each frame, that with the secret too
OVERLAP = 60 * NS_PER_SECOND  # read again before the oldest open order: clocks differ


class TradeUpdates:
    """Follows one account; reports go to `deliver`, in one order, from the thread that calls `run`."""

    def __init__(self, broker: AlpacaBroker, progress: Progress, deliver: Deliver, since: int, poll: float = 60.0):
        self.broker = broker
        self.progress = progress
        self.deliver = deliver
        self.since = since  # UTC ns: orders from before are nobody's here
        self.poll = poll  # seconds between two full readings: the stream is known to swallow a leg's end
        self.connected = threading.Event()
        self._lock = threading.RLock()  # the stream's thread and whoever reconciles must not report the same twice
        self.connects = 0

    def run(self, stop: threading.Event) -> None:
        """Until told to stop. Lost connections are taken up again; being shut out raises TradingStopped."""
        attempt = 0
        while not stop.is_set():
            try:
                self._follow(stop)
            except UnsafeBroker:
                raise
            except (WebSocketException, OSError, Unanswered, Refused, ValueError) as error:
                LOG.info("trade updates: %s; connecting again", type(error).__name__)
            finally:
                attempt = 0 if self.connected.is_set() else attempt
                self.connected.clear()
            stop.wait(guard.delay(attempt, BASE_SECONDS, CAP_SECONDS, self.broker.clock.uniform()))
            attempt += 1

    def catch_up(self) -> int:
        """Read all that may have changed and report what is new; how many reports. Any thread may ask."""
        with self._lock:
            return self._catch_up()

    def tell(self, state: OrderState) -> int:
        """Report an order as the broker has just answered it, legs and all; how many reports."""
        with self._lock:
            return self._report([(state, ())])

    def _catch_up(self) -> int:
        listed = {order.broker_id: order for order in self.broker.orders_since(max(self.since - OVERLAP, 0))}
        nested = {leg.broker_id for order in listed.values() for leg in order.legs}
        for broker_id in self.progress.open:
            if broker_id not in listed and broker_id not in nested:
                order = self.broker.order(broker_id)
                if order is not None:
                    listed[broker_id] = order
        pending = sorted(listed.values(), key=lambda order: (order.submitted, order.broker_id))
        told = 0
        while pending:  # a replacement can be named once what it replaces is known
            ready = [order for order in pending if self.progress.knows(order)]
            told += self._report([(order, ()) for order in ready])
            if not ready:
                break
            pending = [order for order in pending if order not in ready]
        return told

    def _follow(self, stop: threading.Event) -> None:
        """One connection's life."""
        there = endpoint(self.broker.there.kind, self.broker.there.rest)  # not what somebody may have put in `stream`
        timeout = self.broker.params.timeout_seconds
        with connect(there.stream, proxy=None, logger=LOG, open_timeout=timeout, close_timeout=1.0) as socket:
            self._enter(socket, timeout)
            self.connects += 1
            self.catch_up()
            self.connected.set()
            polled = self.broker.clock.monotonic()
            while not stop.is_set():
                try:
                    raw = _message(socket.recv(timeout=0.1))
                except TimeoutError:
                    raw = {}
                if raw.get("stream") == "trade_updates":
                    self._take(raw["data"])
                if self.broker.clock.monotonic() - polled >= self.poll * NS_PER_SECOND:
                    self.catch_up()
                    polled = self.broker.clock.monotonic()

    def _enter(self, socket: ClientConnection, timeout: float) -> None:
        keys = self.broker.keys
        socket.send(json.dumps({"action": "authenticate", "data": {"key_id": keys.key_id, "secret_key": keys.secret}}))
        answer = _message(socket.recv(timeout=timeout))
        if answer.get("data", {}).get("status") != "authorized":
            raise TradingStopped(Reason.UNAUTHORIZED, "the broker's stream does not let us in")
        socket.send(json.dumps({"action": "listen", "data": {"streams": ["trade_updates"]}}))
        if "trade_updates" not in _message(socket.recv(timeout=timeout)).get("data", {}).get("streams", ()):
            raise Unanswered("the stream did not take the subscription")

    def _take(self, data: dict[str, Any]) -> None:
        """One update. A leg that cannot be named yet, or a gap in the fills, is answered by reading."""
        state, execution = wire.update(data)
        with self._lock:
            if not self.progress.knows(state):
                self._catch_up()
            else:
                self._report([(state, () if execution is None else (execution,))])

    def _report(self, news: Iterable[tuple[OrderState, tuple[Execution, ...]]]) -> int:
        news = list(news)
        gaps = [broker_id for state, given in news for broker_id in self.progress.lacks(state, given)]
        fetched = self.broker.executions(gaps, max(self.since - OVERLAP, 0)) if gaps else {}
        reports: list[ExecutionReport] = []
        for state, given in news:
            ids = [state.broker_id, *(leg.broker_id for leg in state.legs)]
            more = {(e.broker_id, e.filled_qty): e for i in ids for e in fetched.get(i, ())}
            more.update(((e.broker_id, e.filled_qty), e) for e in given)
            reports += self.progress.advance(state, tuple(more.values()))
        if reports:
            self.deliver(reports)
        return len(reports)


def _message(text: str | bytes) -> dict[str, Any]:
    """The paper host sends binary frames with JSON in them."""
    message = json.loads(text)
    if not isinstance(message, dict):
        raise ValueError("a message of the stream is no object")
    return message
