"""What the report and `utp metrics` say of a curve, beside slow and obvious ways to say it."""

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk import attribution, curve
from risk import performance as perf
from schemas.calendar import exchange_dates

levels = st.lists(st.integers(1, 9).map(float), min_size=1, max_size=40).map(np.array)
MONDAY = (date(2024, 1, 1) - date(1970, 1, 1)).days


def slow_episodes(points):
    """Walk along the curve; an episode begins where the peak is left for the last time before the fall."""
    found, peak, low = [], 0, None
    for i, value in enumerate(points):
        if value >= points[peak]:
            if low is not None:
                found.append((peak, low, i, (points[peak] - points[low]) / points[peak]))
            peak, low = i, None
        elif low is None or value < points[low]:
            low = i
    if low is not None:
        found.append((peak, low, -1, (points[peak] - points[low]) / points[peak]))
    return sorted(found, key=lambda episode: -episode[3])


@given(points=levels, most=st.integers(1, 6))
def test_the_deepest_falls_are_those_of_the_slow_model(points, most):
    found = curve.drawdown_episodes(points, most)
    assert [tuple(each) for each in found] == slow_episodes(points)[:most]
    if found:
        assert found[0].depth == perf.max_drawdown(points)


@given(points=levels, begin=st.integers(0, 300), base=st.booleans())
def test_months_compound_to_the_whole(points, begin, base):
    days = MONDAY + begin + np.arange(points.size) * 3
    of = curve.curve(days, points, 5.0 if base else float("nan"))
    found = curve.monthly_returns(of)
    assert np.prod([1 + value for value in found.values()]) == pytest.approx(points[-1] / (5.0 if base else points[0]))
    shown = [date(1970, 1, 1) + timedelta(days=int(day)) for day in of.return_days]
    assert set(found) == {(day.year, day.month) for day in shown}


@pytest.mark.parametrize(("days", "window"), [(22, None), (23, 21), (126, 21), (127, 63), (300, 63)])
def test_a_rolling_ratio_is_that_of_each_window(days, window):
    values = 100 * np.exp(np.cumsum(np.random.default_rng(days).normal(0, 0.01, days)))
    of = curve.curve(MONDAY + np.arange(days), values)
    size, ends, found = curve.rolling_sharpe(of)
    if window is None:
        assert found.size == ends.size == 0
        return
    assert size == window
    assert found.size == ends.size == days - 1 - window + 1
    assert found[-1] == perf.sharpe(of.returns[-window:])
    assert found[0] == perf.sharpe(of.returns[:window])
    assert ends[-1] == of.days[-1]


fills = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 10**6), st.integers(1, 10**6)), max_size=30)


@given(rows=fills)
def test_what_was_traded_is_summed_up_by_date_in_its_order(rows):
    hours, qty, cents = (np.array(column) for column in zip(*sorted(rows), strict=True)) if rows else np.zeros((3, 0))
    ts = (MONDAY * 24 + hours.astype(np.int64)) * 3600 * 10**9
    days, price = np.arange(MONDAY - 1, MONDAY + 13), cents / 100
    found = curve.traded(days, {"ts": ts, "qty": qty.astype(np.int64), "price": price})
    wanted = np.bincount(np.searchsorted(days, exchange_dates(ts)), qty * price, days.size)
    assert found.tolist() == wanted.tolist()


ALPHAS = ["a", "b", "c"]
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
trades = st.lists(
    st.tuples(st.integers(-50, 50), st.sampled_from([-1, 1]), st.tuples(*[st.integers(-1, 1)] * 3)), max_size=20
)


@given(rows=trades)
def test_shares_of_alphas_add_up_to_the_profit_of_the_trades_they_were_for(rows):
    pnl = np.array([row[0] for row in rows], np.float64)
    direction = np.array([row[1] for row in rows], np.int8)
    views = np.array([row[2] for row in rows], np.int8).reshape(-1, 3)
    found = attribution.by_alpha(pnl, direction, views, ALPHAS, WEIGHTS)
    shares = dict.fromkeys(ALPHAS, 0.0)
    orphans = 0.0
    for profit, way, said in rows:
        own = [alpha for alpha, view in zip(ALPHAS, said, strict=True) if view == way]
        for alpha in own:
            shares[alpha] += profit * WEIGHTS[alpha] / sum(WEIGHTS[each] for each in own)
        orphans += 0 if own else profit
    assert [each.profit for each in found] == pytest.approx(list(shares.values()))
    assert sum(each.profit for each in found) + orphans == pytest.approx(sum(pnl))
    for k, each in enumerate(found):
        assert each.agreed == sum(row[2][k] == row[1] for row in rows)
        assert each.against == sum(row[2][k] == -row[1] for row in rows)
        assert each.won == sum(row[2][k] == row[1] and row[0] > 0 for row in rows)


def test_votes_are_read_as_they_are_written():
    assert attribution.views_of("rsi+ ema_cross-", ["macd", "rsi", "ema_cross"]) == [0, 1, -1]
    assert attribution.views_of("", ["macd"]) == [0]
