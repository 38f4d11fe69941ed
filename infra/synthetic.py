"""A made-up market: seeded bars that look enough like real ones to trade on, and never are.

Each session is drawn from (seed, date) and the prices carried over, one session at a time, so
that memory does not depend on their number. A symbol's log price moves with the market, on its
own, and along a trend (up, down, none) that lasts for some dozens of bars of any timeframe.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from infra.barfiles import Column, Extent, Keys, Table, frozen, nearest, write_tables
from operators.split import Columns
from schemas.calendar import FIRST, LAST, TIMEFRAMES, Calendar, timeframe_name
from schemas.errors import UserError
from schemas.frames import Bools, Floats, Longs
from schemas.units import NS_PER_MINUTE

SESSION = 390  # minutes of a normal session
DAILY = 0.012  # deviation of a day's log return without trends, market and own part together
SHORTEST, LONGEST = 48, 144  # bars of a trend
CHEAPEST, DEAREST = 2.0, 5_000.0  # USD; log prices are pushed back inside
MISSING = 0.15  # of the bars of the least liquid symbol

_T = TypeVar("_T", int, date)


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is generated; equal specs give equal bars, and other symbols' number other bars."""

    symbols: int = 20
    days: int = 5  # sessions
    seed: int = 1
    timeframe: str = "1m"
    start: date = date(2024, 1, 2)
    signal: int = 20  # a trend's drift per bar, in percent of a bar's deviation; 0 leaves nothing to forecast

    def __str__(self) -> str:
        fields = [field for field in self.__struct_fields__ if field != "signal" or self.signal != Spec().signal]
        values = (f"{field}={getattr(self, field)}" for field in fields)
        return f"synthetic:{','.join(values)}"


BOUNDS = {"symbols": (1, 20_000), "days": (1, 15_000), "seed": (0, 2**31 - 1), "signal": (0, 200)}


def parse(spec: str, minutes: int = 0) -> Spec:
    """`synthetic:symbols=20,days=5` -> Spec; `minutes` is the timeframe where the text names none.

    Raises UserError for an unknown key, an impossible value, or another timeframe than `minutes`.
    """
    given: dict[str, int | str | date] = {}
    for item in filter(None, spec.partition(":")[2].split(",")):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in Spec.__struct_fields__:
            raise UserError(f"{spec}: unknown key {key!r}{nearest(key, Spec.__struct_fields__)}")
        given[key] = _value(spec, key, value)
    if minutes:
        asked = timeframe_name(minutes)
        if given.setdefault("timeframe", asked) != asked:
            raise UserError(f"{spec}: timeframe={given['timeframe']}, but {asked} was asked for; name one")
    return msgspec.convert(given, Spec)


def _value(spec: str, key: str, value: str) -> int | str | date:
    """One value of a spec, within its bounds."""
    if key == "timeframe":
        if value not in TIMEFRAMES:
            raise UserError(f"{spec}: timeframe={value}{nearest(value, TIMEFRAMES)}")
        return value
    if key == "start":
        try:
            return _within(spec, key, date.fromisoformat(value), FIRST, LAST - timedelta(days=31))
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{spec}: start={value}: want a date such as 2024-01-02") from None
    if not value.isdecimal():
        raise UserError(f"{spec}: {key}={value}: want a whole number")
    return _within(spec, key, int(value), *BOUNDS[key])


def _within(spec: str, key: str, value: _T, low: _T, high: _T) -> _T:
    if not low <= value <= high:
        raise UserError(f"{spec}: {key}={value}: want {low} to {high}")
    return value


class Market:
    """Generated bars with quotes, a feed as files are."""

    synthetic = True
    has_quotes = True

    def __init__(self, spec: Spec):
        self.spec = spec
        self.label = str(spec)
        self.fingerprint = hashlib.sha256(self.label.encode()).hexdigest()[:16]
        self.timeframe = TIMEFRAMES[spec.timeframe]
        width = max(3, len(str(spec.symbols - 1)))
        self.names = tuple(f"SYN{i:0{width}d}" for i in range(spec.symbols))
        last = min(spec.start + timedelta(days=spec.days * 3 // 2 + 14), LAST)
        self._calendar = Calendar(self.timeframe, spec.start, last)
        first = int(np.searchsorted(self._calendar.sessions, (spec.start - date(1970, 1, 1)).days))
        self._sessions = range(first, first + spec.days)
        if self._sessions.stop > self._calendar.sessions.size:
            raise UserError(f"{self.label}: the calendar ends on {LAST}; want fewer days or an earlier start")
        self._traits()

    def _traits(self) -> None:
        """What each symbol is like, for good."""
        n = self.spec.symbols
        draw = np.random.default_rng([self.spec.seed, 0])
        rank = draw.permutation(n) / n  # 0: the most liquid
        self._level: Floats = draw.uniform(np.log(15.0), np.log(400.0), n)  # log price it started at
        self._beta: Floats = draw.uniform(0.5, 1.5, n)
        bar = DAILY * np.sqrt(min(self.timeframe / SESSION, 1.0))
        self._deviation: Floats = bar * (0.8 + 0.8 * rank)
        self._shares: Floats = 10.0 ** (4.5 - 2.0 * rank) * self.timeframe  # per bar of a quiet hour
        self._half_spread: Floats = (0.5 + 4.0 * rank) / 10_000
        self._missing: Floats = np.maximum(2.0 * rank - 1.0, 0.0) * MISSING
        self._sparse: Longs = np.flatnonzero(self._missing)
        self._span: Longs = draw.integers(SHORTEST, LONGEST, n)  # bars of a trend
        self._phase: Longs = draw.integers(0, LONGEST, n)

    def extent(self, symbols: Sequence[str], start: int, stop: int) -> Extent:
        """Count without drawing prices."""
        chosen = np.isin(np.array(self.names), np.array(symbols))
        rows, first, last = 0, 2**63 - 1, -(2**63)
        for session in self._sessions:
            if self._calendar.closes[session] < start or self._calendar.opens[session] >= stop:
                continue
            _, ts = self._grid(session)
            inside = (ts >= start) & (ts <= stop)
            per_slice = self._present(session, ts.size)[:, chosen].sum(axis=1) * inside
            if per_slice.any():
                of = ts[per_slice > 0]
                rows, first, last = rows + int(per_slice.sum()), min(first, int(of[0])), int(of[-1])
        return Extent(rows, first, last)

    def keys(self, after: int, upto: int, numbers: Mapping[str, Column]) -> Iterator[Keys]:
        """As a Feed has them."""
        for names, columns in self.tables(after, upto):
            for name, column in numbers.items():
                column.add([frozen(getattr(columns, name))])
            yield Keys(names, frozen(columns.ts), frozen(columns.symbol))

    def tables(self, after: int = -(2**63), upto: int = 2**63 - 1) -> Iterator[Table]:
        """One table per session; of those before `after` only the prices' path is drawn."""
        log_price, codes = self._level, np.arange(len(self.names), dtype=np.int32)
        origin = self._calendar.index_after(int(self._calendar.opens[self._sessions[0]]))
        for session in self._sessions:
            if self._calendar.opens[session] >= upto:
                return
            index, ts = self._grid(session)
            draw = self._draw(session, 1)
            path = self._path(draw, log_price, index - origin, ts.size)
            if ts[-1] > after:
                yield Table(self.names, self._bars(draw, log_price, path, ts, codes, session))
            log_price = path[-1]

    def _draw(self, session: int, purpose: int) -> np.random.Generator:
        """Random numbers of a date: 1 for prices, 2 for which bars are missing."""
        day = int(self._calendar.sessions[session])
        return np.random.Generator(np.random.SFC64([self.spec.seed, day, purpose]))

    def _grid(self, session: int) -> tuple[int, Longs]:
        """Index of a session's first slice, and the ends of all its slices."""
        opens, closes = int(self._calendar.opens[session]), int(self._calendar.closes[session])
        first, last = self._calendar.index_after(opens), self._calendar.index_after(closes)
        return first, self._calendar.slices(first, last, opens, closes).ts

    def _present(self, session: int, slices: int) -> Bools:
        """Which bars exist, [slices, symbols]."""
        there: Bools = np.ones((slices, self.spec.symbols), np.bool_)
        if self._sparse.size:
            chance = self._draw(session, 2).random((slices, self._sparse.size), np.float32)
            there[:, self._sparse] = chance >= self._missing[self._sparse]
        return there

    def _path(self, draw: np.random.Generator, log_price: Floats, bar: int, slices: int) -> Floats:
        """Log prices at the ends of the slices, [slices, symbols]; `bar` counts from the first session."""
        n = self.spec.symbols
        noise = draw.standard_normal((slices, n + 1))
        gap = draw.standard_normal(n + 1) * (0.4 * DAILY)
        bars = np.arange(bar, bar + slices)[:, None]
        drift = self.spec.signal / 100.0
        market = noise[:, n:] + drift * trend(self.spec.seed, 0, bars // LONGEST)
        own = noise[:, :n]
        own += drift * trend(self.spec.seed, 1 + np.arange(n), (bars + self._phase) // self._span)
        moves = (0.5 * self._beta * market + 0.87 * own) * self._deviation
        # Overnight: a jump, and a slow pull back to where the symbol came from.
        moves[0] += 0.5 * self._beta * gap[n] + 0.87 * gap[:n] - 0.01 * (log_price - self._level)
        path = log_price + np.cumsum(moves, axis=0)
        return np.clip(path, np.log(CHEAPEST), np.log(DEAREST))

    def _bars(
        self,
        draw: np.random.Generator,
        before: Floats,
        path: Floats,
        ts: Longs,
        codes: npt.NDArray[np.int32],
        session: int,
    ) -> Columns:
        """One session's bars around their path, on the cent grid, rows by time and symbol."""
        shape = path.shape
        close = np.exp(path) * 100.0  # cents
        open_ = np.empty(shape)
        open_[1:] = close[:-1]
        open_[0] = (np.exp(before) * 100.0 + close[0] * 3.0) / 4.0  # most of the gap lies before the open
        reach = close * self._deviation * 0.5
        high = np.maximum(open_, close) + np.abs(draw.standard_normal(shape, np.float32)) * reach
        low = np.minimum(open_, close) - np.abs(draw.standard_normal(shape, np.float32)) * reach
        hours = (ts - self._calendar.opens[session]) / (NS_PER_MINUTE * SESSION)
        curve = 0.6 + 1.6 * (2.0 * hours - 1.0) ** 2  # busy at the open and at the close
        shares = self._shares * curve[:, None] * np.exp(0.5 * draw.standard_normal(shape, np.float32))
        spread = np.maximum(np.rint(close * self._half_spread * 2.0), 1.0)
        bid = np.rint(close) - spread // 2.0
        there = self._present(session, ts.size)
        symbol = np.broadcast_to(codes, shape)[there]
        stamps = np.broadcast_to(ts[:, None], shape)[there]
        cents = (np.rint(each[there]) / 100.0 for each in (open_, high, np.maximum(low, 1.0), close))
        volume = np.rint(shares[there]) + 1.0
        ask = bid + spread
        return Columns._make((stamps, symbol, *cents, volume, bid[there] / 100.0, ask[there] / 100.0))


def trend(seed: int, who: "int | npt.NDArray[np.int64]", block: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """-1 down, 0 none or 1 up: a hash, so that any block of any symbol is known without those before."""
    bits = np.asarray(block).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = bits ^ (np.asarray(who).astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9))
    bits = bits ^ (np.full(1, seed, np.uint64) * np.uint64(0x94D049BB133111EB))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    side: npt.NDArray[np.float64] = ((bits >> np.uint64(33)) % np.uint64(3)).astype(np.float64) - 1.0
    return side


def write_parquet(path: Path, spec: str) -> int:
    """Write a synthetic market to a time-sorted Parquet file, one session after the other; rows written."""
    return write_tables(path, Market(parse(spec)).tables(), has_quotes=True)
