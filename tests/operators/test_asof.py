"""Reference data: what was known by then, against a slow model."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.asof import NEVER, closes_by_slice, days_to_report, known

SYMBOLS = 4
instants = st.integers(0, 30)
entries = st.lists(st.tuples(st.integers(0, SYMBOLS - 1), instants, st.integers(0, 99)), max_size=40)
asked = st.lists(st.tuples(st.integers(0, SYMBOLS - 1), instants), max_size=30)


def columns(rows, width):
    return [np.array([row[k] for row in rows], np.int64) for k in range(width)]


@given(entries=entries, asked=asked)
def test_the_latest_value_known_by_then(entries, asked):
    symbol, since, value = columns(entries, 3)
    found = known(SYMBOLS, symbol.astype(np.int32), since, value)
    who, ts = columns(asked, 2)
    rows = found.at(who.astype(np.int32), ts)
    for row, (name, instant) in zip(rows.tolist(), asked, strict=True):
        own = [(when, place) for place, (other, when, _) in enumerate(entries) if other == name and when <= instant]
        assert (row >= 0) == bool(own)
        if own:
            assert found.values[0][row] == entries[max(own)[1]][2]  # of two at one instant the later one


@given(entries=entries, asked=asked, stale=st.integers(1, 40))
def test_days_to_the_nearest_report_known_by_then(entries, asked, stale):
    entries = [(name, when, NEVER if date > 90 else date) for name, when, date in entries]
    symbol, since, date = columns(entries, 3)
    found = known(SYMBOLS, symbol.astype(np.int32), since, date)
    who, ts = columns(asked, 2)
    session = (ts * 3).astype(np.int32)
    days = np.zeros(ts.size, np.int32)
    days_to_report(found.first, found.since, found.values[0], who.astype(np.int32), ts, session, stale, days)
    for day, (name, instant), today in zip(days.tolist(), asked, session.tolist(), strict=True):
        dates = [date for other, when, date in entries if other == name and when <= instant]
        if not dates or today - max(dates) > stale:
            assert day == -1
        else:
            assert day == min((abs(date - today) for date in dates if date != NEVER), default=NEVER)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([5.0, 6.0, -1.0, float("nan")])), max_size=25).map(sorted),
    st.sets(st.integers(0, 12)).map(sorted),
)
def test_one_close_per_slice_the_first_good_one(rows, slices):
    ts, close = np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.float64)
    out = np.full(len(slices), np.nan)
    closes_by_slice(np.array(slices, np.int64), ts, *[close] * 4, np.ones(ts.size), out)
    for place, end in enumerate(slices):
        good = [price for when, price in rows if when == end and price > 0.0]
        assert out[place] == good[0] if good else np.isnan(out[place])
