"""Forecasts against what came: by hand, and against a slow account of every one of them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from operators import outcome
from schemas.events import Absence
from schemas.frames import FeatureFrame, ForecastFrame
from tests.operators.frames import bars

USUAL = (((-1.0, 0.0, 1.0), (-2.0, 0.5, 2.0)),)


def forecasts(close, made, quantiles, *, horizons=(1, 3), slot=None, at=None, volatility=0.01, probability=0.6,
              usual=USUAL, absence=None):  # fmt: skip
    """Rows with a forecast of the same quantiles at every horizon where `made` says so."""
    frame = bars(close, slot=slot, at=at)
    size = frame.at.size
    made = np.isin(np.arange(size), made)
    q = np.where(made[:, None, None], np.asarray(quantiles, np.float64), np.nan)
    q = np.broadcast_to(q, (size, len(horizons), 3)).copy()
    zeros, none = np.zeros(size), np.zeros(size, np.int8)
    return ForecastFrame(
        FeatureFrame(frame, ("returns_1",), np.zeros((size, 1))), horizons, 0, q,
        np.where(made, 0, -1).astype(np.int32), none, zeros, np.where(made, probability, np.nan),
        made.astype(np.int8), np.zeros(size, np.bool_),
        np.where(made, Absence.NONE, Absence.NOT_WARM).astype(np.int8) if absence is None else absence, (),
        np.where(made, volatility, np.nan), usual,
    )  # fmt: skip


def test_a_forecast_is_judged_at_each_horizon_when_its_bar_is_there():
    frame = forecasts([100.0, 101.0, 101.0, 99.0, 99.0], [0], [-0.005, 0.002, 0.02])
    _, found = outcome.step(outcome.start(), frame)
    assert found.ts.tolist() == [2, 4]
    assert found.horizon.tolist() == [0, 1]
    up, down = math.log(1.01), math.log(0.99)
    assert found.inside.tolist() == [True, False]  # 1 % lies within, -1 % does not
    assert found.right.tolist() == [True, False]
    assert found.said.tolist() == [600_000_000, -1]  # only the horizon that trades says how probable
    first = (0.1 * (up + 0.005) + 0.5 * (up - 0.002) + 0.1 * (0.02 - up)) / 0.01 / 3
    assert found.loss[0] == pytest.approx(first * 1e9, abs=1)
    root = 0.01 * math.sqrt(3)
    second = (0.9 * (-0.005 - down) + 0.5 * (0.002 - down) + 0.1 * (0.02 - down)) / root / 3
    assert found.loss[1] == pytest.approx(second * 1e9, abs=1)
    y = up / 0.01
    assert found.usual[0] == pytest.approx((0.1 * (y + 1) + 0.5 * y + 0.1 * abs(1 - y)) / 3 * 1e9, abs=1)


def test_what_is_not_known_is_not_judged():
    """The bar is missing at one horizon; nothing moved; the model says neither volatility nor what was usual."""
    frame = forecasts([100.0, 100.0, 100.0], [0], [-0.1, 0.0, 0.1], at=[0, 1, 4], volatility=np.nan, usual=((),))
    _, found = outcome.step(outcome.start(), frame)
    assert found.ts.tolist() == [2]
    assert (found.loss.tolist(), found.usual.tolist(), found.said.tolist()) == ([-1], [-1], [-1])
    stale = forecasts([100.0, 101.0], [0], [-0.1, 0.0, 0.1], absence=np.array([Absence.ERROR, Absence.ERROR], np.int8))
    assert not outcome.step(outcome.start(), stale)[1].ts.size
    none = replace(stale, horizons=(), quantiles=np.zeros((2, 0, 3)), usual=())
    state, found = outcome.step(outcome.start(), none)
    assert (state.slices, found.ts.size) == (2, 0)


def test_a_split_is_no_return():
    frame = forecasts([100.0, 50.5], [0], [-0.005, 0.002, 0.02])
    split = replace(frame.features.bars, scale=np.array([1.0, 2.0]))
    frame = replace(frame, features=replace(frame.features, bars=split))
    _, found = outcome.step(outcome.start(), frame)
    assert found.inside.tolist() == [True]
    assert found.right.tolist() == [True]


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_looking_each_forecast_up(seed):
    """Two symbols, holes, forecasts at any bar; every one is judged once, where both bars are there."""
    rng = np.random.default_rng(seed)
    size, horizons = 60, (2, 5, 9)
    there = rng.random((size, 2)) < 0.8
    at, slot = np.nonzero(there)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, (size, 2)), axis=0))[at, slot]
    made = np.flatnonzero(rng.random(at.size) < 0.5)
    frame = forecasts(close, made, [-0.02, 0.001, 0.02], horizons=horizons, slot=slot, at=at, usual=((),))
    _, found = outcome.step(outcome.start(), frame)
    price = {(int(a), int(s)): c for a, s, c in zip(at, slot, close, strict=True)}
    expected = []
    for i in made:
        for h, horizon in enumerate(horizons):
            then, now = (int(at[i]), int(slot[i])), (int(at[i]) + horizon, int(slot[i]))
            if now in price:
                moved = math.log(price[now] / price[then])
                expected.append((now[0] + 1, now[1], h, -0.02 <= moved <= 0.02))
    got = zip(found.ts.tolist(), found.symbol.tolist(), found.horizon.tolist(), found.inside.tolist(), strict=True)
    assert sorted(got) == sorted(expected)
    assert len(expected) > 50
