"""The same calls through Alpaca's client over HTTP and in the process: the account cannot tell which it is."""

from functools import partial

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from broker.exchange import Exchange
from broker.port import Broker, OrderState, Refusal
from broker.simulated import SimulatedBroker
from tests.broker.rooms import entry, exit_, oco, order_id, trading

WHAT = ["enter", "again", "exit", "pair", "cancel", "replace", "price", "thin"]
CALLS = st.lists(
    st.tuples(st.sampled_from(WHAT), st.integers(0, 9)),
    min_size=1, max_size=12,
)  # fmt: skip


def act(broker: Broker, control, what, k, price):
    """One call's answer, in words."""
    if what in ("enter", "again"):
        return broker.submit(entry(k + 1, price, 0 if what == "again" else k))
    if what == "exit":
        return broker.submit(exit_(k + 1, k, price=price))
    if what == "pair":
        return broker.submit(oco(k + 1, price, k))
    listed = broker.open_orders()
    if what == "cancel":
        return broker.cancel(listed[k % len(listed)].broker_id) if listed else None
    if what == "replace":
        limits = [order for order in listed if order.kind == "limit"]
        return (
            broker.replace(limits[0].broker_id, id=order_id(k, leg="take_profit"), limit=2_500_000) if limits else None
        )
    control(k)
    return None


def told(answer):
    """An order is answered as before its fill or as after it: only what does not change is compared."""
    if isinstance(answer, OrderState):
        return (answer.client_id, answer.broker_id, answer.qty, answer.shape, sorted(leg.kind for leg in answer.legs))
    return (answer.reason, answer.id) if isinstance(answer, Refusal) else answer


@given(CALLS)
@example(calls=[("enter", 0), ("replace", 0), ("enter", 0)])  # sent again after a leg was replaced: still ours
@example(calls=[("enter", 0), ("price", 0), ("enter", 0)])  # another bracket under the same id: not ours
@example(calls=[("enter", 0), ("replace", 0), ("replace", 0)])  # an order cannot take its own place
def test_over_the_wire_and_in_the_process_are_alike(calls):
    here = Exchange()
    here.quote("AAPL", 1_900_000)
    simulated = SimulatedBroker(here)
    with trading() as (server, remote):
        prices = [1_900_000, 1_900_000]

        def move(exchange, side, what, k):
            prices[side] = prices[side] * (97 + k % 7) // 10_000 * 100
            exchange.quote("AAPL", prices[side], k % 4 if what == "thin" else None)

        def over_there(k):
            with server.control() as exchange:
                move(exchange, 0, what, k)

        for what, k in calls:
            answers = []
            for side, broker, control in (
                (0, remote, over_there),
                (1, simulated, partial(move, here, 1, what)),
            ):
                try:
                    answers.append(told(act(broker, control, what, k, prices[side])))
                except Exception as error:
                    answers.append(type(error).__name__)
            assert answers[0] == answers[1]
        assert msgspec.json.encode(remote.orders_since(0)) == msgspec.json.encode(simulated.orders_since(0))
        assert remote.open_orders() == simulated.open_orders()
        assert remote.positions() == simulated.positions()
        assert remote.account() == simulated.account()
        ids = list(here.orders)
        assert remote.executions(ids, 0) == simulated.executions(ids, 0)


def test_events_are_handed_on():
    heard = []
    exchange = Exchange()
    exchange.quote("AAPL", 1_900_000)
    SimulatedBroker(exchange, heard.extend).submit(entry())
    assert [event["event"] for event in heard] == ["pending_new", "new", "fill", "new"]
