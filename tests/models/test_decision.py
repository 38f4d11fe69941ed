"""What the walk-forward trades is what the live steps decide: row by row against the pipeline itself."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows import pipeline
from dataflows.train import policy_of
from infra.settings import Settings, load
from models import dataset, walk_forward
from models.bundle import Calibration
from models.decision import Policy, decide
from models.training import Data
from operators import drift, forecast
from operators.forecast import Model
from schemas.errors import UserError
from schemas.events import Absence, Reason
from schemas.frames import SHARDS, Activation
from tests.markets import altered_after, cuts, make, markets

DATA = Data(
    features=("price", "returns_1", "minute_of_day", "day_of_week"),
    lookback=4, horizons=(2, 3), decision_horizon=3, every=1, gap_days=4,
)  # fmt: skip
PLATT = Calibration(a=-4.0, b=2.2, fitted=True, kept=True)
SETTINGS = load(None, ["forecast.forecast_every=1", "forecast.drift.share=0", "filters.min_average_volume=3000",
                       "filters.max_spread=0.003", "forecast.model=tft", "ensemble.min_probability=0.55"])  # fmt: skip


def answers(names, ts):
    """Quantiles [rows, horizons, 3] of log returns that depend on the symbol and the time alone; some cross."""
    rows = [np.random.default_rng([*name, int(when) % 2**63]) for name, when in zip(names, ts, strict=True)]
    draws = np.array([rng.normal(size=(2, 3)) for rng in rows]).reshape(-1, 2, 3)
    return np.asarray(0.01 * draws[..., :1] + [-0.01, 0.0, 0.012] * (1.2 + draws[..., 1:2]))


class Oracle:
    """Answers so in the pipeline."""

    horizons, decision = DATA.horizons, DATA.decision

    def __init__(self, calibration, edge=0.0):
        self.one = Model("one", DATA.features, DATA.lookback, DATA.gap_days, calibration.a, calibration.b,
                         calibration.kept, edge)  # fmt: skip

    def model(self, id):  # noqa: A002
        return self.one

    def forecast(self, id, names, ts, windows):  # noqa: A002
        return answers(names, ts)


def alone(settings, weights):
    """The settings of a live run in which the forecast is the only voter that counts."""
    return msgspec.structs.replace(settings, ensemble=msgspec.structs.replace(settings.ensemble, weights=weights))


def piped(market, settings, oracle, where=(), weights=None):
    """(slice, name) -> (direction, score, confidence, reason, absence), as the pipeline decides."""
    params = pipeline.decide_params(alone(settings, weights or {}), market.calendar.timeframe, oracle)
    states = {shard: pipeline.start(params) for shard in range(SHARDS)}
    found = {}
    for k, chunk in enumerate(market.chunks(list(where))):
        for frame in chunk:
            told = replace(frame, models=(Activation(0, "one"),)) if k == 0 else frame
            states[frame.shard], signals = pipeline.step(params, states[frame.shard], told)
            bars = signals.bars
            slots = market.calendar.index_of(bars.slices.ts)[bars.at] if bars.at.size else ()
            rows = zip(slots, bars.symbol, signals.direction, signals.score, signals.confidence, signals.reason,
                       signals.absence, strict=True)  # fmt: skip
            found |= {(int(slot), market.universe.names[who]): told for slot, who, *told in rows}
    return found


def decided(ds, settings, calibration, edge=0.0):
    """The same of all samples, as the walk-forward decides."""
    names = [ds.symbols[number - 1].encode() for number in ds.symbol]
    policy = policy_of(settings, ds.calendar.timeframe)
    told = decide(
        policy, ds.symbols, ds.symbol, ds.at, ds.around, answers(names, ds.ts()), DATA.decision, calibration, edge
    )
    keys = zip(ds.at.tolist(), (name.decode() for name in names), strict=True)
    return dict(zip(keys, zip(told.direction, told.score, told.confidence, told.reason, told.absence, strict=True),
                    strict=True)), told  # fmt: skip


def built(market, settings=SETTINGS):
    """A dataset, or None where the market is too small for one."""
    try:
        return dataset.build(DATA, market.calendar, market.chunks(), quality=settings.clean,
                             policy=policy_of(settings, market.calendar.timeframe))  # fmt: skip
    except UserError:
        return None


@given(markets, cuts, st.sampled_from([Calibration(), PLATT]), st.booleans(), st.sampled_from([0.0, 2.0]))
def test_every_decision_is_the_pipeline_s_own(market, where, calibration, end_of_day, cost_multiple):
    settings = msgspec.structs.replace(
        SETTINGS, exits=msgspec.structs.replace(SETTINGS.exits, end_of_day=end_of_day),
        ensemble=msgspec.structs.replace(SETTINGS.ensemble, cost_multiple=cost_multiple),
    )  # fmt: skip
    ds = built(market, settings)
    if ds is None:
        return
    found, _ = decided(ds, settings, calibration)
    expected = piped(market, settings, Oracle(calibration), where)
    assert len(found) == len(ds)
    for key, told in found.items():
        assert list(told) == expected[key], key


def test_alphas_of_no_weight_change_no_decision():
    """What a user sets to see it; they only turn a row on which the forecast is silent into a neutral one."""
    market = make(2, sessions=6, symbols=6, beside=True)
    none = dict.fromkeys(Settings().ensemble.weights, 0.0)
    found, _ = decided(built(market), SETTINGS, PLATT)
    expected = piped(market, SETTINGS, Oracle(PLATT), weights=none)
    silent = {Reason.NOT_WARM, Reason.NO_INSIGHT, Reason.NEUTRAL}
    for key, told in found.items():
        if told[3] in silent:
            assert expected[key][3] in silent
        else:
            assert list(told) == expected[key], key


def test_all_that_can_stop_a_forecast_is_seen():
    """So that the comparison above has something to compare."""
    seen = set()
    early = msgspec.structs.replace(SETTINGS.filters, minutes_before_close=45)
    for seed, beside in ((1, True), (2, True), (3, False)):
        market = make(seed, sessions=6, symbols=6, beside=beside)
        for calibration in (Calibration(), PLATT):
            for settings in (SETTINGS, msgspec.structs.replace(SETTINGS, filters=early)):
                seen |= set(decided(built(market, settings), settings, calibration)[1].tally())
    assert seen == {"none", "no_insight", "neutral", "below_publish_gate", "below_decision_gate", "expected_return",
                    "low_probability", "outside_market_hours", "no_time_to_exit", "low_liquidity", "wide_spread",
                    "earnings_blackout", "jump", "not_warm"}  # fmt: skip


@given(st.integers(0, 2**32))
def test_a_model_that_drifts_is_stopped_at_the_very_row(seed):
    """Against the step that serves, on the rows of which it was asked."""
    market = make(seed, sessions=5, symbols=6, dirt=0.0)
    params = msgspec.structs.replace(SETTINGS.forecast, drift=drift.Params(window=9, least=6, share=1.0))
    oracle = Oracle(Calibration(), edge=0.45)
    stopped = 0
    for frame in market.chunks()[0]:
        state = pipeline.opine(
            pipeline.decide_params(msgspec.structs.replace(SETTINGS, forecast=params), 30, oracle),
            pipeline.start(pipeline.decide_params(SETTINGS, 30, oracle)),
            replace(frame, models=(Activation(0, "one"),)),
        )[1]
        outlook, bars = state.forecast, state.features.bars
        own = np.flatnonzero(np.isfinite(outlook.volatility))
        names = np.array([market.universe.names[k].encode() for k in bars.symbol[own]])
        told = forecast.answered(params, oracle.one, DATA.decision, bars.at[own], bars.slot[own],
                                 answers(names, bars.slices.ts[bars.at[own]]))  # fmt: skip
        for name in ("absence", "direction", "strength", "probability", "quantiles", "age"):
            assert getattr(told, name).tobytes() == getattr(outlook, name)[own].tobytes(), name
        stopped += int((told.absence == Absence.DRIFTED).sum())
        assert (told.absence == Absence.DRIFTED).any() == bool(outlook.alarms)
    assert stopped > 0


@given(st.integers(0, 2**32), st.integers(20, 60))
def test_the_future_changes_no_decision(seed, slot):
    market = make(seed, sessions=6, dirt=0.0, beside=bool(seed % 2))
    other = altered_after(market, slot, seed)
    one, two = (decided(built(each), SETTINGS, PLATT)[0] for each in (market, other))
    early = [key for key in one if key[0] <= market.first + slot and key in two]
    assert early or slot < 30
    assert all(one[key] == two[key] for key in early)


def test_a_book_of_longs_alone_lets_shorts_be():
    _, told = decided(built(make(4, sessions=6, symbols=6, dirt=0.0)), SETTINGS, Calibration())
    both, longs = (walk_forward.entries(told, shorts) for shorts in (True, False))
    candidates = told.reason == Reason.NONE
    assert (both == np.where(candidates, told.direction, 0)).all()
    assert set(both.tolist()) == {-1, 0, 1}
    assert (longs == np.where(both > 0, 1, 0)).all()


def test_the_policy_is_that_of_the_settings():
    settings = load(None, ["venue.slippage_bps=7", "ensemble.decision_gate=0.7", "exits.end_of_day=false",
                           "filters.max_spread=0.002", "regime.fast=10", "forecast.min_return=0.002",
                           "rules.allow_short=true"])  # fmt: skip
    policy = policy_of(settings, 1440)
    assert policy.toll.cost == pytest.approx(0.0014)
    assert policy.toll.floor == 0.005  # of daily bars
    assert (policy.ensemble, policy.filters, policy.regime, policy.forecast, policy.end_of_day) == (
        settings.ensemble, settings.filters, settings.regime, settings.forecast, False)  # fmt: skip
    assert policy.shorts
    assert policy_of(Settings(), 1)._replace(toll=Policy().toll) == Policy()


def test_a_quoted_spread_is_paid():
    market = make(6, sessions=6, symbols=3, dirt=0.0)
    quoted, plain = built(market), built(replace(market, table=market.table._replace(bid=np.zeros(0), ask=np.zeros(0))))
    assert np.unique(plain.around.cost).tolist() == [policy_of(SETTINGS, 30).toll.cost]
    more = quoted.around.cost - plain.around.cost
    assert (more >= 0.0).all()
    close = np.exp(np.log(quoted.matrix[quoted.end, 0].astype(np.float64)))
    there = more > 0.0
    np.testing.assert_allclose(more[there], 0.02 / close[there], rtol=1e-4)
    test = np.arange(len(quoted))
    trades = [
        walk_forward.trade(ds, test, np.ones(test.size, np.int8), ds.around.cost, 10**6) for ds in (quoted, plain)
    ]
    assert (trades[0].result < trades[1].result).any()
    assert (trades[0].result <= trades[1].result).all()
