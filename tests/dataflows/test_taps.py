"""Taps: what the late lane opines is what decide weighed, however it is had."""

import math

import msgspec
import pytest

from dataflows import pipeline, taps
from infra.bars import open_bars
from infra.settings import load
from operators import features
from operators.drive import flat, unflat
from schemas import codec
from schemas.records import MarketEngineered

TOPICS = frozenset({"market.engineered", "alpha.signals"})


def frames(shard, days=1):
    """One shard's frames, slice by slice."""
    market = open_bars(f"synthetic:symbols=40,days={days},seed=3", frame_slices=1).frames()
    return [frame for chunk in market for frame in chunk if frame.shard == shard]


@pytest.fixture(scope="module")
def settings():
    return load(None, ["live.timeframe=1m", f"live.taps={sorted(TOPICS)}"], environ={})


@pytest.fixture
def params(settings):
    return taps.params_of(settings, 1)


def told(params, items, state=None):
    """The records of items in turn, by topic, and the state after them."""
    state, made = taps.start(params) if state is None else state, {topic: [] for topic in TOPICS}
    for item in items:
        state, records = taps.step(params, state, item)
        for topic, found in records.items():
            made[topic] += found
    return made, state


def kept(settings, items):
    """What decide keeps where a model is configured; here none forecasts."""
    whole = msgspec.structs.replace(settings, features=features.Params(set="all"))
    decide = pipeline.decide_params(whole, 1)
    state = pipeline.start(decide)
    for item in items:
        state, decided = pipeline.step_openly(decide, state, item)
        yield decided


def test_opined_again_or_kept_by_decide_the_records_are_the_same(settings, params):
    items = frames(3)
    again, state = told(params, items)
    assert again == told(params, kept(settings, items))[0]
    assert all(again.values())
    assert state.upto == items[-1].slices.upto


def test_a_snapshot_goes_on_where_it_was_taken(params):
    items = frames(3)[:300]
    whole, _ = told(params, items)
    begun, state = told(params, items[:120])
    resumed, _ = told(params, items[120:], unflat(taps.start(params), flat(state)))
    assert {topic: begun[topic] + resumed[topic] for topic in TOPICS} == whole


def test_what_went_by_without_the_lane_is_not_taken_for_known(settings, params):
    """While a model is configured decide keeps the opinions; afterwards indicators are as cold as at a start."""
    items = frames(3)[:200]
    _, state = told(params, items[:80])
    _, state = told(params, list(kept(settings, items[:120]))[80:], state)
    after, _ = told(params, items[120:], state)
    cold, _ = told(params, [items[0], *items[120:]])  # names and nothing else
    known = {one.id for one in after["market.engineered"]}
    assert [one for one in cold["market.engineered"] if one.id in known] == after["market.engineered"]
    assert after["market.engineered"]


def test_features_that_were_not_wanted_for_a_while_begin_cold(settings, params):
    items = frames(3)[:200]
    views = taps.params_of(msgspec.structs.replace(settings, live=msgspec.structs.replace(
        settings.live, taps=("alpha.signals",))), 1)  # fmt: skip
    assert views.decide.features.set == "risk"
    early, state = told(params, items[:80])
    without, state = told(views, items[80:120], state)
    after, _ = told(params, items[120:], state)
    cold = codec.decode(MarketEngineered, after["market.engineered"][0].value)
    assert math.isnan(cold.sma_20)
    assert cold.returns_1 == codec.decode(MarketEngineered, told(params, items)[0]["market.engineered"][
        len(early["market.engineered"]) + sum(one.ts.size for one in items[80:120])].value).returns_1  # fmt: skip
    assert without["market.engineered"] == []
    whole, _ = told(params, items)
    views_of = early["alpha.signals"] + without["alpha.signals"] + after["alpha.signals"]
    assert views_of == whole["alpha.signals"]
