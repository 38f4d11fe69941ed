"""The committed sessions are the library's."""

from datetime import date

import exchange_calendars
import numpy as np

from infra import sessions
from schemas.calendar import DAY, FIRST, LAST, Calendar


def test_the_file_is_what_the_library_says():
    assert sessions.PATH.read_text(encoding="utf-8") == sessions.text()


def test_opens_and_closes_are_the_librarys():
    calendar = Calendar(DAY, FIRST, LAST)
    schedule = exchange_calendars.get_calendar(
        "XNYS", start=date(FIRST.year - 1, 1, 1), end=date(LAST.year + 1, 12, 31)
    )
    opens, closes = (schedule.schedule[name].dt.as_unit("ns").astype("int64").to_numpy() for name in ("open", "close"))
    assert np.array_equal(calendar.opens, opens)
    assert np.array_equal(calendar.closes, closes)
    assert np.array_equal(calendar.sessions, schedule.schedule.index.to_numpy().astype("M8[D]").astype(np.int32))


def test_a_year_has_the_sessions_that_the_whole_has():
    few, all_ = Calendar(60, date(2004, 3, 1), date(2004, 3, 31)), Calendar.whole(60)
    begin = int(np.searchsorted(all_.sessions, few.sessions[0]))
    assert np.array_equal(few.sessions, all_.sessions[begin : begin + few.sessions.size])
    assert np.array_equal(few.opens, all_.opens[begin : begin + few.sessions.size])
