"""What a partly filled entry needs: the broker's legs sleep until an entry is complete.

After one slice the rest of the entry is cancelled, and what was filled gets a stop and a take profit of its
own (an OCO) with the entry's two prices. A pure rule: it looks at the broker's orders and says what to do next.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

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
