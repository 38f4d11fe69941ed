"""What a fill costs: against us to the tick, and never against the bracket's own logic. Prices in ticks."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.venue import base_is_stale, fill_price, friction, room, stop_raw, target_price
from schemas.events import Side

MAX_PRICE = 10_000_000 * 10_000
prices = st.integers(1, MAX_PRICE) | st.integers(1, 30_000)
slippages = st.integers(0, 1_000)
halves = st.integers(0, 10_000)
USD = 10_000
LONG, SHORT = Side.BUY, Side.SELL


def buy_price(raw, bps, half):
    return fill_price(Side.BUY, raw, bps, half)


def sale_price(raw, bps, half):
    return fill_price(Side.SELL, raw, bps, half)


def test_friction_by_hand():
    assert friction(100 * USD, 5, 0) == 500  # 5 bps of 100.00 are 0.05
    assert friction(100 * USD, 5, 200) == 700  # and half a spread of 0.04
    assert friction(100 * USD + 1, 5, 0) == 501  # 0.05000005 is a whole tick more
    assert friction(1, 1, 0) == 1
    assert friction(1, 0, 0) == 0
    assert buy_price(100 * USD, 5, 200) == 100 * USD + 700
    assert sale_price(100 * USD, 5, 200) == 100 * USD - 700


def test_a_sale_never_falls_below_a_tick():
    assert sale_price(100, 0, 98) == 2
    assert sale_price(100, 0, 99) == 1
    assert sale_price(100, 0, 100) == 1
    assert sale_price(100, 0, 5_000) == 1
    assert sale_price(1, 1_000, 0) == 1


@given(prices, slippages, halves)
def test_rounding_is_against_us_by_less_than_a_tick(raw, bps, half):
    exact = Fraction(raw * bps, 10_000) + half
    assert exact <= friction(raw, bps, half) < exact + 1
    assert buy_price(raw, bps, half) == raw + math.ceil(exact)
    assert sale_price(raw, bps, half) == max(raw - math.ceil(exact), 1)


@given(prices, slippages, halves)
def test_a_purchase_is_never_cheaper_and_a_sale_never_dearer(raw, bps, half):
    assert 1 <= sale_price(raw, bps, half) <= raw <= buy_price(raw, bps, half)


@given(prices, slippages, slippages, halves, halves)
def test_more_slippage_or_a_wider_spread_is_never_better(raw, bps, more, half, wider):
    bps, more, half, wider = *sorted((bps, more)), *sorted((half, wider))
    assert buy_price(raw, bps, half) <= buy_price(raw, more, wider)
    assert sale_price(raw, bps, half) >= sale_price(raw, more, wider)


@given(prices, prices, slippages, halves)
def test_a_dearer_market_is_dearer_for_both_sides(raw, higher, bps, half):
    raw, higher = sorted((raw, higher))
    assert buy_price(raw, bps, half) <= buy_price(higher, bps, half)
    assert sale_price(raw, bps, half) <= sale_price(higher, bps, half)


@given(prices, slippages, halves)
def test_buying_and_selling_at_once_never_pays(raw, bps, half):
    assert sale_price(raw, bps, half) - buy_price(raw, bps, half) <= -2 * min(half, (raw - 1) // 2)


@pytest.mark.parametrize(
    ("volume", "bps", "shares"),
    [
        (100.0, 10_000, 100),
        (100.5, 10_000, 100),
        (0.0, 10_000, 0),
        (0.5, 10_000, 0),
        (9_999.0, 1, 0),
        (10_000.0, 1, 1),
        (19_999.5, 1, 1),
        (300.5, 3_330, 100),  # 100.0665
        (2.0, 5_000, 1),
        (1.5, 5_000, 0),
        (1e6, 0, 0),
    ],
)
def test_room_is_floored(volume, bps, shares):
    assert room(volume, bps) == shares


@given(st.integers(0, 2 * 10**9).map(lambda halves: halves / 2), st.integers(0, 10_000))
def test_room_is_never_more_than_its_part_of_the_volume(volume, bps):
    exact = Fraction(volume) * bps / 10_000
    assert exact - 1 < room(volume, bps) <= exact


def test_a_bracket_is_stale_at_either_leg():
    assert [base_is_stale(price, 90, 110) for price in (89, 90, 91, 109, 110, 111)] == [
        *(True, True, False),
        *(False, True, True),
    ]
    assert [base_is_stale(price, 110, 90) for price in (89, 90, 91, 109, 110, 111)] == [
        *(True, True, False),
        *(False, True, True),
    ]


def test_a_stop_is_touched_at_its_price_and_filled_there_or_at_the_gap():
    assert stop_raw(LONG, 100, 120, 91, 90) == -1
    assert stop_raw(LONG, 100, 120, 90, 90) == 90
    assert stop_raw(LONG, 100, 120, 80, 90) == 90
    assert stop_raw(LONG, 90, 120, 80, 90) == 90
    assert stop_raw(LONG, 85, 120, 80, 90) == 85
    assert stop_raw(LONG, 0, 120, 0, 90) == 0  # an open below half a tick
    assert stop_raw(SHORT, 100, 109, 80, 110) == -1
    assert stop_raw(SHORT, 100, 110, 80, 110) == 110
    assert stop_raw(SHORT, 100, 120, 80, 110) == 110
    assert stop_raw(SHORT, 110, 120, 80, 110) == 110
    assert stop_raw(SHORT, 115, 120, 80, 110) == 115


def test_a_target_is_touched_at_its_price_and_filled_there_or_at_the_gap():
    assert target_price(LONG, 100, 109, 80, 110) == -1
    assert target_price(LONG, 100, 110, 80, 110) == 110
    assert target_price(LONG, 100, 120, 80, 110) == 110
    assert target_price(LONG, 110, 120, 80, 110) == 110
    assert target_price(LONG, 115, 120, 80, 110) == 115
    assert target_price(SHORT, 100, 120, 91, 90) == -1
    assert target_price(SHORT, 100, 120, 90, 90) == 90
    assert target_price(SHORT, 100, 120, 80, 90) == 90
    assert target_price(SHORT, 90, 120, 80, 90) == 90
    assert target_price(SHORT, 85, 120, 80, 90) == 85
    assert target_price(SHORT, 0, 120, 0, 90) == 1  # an open below half a tick: never for nothing


@given(prices, prices, prices, prices)
def test_legs_are_filled_within_the_bar(low, open_price, high, leg):
    low, open_price, high = sorted((low, open_price, high))
    raw, price = (act(LONG, open_price, high, low, leg) for act in (stop_raw, target_price))
    assert raw == (min(leg, open_price) if low <= leg else -1)
    assert price == (max(leg, open_price) if high >= leg else -1)
    assert raw == -1 or low <= raw <= open_price  # a stop never sells above the open, nor below the low
    assert price == -1 or open_price <= price <= high
    raw, price = (act(SHORT, open_price, high, low, leg) for act in (stop_raw, target_price))
    assert raw == (max(leg, open_price) if high >= leg else -1)
    assert price == (min(leg, open_price) if low <= leg else -1)
    assert raw == -1 or open_price <= raw <= high
    assert price == -1 or low <= price <= open_price
