"""Through the unmodified official client, against the exchange: an order is placed once, whatever is lost."""

import pytest

from broker import guard, wire
from broker.alpaca import LOOKS, TRIES, Refused, Unanswered
from broker.exchange import Asset
from broker.port import OrderState, Refusal, TradingStopped
from schemas.events import Kind, Leg, Reason, Side
from tests.broker.rooms import Fault, Quick, entry, exit_, oco, once, order_id, posts, quick, trading


def placed(server):
    """Parents at the exchange."""
    return [order for order in server.exchange.orders.values() if not order.parent]


def test_a_bracket_carries_both_legs_and_our_id():
    with trading() as (server, broker):
        state = broker.submit(entry())
        assert isinstance(state, OrderState)
        assert (state.client_id, state.shape, state.qty) == (order_id(), "bracket", 5)
        assert sorted((leg.kind, leg.limit_price, leg.stop_price) for leg in state.legs) == [
            ("limit", 1_957_000, 0), ("stop", 0, 1_871_500),
        ]  # fmt: skip
        assert [order.time_in_force if hasattr(order, "time_in_force") else "day" for order in placed(server)] == [
            "day"
        ]


def test_the_client_is_the_official_one_with_a_time_out():
    with trading() as (_, broker):
        assert type(broker._client).__module__ == "alpaca.trading.client"
        assert broker._client._retry == 0
        assert broker._client._session.timeout == 5.0


def hasty(fault):
    """A short time-out only where it is meant to run out: machines are slow at times."""
    return quick(timeout_seconds=0.4 if fault and fault.kind == "slow" else 5.0)


UNCERTAIN = [Fault("drop"), Fault("slow", value=3.0), Fault("status", value=500), Fault("status", value=503),
             Fault("status", value=504), Fault("garbage")]  # fmt: skip


@pytest.mark.parametrize("fault", UNCERTAIN, ids=lambda fault: f"{fault.kind}{fault.value:g}")
def test_an_order_that_was_accepted_unheard_is_looked_up_not_sent_again(fault):
    with trading(params=hasty(fault)) as (server, broker):
        server.faults = once(fault)
        state = broker.submit(entry())
        assert state.client_id == order_id()
        assert len(state.legs) == 2
        assert posts(server) == 1
        assert len(placed(server)) == 1


@pytest.mark.parametrize("fault", [Fault("drop", after=False), Fault("status", after=False, value=504)],
                         ids=["drop", "504"])  # fmt: skip
def test_an_order_that_never_arrived_is_sent_again_after_looking(fault):
    with trading() as (server, broker):
        server.faults = once(fault)
        assert isinstance(broker.submit(entry()), OrderState)
        assert posts(server) == 2
        assert len(placed(server)) == 1
        between = server.requests[1:-1]
        assert between == [("GET", "/v2/orders:by_client_order_id")] * LOOKS


def test_the_same_order_twice_is_one_order():
    with trading() as (server, broker):
        first, second = broker.submit(entry()), broker.submit(entry())
        assert first.broker_id == second.broker_id
        assert len(placed(server)) == 1


@pytest.mark.parametrize("other", [entry(qty=4), entry(target=2_000_000), entry(stop=1_700_000), exit_()])
def test_another_order_under_our_id_stops_trading(other):
    with trading() as (server, broker):
        broker.submit(entry())
        mine = type(other)(order_id(), "AAPL", other.side, other.qty, other.leg, other.kind, other.price,
                           other.take_profit, other.stop_loss)  # fmt: skip
        with pytest.raises(TradingStopped, match="another under this id") as caught:
            broker.submit(mine)
        assert caught.value.reason is Reason.ORDER_CONFLICT
        assert len(placed(server)) == 1


def test_when_nothing_is_known_it_says_so_and_places_nothing_more():
    clock = Quick()
    with trading(clock=clock, params=quick(timeout_seconds=0.05, entry_seconds=3.0)) as (server, broker):
        server.faults = lambda method, path: Fault("drop", after=method == "POST")
        refusal = broker.submit(entry())
        assert (refusal.reason, posts(server)) == (Reason.STATE_UNKNOWN, 1)
        server.faults = None
        assert broker.submit(entry()).client_id == order_id()  # asked again later: found
        assert len(placed(server)) == 1


def test_a_broker_that_is_not_there_is_given_up_in_time():
    clock = Quick()
    with trading(clock=clock, params=quick(entry_seconds=2.0, exit_seconds=9.0)) as (server, broker):
        server.faults = lambda method, path: Fault("status", after=False, value=503)
        assert broker.submit(entry()).reason is Reason.STATE_UNKNOWN
        waited = sum(clock.slept)
        assert 1.0 < waited < 30.0
        broker.submit(exit_())
        assert sum(clock.slept) - waited > 5.0  # an exit is tried for longer
        assert not server.exchange.orders


# Answers that are answers.


def test_without_power_to_buy():
    with trading(cash_usd=900) as (_, broker):
        assert broker.submit(entry()).reason is Reason.INSUFFICIENT_CASH


def test_a_symbol_that_is_not_tradable():
    with trading() as (server, broker):
        with server.control() as exchange:
            exchange.assets["AAPL"] = Asset(tradable=False)
        assert broker.submit(entry()).reason is Reason.NOT_TRADABLE
        assert broker.submit(entry(symbol="NONE")).reason is Reason.NOT_TRADABLE


def test_a_bracket_around_a_price_that_moved_away_is_refused_not_repaired():
    with trading() as (server, broker):
        for price in (1_871_500, 1_957_000):
            with server.control() as exchange:
                exchange.quote("AAPL", price)
            refusal = broker.submit(entry())
            assert refusal.reason is Reason.STALE_BASE
            assert "base_price" in refusal.message
        assert posts(server) == 2


def test_a_sale_of_what_is_not_held():
    with trading() as (_, broker):
        assert broker.submit(exit_()).reason is Reason.NOT_SHORTABLE


def test_shares_that_the_legs_hold_cannot_be_sold_until_these_are_cancelled():
    with trading() as (_, broker):
        legs = broker.submit(entry()).legs
        assert broker.submit(exit_()).reason is Reason.SHARES_HELD
        assert broker.cancel(legs[0].broker_id) is None
        assert broker.submit(exit_(minute=1)).status in ("new", "filled")
        assert broker.positions() == []


def test_a_wash_trade():
    with trading() as (server, broker):
        with server.control() as exchange:
            exchange.place({"symbol": "AAPL", "qty": 3, "side": "buy", "type": "market"})
            exchange.place({"symbol": "AAPL", "qty": 1, "side": "buy", "type": "limit", "limit_price": 100})
        assert broker.submit(exit_(qty=1)).reason is Reason.WASH_TRADE


def test_the_fourth_day_trade_of_a_small_account():
    with trading(cash_usd=20_000) as (server, broker):
        server.exchange.day_trades = 3
        assert broker.submit(entry()).reason is Reason.PATTERN_DAY_TRADER


def test_prices_off_the_grid_are_refused_here_and_there():
    with trading() as (server, broker):
        assert broker.submit(entry(target=1_957_050)).reason is Reason.SUB_PENNY
        assert posts(server) == 0
        status, body = server.exchange.place({"symbol": "AAPL", "qty": 1, "side": "buy", "type": "limit",
                                              "limit_price": "190.123"})  # fmt: skip
        assert (status, body["code"]) == (422, 42210000)


def test_a_fraction_of_a_share_cannot_even_be_asked_for():
    with trading() as (server, _):
        status, body = server.exchange.place({"symbol": "AAPL", "qty": "0.5", "side": "buy", "type": "market"})
        assert (status, "fractionable" in body["message"]) == (422, True)


@pytest.mark.parametrize("status", [401, 403])
def test_being_shut_out_stops_trading(status):
    with trading() as (server, broker):
        server.faults = once(Fault("status", after=False, value=status), times=9)
        with pytest.raises(TradingStopped) as caught:
            broker.submit(entry())
        assert caught.value.reason is Reason.UNAUTHORIZED
        assert posts(server) == 1


def test_wrong_keys_stop_trading():
    from broker.alpaca import AlpacaBroker
    from broker.safety import Keys

    with trading() as (_, broker):
        stranger = AlpacaBroker(broker.there, Keys("TESTOTHER", "x"), quick(), clock=Quick())
        with pytest.raises(TradingStopped, match="let us in"):
            stranger.account()
        stranger.close()


def test_the_rate_limit_is_waited_for_and_the_order_sent_once_more():
    clock = Quick(uniform=0.0)
    with trading(clock=clock, params=quick(entry_seconds=90.0)) as (server, broker):
        server.rate = 1
        broker.account()
        assert server.requests == [("GET", "/v2/account")]
        server.faults = lambda method, path: setattr(server, "rate", 100_000 if clock.slept else 1)
        assert isinstance(broker.submit(entry()), OrderState)
        assert posts(server) == 2
        assert len(placed(server)) == 1
        assert 0.0 < clock.slept[0] <= 60.0  # until the window of a minute ends


def test_an_entry_does_not_outwait_its_patience():
    clock = Quick(uniform=0.0)
    with trading(clock=clock, params=quick(entry_seconds=0.5)) as (server, broker):
        server.faults = once(Fault("status", after=False, value=429), times=9)  # without a word on when: a second
        assert broker.submit(entry()).reason is Reason.RATE_LIMIT
        assert (posts(server), clock.slept) == (1, [])


def test_the_client_never_retries_by_itself():
    with trading() as (server, broker):
        server.faults = once(Fault("status", after=False, value=429), times=1)
        with pytest.raises(Refused):
            broker._call(broker._client.get_account if False else lambda: broker._client.post("/orders", {}))
        assert posts(server) == 1


# The breaker.


def test_a_failing_broker_is_left_alone_and_then_probed():
    clock = Quick()
    limits = guard.Params(breaker_failures=5)
    with trading(clock=clock, limits=limits) as (server, broker):
        server.faults = lambda method, path: Fault("status", after=False, value=503)
        with pytest.raises(Unanswered):
            broker.account()
        with pytest.raises(Unanswered):
            broker.account()
        seen = len(server.requests)
        assert seen == 5
        assert broker.submit(entry()).reason is Reason.CIRCUIT_OPEN
        with pytest.raises(Unanswered):
            broker.positions()
        assert len(server.requests) == seen  # nothing went out
        server.faults = None
        clock.ahead += 31_000_000_000
        assert isinstance(broker.submit(entry()), OrderState)


def test_an_exit_waits_for_the_breaker():
    clock = Quick()
    with trading(clock=clock, limits=guard.Params(breaker_failures=1)) as (server, broker):
        legs = broker.submit(entry()).legs
        broker.cancel(legs[0].broker_id)
        server.faults = once(Fault("status", after=False, value=503), method="GET", path="/v2/account")
        with pytest.raises(Unanswered):
            broker.account()
        assert broker.submit(entry(minute=9)).reason is Reason.CIRCUIT_OPEN
        assert broker.submit(exit_()).status in ("new", "filled")
        assert sum(clock.slept) > 25.0


@pytest.mark.parametrize("status", [400, 404, 422])
def test_refusals_do_not_open_it(status):
    with trading(limits=guard.Params(breaker_failures=1)) as (server, broker):
        server.faults = once(Fault("status", after=False, value=status))
        assert isinstance(broker.submit(entry()), Refusal)
        assert isinstance(broker.submit(entry()), OrderState)


# Cancel, replace, lists.


def test_cancelling_twice_and_too_late():
    with trading() as (server, broker):
        with server.control() as exchange:
            exchange.quote("AAPL", 1_900_000, 0)
        state = broker.submit(entry())
        assert broker.cancel(state.broker_id) is None
        assert broker.cancel(state.broker_id).reason is Reason.TOO_LATE
        assert broker.cancel("5b3e0b6d-0000-4000-8000-000000000000").reason is Reason.NOT_FOUND
        assert [leg.status for leg in broker.order(state.broker_id).legs] == ["canceled", "canceled"]


@pytest.mark.parametrize("fault", [None, *UNCERTAIN], ids=lambda fault: fault and f"{fault.kind}{fault.value:g}")
def test_a_replacement_is_made_once(fault):
    with trading(params=hasty(fault)) as (server, broker):
        leg = next(leg for leg in broker.submit(entry()).legs if leg.kind == "limit")
        server.faults = once(fault, method="PATCH") if fault else None
        new = broker.replace(leg.broker_id, id=order_id(0, "AAPL", "take_profit"), limit=2_000_000)
        assert (new.limit_price, new.replaces) == (2_000_000, leg.broker_id)
        assert sum(1 for method, _ in server.requests if method == "PATCH") == 1
        assert server.exchange.orders[leg.broker_id].status == "replaced"


def test_a_replacement_that_comes_too_late():
    with trading() as (_, broker):
        state = broker.submit(entry())
        assert broker.replace(state.broker_id, id="paper|x", qty=9).reason is Reason.TOO_LATE


def test_a_pair_protects_what_is_held():
    with trading() as (server, broker):
        with server.control() as exchange:
            exchange.quote("AAPL", 1_900_000, 2)
        parent = broker.submit(entry())
        broker.cancel(parent.broker_id)
        state = broker.submit(oco(qty=2))
        assert (state.shape, state.kind, state.limit_price) == ("oco", "limit", 1_957_000)
        assert broker.submit(oco(qty=2)).broker_id == state.broker_id
        with server.control() as exchange:
            exchange.quote("AAPL", 1_800_000)
        assert broker.positions() == []


def test_more_orders_than_fit_on_a_page():
    with trading(cash_usd=1_000_000) as (server, broker):
        with server.control() as exchange:
            for k in range(1_203):
                exchange.now += k % 2  # many share an instant
                exchange.place({"symbol": "AAPL", "qty": 1, "side": "buy", "type": "limit", "limit_price": "1.00",
                                "client_order_id": f"n{k}"})  # fmt: skip
        listed = broker.open_orders()
        assert {order.client_id for order in listed} == {f"n{k}" for k in range(1_203)}
        assert [order.submitted for order in listed] == sorted(order.submitted for order in listed)


def test_more_fills_than_fit_on_a_page():
    with trading(cash_usd=1_000_000) as (server, broker):
        with server.control() as exchange:
            exchange.quote("AAPL", 10_000, 0)
            exchange.place({"symbol": "AAPL", "qty": 250, "side": "buy", "type": "market", "client_order_id": "n"})
            for _ in range(250):
                exchange.quote("AAPL", 10_000, 1)
        order = exchange.by_client["n"]
        assert len(broker.executions([order], 0)[order]) == 250


def test_reads_are_repeated_and_then_given_up():
    with trading(params=quick(timeout_seconds=0.4)) as (server, broker):
        server.faults = once(Fault("garbage"), method="GET", path="/v2/positions", times=2)
        assert broker.positions() == []
        server.requests.clear()
        server.faults = lambda method, path: Fault("slow", value=3.0)
        with pytest.raises(Unanswered):
            broker.account()
        assert len(server.requests) == TRIES


def test_account_and_positions_in_ticks():
    with trading() as (_, broker):
        broker.submit(entry())
        account, held = broker.account(), broker.positions()
        assert (account.cash, account.equity, account.blocked) == (990_500_000, 1_000_000_000, False)
        assert [(p.symbol, p.qty, p.cost, p.price) for p in held] == [("AAPL", 5, 9_500_000, 1_900_000)]
        assert wire.usd(account.buying_power) == "99050.00"


def test_requests_that_make_no_sense_cannot_be_built():
    good = entry()
    for wrong in ({"qty": 0}, {"id": ""}, {"id": "x" * 129}, {"stop_loss": 0}, {"take_profit": 0}):
        fields = {name: getattr(good, name) for name in good.__struct_fields__}
        with pytest.raises(ValueError, match="order"):
            type(good)(**{**fields, **wrong})


def test_a_lone_stop_is_never_sent():
    with trading() as (server, broker):
        order = type(entry())("paper|x|y|exit", "AAPL", Side.SELL, 1, Leg.EXIT, Kind.STOP, 1_000_000)
        with pytest.raises(ValueError, match="goes out as a leg"):
            broker.submit(order)
        assert server.requests == []
