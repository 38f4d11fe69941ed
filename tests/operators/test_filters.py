"""Filters: judged at the next slice's start, half days and daily bars included."""

from datetime import UTC, date, datetime

import numpy as np
import pytest

from operators import filters
from schemas.calendar import DAY, NEW_YORK
from schemas.events import Phase, Reason
from tests.operators.frames import signals, slices_of

HALF_DAYS = [date(2024, 7, 3), date(2024, 11, 29)]


def judged(timeframe, day, *, end_of_day=False, reason=Reason.NONE, **params):
    """New York time of each slice of a day -> where its signal ends."""
    slices = slices_of(timeframe, day, day)
    answer = filters.step(filters.Params(**params), end_of_day, filters.start(), signals(slices, reason))[1]
    times = [datetime.fromtimestamp(ts // 10**9, UTC).astimezone(NEW_YORK).time() for ts in slices.ts.tolist()]
    return {f"{time:%H:%M}": Reason(code) for time, code in zip(times, answer.reason.tolist(), strict=True)}


def refused(answer, why=Reason.OUTSIDE_MARKET_HOURS):
    return [time for time, reason in answer.items() if reason == why]


def test_the_last_quarter_of_an_hour_is_too_late():
    # the slice that ends at 15:46 would be executed from 15:46 on, 14 minutes before the close
    late = [f"15:{minute}" for minute in range(46, 60)]
    answer = judged(1, date(2024, 7, 2))
    assert refused(answer) == late
    assert answer["15:45"] == Reason.NONE


def test_the_last_bar_of_a_day_is_executed_at_the_next_open():
    assert judged(1, date(2024, 7, 2))["16:00"] == Reason.NONE
    assert judged(60, date(2024, 7, 2))["16:00"] == Reason.NONE


@pytest.mark.parametrize("day", HALF_DAYS)
def test_half_days_end_at_one(day):
    answer = judged(1, day)
    assert refused(answer) == [f"12:{minute}" for minute in range(46, 60)]
    assert (answer["12:45"], answer["13:00"]) == (Reason.NONE, Reason.NONE)
    assert len(answer) == 210


@pytest.mark.parametrize("day", HALF_DAYS)
@pytest.mark.parametrize(("timeframe", "late"), [(5, ["12:50", "12:55"]), (15, []), (30, []), (10, ["12:50"])])
def test_coarser_bars_of_a_half_day(day, timeframe, late):
    assert refused(judged(timeframe, day)) == late


@pytest.mark.parametrize(("minutes", "late"), [(15, []), (16, ["15:45"]), (30, ["15:45"]), (31, ["15:30", "15:45"])])
def test_the_bound_itself_is_in_time(minutes, late):
    assert refused(judged(15, date(2024, 7, 2), minutes_before_close=minutes)) == late


def test_zero_minutes_let_everything_in():
    assert refused(judged(1, date(2024, 7, 2), minutes_before_close=0)) == []


def test_off_means_off():
    assert refused(judged(1, date(2024, 7, 2), market_hours=False, minutes_before_close=390)) == []


@pytest.mark.parametrize("end_of_day", [False, True])
@pytest.mark.parametrize("day", [date(2024, 7, 2), *HALF_DAYS])
def test_daily_bars_can_trade(day, end_of_day):
    assert list(judged(DAY, day, end_of_day=end_of_day).values()) == [Reason.NONE]


def test_a_daily_bar_before_a_half_day_has_that_days_minutes():
    # executed at the open of November 29th, 210 minutes before its close
    assert refused(judged(DAY, date(2024, 11, 27), minutes_before_close=210)) == []
    assert refused(judged(DAY, date(2024, 11, 27), minutes_before_close=211)) == ["16:00"]
    assert refused(judged(DAY, date(2024, 11, 26), minutes_before_close=211)) == []


@pytest.mark.parametrize(
    ("timeframe", "day", "eve"),
    [
        (60, date(2024, 7, 2), "15:00"), (30, date(2024, 7, 2), "15:30"),
        (60, date(2024, 7, 3), "12:00"), (30, date(2024, 11, 29), "12:30"),
    ],
)  # fmt: skip
def test_what_would_be_bought_in_the_last_bar_cannot_be_sold_today(timeframe, day, eve):
    assert refused(judged(timeframe, day, end_of_day=True), Reason.NO_TIME_TO_EXIT) == [eve]
    assert refused(judged(timeframe, day, end_of_day=False), Reason.NO_TIME_TO_EXIT) == []


def test_market_hours_are_asked_first():
    answer = judged(5, date(2024, 7, 2), end_of_day=True)
    assert (answer["15:50"], answer["15:55"]) == (Reason.OUTSIDE_MARKET_HOURS,) * 2
    answer = judged(5, date(2024, 7, 2), end_of_day=True, market_hours=False)
    assert (answer["15:50"], answer["15:55"]) == (Reason.NONE, Reason.NO_TIME_TO_EXIT)


def test_only_candidates_are_judged():
    answer = judged(1, date(2024, 7, 2), end_of_day=True, reason=Reason.NEUTRAL)
    assert set(answer.values()) == {Reason.NEUTRAL}


def test_nothing_else_of_a_signal_changes():
    slices = slices_of(1, date(2024, 7, 2), date(2024, 7, 2))
    before = signals(slices)
    after = filters.step(filters.Params(), True, filters.start(), before)[1]
    assert not before.reason.any()
    assert (after.reason != Reason.NONE).sum() == 14
    for name in ("volatility", "direction", "score", "confidence", "regime", "views"):
        assert np.shares_memory(getattr(after, name), getattr(before, name))
    assert after.bars is before.bars
    assert slices.phase[-2:].tolist() == [Phase.EVE, Phase.LAST]
