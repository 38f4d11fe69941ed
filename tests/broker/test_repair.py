"""Reconciliation against the exchange: each safe difference repaired once, each unsafe one halts entries."""

import msgspec
import pytest

from broker.port import ExecutionReport
from broker.reconcile import Difference, Repair
from dataflows.execution_reports import ReportLog
from schemas.events import Leg, Side
from schemas.records import CommandKind
from tests.broker.executing import floor, until
from tests.broker.rooms import ACCOUNT, entry, exit_, order_id


@pytest.fixture
def place(kafka, tmp_path):
    with floor(kafka, tmp_path) as one:
        yield one


def by_hand(place, side="buy", symbol="AAPL", qty=3, name="by-hand", **more):
    """Somebody trades at the broker beside us."""
    with place.server.control() as exchange:
        body = {"symbol": symbol, "qty": qty, "side": side, "type": "market", "client_order_id": name, **more}
        status, answer = exchange.place(body)
        assert status == 200, answer
        return answer["id"]


def halts(place):
    return [one for one in place.commands() if one.kind is CommandKind.REVOKE]


def runs_again(room, rounds=3):
    """Whether so many reconciliations have passed."""
    seen = len(room.rounds)
    return until(lambda: len(room.rounds) >= seen + rounds)


@pytest.fixture
def watched(place, monkeypatch):
    """A service whose reconciliations are counted."""
    from broker.repair import Reconciliation

    def serving(*more):
        rounds, run = [], Reconciliation.run

        def counted(self, **how):
            found = run(self, **how)
            rounds.append(found)
            return found

        monkeypatch.setattr(Reconciliation, "run", counted)
        context = place.serving(monkeypatch, *more)

        class Both:
            def __enter__(self):
                room = context.__enter__()
                room.rounds = rounds
                assert until(room.ready.is_set)
                return room

            def __exit__(self, *error):
                return context.__exit__(*error)

        return Both()

    return serving


def test_reports_that_the_stream_swallowed_are_told_once(place, watched):
    place.server.scramble = lambda events: []
    with watched() as room:
        place.write(entry())
        assert until(lambda: place.exchange.held == {"AAPL": 5} and place.agrees())
        with place.server.control() as exchange:
            exchange.quote("AAPL", 1_960_000)
        assert until(lambda: not place.exchange.held and place.agrees())
        assert runs_again(room)
    assert len(place.ids()) == len(set(place.ids()))
    assert halts(place) == []


def test_a_leg_without_a_position_is_cancelled(place, watched):
    by_hand(place)
    with watched() as room:  # shares that no order explains
        assert until(lambda: len(halts(place)) == 1)
        leg = by_hand(place, "sell", name=order_id(9, leg="oco_take_profit"), order_class="oco",
                      take_profit={"limit_price": "195.00"}, stop_loss={"stop_price": "187.00"})  # fmt: skip
        with place.server.control() as exchange:
            exchange.held.clear()
            exchange.cost.clear()
        assert until(lambda: place.exchange.orders[leg].status == "canceled")
        assert runs_again(room)
        assert room.rounds[-1] == []


def test_shares_that_nobody_explains_halt_entries_and_nothing_else(place, watched):
    with watched() as room:
        place.write(entry(symbol="MSFT"))
        assert until(lambda: place.exchange.held == {"MSFT": 5} and place.agrees())
        by_hand(place)
        assert until(lambda: len(halts(place)) == 1)
        place.write(entry(minute=1), exit_(minute=2, symbol="MSFT"))
        assert until(lambda: place.said().get(order_id(1)) == ("rejected", "revoked"))
        assert until(lambda: place.exchange.held == {"AAPL": 3})  # exits go on
        assert runs_again(room)
    (halt,) = halts(place)  # said once
    assert (halt.issuer, "missing_here AAPL" in halt.reason) == ("reconciliation", True)


def test_a_lost_position_is_zeroed_once_and_halts(place, watched):
    with watched() as room:
        place.write(entry())
        assert until(lambda: place.said().get(order_id(leg="take_profit")) == "new")
        with place.server.control() as exchange:
            for order in list(exchange.orders.values()):
                if order.open:
                    exchange.cancel(order.id)
            exchange.held.clear()
            exchange.cost.clear()
        assert until(lambda: len(halts(place)) == 1)
        assert runs_again(room)
        assert room.journal.held() == {}
    (gone,) = (one for one in place.reports() if one.reason)
    assert (gone.side, gone.leg, gone.qty, gone.cost) == (Side.SELL, Leg.EXIT, 5, 9_500_000)
    assert len(halts(place)) == 1


def test_another_quantity_halts(place, watched):
    with watched():
        place.write(entry())
        assert until(lambda: place.exchange.held == {"AAPL": 5} and place.agrees())
        with place.server.control() as exchange:
            exchange.held["AAPL"], exchange.cost["AAPL"] = 4, 7_600_000
        assert until(lambda: [("quantity AAPL: 5 here, 4 there" in one.reason) for one in halts(place)] == [True])


def test_a_strangers_order_halts(place, watched):
    with watched():
        by_hand(place, type="limit", limit_price="100.00")
        assert until(lambda: ["unknown_order AAPL by-hand" in one.reason for one in halts(place)] == [True])


def test_another_cost_is_said_and_does_not_halt(place, watched):
    with watched() as room:
        place.write(entry())
        assert until(lambda: place.exchange.held == {"AAPL": 5} and place.agrees())
        with place.server.control() as exchange:
            exchange.cost["AAPL"] += 5_000
        assert runs_again(room)
        assert [(f.difference, f.repair) for f in room.rounds[-1]] == [(Difference.PRICE, Repair.NONE)]
    assert halts(place) == []


def test_an_order_that_the_broker_does_not_have_at_all_halts(place, watched):
    log = ReportLog(place.where, ACCOUNT, lambda report: None)
    nowhere = "5f0c0e9e-8b9b-48a9-ba46-b9d54906e415"
    log.deliver([ExecutionReport("b9:0:new", 1, order_id(), nowhere, "AAPL", Side.BUY, Leg.ENTRY, "new", 0, 0, 0, 0)])
    log.close()
    with watched():
        assert until(lambda: ["order_missing_there" in one.reason for one in halts(place)] == [True])


def test_what_is_at_the_broker_before_the_first_order_is_seen_first(place, watched):
    by_hand(place)
    place.write(entry(minute=1))
    with watched():
        assert until(lambda: place.said().get(order_id(1)) == ("rejected", "revoked"))
    assert place.exchange.held == {"AAPL": 3}


def test_the_halt_holds_after_the_difference_is_gone(place, watched):
    with watched() as room:
        by_hand(place)
        assert until(lambda: len(halts(place)) == 1)
        by_hand(place, "sell", name="by-hand-2")
        assert until(lambda: room.rounds[-1] == [])
        place.write(entry(minute=1))
        assert until(lambda: place.said().get(order_id(1)) == ("rejected", "revoked"))


def test_an_event_keeps_what_a_report_says(place):
    told = []
    log = ReportLog(place.where, ACCOUNT, told.append)
    one = ExecutionReport("b1:2", 7, order_id(), "b1", "AAPL", Side.BUY, Leg.ENTRY, "partially_filled", 2, 3_800_001, 2,
                          3_800_001)  # fmt: skip
    two = msgspec.structs.replace(one, id="b1:5", status="filled", qty=3, cost=5, filled_qty=5, filled_cost=3_800_006)
    log.deliver([one, two])
    log.close()
    assert place.reports() == told == [one, two]


def test_the_same_report_again_is_not_written_twice(place):
    one = ExecutionReport("b1:2", 7, order_id(), "b1", "AAPL", Side.BUY, Leg.ENTRY, "new", 0, 0, 0, 0)
    for _ in range(2):
        log = ReportLog(place.where, ACCOUNT, lambda report: None)
        log.deliver([one])
        log.close()
    assert len(place.ids()) == 1
