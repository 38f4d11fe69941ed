"""Slicer: bars as they arrive -> closed slices. The one place where it is decided that a slice is over.

It asks no clock: the feed writes its own into the log, as beats among the bars ("it is now at least ts"). A
slice is closed when it is due and every expected symbol has its last bar, or when a beat says that the grace
is over. So the same log gives the same slices, whoever reads it, however often, and after any crash.

Which model is in force is told among the bars, too. It acts from the slice that is named, or from the next one
where that is closed already, and a session begins with all models so far: so who missed one learns of it.
"""

import math
from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple

from operators.clean import flaw
from operators.drive import unflat
from schemas.calendar import Calendar
from schemas.events import Reason
from schemas.frames import SHARDS, Listing
from schemas.universe import MAX_NAME, shard_of

UNBEGUN = -(2**62)
AHEAD = 2  # slices that a bar may be ahead of the feed's clock


class Arrival(NamedTuple):
    """A record of `market.raw`: a bar as it was received, or a beat (without a symbol)."""

    offset: int
    ts: int  # end of the bar, UTC ns; of a beat: the feed's clock
    symbol: str = ""
    open: float = 0.0
    high: float = 0.0
    low: float = 0.0
    close: float = 0.0
    volume: float = 0.0
    bid: float = float("nan")
    ask: float = float("nan")


class Activated(NamedTuple):
    """A model is in force from the slice that ends at `since` or later; an empty id: none is."""

    offset: int
    since: int  # UTC ns
    model: str
    bundle: str = ""  # hash of its manifest
    name: str = ""  # of the announcement: a second record of it says nothing new


class Market(NamedTuple):
    """A bar of the market symbol, for a shard that has it not itself."""

    bar: Arrival


class Turned(NamedTuple):
    """An arrival that is in no slice: late, or refused with a reason."""

    arrival: Arrival
    reason: Reason  # NONE: it came after its slice was closed


class Closed(NamedTuple):
    """A slice of one shard, complete for good; covers `after < t <= ts`."""

    shard: int
    after: int
    ts: int
    listed: tuple[Listing, ...]  # symbols that have their first bar here; in a session's first slice all so far
    symbols: tuple[int, ...]  # ids, in order of their names
    slots: tuple[int, ...]
    bars: tuple[Arrival, ...]  # one for each symbol; offset of the last received
    models: tuple[Activated, ...] = ()  # that act from here; in a session's first slice all so far
    market: float = float("nan")  # close of the market symbol, NaN without a bar


class Params(NamedTuple):
    """What a slice is, and when it is over."""

    calendar: Calendar
    grace_ns: int
    symbols: frozenset[str] | None = None  # the universe; None: whatever comes
    expected: frozenset[str] | None = None  # with all of these a slice waits no longer; None: always wait
    market: str = ""  # symbol whose close every shard is told; empty: none


class State(NamedTuple):
    """What is not closed yet; plain tuples."""

    version: int
    shard: int
    after: int  # end of the last closed slice, UTC ns
    beat: int  # the feed's clock
    names: tuple[str, ...]  # by slot
    pending: tuple[Arrival, ...]  # in order of arrival
    coming: tuple[Activated, ...]  # do not act yet
    models: tuple[Activated, ...]  # all that ever acted, `since` being the slice's end
    market: tuple[Arrival, ...]  # bars of the market symbol, where it is another shard's


def start(shard: int = -1) -> State:
    """Nothing received; the first beat says where the log of slices begins. The shard may be told later."""
    return State(2, shard, UNBEGUN, UNBEGUN, (), (), (), (), ())


def restore(first: State, snapshot: Any) -> State:
    """A state from its flattened form; version 1 knew of no models and no market."""
    if snapshot[0] == 1:
        snapshot = (2, *snapshot[1:], (), (), ())
    *plain, names, pending, coming, models, market = snapshot
    return unflat(first, (*plain, *((),) * 5))._replace(
        names=names, pending=tuple(Arrival(*bar) for bar in pending), coming=tuple(Activated(*one) for one in coming),
        models=tuple(Activated(*one) for one in models), market=tuple(Arrival(*bar) for bar in market),
    )  # fmt: skip


def step(
    params: Params, state: State, arrivals: Iterable[Arrival | Activated | Market]
) -> tuple[State, tuple[list[Closed], list[Turned]]]:
    """Take in records of one shard in the order of the log; answer with the slices that they close."""
    desk = Desk(params, state)
    for arrival in arrivals:
        desk.take(arrival)
    return desk.state(), (desk.closed, desk.turned)


class Desk:
    """The work of one step on a copy of the state."""

    def __init__(self, params: Params, state: State):
        self.params, self.shard = params, state.shard
        self.after, self.beat = state.after, state.beat
        self.slots = {name: slot for slot, name in enumerate(state.names)}
        self.closed: list[Closed] = []
        self.turned: list[Turned] = []
        self.expected = None
        if params.expected is not None:
            self.expected = {name for name in params.expected if shard_of(name) == state.shard}
        self.coming, self.models = list(state.coming), list(state.models)
        self.market = {bar.ts: bar for bar in state.market}
        self.waits = params.market in (params.expected or ()) and shard_of(params.market) != state.shard
        self.due = 2**62 if state.after == UNBEGUN else self._next()
        self._ends: dict[int, int] = {}
        self.open: dict[int, dict[tuple[str, int], Arrival]] = {}  # by end of the slice, then symbol and time
        for bar in state.pending:
            self.open.setdefault(self._slice_of(bar.ts), {})[bar.symbol, bar.ts] = bar

    def state(self) -> State:
        """What is left."""
        pending = sorted((bar for bars in self.open.values() for bar in bars.values()), key=lambda bar: bar.offset)
        return State(2, self.shard, self.after, self.beat, tuple(self.slots), tuple(pending), tuple(self.coming),
                     tuple(self.models), tuple(self.market.values()))  # fmt: skip

    def take(self, arrival: Arrival | Activated | Market) -> None:
        """One record, and what it closes."""
        if isinstance(arrival, Activated):
            if all(arrival.name != one.name for one in (*self.coming, *self.models)):
                self.coming.append(arrival)
        elif isinstance(arrival, Market):
            bar = arrival.bar
            if bar.ts > self.after != UNBEGUN and bar.ts not in self.market and self._flaw_of(bar) == Reason.NONE:
                self.market[bar.ts] = bar
        elif arrival.symbol:
            self._keep(arrival)
        elif self.after == UNBEGUN:
            calendar = self.params.calendar
            self.after = calendar.ts_at(calendar.index_after(arrival.ts) - 1)
            self.beat, self.due = arrival.ts, self._next()
        else:
            self.beat = max(self.beat, arrival.ts)
        while self.beat >= self.due and (self.beat >= self.due + self.params.grace_ns or self._is_complete()):
            self._close()

    def _keep(self, bar: Arrival) -> None:
        reason = self._objection(bar)
        if reason != Reason.NONE or bar.ts <= self.after or self.after == UNBEGUN:
            self.turned.append(Turned(bar, reason))
        else:
            self.open.setdefault(self._slice_of(bar.ts), {})[bar.symbol, bar.ts] = bar

    def _objection(self, bar: Arrival) -> Reason:
        """Why a bar may be in no slice at all."""
        symbols = self.params.symbols
        if not (bar.symbol.isascii() and bar.symbol == bar.symbol.upper() and len(bar.symbol) <= MAX_NAME):
            return Reason.UNKNOWN_SYMBOL
        if shard_of(bar.symbol) != self.shard or (symbols is not None and bar.symbol not in symbols):
            return Reason.UNKNOWN_SYMBOL
        if (bar.symbol, bar.ts) in self.open.get(self._slice_of(bar.ts), ()):
            return Reason.DUPLICATE
        return self._flaw_of(bar)

    def _flaw_of(self, bar: Arrival) -> Reason:
        """Why a bar of any symbol is none."""
        end = self._slice_of(bar.ts)
        if not end or (self.params.calendar.timeframe == 1 and end != bar.ts):
            return Reason.OFF_SESSION
        if end > self.due and self._is_ahead(end):
            return Reason.BAD_TIME
        return Reason(flaw(bar.open, bar.high, bar.low, bar.close, bar.volume))

    def _is_ahead(self, end: int) -> bool:
        """Whether a slice is so far in the future that the bar's time must be wrong."""
        calendar = self.params.calendar
        return calendar.index_after(end) > calendar.index_after(self.beat) + AHEAD

    def _slice_of(self, ts: int) -> int:
        """End of the slice that holds an instant; 0 where the exchange is closed."""
        if ts not in self._ends:
            self._ends[ts] = self.params.calendar.end_of(ts)
        return self._ends[ts]

    def _next(self) -> int:
        calendar = self.params.calendar
        return calendar.ts_at(calendar.index_after(self.after))

    def _is_complete(self) -> bool:
        """Whether each expected symbol has the bar that ends with the slice, the market too."""
        return (
            self.expected is not None
            and all((name, self.due) in self.open.get(self.due, ()) for name in self.expected)
            and (not self.waits or self.due in self.market)
        )

    def _close(self) -> None:
        bars = sorted(self.open.pop(self.due, {}).values(), key=lambda bar: (bar.symbol, bar.ts))
        whole = tuple(_whole(self.due, list(group)) for _, group in groupby(bars, key=lambda bar: bar.symbol))
        calendar = self.params.calendar
        opens = calendar.session_of(self.due) != calendar.session_of(self.after)
        known = [self._listing(name) for name in self.slots] if opens else []
        listed = (*known, *(self._admit(bar.symbol) for bar in whole if bar.symbol not in self.slots))
        slots = tuple(self.slots[bar.symbol] for bar in whole)
        ids = tuple(slot * SHARDS + self.shard for slot in slots)
        models = (*(self.models if opens else ()), *self._activated())
        self.closed.append(Closed(self.shard, self.after, self.due, listed, ids, slots, whole, models,
                                  self._market_close(whole)))  # fmt: skip
        self.after = self.due
        self.due = self._next()

    def _activated(self) -> list[Activated]:
        """The models that act from this slice on, in the order in which they were to."""
        due = sorted((one for one in self.coming if one.since <= self.due), key=lambda one: (one.since, one.offset))
        self.coming = [one for one in self.coming if one.since > self.due]
        due = [one._replace(since=self.due) for one in due]
        self.models += due
        return due

    def _market_close(self, whole: tuple[Arrival, ...]) -> float:
        """Of the last bar in the slice."""
        own = next((bar.close for bar in whole if bar.symbol == self.params.market), None)
        told = max((ts for ts in self.market if ts <= self.due), default=0)
        close = own if own is not None else self.market[told].close if told else math.nan
        self.market = {ts: bar for ts, bar in self.market.items() if ts > self.due}
        return close

    def _admit(self, name: str) -> Listing:
        self.slots[name] = len(self.slots)
        return self._listing(name)

    def _listing(self, name: str) -> Listing:
        """A symbol's numbers: an id that no other shard can give, and a slot of this shard."""
        return Listing(self.slots[name] * SHARDS + self.shard, self.slots[name], name)


def _whole(ts: int, bars: list[Arrival]) -> Arrival:
    """One bar of those of a slice, in order of time; the last quote counts."""
    last = bars[-1]
    return Arrival(
        max(bar.offset for bar in bars), ts, last.symbol, bars[0].open, max(bar.high for bar in bars),
        min(bar.low for bar in bars), last.close, sum(bar.volume for bar in bars), last.bid, last.ask,
    )  # fmt: skip
