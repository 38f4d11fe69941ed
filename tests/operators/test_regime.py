"""Regimes: constructed trends, and a slow exact model."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import regime
from operators.kernel import table
from operators.regime import RING, Row, seen_at
from schemas.events import Regime
from tests.operators.frames import bars
from tests.plain import plain

UNKNOWN, BULL, BEAR, SIDEWAYS = Regime.UNKNOWN, Regime.BULL, Regime.BEAR, Regime.SIDEWAYS


def regimes(closes, **params):
    """The regimes of one symbol's closes."""
    return regime.step(regime.Params(**params), regime.start(), bars(closes))[1].regime.tolist()


@pytest.mark.parametrize(
    ("closes", "last"),
    [
        ([1, 2, 4], BULL),  # means 3 and 7/3, price 4
        ([4, 2, 1], BEAR),  # 3/2 and 7/3, price 1
        ([1, 4, 2], SIDEWAYS),  # 3 over 7/3, but the price 2 is under 3
        ([4, 1, 2], SIDEWAYS),  # 3/2 under 7/3, but the price 2 is over 3/2
        ([2, 2, 2], SIDEWAYS),
        ([3, 3, 3.5], BULL),
        ([2, 3, 3], SIDEWAYS),  # the price is on the fast mean
    ],
)
def test_two_means_and_the_price_decide(closes, last):
    assert regimes(closes, fast=2, slow=3) == [UNKNOWN, UNKNOWN, last]


def test_nothing_is_known_before_fifty_bars():
    answer = regimes(np.linspace(10, 20, 60))
    assert answer == [UNKNOWN] * 49 + [BULL] * 11
    assert regimes(np.linspace(20, 10, 60)) == [UNKNOWN] * 49 + [BEAR] * 11


def walk(seed, size):
    rng = np.random.default_rng(seed)
    return rng.uniform(5, 500) * np.exp(np.cumsum(rng.normal(0, 0.01, size)))


def slow_model(closes, fast, slow, hysteresis=2):
    """Section 8.2, exact; then a change that was not seen in so many bars running is taken back."""
    raw = seen(closes, fast, slow)
    answer = raw[:slow]
    for i in range(slow, len(raw)):
        last = raw[i - hysteresis + 1 : i + 1]
        answer.append(raw[i] if len(set(last)) == 1 and UNKNOWN not in last else answer[-1])
    return answer


def seen(closes, fast, slow):
    """The regime that each bar shows by itself."""
    exact = [Fraction(close) for close in closes.tolist()]
    answer = [UNKNOWN] * min(slow - 1, len(exact))
    for i in range(slow, len(exact) + 1):
        price = exact[i - 1]
        short, long = sum(exact[i - fast : i]) / fast, sum(exact[i - slow : i]) / slow
        if short > long and price > short:
            answer.append(BULL)
        elif short < long and price < short:
            answer.append(BEAR)
        else:
            answer.append(SIDEWAYS)
    return answer


PERIODS = pytest.mark.parametrize(("fast", "slow"), [(20, 50), (2, 3), (1, 2), (RING - 1, RING), (5, 50)])


@PERIODS
@given(seed=st.integers(0, 2**32))
def test_agrees_with_its_slow_model(fast, slow, seed):
    closes = walk(seed, 220)
    for times in (1, 2, 5):
        answer = regimes(closes, fast=fast, slow=slow, hysteresis=times)
        assert answer == slow_model(closes, fast, slow, times)


def test_a_change_must_be_seen_twice_running():
    """The fall from 5 to 1 shows a bear market for one bar, the one at the end for two."""
    closes = [1, 2, 4, 5, 1, 6, 1, 0.5, 0.4]
    assert seen(np.array(closes), 2, 3)[2:] == [BULL, BULL, BEAR, SIDEWAYS, SIDEWAYS, BEAR, BEAR]
    assert regimes(closes, fast=2, slow=3)[2:] == [BULL, BULL, BULL, BULL, SIDEWAYS, SIDEWAYS, BEAR]
    assert regimes(closes, fast=2, slow=3, hysteresis=1)[2:] == seen(np.array(closes), 2, 3)[2:]
    assert regimes(closes, fast=2, slow=3, hysteresis=3)[2:] == [BULL] * 7


def test_the_walks_reach_every_regime():
    assert {code for seed in range(5) for code in regimes(walk(seed, 220))} == {UNKNOWN, BULL, BEAR, SIDEWAYS}


def test_a_frozen_price_is_sideways():
    wrong = [cents for cents in range(101, 20_000, 37) if set(regimes([cents / 100] * 130)[49:]) != {SIDEWAYS}]
    assert wrong == []


def test_a_price_that_has_come_to_rest_is_sideways():
    wrong = []
    for seed in range(100):
        moved = walk(seed, 70).round(2)
        answer = regimes(np.concatenate([moved, np.full(200, moved[-1])]))
        if set(answer[70 + 50 :]) != {SIDEWAYS}:
            wrong.append(seed)
    assert wrong == []


@given(seed=st.integers(0, 2**32))
def test_symbols_never_meet(seed):
    one, two = walk(seed, 100), walk(seed + 1, 100)
    mixed = np.stack([one, two], axis=1).reshape(-1)
    slot = np.tile([0, 1], 100)
    answer = regime.step(regime.Params(), regime.start(), bars(mixed, slot=slot))[1].regime
    assert (answer[slot == 0].tolist(), answer[slot == 1].tolist()) == (regimes(one), regimes(two))


@pytest.mark.parametrize(("fast", "slow"), [(50, 20), (20, 20)])
def test_periods_in_the_wrong_order_are_refused(fast, slow):
    with pytest.raises(ValueError, match=f"fast = {fast}, slow = {slow}"):
        regime.Params(fast=fast, slow=slow)


@given(
    origin=st.sampled_from([0.01, 33.33, 1e6]), data=st.data(),
    sums=st.tuples(*(st.one_of(st.floats(-50.0, 50.0), st.sampled_from([0.0, 1e-12, -1e-12, 2.0, 5.0])),) * 2),
    bits=st.integers(-3, 3),
)  # fmt: skip
def test_what_is_seen_is_what_the_divided_sums_say(origin, data, sums, bits):
    """Far from an edge nothing is divided; on it, and some bits beside it, the means themselves decide."""
    row = table(Row, 1)[0]
    row.origin, row.fast, row.slow = origin, *sums
    means = origin + sums[0] / 20, origin + sums[1] / 50
    close = data.draw(st.sampled_from([*means, origin, origin * 1.5, origin + 1e-10])) + bits * np.spacing(means[0])
    expected = regime.classify(close, *means)
    assert seen_at(row, close, 20, 50) == plain(seen_at)(row, close, 20, 50) == expected


@given(seed=st.integers(0, 99))
def test_means_that_are_equal_up_to_rounding_are_told_apart_as_divided(seed):
    rng = np.random.default_rng(seed)
    row = table(Row, 1)[0]
    row.origin = rng.uniform(1.0, 100.0)
    row.slow = rng.uniform(-50.0, 50.0)
    for bits in range(-4, 5):
        row.fast = row.slow / 50 * 20 + bits * np.spacing(row.slow)
        means = row.origin + row.fast / 20, row.origin + row.slow / 50
        assert seen_at(row, means[0] * 1.1, 20, 50) == regime.classify(means[0] * 1.1, *means)
