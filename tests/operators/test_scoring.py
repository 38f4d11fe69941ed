"""One call for all steps of the symbol side, beside the steps one by one: the same bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows import pipeline
from infra.settings import load
from operators import drive
from tests.markets import cuts, make, markets

SETS = {
    "defaults": [],
    "two alphas": ['ensemble.weights={"macd"=0.3,"rsi"=0.7}'],
    "one alpha": ['ensemble.weights={"ema_cross"=1.0}'],
    "macd by its signal line": [
        'alphas.macd.form="signal"',
        "alphas.macd.bounce=0.001",
        "filters.min_average_volume=0",
    ],
    "strict filters": ['filters.missing_data="refuse"', "filters.liquidity=false", "regime.hysteresis=1"],
}


def params_of(name):
    return pipeline.decide_params(load(None, SETS[name], environ={}), 30)


def columns(frame):
    """All that is said of the rows."""
    names = ("volatility", "direction", "score", "confidence", "regime", "views", "reason")
    return {name: getattr(frame, name).tobytes() for name in names} | {"at": frame.bars.at.tobytes()}


@pytest.mark.parametrize("name", SETS)
@given(market=markets, where=cuts)
def test_scores_as_the_steps_one_by_one(name, market, where):
    params = params_of(name)
    one, other = {}, {}
    for frame in (frame for chunk in market.chunks(where) for frame in chunk):
        before = one.get(frame.shard, pipeline.start(params)), other.get(frame.shard, pipeline.start(params))
        one[frame.shard], found = pipeline.step(params, before[0], frame)
        other[frame.shard], expected = pipeline.score(params, *pipeline.opine(params, before[1], frame))
        assert columns(found) == columns(expected)
    for shard, state in one.items():
        assert repr(drive.flat(state)) == repr(drive.flat(other[shard]))


def test_the_markets_have_candidates_to_compare():
    params = params_of("macd by its signal line")
    frames = list(pipeline.signals(make(1, sessions=9, symbols=3).chunks([17]), params))
    assert {int(code) for frame in frames for code in np.unique(frame.reason)} >= {0}
    assert any((frame.score != 0.0).any() for frame in frames)


@given(seed=st.integers(0, 99))
def test_an_empty_range_moves_nothing_but_the_count_of_slices(seed):
    params = params_of("defaults")
    market = make(seed, symbols=1)
    chunks = market.chunks([20])
    shard = next(frame.shard for frame in chunks[0] if frame.ts.size)
    idle = next(frame for frame in chunks[0] if frame.shard != shard)
    before = pipeline.start(params)
    after, signals = pipeline.step(params, before, idle)
    assert signals.reason.size == 0
    assert after.clean.slices == idle.slices.size
    assert after._replace(clean=before.clean) == before
