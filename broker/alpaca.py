"""Alpaca paper trading through the official client, so that an order is placed once whatever gets lost.

The client library sets no time-out, sleeps on 429 and 504 and sends a POST again by itself, and its errors
carry the request with its keys. So here every call has a time-out, retries are ours, an unanswered POST is
looked up by its id before it is sent again, and no exception of the library leaves this module.
"""

import random
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import requests
from alpaca.common.exceptions import APIError

from broker import guard, safety, wire
from broker.adoption import adopted, replacement
from broker.answers import meaning
from broker.port import (
    BrokerAccount,
    BrokerPosition,
    Execution,
    OrderRequest,
    OrderState,
    Refusal,
    Shape,
    TradingStopped,
)
from broker.safety import Endpoint, Keys, Params, UnsafeBroker, verify_address
from schemas.events import Kind, Reason, Side
from schemas.units import NS_PER_SECOND, TICKS_PER_CENT, TICKS_PER_USD

with warnings.catch_warnings():  # its stream, which is not used here, imports what websockets has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderClass, OrderSide, QueryOrderStatus, TimeInForce
    from alpaca.trading.requests import (
        GetOrderByIdRequest,
        GetOrdersRequest,
        LimitOrderRequest,
        MarketOrderRequest,
        ReplaceOrderRequest,
        StopLossRequest,
        TakeProfitRequest,
    )

PAGE = 500
TRIES = 4  # of a read
LOOKS = 3  # after an order whose answer was lost, before it is sent again: not found may mean not yet
BASE_SECONDS, CAP_SECONDS = 0.2, 5.0


class Clock(Protocol):
    """Time and chance; tests bring their own."""

    def now(self) -> int:
        """Wall clock, UTC ns."""

    def monotonic(self) -> int:
        """A clock that never goes back, ns."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def uniform(self) -> float:
        """A number from [0, 1)."""


class SystemClock:
    """The machine's."""

    def now(self) -> int:  # noqa: D102
        return time.time_ns()

    def monotonic(self) -> int:  # noqa: D102
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:  # noqa: D102
        time.sleep(seconds)

    def uniform(self) -> float:  # noqa: D102
        return random.random()  # noqa: S311  (jitter)


class Refused(Exception):  # noqa: N818
    """The broker answered: no."""

    def __init__(self, reason: Reason, message: str, wait: float = 0.0):
        super().__init__(message)
        self.reason = reason
        self.wait = wait


class Unanswered(Exception):  # noqa: N818
    """No answer that says what happened: time-out, lost connection, a fault of the broker's, or garbage."""


class NotSent(Unanswered):
    """The circuit breaker kept the call here."""


class OneHost(requests.Session):
    """A session for one address: no proxy, no redirect, nothing from the environment, never without time-out."""

    def __init__(self, there: Endpoint, timeout: float):
        super().__init__()
        self.there = there
        self.timeout = timeout
        self.trust_env = False
        self.fence: Callable[[], None] = lambda: None

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Look at the address once more, and for what changes something whether it is still ours to; then send."""
        verify_address(self.there, str(request.url))
        if request.method != "GET":
            self.fence()
        options.update(timeout=self.timeout, allow_redirects=False, proxies={}, verify=True)
        response = super().send(request, **options)
        if 300 <= response.status_code < 400:
            raise UnsafeBroker(
                f"the broker redirects (HTTP {response.status_code}): orders go to {self.there.rest} only"
            )
        return response


class AlpacaBroker:
    """The port to Alpaca's paper account, or to the test exchange. One thread each: make two for two threads."""

    def __init__(
        self,
        there: Endpoint,
        keys: Keys,
        params: Params | None = None,
        limits: guard.Params | None = None,
        clock: Clock | None = None,
        fence: Callable[[], None] = lambda: None,
    ):
        """`fence` is called before each request that changes something, and raises where another one may do that."""
        verify_address(there, there.rest)
        safety.keys(there.kind, keys.key_id, keys.secret)
        self.there, self.keys = there, keys
        self.params = params or Params(kind=there.kind)  # type: ignore[arg-type]
        self.limits = limits or guard.Params()
        self.clock: Clock = clock or SystemClock()
        self.breaker = guard.Breaker()
        self._lock = threading.RLock()
        self._client = TradingClient(keys.key_id, keys.secret, paper=True, raw_data=True, url_override=there.rest)
        self._client._retry = 0  # its own retries would send a POST twice
        self._client._session.close()
        self._client._session = OneHost(there, self.params.timeout_seconds)
        self._client._session.fence = fence

    def __repr__(self) -> str:
        return f"AlpacaBroker({self.there.rest})"

    def close(self) -> None:
        """Let the connections go."""
        self._client._session.close()

    # Orders.

    def submit(self, order: OrderRequest) -> OrderState | Refusal:
        """Place an order once. STATE_UNKNOWN when time ran out before the broker said what became of it."""
        refusal = _off_grid(order)
        if refusal is not None:
            return refusal
        body = _body(order)
        patience = self.params.exit_seconds if order.reduces else self.params.entry_seconds
        deadline = self.clock.monotonic() + int(patience * NS_PER_SECOND)
        doubtful, attempt = False, 0
        while True:
            wait = 0.0
            if doubtful or refusal is not None:
                try:
                    found = self._look(order.id) if doubtful else self.find(order.id)
                    if found is not None:
                        return adopted(order, found)
                    if refusal is not None:
                        return refusal
                except (Refused, Unanswered) as lost:
                    if self.clock.monotonic() >= deadline:
                        return Refusal(order.id, Reason.STATE_UNKNOWN, f"nobody says what became of it: {lost}")
                    attempt += 1
                    self._pause(attempt, getattr(lost, "wait", 0.0))
                    continue
            if attempt and self.clock.monotonic() >= deadline:
                reason = Reason.STATE_UNKNOWN if doubtful else Reason.BROKER_DOWN
                return Refusal(order.id, reason, f"not placed within {patience:g} s")
            try:
                attempt += 1
                return adopted(order, _state(self._call(lambda: self._client.submit_order(body))))
            except Refused as refused:
                if refused.reason is Reason.DUPLICATE:  # it was placed, though nobody heard
                    doubtful = True
                elif refused.reason is not Reason.RATE_LIMIT:
                    # another process may have placed it before, and the broker may judge its price before its id
                    refusal = Refusal(order.id, refused.reason, str(refused))
                    continue
                wait = refused.wait
                if not doubtful and self.clock.monotonic() + int(wait * NS_PER_SECOND) >= deadline:
                    return Refusal(order.id, refused.reason, str(refused))
            except NotSent as kept:
                if not order.reduces and not doubtful:
                    return Refusal(order.id, Reason.CIRCUIT_OPEN, str(kept))
            except Unanswered:
                doubtful = True
            self._pause(attempt, wait)

    def cancel(self, broker_id: str) -> Refusal | None:
        """Ask for the end of an order; None: accepted. TOO_LATE and NOT_FOUND mean there is nothing to cancel."""
        try:
            self._try(lambda: self._client.cancel_order_by_id(broker_id))
        except Refused as refused:
            return Refusal(broker_id, refused.reason, str(refused))
        except Unanswered as lost:
            return Refusal(broker_id, Reason.BROKER_DOWN, str(lost))
        return None

    def replace(self, broker_id: str, *, id: str, qty: int = 0, limit: int = 0, stop: int = 0) -> OrderState | Refusal:  # noqa: A002
        """Another quantity or price for an open order. An unanswered request is looked up, and never sent again."""
        fields: dict[str, Any] = {"client_order_id": id}
        fields.update(qty=qty) if qty else None
        fields.update(limit_price=_number(limit)) if limit else None
        fields.update(stop_price=_number(stop)) if stop else None
        refusal = Refusal(id, Reason.BROKER_DOWN, "the replacement was not taken")
        try:
            raw = self._call(lambda: self._client.replace_order_by_id(broker_id, ReplaceOrderRequest(**fields)))
            return _state(raw)
        except Refused as refused:
            refusal = Refusal(id, refused.reason, str(refused))
            if refused.reason is not Reason.DUPLICATE:
                return refusal
        except NotSent as kept:
            return Refusal(id, Reason.CIRCUIT_OPEN, str(kept))
        except Unanswered:
            pass  # what follows looks it up
        try:
            found = self._look(id)
        except (Refused, Unanswered) as lost:
            return Refusal(id, Reason.STATE_UNKNOWN, str(lost))
        return replacement(broker_id, found, refusal)

    # What stands there. These raise Unanswered when the broker does not answer, TradingStopped when it lets nobody in.

    def find(self, id: str) -> OrderState | None:  # noqa: A002
        """The order of this content id, legs and all; None if there is none."""
        try:
            found = _state(self._try(lambda: self._client.get_order_by_client_id(id)))
        except Refused as refused:
            if refused.reason is Reason.NOT_FOUND:
                return None
            raise
        return self.order(found.broker_id) or found  # only the read by the broker's id tells the legs

    def order(self, broker_id: str) -> OrderState | None:
        """The order of the broker's id, legs and all; None if there is none."""
        nested = GetOrderByIdRequest(nested=True)
        try:
            return _state(self._try(lambda: self._client.get_order_by_id(broker_id, nested)))
        except Refused as refused:
            if refused.reason is Reason.NOT_FOUND:
                return None
            raise

    def open_orders(self) -> list[OrderState]:
        """All open orders, legs on their own, oldest first."""
        return self._listed(QueryOrderStatus.OPEN, None, nested=False)

    def orders_since(self, ts: int) -> list[OrderState]:
        """All orders submitted after an instant, legs below their parents, oldest first."""
        return self._listed(QueryOrderStatus.ALL, ts, nested=True)

    def executions(self, broker_ids: Sequence[str], since: int) -> Mapping[str, list[Execution]]:
        """The fills of these orders, from the list of account activities."""
        wanted = {broker_id: [] for broker_id in broker_ids}  # type: dict[str, list[Execution]]
        token = ""
        while True:
            query: dict[str, Any] = {"direction": "desc", "page_size": 100}
            query.update(after=wire.stamp(since)) if since else None
            query.update(page_token=token) if token else None
            page = self._try(lambda query=query: self._client.get("/account/activities/FILL", query))  # type: ignore[misc]
            for raw in page:
                if raw["order_id"] in wanted:
                    wanted[raw["order_id"]].append(wire.activity(raw))
            if len(page) < 100:
                return wanted
            token = str(page[-1]["id"])

    def positions(self) -> list[BrokerPosition]:
        """What is held, in order of symbol."""
        found = [wire.position(raw) for raw in self._try(self._client.get_all_positions)]
        return sorted(found, key=lambda held: held.symbol)

    def account(self) -> BrokerAccount:
        """The account's totals and whether it may trade."""
        return wire.account(self._try(self._client.get_account))

    # How a call is made.

    def _look(self, id: str) -> OrderState | None:  # noqa: A002
        """An order whose answer was lost: found, or not there after several looks."""
        for look in range(LOOKS):
            found = self.find(id)
            if found is not None:
                return found
            if look < LOOKS - 1:
                self._pause(look, 0.0)
        return None

    def _listed(self, status: QueryOrderStatus, after: int | None, *, nested: bool) -> list[OrderState]:
        """Page by page towards the past; the instant between two pages is read twice, for orders that share it."""
        found: dict[str, OrderState] = {}
        until: datetime | None = None
        since = None if after is None else datetime.fromtimestamp(after // NS_PER_SECOND, UTC)
        while True:
            query = GetOrdersRequest(status=status, limit=PAGE, nested=nested, after=since, until=until)
            page = [_state(raw) for raw in self._try(lambda query=query: self._client.get_orders(query))]  # type: ignore[misc]
            fresh = [order for order in page if order.broker_id not in found]
            found.update((order.broker_id, order) for order in fresh)
            if len(page) < PAGE or not fresh:
                return sorted(found.values(), key=lambda order: (order.submitted, order.broker_id))
            oldest = min(order.submitted for order in page) // 1_000 + 2  # microseconds, rounded up past it
            until = datetime.fromtimestamp(oldest // 1_000_000, UTC).replace(microsecond=oldest % 1_000_000)

    def _try(self, call: Callable[[], Any]) -> Any:
        """A call that may be repeated: reads, and cancelling."""
        for attempt in range(TRIES):
            try:
                return self._call(call)
            except Refused as refused:
                if refused.reason is not Reason.RATE_LIMIT or attempt == TRIES - 1:
                    raise
                self._pause(attempt, refused.wait)
            except NotSent:
                raise
            except Unanswered:
                if attempt == TRIES - 1:
                    raise
                self._pause(attempt, 0.0)
        raise AssertionError("unreachable")

    def _call(self, call: Callable[[], Any]) -> Any:
        """One request, one outcome: what was answered, or Refused, or Unanswered. The library's exceptions end here."""
        with self._lock:
            passes, self.breaker = guard.passes(self.limits, self.breaker, self.clock.monotonic())
            if not passes:
                raise NotSent("the broker failed too often; the circuit breaker is open")
            outcome = self._outcome(call)
            if isinstance(outcome, Unanswered):
                self.breaker = guard.failed(self.limits, self.breaker, self.clock.monotonic())
            else:
                self.breaker = guard.answered(self.breaker)
        if isinstance(outcome, Refused) and outcome.reason is Reason.UNAUTHORIZED:
            raise TradingStopped(outcome.reason, f"the broker does not let us in: {outcome}")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _outcome(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except APIError as error:
            response = error.response
            status = int(response.status_code) if response is not None else 500
            message = self.keys.scrub(str(error))[:500]
            reason = meaning(status, message)
            if reason is Reason.BROKER_DOWN:
                return Unanswered(f"HTTP {status}")
            wait = _wait(response.headers, self.clock.now()) if response is not None else 0.0
            return Refused(reason, f"HTTP {status}: {message}", wait)
        except UnsafeBroker:
            raise
        except (requests.RequestException, ValueError) as error:
            return Unanswered(type(error).__name__)  # its text may hold anything that was sent

    def _pause(self, attempt: int, at_least: float) -> None:
        self.clock.sleep(at_least + guard.delay(attempt, BASE_SECONDS, CAP_SECONDS, self.clock.uniform()))


def _state(raw: Any) -> OrderState:
    """An order; an answer that is none says nothing of what happened."""
    try:
        return wire.order_state(raw)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise Unanswered(f"the answer is no order ({type(error).__name__})") from None


def _wait(headers: Mapping[str, str], now: int) -> float:
    """Seconds until the rate limit lets us go on, at most a minute."""
    try:
        if "Retry-After" in headers:
            return min(max(float(headers["Retry-After"]), 0.0), 60.0)
        reset = float(headers.get("X-Ratelimit-Reset", 0.0))
    except ValueError:
        return 1.0
    return min(max(reset - now / NS_PER_SECOND, 0.0), 60.0) if reset else 1.0


def _off_grid(order: OrderRequest) -> Refusal | None:
    """Prices of a dollar and more go by the cent; the broker would refuse others."""
    for price in (order.price if order.kind is not Kind.MARKET else 0, order.take_profit, order.stop_loss):
        if price >= TICKS_PER_USD and price % TICKS_PER_CENT:
            return Refusal(order.id, Reason.SUB_PENNY, f"price {wire.usd(price)}: want whole cents")
    return None


def _body(order: OrderRequest) -> MarketOrderRequest | LimitOrderRequest:
    fields: dict[str, Any] = {
        "symbol": order.symbol,
        "qty": order.qty,
        "side": OrderSide.BUY if order.side is Side.BUY else OrderSide.SELL,
        "time_in_force": TimeInForce.DAY,
        "client_order_id": order.id,
    }
    if order.shape is not Shape.SINGLE:
        fields["take_profit"] = TakeProfitRequest(limit_price=_number(order.take_profit))
        fields["stop_loss"] = StopLossRequest(stop_price=_number(order.stop_loss))
    if order.shape is Shape.OCO:
        return LimitOrderRequest(**fields, order_class=OrderClass.OCO)
    if order.shape is Shape.BRACKET:
        fields["order_class"] = OrderClass.BRACKET
    if order.kind is Kind.LIMIT:
        return LimitOrderRequest(**fields, limit_price=_number(order.price))
    if order.kind is Kind.STOP:
        raise ValueError(f"order {order.id}: a stop goes out as a leg, never alone")
    return MarketOrderRequest(**fields)


def _number(ticks: int) -> float:
    return float(wire.usd(ticks))
