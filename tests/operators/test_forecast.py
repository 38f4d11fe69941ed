"""Windows, ages, swaps and drift; what is asked of the model, and what is made of its answers."""

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import dataset
from models.training import Data
from operators import clean, drift, features, forecast
from operators.forecast import Model, Params
from schemas.events import Absence, Direction
from schemas.frames import SHARDS, Activation, FeatureFrame
from tests.markets import make
from tests.operators.frames import bars

NONE, NO_MODEL, NOT_WARM, STALE, ERROR, DRIFTED = Absence
PLAIN = Model("one", ("a", "b"), 3, 0, 0.0, 0.0, False, 0.0)


class Spy:
    """Answers by a function of the window, and remembers what it was asked."""

    horizons, decision = (1, 2), 0

    def __init__(self, answer=None, models=(PLAIN,)):
        self.models = {one.id: one for one in models}
        self.answer = answer or (lambda window: [[-0.01, float(window[-1, 0]) / 1000, 0.01]] * 2)
        self.asked = []

    def model(self, id):  # noqa: A002
        return self.models[id]

    def forecast(self, id, names, ts, windows):  # noqa: A002
        self.asked += [(id, name.decode(), int(when), window.copy()) for name, when, window in
                       zip(names, ts, windows, strict=True)]  # fmt: skip
        return np.array([self.answer(window) for window in windows], np.float64).reshape(-1, len(self.horizons), 3)


FIRST = (Activation(0, "one"),)


def frames(values, at=None, models=FIRST):
    """A frame of one symbol with the features a and b, one row per slice unless `at` says otherwise."""
    values = np.asarray(values, np.float64)
    frame = bars(np.ones(len(values)), at=at)
    table = np.stack([values, values + 0.5], axis=1)
    return FeatureFrame(replace(frame, models=models), ("x", "a", "b"), np.column_stack([values * 0, table]))


def run(frame, spy=None, **params):
    spy = spy or Spy()
    state, answer = forecast.step(Params(**params), spy, forecast.start(), frame)
    return state, answer, spy


def test_a_window_is_the_last_bars_oldest_first_and_asked_every_so_many():
    _, answer, spy = run(frames(range(10)), forecast_every=2)
    assert [when for _, _, when, _ in spy.asked] == [3, 5, 7, 9]  # slices end at 1, 2, 3 ..
    assert spy.asked[1][3].tolist() == [[2.0, 2.5], [3.0, 3.5], [4.0, 4.5]]
    assert spy.asked[1][3].dtype == np.float32
    assert answer.absence.tolist() == [NOT_WARM] * 2 + [NONE] * 8
    assert answer.age.tolist() == [-1, -1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert answer.quantiles[3, 0].tolist() == [-0.01, 0.002, 0.01]
    assert np.isnan(answer.quantiles[:2]).all()


def test_without_a_model_there_is_nothing_and_it_says_so():
    state, answer, spy = run(frames(range(5), models=()))
    assert answer.absence.tolist() == [NO_MODEL] * 5
    assert answer.quantiles.shape == (5, 2, 3)
    assert not spy.asked
    assert state.slices == 5


def test_a_missing_bar_breaks_the_window_and_the_old_answer_gets_stale():
    # bars in the slices 0..4 and 7..12: whole windows end at 2, 3, 4 and 9..12
    at = [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12]
    _, answer, spy = run(frames(range(11), at=at), forecast_every=1, max_age_bars=3)
    assert [when - 1 for _, _, when, _ in spy.asked] == [2, 3, 4, 9, 10, 11, 12]
    assert answer.absence.tolist() == [NOT_WARM, NOT_WARM, NONE, NONE, NONE, NONE, STALE, NONE, NONE, NONE, NONE]
    assert answer.age.tolist() == [-1, -1, 0, 0, 0, 3, -1, 0, 0, 0, 0]  # counted in slices


def test_what_is_not_a_number_breaks_the_window():
    values = [0.0, 1.0, 2.0, np.nan, 4.0, 5.0, 6.0]
    _, _, spy = run(frames(values), forecast_every=1)
    assert [when - 1 for _, _, when, _ in spy.asked] == [2, 6]


@pytest.mark.parametrize(("gap_days", "ends"), [(0, [2, 5]), (1, [2, 3, 4, 5]), (3, [2, 3, 4, 5])])
def test_a_pause_longer_than_the_model_allows_breaks_the_window(gap_days, ends):
    frame = frames(range(6))
    slices = replace(frame.bars.slices, session=np.array([5, 5, 5, 6, 6, 6], np.int32))
    frame = replace(frame, bars=replace(frame.bars, slices=slices))
    _, _, spy = run(frame, Spy(models=[PLAIN._replace(gap_days=gap_days)]), forecast_every=1)
    assert [when - 1 for _, _, when, _ in spy.asked] == ends


def test_the_model_says_nothing():
    """The row has the reason until the model answers again."""

    def answer(window):
        return [[np.nan if window[-1, 0] == 4 else 0.0, 0.01, 0.02]] * 2

    _, found, _ = run(frames(range(8)), Spy(answer), forecast_every=2)
    assert found.absence.tolist() == [NOT_WARM, NOT_WARM, NONE, NONE, ERROR, ERROR, NONE, NONE]


@given(low=st.floats(-0.1, 0.0), width=st.floats(1e-6, 0.2), place=st.floats(0.0, 1.0))
def test_strength_and_probability_are_those_of_the_ruling(low, width, place):
    middle, high = low + place * width, low + width
    _, answer, _ = run(frames(range(3)), Spy(lambda _: [[low, middle, high], [low, 0.02, 0.5]]))
    up = NormalDist().cdf(middle / ((high - low) / 2.5631031310892007))
    p = max(up, 1.0 - up)
    assert answer.probability[2] == pytest.approx(p, abs=1e-12)
    assert answer.strength[2] == pytest.approx(min((2 * p - 1) / 0.2, 1.0), abs=1e-11)
    centre = (middle + 0.02) / 2
    if abs(abs(centre) - 0.001) > 1e-9:
        wanted = Direction.LONG if centre > 0.001 else Direction.SHORT if centre < -0.001 else Direction.FLAT
        assert answer.direction[2] == wanted


def test_quantiles_are_sorted_before_use():
    _, answer, _ = run(frames(range(3)), Spy(lambda _: [[0.03, 0.01, 0.02]] * 2))
    assert answer.quantiles[2].tolist() == [[0.01, 0.02, 0.03]] * 2


def test_a_calibrator_that_was_kept_gives_the_probability():
    kept = PLAIN._replace(a=-4.0, b=2.0, is_calibrated=True)
    _, answer, _ = run(frames(range(3)), Spy(lambda _: [[-0.01, 0.0, 0.01]] * 2, [kept]))
    assert answer.probability[2] == pytest.approx(1.0 / (1.0 + math.exp(-4.0 * 0.5 + 2.0)))
    assert answer.is_calibrated[2]


def test_another_model_takes_over_at_its_slice_with_the_windows_that_are_there():
    two = PLAIN._replace(id="two")
    events = (Activation(0, "one"), Activation(5, "two"))
    _, answer, spy = run(frames(range(8), models=events), Spy(models=[PLAIN, two]), forecast_every=3)
    assert [(id_, when - 1) for id_, _, when, _ in spy.asked] == [("one", 2), ("two", 5)]
    assert answer.model.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]


def test_a_model_with_a_longer_window_has_to_wait_and_one_with_other_features_begins_anew():
    long, other = PLAIN._replace(id="long", lookback=5), PLAIN._replace(id="other", features=("b", "x"))
    events = (Activation(0, "one"), Activation(4, "long"), Activation(8, "other"), Activation(12, ""))
    _, answer, spy = run(frames(range(14), models=events), Spy(models=[PLAIN, long, other]), forecast_every=1)
    # three bars were kept of the short windows: two more fill the long one
    assert [(id_, when - 1) for id_, _, when, _ in spy.asked] == [
        ("one", 2), ("one", 3), ("long", 5), ("long", 6), ("long", 7), ("other", 10), ("other", 11),
    ]  # fmt: skip
    assert spy.asked[2][3][:, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert answer.absence.tolist() == [
        NOT_WARM, NOT_WARM, NONE, NONE, NOT_WARM, NONE, NONE, NONE, NOT_WARM, NOT_WARM, NONE, NONE, NO_MODEL, NO_MODEL,
    ]  # fmt: skip


def test_a_model_that_is_not_there_stops_the_flow():
    with pytest.raises(KeyError, match="two"):
        run(frames(range(3), models=(Activation(1, "two"),)))


# Drift.


def unsure(window):
    """Sure up to the value 9, then half as sure: edges of 0.8 and 0.4."""
    edge = 0.8 if window[-1, 0] < 10 else 0.4
    middle = NormalDist().inv_cdf((1.0 + edge) / 2.0) * 0.02 / 2.5631031310892007
    return [[-0.01, middle, 0.01]] * 2


WATCH = drift.Params(window=4, least=4, share=0.8)


def test_a_model_that_is_less_sure_than_it_was_is_stopped_and_says_so():
    told = Spy(unsure, [PLAIN._replace(edge=0.8)])
    state, answer, _ = run(frames(range(20)), told, forecast_every=1, drift=WATCH)
    # bound 0.64; of the last four three are below it for the first time in slice 12
    assert answer.absence.tolist() == [NOT_WARM] * 2 + [NONE] * 10 + [DRIFTED] * 8
    (alarm,) = answer.alarms
    assert (alarm.ts, alarm.model, alarm.reference) == (13, 1, 0.8)
    assert alarm.edge == pytest.approx(0.4)
    count = len(told.asked)
    _, later = forecast.step(Params(forecast_every=1, drift=WATCH), told, state, frames(range(20), models=()))
    assert set(later.absence.tolist()) == {DRIFTED}
    assert not later.alarms
    assert len(told.asked) == count  # a model that is stopped is not asked


def test_a_stopped_model_begins_anew_when_it_is_activated_again():
    events = (Activation(0, "one"), Activation(15, "one"))
    told = Spy(unsure, [PLAIN._replace(edge=0.8)])
    _, answer, _ = run(frames(range(20), models=events), told, forecast_every=1, drift=WATCH)
    assert answer.absence.tolist()[11:] == [NONE, DRIFTED, DRIFTED, DRIFTED, NONE, NONE, NONE, DRIFTED, DRIFTED]


def test_a_copy_of_the_record_has_what_lies_between_its_fields():
    """States are hashed at a close: bytes that nobody wrote stopped a flow that came back there."""
    rows = drift.start().rows
    rows.view(np.uint8)[:] = 165
    for _ in range(20):  # whatever the memory held before
        assert drift.opened(drift.State(rows, np.zeros(0)), 3).rows.tobytes() == rows.tobytes()


@pytest.mark.parametrize(("edge", "share"), [(0.0, 0.8), (0.8, 0.0), (0.49, 0.8)])
def test_no_reference_no_share_or_a_fall_that_is_small_stops_nothing(edge, share):
    watch = drift.Params(window=4, least=4, share=share)
    told = Spy(unsure, [PLAIN._replace(edge=edge)])
    _, answer, _ = run(frames(range(20)), told, forecast_every=1, drift=watch)
    assert DRIFTED not in answer.absence.tolist()


@given(
    edges=st.lists(st.integers(0, 10).map(lambda k: k / 10), min_size=1, max_size=40),
    window=st.integers(1, 9), bound=st.sampled_from([0.25, 0.55]), data=st.data(),
)  # fmt: skip
def test_the_watch_agrees_with_counting_the_window(edges, window, bound, data):
    least = data.draw(st.integers(1, window))
    state = drift.opened(drift.start(), window)
    for k, edge in enumerate(edges):
        stopped = drift.note(state.rows[0], state.edges, edge, least, bound)
        last = edges[max(k + 1 - window, 0) : k + 1]
        assert stopped == (len(last) >= least and 2 * sum(one < bound for one in last) > len(last))


# Training and service.


@pytest.mark.parametrize(("seed", "beside"), [(1, False), (2, False), (3, False), (1, True), (2, True)])
def test_windows_in_service_are_those_of_training_bit_for_bit(seed, beside):
    """Bars go missing, nights, a holiday and splits come between: what training cuts, service asks, nothing else."""
    market = make(seed, sessions=14, symbols=3, dirt=0.01, beside=beside)
    names = ("price", "volume", "returns_1", "rsi_14", "sma_20", "minute_of_day", "day_of_week")
    data = Data(features=names, lookback=7, horizons=(1, 2), decision_horizon=1, every=1, gap_days=1)
    cut = dataset.build(data, market.calendar, market.chunks([40]))
    model = Model("one", names, data.lookback, data.gap_days, 0.0, 0.0, False, 0.0)
    spy = Spy(lambda _: [[0.0, 0.0, 0.0]] * 2, [model])
    states = {shard: (clean.start(), features.start(), forecast.start()) for shard in range(SHARDS)}
    params = Params(forecast_every=1)
    for frame in (frame for chunk in market.chunks([31, 77]) for frame in chunk):
        first = frame.slices.after == market.after
        told = replace(frame, models=(Activation(0, "one"),) if first else ())
        one, two, three = states[frame.shard]
        one, good = clean.step(clean.Params(), one, told)
        two, featured = features.step(features.Params(set="all"), two, good)
        three, _ = forecast.step(params, spy, three, featured)
        states[frame.shard] = one, two, three
    served = {(name, when): window for _, name, when, window in spy.asked}
    everything = np.arange(len(cut))
    trained = {(cut.symbols[number - 1], int(when)): window for number, when, window in
               zip(cut.symbol, cut.ts(), cut.windows(everything), strict=True)}  # fmt: skip
    assert len(trained) > 100
    for key, window in trained.items():
        assert served[key].tobytes() == window.tobytes()
    assert len(served) < 0.6 * market.table.ts.size  # holes break many windows
    for name, when in set(served) - set(trained):  # only those whose labels are not known
        number, place = cut.symbols.index(name) + 1, int(market.calendar.index_of(np.array([when]))[0])
        known = {int(grid) for who, grid in _bars(cut) if who == number}
        assert not {place + 1, place + 2} <= known


def _bars(cut):
    """(symbol number, slice) of every bar in the matrix."""
    counts = np.diff(np.flatnonzero(np.concatenate([[True], np.diff(cut.grid) <= 0, [True]])))
    return zip(np.repeat(np.arange(1, counts.size + 1), counts).tolist(), cut.grid.tolist(), strict=True)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"forecast_every": 12}, "forecast_every = 12, max_age_bars = 10"),
        ({"drift": {"window": 3, "least": 4}}, "least = 4, window = 3"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        Params(**{**params, **({"drift": drift.Params(**params["drift"])} if "drift" in params else {})})
