"""What holding would have brought, beside a walk over the bars one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import benchmark
from infra.barfiles import Table, write_tables
from infra.bars import open_bars
from operators.split import Columns
from tests.markets import make


def saved(folder, seed, names, dirt=0.02):
    """The made-up market's bars under other names."""
    market = make(seed, sessions=4, symbols=len(names), dirt=dirt)
    path = folder / f"{seed}.parquet"
    table = market.table
    write_tables(path, [Table(tuple(names), Columns(table.ts, table.symbol, *table[2:]))], has_quotes=True)
    return path


def slow(bars, members):
    """The mean of last / first close at each instant, one row after the other."""
    rows = [row for ts, symbol, close in bars.closes() for row in zip(ts, symbol, close, strict=True)]
    found = []
    for instant in bars.instants(benchmark.POINTS):
        first, last = {}, {}
        for ts, symbol, close in rows:
            if ts <= instant and close > 0 and np.isfinite(close):
                first.setdefault(symbol, close)
                last[symbol] = close
        found.append(np.mean([last[k] / first[k] if k in first else 1.0 for k in members]))
    return np.array(found)


@given(seed=st.integers(0, 1000), index=st.sampled_from(["SPY", "QQQ", None]))
def test_holding_agrees_with_the_slow_model(tmp_path_factory, seed, index):
    names = ["AAA", "BBB", index or "CCC", "DDD"]
    bars = open_bars(str(saved(tmp_path_factory.mktemp("b"), seed, names)), timeframe="30m")
    held = benchmark.of_bars(bars)
    members = [bars.universe.ids[index]] if index else list(range(4))
    assert held.about["name"] == (index or "equal weight of 4 symbols")
    ts, values = held.points()
    wanted = slow(bars, members)
    assert values == pytest.approx(wanted[-values.size :])
    assert (wanted[: -values.size] == 1.0).all()
    assert ts[-1] == bars.upto


def test_spy_is_preferred_and_only_a_run_s_own_symbols_count(tmp_path):
    path = saved(tmp_path, 3, ["AAA", "QQQ", "SPY"])
    assert benchmark.of_bars(open_bars(str(path), timeframe="30m")).about["name"] == "SPY"
    some = open_bars(str(path), timeframe="30m", symbols=["AAA", "QQQ"])
    assert benchmark.of_bars(some).about["name"] == "QQQ"
    one = open_bars(str(path), timeframe="30m", symbols=["AAA"])
    assert benchmark.of_bars(one).about["name"] == "AAA"


@given(step=st.integers(1, 50))
def test_a_curve_is_cut_to_the_run_and_keeps_the_value_before_it(step):
    ts = np.arange(0, 1000, step)
    found = benchmark.of_curve("x", "x.csv", ts, ts + 1.0, after=200, upto=700)
    kept, values = found.points()
    assert (kept == [t for t in ts if t <= 700 and t + step > 200]).all()
    assert (values == kept + 1.0).all()
