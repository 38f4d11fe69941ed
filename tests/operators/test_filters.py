"""Filters: judged at the next slice's start, half days and daily bars included."""

from datetime import UTC, date, datetime

import numpy as np
import pytest

from operators import filters
from operators.asof import NEVER
from schemas.calendar import DAY, NEW_YORK
from schemas.events import Phase, Reason
from schemas.frames import GAP, JUMPED, STALE, Slices
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


def test_nothing_else_of_a_signal_changes_but_that_only_candidates_keep_their_volatility():
    slices = slices_of(1, date(2024, 7, 2), date(2024, 7, 2))
    before = signals(slices)
    after = filters.step(filters.Params(), True, filters.start(), before)[1]
    assert not before.reason.any()
    assert (after.reason != Reason.NONE).sum() == 14
    for name in ("direction", "score", "confidence", "regime", "views"):
        assert np.shares_memory(getattr(after, name), getattr(before, name))
    passes = after.reason == Reason.NONE
    assert passes.any()
    assert (after.volatility[passes] == before.volatility[passes]).all()
    assert np.isnan(after.volatility[~passes]).all()
    assert after.bars is before.bars
    assert slices.phase[-2:].tolist() == [Phase.EVE, Phase.LAST]


# --- what stands beside the bars

NAN = float("nan")
DAYS = slices_of(DAY, date(2024, 7, 1), date(2024, 7, 31))  # 22 sessions, one bar each


def daily(count=DAYS.size, slices=DAYS, **changes):
    """Where the signals of some daily bars of one symbol end; `changes`: of Params, and columns of bars."""
    params = {name: changes.pop(name) for name in list(changes) if name in filters.Params.__struct_fields__}
    columns = {name: np.asarray(column) for name, column in changes.items()}
    frame = signals(slices, **columns)
    answer = filters.step(filters.Params(**params), False, filters.start(), frame)[1]
    return [Reason(code) for code in answer.reason.tolist()][:count]


PASS = Reason.NONE
THIN, WIDE, NEAR = Reason.LOW_LIQUIDITY, Reason.WIDE_SPREAD, Reason.EARNINGS_BLACKOUT


def column(*values):
    """Values for the first days, the last one for all the rest."""
    return np.array([*values, *[values[-1]] * (DAYS.size - len(values))])


@pytest.mark.parametrize(("missing", "first"), [("off", PASS), ("refuse", THIN)])
def test_average_volume_takes_the_sessions_before_at_least_three(missing, first):
    volume = column(500_000.0, 499_999.0, 500_002.0, 0.0, 2e6)
    answer = daily(7, volume=volume, spread=False, earnings=False, missing_data=missing)
    # the mean of 3 is 500,000.33; of 4 it is below; of 5 above again
    assert answer == [first, first, first, PASS, THIN, PASS, PASS]


def test_average_volume_is_that_of_ten_sessions():
    volume = column(*[1e6] * 4, *[4e5] * 18)
    # after 10 low sessions none of the high ones is left; with k high ones among 10: (10 + ... ) / 10
    means = [np.mean(volume[max(0, i - 10) : i]) for i in range(3, DAYS.size)]
    expected = [THIN if mean < 500_000 else PASS for mean in means]
    assert daily(volume=volume)[3:] == expected
    assert {PASS, THIN} == set(expected)


def test_sessions_of_several_bars_are_added_up():
    slices = slices_of(60, date(2024, 7, 1), date(2024, 7, 12))
    quiet = np.full(slices.size, 499_999.0 / 7)
    answer = filters.step(filters.Params(), False, filters.start(), signals(slices, volume=quiet))[1]
    assert (answer.reason == THIN).sum() == (slices.session > slices.session[0] + 2).sum() == 6 * 7


def test_after_a_month_without_bars_the_average_begins_anew():
    slices = slices_of(DAY, date(2024, 5, 1), date(2024, 7, 31))
    kept = np.r_[0:5, 40:46]
    picked = Slices(
        slices.after, slices.upto, *(getattr(slices, n)[kept] for n in list(Slices.__dataclass_fields__)[2:])
    )
    answer = daily(11, slices=picked, volume=np.full(11, 10.0))
    assert answer == [PASS] * 3 + [THIN] * 2 + [PASS] * 3 + [THIN] * 3


def test_volume_is_counted_in_the_shares_of_the_day():
    scale = column(1.0, 1.0, 1.0, 1.0, 4.0)
    volume = column(2e5, 2e5, 2e5, 2e5, 8e5)
    assert daily(7, volume=volume, scale=scale) == [PASS, PASS, PASS, THIN, PASS, PASS, PASS]


@pytest.mark.parametrize(("value", "why"), [(500_000.0, PASS), (499_999.9, THIN), (NAN, THIN), (1e9, PASS)])
def test_a_reference_volume_counts_from_the_first_bar_and_instead_of_the_sessions(value, why):
    assert set(daily(average_volume=column(value), volume=column(1.0))) == {why}


@pytest.mark.parametrize(
    ("bid", "ask", "why"),
    [
        (99.95, 100.05, PASS), (99.94, 100.05, WIDE), (100.0, 100.0, PASS), (100.05, 99.95, WIDE), (NAN, 100.0, WIDE),
        (100.0, NAN, WIDE), (0.0, 0.0, WIDE), (-1.0, -1.0, WIDE), (100.0, float("inf"), WIDE),
    ],
)  # fmt: skip
def test_item_8_a_quote_is_narrow_fresh_and_sane(bid, ask, why):
    quoted = {"bid": column(bid), "ask": column(ask)}
    assert set(daily(**quoted, liquidity=False)) == {why}
    assert set(daily(**quoted, liquidity=False, spread=False)) == {PASS}


@pytest.mark.parametrize(("days", "why"), [(0, NEAR), (2, NEAR), (3, PASS), (-1, NEAR), (NEVER, PASS)])
def test_near_a_report_nothing_is_bought(days, why):
    assert set(daily(earnings_days=column(days), liquidity=False)) == {why}
    assert set(daily(earnings_days=column(days), liquidity=False, earnings=False)) == {PASS}


@pytest.mark.parametrize("missing", ["off", "refuse"])
def test_item_8_without_any_source_a_filter_is_off_or_refuses(missing):
    reasons = {"liquidity": THIN, "spread": WIDE, "earnings": NEAR}
    for own, why in reasons.items():
        chosen = {name: name == own for name in reasons}
        assert daily(3, missing_data=missing, **chosen) == [why if missing == "refuse" else PASS] * 3


def test_a_jump_holds_its_own_slice():
    marks = column(0, JUMPED, GAP | STALE, JUMPED | GAP, 0).astype(np.int8)
    assert daily(5, marks=marks, liquidity=False) == [PASS, Reason.JUMP, PASS, Reason.JUMP, PASS]


def test_the_first_filter_in_order_wins():
    bad = {"marks": column(JUMPED).astype(np.int8), "average_volume": column(1.0), "bid": column(NAN),
           "ask": column(NAN), "earnings_days": column(0)}  # fmt: skip
    eve = slices_of(DAY, date(2024, 7, 2), date(2024, 7, 2))  # the next session is half a day
    late = daily(slices=eve, minutes_before_close=390, **{name: values[:1] for name, values in bad.items()})
    seen = [*late, *set(daily(**bad))]
    bad["marks"] = column(0).astype(np.int8)
    for name in ("liquidity", "spread", "earnings"):
        seen += set(daily(**bad))
        bad[name] = False
    assert seen == [Reason.OUTSIDE_MARKET_HOURS, Reason.JUMP, THIN, WIDE, NEAR]
    assert set(daily(**bad)) == {PASS}
