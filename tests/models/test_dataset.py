"""Windows and labels against a slow model made of dictionaries; and nothing from the future in them."""

import gc
import tracemalloc
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.bars import open_bars
from infra.reference import Action, Reference
from models import dataset, inputs
from models.training import Data
from operators import clean, features, known
from operators.drive import replay
from operators.forecast import LEAST_VOLATILITY
from schemas.calendar import Calendar
from schemas.errors import UserError
from tests.markets import altered_after, cuts, make, markets

DATA = Data(
    features=("price", "volume", "returns_1", "sma_5", "minute_of_day", "day_of_week"),
    lookback=4, horizons=(2, 3), decision_horizon=2, every=1, gap_days=1,
)  # fmt: skip


def built(market, data=DATA, where=()):
    return dataset.build(data, market.calendar, market.chunks(list(where)))


def try_built(market, data=DATA, where=()):
    """A dataset, or None where the market is too small for one."""
    try:
        return built(market, data, where)
    except UserError:
        return None


def bars_of(market):
    """(name, slice) -> (open, close, features), by the operators, shard by shard; prices without a step at a split."""
    rows = {}
    names = market.universe.names
    params = features.Params(set="all")
    for shard in range(16):
        frames = [frame for chunk in market.chunks() for frame in chunk if frame.shard == shard]
        bars = list(replay(clean.start(), lambda s, f: clean.step(clean.Params(), s, f), frames))
        for answer in replay(features.start(), lambda s, f: features.step(params, s, f), bars):
            b = answer.bars
            for i in range(b.at.size):
                slot = int(market.calendar.index_of(b.slices.ts[b.at[i : i + 1]])[0])
                values = {name: answer.values[i, k] for k, name in enumerate(answer.names)}
                scale = b.scale[i] if b.scale.size else 1.0
                rows[names[b.symbol[i]], slot] = (b.open[i] * scale, b.close[i] * scale, values)
    return rows


def slow(market, data):
    """Every sample as {(slice, name): (window, label, volatility, entry)}."""
    rows = bars_of(market)
    found = {}
    for name, slot in rows:
        past = [(name, slot + k) for k in range(1 - data.lookback, 1)]
        ahead = [(name, slot + h) for h in data.horizons]
        if slot % data.every or any(key not in rows for key in (*past, *ahead)):
            continue
        days = np.diff(market.calendar.session_at(np.array([key[1] for key in past])))
        window = np.array([[rows[key][2][feature] for feature in data.features] for key in past])
        if not np.isfinite(window).all() or (days > data.gap_days).any():
            continue
        moves = window[:, data.features.index("returns_1")]
        volatility = max(np.sqrt(np.mean(moves**2)), LEAST_VOLATILITY)
        close = rows[name, slot][1]
        label = [
            np.log(rows[key][1] / close) / (volatility * np.sqrt(h))
            for key, h in zip(ahead, data.horizons, strict=True)
        ]
        following = min(k for n, k in rows if n == name and k > slot)
        found[slot, name] = (window, label, volatility, np.log(rows[name, following][0] / close))
    return found


@given(markets, st.integers(1, 3), st.sampled_from([0, 1, 4]))
def test_samples_are_those_of_a_slow_model(market, every, gap_days):
    data = Data(features=DATA.features, lookback=4, horizons=(2, 3), decision_horizon=2, every=every, gap_days=gap_days)
    expected = slow(market, data)
    ds = try_built(market, data)
    if ds is None:
        assert not expected
        return
    keys = [(int(slot), ds.symbols[number - 1]) for slot, number in zip(ds.at, ds.symbol, strict=True)]
    assert keys == sorted(expected)
    every_one = np.arange(len(ds))
    for k, window in enumerate(ds.windows(every_one)):
        raw, label, volatility, entry = expected[keys[k]]
        assert np.array_equal(window, raw.astype(np.float32))
        np.testing.assert_allclose(ds.label[k], label, rtol=2e-4, atol=2e-4)
        assert ds.volatility[k] == pytest.approx(volatility, rel=1e-5)
        assert ds.entry[k] == pytest.approx(entry, abs=1e-6)
    k = ds.data.horizons.index(ds.data.decision_horizon)
    gain = ds.label[:, k] * ds.volatility * np.sqrt(ds.data.decision_horizon) - ds.entry
    np.testing.assert_allclose(ds.returns(every_one), gain, atol=1e-6)


@given(markets, cuts)
def test_the_size_of_a_frame_changes_nothing(market, where):
    one, other = try_built(market), try_built(market, where=where)
    if one is None or other is None:
        assert one is other
        return
    for name in ("matrix", "grid", "end", "symbol", "label", "volatility", "entry"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    for column, same in zip(one.around, other.around, strict=True):
        assert column.tobytes() == same.tobytes()


@pytest.mark.parametrize("every", [4, 5])
def test_which_bars_are_samples_does_not_depend_on_where_the_calendar_begins(every):
    data = Data(features=DATA.features, lookback=4, horizons=(2, 3), decision_horizon=2, every=every)
    market = make(5, sessions=6)
    longer = replace(market, calendar=Calendar(30, date(2020, 1, 2), date(2024, 12, 31)))
    shift = int(np.diff([m.calendar.index_of(np.array([market.upto]))[0] for m in (market, longer)])[0])
    assert shift % every  # else there is nothing to see
    longer = replace(longer, first=market.first + shift, last=market.last + shift)
    one, other = built(market, data), built(longer, data)
    assert len(one) > 10
    assert np.array_equal(one.at + shift, other.at)
    assert one.label.tobytes() == other.label.tobytes()


def test_a_split_is_no_return():
    """Eight for one in the raw prices, told by the reference data: labels are those of prices that never split."""
    market = make(5, sessions=6, symbols=2, dirt=0.0)
    at = market.calendar.ts_at(market.first + 30)
    later = market.table.ts >= at
    cut = {name: np.where(later, getattr(market.table, name) / 8.0, getattr(market.table, name))
           for name in ("open", "high", "low", "close", "bid", "ask")}  # fmt: skip
    volume = np.where(later, market.table.volume * 8.0, market.table.volume)
    actions = tuple(Action(at, name, 8, 1, 0) for name in sorted(market.universe.names))
    told = replace(market, table=market.table._replace(**cut, volume=volume),
                   reference=Reference(market.universe, actions=actions, stale_days=20))  # fmt: skip
    one, other, untold = built(market), built(told), built(replace(told, reference=None))
    for name in ("end", "label", "volatility", "entry"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()  # by 8: not a bit is lost
    assert np.abs(untold.label).max() > 3.0 * np.abs(one.label).max()


@given(st.integers(0, 2**32), st.integers(20, 60))
def test_the_future_changes_no_window_and_no_label_that_was_known(seed, slot):
    market = make(seed, sessions=6, dirt=0.0)
    one, other = built(market), built(altered_after(market, slot, seed))
    border = market.first + slot
    seen = [np.flatnonzero(ds.at <= border) for ds in (one, other)]
    known_by_then = [np.flatnonzero(ds.label_end <= border) for ds in (one, other)]
    assert known_by_then[0].size
    assert np.array_equal(one.label[known_by_then[0]], other.label[known_by_then[1]])
    assert [len(part) for part in known_by_then] == [int((ds.label_end <= border).sum()) for ds in (one, other)]
    assert np.array_equal(one.windows(seen[0]), other.windows(seen[1]))
    assert np.array_equal(one.future(seen[0]), other.future(seen[1]))
    for column, same in zip(one.around.at(seen[0]), other.around.at(seen[1]), strict=True):
        assert np.array_equal(column, same)


def test_what_is_known_of_the_future_is_what_comes():
    market = make(3, sessions=6, symbols=1, dirt=0.0)
    ds = built(market)
    future = ds.future(np.arange(len(ds)))
    bars = bars_of(market)
    name = market.universe.names[0]
    for k, slot in enumerate(ds.at.tolist()):
        for h, bars_ahead in enumerate(ds.data.horizons):
            values = bars[name, slot + bars_ahead][2]
            assert future[k, h, :2].tolist() == [values["minute_of_day"], values["day_of_week"]]
    assert set(future[..., known.NAMES.index("nights")].ravel()) == {0.0, 1.0}


def test_a_window_ends_where_the_data_do():
    matrix = np.arange(40, dtype=np.float32).reshape(20, 2)
    found = dataset.windows(matrix, 3, np.array([2, 19, 7]))
    assert found.shape == (3, 3, 2)
    for window, end in zip(found, (2, 19, 7), strict=True):
        assert np.array_equal(window, matrix[end - 2 : end + 1])


def test_it_needs_half_as_much_again_as_the_matrix():
    bars = open_bars("synthetic:symbols=6,days=160,seed=7", frame_slices=390)
    dataset.build(Data(), bars.calendar, first_days(bars, 30))  # compiles, imports
    gc.collect()
    tracemalloc.start()
    try:
        ds = dataset.build(Data(), bars.calendar, bars.frames(), bars.rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 1.5 * ds.matrix.nbytes


def first_days(bars, days):
    return [chunk for _, chunk in zip(range(days), bars.frames(), strict=False)]


def test_too_few_bars_are_said_with_the_remedy():
    with pytest.raises(UserError, match=r"no 120 of them in a row with 60 more.*training.data.lookback"):
        dataset.build(Data(), make(1).calendar, make(1).chunks())


def test_scale_free_means_that_no_split_changes_it():
    rng = np.random.default_rng(0)
    names = [name for name in features.ORDER if name not in ("volume",)]
    rows = rng.uniform(1.0, 2.0, (50, len(names)))
    split = rows.copy()
    for name in ("price", *inputs.LEVELS, *inputs.AMOUNTS):
        split[:, names.index(name)] *= 7.0
    one, other = (np.stack(inputs.scale_free(names, x, 0.01, np.log1p)) for x in (rows, split))
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    assert len(one) == len(inputs.observed(names)) == len(names) - len(inputs.CALENDAR)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ("price",)}, "returns_1 is missing"),
        ({"features": ("price", "nonsense")}, "there is no nonsense"),
        ({"horizons": (30, 10)}, "ascending"),
        ({"decision_horizon": 7}, "decision_horizon = 7"),
    ],
)
def test_impossible_choices_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Data(**change)
