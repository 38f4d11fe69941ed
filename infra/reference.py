"""What stands beside bars: quotes, earnings dates, corporate actions, average volumes; each known from an instant on.

Files are read whole. A value reaches a bar only if it was known at the bar's end, an action only in the slice
that it begins with: `operators.asof` offers no way to ask for more. `docs/data.md` describes the files.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from infra.barfiles import Decoder, is_text, look, nearest, read_table
from infra.settings import Reference as Params
from operators.asof import NEVER, Known, closes_by_slice, days_to_report, known
from operators.split import Columns
from schemas.calendar import NEW_YORK, Calendar
from schemas.errors import UserError
from schemas.frames import NO_ACTIONS, Actions, Floats, Ints, Longs, RawFrame, Slices
from schemas.units import MAX_PRICE_USD, NS_PER_MINUTE, to_ticks
from schemas.universe import Universe

MARKETS = ("SPY", "QQQ")  # whose returns are the market's: the first that the bars have
FACTORS = ("permtick", "date", "price_factor", "split_factor", "reference_price")  # LEAN's columns of actions
LARGEST = 10_000  # shares that one share can become, and the reverse
_ALWAYS = -(2**63)


class Files(msgspec.Struct, frozen=True):
    """Paths as the user gave them; None: there is no such source."""

    quotes: str | None = None
    earnings: str | None = None
    actions: str | None = None
    volumes: str | None = None

    def given(self) -> dict[str, Path]:
        """Those that there are, by kind."""
        return {kind: Path(path).expanduser() for kind, path in msgspec.structs.asdict(self).items() if path}

    def resolved(self) -> dict[str, str]:
        """The same, so that they can be found from any folder."""
        return {kind: str(path.resolve()) for kind, path in self.given().items()}

    def fingerprint(self) -> str:
        """Changes with any of the files; empty without any."""
        found = []
        for kind, path in self.given().items():
            stat = look(path)
            found.append((kind, path.name, stat.st_size, stat.st_mtime_ns))
        return hashlib.sha256(repr(found).encode()).hexdigest()[:16] if found else ""


class Action(NamedTuple):
    """A split or a dividend, or both; it holds from the start of the slice that ends at `ts`."""

    ts: int  # UTC ns
    name: str
    new: int
    old: int
    dividend: int  # ticks per share, after the split

    @property
    def shares(self) -> float:
        """New shares per old share."""
        return self.new / self.old


@dataclass(frozen=True)
class Reference:
    """Reference data of a universe, to be laid beside frames; None: there is no such source."""

    universe: Universe
    oldest: int = NS_PER_MINUTE  # quote, ns before the bar's end
    stale_days: int = 120  # after the last report known
    quotes: Known | None = None  # bid, ask
    earnings: Known | None = None  # days since 1970, NEVER
    volumes: Known | None = None
    actions: tuple[Action, ...] = ()  # of these symbols, in order of time and name, none before the log begins
    market: str | None = None  # symbol
    market_splits: tuple[Action, ...] = ()

    def attach(self, frame: RawFrame, market: Floats) -> RawFrame:
        """The frame with all that was known at its bars; `market`: as `market_closes` gives it."""
        more: dict[str, Any] = {"market": market} if market.size else {}
        if self.quotes is not None:
            more["bid"], more["ask"] = self._quotes_of(self.quotes, frame)
        if self.volumes is not None:
            rows = self.volumes.at(frame.symbol, frame.ts)
            more["average_volume"] = _taken(self.volumes.values[0], rows, rows >= 0)
        if self.earnings is not None:
            more["earnings_days"] = self._days(self.earnings, frame)
        if self.actions:
            more["actions"], more["acted"] = self._acted(frame)
        return replace(frame, **more) if more else frame

    def _quotes_of(self, quotes: Known, frame: RawFrame) -> tuple[Floats, Floats]:
        """The last bid and ask of each bar, NaN where they are too old."""
        rows = quotes.at(frame.symbol, frame.ts)
        is_fresh = rows >= 0
        if quotes.since.size:
            is_fresh &= frame.ts - quotes.since.take(rows, mode="clip") <= self.oldest
        return _taken(quotes.values[0], rows, is_fresh), _taken(quotes.values[1], rows, is_fresh)

    def _days(self, earnings: Known, frame: RawFrame) -> Ints:
        slices = frame.slices
        days = np.full(frame.ts.size, -1, np.int32)
        if slices.size:
            session = slices.session.take(np.searchsorted(slices.ts, frame.ts), mode="clip")
            days_to_report(earnings.first, earnings.since, earnings.values[0], frame.symbol, frame.ts, session,
                           self.stale_days, days)  # fmt: skip
        return days

    def _acted(self, frame: RawFrame) -> tuple[Actions, Ints]:
        """The actions of the frame's own symbols and slices."""
        slices = frame.slices
        due = [action for action in self.actions if slices.after < action.ts <= slices.upto]
        own = [action for action in due if self.universe.shards[self.universe.ids[action.name]] == frame.shard]
        if not own:
            return NO_ACTIONS, frame.acted
        symbol = np.array([self.universe.ids[action.name] for action in own], np.int32)
        columns = (np.array([getattr(action, name) for action in own], np.int64) for name in ("new", "old", "dividend"))
        at = np.searchsorted(slices.ts, [action.ts for action in own]).astype(np.int32)
        return Actions(at, symbol, *columns), self.universe.slots[symbol]

    def market_closes(self, slices: Slices, bars: Columns) -> Floats:
        """The market's close by slice, NaN without a good bar, in USD per share of the log's start."""
        closes = np.full(slices.size, np.nan)
        closes_by_slice(slices.ts, bars.ts, bars.open, bars.high, bars.low, bars.close, bars.volume, closes)
        return self.market_steady(slices, closes)

    def market_steady(self, slices: Slices, closes: Floats) -> Floats:
        """The market's closes by slice, without the steps of its splits."""
        steady = closes.copy()
        for action in self.market_splits:
            steady[slices.ts >= action.ts] *= action.shares
        return steady


def open_reference(
    files: Files, params: Params, universe: Universe, calendar: Calendar, after: int, market: str | None
) -> Reference:
    """Read the files; the log begins after `after`, UTC ns. Raises UserError."""
    given, ids = files.given(), universe.ids
    every = sorted(read_actions(given["actions"], calendar)) if "actions" in given else []
    every = [action for action in every if action.ts > after]
    actions = [action for action in every if action.name in ids]
    return Reference(
        universe,
        int(params.quote_age_bars * calendar.timeframe * NS_PER_MINUTE),
        params.earnings_stale_days,
        quotes=read_quotes(given["quotes"], ids) if "quotes" in given else None,
        earnings=read_earnings(given["earnings"], ids, params.earnings_notice_days) if "earnings" in given else None,
        volumes=read_volumes(given["volumes"], ids, actions) if "volumes" in given else None,
        actions=tuple(actions),
        market=market,
        market_splits=tuple(action for action in every if action.name == market),
    )


def _taken(column: Floats, rows: Longs, there: Any) -> Floats:
    """`column[rows]`, NaN where there is nothing."""
    if not column.size:
        return np.full(rows.size, np.nan)
    taken: Floats = np.where(there, column.take(rows, mode="clip"), np.nan)
    return taken


# Files.


class _File:
    """A table read whole, its columns by name; raises UserError for what it has not or cannot be read."""

    def __init__(self, path: Path, needed: Sequence[str], renamed: Mapping[str, str] | None = None):
        table = read_table(path)
        names = [(renamed or {}).get(name, name) for name in table.column_names]
        self.path, self.table = path, table.rename_columns(names)
        for name in needed:
            if name not in names:
                raise UserError(f"{path} has no column {name}{nearest(name, names)}")
        self.rows = table.num_rows
        self.decoder = Decoder(path)

    def __contains__(self, name: str) -> bool:
        return name in self.table.column_names

    def column(self, name: str) -> Any:
        """One Arrow array."""
        column = self.table.column(name).combine_chunks()
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def symbols(self, name: str = "symbol") -> list[str]:
        """Of every row, upper-cased."""
        column = self.column(name)
        if not is_text(column.type):
            raise UserError(f"{self.path}: column {name} is {column.type}; want text")
        codes = self.decoder.codes(column)
        return [self.decoder.names[code] for code in codes]

    def ids(self, ids: Mapping[str, int]) -> Ints:
        """Of every row; -1 for a symbol that nobody asked for."""
        column = self.column("symbol")
        if not is_text(column.type):
            raise UserError(f"{self.path}: column symbol is {column.type}; want text")
        codes = self.decoder.codes(column)
        known_ids = np.array([ids.get(name, -1) for name in self.decoder.names] or [-1], np.int32)
        taken: Ints = known_ids.take(codes)
        return taken

    def floats(self, name: str) -> Floats:
        """Numbers, NaN where there is none."""
        column = self.column(name)
        of = pa.types
        if not (is_text(column.type) or of.is_floating(column.type) or of.is_integer(column.type)
                or of.is_decimal(column.type) or of.is_null(column.type)):  # fmt: skip
            raise UserError(f"{self.path}: column {name} is {column.type}; want numbers")
        return self.decoder.floats(name, column)

    def instants(self, name: str) -> Longs:
        """UTC ns."""
        column = self.column(name)
        if not is_text(column.type) and not (pa.types.is_timestamp(column.type) and column.type.tz):
            raise UserError(f"{self.path}: column {name} is {column.type}; store it as timestamp[us, UTC]")
        return self.decoder.instants(column)

    def dates(self, name: str) -> list[date | None]:
        """Days of the exchange."""
        column = self.column(name)
        if is_text(column.type):
            column = self.decoder.parsed(name, column, pa.date32())
        if not pa.types.is_date(column.type) and not pa.types.is_null(column.type):
            raise UserError(f"{self.path}: column {name} is {column.type}; want dates, as 2024-01-02")
        days: list[date | None] = column.to_pylist()
        return days

    def since(self, name: str) -> list[int | None]:
        """Instants, UTC ns; a day's value is known when the day is over in New York."""
        column = self.column(name)
        is_dated = is_text(column.type) and all(len(text.strip()) == 10 for text in column.drop_null().to_pylist())
        if is_dated or pa.types.is_date(column.type) or pa.types.is_null(column.type):
            return [None if day is None else midnight(day + timedelta(days=1)) for day in self.dates(name)]
        there = column.is_valid().to_numpy(zero_copy_only=False)
        found: list[int | None] = [None] * len(column)
        if not is_text(column.type) and not (pa.types.is_timestamp(column.type) and column.type.tz):
            raise UserError(f"{self.path}: column {name} is {column.type}; want dates or timestamp[us, UTC]")
        for i, ts in zip(np.flatnonzero(there).tolist(), self.decoder.instants(column.drop_null(), name).tolist(),
                         strict=True):  # fmt: skip
            found[i] = ts
        return found

    def wrong(self, row: int, what: str) -> UserError:
        """A mistake in a row, counted from 0."""
        return UserError(f"{self.path}: row {row + 1}: {what}")


def midnight(day: date) -> int:
    """The beginning of a day in New York, UTC ns."""
    return int(datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).timestamp()) * 1_000_000_000


def read_quotes(path: Path, ids: Mapping[str, int]) -> Known:
    """Columns symbol, ts, bid and ask; of bars of quotes bid_close and ask_close, known at their end."""
    file = _File(path, ("symbol", "ts", "bid", "ask"), {"bid_close": "bid", "ask_close": "ask"})
    own = file.ids(ids)
    kept = own >= 0
    columns = (file.floats("bid")[kept], file.floats("ask")[kept])
    return known(len(ids), own[kept], file.instants("ts")[kept], *columns)


def read_earnings(path: Path, ids: Mapping[str, int], notice_days: int) -> Known:
    """Columns symbol, date (empty: it reports none, as a fund), and perhaps known_from."""
    file = _File(path, ("symbol", "date"))
    days = file.dates("date")
    told = file.since("known_from") if "known_from" in file else [None] * file.rows
    rows = []
    for name, day, since in zip(file.ids(ids).tolist(), days, told, strict=True):
        if name < 0:
            continue
        if since is None:
            since = _ALWAYS if day is None else midnight(day - timedelta(days=notice_days))
        rows.append((name, since, NEVER if day is None else (day - _EPOCH).days))
    symbol, known_from, when = (np.array([row[k] for row in rows], np.int64) for k in range(3))
    return known(len(ids), symbol.astype(np.int32), known_from, when)


def read_volumes(path: Path, ids: Mapping[str, int], actions: Sequence[Action]) -> Known:
    """Columns symbol, average_volume (shares a day), and perhaps known_from; a split gives the shares anew."""
    file = _File(path, ("symbol", "average_volume"))
    told = file.since("known_from") if "known_from" in file else [None] * file.rows
    by_symbol: dict[int, list[tuple[int, float]]] = {}
    for row, (name, value, since) in enumerate(
        zip(file.ids(ids).tolist(), file.floats("average_volume").tolist(), told, strict=True)
    ):
        if not value >= 0.0:
            raise file.wrong(row, f"average_volume {value:g}: want shares a day")
        if name >= 0:
            by_symbol.setdefault(name, []).append((_ALWAYS if since is None else since, value))
    rows = []
    for name, values in by_symbol.items():
        splits = [action for action in actions if ids[action.name] == name and action.new != action.old]
        rows += [(name, since, value) for since, value in _through_splits(sorted(values), splits)]
    symbol = np.array([row[0] for row in rows], np.int32)
    since_ns = np.array([row[1] for row in rows], np.int64)
    return known(len(ids), symbol, since_ns, np.array([row[2] for row in rows], np.float64))


def _through_splits(values: Sequence[tuple[int, float]], splits: Sequence[Action]) -> Iterator[tuple[int, float]]:
    """Values since their instants, and again at each split until the next one."""
    for place, (since, value) in enumerate(values):
        yield since, value
        until = values[place + 1][0] if place + 1 < len(values) else 2**63 - 1
        for action in splits:
            if since < action.ts < until:
                value *= action.shares
                yield action.ts, value


def read_actions(path: Path, calendar: Calendar) -> list[Action]:
    """Columns symbol, date, split (7:1 or 7) and dividend (USD); or LEAN's factors. One per symbol and slice."""
    table = read_table(path)
    rows = _factors(path) if "permtick" in table.column_names else _splits_and_dividends(path)
    merged: dict[tuple[int, str], Action] = {}
    for name, day, ratio, dividend in rows:
        ts = _first_slice(calendar, day)
        if ts is None:
            continue
        before = merged.get((ts, name), Action(ts, name, 1, 1, 0))
        whole = Fraction(before.new, before.old) * ratio
        paid = before.dividend + to_ticks(dividend)
        merged[ts, name] = Action(ts, name, whole.numerator, whole.denominator, paid)
    return [action for action in merged.values() if action.new != action.old or action.dividend]


def _splits_and_dividends(path: Path) -> Iterator[tuple[str, date, Fraction, float]]:
    file = _File(path, ("symbol", "date"))
    if "split" not in file and "dividend" not in file:
        raise UserError(f"{path} has neither a column split nor dividend{nearest('split', file.table.column_names)}")
    ratios = _ratios(file) if "split" in file else [Fraction(1)] * file.rows
    paid = file.floats("dividend").tolist() if "dividend" in file else [0.0] * file.rows
    for row, (name, day, ratio, dividend) in enumerate(
        zip(file.symbols(), file.dates("date"), ratios, paid, strict=True)
    ):
        if day is None:
            raise file.wrong(row, "no date; want the first session in which it holds")
        dividend = 0.0 if math.isnan(dividend) else dividend
        if not 0.0 <= dividend <= MAX_PRICE_USD:
            raise file.wrong(row, f"dividend {dividend:g}: want USD per share")
        yield name, day, ratio, dividend


def _ratios(file: _File) -> list[Fraction]:
    """New shares per old share; 1 where nothing stands."""
    column = file.column("split")
    if not is_text(column.type):
        texts = [None if math.isnan(value) else repr(value) for value in file.floats("split").tolist()]
    else:
        texts = column.to_pylist()
    ratios = []
    for row, text in enumerate(texts):
        try:
            new, _, old = (text or "1").partition(":")
            ratio = (Fraction(new.strip()) / Fraction(old.strip() or "1")).limit_denominator(LARGEST)
        except (ValueError, ZeroDivisionError):
            raise file.wrong(row, f"split {text!r}: want new:old as 7:1, or a number") from None
        if not Fraction(1, LARGEST) <= ratio <= LARGEST:
            raise file.wrong(row, f"split {text}: want 1:{LARGEST} to {LARGEST}:1")
        ratios.append(ratio)
    return ratios


def _factors(path: Path) -> Iterator[tuple[str, date, Fraction, float]]:
    """LEAN's rows hold up to and including their date: what changes, changes with the session after it."""
    file = _File(path, FACTORS)
    prices, splits, closes = (file.floats(name).tolist() for name in FACTORS[2:])
    days = file.dates("date")
    by_name: dict[str, list[tuple[date, float, float, float]]] = {}
    for row, name in enumerate(file.symbols("permtick")):
        day = days[row]
        if day is None or not prices[row] > 0.0 or not splits[row] > 0.0:
            raise file.wrong(row, "want a date and factors above 0")
        by_name.setdefault(name, []).append((day, prices[row], splits[row], closes[row]))
    for name, rows in by_name.items():
        rows.sort()
        for (day, price, split, close), (_, price_after, split_after, _) in pairwise(rows):
            ratio = Fraction(split_after / split).limit_denominator(1_000)  # factors are rounded
            paid = close * (1.0 - price / price_after) / float(ratio)
            yield name, day + timedelta(days=1), ratio, round(max(paid, 0.0), 4)


def _first_slice(calendar: Calendar, day: date) -> int | None:
    """End of the first slice of the first session from `day` on; None where the calendar ends before."""
    session = int(np.searchsorted(calendar.sessions, (day - _EPOCH).days))
    if session >= calendar.sessions.size:
        return None
    return calendar.ts_at(calendar.index_after(int(calendar.opens[session])))


_EPOCH = date(1970, 1, 1)
