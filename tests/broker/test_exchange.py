"""The exchange behaves as Alpaca's contract says, for the official client too."""

import asyncio
import warnings
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.exchange import Exchange
from broker.exchange_server import ExchangeServer
from broker.safety import Keys
from tests.broker.rooms import KEYS, trading, until
from tests.broker.test_progress import history

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderClass, OrderSide, TimeInForce
    from alpaca.trading.requests import MarketOrderRequest, StopLossRequest, TakeProfitRequest
    from alpaca.trading.stream import TradingStream


def bracket(qty=4, target="103.00", stop="97.00", **more):
    return {"symbol": "A", "qty": qty, "side": "buy", "type": "market", "time_in_force": "day",
            "order_class": "bracket", "take_profit": {"limit_price": target}, "stop_loss": {"stop_price": stop},
            **more}  # fmt: skip


@pytest.fixture
def exchange():
    exchange = Exchange()
    exchange.quote("A", 1_000_000)
    return exchange


def states(exchange):
    """By kind: of the entry and its legs."""
    return {("entry" if not o.parent else o.kind): o.status for o in exchange.orders.values()}


def events(exchange):
    return [(event["event"], event["order"]["type"]) for event in exchange.events]


def test_a_bracket_sleeps_until_its_entry_is_complete(exchange):
    exchange.quote("A", 1_000_000, 3)
    status, body = exchange.place(bracket())
    assert (status, body["status"], [leg["status"] for leg in body["legs"]]) == (200, "new", ["held", "held"])
    assert states(exchange) == {"entry": "partially_filled", "limit": "held", "stop": "held"}
    exchange.quote("A", 900_000, 0)
    assert states(exchange)["stop"] == "held"  # through the stop, and nothing protects the three
    exchange.quote("A", 1_000_000)
    assert states(exchange) == {"entry": "filled", "limit": "new", "stop": "held"}
    assert events(exchange) == [("pending_new", "market"), ("new", "market"), ("partial_fill", "market"),
                                ("fill", "market"), ("new", "limit")]  # fmt: skip


@pytest.mark.parametrize(
    ("price", "end", "cash"),
    [(1_040_000, {"limit": "filled", "stop": "canceled"}, 160_000), (960_000, {"limit": "canceled", "stop": "filled"},
                                                                    -160_000)],
)  # fmt: skip
def test_one_leg_ends_the_other(exchange, price, end, cash):
    exchange.place(bracket())
    exchange.quote("A", price)
    assert states(exchange) == {"entry": "filled", **end}
    assert exchange.cash - exchange.initial_cash == cash
    assert exchange.held == {}


def test_a_triggered_stop_without_takers_stays_open(exchange):
    exchange.place(bracket())
    exchange.quote("A", 960_000, 0)
    assert states(exchange) == {"entry": "filled", "limit": "canceled", "stop": "held"}
    exchange.quote("A", 990_000, 3)  # a market order by now, whatever the price
    exchange.quote("A", 980_000)
    assert states(exchange) == {"entry": "filled", "limit": "canceled", "stop": "filled"}
    assert exchange.held == {}


def test_a_partly_filled_target_shrinks_the_stop(exchange):
    exchange.place(bracket())
    exchange.quote("A", 1_040_000, 3)
    stop = next(order for order in exchange.orders.values() if order.kind == "stop")
    assert (stop.qty, stop.status) == (1, "held")
    exchange.quote("A", 960_000)
    assert exchange.held == {}


def test_a_cancel_with_a_partial_fill_takes_the_legs_along(exchange):
    exchange.quote("A", 1_000_000, 1)
    _, body = exchange.place(bracket())
    assert exchange.cancel(body["id"]) == (204, None)
    assert states(exchange) == {"entry": "canceled", "limit": "canceled", "stop": "canceled"}
    assert exchange.held == {"A": 1}


def test_one_cancelled_leg_ends_the_other(exchange):
    _, body = exchange.place(bracket())
    exchange.cancel(body["legs"][0]["id"])
    assert states(exchange) == {"entry": "filled", "limit": "canceled", "stop": "canceled"}


@pytest.mark.parametrize("wins", [True, False])
def test_a_fill_may_win_over_a_cancel(exchange, wins):
    exchange.cancel_lag = True
    exchange.quote("A", 1_000_000, 0)
    _, body = exchange.place(bracket())
    assert exchange.cancel(body["id"])[0] == 204
    assert states(exchange)["entry"] == "pending_cancel"
    if wins:
        exchange.quote("A", 1_000_000)
    exchange.settle()
    assert states(exchange)["entry"] == ("filled" if wins else "canceled")


def test_a_cancel_may_be_refused(exchange):
    exchange.cancel_lag = True
    exchange.quote("A", 1_000_000, 0)
    _, body = exchange.place(bracket())
    exchange.cancel(body["id"])
    exchange.refuse_cancels()
    assert states(exchange)["entry"] == "new"
    assert events(exchange)[-1] == ("order_cancel_rejected", "market")


def test_in_a_fast_market_both_legs_may_fill(exchange):
    _, body = exchange.place(bracket())
    for leg in body["legs"]:
        exchange.fill(leg["id"], 4, 1_000_000)
    assert exchange.held == {"A": -4}
    assert exchange.position("A")["side"] == "short"


def test_outside_hours_an_order_waits_and_at_the_close_it_expires(exchange):
    exchange.close_market()
    _, body = exchange.place(bracket())
    assert body["status"] == "accepted"
    exchange.quote("A", 1_000_000)
    assert exchange.fills == []
    exchange.open_market()
    assert states(exchange)["entry"] == "filled"
    exchange.close_market()
    assert states(exchange) == {"entry": "filled", "limit": "expired", "stop": "expired"}


def test_an_id_is_used_once_for_good(exchange):
    _, body = exchange.place(bracket(client_order_id="x"))
    exchange.cancel(body["legs"][0]["id"])
    exchange.close_position("A")
    assert exchange.place(bracket(client_order_id="x")) == (
        422, {"code": 40010001, "message": "client_order_id must be unique"}
    )  # fmt: skip
    assert exchange.place(bracket(client_order_id="y" * 129))[0] == 422


REFUSED = [
    (bracket(qty=0), "qty must be > 0"),
    (bracket(qty="1.5"), "not fractionable"),
    (bracket(target="96.00"), "must be > stop_loss"),
    (bracket(target="100.00"), ">= base_price"),
    (bracket(stop="100.00"), "<= base_price"),
    (bracket(stop="97.001"), "sub-penny"),
    (bracket(symbol="B"), "not found"),
    (bracket(type="stop", stop_price="99"), "market or limit"),
    ({**bracket(), "side": "sell"}, "entry orders"),
    ({**bracket(), "take_profit": None}, "require take_profit"),
    ({**bracket(), "order_class": "mleg"}, "not supported"),
    ({"symbol": "A", "qty": 1, "side": "buy", "type": "limit"}, "require their price"),
    ({"symbol": "A", "qty": 1, "side": "buy", "type": "market", "limit_price": 1}, "require their price"),
    ({"symbol": "A", "qty": 1, "side": "sell", "type": "market"}, "sold short"),
    ({"symbol": "A"}, "invalid parameters"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_alpaca_refuses_is_refused(exchange, body, message):
    status, answer = exchange.place(body)
    assert status == 422
    assert message in answer["message"]
    assert exchange.orders == {}


def test_power_to_buy_counts_orders_on_their_way():
    exchange = Exchange(cash_usd=1_000)
    exchange.quote("A", 1_000_000, 0)
    assert exchange.place(bracket(qty=6))[0] == 200
    status, body = exchange.place(bracket(qty=5))
    assert (status, body["message"], body["buying_power"]) == (403, "insufficient buying power", "400.00")


def test_a_position_is_closed_once_its_legs_are_gone(exchange):
    _, body = exchange.place(bracket())
    status, answer = exchange.close_position("A")
    assert (status, "insufficient qty" in answer["message"]) == (403, True)
    exchange.cancel(body["legs"][1]["id"])
    assert exchange.close_position("A")[0] == 200
    assert exchange.close_position("A")[0] == 404


def test_what_an_entry_has_filled_belongs_to_its_legs(exchange):
    """Sold elsewhere, they would be sold once more when the entry is complete and its stop is reached."""
    exchange.quote("A", 1_000_000, 1)
    _, body = exchange.place(bracket(qty=2))
    assert (exchange.orders[body["id"]].filled, exchange.held) == (1, {"A": 1})
    status, answer = exchange.close_position("A")
    assert (status, answer["message"]) == (403, "insufficient qty available for order (requested: 1, available: 0)")
    exchange.cancel(body["id"])
    assert exchange.close_position("A")[0] == 200
    exchange.quote("A", 950_000)
    assert exchange.held == {}


@pytest.mark.parametrize("status", ["pending_new", "accepted", "pending_cancel", "filled", "canceled"])
def test_a_replacement_is_not_taken_in_between(exchange, status):
    exchange.quote("A", 1_000_000, 0)
    _, body = exchange.place(bracket())
    exchange.orders[body["id"]].status = status
    assert exchange.replace(body["id"], {"qty": 9})[0] == 422


def test_a_replaced_leg_still_belongs_to_its_family(exchange):
    _, body = exchange.place(bracket())
    _, new = exchange.replace(body["legs"][1]["id"], {"stop_price": "98.00"})
    assert (new["replaces"], new["stop_price"]) == (body["legs"][1]["id"], "98.00")
    exchange.quote("A", 980_000)
    assert {o.id: o.status for o in exchange.orders.values()}[new["id"]] == "filled"
    assert exchange.held == {}


@given(st.data())
def test_the_ledger_adds_up_whatever_happens(data):
    exchange = history(data.draw)
    paid = sum((1 if fill.side == "buy" else -1) * fill.qty * fill.price for fill in exchange.fills)
    assert exchange.cash == exchange.initial_cash - paid
    assert sum(exchange.held.values()) == sum((1 if f.side == "buy" else -1) * f.qty for f in exchange.fills)
    for order in exchange.orders.values():
        mine = [fill for fill in exchange.fills if fill.order_id == order.id]
        assert (order.filled, order.cost) == (sum(f.qty for f in mine), sum(f.qty * f.price for f in mine))
        assert order.filled <= order.qty
        assert (order.status == "filled") == (order.left == 0)
    assert min(exchange.held.values(), default=0) >= 0
    assert min((fill.qty for fill in exchange.fills), default=1) > 0


@pytest.mark.parametrize(("room", "fills"), [(0, []), (1, [1]), (2, [1, 1]), (5, [2, 3]), (None, [4, 4])])
def test_an_order_in_two_parts_has_no_empty_one(room, fills):
    exchange = Exchange(partial_one_in=1)
    exchange.quote("AAPL", 1_900_000, room)
    exchange.place({"symbol": "AAPL", "qty": 8, "side": "buy", "type": "market"})
    assert [fill.qty for fill in exchange.fills] == fills


@given(st.data())
def test_the_same_calls_give_the_same_answers(data):
    """Ids too: nothing in here throws dice."""
    choices = []

    class Replay:
        def __init__(self):
            self.at = 0

        def __call__(self, strategy):
            if self.at == len(choices):
                choices.append(data.draw(strategy))
            self.at += 1
            return choices[self.at - 1]

    first, second = history(Replay()), history(Replay())
    assert first.events == second.events
    assert first.fills == second.fills


# Through the official client, in its typed mode.


def client(server):
    return TradingClient(KEYS.key_id, KEYS.secret, paper=True, url_override=server.url)


def test_the_official_client_understands_every_answer():
    with trading() as (server, _):
        official = client(server)
        order = official.submit_order(MarketOrderRequest(
            symbol="AAPL", qty=3, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, order_class=OrderClass.BRACKET,
            client_order_id="mine", take_profit=TakeProfitRequest(limit_price=200.0),
            stop_loss=StopLossRequest(stop_price=180.0),
        ))  # fmt: skip
        assert len(order.legs) == 2
        assert official.get_order_by_client_id("mine").filled_avg_price == "190"
        assert official.get_order_by_id(order.id).status.value == "filled"
        assert {o.status.value for o in official.get_orders()} == {"new", "held"}
        assert official.get_account().status.value == "ACTIVE"
        assert Decimal(official.get_open_position("AAPL").cost_basis) == 570
        assert official.get_asset("AAPL").tradable
        assert official.get_clock().is_open
        assert official.cancel_orders()
        assert official.close_position("AAPL").side is OrderSide.SELL
        assert official.get_all_positions() == []
        official._session.close()


def test_closing_everything_at_once():
    with trading() as (server, _):
        official = client(server)
        with server.control() as exchange:
            exchange.quote("A", 1_000_000)
            exchange.place(bracket())
        answers = official.close_all_positions(cancel_orders=False)
        assert [answer.status for answer in answers] == [403]  # the legs hold the shares
        assert [answer.status for answer in official.close_all_positions(cancel_orders=True)] == [200]
        assert official.get_all_positions() == []
        official._session.close()


def test_the_official_stream_understands_every_update():
    seen = []

    async def heard(update):
        seen.append(update)

    with trading() as (server, _):
        stream = TradingStream(
            KEYS.key_id, KEYS.secret, paper=True, url_override=f"ws://127.0.0.1:{server.port}/stream"
        )
        stream.subscribe_trade_updates(heard)

        async def run():
            task = asyncio.ensure_future(stream._run_forever())
            while not server._streams:
                await asyncio.sleep(0.01)
            with server.control() as exchange:
                exchange.quote("A", 1_000_000)
                exchange.place(bracket())
            while len(seen) < 4:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await stream.close()

        asyncio.run(asyncio.wait_for(run(), 10.0))
    assert [str(getattr(u.event, "value", u.event)) for u in seen[:4]] == ["pending_new", "new", "fill", "new"]
    assert (seen[2].qty, seen[2].price, seen[2].position_qty) == (4.0, 100.0, 4.0)


def test_the_exchange_takes_dummy_keys_only():
    with pytest.raises(ValueError, match="dummy keys"):
        ExchangeServer(Exchange(), Keys("PKREAL", "s"))


def test_the_rate_is_counted_and_told():
    with trading() as (server, broker):
        server.rate = 2
        server._used = 0
        session = broker._client._session
        headers = {"APCA-API-KEY-ID": KEYS.key_id, "APCA-API-SECRET-KEY": KEYS.secret}
        answers = [session.get(f"{server.url}/v2/account", headers=headers) for _ in range(4)]
        seen = [answer.status_code for answer in answers]
        assert seen in ([200, 200, 429, 429], [200, 429, 200, 200], [200, 200, 200, 200], [200, 200, 429, 200],
                        [200, 200, 200, 429])  # fmt: skip  # a minute may end in between
        assert {"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"} <= set(answers[-1].headers)


def test_a_taken_port_is_an_error_at_once():
    with trading() as (server, _), pytest.raises(OSError, match="address"):  # noqa: SIM117
        with ExchangeServer(Exchange(), KEYS, port=server.port):
            raise AssertionError("unreachable")
    assert until(lambda: True)
