"""Slicer: bars as they arrive -> closed slices. The one place where it is decided that a slice is over.

It asks no clock: the feed writes its own into the log, as beats among the bars ("it is now at least ts"). A
slice is closed when it is due and every expected symbol has its last bar, or when a beat says that the grace
is over. So the same log gives the same slices, whoever reads it, however often, and after any crash.
"""

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


class Params(NamedTuple):
    """What a slice is, and when it is over."""

    calendar: Calendar
    grace_ns: int
    symbols: frozenset[str] | None = None  # the universe; None: whatever comes
    expected: frozenset[str] | None = None  # with all of these a slice waits no longer; None: always wait


class State(NamedTuple):
    """What is not closed yet; plain tuples."""

    version: int
    shard: int
    after: int  # end of the last closed slice, UTC ns
    beat: int  # the feed's clock
    names: tuple[str, ...]  # by slot
    pending: tuple[Arrival, ...]  # in order of arrival


def start(shard: int = -1) -> State:
    """Nothing received; the first beat says where the log of slices begins. The shard may be told later."""
    return State(1, shard, UNBEGUN, UNBEGUN, (), ())


def restore(first: State, snapshot: Any) -> State:
    """A state from its flattened form."""
    *plain, names, pending = snapshot
    return unflat(first, (*plain, (), ()))._replace(names=names, pending=tuple(Arrival(*bar) for bar in pending))


def step(params: Params, state: State, arrivals: Iterable[Arrival]) -> tuple[State, tuple[list[Closed], list[Turned]]]:
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
        self.due = 2**62 if state.after == UNBEGUN else self._next()
        self._ends: dict[int, int] = {}
        self.open: dict[int, dict[tuple[str, int], Arrival]] = {}  # by end of the slice, then symbol and time
        for bar in state.pending:
            self.open.setdefault(self._slice_of(bar.ts), {})[bar.symbol, bar.ts] = bar

    def state(self) -> State:
        """What is left."""
        pending = sorted((bar for bars in self.open.values() for bar in bars.values()), key=lambda bar: bar.offset)
        return State(1, self.shard, self.after, self.beat, tuple(self.slots), tuple(pending))

    def take(self, arrival: Arrival) -> None:
        """One record, and what it closes."""
        if arrival.symbol:
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
        end = self._slice_of(bar.ts)
        if not end or (self.params.calendar.timeframe == 1 and end != bar.ts):
            return Reason.OFF_SESSION
        if end > self.due and self._is_ahead(end):
            return Reason.BAD_TIME
        if (bar.symbol, bar.ts) in self.open.get(end, ()):
            return Reason.DUPLICATE
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
        """Whether each expected symbol has the bar that ends with the slice."""
        return self.expected is not None and all(
            (name, self.due) in self.open.get(self.due, ()) for name in self.expected
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
        self.closed.append(Closed(self.shard, self.after, self.due, listed, ids, slots, whole))
        self.after = self.due
        self.due = self._next()

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
