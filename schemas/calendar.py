"""The exchange's calendar and the grid of slices; the only place that knows New York."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import date, datetime
from functools import cache, lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np

from schemas import xnys
from schemas.events import Phase
from schemas.frames import Ints, Longs, Slices
from schemas.units import NS_PER_DAY, NS_PER_MINUTE, NS_PER_SECOND

NEW_YORK = ZoneInfo("America/New_York")
DAY = 1440  # the daily timeframe, in minutes
TIMEFRAMES = {"1m": 1, "2m": 2, "3m": 3, "5m": 5, "10m": 10, "15m": 15, "30m": 30,
              "1h": 60, "2h": 120, "1d": DAY}  # fmt: skip
_NS_PER_HOUR = 60 * NS_PER_MINUTE
USUAL_OPEN, USUAL_CLOSE = 9 * 60 + 30, 16 * 60  # minutes of New York's day
KEPT, SESSION = 32, 400  # answers that a calendar keeps, of so many slices at most
FIRST, LAST = date(1990, 1, 1), date(2049, 12, 31)  # what a bar file may span


def timeframe_name(minutes: int) -> str:
    """The setting's name of a timeframe: 60 -> `1h`."""
    return next(name for name, value in TIMEFRAMES.items() if value == minutes)


def exchange_dates(ts: Longs) -> Longs:
    """The date in New York at each instant, days since 1970-01-01; the clock changes on the hour."""
    dates: Longs = on_the_clock(ts) // NS_PER_DAY
    return dates


def on_the_clock(ts: Longs) -> Longs:
    """What New York's clock shows at each instant, as if it were UTC, ns."""
    if not ts.size:
        return ts.copy()
    since, offset = _changes(int(ts.min()), int(ts.max()))
    if bool((ts[1:] >= ts[:-1]).all()):
        shown = ts.copy()
        ends = np.append(np.searchsorted(ts, since[1:]), ts.size)
        for begin, end, ahead in zip(np.append(0, ends[:-1]).tolist(), ends.tolist(), offset.tolist(), strict=True):
            shown[begin:end] += ahead
        return shown
    behind: Longs = ts + offset[np.searchsorted(since[1:], ts, side="right")]
    return behind


def dates_within(ts: Longs) -> tuple[Longs, Longs]:
    """The dates in New York of instants in order of time, each once, and how many instants there are up to its end."""
    if not ts.size:
        return ts.copy(), ts.copy()
    first, last = exchange_dates(ts[[0, -1]]).tolist()
    days = np.arange(first, last + 1)
    midnights = (days + 1) * NS_PER_DAY  # the clock changes at another hour
    since, offset = _changes(int(ts[0]), int(ts[-1]))
    ends = np.searchsorted(ts, midnights - offset[np.searchsorted((since + offset)[1:], midnights)])
    there = ends > np.append(0, ends[:-1])
    return days[there], ends[there]


def _changes(first: int, last: int) -> tuple[Longs, Longs]:
    """`_offsets` of all years of UTC from one instant to another."""
    years = [int(year) for year in np.array([first, last]).astype("M8[ns]").astype("M8[Y]").astype(np.int64) + 1970]
    if years[0] == years[1]:
        return _offsets(years[0])
    since, offset = zip(*map(_offsets, range(years[0], years[1] + 1)), strict=True)
    return np.concatenate(since), np.concatenate(offset)


@cache
def _offsets(year: int) -> tuple[Longs, Longs]:
    """How many ns New York is ahead of UTC, and from when on, within a year of UTC; it changes on the hour."""
    first, last = (int(np.datetime64(f"{y}-01-01T00", "h").astype(np.int64)) for y in (year, year + 1))
    offset = {hour: _utc_offset_ns(hour * _NS_PER_HOUR) for hour in range(first, last + 1, 24)}
    for day in range(first, last, 24):
        if offset[day] != offset[day + 24]:
            offset |= {hour: _utc_offset_ns(hour * _NS_PER_HOUR) for hour in range(day, day + 24)}
    hours = sorted(offset)
    since = [first, *(hour for before, hour in pairwise(hours[:-1]) if offset[before] != offset[hour])]
    return _NS_PER_HOUR * np.array(since), np.array([offset[hour] for hour in since], np.int64)


def evenings(days: Ints | Longs) -> Longs:
    """Four in the afternoon in New York of each date (days since 1970-01-01), UTC ns."""
    utc = days * np.int64(NS_PER_DAY) + 16 * _NS_PER_HOUR
    offset = np.array([_utc_offset_ns(int(ts)) for ts in utc], np.int64)
    instants: Longs = utc - offset
    return instants


@cache
def _sessions(first_year: int, last_year: int) -> tuple[Ints, Longs, Longs]:
    """Sessions of whole years: days since 1970-01-01, and the minutes of New York's day at open and close."""
    days = np.arange(f"{first_year}-01-01", f"{last_year + 1}-01-01", dtype="M8[D]")
    days = days[np.is_busday(days, holidays=np.array(xnys.CLOSED.split(), "M8[D]"))]
    opens, closes = np.full(days.size, USUAL_OPEN), np.full(days.size, USUAL_CLOSE)
    for line in xnys.HOURS.split():
        day, first, last = line.split("/")
        here = days == np.datetime64(day)
        opens[here], closes[here] = int(first), int(last)
    return days.astype(np.int32), opens, closes


class Calendar:
    """The slices of one timeframe: every session of the exchange, each cut at the clock.

    Slices end at multiples of the timeframe on the exchange's clock and at the close, so the
    first hour of a normal day has 30 minutes (as LEAN's consolidated hours have) and half days end
    early. A daily slice ends at the close.
    """

    def __init__(self, timeframe: int, first: date, last: date):
        if timeframe not in TIMEFRAMES.values():
            raise ValueError(f"timeframe of {timeframe} minutes: want one of {', '.join(TIMEFRAMES)}")
        if not FIRST <= first <= last <= LAST:
            raise ValueError(f"calendar from {first} to {last}: want dates within {FIRST} .. {LAST}")
        self.timeframe = timeframe
        # One spare year on each side: the slice after the last one must be known.
        self.sessions, self._open_minute, self._close_minute = _sessions(first.year - 1, last.year + 1)
        self._midnight: Longs = evenings(self.sessions) - 16 * _NS_PER_HOUR  # New York's, in UTC
        self.opens: Longs = self._midnight + self._open_minute * NS_PER_MINUTE
        self.closes: Longs = self._midnight + self._close_minute * NS_PER_MINUTE
        # slices of a session: the clock's multiples strictly between open and close, and the close
        inside = (self._close_minute - 1) // timeframe - self._open_minute // timeframe
        self._first: Longs = np.concatenate([[0], np.cumsum(inside + 1)]).astype(np.int64)
        self._before_first: Longs = self._open_minute // timeframe  # multiples of the clock up to the open
        # For one instant at a time: a search in a list takes a fortieth of what numpy's takes.
        self._close_list: list[int] = self.closes.tolist()
        self._first_list: list[int] = self._first.tolist()
        self._made: dict[tuple[int, int, int, int], Slices] = {}

    @classmethod
    def whole(cls, timeframe: int) -> "Calendar":
        """From the first to the last year that is known: the grid of a log, of which nobody says how far it goes."""
        return cls(timeframe, date(FIRST.year + 1, 1, 1), date(LAST.year - 1, 12, 31))

    def index_after(self, ts: int) -> int:
        """Place of the first slice that ends after `ts`, counted over the whole calendar."""
        session = bisect_right(self._close_list, ts)
        if session == len(self._close_list):
            raise ValueError(f"{datetime.fromtimestamp(ts / 1e9, NEW_YORK)} is past the calendar's end")
        # The first multiple of the timeframe after it, of those after the open; the close cuts the last one short.
        minute = (ts - int(self._midnight[session])) // NS_PER_MINUTE
        begin, end = self._first_list[session : session + 2]
        nth: int = minute // self.timeframe - int(self._before_first[session])
        return begin + min(max(nth, 0), end - begin - 1)

    def index_of(self, ts: Longs) -> Longs:
        """Places of the slices that end at these instants; each must be the end of a slice."""
        session = np.searchsorted(self.closes, ts, side="left")
        minute = (ts - self._midnight[session]) // NS_PER_MINUTE
        nth = -(-minute // self.timeframe) - self._before_first[session]
        index: Longs = self._first[session] + nth - 1
        return index

    def session_at(self, index: Longs) -> Ints:
        """The exchange's date of slices by their places, days since 1970-01-01."""
        return self.sessions[np.searchsorted(self._first, index, side="right") - 1]

    def ahead(self, index: Longs, bars: Sequence[int]) -> tuple[Ints, Ints, Ints]:
        """Date, minute and nights of the slices so many bars after those at `index`; [slices, bars] each.

        The exchange's date in days since 1970-01-01, the minute of its day at the slice's end, and how many
        nights lie between.
        """
        later = index[:, None] + np.asarray(bars, np.int64)
        if later.size and later.max() >= self._first[-1]:
            raise ValueError(f"{int(later.max() - index.max())} bars after the last instant is past the calendar's end")
        now = np.searchsorted(self._first, index, side="right") - 1
        session = np.searchsorted(self._first, later, side="right") - 1
        minute = self._minute_of(later, session)
        return self.sessions[session], minute.astype(np.int32), (session - now[:, None]).astype(np.int32)

    def ts_at(self, index: int) -> int:
        """End of one slice, UTC ns."""
        session = bisect_right(self._first_list, index) - 1
        nth = index - self._first_list[session] + 1
        minute = (int(self._before_first[session]) + nth) * self.timeframe
        return int(self._midnight[session]) + min(minute, int(self._close_minute[session])) * NS_PER_MINUTE

    def end_of(self, ts: int) -> int:
        """End of the slice that holds an instant (`begin < ts <= end`), UTC ns; 0 while the exchange is closed."""
        session = bisect_left(self._close_list, ts)
        if session == len(self._close_list) or ts <= self.opens[session]:
            return 0
        return self.ts_at(self.index_after(ts - 1))

    def session_of(self, ts: int) -> int:
        """The session that an instant belongs to, days since 1970-01-01; between two sessions the coming one."""
        return int(self.sessions[bisect_left(self._close_list, ts)])

    def close_of(self, session: int) -> int:
        """The close of a session (days since 1970-01-01), UTC ns. Raises KeyError where there is none."""
        at = int(np.searchsorted(self.sessions, session))
        if at == self.sessions.size or self.sessions[at] != session:
            raise KeyError(session)
        return int(self.closes[at])

    def slices(self, first: int, last: int, after: int, upto: int) -> Slices:
        """The slices `first <= index < last`, promising the range `after < ts <= upto`.

        Asked by sixteen shards in turn, so the last answers are kept; nobody writes into a frame's arrays.
        """
        key = first, last, after, upto
        found = self._made.get(key)
        if found is None:
            found = self._slices(*key)
            if len(self._made) >= KEPT:
                self._made.clear()
            if found.size <= SESSION:
                self._made[key] = found
        return found

    def _slices(self, first: int, last: int, after: int, upto: int) -> Slices:
        # Session by session: what is looked up for each slice takes three times as long.
        begin, end = bisect_right(self._first_list, first) - 1, bisect_left(self._first_list, last)
        own, following = slice(begin, end), slice(begin + 1, end + 1)
        lengths = np.diff(self._first[begin : end + 1].clip(first, last))
        minute = np.arange(first + 1, last + 1)
        minute += np.repeat(self._before_first[own] - self._first[own], lengths)
        minute *= self.timeframe
        to_close = np.repeat(self._close_minute[own], lengths)
        np.minimum(minute, to_close, out=minute)
        to_close -= minute
        ts = minute * NS_PER_MINUTE
        ts += np.repeat(self._midnight[own], lengths)
        lasts = self._first[following] - first - 1  # where the sessions' last slices stand
        eves = lasts - 1
        phase = np.full(minute.size, Phase.MIDDLE, np.int8)
        phase[eves[(eves >= 0) & (eves < phase.size)]] = Phase.EVE
        ends = lasts[lasts < phase.size]
        phase[ends] = Phase.LAST  # of a session of one slice, too
        # The next slice begins with its session.
        to_close[ends] = (self._close_minute[following] - self._open_minute[following])[: ends.size]
        return Slices(
            after=after,
            upto=upto,
            ts=ts,
            session=np.repeat(self.sessions[own], lengths),
            minute=minute.astype(np.int32),
            to_close=to_close.astype(np.int32),
            phase=phase,
        )

    def ends_at(self, index: Longs) -> Longs:
        """Ends of slices by their places, UTC ns."""
        session = np.searchsorted(self._first, index, side="right") - 1
        ends: Longs = self._midnight[session] + self._minute_of(index, session) * NS_PER_MINUTE
        return ends

    def _minute_of(self, index: Longs, session: Longs) -> Longs:
        """Minute of the exchange's day at the end of each slice, whose session is known."""
        clock = (self._before_first[session] + (index - self._first[session]) + 1) * self.timeframe
        minute: Longs = np.minimum(clock, self._close_minute[session])
        return minute


@lru_cache(maxsize=1 << 16)
def _utc_offset_ns(ts: int) -> int:
    """New York's offset from UTC at an instant."""
    offset = datetime.fromtimestamp(ts / 1e9, NEW_YORK).utcoffset()
    assert offset is not None  # noqa: S101  (the zone is aware)
    return int(offset.total_seconds()) * NS_PER_SECOND
