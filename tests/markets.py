"""Small generated markets, and how to cut them into frames: shared by the property tests."""

import itertools
from dataclasses import dataclass, replace
from datetime import date
from functools import cache

import numpy as np
from hypothesis import strategies as st

from infra.reference import Action, Reference
from operators.asof import NEVER, Known, known
from operators.split import Columns, places, split
from schemas.calendar import Calendar
from schemas.frames import SHARDS, Listing, RawFrame, Slices
from schemas.universe import Universe

NAMES = ("AAA", "BB", "CCC", "DOG", "EEL", "F", "GNU")
FIRST = date(2024, 6, 26)  # a half day (July 3rd) and a holiday (July 4th) are near


@dataclass(frozen=True)
class Market:
    """Bars of some sessions, in order of `(ts, name)`, and the range that they cover."""

    universe: Universe
    calendar: Calendar
    first: int  # index of the first slice
    last: int
    after: int
    table: Columns
    reference: Reference | None = None

    @property
    def slices(self) -> Slices:
        return self.calendar.slices(self.first, self.last, self.after, self.upto)

    @property
    def upto(self) -> int:
        return self.calendar.ts_at(self.last - 1)

    def chunks(self, cuts: list[int] = ()) -> list[list[RawFrame]]:
        """Frames of all shards, cut before the given slices (counted from 0)."""
        size = self.last - self.first
        edges = sorted({0, size, *(c % (size + 1) for c in cuts)})
        where = places(self.universe)
        answer, after = [], self.after
        for begin, end in itertools.pairwise(edges):
            upto = self.calendar.ts_at(self.first + end - 1)
            slices = self.calendar.slices(self.first + begin, self.first + end, after, upto)
            low, high = np.searchsorted(self.table.ts, [after, upto], side="right")
            listed = self.listings() if begin == 0 else {}
            rows = self.table.rows(low, high)
            frames = split([rows], where, range(SHARDS), slices, listed)
            if self.reference is not None:
                closes = self.reference.market_closes(slices, self._market(rows))
                frames = [self.reference.attach(frame, closes) for frame in frames]
            answer.append(frames)
            after = upto
        return answer

    def _market(self, rows: Columns) -> Columns:
        """The bars of the first symbol, by name, which stands for the market."""
        own = rows.symbol == self.universe.ids[min(self.universe.names)]
        return Columns(*(column[own] if column.size else column for column in rows))

    def listings(self) -> dict[int, tuple[Listing, ...]]:
        """Who is listed in which shard."""
        u = self.universe
        return {
            shard: tuple(Listing(i, int(u.slots[i]), name) for i, name in enumerate(u.names) if u.shards[i] == shard)
            for shard in range(SHARDS)
        }


calendar_of = cache(lambda minutes: Calendar(minutes, FIRST, date(2024, 12, 31)))


def make(seed: int, *, sessions: int = 5, symbols: int = 4, minutes: int = 30, quotes: bool = True,
         dirt: float = 0.02, order: tuple[int, ...] | None = None, beside: bool = False) -> Market:  # fmt: skip
    """A market with trends, turns, gaps, missing bars and, in the share `dirt` of the rows, bad ones.

    `beside` it: splits, dividends, report dates, reference volumes and a market symbol.
    """
    rng = np.random.default_rng(seed)
    calendar = calendar_of(minutes)
    first = calendar.index_after(int(np.datetime64(FIRST, "ns").astype(np.int64)))
    last = calendar.index_after(int(calendar.closes[calendar.sessions.searchsorted(
        int(np.datetime64(FIRST, "D").astype(int))) + sessions - 1]) - 1) + 1  # fmt: skip
    after = calendar.ts_at(first - 1)
    slices = calendar.slices(first, last, after, calendar.ts_at(last - 1))
    names = [NAMES[k] for k in (order or range(symbols))]
    universe = Universe(names)
    size = slices.size
    turns = np.repeat(rng.choice([-1.0, 1.0], size // 12 + 1), 12)[:size, None]
    moves = turns * 0.003 * rng.choice([0.0, 1.0], symbols) + rng.normal(0, 0.004, (size, symbols))
    moves[rng.random((size, symbols)) < 0.01] += rng.choice([-0.08, 0.08])
    close = np.round(np.exp(np.cumsum(moves, axis=0)) * rng.choice([3.0, 40.0, 180.0], symbols), 2)
    open_ = np.round(np.vstack([close[:1], close[:-1]]) * (1 + rng.normal(0, 0.001, (size, symbols))), 2)
    high = np.round(np.maximum(open_, close) * (1 + abs(rng.normal(0, 0.003, (size, symbols)))), 2)
    low = np.round(np.minimum(open_, close) * (1 - abs(rng.normal(0, 0.003, (size, symbols)))), 2)
    volume = np.floor(rng.lognormal(6, 2, (size, symbols)))
    bid, ask = close - 0.01, close + 0.01
    bid[rng.random((size, symbols)) < 0.1] = np.nan
    ids = np.array([universe.ids[n] for n in sorted(names)], np.int32)  # columns stand in name order
    keep = rng.random(size * symbols) >= 0.05
    columns = [np.repeat(slices.ts, symbols), np.tile(ids, size),
               *(m.reshape(-1) for m in (open_, high, low, close, volume, bid, ask))]  # fmt: skip
    table = Columns(*(c[keep] for c in columns))
    if not quotes:
        table = table._replace(bid=np.zeros(0), ask=np.zeros(0))
    reference = _beside(universe, slices, rng) if beside else None
    return Market(universe, calendar, first, last, after, _soil(table, rng, dirt), reference)


def _beside(universe: Universe, slices: Slices, rng: np.random.Generator) -> Reference:
    """Reference data that becomes known all along; by name, so that ids do not matter."""
    names = sorted(universe.names)
    ids = np.array([universe.ids[name] for name in names], np.int32)
    some = np.repeat(ids, 3)
    actions = []
    for name in names:
        for ts in sorted(rng.choice(slices.ts, 2, replace=False)):
            new, old = rng.choice([1, 1, 2, 3, 7], 2)
            actions.append(Action(int(ts), name, int(new), int(old), int(rng.choice([0, 1_234]))))
    dates = np.where(rng.random(some.size) < 0.2, NEVER, slices.session[0] + rng.integers(-9, 12, some.size))
    volumes = known(len(names), some, _instants(slices, rng, some.size), 10.0 ** rng.uniform(3, 6, some.size))
    earnings = known(len(names), some, _instants(slices, rng, some.size), dates)
    market = tuple(action for action in actions if action.name == names[0])
    whole = Reference(universe, earnings=earnings, volumes=volumes, actions=tuple(sorted(actions)),
                      market_splits=market, stale_days=20)  # fmt: skip
    return whole if rng.random() < 0.5 else replace(whole, volumes=None)


def _instants(slices: Slices, rng: np.random.Generator, size: int) -> np.ndarray:
    """Before, within and after the market, on and off the grid."""
    return rng.integers(slices.ts[0] - 10**13, slices.ts[-1] + 10**13, size)


def _soil(table: Columns, rng: np.random.Generator, dirt: float) -> Columns:
    """Spoil some rows in every way that the quality step knows."""
    rows = np.flatnonzero(rng.random(table.ts.size) < dirt)
    spoilt = Columns(*(c.copy() for c in table))
    for k, i in enumerate(rows):
        match k % 6:
            case 0:
                spoilt.close[i] = np.nan
            case 1:
                spoilt.low[i] = -1.0
            case 2:
                spoilt.high[i] = spoilt.low[i] / 2
            case 3:
                spoilt.volume[i] = -5.0
            case 4:
                spoilt.ts[i] -= 60_000_000_000 * 7  # off the grid
            case 5:
                spoilt.ts[i] = spoilt.ts[max(i - table_step(spoilt, i), 0)]  # perhaps a duplicate
    order = np.argsort(spoilt.ts, kind="stable")
    return Columns(*(c[order] if c.size else c for c in spoilt))


def table_step(table: Columns, i: int) -> int:
    """How many rows back the same symbol stands."""
    before = np.flatnonzero(table.symbol[:i] == table.symbol[i])
    return int(i - before[-1]) if before.size else 0


def shuffled(market: Market, seed: int) -> Market:
    """The same bars with the symbols of each slice in another order; of two bars of one symbol the first counts."""
    place = np.random.default_rng(seed).permutation(len(market.universe))
    order = np.lexsort((place[market.table.symbol], market.table.ts))
    return replace(market, table=Columns(*(c[order] if c.size else c for c in market.table)))


def altered_after(market: Market, slice_: int, seed: int) -> Market:
    """The same bars up to a slice, others after it."""
    rng = np.random.default_rng(seed)
    later = market.table.ts > market.calendar.ts_at(market.first + slice_)
    scale = np.exp(rng.normal(0, 0.1, later.size))
    table = market.table
    prices = {
        n: np.where(later, np.round(getattr(table, n) * scale, 2), getattr(table, n))
        for n in ("open", "high", "low", "close")
    }
    ts = market.calendar.ts_at(market.first + slice_)
    reference = market.reference and _retold(market.reference, ts, rng)
    table = table._replace(**prices, volume=np.where(later, 77.0, table.volume))
    return replace(market, table=table, reference=reference)


def _retold(reference: Reference, ts: int, rng: np.random.Generator) -> Reference:
    """The same reference data up to an instant; what becomes known later is another, and later or never."""

    def other(values: Known | None) -> Known | None:
        if values is None:
            return None
        symbol = np.repeat(np.arange(values.first.size - 1), np.diff(values.first)).astype(np.int32)
        late = (values.since > ts) & (rng.random(values.since.size) < 0.7)
        since = np.where(late, np.maximum(values.since - rng.integers(0, 10**13, late.size), ts + 1), values.since)
        return known(values.first.size - 1, symbol, since,
                     *(np.where(late, rng.permutation(column), column) for column in values.values))  # fmt: skip

    def told(actions: tuple[Action, ...]) -> tuple[Action, ...]:
        return tuple(action if action.ts <= ts else action._replace(new=5, dividend=77) for action in actions)

    return replace(reference, earnings=other(reference.earnings), volumes=other(reference.volumes),
                   actions=told(reference.actions), market_splits=told(reference.market_splits))  # fmt: skip


markets = st.builds(
    make, st.integers(0, 2**32), sessions=st.integers(2, 6), symbols=st.integers(1, 6),
    minutes=st.sampled_from([30, 60]), quotes=st.booleans(), dirt=st.sampled_from([0.0, 0.03]),
    beside=st.booleans(),
)  # fmt: skip
cuts = st.lists(st.integers(0, 200), max_size=6)
