"""Money against Python's unbounded integers, in Python and compiled."""

from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from operators.kernel import kernel
from schemas.units import (
    MAX_PRICE_USD,
    NS_PER_DAY,
    NS_PER_MINUTE,
    TICKS_PER_CENT,
    TICKS_PER_USD,
    share_of,
    to_cents,
    to_ticks,
    to_usd,
)

LEAST, MOST = -(2**63), 2**63 - 1
amounts = st.integers(LEAST, MOST) | st.integers(-100_000, 100_000)
bps = st.integers(0, 10_000)
compiled_share_of, compiled_to_cents, compiled_to_ticks = kernel(share_of), kernel(to_cents), kernel(to_ticks)


@pytest.mark.parametrize("of", [share_of, compiled_share_of], ids=["plain", "compiled"])
@given(amount=amounts, bps=bps)
@example(amount=MOST, bps=10_000)
@example(amount=MOST, bps=9_999)
@example(amount=LEAST, bps=10_000)
@example(amount=LEAST, bps=1)
@example(amount=-1, bps=1)
@example(amount=-9_999, bps=9_999)
def test_a_share_is_rounded_down_exactly(of, amount, bps):
    assert of(amount, bps) == amount * bps // 10_000


def test_a_share_in_int64_overflows_nowhere():
    """numpy's integers warn when they overflow, so every intermediate value is seen to fit."""
    for amount in (MOST, MOST - 9_999, -MOST // 2, LEAST + 10_000):
        for part in (1, 9_999, 10_000):
            with np.errstate(over="raise"):
                answer = share_of(np.int64(amount), np.int64(part))
            assert answer == amount * part // 10_000


@pytest.mark.parametrize("of", [to_cents, compiled_to_cents], ids=["plain", "compiled"])
@pytest.mark.parametrize(
    ("ticks", "cents"),
    [(0, 0), (49, 0), (50, 100), (149, 100), (150, 200), (-49, 0), (-50, 0), (-51, -100), (-150, -100),
     (1_234_567, 1_234_600)],
)  # fmt: skip
def test_the_nearest_cent_is_the_upper_of_two(of, ticks, cents):
    assert of(ticks) == cents


@given(ticks=st.integers(-(10**15), 10**15))
def test_cents_are_never_further_than_half_a_cent(ticks):
    cents = to_cents(ticks)
    assert cents % TICKS_PER_CENT == 0
    assert Fraction(cents - ticks, TICKS_PER_CENT) <= Fraction(1, 2)
    assert Fraction(ticks - cents, TICKS_PER_CENT) < Fraction(1, 2)


@pytest.mark.parametrize("of", [to_ticks, compiled_to_ticks], ids=["plain", "compiled"])
@given(ticks=st.integers(0, int(MAX_PRICE_USD) * TICKS_PER_USD))
@example(ticks=int(MAX_PRICE_USD) * TICKS_PER_USD)
def test_a_price_of_whole_ticks_comes_back(of, ticks):
    assert of(ticks / TICKS_PER_USD) == ticks


@pytest.mark.parametrize("of", [to_ticks, compiled_to_ticks], ids=["plain", "compiled"])
@given(price=st.decimals(Decimal("0.0001"), Decimal(500_000), places=5))
def test_ticks_are_the_nearest(of, price):
    exact = price * TICKS_PER_USD
    if exact % 1 == Decimal("0.5"):
        return  # either neighbour is as near
    assert of(float(price)) == int(exact.quantize(Decimal(1), ROUND_HALF_UP))


@given(ticks=st.integers(-(2**53), 2**53))
def test_usd_are_the_nearest_float(ticks):
    assert to_usd(ticks) == float(Fraction(ticks, 10_000))


def test_units_agree_with_each_other():
    assert TICKS_PER_CENT * 100 == TICKS_PER_USD == 10_000
    assert NS_PER_DAY == 1440 * NS_PER_MINUTE
    assert share_of(to_ticks(MAX_PRICE_USD), 10_000) == 10**11
