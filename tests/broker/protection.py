"""What a partly filled entry needs: the broker's legs sleep until an entry is complete.

After one slice the rest of the entry is cancelled, and what was filled gets a stop and a take profit of its
own (an OCO) with the entry's two prices. A pure rule: it looks at the broker's orders and says what to do next.
And a watch over the exchange's own ledger: whether shares lie there without a stop for longer than a slice.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from broker.exchange import Exchange
from broker.port import OrderRequest, OrderState, leg_id
from schemas.events import Kind, Leg, Side


class Cancel(NamedTuple):
    """The rest of this entry is to be cancelled."""

    broker_id: str


class Entry(NamedTuple):
    """An entry, as the one who sent it remembers it."""

    order: OrderRequest
    filled_in: int  # the slice in which its first shares were filled, counted; -1: none yet


def wanted(
    entries: Iterable[Entry], states: Mapping[str, OrderState], held: Mapping[str, int], now: int
) -> list[Cancel | OrderRequest]:
    """Cancellations and protecting pairs due in slice `now`; `states` by content id, `held` in shares.

    Asking again before the first answer has come gives the same actions with the same ids.
    """
    actions: list[Cancel | OrderRequest] = []
    for entry in entries:
        order = entry.order
        state = states.get(order.id)
        oco = leg_id(order.id, Leg.OCO_TAKE_PROFIT)
        if state is None or not 0 < state.filled_qty < order.qty:
            continue
        if state.open:
            if now > entry.filled_in >= 0 and state.status != "pending_cancel":
                actions.append(Cancel(state.broker_id))
        elif oco not in states and held.get(order.symbol, 0) > 0:
            qty = min(state.filled_qty, held[order.symbol])
            actions.append(
                OrderRequest(
                    oco,
                    order.symbol,
                    Side.SELL,
                    qty,
                    Leg.OCO_TAKE_PROFIT,
                    Kind.LIMIT,
                    order.take_profit,
                    order.take_profit,
                    order.stop_loss,
                )
            )
    return actions


def stops(exchange: Exchange, symbol: str) -> int:
    """Shares that a live stop or an exit on its way takes care of."""
    return sum(
        order.left for order in exchange.orders.values()
        if order.symbol == symbol and order.side == "sell" and order.open and order.kind in ("stop", "market")
        and not exchange._asleep(order)
    )  # fmt: skip


class Watch:
    """Looks at the ledger at the end of each slice; an AssertionError for shares that were bare at two in a row."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.naked: Counter[str] = Counter()  # slices in a row, by symbol
        self.reached: Counter[str] = Counter()

    def close(self, slice_: object, symbols: Iterable[str], excused: Collection[str] = ()) -> None:
        """A slice ends; `excused`: the broker did not let us, or the slice was too short to do anything in it."""
        for symbol in symbols:
            held = self.exchange.held.get(symbol, 0)
            assert held >= 0, f"slice {slice_}: {symbol}: sold more than was held"
            bare = held > stops(self.exchange, symbol)
            self.naked[symbol] = self.naked[symbol] + (symbol not in excused) if bare else 0
            self.reached["bare for a slice"] += bare and symbol not in excused
            self.reached["watched"] += held > 0 and symbol not in excused
            assert self.naked[symbol] <= 1, f"slice {slice_}: {symbol}: {held} shares, {self.said(symbol)}"

    def said(self, symbol: str) -> list[str]:
        """The symbol's orders, for whoever reads a failure."""
        return [f"{order.client_id} {order.side} {order.kind} {order.shape} {order.filled}/{order.qty} {order.status}"
                for order in self.exchange.orders.values() if order.symbol == symbol]  # fmt: skip
