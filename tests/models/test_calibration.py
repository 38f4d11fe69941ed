"""Platt, the conformal correction and the scores, against known answers and a slow fit."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import calibration
from models.bundle import Calibration


def drawn(a, b, size, seed=0):
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.0, 1.0, size)
    return score, rng.random(size) < 1.0 / (1.0 + np.exp(a * score + b))


def test_platt_recovers_what_made_the_data():
    found = calibration.platt(*drawn(-4.0, 2.0, 2000))
    assert found.fitted
    assert found.a == pytest.approx(-4.0, abs=0.5)
    assert found.b == pytest.approx(2.0, abs=0.3)


@given(st.floats(-6.0, 6.0), st.floats(-3.0, 3.0), st.integers(0, 1000))
def test_nothing_near_is_more_likely(a, b, seed):
    score, correct = drawn(a, b, 500, seed)
    found = calibration.platt(score, correct)
    wins = int(correct.sum())
    if not found.fitted:
        assert wins in (0, 500)
        return
    target = np.where(correct, (wins + 1) / (wins + 2), 1 / (500 - wins + 2))

    def likelihood(a, b):
        p = 1.0 / (1.0 + np.exp(a * score + b))
        return -np.sum(target * np.log(p) + (1 - target) * np.log(1 - p))

    best = likelihood(found.a, found.b)
    for da, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert likelihood(found.a + da, found.b + db) >= best - 1e-9


def test_few_data_leave_a_probability_as_it_is():
    score, correct = drawn(-4.0, 2.0, 199)
    found = calibration.platt(score, correct)
    assert found == Calibration()
    assert np.array_equal(calibration.calibrated(found, score), score)
    assert not calibration.platt(score, np.ones(199, bool), least=10).fitted


def test_it_is_kept_only_if_the_brier_score_falls_out_of_sample():
    overconfident = [drawn(-4.0, 2.0, 600, seed) for seed in range(4)]  # a score of 0.5 is right half the time
    found = calibration.rolled([s for s, _ in overconfident], [c for _, c in overconfident])
    assert found.calibration.kept
    assert found.after < found.before
    assert found.samples == 1800
    rng = np.random.default_rng(0)
    honest = [rng.uniform(0.5, 1.0, 600) for _ in range(4)]
    came = [rng.random(600) < p for p in honest]
    found = calibration.rolled(honest, came)
    assert found.calibration.kept == (found.after < found.before)
    backwards = [1.0 - s for s, _ in overconfident]
    found = calibration.rolled(backwards, [c for _, c in overconfident])
    assert found.calibration.fitted
    assert not found.calibration.kept  # the surer, the more often wrong


def test_a_single_fold_or_few_data_keep_nothing():
    one = drawn(-4.0, 2.0, 600)
    assert not calibration.rolled([one[0]], [one[1]]).calibration.kept
    small = [drawn(-4.0, 2.0, 60, seed) for seed in range(3)]
    assert not calibration.rolled([s for s, _ in small], [c for _, c in small]).calibration.fitted


def test_conformal_gives_the_coverage_that_was_asked_for():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(4000, 3))
    for narrow in (0.8, 2.5):  # too narrow, and too wide
        q = np.broadcast_to(np.array([-narrow, 0.0, narrow]), (4000, 3, 3))
        offsets = calibration.conformal(q[:2000], y[:2000])
        assert np.sign(offsets).tolist() == [1.0 if narrow < 1 else -1.0] * 3
        covered = calibration.coverage(calibration.widened(q[2000:], offsets), y[2000:])
        assert np.abs(covered - 0.8).max() < 0.03


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.floats(-5, 5))
def test_a_correction_never_lets_quantiles_cross(values, offset):
    q = np.sort(np.array(values))[None, None, :]
    assert (np.diff(calibration.widened(q, np.array([offset])), axis=-1) >= 0).all()


def test_probability_is_that_of_the_normal_distribution():
    q = np.array([[-0.01, 0.002, 0.014], [0.0, 0.0, 0.0], [0.014, 0.002, -0.01]])
    spread = 0.024 / 2.5631031310892007
    up = NormalDist().cdf(0.002 / spread)
    np.testing.assert_allclose(calibration.probability_up(q), [up, 0.5, up])
    np.testing.assert_allclose(calibration.certainty(-q), [up, 0.5, up])


def test_reliability_counts_every_decision_once():
    probability, correct = np.array([0.51, 0.52, 0.74, 1.0]), np.array([True, False, True, True])
    bins = calibration.reliability(probability, correct)
    assert [b.decisions for b in bins] == [2, 1, 1]
    assert bins[0].came == 0.5
    assert calibration.brier(probability, correct) == pytest.approx((0.49**2 + 0.52**2 + 0.26**2) / 4)
