"""What the calendar knows of the bars that are forecast: the same numbers in training and in service."""

from collections.abc import Sequence

import numpy as np

from schemas.calendar import Calendar
from schemas.frames import Floats, Longs

NAMES = ("minute_of_day", "day_of_week", "nights")  # nights: sessions that end before the bar begins


def inputs(calendar: Calendar, ts: Longs, horizons: Sequence[int]) -> Floats:
    """The known inputs at the bars that end `horizons` bars after those that end at `ts`; [rows, horizons, NAMES].

    `ts` are ends of slices, UTC ns. A day without the bar changes nothing: the grid is asked, not the rows.
    """
    return at_slices(calendar, calendar.index_of(ts), horizons)


def at_slices(calendar: Calendar, index: Longs, horizons: Sequence[int]) -> Floats:
    """The same for slices by their places in the calendar."""
    session, minute, nights = calendar.ahead(index, horizons)
    weekday = (session + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    return np.stack([minute, weekday, nights], axis=-1).astype(np.float64)
