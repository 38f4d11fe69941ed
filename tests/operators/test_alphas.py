"""The alphas: examples to check by hand, and slow models that must vote alike."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import ema_cross, macd, rsi
from operators.alphas import ALPHAS
from operators.indicators import strength_index
from operators.kernel import table
from schemas.events import Direction
from tests.operators.frames import bars

LOW, MIDDLE, HIGH = -1, 0, 1
seeds = st.integers(0, 2**32)


def votes(module, closes, **params):
    """The votes of a fresh alpha on one symbol's closes."""
    return module.step(module.Params(**params), module.start(), bars(closes))[1].vote.tolist()


def walk(seed, size=400):
    """A price that trends, turns and never repeats itself."""
    rng = np.random.default_rng(seed)
    drift = np.repeat(rng.normal(0, 0.004, size // 20 + 1), 20)[:size]
    return rng.uniform(5, 500) * np.exp(np.cumsum(drift + rng.normal(0, 0.006, size)))


# --- RSI


means = st.one_of(st.floats(0.0, 10.0), st.sampled_from([0.0, 5e-324, 1e-310, 1e-200, 3.0, 7.0]))


@given(zone=st.sampled_from([LOW, MIDDLE, HIGH]), gain=means, loss=means, bits=st.integers(-3, 3))
@pytest.mark.parametrize("bound", [None, 30.0, 35.0, 65.0, 70.0])
def test_rsi_a_zone_that_surely_stays_is_not_left(zone, gain, loss, bits, bound):
    """What is told without dividing is what the index says, also some bits beside a bound."""
    if bound is not None:
        gain = abs(loss * bound / (100.0 - bound) + bits * np.spacing(loss))
    rows = table(rsi.Row, 1)
    rows[0].zone, rows[0].trend, rows[0].until, rows[0].seen = zone, 7, 8, 9
    before = rows.tobytes()
    if rsi.stays(zone, gain, loss):
        rsi.move(rows[0], strength_index(gain, loss), 14)
        assert rows.tobytes() == before


@pytest.mark.parametrize(("zone", "index", "answer"), [
    (MIDDLE, 50.0, True), (MIDDLE, 30.1, True), (MIDDLE, 69.9, True), (MIDDLE, 29.9, False), (MIDDLE, 70.1, False),
    (HIGH, 65.1, True), (HIGH, 100.0, True), (HIGH, 64.9, False), (HIGH, 10.0, False),
    (LOW, 34.9, True), (LOW, 0.0, True), (LOW, 35.1, False), (LOW, 90.0, False),
])  # fmt: skip
def test_rsi_most_bars_need_no_division(zone, index, answer):
    assert rsi.stays(zone, index, 100.0 - index) == answer


def test_rsi_overbought_is_a_downward_view_that_fades():
    # two gains of 1 in a row: no loss, so the index is 100 from the third bar on
    answer = votes(rsi, [10, 11, 12, 12, 12, 12], period=2, life=3)
    assert answer == [0, 0, -1, -2 / 3, -1 / 3, 0]


def test_rsi_oversold_is_an_upward_view():
    assert votes(rsi, [12, 11, 10, 10, 10, 10], period=2, life=3) == [0, 0, 1, 2 / 3, 1 / 3, 0]


def test_rsi_falling_back_to_67_stays_high_so_the_next_rise_is_nothing_new():
    # mean gain, loss: (1, 0) -> (.5, .25): 66.7 -> (.75, .125): 85.7
    assert votes(rsi, [10, 11, 12, 11.5, 12.5, 12.5], period=2, life=2) == [0, 0, -1, -0.5, 0, 0]


def test_rsi_falling_back_to_50_leaves_high_so_the_next_rise_is_a_new_view():
    # (1, 0) -> (.5, .5): 50 -> (.75, .25): 75
    assert votes(rsi, [10, 11, 12, 11, 12, 12], period=2, life=2) == [0, 0, -1, -0.5, -1, -0.5]


def test_rsi_of_a_frozen_price_sees_nothing():
    assert not any(votes(rsi, [33.33] * 200))


@pytest.mark.parametrize(
    ("zone", "index", "after", "begins"),
    [
        (MIDDLE, 70.0, MIDDLE, False), (MIDDLE, 70.01, HIGH, True),
        (MIDDLE, 30.0, MIDDLE, False), (MIDDLE, 29.99, LOW, True),
        (HIGH, 65.0, HIGH, False), (HIGH, 64.99, MIDDLE, False), (HIGH, 80.0, HIGH, False), (HIGH, 20.0, LOW, True),
        (LOW, 35.0, LOW, False), (LOW, 35.01, MIDDLE, False), (LOW, 10.0, LOW, False), (LOW, 80.0, HIGH, True),
    ],
)  # fmt: skip
def test_rsi_zones_have_a_margin(zone, index, after, begins):
    row = table(rsi.Row, 1)[0]
    row.zone, row.seen = zone, 20
    rsi.move(row, index, 14)
    assert row.zone == after
    expected = {HIGH: Direction.SHORT, LOW: Direction.LONG}[after] if begins else 0
    assert (row.trend, row.until) == (expected, 34 if begins else 0)


def slow_rsi(closes, period=14, life=14):
    """Section 7 and ruling 19, on whole lists."""
    answer, zone, view = [], "MIDDLE", (0, 0)
    moves = [b - a for a, b in pairwise(closes)]
    gains, losses = [max(m, 0.0) for m in moves], [max(-m, 0.0) for m in moves]
    for i in range(len(closes)):
        if i >= period:
            gain, loss = sum(gains[:period]) / period, sum(losses[:period]) / period
            for g, l in zip(gains[period:i], losses[period:i], strict=True):  # noqa: E741
                gain, loss = (gain * (period - 1) + g) / period, (loss * (period - 1) + l) / period
            index = 50.0 if gain == loss == 0 else 100.0 * gain / (gain + loss)
            before = zone
            if index > 70:
                zone = "HIGH"
            elif index < 30:
                zone = "LOW"
            elif (before == "LOW" and index > 35) or (before == "HIGH" and index < 65):
                zone = "MIDDLE"
            if zone != before and zone != "MIDDLE":
                view = (1 if zone == "LOW" else -1, i + life)
        answer.append(faded(view, i, life))
    return answer


def faded(view, i, life):
    """Direction × what is left of a view's life."""
    direction, until = view
    return direction * max(until - i, 0) / life


# --- EMA cross: averages of 1 and 3 bars, so that alpha is 1 and 1/2 and all numbers are exact


def test_ema_cross_upward_holds_for_its_life():
    # slow: 8, 8, 12 (price 16 over it), 14, 15, 15.5
    assert votes(ema_cross, [8, 8, 8, 8, 16, 16, 16, 16], fast=1, slow=3, life=3) == [
        0, 0, 0, 0, 1, 2 / 3, 1 / 3, 0,
    ]  # fmt: skip


def test_ema_cross_counts_the_first_warm_bar_as_a_crossing():
    assert votes(ema_cross, [8, 8, 8, 16], fast=1, slow=3, life=3) == [0, 0, 0, 1]


def test_ema_cross_downward_needs_the_fast_one_to_have_been_over():
    assert votes(ema_cross, [8, 8, 8, 4, 4], fast=1, slow=3, life=3) == [0] * 5
    # slow: 12, then 8 with the price at 4 under it
    assert votes(ema_cross, [8, 8, 8, 16, 4, 4], fast=1, slow=3, life=3) == [0, 0, 0, 1, -1, -2 / 3]


def test_ema_cross_equality_clears_the_flag():
    # bar 5: price 12, slow 12; so bar 6 crosses upward again ..
    assert votes(ema_cross, [8, 8, 8, 16, 12, 16], fast=1, slow=3, life=4) == [0, 0, 0, 1, 0.75, 1]
    # .. and a fall from equality is no crossing
    assert votes(ema_cross, [8, 8, 8, 16, 12, 10], fast=1, slow=3, life=4) == [0, 0, 0, 1, 0.75, 0.5]


def test_ema_cross_of_a_frozen_price_sees_nothing():
    seen = [cents for cents in range(101, 20_000, 37) if any(votes(ema_cross, [cents / 100] * 60))]
    assert seen == []


def slow_ema(values, n):
    """Exponential means, seeded by the simple mean of the first n; None before."""
    answer = [None] * (n - 1) + [sum(values[:n]) / n]
    for value in values[n:]:
        answer.append(answer[-1] + (value - answer[-1]) * 2 / (n + 1))
    return answer[: len(values)]


def slow_ema_cross(closes, fast=12, slow=26, life=12):
    """Section 7 and ruling 19; the first `slow` bars only warm up."""
    quick, lazy = slow_ema(closes, fast), slow_ema(closes, slow)
    answer, over, view = [0.0] * slow, False, (0, 0)
    for i in range(slow, len(closes)):
        if over and lazy[i] > quick[i]:
            view = (-1, i + life)
        if not over and quick[i] > lazy[i]:
            view = (1, i + life)
        over = quick[i] > lazy[i]
        answer.append(faded(view, i, life))
    return answer


# --- MACD: averages of 1, 3 and signal of 3 bars: alpha is 1, 1/2 and 1/2


def test_macd_histogram_crossing_zero():
    # MACD 0, 0, 0 | 2, 0, 0, 0; signal 0 | 1, .5, .25, .125; histogram 0 | 1, -.5, -.25, -.125
    answer = votes(macd, [8, 8, 8, 8, 8, 12, 10, 10, 10], fast=1, slow=3, signal=3, life=4, form="histogram")
    assert answer == [0, 0, 0, 0, 0, 1, -1, -0.75, -0.5]


def test_macd_histogram_does_not_vote_before_slow_and_signal_bars():
    closes = [8, 8, 8, 8, 12, 13, 14]  # above zero from bar 5 on; a crossing would be known from bar 6 on
    assert votes(macd, closes, fast=1, slow=3, signal=3, life=4, form="histogram") == [0] * 7


def test_macd_signal_outside_its_band_until_it_returns():
    # signal of 1 bar is MACD itself; over the price: 4/16, 2/16, 1/16, -3.5/8
    answer = votes(macd, [8, 8, 8, 16, 16, 16, 8, 8], fast=1, slow=3, signal=1, life=4, form="signal", bounce=0.1)
    assert answer == [0, 0, 0, 1, 0.75, 0, -1, -0.75]


def test_macd_signal_at_the_bound_is_no_view():
    closes = [8, 8, 8, 16]  # 4/16
    assert votes(macd, closes, fast=1, slow=3, signal=1, form="signal", bounce=0.25)[-1] == 0
    assert votes(macd, closes, fast=1, slow=3, signal=1, form="signal", bounce=0.24)[-1] == 1


def test_macd_signal_that_stays_outside_is_one_view_only():
    closes = [2.0**k for k in range(10)]  # the MACD stays above 1 % of the price
    answer = votes(macd, closes, fast=1, slow=3, signal=1, life=2, form="signal")
    assert answer == [0, 0, 0, 1, 0.5, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("form", ["histogram", "signal"])
def test_macd_of_a_frozen_price_sees_nothing(form):
    seen = [cents for cents in range(101, 20_000, 37) if any(votes(macd, [cents / 100] * 60, form=form))]
    assert seen == []


def slow_macd(closes, form, fast=12, slow=26, signal=9, life=12, bounce=0.01):
    """Section 7, both forms, on whole lists."""
    quick, lazy = slow_ema(closes, fast), slow_ema(closes, slow)
    line = [q - z for q, z in zip(quick[slow - 1 :], lazy[slow - 1 :], strict=True)]
    signal_line = [None] * (slow - 1) + slow_ema(line, signal)
    histogram = {i: line[i - slow + 1] - signal_line[i] for i in range(slow + signal - 2, len(closes))}
    answer, trend, view = [0.0] * (slow + signal - 1), 0, (0, 0)
    for i in range(slow + signal - 1, len(closes)):
        if form == "signal":
            share = signal_line[i] / closes[i]
            now = 1 if share > bounce else -1 if share < -bounce else 0
            if now != trend:
                trend, view = now, (now, i + life)
        elif histogram[i - 1] <= 0 < histogram[i]:
            view = (1, i + life)
        elif histogram[i - 1] >= 0 > histogram[i]:
            view = (-1, i + life)
        answer.append(faded(view, i, life))
    return answer


# --- all of them

MODELS = [
    (rsi, {}, slow_rsi),
    (rsi, {"period": 2, "life": 3}, slow_rsi),
    (ema_cross, {}, slow_ema_cross),
    (ema_cross, {"fast": 3, "slow": 5, "life": 40}, slow_ema_cross),
    (macd, {"form": "histogram"}, slow_macd),
    (macd, {"form": "histogram", "fast": 2, "slow": 5, "signal": 3, "life": 5}, slow_macd),
    (macd, {"form": "signal"}, slow_macd),
    (macd, {"form": "signal", "fast": 3, "slow": 6, "signal": 2, "life": 4, "bounce": 0.002}, slow_macd),
]
each_model = pytest.mark.parametrize(("module", "params", "model"), MODELS)


@each_model
@given(seed=seeds)
def test_agrees_with_its_slow_model(module, params, model, seed):
    closes = walk(seed).tolist()
    assert votes(module, closes, **params) == model(closes, **params)


@each_model
def test_the_walks_make_it_vote_both_ways(module, params, model):
    seen = np.sign(np.concatenate([votes(module, walk(seed), **params) for seed in range(30)]))
    assert {-1, 0, 1} == set(seen.tolist())


@each_model
@given(seed=seeds, symbols=st.integers(2, 4))
def test_symbols_never_meet(module, params, model, seed, symbols):
    closes = [walk(seed + k, 120) for k in range(symbols)]
    mixed = np.random.default_rng(seed).permutation(np.repeat(np.arange(symbols), 120))
    taken = [iter(series) for series in closes]
    frame = bars([next(taken[k]) for k in mixed], slot=mixed)
    together = module.step(module.Params(**params), module.start(), frame)[1].vote
    for k in range(symbols):
        assert together[mixed == k].tolist() == votes(module, closes[k], **params)


@each_model
@given(seed=seeds, power=st.integers(-12, 12))
def test_the_price_level_does_not_matter(module, params, model, seed, power):
    closes = walk(seed, 200)
    assert votes(module, closes * 2.0**power, **params) == votes(module, closes, **params)


def test_every_registered_alpha_has_a_model():
    assert {module for module, _, _ in MODELS} == set(ALPHAS.values())


@pytest.mark.parametrize("module", [ema_cross, macd])
@pytest.mark.parametrize(("fast", "slow"), [(26, 12), (12, 12)])
def test_periods_in_the_wrong_order_are_refused(module, fast, slow):
    with pytest.raises(ValueError, match=f"fast = {fast}, slow = {slow}"):
        module.Params(fast=fast, slow=slow)
