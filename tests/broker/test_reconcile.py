"""Each difference alone: what it is called, what repairs it, whether it halts."""

from broker.port import BrokerPosition, OrderState
from broker.reconcile import Difference, OpenOrder, Repair, reconcile
from schemas.events import Side
from tests.broker.rooms import ACCOUNT, order_id

LOT = {"A": (5, 5_000_000)}
THERE = [BrokerPosition("A", 5, 5_000_000, 1_000_000)]


def state(client_id=None, broker_id="b1", symbol="A", side=Side.BUY, qty=5, filled=0, status="new", shape="bracket"):
    return OrderState(broker_id, client_id or order_id(0, symbol), symbol, side, qty, filled, 0, status, "market",
                      shape, 0, 0, 1, 1)  # fmt: skip


def ours(broker_id="b1", filled=0, symbol="A", order=None):
    return OpenOrder(order or order_id(0, symbol), broker_id, symbol, Side.BUY, filled)


def found(held=None, orders=(), positions=(), there=()):
    return [(f.difference, f.repair, f.halts) for f in reconcile(ACCOUNT, held or {}, orders, positions, there)]


def test_no_difference():
    assert found(LOT, [ours()], THERE, [state()]) == []
    assert found({"A": (0, 0)}, [], [BrokerPosition("A", 0, 0, 0)], []) == []


def test_missing_here():
    assert found({}, [], THERE) == [(Difference.MISSING_HERE, Repair.NONE, True)]


def test_missing_there():
    assert found(LOT) == [(Difference.MISSING_THERE, Repair.ZERO, True)]


def test_quantity():
    assert found({"A": (4, 4_000_000)}, [], THERE) == [(Difference.QUANTITY, Repair.NONE, True)]
    assert found({"A": (-5, 5_000_000)}, [], THERE) == [(Difference.QUANTITY, Repair.NONE, True)]


def test_price_at_exactly_its_tolerance():
    assert found({"A": (5, 5_000_500)}, [], THERE) == []
    assert found({"A": (5, 5_000_501)}, [], THERE) == [(Difference.PRICE, Repair.NONE, False)]


def test_order_missing_here():
    assert found({}, [], [], [state()]) == [(Difference.ORDER_MISSING_HERE, Repair.REPORT, False)]


def test_order_missing_there():
    assert found({}, [ours()]) == [(Difference.ORDER_MISSING_THERE, Repair.REPORT, False)]
    assert found({}, [ours("")]) == [(Difference.ORDER_MISSING_THERE, Repair.REPORT, False)]


def test_an_order_in_doubt_that_is_there():
    assert found({}, [ours("")], [], [state()]) == [(Difference.ORDER_MISSING_HERE, Repair.REPORT, False)]


def test_an_order_that_is_further_there():
    assert found({}, [ours()], [], [state(filled=2, status="partially_filled")]) == [
        (Difference.ORDER_DIFFERS, Repair.REPORT, False)
    ]


def test_an_order_that_is_not_ours():
    assert found({}, [], [], [state("by hand", shape="simple")]) == [(Difference.UNKNOWN_ORDER, Repair.NONE, True)]
    assert found(LOT, [], THERE, [state("by hand", side=Side.SELL, shape="simple")]) == [
        (Difference.UNKNOWN_ORDER, Repair.NONE, True)
    ]


def test_an_orphan_leg():
    leg = state("made by the broker", side=Side.SELL)
    assert found({}, [], [], [leg]) == [(Difference.ORPHAN_LEG, Repair.CANCEL, False)]
    assert found(LOT, [], THERE, [leg]) == []  # it protects
    waiting = state(status="new")
    assert found({}, [ours()], [], [waiting, state("x", "b2", side=Side.SELL, status="held")]) == []


def test_shares_that_a_missing_report_explains_do_not_halt():
    differing = [ours()]
    there = [state(filled=5, status="partially_filled", qty=9)]
    assert found({}, differing, THERE, there) == [
        (Difference.MISSING_HERE, Repair.NONE, False), (Difference.ORDER_DIFFERS, Repair.REPORT, False),
    ]  # fmt: skip
    assert found(LOT, [ours("b9")], []) == [
        (Difference.MISSING_THERE, Repair.NONE, False), (Difference.ORDER_MISSING_THERE, Repair.REPORT, False),
    ]  # fmt: skip


def test_nested_legs_are_seen_and_closed_ones_are_not():
    leg = state("x", "b2", side=Side.SELL, status="new")
    parent = state(status="filled", filled=5)
    nested = OrderState(*(getattr(parent, name) for name in parent.__struct_fields__[:-1]), (leg,))
    assert found({}, [], [], [nested]) == [(Difference.ORPHAN_LEG, Repair.CANCEL, False)]
    assert found({}, [], [], [parent]) == []


def test_everything_comes_in_order_of_symbol():
    orders = [ours("q", symbol="Z"), ours("r", symbol="B")]
    found = reconcile(ACCOUNT, {"C": (1, 1), "A": (1, 1)}, orders, [BrokerPosition("B", 1, 1, 1)], [])
    assert [f.symbol for f in found] == ["A", "B", "C", "B", "Z"]
