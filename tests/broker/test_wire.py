from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import wire
from schemas.events import Side

ORDER = {
    "id": "61e69015-8549-4bfd-b9c3-01e75843f47d", "client_order_id": "paper|AAPL|20240102T150000Z|entry",
    "created_at": "2021-03-16T18:38:01.942282Z", "updated_at": "2021-03-16T14:38:01.942282123-04:00",
    "submitted_at": "2021-03-16T18:38:01.937734Z", "asset_id": "b0b6dd9d-8b9b-48a9-ba46-b9d54906e415",
    "symbol": "AAPL", "asset_class": "us_equity", "qty": "3", "filled_qty": "2", "filled_avg_price": "106.005",
    "order_class": "bracket", "order_type": "market", "type": "market", "side": "buy", "time_in_force": "day",
    "limit_price": None, "stop_price": None, "status": "partially_filled", "extended_hours": False, "legs": None,
}  # fmt: skip


def test_an_order_of_the_documentation():
    state = wire.order_state(ORDER)
    assert (state.side, state.qty, state.filled_qty, state.filled_cost) == (Side.BUY, 3, 2, 2_120_100)
    assert state.submitted == 1_615_919_881_937_734_000
    assert state.updated == 1_615_919_881_942_282_123
    assert state.open


def test_a_state_nobody_knows_is_kept_and_counts_as_open():
    state = wire.order_state({**ORDER, "status": "pending_miracle", "order_class": ""})
    assert (state.status, state.open, state.shape) == ("pending_miracle", True, "simple")


def test_legs_come_along():
    leg = {**ORDER, "id": "x", "type": "stop", "stop_price": "99.5", "side": "sell", "status": "held"}
    state = wire.order_state({**ORDER, "legs": [leg]})
    assert [(child.kind, child.stop_price, child.side) for child in state.legs] == [("stop", 995_000, Side.SELL)]


def test_a_fraction_of_a_share_is_not_ours():
    with pytest.raises(ValueError, match=r"1\.5 shares"):
        wire.order_state({**ORDER, "qty": "1.5"})


@pytest.mark.parametrize("text", ["2021-03-16", "yesterday", "2021-03-16T18:38:01"])
def test_a_time_without_a_zone_is_refused(text):
    with pytest.raises(ValueError, match="RFC 3339"):
        wire.instant(text)


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_times_go_there_and_back(ns):
    assert wire.instant(wire.stamp(ns)) == ns


@given(st.integers(0, 10**15))
def test_money_goes_there_and_back(ticks):
    assert wire.ticks(wire.usd(ticks)) == ticks
    assert Decimal(wire.usd(ticks)) * 10_000 == ticks


@given(st.integers(100, 10**9))
def test_a_number_in_a_request_is_the_price_itself(cents):
    """alpaca-py sends JSON numbers: the float's shortest form has to be the cents we mean."""
    assert wire.ticks(repr(float(wire.usd(cents * 100)))) == cents * 100


def test_a_short_position_is_negative_whatever_its_sign():
    raw = {"symbol": "A", "qty": "5", "side": "short", "cost_basis": "-10", "current_price": "2"}
    assert wire.position(raw).qty == -5
    assert wire.position({**raw, "qty": "-5"}).qty == -5
    assert wire.position({**raw, "side": "long"}).qty == 5


@pytest.mark.parametrize("block", ["trading_blocked", "account_blocked", "trade_suspended_by_user"])
def test_an_account_with_any_block_is_blocked(block):
    raw = {"account_number": "1", "status": "ACTIVE", "cash": "1", "equity": "1", "last_equity": "1",
           "buying_power": "1"}  # fmt: skip
    assert not wire.account(raw).blocked
    assert wire.account({**raw, block: True}).blocked
    assert wire.account({**raw, "status": "ACCOUNT_CLOSED"}).blocked
