"""Orders of the log become the exchange's, once, and what becomes of them comes back: the service between the two."""

import time

import pytest

from broker import safety
from broker.port import TradingStopped
from dataflows.execution_reports import Undelivered
from schemas.events import Leg
from tests.broker.executing import cancels, floor, slice_of, until
from tests.broker.rooms import Fault, entry, exit_, oco, once, order_id, posts


@pytest.fixture
def place(kafka, tmp_path):
    with floor(kafka, tmp_path) as one:
        yield one


def is_flat(place):
    return until(lambda: not place.exchange.held and place.agrees())


def test_a_round_trip(place, monkeypatch):
    """An entry with its legs, an exit that ends them and sells."""
    with place.serving(monkeypatch):
        place.write(entry())
        assert until(lambda: place.exchange.held == {"AAPL": 5} and place.agrees())
        assert until(lambda: place.said().get(order_id(leg="take_profit")) == "new")
        place.write(exit_(minute=1))
        assert is_flat(place)
    assert place.said() == {
        order_id(): "filled", order_id(leg="take_profit"): "canceled", order_id(leg="stop_loss"): "canceled",
        exit_(minute=1).id: "filled",
    }  # fmt: skip
    assert len(place.ids()) == len(set(place.ids()))
    assert posts(place.server) == 2
    fills = [one for one in place.reports() if one.qty]
    assert [(one.qty, one.cost, one.filled_cost) for one in fills] == [(5, 9_500_000, 9_500_000)] * 2


def test_what_is_settled_is_not_sent_again(place, monkeypatch):
    place.write(entry(), entry(minute=3, symbol="MSFT"))
    with place.serving(monkeypatch):
        assert until(lambda: place.exchange.held == {"AAPL": 5, "MSFT": 5} and place.agrees())
    before = place.ids()
    with place.serving(monkeypatch) as room:
        assert until(lambda: room.updates.connected.is_set() and room.desk.is_idle)
        place.write(entry(), exit_(minute=5))  # delivered twice: still one order
        assert until(lambda: place.exchange.held == {"MSFT": 5} and place.agrees())
    assert place.ids()[: len(before)] == before
    assert posts(place.server) == 3


def test_an_entry_that_was_decided_too_long_ago_is_answered_and_not_sent(place, monkeypatch):
    place.write(entry(), entry(minute=5, symbol="MSFT"))
    place.slice(slice_of(order_id(8)))
    with place.serving(monkeypatch) as room:
        assert until(lambda: place.exchange.held == {"MSFT": 5} and place.agrees() and room.desk.is_idle)
    assert place.said()[order_id()] == ("rejected", "too_late")


def test_an_old_exit_is_sent_all_the_same(place, monkeypatch):
    with place.serving(monkeypatch):
        place.write(entry())
        assert until(lambda: place.exchange.held == {"AAPL": 5} and place.agrees())
    place.write(exit_(minute=1))
    place.slice(slice_of(order_id(59)))
    with place.serving(monkeypatch):
        assert is_flat(place)


def test_of_a_leg_that_filled_meanwhile_an_exit_sells_what_is_left(place, monkeypatch):
    with place.serving(monkeypatch):
        place.write(entry())
        assert until(lambda: place.said().get(order_id(leg="take_profit")) == "new")
        with place.server.control() as exchange:
            exchange.quote("AAPL", 1_960_000, 2)  # the target takes two
        assert until(lambda: place.exchange.held == {"AAPL": 3} and place.agrees())
        place.write(exit_(minute=1))
        with place.server.control() as exchange:
            exchange.quote("AAPL", 1_900_000)
        assert is_flat(place)
    assert [one.qty for one in place.reports() if one.leg is Leg.EXIT and one.qty] == [3]


def test_an_exit_of_nothing_is_answered(place, monkeypatch):
    with place.serving(monkeypatch):
        place.write(entry())
        assert until(lambda: place.said().get(order_id(leg="take_profit")) == "new")
        with place.server.control() as exchange:
            exchange.quote("AAPL", 1_960_000)
        assert is_flat(place)
        place.write(exit_(minute=1))
        assert until(lambda: place.said().get(exit_(minute=1).id) == ("rejected", "no_position"))
    assert posts(place.server) == 1


def test_an_exit_waits_for_cancels_that_take_their_time(place, monkeypatch):
    with place.serving(monkeypatch):
        place.write(entry())
        assert until(lambda: place.said().get(order_id(leg="take_profit")) == "new")
        with place.server.control() as exchange:
            exchange.cancel_lag = True
        place.write(exit_(minute=1))
        assert until(lambda: "DELETE" in [method for method, _ in place.server.requests])
        assert posts(place.server) == 1
        with place.server.control() as exchange:
            exchange.cancel_lag = False
            exchange.settle()
        assert is_flat(place)


def test_a_partly_filled_entry_is_cancelled_and_its_shares_get_a_pair_which_an_exit_ends(place, monkeypatch):
    with place.server.control() as exchange:
        exchange.quote("AAPL", 1_900_000, 2)
    with place.serving(monkeypatch):
        place.write(entry())
        assert until(lambda: place.said().get(order_id()) == "partially_filled")
        place.write(cancels(order_id()))
        assert until(lambda: place.said().get(order_id()) == "canceled")
        place.write(oco(qty=2))
        assert until(lambda: place.said().get(order_id(leg="oco_take_profit")) == "new")
        assert place.said()[order_id(leg="oco_stop_loss")] == "held"
        with place.server.control() as exchange:
            exchange.quote("AAPL", 1_900_000)
        place.write(exit_(qty=2, minute=2))
        assert is_flat(place)
    assert place.said()[order_id(leg="oco_take_profit")] == "canceled"


def test_a_pair_whose_price_is_through_its_stop_is_rejected_for_both_legs(place, monkeypatch):
    with place.server.control() as exchange:
        exchange.quote("AAPL", 1_900_000, 2)
    with place.serving(monkeypatch):
        place.write(entry())
        assert until(lambda: place.said().get(order_id()) == "partially_filled")
        place.write(cancels(order_id()))
        assert until(lambda: place.said().get(order_id()) == "canceled")
        with place.server.control() as exchange:
            exchange.quote("AAPL", 1_800_000)
        place.write(oco(qty=2))
        for leg in ("oco_take_profit", "oco_stop_loss"):
            assert until(lambda leg=leg: place.said().get(order_id(leg=leg)) == ("rejected", "stale_base"))


def test_a_cancel_before_it_was_sent_is_answered_and_nothing_is_sent(place, monkeypatch):
    place.write(entry(), cancels(order_id()))
    with place.serving(monkeypatch):
        assert until(lambda: place.said() == {order_id(): "canceled"})
    assert posts(place.server) == 0


def test_a_cancel_of_what_is_filled_is_nothing(place, monkeypatch):
    with place.serving(monkeypatch) as room:
        place.write(entry())
        assert until(lambda: place.agrees() and place.said().get(order_id()) == "filled")
        said = place.said()
        place.write(cancels(order_id()))
        assert until(lambda: room.desk.is_idle)
        assert place.said() == said


def test_an_order_that_was_taken_although_the_answer_was_lost_is_found(place, monkeypatch):
    with place.serving(monkeypatch):
        place.server.faults = once(Fault("drop"))
        place.write(entry())
        assert until(lambda: place.exchange.held == {"AAPL": 5} and place.agrees())
    assert len(place.exchange.by_client) == 3  # the entry and its two legs


def test_an_order_that_nobody_has_after_a_while_was_never_placed(place, monkeypatch):
    with place.serving(monkeypatch) as room:
        assert until(room.ready.is_set)
        place.server.faults = lambda method, path: Fault("drop", after=False) if path.startswith("/v2/orders") else None
        place.write(entry())
        assert until(lambda: posts(place.server) >= 1)
        assert until(lambda: place.server.requests.count(("GET", "/v2/orders:by_client_order_id")) > 8)
        assert place.said() == {}  # nobody knows: the reservation stays
        place.server.faults = once(Fault("drop", after=False), times=10**6)  # reads are answered again, orders are not
        assert until(lambda: place.said() == {order_id(): ("rejected", "broker_down")}, 30.0)


GATES = [
    ("broker.dry_run=true", {}, "dry_run", True),
    ("broker.dry_run=false", {"TRADING_ENABLED": "false"}, "trading_disabled", True),
    ("broker.approval_file=/nowhere/approval", {}, "not_approved", False),
    ("guard.max_shares=4", {}, "position_capacity", False),
    ("guard.max_notional_usd=900", {}, "position_capacity", False),
    ("guard.max_total_exposure_usd=900", {}, "total_exposure", False),
    ("guard.max_symbol_exposure_usd=900", {}, "symbol_exposure", False),
]


@pytest.mark.parametrize(("given", "environ", "reason", "exits_too"), GATES)
def test_each_gate_and_each_limit_answers_with_its_reason(place, monkeypatch, given, environ, reason, exits_too):
    with place.serving(monkeypatch):
        place.write(entry(symbol="MSFT"))
        assert until(lambda: place.exchange.held == {"MSFT": 5} and place.agrees())
    place.sets = [*place.sets, given]
    monkeypatch.setattr(type(place), "environ", property(lambda one, was=place.environ: {**was, **environ}))
    with place.serving(monkeypatch):
        place.write(entry(minute=1), exit_(minute=2, symbol="MSFT"))
        assert until(lambda: place.said().get(order_id(1)) == ("rejected", reason))
        if exits_too:
            assert until(lambda: place.said().get(order_id(2, "MSFT", "exit")) == ("rejected", reason))
        else:
            assert is_flat(place)


def test_limits_on_the_rate_outlive_a_restart(place, monkeypatch):
    with place.serving(monkeypatch, "guard.cooldown_seconds=900"):
        place.write(entry())
        assert until(lambda: place.said().get(order_id(leg="take_profit")) == "new")
        with place.server.control() as exchange:
            exchange.now = time.time_ns()
            exchange.quote("AAPL", 1_960_000)
        assert is_flat(place)
        place.write(entry(minute=1, price=1_960_000))
        assert until(lambda: place.said().get(order_id(1)) == ("rejected", "cooldown"))


def test_a_revocation_acts_before_the_next_order(place, monkeypatch):
    with place.serving(monkeypatch):
        place.write(entry())
        assert until(lambda: place.exchange.held == {"AAPL": 5} and place.agrees())
        safety.revoke(place.settings().broker, issuer="bob", now=1)
        place.write(entry(minute=1, symbol="MSFT"))
        assert until(lambda: place.said().get(order_id(1, "MSFT")) == ("rejected", "revoked"))


def test_being_shut_out_ends_the_process(place, monkeypatch):
    with place.serving(monkeypatch) as room:
        assert until(room.ready.is_set)
        place.server.faults = once(Fault("status", after=False, value=401))
        place.write(entry())
        assert until(lambda: not room.thread.is_alive())
        (error,) = room.raised
        assert isinstance(error, TradingStopped)


def test_more_entries_than_may_wait_are_answered(place, monkeypatch):
    place.write(*(entry(minute=k, symbol=symbol) for k in (0, 1) for symbol in ("AAPL", "MSFT")))
    with place.serving(monkeypatch, "broker.queue=2"):
        assert until(lambda: len([one for one in place.said().values() if one == ("rejected", "queue_full")]) == 2)
        assert until(lambda: place.exchange.held == {"AAPL": 5, "MSFT": 5} and place.agrees())


def test_orders_of_another_account_are_not_ours(place, monkeypatch):
    other = entry(minute=1)
    with place.serving(monkeypatch, "run.account=other") as room:
        place.write(other)
        assert until(room.ready.is_set)
    with place.serving(monkeypatch):
        place.write(entry(symbol="MSFT"))
        assert until(lambda: "MSFT" in place.exchange.held and place.agrees())
    assert posts(place.server) == 2


def test_after_a_report_that_was_not_written_none_is(place, monkeypatch):
    """Another thread must not write what comes after it: the next start would take the lost one for told."""
    with place.serving(monkeypatch) as room:
        assert until(room.ready.is_set)
        written = room.log.deliver
        monkeypatch.setattr(room.log, "deliver", lambda told: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            room.desk.deliver([])
        monkeypatch.setattr(room.log, "deliver", written)
        with pytest.raises(Undelivered):
            room.desk.deliver([])
