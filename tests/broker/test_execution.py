"""Orders of the log become the exchange's, once, and what becomes of them comes back: the service between the two."""

import pytest

from broker.port import leg_id
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
