from datetime import date

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.bars import open_bars
from infra.synthetic import Market, Spec, parse, trend, write_parquet
from schemas.calendar import Calendar
from schemas.errors import UserError
from tests.infra.barkit import chunks, rows_by_shard

SPEC = "synthetic:symbols=12,days=3,seed=7"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UTP_CACHE_DIR", str(tmp_path / "cache"))


def columns(spec):
    """All bars of a market, and the tables they came in."""
    tables = [table.columns for table in Market(parse(spec)).tables()]
    return {name: np.concatenate([getattr(t, name) for t in tables]) for name in tables[0]._fields}


def test_the_same_spec_gives_the_same_bars_and_another_seed_others():
    assert chunks(open_bars(SPEC)) == chunks(open_bars(SPEC))
    assert rows_by_shard(open_bars(SPEC)) != rows_by_shard(open_bars("synthetic:symbols=12,days=3,seed=8"))


def test_what_the_source_says_of_itself():
    bars = open_bars(SPEC)
    assert bars.synthetic
    assert bars.has_quotes
    assert bars.label == "synthetic:symbols=12,days=3,seed=7,timeframe=1m,start=2024-01-02"
    assert bars.fingerprint == open_bars("synthetic:seed=7,days=3,symbols=12").fingerprint
    assert bars.fingerprint != open_bars("synthetic:symbols=12,days=3").fingerprint
    assert bars.universe.names == [f"SYN{i:03}" for i in range(12)]
    assert bars.timeframe == 1
    assert bars.slices == 3 * 390
    assert bars.rows == sum(frame.ts.size for chunk in bars.frames() for frame in chunk)


def test_more_days_only_append():
    short, long = columns(SPEC), columns("synthetic:symbols=12,days=5,seed=7")
    for name, values in short.items():
        assert np.array_equal(values, long[name][: values.size])


@pytest.mark.parametrize("timeframe", ["1m", "5m", "1h", "1d"])
def test_bars_lie_on_the_grid_with_possible_prices(timeframe):
    all_ = columns(f"synthetic:symbols=30,days=12,timeframe={timeframe},start=2024-06-28")
    calendar = Calendar(Market(parse(f"synthetic:timeframe={timeframe}")).timeframe, date(2024, 6, 1), date(2024, 8, 1))
    first, last = (calendar.index_after(int(ts) - 1) for ts in (all_["ts"][0], all_["ts"][-1]))
    grid = calendar.slices(first, last + 1, 0, 0).ts
    assert set(all_["ts"].tolist()) == set(grid.tolist())  # July 3rd is short, July 4th is none
    assert (np.diff(all_["ts"]) >= 0).all()
    assert (all_["low"] <= np.minimum(all_["open"], all_["close"])).all()
    assert (all_["high"] >= np.maximum(all_["open"], all_["close"])).all()
    assert (all_["low"] >= 0.01).all()
    assert ((all_["bid"] > 0) & (all_["bid"] <= all_["close"]) & (all_["close"] <= all_["ask"])).all()
    assert (all_["bid"] < all_["ask"]).all()
    assert (all_["volume"] >= 1).all()
    for name in ("open", "high", "low", "close", "bid", "ask"):
        assert np.array_equal(all_[name], np.rint(all_[name] * 100.0) / 100.0)


def test_liquid_symbols_have_every_bar_and_others_miss_some():
    bars = columns("synthetic:symbols=20,days=5")
    count = np.bincount(bars["symbol"], minlength=20)
    assert count.max() == 5 * 390
    assert (count == 5 * 390).sum() >= 10
    assert 5 * 390 * 0.8 < count.min() < 5 * 390


def test_symbols_move_together_and_the_day_is_busy_at_its_ends():
    bars = columns("synthetic:symbols=8,days=40,timeframe=30m,seed=3")
    close = np.full((40 * 13, 8), np.nan)
    slot = np.searchsorted(np.unique(bars["ts"]), bars["ts"])
    close[slot, bars["symbol"]] = bars["close"]
    returns = np.diff(np.log(close), axis=0)
    returns = returns[~np.isnan(returns).any(axis=1)]
    correlation = np.corrcoef(returns.T)
    assert 0.1 < correlation[~np.eye(8, dtype=bool)].mean() < 0.7
    volume = np.array([bars["volume"][slot % 13 == k].mean() for k in range(13)])
    assert min(volume[0], volume[-1]) > 1.5 * volume[6]


def test_the_signal_is_the_drift_of_the_trends_and_nothing_else():
    assert parse("synthetic:signal=20") == Spec()
    assert str(parse("synthetic:signal=40")).endswith(",signal=40")
    without, usual, strong = (
        np.log(columns(f"synthetic:symbols=1,days=30,timeframe=30m,seed=3,signal={signal}")["close"])
        for signal in (0, 20, 40)
    )
    bars = np.arange(usual.size)
    assert np.array_equal(bars, np.arange(without.size))
    drift, twice = usual - without, strong - without  # both from the same noise
    np.testing.assert_allclose(twice[:13], 2.0 * drift[:13], atol=2e-3)
    assert np.abs(drift).max() > 0.05
    steps = np.diff(without)
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1]) < 0.15


def test_prices_stay_tradable_for_decades():
    close = columns("synthetic:symbols=10,days=6000,timeframe=1d,start=2000-01-03")["close"]
    assert 2.0 <= close.min() < close.max() <= 5000.0


def test_trends_last_and_go_all_ways():
    blocks = trend(1, np.arange(50), np.arange(400)[:, None])
    assert {-1.0, 0.0, 1.0} == set(np.unique(blocks))
    assert abs(blocks.mean()) < 0.05
    assert abs(np.corrcoef(blocks[:-1].ravel(), blocks[1:].ravel())[0, 1]) < 0.05


def test_a_written_market_is_the_market(tmp_path):
    path = tmp_path / "market.parquet"
    assert write_parquet(path, SPEC) == open_bars(SPEC).rows
    assert chunks(open_bars(str(path))) == chunks(open_bars(SPEC))
    assert not list((tmp_path / "cache" / "bars").glob("*.parquet"))  # in order of time as it is
    write_parquet(path, "synthetic:symbols=100,days=8")
    file = pq.ParquetFile(path).metadata
    assert {file.row_group(i).num_rows for i in range(file.num_row_groups - 1)} == {131_072}


def test_resuming_at_any_chunk_is_the_tail():
    bars = open_bars(SPEC, frame_slices=200)
    whole = chunks(bars)
    for first in range(bars.chunks + 1):
        assert chunks(bars, first=first) == whole[first:]


def test_choice_of_symbols_and_range():
    whole = open_bars(SPEC)
    start = whole.first_ts + 100 * 60_000_000_000
    stop = whole.last_ts - 500 * 60_000_000_000
    part = open_bars(SPEC, symbols=["SYN003", "syn010"], start=start, stop=stop)
    frames = [frame for chunk in part.frames() for frame in chunk]
    assert part.universe.names == ["SYN003", "SYN010"]
    assert sum(frame.ts.size for frame in frames) == part.rows > 0
    assert min(f.ts[0] for f in frames if f.ts.size) == part.first_ts >= start
    assert max(f.ts[-1] for f in frames if f.ts.size) == part.last_ts <= stop


def test_the_timeframe_may_come_from_either_side():
    assert open_bars("synthetic:days=2", timeframe="5m").timeframe == 5
    assert open_bars("synthetic:days=2,timeframe=5m").timeframe == 5
    assert open_bars("synthetic").label == str(Spec())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("synthetic:symbol=3", "unknown key 'symbol'; did you mean symbols?"),
        ("synthetic:symbols", "symbols=: want a whole number"),
        ("synthetic:days=0", "days=0: want 1 to 15000"),
        ("synthetic:days=many", "days=many: want a whole number"),
        ("synthetic:symbols=-1", "symbols=-1: want a whole number"),
        ("synthetic:timeframe=7m", "timeframe=7m; did you mean"),
        ("synthetic:signal=201", "signal=201: want 0 to 200"),
        ("synthetic:start=January", "start=January: want a date such as 2024-01-02"),
        ("synthetic:start=1980-01-01", "start=1980-01-01: want 1990-01-01 to"),
        ("synthetic:start=2045-01-01,days=5000", "the calendar ends on 2049-12-31"),
    ],
)
def test_specs_that_are_refused(spec, message):
    with pytest.raises(UserError) as error:
        open_bars(spec)
    assert message in str(error.value)


def test_two_timeframes_are_one_too_many():
    with pytest.raises(UserError, match="timeframe=1m, but 5m was asked for"):
        open_bars("synthetic:timeframe=1m", timeframe="5m")
