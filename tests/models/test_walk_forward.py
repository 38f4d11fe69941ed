"""Folds whose borders are checked by time, trades that never overlap, and gates."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import calibration, dataset, walk_forward
from models.bundle import Calibration
from models.decision import Policy, decide
from models.training import Data, Folds, Gates, Params
from operators.ensemble import Params as Ensemble
from operators.ensemble import Toll
from operators.filters import Params as Filters
from schemas.errors import UserError
from schemas.events import Direction, Reason
from tests.markets import altered_after, make

DATA = Data(
    features=("price", "returns_1", "minute_of_day", "day_of_week"),
    lookback=4, horizons=(2, 3), decision_horizon=2, every=1,
)  # fmt: skip
FOLDS = Folds(count=3, train=8, validation=3, test=3)
POLICY = Policy(filters=Filters(liquidity=False), toll=Toll(0.0004))


@pytest.fixture(scope="module")
def ds():
    market = make(5, sessions=24, dirt=0.0)
    return dataset.build(DATA, market.calendar, market.chunks(), policy=POLICY)


def times(ds, which):
    """When samples are decided, and when their last labels are known, UTC ns; each by itself."""
    return ds.ts(which), np.array([ds.calendar.ts_at(int(slot)) for slot in ds.label_end[which]])


def test_nothing_in_sample_is_known_after_the_embargo_before_the_next_block(ds):
    folds = walk_forward.plan(ds, FOLDS)
    assert [fold.number for fold in folds] == [1, 2, 3]
    tested = []
    for fold in folds:
        train, validation, test = walk_forward.split(ds, fold)
        walk_forward.overlap(ds, train, validation, test)
        for before, after in ((train, validation), (validation, test)):
            known = times(ds, before)[1].max()
            first = int(times(ds, after)[0].min())
            between = ds.calendar.index_of(np.array([first]))[0] - ds.calendar.index_of(np.array([known]))[0]
            assert between > DATA.lookback + max(DATA.horizons) == DATA.embargo
        tested.append(set(test.tolist()))
    assert len(set.union(*tested)) == sum(map(len, tested))  # no decision is judged twice
    at = sorted(set().union(*tested))
    assert ds.at[at].max() == ds.at.max()  # the last fold ends with the bars


def test_blocks_are_as_many_sessions_as_was_said(ds):
    for fold in walk_forward.plan(ds, FOLDS):
        for first, upto, wanted in ((fold.test_from, fold.test_upto, 3), (fold.validation_from, fold.test_from, 3),
                                    (fold.train_from, fold.validation_from, 8)):  # fmt: skip
            assert np.unique(ds.calendar.session_at(np.arange(first, upto))).size == wanted


def test_a_leaked_label_is_caught(ds):
    fold = walk_forward.plan(ds, FOLDS)[-1]
    train, validation, test = walk_forward.split(ds, fold)
    later = np.flatnonzero((ds.label_end >= fold.train_upto) & (ds.at < fold.validation_from))
    with pytest.raises(walk_forward.LeakError, match="a train label ends"):
        walk_forward.overlap(ds, np.append(train, later[0]), validation, test)
    with pytest.raises(walk_forward.LeakError, match="a validation label ends"):
        walk_forward.overlap(ds, train, np.append(validation, test[0]), test)


def test_shuffling_the_future_moves_no_fold(ds):
    market = make(5, sessions=24, dirt=0.0)
    other = altered_after(market, 100, 1)
    changed = dataset.build(DATA, other.calendar, other.chunks())
    assert walk_forward.plan(changed, FOLDS) == walk_forward.plan(ds, FOLDS)
    for fold in walk_forward.plan(ds, FOLDS):
        for one, same in zip(walk_forward.split(ds, fold), walk_forward.split(changed, fold), strict=True):
            assert np.array_equal(ds.at[one], changed.at[same])


def test_too_few_sessions_are_said_with_a_remedy(ds):
    with pytest.raises(UserError, match=r"24 sessions of bars; 12 folds need .*--set training.folds.count=4"):
        walk_forward.plan(ds, Folds(count=12, train=8, validation=3, test=3))
    with pytest.raises(UserError, match=r"training.folds.train, validation and test smaller"):
        walk_forward.plan(ds, Folds())
    with pytest.raises(UserError, match="no samples to validation"):
        walk_forward.split(ds, walk_forward.plan(ds, Folds(count=1, train=8, validation=1, test=3))[0]._replace(
            validation_upto=0))  # fmt: skip


@given(st.integers(0, 1000))
def test_trades_of_a_symbol_never_overlap_and_pay_their_costs(ds, seed):
    fold = walk_forward.plan(ds, FOLDS)[-1]
    test = walk_forward.split(ds, fold)[2]
    way = np.random.default_rng(seed).choice([-1, 0, 1], test.size).astype(np.int32)
    cost = np.random.default_rng(seed + 1).uniform(0.0, 0.002, test.size)
    trades = walk_forward.trade(ds, test, way, cost, fold.test_upto)
    free, expected = {}, []
    for k, which in enumerate(test.tolist()):
        who, at = int(ds.symbol[which]), int(ds.at[which])
        if way[k] and at >= free.get(who, 0) and at + 2 < fold.test_upto:
            free[who] = at + 2
            expected.append((who, way[k], way[k] * np.expm1(ds.returns(np.array([which]))[0]) - cost[k]))
    assert [(int(s), int(d)) for s, d in zip(trades.symbol, trades.direction, strict=True)] == [e[:2] for e in expected]
    np.testing.assert_allclose(trades.result, [e[2] for e in expected])
    booked = walk_forward.daily(ds, fold, trades)
    assert booked.size == 3
    assert booked.sum() == pytest.approx(trades.result.sum() / np.unique(ds.symbol[test]).size)


def learned(ds, fold, seed=0):
    """A fold of two models that guess, the second without any width."""
    size = walk_forward.split(ds, fold)[2].size
    draws = np.random.default_rng(seed).normal(size=(size, 2, 1)) * 0.6 + [-1.0, 0.0, 1.0]
    quantiles = {"tft": draws, "empirical": np.zeros((size, 2, 3))}
    return walk_forward.Learned(fold, (1, 2, size), quantiles, dict.fromkeys(quantiles, np.array([0.1, -0.05])),
                                dict.fromkeys(quantiles, 0.0), 0.3, 0.3, 1, 1, 0.5, b"")  # fmt: skip


def test_what_is_traded_is_what_is_decided(ds):
    """Corrected quantiles in log returns go into the decision; its candidates are traded, each at its own cost."""
    policy, params = POLICY, Params(data=DATA, folds=FOLDS, calibration_least=20)
    fold = walk_forward.plan(ds, FOLDS)[-1]
    one = learned(ds, fold)
    tried = walk_forward.judge(ds, one, params, policy)
    test = walk_forward.split(ds, fold)[2]
    corrected = calibration.widened(one.quantiles["tft"], one.offsets["tft"]) * ds.scale(test)[..., None]
    told = decide(policy, ds.symbols, ds.symbol[test], ds.at[test], ds.around.at(test), corrected, DATA.decision,
                  Calibration(), 0.0)  # fmt: skip
    long = np.where((told.reason == Reason.NONE) & (told.direction == Direction.LONG), 1, 0)
    expected = walk_forward.trade(ds, test, long, ds.around.cost[test], fold.test_upto)
    outcome = tried.outcomes["tft"]
    assert 0 < expected.result.size == outcome.trades.result.size
    assert outcome.trades.result.tobytes() == expected.result.tobytes()
    assert sum(outcome.ends.values()) == test.size
    assert outcome.ends["none"] == (told.reason == Reason.NONE).sum() > 0
    assert tried.outcomes["empirical"].ends.keys() <= {"no_insight", "not_warm"}  # who has no width has no strength
    short = policy._replace(shorts=True)
    assert -1 in walk_forward.judge(ds, one, params, short).outcomes["tft"].trades.direction


def test_a_fold_is_decided_with_the_calibrator_of_the_folds_before_it(ds):
    """Whatever comes later changes nothing; what came before does, once it is kept."""
    params = Params(data=DATA, folds=FOLDS, calibration_least=20)
    policy = POLICY._replace(ensemble=Ensemble(min_probability=0.9))
    folds = walk_forward.plan(ds, FOLDS)
    first, second = (walk_forward.judge(ds, learned(ds, fold, k), params, policy) for k, fold in enumerate(folds[:2]))
    sure = np.linspace(0.5, 1.0, 400)  # right as often as it says, doubled: worth a calibrator
    right = np.random.default_rng(0).random(400) < 0.5 + (sure - 0.5) * 0.2
    told = {name: replace(outcome, score=sure, correct=right) for name, outcome in first.outcomes.items()}
    past = [replace(each, outcomes=told) for each in (first, second)]
    last = learned(ds, folds[2], 2)
    alone, after = (walk_forward.judge(ds, last, params, policy, before).outcomes["tft"] for before in ([], past))
    assert "low_probability" not in alone.ends
    assert after.ends["low_probability"] >= alone.ends["none"] > 0  # before the filters
    assert "none" not in after.ends
    assert np.array_equal(alone.loss, after.loss)


def fold(**changes):
    return {"sharpe": 0.8, "win_rate": 0.5, "trades": 20.0, **changes}


@pytest.mark.parametrize(
    ("rows", "reasons"),
    [
        ([fold()] * 12, []),
        ([fold()] * 6, []),
        ([fold()] * 5, ["5 folds, want 6 or more"]),
        ([*[fold()] * 11, fold(sharpe=-0.1)], ["fold 12: Sharpe -0.10 under 0"]),
        ([*[fold()] * 11, fold(trades=0.0, sharpe=float("nan"), win_rate=float("nan"))],
         ["fold 12: 0 trades, want 5 or more", "median win_rate nan under 0.45"]),
        ([fold(sharpe=0.4)] * 12, ["median sharpe 0.40 under 0.5"]),
        ([fold(win_rate=0.4)] * 12, ["median win_rate 0.40 under 0.45"]),
        ([fold(win_rate=0.99)] * 12, ["too good to be true: skill 0.00, 99% of the trades win; look for a leak"]),
    ],
)  # fmt: skip
def test_the_gates(rows, reasons):
    found = walk_forward.refusals(rows, Gates())
    assert [why for why in found if "nan" not in why] == [why for why in reasons if "nan" not in why]
    assert bool(found) == bool(reasons)


def test_skill_beyond_belief_is_refused():
    assert "look for a leak" in walk_forward.refusals([fold()] * 12, Gates(), skill=0.6)[0]


def test_power_is_what_arithmetic_says():
    only_sign = Gates(sharpe=-100.0)
    deviation = np.sqrt((1 + 9 / 504) / (21 / 252))
    exact = NormalDist().cdf(3.0 / deviation) ** 12
    assert exact == pytest.approx(0.076, abs=0.005)  # ruling 31: blocks of one month, a true Sharpe ratio of 3
    assert walk_forward.power(only_sign, 3.0, 21, 12) == pytest.approx(exact, abs=0.01)
    chances = [walk_forward.power(Gates(), sharpe, 84, 12) for sharpe in (0.0, 1.0, 2.0, 6.0)]
    assert chances == sorted(chances)
    assert chances[0] < 0.01 < 0.9 < chances[-1]


def test_the_best_of_many_worthless_ones_looks_good():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(300, 20, 500))
    best = (draws.mean(axis=2) / draws.std(axis=2, ddof=1)).max(axis=1).mean()
    assert walk_forward.expected_best(20, 500) == pytest.approx(best, rel=0.05)
    assert walk_forward.expected_best(1, 500) == 0.0


def test_pinball_of_the_true_quantiles_is_least(ds):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(5000, 2))
    true = NormalDist().inv_cdf(0.9)

    def loss(width):
        return walk_forward.pinball(y, np.broadcast_to([-width, 0.0, width], (5000, 2, 3))).mean()

    assert loss(true) < min(loss(true - 0.2), loss(true + 0.2))


def test_a_dataset_is_the_same_in_another_process(ds, tmp_path):
    walk_forward._share(ds, tmp_path)
    walk_forward._open(str(tmp_path))
    same = walk_forward._opened.pop()
    for name in ("matrix", "label", "end", "entry"):
        assert np.array_equal(getattr(same, name), getattr(ds, name), equal_nan=True)
    assert (same.symbols, same.data) == (ds.symbols, ds.data)
    assert replace(same, symbols=()).calendar.ts_at(5) == ds.calendar.ts_at(5)
