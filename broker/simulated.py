"""The port to an exchange in the same process: no wire between, so nothing is lost; for dry runs and for comparison."""

from collections.abc import Callable, Mapping, Sequence

from broker import wire
from broker.adoption import adopted, replacement
from broker.answers import meaning
from broker.exchange import Answer, Exchange
from broker.port import (
    BrokerAccount,
    BrokerPosition,
    Execution,
    OrderRequest,
    OrderState,
    Refusal,
    Shape,
)
from schemas.events import Kind, Reason, Side


class SimulatedBroker:
    """A `Broker` whose answers are those of an `Exchange`, at once."""

    def __init__(self, exchange: Exchange, told: Callable[[list[dict[str, object]]], None] | None = None):
        self.exchange = exchange
        self.told = told  # takes the events of each call, as the stream would tell them

    def submit(self, order: OrderRequest) -> OrderState | Refusal:
        """Place it; an order that is there already is that order."""
        body: dict[str, object] = {
            "symbol": order.symbol, "qty": order.qty, "side": "buy" if order.side is Side.BUY else "sell",
            "type": "market" if order.kind is Kind.MARKET else "limit", "time_in_force": "day",
            "client_order_id": order.id,
        }  # fmt: skip
        if order.shape is not Shape.SINGLE:
            body["order_class"] = order.shape.name.lower()
            body["take_profit"] = {"limit_price": wire.usd(order.take_profit)}
            body["stop_loss"] = {"stop_price": wire.usd(order.stop_loss)}
        if order.kind is Kind.LIMIT and order.shape is not Shape.OCO:
            body["limit_price"] = wire.usd(order.price)
        refusal = self._refusal(order.id, self.exchange.place(body))
        found = self.find(order.id)
        if found is None:
            return refusal or Refusal(order.id, Reason.NOT_FOUND, "the exchange has lost it")
        return adopted(order, found)

    def cancel(self, broker_id: str) -> Refusal | None:
        """Ask for an order's end."""
        return self._refusal(broker_id, self.exchange.cancel(broker_id))

    def replace(self, broker_id: str, *, id: str, qty: int = 0, limit: int = 0, stop: int = 0) -> OrderState | Refusal:  # noqa: A002
        """Another quantity or price for an open order."""
        body: dict[str, object] = {"client_order_id": id}
        given = {"qty": qty, "limit_price": limit and wire.usd(limit), "stop_price": stop and wire.usd(stop)}
        body.update((name, value) for name, value in given.items() if value)
        refusal = self._refusal(id, self.exchange.replace(broker_id, body))
        found = self.find(id) if refusal is None or refusal.reason is Reason.DUPLICATE else None
        return replacement(broker_id, found, refusal or Refusal(id, Reason.NOT_FOUND, "the exchange has lost it"))

    def find(self, id: str) -> OrderState | None:  # noqa: A002
        """The order of this content id."""
        broker_id = self.exchange.by_client.get(id)
        return None if broker_id is None else self.order(broker_id)

    def order(self, broker_id: str) -> OrderState | None:
        """The order of this broker's id."""
        order = self.exchange.orders.get(broker_id)
        return None if order is None else wire.order_state(self.exchange.shown(order, nested=True))

    def open_orders(self) -> list[OrderState]:
        """All that can still be filled, legs on their own."""
        return self._listed("open", 0, nested=False)

    def orders_since(self, ts: int) -> list[OrderState]:
        """All submitted after an instant, legs below their parents."""
        return self._listed("all", ts, nested=True)

    def executions(self, broker_ids: Sequence[str], since: int) -> Mapping[str, list[Execution]]:
        """The single fills of these orders."""
        fills = [wire.activity(raw) for raw in self.exchange.activities(since, descending=True)]
        return {broker_id: [fill for fill in fills if fill.broker_id == broker_id] for broker_id in broker_ids}

    def positions(self) -> list[BrokerPosition]:
        """What is held, in order of symbol."""
        return [wire.position(self.exchange.position(symbol)) for symbol in sorted(self.exchange.held)]

    def account(self) -> BrokerAccount:
        """Cash and equity."""
        return wire.account(self.exchange.account())

    def _listed(self, status: str, after: int, *, nested: bool) -> list[OrderState]:
        rows = self.exchange.listed(
            status, len(self.exchange.orders), after, 0, descending=False, nested=nested, symbols=set()
        )
        return [wire.order_state(raw) for raw in rows]

    def _refusal(self, id: str, answer: Answer) -> Refusal | None:  # noqa: A002
        events, self.exchange.events = self.exchange.events, []
        if self.told is not None and events:
            self.told(events)
        status, body = answer
        return None if status < 400 else Refusal(id, meaning(status, str(body)), f"HTTP {status}: {body['message']}")
