"""The kernels against values from elsewhere, and against numbers that a reader can check by hand."""

import csv
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.indicators import (
    NOTHING,
    ago,
    change,
    deviation,
    ema,
    gather,
    highest,
    lowest,
    mean,
    mean_of,
    put,
    ratio,
    rises_and_falls,
    strength_index,
    true_range,
    wilder,
)

TRUTH = Path(__file__).resolve().parents[3] / "shared" / "data" / "indicators"
needs_truth = pytest.mark.skipif(not TRUTH.is_dir(), reason=f"the reference values are not in {TRUTH}")


def columns(name):
    """A reference file by column; what is empty there is NaN."""
    with (TRUTH / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        key: np.array([float(row[key]) if row[key] else math.nan for row in rows]) for key in rows[0] if key != "date"
    }


def agrees(ours, reference, tolerance, first):
    """Our values, NaN before warm, against the reference, whose first value stands in row `first` (from 1)."""
    ours = np.array(ours)
    assert ours.size == reference.size > 200
    assert np.flatnonzero(~np.isnan(reference))[0] + 1 == first
    assert np.flatnonzero(~np.isnan(ours))[0] + 1 == first
    np.testing.assert_allclose(ours[first - 1 :], reference[first - 1 :], rtol=0, atol=tolerance)


def rolling(values, n, of, size=64):
    """`of(ring, seen, n)` after each value, NaN until n are there."""
    ring, answer = np.zeros(size), []
    for seen, value in enumerate(values, 1):
        put(ring, seen, value)
        answer.append(of(ring, seen, n) if seen >= n else math.nan)
    return np.array(answer)


def smoothed(values, n):
    """The exponential mean of the values that are there, NaN until n of them are."""
    answer, mean_, seen = [], 0.0, 0
    for value in values:
        if not math.isnan(value):
            seen += 1
            mean_ = ema(mean_, value, n, seen)
        answer.append(mean_ if seen >= n else math.nan)
    return np.array(answer)


def after(values, skipped, n, of):
    """`rolling` over what follows the first values."""
    return np.concatenate([np.full(skipped, np.nan), rolling(values[skipped:], n, of)])


@needs_truth
def test_simple_mean_agrees_with_lean():
    truth = columns("sma14.csv")
    agrees(rolling(truth["close"], 14, mean), truth["sma_14"], 1e-2, 14)


@needs_truth
@pytest.mark.parametrize(("name", "tolerance"), [("ema14_daily.csv", 1e-2), ("ema14_monthly.csv", 1e-9)])
def test_exponential_mean_agrees_with_lean(name, tolerance):
    truth = columns(name)
    agrees(smoothed(truth["close"], 14), truth["ema_14"], tolerance, 14)


@needs_truth
def test_double_exponential_mean_agrees_with_lean():
    truth = columns("dema_5.csv")
    once = smoothed(truth["close"], 5)
    agrees(2.0 * once - smoothed(once, 5), truth["dema_5"], 1e-9, 9)


@needs_truth
def test_bollinger_bands_agree_with_lean():
    truth = columns("bollinger_20_2.csv")
    close = truth["close"]
    middle = rolling(close, 20, mean)
    width = 2.0 * rolling(close, 20, lambda ring, seen, n: deviation(ring, seen, n, 0))
    agrees(middle, truth["middle_20"], 1e-3, 20)
    agrees(middle + width, truth["upper_20_2"], 1e-3, 20)
    agrees(middle - width, truth["lower_20_2"], 1e-3, 20)
    agrees(100.0 * 2.0 * width / middle, truth["bandwidth"], 1e-3, 20)
    inside = [ratio(*pair) for pair in zip(close - (middle - width), 2.0 * width, strict=True)]
    agrees(inside, truth["percent_b"], 1e-3, 20)


@needs_truth
def test_deviation_agrees_with_lean():
    truth = columns("variance_std_10.csv")
    ours = rolling(truth["close"], 10, lambda ring, seen, n: deviation(ring, seen, n, 0), size=16)
    first = int(np.flatnonzero(~np.isnan(truth["std_10"]))[0]) + 1
    assert first <= 10  # the source has values before ten bars are there; we wait
    np.testing.assert_allclose(ours[9:], truth["std_10"][9:], rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours[9:] ** 2, truth["variance_10"][9:], rtol=0, atol=1e-6)


@needs_truth
def test_true_range_agrees_with_lean():
    truth = columns("true_range.csv")
    rows = zip(truth["high"][1:], truth["low"][1:], truth["close"][:-1], strict=True)
    agrees([math.nan, *(true_range(*row) for row in rows)], truth["true_range"], 1e-6, 2)


@needs_truth
def test_volume_weighted_price_agrees_with_lean():
    truth = columns("vwap_50.csv")
    price = (truth["open"] + truth["high"] + truth["low"] + truth["close"]) / 4.0
    traded = rolling(price * truth["volume"], 50, mean)
    agrees(traded / rolling(truth["volume"], 50, mean), truth["vwap_50"], 1e-3, 50)


@needs_truth
def test_stochastic_agrees_with_lean():
    truth = columns("stochastic_12_3_5.csv")
    top, bottom = rolling(truth["high"], 12, highest), rolling(truth["low"], 12, lowest)
    fast = 100.0 * (truth["close"] - bottom) / (top - bottom)
    slow = after(fast, 11, 3, mean)
    agrees(slow, truth["slow_k"], 1e-3, 14)
    agrees(after(slow, 13, 5, mean), truth["slow_d"], 1e-3, 18)


def test_an_exponential_mean_begins_as_a_simple_one():
    values, answer = [4.0, 8.0, 6.0, 10.0, 2.0], []
    e = 0.0
    for seen, value in enumerate(values, 1):
        e = ema(e, value, 3, seen)
        answer.append(e)
    assert answer == [4.0, 6.0, 6.0, 8.0, 5.0]  # alpha is 2/(3+1)


def test_wilders_mean_begins_as_a_simple_one():
    values, answer = [4.0, 8.0, 10.0, 1.0], []
    w = 0.0
    for seen, value in enumerate(values, 1):
        w = wilder(w, value, 2, seen)
        answer.append(w)
    assert answer == [4.0, 6.0, 8.0, 4.5]  # alpha is 1/2


@pytest.mark.parametrize("of", [ema, wilder])
def test_the_mean_of_equal_values_is_that_value(of):
    """A frozen price must not drift by rounding: what compares two means would see a crossing."""
    wrong = []
    for cents in range(101, 4001, 13):
        value, e = cents / 100, 0.0
        for seen in range(1, 120):
            e = of(e, value, 12, seen)
        if e != value:
            wrong.append(value)
    assert wrong == []


@pytest.mark.parametrize("n", [5, 15, 20, 50])
def test_equal_values_have_no_deviation(n):
    wrong = []
    for cents in range(101, 4001, 13):
        ring = np.full(64, cents / 100)
        if mean(ring, n, n) != cents / 100 or deviation(ring, n, n, 0) != 0.0:
            wrong.append(cents / 100)
    assert wrong == []


@pytest.mark.parametrize(
    ("gain", "loss", "index"), [(0.0, 0.0, 50.0), (0.3, 0.0, 100.0), (0.0, 0.3, 0.0), (3.0, 1.0, 75.0)]
)
def test_strength_without_movement_is_the_middle(gain, loss, index):
    assert strength_index(gain, loss) == index


def test_rises_and_falls_are_those_of_the_last_changes_only():
    ring = np.zeros(8)
    for seen, close in enumerate([1.0, 9.0, 5.0, 8.0, 7.0], 1):
        put(ring, seen, close)
    assert rises_and_falls(ring, 5, 2, 0, 0.0, 0.0) == (3.0, 1.0)
    assert rises_and_falls(ring, 5, 3, 0, 0.0, 0.0) == (3.0, 5.0)  # -4, +3, -1
    assert rises_and_falls(ring, 5, 4, 2, 3.0, 1.0) == (11.0, 5.0)  # goes on after two


@given(
    values=st.lists(st.floats(1.0, 1e6), min_size=16, max_size=16),
    seen=st.integers(16, 40),
    begun=st.sampled_from([0, 4, 8, 12]),
    n=st.integers(1, 16),
)
def test_a_mean_that_goes_on_from_a_shorter_window_has_the_same_bits(values, seen, begun, n):
    ring, begun = np.array(values), min(begun, n - n % 4)
    sums = gather(ring, seen, n, begun, gather(ring, seen, begun, 0, NOTHING))
    assert mean_of(ring, seen, n, sums) == mean(ring, seen, n)


def test_a_ring_forgets_what_has_been_overwritten():
    ring = np.zeros(4)
    for seen in range(1, 12):
        put(ring, seen, float(seen))
        assert [ago(ring, seen, k) for k in range(min(seen, 4))] == [float(seen - k) for k in range(min(seen, 4))]
    assert ring.tolist() == [9.0, 10.0, 11.0, 8.0]
    assert mean(ring, 11, 3) == 10.0
    assert (highest(ring, 11, 2), lowest(ring, 11, 2)) == (11.0, 10.0)
    assert (highest(ring, 11, 4), lowest(ring, 11, 4)) == (11.0, 8.0)


@pytest.mark.parametrize("n", range(1, 17))
def test_windows_of_any_length_agree_with_the_plain_formulas(n):
    rng = np.random.default_rng(n)
    values = rng.lognormal(3.0, 1.0, 40)
    ring = np.zeros(16)
    for seen, value in enumerate(values, 1):
        put(ring, seen, value)
        if seen < n:
            continue
        window = values[seen - n : seen].tolist()
        assert mean(ring, seen, n) == pytest.approx(statistics.fmean(window), rel=1e-14)
        assert deviation(ring, seen, n, 0) == pytest.approx(statistics.pstdev(window), rel=1e-12)
        if n > 1:
            assert deviation(ring, seen, n, 1) == pytest.approx(statistics.stdev(window), rel=1e-12)
        assert (highest(ring, seen, n), lowest(ring, seen, n)) == (max(window), min(window))


@pytest.mark.parametrize(
    ("high", "low", "previous", "reach"), [(12, 10, 11, 2), (12, 10, 7, 5), (12, 10, 15, 5), (12, 10, 12, 2)]
)
def test_true_range_includes_the_gap(high, low, previous, reach):
    assert true_range(float(high), float(low), float(previous)) == reach


def test_a_missing_whole_is_missing_and_not_zero():
    assert math.isnan(ratio(1.0, 0.0))
    assert math.isnan(ratio(0.0, 0.0))
    assert ratio(1.0, 4.0) == 0.25


def test_change_is_a_fraction_of_the_base():
    assert change(5.0, 4.0) == 0.25
    assert change(3.0, 4.0) == -0.25
    assert change(1e-9, 0.0) == 1.0  # the base is never taken below 1e-9
