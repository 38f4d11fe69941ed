from broker.port import Kind, Leg, OrderRequest, OrderState, Side
from broker.protection import Cancel, Entry, wanted
from tests.broker.rooms import entry, order_id

PARENT = entry(qty=5)
OCO = order_id(0, "AAPL", "oco_take_profit")


def state(filled, status, client_id=PARENT.id):
    return OrderState("b1", client_id, "AAPL", Side.BUY, 5, filled, 0, status, "market", "bracket", 0, 0, 1, 1)


def actions(filled, status, *, since=3, now=4, held=None, more=()):
    states = {PARENT.id: state(filled, status), **dict(more)}
    return wanted([Entry(PARENT, since)], states, {"AAPL": filled} if held is None else held, now)


def test_a_partial_entry_is_given_one_slice():
    assert actions(2, "partially_filled", now=3) == []
    assert actions(2, "partially_filled", now=4) == [Cancel("b1")]
    assert actions(2, "pending_cancel") == []  # asked already


def test_what_is_filled_gets_a_pair_with_the_entrys_prices():
    (pair,) = actions(2, "canceled")
    assert pair == OrderRequest(OCO, "AAPL", Side.SELL, 2, Leg.OCO_TAKE_PROFIT, Kind.LIMIT, PARENT.take_profit,
                                PARENT.take_profit, PARENT.stop_loss)  # fmt: skip
    assert pair.shape.name == "OCO"
    assert actions(2, "expired") == [pair]  # however it ended


def test_a_pair_is_asked_for_once_and_only_for_what_is_held():
    assert actions(2, "canceled", more={OCO: state(0, "new", OCO)}.items()) == []
    assert actions(2, "canceled", held={}) == []
    assert actions(2, "canceled", held={"AAPL": 1})[0].qty == 1


def test_a_whole_entry_or_none_needs_nothing():
    assert actions(5, "filled") == []
    assert actions(0, "new") == []
    assert actions(0, "canceled") == []
    assert wanted([Entry(PARENT, 3)], {}, {}, 9) == []
