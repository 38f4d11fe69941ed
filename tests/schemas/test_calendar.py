"""The calendar against LEAN's hours and bars, and against a slow grid made from them."""

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.calendar import (
    DAY,
    NEW_YORK,
    TIMEFRAMES,
    Calendar,
    dates_within,
    exchange_dates,
    on_the_clock,
    timeframe_name,
)
from schemas.events import Phase
from schemas.frames import Slices
from schemas.units import NS_PER_SECOND
from tests.infra.barkit import LEAN, needs_lean

EPOCH = date(1970, 1, 1)
HOUR = 3600 * NS_PER_SECOND
# LEAN's list lacks three early closes; its own bars of these days are thin after 13:00.
UNLISTED = {date(1998, 11, 27), date(1998, 12, 24), date(1999, 12, 31)}
LATE_OPENING = date(2002, 9, 11)  # trading began after 11:00; the schedule does not say so


def new_york(ts):
    return datetime.fromtimestamp(ts // 10**9, UTC).astimezone(NEW_YORK)


def ns(day, minute):
    """UTC ns of a minute of New York's day."""
    return int(datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=NEW_YORK).timestamp()) * 10**9


def between(timeframe, first, last):
    """The slices of whole days."""
    calendar = Calendar(timeframe, first, last)
    begin, end = ns(first, 0), ns(last + timedelta(days=1), 0)
    return calendar.slices(calendar.index_after(begin), calendar.index_after(end), begin, end)


@pytest.fixture(scope="module")
def lean():
    """Session -> minute of its close, 1998 to 2021, by LEAN's list and the three days it lacks."""
    hours = json.loads((LEAN / "market_hours_usa_equity.json").read_text())
    closed = {date.fromisoformat(day) for day in hours["holidays"]}
    early = {date.fromisoformat(day): at for day, at in hours["early_closes"].items()}
    assert set(early.values()) == {"13:00"}
    days = (date(1998, 1, 1) + timedelta(days=k) for k in range((date(2022, 1, 1) - date(1998, 1, 1)).days))
    return {day: 780 if day in early else 960 for day in days if day.weekday() < 5 and day not in closed}


@needs_lean
def test_sessions_are_leans(lean):
    slices = between(DAY, date(1998, 1, 1), date(2021, 12, 31))
    sessions = [EPOCH + timedelta(days=day) for day in slices.session.tolist()]
    assert sessions == list(lean)
    differ = {day: int(at) for day, at in zip(sessions, slices.minute, strict=True) if at != lean[day]}
    assert differ == dict.fromkeys(UNLISTED, 780)
    assert [new_york(ts).date() for ts in slices.ts.tolist()] == sessions
    assert [new_york(ts).hour * 60 + new_york(ts).minute for ts in slices.ts.tolist()] == slices.minute.tolist()


def slow_grid(sessions, timeframe):
    """(session, minute of the end, minutes from the next start to that session's close, phase)."""
    rows = []
    for day, close in sessions:
        ends = [m for m in range(1, close) if m % timeframe == 0 and 570 < m < close] + [close]
        starts = [570, *ends[:-1]]
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            phase = {1: Phase.LAST, 2: Phase.EVE}.get(len(ends) - k, Phase.MIDDLE)
            rows.append((day, end, close - start, phase))
    return [(day, end, after[2], phase) for (day, end, _, phase), after in pairwise(rows)]


@needs_lean
@pytest.mark.parametrize("timeframe", sorted(TIMEFRAMES.values()))
def test_slices_are_those_of_a_slow_grid(lean, timeframe):
    sessions = [item for item in lean.items() if date(2019, 1, 1) <= item[0]]
    expected = [row for row in slow_grid(sessions, timeframe) if row[0] <= date(2020, 12, 31)]
    slices = between(timeframe, date(2019, 1, 1), date(2020, 12, 31))
    assert [EPOCH + timedelta(days=day) for day in slices.session.tolist()] == [row[0] for row in expected]
    assert slices.minute.tolist() == [row[1] for row in expected]
    assert slices.to_close.tolist() == [row[2] for row in expected]
    assert slices.phase.tolist() == [row[3] for row in expected]
    some = range(0, len(expected), 1 + len(expected) // 3000)
    assert [int(slices.ts[i]) for i in some] == [ns(*expected[i][:2]) for i in some]
    assert (np.diff(slices.ts) > 0).all()


@needs_lean
def test_the_grid_of_hours_matches_every_hour_bar_of_spy():
    table = pq.read_table(LEAN / "hour.parquet", columns=["ts"], filters=[("symbol", "=", "spy")])
    bars = table["ts"].cast(pa.timestamp("ns", "UTC")).cast("int64").to_numpy()
    assert bars.size == 40_832
    calendar = Calendar(60, new_york(int(bars[0])).date(), new_york(int(bars[-1])).date())
    first, last = calendar.index_after(int(bars[0]) - 1), calendar.index_after(int(bars[-1]))
    grid = calendar.slices(first, last, 0, int(bars[-1]))
    closes = {EPOCH + timedelta(days=int(day)): int(at) for day, at, phase in
              zip(grid.session, grid.minute, grid.phase, strict=True) if phase == Phase.LAST}  # fmt: skip
    off = [new_york(ts) for ts in np.setdiff1d(bars, grid.ts).tolist()]
    # the README's thin bars: early closes only, after 13:00, one to three a day
    assert len(off) == 47
    assert {closes[then.date()] for then in off} == {780}
    assert {then.hour for then in off} == {14, 15, 16}
    assert set(Counter(then.date() for then in off).values()) == {1, 2, 3}
    empty = [new_york(ts) for ts in np.setdiff1d(grid.ts, bars).tolist()]
    assert [(then.date(), then.hour) for then in empty] == [(LATE_OPENING, 10), (LATE_OPENING, 11)]


@pytest.mark.parametrize(
    ("first", "last", "utc"),
    [
        (date(2024, 3, 8), date(2024, 3, 11), ["2024-03-08T21:00", "2024-03-11T20:00"]),  # summer time begins
        (date(2024, 11, 1), date(2024, 11, 4), ["2024-11-01T20:00", "2024-11-04T21:00"]),  # and ends
        (date(2024, 7, 2), date(2024, 7, 5), ["2024-07-02T20:00", "2024-07-03T17:00", "2024-07-05T20:00"]),
        (date(2024, 11, 27), date(2024, 11, 29), ["2024-11-27T21:00", "2024-11-29T18:00"]),
    ],
)
def test_daily_slices_end_at_the_close(first, last, utc):
    slices = between(DAY, first, last)
    assert [f"{datetime.fromtimestamp(ts // 10**9, UTC):%Y-%m-%dT%H:%M}" for ts in slices.ts.tolist()] == utc
    assert set(slices.phase.tolist()) == {Phase.LAST}


def test_hours_of_a_normal_and_of_a_half_day():
    slices = between(60, date(2024, 7, 2), date(2024, 7, 3))
    assert slices.minute.tolist() == [600, 660, 720, 780, 840, 900, 960, 600, 660, 720, 780]
    # from the next slice's start to the close: 10:00 to 16:00 is six hours; then the half day's 9:30 to 13:00
    assert slices.to_close.tolist() == [360, 300, 240, 180, 120, 60, 210, 180, 120, 60, 390]
    assert slices.phase.tolist() == [0, 0, 0, 0, 0, 1, 2, 0, 0, 1, 2]


def test_the_last_slice_of_an_hour_and_a_half_is_short():
    """Two-hour slices of a half day end at 10, 12 and 13."""
    slices = between(120, date(2024, 11, 29), date(2024, 11, 29))
    assert slices.minute.tolist() == [600, 720, 780]
    assert slices.to_close.tolist() == [180, 60, 390]


CALENDARS = {timeframe: Calendar(timeframe, date(2024, 6, 20), date(2024, 7, 20)) for timeframe in (5, 60, DAY)}


@given(
    timeframe=st.sampled_from(sorted(CALENDARS)),
    start=st.integers(0, 300),
    cuts=st.lists(st.integers(0, 100), max_size=5),
)
def test_pieces_make_the_whole(timeframe, start, cuts):
    calendar = CALENDARS[timeframe]
    first, last = start, start + 100
    edges = sorted({first, last, *(first + cut for cut in cuts)})
    whole = calendar.slices(first, last, 0, 1)
    parts = [calendar.slices(a, b, 0, 1) for a, b in pairwise(edges)]
    for name in ("ts", "session", "minute", "to_close", "phase"):
        column = getattr(whole, name)
        together = np.concatenate([getattr(part, name) for part in parts])
        assert (together.tobytes(), together.dtype) == (column.tobytes(), column.dtype)
    assert [calendar.ts_at(k) for k in range(first, last)] == whole.ts.tolist()


@given(timeframe=st.sampled_from(sorted(CALENDARS)), index=st.integers(0, 300), before=st.integers(1, 10**9))
def test_the_slice_after_an_instant(timeframe, index, before):
    calendar = CALENDARS[timeframe]
    ts = calendar.ts_at(index)
    assert calendar.index_after(ts) == index + 1
    assert calendar.index_after(ts - before) == index


def test_cutting_slices_gives_two_ranges():
    whole = between(60, date(2024, 7, 2), date(2024, 7, 3))
    for ts in (int(whole.ts[4]), int(whole.ts[4]) + 1, int(whole.ts[5]) - 1):
        head, tail = whole.cut(ts)
        assert (head.after, head.upto, tail.after, tail.upto) == (whole.after, ts, ts, whole.upto)
        assert (head.ts.tolist(), tail.ts.tolist()) == (whole.ts[:5].tolist(), whole.ts[5:].tolist())
        assert (head.phase.tolist(), tail.to_close.tolist()) == (whole.phase[:5].tolist(), whole.to_close[5:].tolist())


def test_a_range_without_slices_keeps_its_promise():
    calendar = CALENDARS[60]
    nothing = calendar.slices(50, 50, 7, 9)
    assert isinstance(nothing, Slices)
    assert (nothing.size, nothing.after, nothing.upto, nothing.to_close.size) == (0, 7, 9, 0)


@pytest.mark.parametrize("minutes", [0, 4, 7, 240, 390, -1])
def test_other_timeframes_are_refused(minutes):
    with pytest.raises(ValueError, match=f"timeframe of {minutes} minutes: want one of 1m, "):
        Calendar(minutes, date(2024, 1, 1), date(2024, 1, 2))


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (date(2024, 1, 2), date(2024, 1, 1)),
        (date(1989, 12, 31), date(2024, 1, 1)),
        (date(2024, 1, 1), date(2050, 1, 1)),
    ],
)
def test_dates_beyond_what_files_may_span_are_refused(first, last):
    with pytest.raises(ValueError, match=f"calendar from {first} to {last}"):
        Calendar(60, first, last)


def test_the_calendar_has_an_end():
    with pytest.raises(ValueError, match="is past the calendar's end"):
        CALENDARS[60].index_after(ns(date(2026, 1, 2), 600))


def test_timeframes_have_names():
    assert [timeframe_name(minutes) for minutes in (1, 60, DAY)] == ["1m", "1h", "1d"]
    assert all(TIMEFRAMES[timeframe_name(minutes)] == minutes for minutes in TIMEFRAMES.values())


@pytest.mark.parametrize("minutes", [1, 5, 60, DAY])
def test_every_instant_belongs_to_one_slice_or_to_none(minutes):
    calendar = Calendar(minutes, date(2024, 7, 2), date(2024, 7, 5))
    first, last = (calendar.index_after(ns(date(2024, 7, day), 0)) for day in (2, 6))
    slices = calendar.slices(first, last, 0, 2**62)
    for instant in range(ns(date(2024, 7, 2), 0), ns(date(2024, 7, 6), 0), 30_000_000_000):
        held = [int(end) for end in slices.ts if end - instant >= 0][:1]
        session = int(np.searchsorted(calendar.closes, instant, side="left"))
        is_open = calendar.opens[session] < instant <= calendar.closes[session]
        assert calendar.end_of(instant) == (held[0] if is_open else 0)
        assert calendar.session_of(instant) == calendar.sessions[session]


@given(st.sampled_from([1, 5, 60, DAY]), st.integers(0, 3_000), st.lists(st.integers(0, 200), min_size=1, max_size=4))
def test_the_slices_ahead_are_those_of_the_grid(timeframe, begin, bars):
    calendar = Calendar(timeframe, date(2024, 6, 26), date(2024, 7, 12))  # a half day and a holiday within
    first = calendar.index_after(ns(date(2024, 6, 26), 0))
    first += begin if timeframe < 60 else begin % 20
    some = calendar.slices(first, first + 8, 0, 0)
    assert calendar.index_of(some.ts).tolist() == list(range(first, first + 8))
    assert calendar.session_at(np.arange(first, first + 8)).tolist() == some.session.tolist()
    session, minute, nights = calendar.ahead(np.arange(first, first + 8), bars)
    for k, h in enumerate(bars):
        later = calendar.slices(first + h, first + h + 8, 0, 0)
        assert session[:, k].tolist() == later.session.tolist()
        assert minute[:, k].tolist() == later.minute.tolist()
        days = np.searchsorted(calendar.sessions, later.session) - np.searchsorted(calendar.sessions, some.session)
        assert nights[:, k].tolist() == days.tolist()


def test_past_the_calendar_s_end_there_is_nothing_ahead():
    calendar = Calendar(DAY, date(2024, 6, 26), date(2024, 7, 12))
    with pytest.raises(ValueError, match="past the calendar's end"):
        calendar.ahead(np.array([0]), [2_000])


@given(hours=st.lists(st.integers(0, 700_000), max_size=30), past=st.integers(0, HOUR - 1), rise=st.booleans())
@example(hours=[475_000 + k for k in range(30)], past=0, rise=True)  # around a change, 10 March 2024
@example(hours=[480_740 - k for k in range(30)], past=HOUR - 1, rise=False)  # and back, 3 November
def test_the_clock_is_new_yorks_in_any_order(hours, past, rise):
    ts = np.array(sorted(hours) if rise else hours, np.int64) * HOUR + past
    offsets = [datetime.fromtimestamp(hour * 3600, NEW_YORK).utcoffset().total_seconds() for hour in ts // HOUR]
    assert (on_the_clock(ts) - ts).tolist() == [int(offset) * 10**9 for offset in offsets]


@given(hours=st.lists(st.integers(175_320, 700_000), max_size=30), past=st.integers(0, HOUR - 1), near=st.booleans())
def test_dates_within_are_those_of_each_instant(hours, past, near):
    ts = np.array(sorted(480_000 + hour % 1000 if near else hour for hour in hours), np.int64) * HOUR + past
    days, ends = dates_within(ts)
    assert np.repeat(days, np.diff(ends, prepend=0)).tolist() == exchange_dates(ts).tolist()
    assert (np.diff(days) > 0).all()
    assert (np.diff(ends, prepend=0) > 0).all()
