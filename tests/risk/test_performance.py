"""LEAN's numbers, slow obvious models, and what must not matter."""

import csv
import gzip
import json
import math
import statistics
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from risk import performance as perf
from risk.performance import Trades
from schemas.units import NS_PER_SECOND

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
CASES = DATA / "reference_cases" / "statistics.json"
KNOWN = json.loads(CASES.read_bytes())["cases"] if CASES.exists() else []


def numbers(*values):
    return np.array(values, np.float64)


# Numbers from elsewhere.


@cache
def raw_returns(symbol):
    table = pq.read_table(DATA / "lean" / "daily.parquet", columns=["symbol", "close"])
    return perf.returns_of(table.filter(pc.equal(table["symbol"], symbol))["close"].to_numpy())


def repeated(text):
    """`-350 x252`, `0.5 x176 then 1.5 x176`."""
    parts = [part.split(" x") for part in text.split(" then ")]
    return np.concatenate([np.full(int(times), float(value)) for value, times in parts])


def recovery(inputs):
    equity = numbers(*inputs["daily_equity"])
    days = np.arange(equity.size) * float(inputs["spacing_days"])
    return {"recovery_days": perf.max_drawdown_recovery_days(equity, days)}


def probabilistic(inputs):
    returns, free = numbers(*inputs["returns"]), inputs["risk_free_per_sample"]
    target = inputs.get("benchmark_sharpe")
    if target is None:
        target = perf.observed_sharpe(numbers(*inputs["benchmark_returns"]))
    if isinstance(free, list):
        low, high = (perf.probabilistic_sharpe(returns, target, each, form="lean") for each in free)
        assert low > 0.5 > high
        return {"relation": "psr(rf=0) > 0.5 and psr(rf=0.6) < 0.5"}
    return {"psr": perf.probabilistic_sharpe(returns, target, free, form="lean")}


def annual(inputs):
    returns = repeated(inputs["returns"]) if "returns" in inputs else raw_returns("spy")
    return {"annual_performance": perf.annual_performance(returns, inputs["trading_days_per_year"])}


def tracking(inputs):
    if "returns" in inputs:
        pair = repeated(inputs["returns"]), repeated(inputs["benchmark_returns"])
    else:
        pair = raw_returns("aapl")[:252], raw_returns("spy")[:252]
    return {"tracking_error": perf.tracking_error(*pair, inputs["trading_days_per_year"], form="lean")}


def portfolio(inputs):
    return perf.portfolio_statistics(
        numbers(*inputs["daily_returns"]),
        numbers(*inputs["benchmark_returns"]),
        inputs["risk_free_rate"],
        inputs["trading_days_per_year"],
    )


def rolling(inputs):
    benchmark = perf.returns_of(numbers(*inputs["benchmark_values"]))[1:]
    returns = numbers(*inputs["performance_percent"])[2:] / 100
    return {"beta": perf.rolling_beta(returns, benchmark, inputs["window"])}


def trade_numbers(inputs):
    found = perf.trade_statistics(trades_of(inputs["trades"]), "lean")
    for edge in ("start", "end"):
        ts = found[f"{edge}_ts"]
        found[f"{edge}_offset_seconds"] = None if math.isnan(ts) else ts / NS_PER_SECOND
    return found


def trades_of(rows):
    def column(name):
        return numbers(*(row[name] for row in rows))

    def instants(name):
        return (column(name) * NS_PER_SECOND).astype(np.int64)

    return Trades(
        instants("entry_offset_s"), instants("exit_offset_s"), column("pnl"), column("fees"),
        column("entry_price") * column("quantity"), column("mae"), column("mfe"), column("end_trade_drawdown"),
    )  # fmt: skip


ANSWERS = {
    "max_drawdown_recovery_days": recovery,
    "probabilistic_sharpe": probabilistic,
    "annual_performance": annual,
    "tracking_error": tracking,
    "portfolio_statistics": portfolio,
    "rolling_beta": rolling,
    "trade_statistics": trade_numbers,
}


@pytest.mark.skipif(not KNOWN, reason=f"no reference cases: {CASES}")
def test_there_are_reference_cases_for_every_function():
    assert {case["function"] for case in KNOWN} == set(ANSWERS)
    assert len(KNOWN) == 19


@pytest.mark.parametrize("case", KNOWN, ids=[case["id"] for case in KNOWN])
def test_the_reference_case(case):
    if "dataset" in case["inputs"] and not (DATA / "lean" / "daily.parquet").exists():
        pytest.skip("no sample bars: shared/data/lean/daily.parquet")
    found = ANSWERS[case["function"]](case["inputs"])
    for name, want in case["expected"].items():
        if want is None or isinstance(want, str):
            assert found[name] == want, name
        else:
            assert found[name] == pytest.approx(want, rel=0, abs=case["tol"]), name


def test_value_at_risk_is_that_of_the_reference_file():
    path = DATA / "indicators" / "value_at_risk_252.csv.gz"
    if not path.exists():
        pytest.skip(f"no reference values: {path}")
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    returns = numbers(*(float(row["returns"]) for row in rows if row["returns"]))
    for name, confidence in (("var_95", 0.95), ("var_99", 0.99)):
        want = numbers(*(float(row[name] or "nan") for row in rows[1:]))
        found = perf.rolling_value_at_risk(returns, 252, confidence)
        assert np.isnan(found).tolist() == np.isnan(want).tolist()
        assert np.nanmax(np.abs(found - want)) < 0.0005


# By hand.


def test_two_years_of_ten_percent():
    returns = numbers(0.21, 0.0)
    assert perf.total_return(returns) == pytest.approx(0.21)
    assert perf.cagr(returns, periods=1) == pytest.approx(0.1)
    assert perf.calendar_cagr(0.21, 730) == pytest.approx(0.1)
    assert perf.annual_performance(returns, periods=1) == pytest.approx(0.105)  # the mean, so more


def test_a_fall_and_what_came_of_it():
    equity = numbers(100, 120, 90, 96, 120, 119, 118, 117, 110)
    assert perf.max_drawdown(equity) == 0.25
    assert perf.max_drawdown_duration(equity) == 4  # the last one, still open
    assert perf.max_drawdown_recovery_days(equity, np.arange(9.0)) == 3
    assert perf.calmar(0.5, 0.25) == 2


def test_sharpe_and_sortino_in_both_forms():
    returns = numbers(0.03, -0.01, 0.02, -0.02)  # mean 0.005
    deviation = math.sqrt((0.025**2 + 0.015**2 + 0.015**2 + 0.025**2) / 3)
    assert perf.sharpe(returns, 0.004, periods=4) == pytest.approx((0.005 - 0.001) / deviation * 2)
    assert perf.sharpe(returns, 0.004, periods=4, form="lean") == pytest.approx(
        (1.005**4 - 1 - 0.004) / (deviation * 2)
    )
    downside = math.sqrt((0.011**2 + 0.021**2) / 4)
    assert perf.sortino(returns, 0.004, periods=4) == pytest.approx(0.004 / downside * 2)
    assert perf.sortino(returns, 0.004, periods=4, form="lean") == pytest.approx(
        (1.005**4 - 1 - 0.004) / (math.sqrt(2 * 0.005**2) * 2)
    )


def test_twice_the_benchmark_and_a_little_more():
    benchmark = numbers(0.01, -0.02, 0.03, 0.0)
    returns = 2 * benchmark + 0.001
    assert perf.beta(returns, benchmark) == pytest.approx(2)
    assert perf.correlation(returns, benchmark) == pytest.approx(1)
    # r - rf = 2 (b - rf) + 0.001 + rf
    assert perf.alpha(returns, benchmark, 0.04, 252) == pytest.approx(0.001 * 252 + 0.04)
    difference = benchmark + 0.001
    error = difference.std(ddof=1) * math.sqrt(252)
    assert perf.tracking_error(returns, benchmark) == pytest.approx(error)
    assert perf.information_ratio(returns, benchmark) == pytest.approx(difference.mean() * 252 / error)
    assert perf.treynor(returns, benchmark, 0.04) == pytest.approx((returns.mean() * 252 - 0.04) / 2)
    own, other = (1 + returns.mean()) ** 252 - 1, (1 + benchmark.mean()) ** 252 - 1
    assert perf.alpha(returns, benchmark, 0.04, form="lean") == pytest.approx(own - (0.04 + 2 * (other - 0.04)))
    assert perf.information_ratio(returns, benchmark, form="lean") == pytest.approx((own - other) / error)
    assert perf.treynor(returns, benchmark, 0.04, form="lean") == pytest.approx((own - 0.04) / 2)


def test_the_tail_is_counted_from_thirty_returns_on():
    few = np.linspace(-0.1, 0.1, 29)
    assert perf.cvar(few) == pytest.approx(2.0627 * few.std(ddof=1), rel=1e-4)
    many = np.concatenate([[-0.30, -0.20], np.linspace(0.0, 0.1, 38)])  # 5 % is at place 1.95
    assert perf.cvar(many) == pytest.approx(0.25)
    assert perf.value_at_risk(many, form="historical") == pytest.approx(-0.20 * 0.05 + 0.0 * 0.95)
    assert perf.value_at_risk(few) == pytest.approx(-1.6449 * few.std(ddof=1), rel=1e-4)


def test_lean_takes_the_excess_kurtosis_for_the_kurtosis():
    returns = numbers(*np.tile([0.01, -0.005, 0.004, 0.0, -0.03, 0.02, 0.011], 8))
    observed, skew, excess = perf.observed_sharpe(returns), perf._skewness(returns), perf._excess_kurtosis(returns)
    for form, kurtosis in (("textbook", excess + 3), ("lean", excess)):
        sigma = math.sqrt((1 - skew * observed + (kurtosis - 1) / 4 * observed**2) / 55)
        want = statistics.NormalDist().cdf((observed - 0.02) / sigma)
        assert perf.probabilistic_sharpe(returns, 0.02, form=form) == pytest.approx(want)


def test_use_of_capital():
    assert perf.turnover(numbers(100, 0, 50), numbers(100, 100, 100)) == 0.5
    assert perf.exposure(numbers(50, 0), numbers(100, 100)) == 0.25
    assert perf.time_in_market(numbers(50, 0, 1, 0)) == 0.5


def test_the_old_names():
    equity = numbers(100, 110, 99, 132)
    trades = made_up([3.0, -1.0])
    found = perf.legacy_names(equity, trades, numbers(0, 55, 0, 0), periods=3)
    assert found == {
        "total_return": pytest.approx(0.32),
        "cagr": pytest.approx(0.32),
        "win_rate": 0.5,
        "max_drawdown": pytest.approx(0.1),
        "num_trades": 2,
        "avg_trade_return": pytest.approx(0.01),
        "sharpe_like": pytest.approx(perf.observed_sharpe(perf.returns_of(equity)) * math.sqrt(3)),
        "exposure_pct": 0.125,
        "avg_holding_seconds": 60,
        "final_equity": 132,
    }
    assert math.isnan(perf.legacy_names(equity)["win_rate"])
    assert math.isnan(perf.legacy_names(equity)["exposure_pct"])


# What is undefined.

NOTHING, ONE = numbers(), numbers(0.01)
FLAT = np.full(40, 0.001)


@pytest.mark.parametrize("returns", [NOTHING, ONE], ids=["none", "one"])
def test_too_few_returns_are_no_number(returns):
    for found in (
        perf.annual_variance(returns), perf.annual_volatility(returns), perf.sharpe(returns),
        perf.probabilistic_sharpe(returns), perf.beta(returns, returns), perf.alpha(returns, returns),
        perf.tracking_error(returns, returns), perf.information_ratio(returns, returns),
        perf.treynor(returns, returns), perf.correlation(returns, returns), perf.value_at_risk(returns),
        perf.cvar(returns),
    ):  # fmt: skip
        assert math.isnan(found)
    found = perf.portfolio_statistics(ONE, ONE, 0.0)
    assert {found[name] for name in ("annual_variance", "sharpe", "sortino", "beta", "alpha", "treynor")} == {0.0}


def test_nothing_is_no_number():
    for found in (
        perf.total_return(NOTHING), perf.cagr(NOTHING), perf.annual_performance(NOTHING), perf.sortino(NOTHING),
        perf.max_drawdown(NOTHING), perf.value_at_risk(NOTHING, form="historical"), perf.time_in_market(NOTHING),
        perf.turnover(NOTHING, NOTHING), perf.exposure(NOTHING, NOTHING), perf.calendar_cagr(0.1, 0),
        perf.legacy_names(NOTHING)["final_equity"], perf.calmar(0.1, 0.0),
    ):  # fmt: skip
        assert math.isnan(found)
    assert perf.max_drawdown_duration(NOTHING) == 0


@pytest.mark.parametrize("returns", [FLAT, perf.returns_of(perf.curve_of(FLAT))], ids=["exact", "rounded"])
def test_without_variation_there_is_no_ratio(returns):
    """Rounding is no variation: the ratio would be in the millions of billions."""
    assert perf.annual_volatility(returns) == 0
    assert math.isnan(perf.sharpe(returns))
    assert math.isnan(perf.sortino(returns, 0.0))
    assert math.isnan(perf.probabilistic_sharpe(returns))
    assert math.isnan(perf.beta(returns, returns))
    assert perf.sharpe(returns, form="lean") == 0
    assert perf.probabilistic_sharpe(returns, form="lean") == 0
    assert perf.alpha(returns, returns, form="lean") == 0


def test_a_missing_return_makes_the_answer_missing():
    returns = numbers(*[0.01, float("nan"), -0.02] * 20)
    whole = np.linspace(-0.1, 0.1, 60)
    for found in (
        perf.total_return(returns), perf.cagr(returns), perf.sharpe(returns), perf.sortino(returns),
        perf.probabilistic_sharpe(returns), perf.beta(returns, whole), perf.alpha(whole, returns),
        perf.value_at_risk(returns), perf.value_at_risk(returns, form="historical"), perf.cvar(returns),
        perf.max_drawdown(returns),
    ):  # fmt: skip
        assert math.isnan(found)


def test_everything_lost():
    assert perf.cagr(numbers(-0.5, -1.0)) == -1
    assert perf.max_drawdown(numbers(10, 0)) == 1
    assert math.isnan(perf.cagr(numbers(-0.5, -3.0, 0.1)))  # equity below zero


@pytest.mark.parametrize("answer", [perf.beta, perf.tracking_error, perf.correlation, perf.exposure])
def test_samples_must_belong_together(answer):
    with pytest.raises(ValueError, match="4 samples beside 3"):
        answer(np.zeros(4), np.zeros(3))


def test_leans_tracking_error_of_different_lengths_is_zero():
    assert perf.tracking_error(np.zeros(4), np.ones(3), form="lean") == 0


# Round trips.


def made_up(pnl, mae=None, mfe=None):
    pnl = numbers(*pnl)
    begin = np.arange(pnl.size) * 60 * NS_PER_SECOND
    none = np.full(pnl.size, np.nan)
    return Trades(
        begin, begin + 60 * NS_PER_SECOND, pnl, np.ones(pnl.size), np.full(pnl.size, 100.0),
        none if mae is None else numbers(*mae), none if mfe is None else numbers(*mfe), none,
    )  # fmt: skip


def test_what_trades_do_not_show_is_missing():
    found = perf.trade_statistics(made_up([5.0, 5.0]))
    for name in (
        "average_loss", "largest_loss", "profit_factor", "win_loss_ratio", "profit_loss_ratio", "sharpe_ratio",
        "sortino_ratio", "profit_to_max_drawdown_ratio", "average_mae", "largest_mfe",
        "average_losing_trade_duration_seconds",
    ):  # fmt: skip
        assert math.isnan(found[name]), name
    assert (found["win_rate"], found["loss_rate"], found["total_loss"], found["expectancy"]) == (1, 0, 0, 5)
    lean = perf.trade_statistics(made_up([5.0, 5.0]), "lean")
    assert [lean[name] for name in ("profit_factor", "win_loss_ratio", "sharpe_ratio")] == [10, 10, 0]
    assert math.isnan(lean["average_mae"])  # not measured, which is not zero


def test_a_trade_that_earns_nothing_is_a_loss():
    found = perf.trade_statistics(made_up([0.0]))
    assert (found["win_rate"], found["number_of_losing_trades"]) == (0, 1)
    assert math.isnan(found["profit_factor"])
    assert perf.trade_statistics(made_up([0.0]), "lean")["profit_factor"] == 0


def test_equal_prices_of_one_tenth_do_not_vary():
    assert perf.trade_statistics(made_up([0.1] * 3))["profit_loss_standard_deviation"] == 0


def test_a_drawdown_lasts_until_a_winner_makes_a_new_high():
    # closed profit 5 2 4 6 6 1: from the exit at 60 s to that at 240 s; the last fall stays open
    found = perf.trade_statistics(made_up([5.0, -3.0, 2.0, 2.0, 0.0, -5.0]))
    assert found["max_drawdown_duration_seconds"] == 180
    assert found["max_closed_trade_drawdown"] == -5


def test_expectancy_is_in_dollars_or_in_average_losses():
    found = perf.trade_statistics(made_up([6.0, 6.0, -3.0, -1.0]))
    assert found["expectancy"] == pytest.approx(0.5 * 6 - 0.5 * 2)
    assert found["expectancy_ratio"] == pytest.approx(0.5 * 3 - 0.5)
    assert found["profit_factor"] == 3
    assert found["sortino_ratio"] == pytest.approx(2 / math.sqrt(10 / 4))


# Slow models.


def slow_trades(trades):
    """The rules of the reference cases, one trade after the other."""
    peak = best = total = 0.0
    runs = {True: 0, False: 0}
    most = {True: 0, False: 0}
    fall = inner = 0.0
    longest, left, falling = 0, None, False
    for entry, leave, pnl, mae, mfe in zip(
        trades.entry_ts, trades.exit_ts, trades.pnl, trades.mae, trades.mfe, strict=True
    ):
        left = entry if left is None else left
        best = max(best, total + mfe)
        inner = min(inner, total + mae - best)
        total += pnl
        won = bool(pnl > 0)
        runs[won], runs[not won] = runs[won] + 1, 0
        most[won] = max(most[won], runs[won])
        if won and total > peak:
            if falling:
                longest = max(longest, leave - left)
            peak, left, falling = total, leave, False
        elif not won:
            fall, falling = min(fall, total - peak), True
    return {
        "max_consecutive_winning_trades": most[True],
        "max_consecutive_losing_trades": most[False],
        "max_closed_trade_drawdown": fall,
        "max_intra_trade_drawdown": inner,
        "max_drawdown_duration_seconds": longest / NS_PER_SECOND,
    }


@given(rows=st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=30))
def test_trades_agree_with_the_slow_model(rows):
    pnl, low, high = zip(*rows, strict=True)
    trades = made_up(pnl, [-abs(value) for value in low], [abs(value) for value in high])
    found = perf.trade_statistics(trades)
    want = slow_trades(trades)
    assert {name: found[name] for name in want} == want


@given(levels=st.lists(st.integers(1, 6), max_size=40))
def test_drawdowns_agree_with_the_slow_model(levels):
    peak, top, deepest, run, longest, recovered = 0, 0, 0.0, 0, 0, 0
    for day, level in enumerate(levels):
        if level >= peak:
            if run:
                recovered = max(recovered, day - top)
            peak, top, run = level, day, 0
        else:
            run += 1
            longest, deepest = max(longest, run), max(deepest, (peak - level) / peak)
    equity = numbers(*levels)
    assert perf.max_drawdown_duration(equity) == longest
    assert perf.max_drawdown_recovery_days(equity, np.arange(float(len(levels)))) == recovered
    if levels:
        assert perf.max_drawdown(equity) == deepest


grid = st.integers(-90, 90).map(lambda value: value / 1000)  # no deviation of the size of rounding
series = st.lists(grid, min_size=4, max_size=40).map(lambda values: numbers(*values))
pairs = st.lists(st.tuples(grid, grid), min_size=4, max_size=40).map(
    lambda rows: (numbers(*(r for r, _ in rows)), numbers(*(b for _, b in rows)))
)


def close(value):
    return pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True)


@given(returns=series)
def test_moments_agree_with_the_library_and_definitions(returns):
    values, n = returns.tolist(), returns.size
    assert perf.annual_variance(returns) == close(statistics.variance(values) * 252)
    assume(len(set(values)) > 1)
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    third = sum((x - mean) ** 3 for x in values) / n
    spread = statistics.pvariance(values)
    assert perf._skewness(returns) == close(third / spread**1.5 * math.sqrt(n * (n - 1)) / (n - 2))
    fourth = sum((x - mean) ** 4 for x in values) / n
    excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (fourth / spread**2 - 3) + 6)
    assert perf._excess_kurtosis(returns) == close(excess)
    assert perf.observed_sharpe(returns) == close(mean / deviation)


@given(pair=pairs)
def test_beta_and_correlation_agree_with_the_library(pair):
    returns, benchmark = pair
    assume(len(set(returns.tolist())) > 1 and len(set(benchmark.tolist())) > 1)
    assert perf.beta(returns, benchmark) == close(
        statistics.linear_regression(benchmark.tolist(), returns.tolist()).slope
    )
    assert perf.correlation(returns, benchmark) == close(statistics.correlation(*map(np.ndarray.tolist, pair)))


# What must not matter.

scales = st.sampled_from([0.25, 0.5, 3.0, 10.0])


@given(returns=series, scale=scales)
def test_leverage_does_not_change_ratios(returns, scale):
    assert perf.sharpe(scale * returns, 0.0) == close(perf.sharpe(returns, 0.0))
    assert perf.sortino(scale * returns, 0.0) == close(perf.sortino(returns, 0.0))
    assert perf.annual_volatility(scale * returns) == close(scale * perf.annual_volatility(returns))
    assert perf.value_at_risk(scale * returns) == close(scale * perf.value_at_risk(returns))
    assert perf.cvar(scale * returns) == close(scale * perf.cvar(returns))
    assert perf.probabilistic_sharpe(scale * returns) == close(perf.probabilistic_sharpe(returns))


@given(returns=series, shift=grid)
def test_a_sure_return_moves_the_middle_and_not_the_spread(returns, shift):
    assert perf.annual_volatility(returns + shift) == close(perf.annual_volatility(returns))
    assert perf.sharpe(returns + shift, 252 * shift) == close(perf.sharpe(returns, 0.0))
    assert perf.sortino(returns + shift, 252 * shift) == close(perf.sortino(returns, 0.0))
    assert perf.value_at_risk(returns + shift) == close(perf.value_at_risk(returns) + shift)


@given(pair=pairs, scale=scales, shift=grid)
def test_beta_is_linear(pair, scale, shift):
    returns, benchmark = pair
    slope = perf.beta(returns, benchmark)
    assert perf.beta(scale * returns + shift, benchmark) == close(scale * slope)
    assert perf.beta(returns, scale * benchmark + shift) == close(slope / scale)
    assert perf.tracking_error(returns + shift, benchmark + shift) == close(perf.tracking_error(returns, benchmark))
    assert perf.tracking_error(returns, returns) == 0
    assert perf.alpha(returns + shift, benchmark) == close(perf.alpha(returns, benchmark) + 252 * shift)


@given(returns=series, scale=scales)
def test_the_size_of_the_account_does_not_matter(returns, scale):
    small, big = perf.curve_of(returns), perf.curve_of(returns, scale)
    assert perf.returns_of(big) == close(returns)
    assert perf.max_drawdown(big) == close(perf.max_drawdown(small))
    assert perf.total_return(returns) == close(big[-1] / scale - 1)
    assert 0 <= perf.max_drawdown(small) < 1
    assert perf.max_drawdown_duration(small) <= returns.size


@given(returns=series, order=st.randoms(use_true_random=False))
def test_only_drawdowns_know_the_order(returns, order):
    mixed = returns.tolist()
    order.shuffle(mixed)
    for answer in (perf.total_return, perf.sharpe, perf.sortino, perf.value_at_risk, perf.cvar):
        assert answer(numbers(*mixed)) == close(answer(returns))


@given(returns=arrays(np.float64, st.integers(30, 60), elements=grid))
def test_the_tail_is_ordered(returns):
    assert perf.value_at_risk(returns, 0.99) <= perf.value_at_risk(returns, 0.95)
    historical = perf.value_at_risk(returns, form="historical")
    assert -perf.cvar(returns) <= historical + 1e-12
    assert returns.min() - 1e-12 <= -perf.cvar(returns)


@given(returns=series, low=grid, high=grid)
def test_a_higher_mark_is_less_likely(returns, low, high):
    low, high = sorted([low, high])
    chances = [perf.probabilistic_sharpe(returns, mark) for mark in (low, high)]
    assert all(math.isnan(chance) for chance in chances) or 1 >= chances[0] >= chances[1] >= 0


@given(pnl=st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=30), scale=scales)
def test_the_currency_does_not_change_ratios_of_trades(pnl, scale):
    small, big = (perf.trade_statistics(made_up([factor * value for value in pnl])) for factor in (1.0, scale))
    for name in ("win_rate", "profit_factor", "sharpe_ratio", "sortino_ratio", "expectancy_ratio"):
        assert big[name] == close(small[name])
    for name in ("expectancy", "largest_profit", "total_loss", "max_closed_trade_drawdown"):
        assert big[name] == close(scale * small[name])
    assert small["win_rate"] + small["loss_rate"] == close(1)
    assert small["expectancy"] * len(pnl) == close(sum(pnl))


# Walks of our own beside numpy's.

anything = st.one_of(
    st.integers(-9, 9).map(float), st.floats(-1e6, 1e6), st.sampled_from([0.0, -0.0, math.nan, math.inf])
)


def same(x, y):
    """Bit for bit, zeros' signs too; NaN is NaN."""
    return (math.isnan(x) and math.isnan(y)) or (x == y and math.copysign(1, x) == math.copysign(1, y))


@given(values=st.lists(anything, min_size=1, max_size=200), share=st.floats(0, 1))
def test_a_quantile_is_numpys(values, share):
    values = numbers(*values)
    with np.errstate(all="ignore"):
        assert same(perf.quantile(values, share), float(np.quantile(values, share)))


@pytest.mark.parametrize("share", [0.0, 0.005, 0.05, 0.5, 0.95, 0.995, 1.0])
@pytest.mark.parametrize("kind", ["any", "few", "sorted", "periodic", "missing"])
def test_a_quantile_of_many_is_numpys(share, kind):
    values = np.random.default_rng(1).normal(size=1 << 15)
    match kind:
        case "few":
            values = np.round(values)
        case "sorted":
            values.sort()
        case "periodic":
            values = np.tile(np.arange(64.0), 1 << 9)
        case "missing":
            values[7] = math.nan
    assert same(perf.quantile(values, share), float(np.quantile(values, share)))


@given(equity=st.lists(anything, max_size=60))
def test_falls_are_those_from_the_highest_so_far(equity):
    equity = numbers(*equity)
    peak = np.maximum.accumulate(equity)
    below = "".join("x" if low else " " for low in equity < peak)
    assert perf.max_drawdown_duration(equity) == max(map(len, below.split(" ")))
    if equity.size:
        with np.errstate(all="ignore"):
            assert same(perf.max_drawdown(equity), float(perf.drawdowns(equity).max()))


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300))
def test_means_and_deviations_are_numpys(values):
    values = numbers(*values)
    assert perf._mean(values) == values.mean()
    assert perf._deviation(values) in (np.std(values, ddof=1), 0.0)


@given(rows=st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 9)), max_size=40))
def test_trades_are_parted_in_their_order(rows):
    pnl, seconds = (numbers(*column) for column in zip(*rows, strict=True)) if rows else (NOTHING, NOTHING)
    made = made_up(pnl)
    made = made._replace(exit_ts=made.entry_ts + seconds.astype(np.int64) * NS_PER_SECOND)
    for side, own in zip(perf._parted(made), (pnl > 0, pnl <= 0), strict=True):
        assert side.pnl.tolist() == pnl[own].tolist()
        assert side.seconds.tolist() == seconds[own].tolist()
        assert side.in_a_row == max(map(len, "".join("x" if each else " " for each in own).split(" ")))
