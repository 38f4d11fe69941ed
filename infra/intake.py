"""Intake: records of `market.slices` -> raw frames, up to a session's close each.

A record that cannot be used is a hole of its slice: a dead letter is written, and the frame's promise goes on
without bars, so that nobody waits. How far the hole reaches tells the record's header, or the record that follows.
"""

from typing import Any, NamedTuple

import numpy as np

from infra.dead_letters import Letter, letter
from infra.kafka import SCHEMA, stated_time
from infra.ranges import Messages
from operators.drive import unflat
from operators.slice_columns import AFTER, FLAWS, LISTS, UPTO, Columns, decode
from schemas import codec
from schemas.calendar import Calendar
from schemas.frames import NO_ACTIONS, NO_INTS, Actions, Activation, Floats, Ints, Listing, RawFrame, Slices
from schemas.records import Action, InForce, SliceBars

UNBEGUN = -1
ACTIONS = (("symbol", np.int32), ("new", np.int64), ("old", np.int64), ("dividend", np.int64), ("slot", np.int32))


class State(NamedTuple):
    """One partition: how far it is covered, UTC ns, and how many of its records could not be used."""

    version: int
    upto: int
    holes: int
    told: int  # slice of the last model that was told, UTC ns


class Answer(NamedTuple):
    """Frames in order, and the letters of what could not be used."""

    frames: tuple[RawFrame, ...]
    letters: tuple[Letter, ...]


def start(upto: int = UNBEGUN) -> State:
    """Nothing read; `upto` where a snapshot says how far its state is."""
    return State(2, upto, 0, upto)


def restore(first: State, snapshot: Any) -> State:
    """A state from its flattened form; version 1 knew of no models."""
    return unflat(first, (2, *snapshot[1:], snapshot[1]) if snapshot[0] == 1 else snapshot)


def step(calendar: Calendar, state: State, messages: Messages) -> tuple[State, Answer]:
    """Records of one partition, in order of their offsets."""
    desk = _Desk(calendar, state, messages)
    if not desk.take_all():
        for at in range(len(messages.offsets)):
            desk.take(at)
    desk.close(len(messages.offsets))
    after = State(2, desk.upto, state.holes + len(desk.letters), desk.told)
    return after, Answer(tuple(desk.frames), tuple(desk.letters))


class _Desk:
    """The work of one step."""

    def __init__(self, calendar: Calendar, state: State, messages: Messages):
        self.calendar, self.messages = calendar, messages
        self.after, self.upto, self.told = state.upto, state.upto, state.told
        self.values, self.foreign = _read(messages)
        self.columns: Columns = decode(self.values)
        self.frames: list[RawFrame] = []
        self.letters: list[Letter] = []
        self.first = 0  # record with which the frame in the making begins
        self.listed: list[Listing] = []
        self.acting: list[tuple[int, Action]] = []  # with the slice's end
        self.models: list[tuple[int, InForce]] = []

    def take_all(self) -> bool:
        """All records at once, if they are good ones that follow each other; otherwise nothing."""
        c = self.columns
        if not len(c.heads):
            return False
        begin, upto = int(c.heads[0, AFTER]) if self.upto == UNBEGUN else self.upto, int(c.heads[-1, UPTO])
        if not c.sound(self.messages.partition, self.calendar.timeframe, begin):
            return False
        slices = self._slices(begin, upto)
        if slices.size != len(c.heads) or (slices.ts != c.ts).any():
            return False
        lists, session = c.lists.tolist(), slices.session
        edges = (np.flatnonzero(np.diff(session)) + 1).tolist() if session[0] != session[-1] else []
        self.after = self.upto = begin
        for last_of in [*edges, slices.size]:
            for at in (at for at in lists if self.first <= at < last_of):
                self._list(at)
            self.upto = int(c.heads[last_of - 1, UPTO])
            self.close(last_of)
        return True

    def take(self, at: int) -> None:
        """One record."""
        kind, message = self._objection(at)
        if message:
            self.letters.append(letter(self.messages, at, kind, message))
            self.close(at)
            self.first = at + 1
            self._skip(stated_time(self.messages.headers[at]) if self.messages.headers else None)
            return
        after, upto, lists = self.columns.heads[at, [AFTER, UPTO, LISTS]].tolist()
        if self.upto == UNBEGUN:
            self.after = self.upto = after
        if after < self.upto:
            raise ValueError(f"{self._place(at)}: a slice after {after} follows one that ends at {self.upto}")
        closes = self.calendar.closes
        for close in closes[(closes > self.upto) & (closes <= after)].tolist():
            self.upto = close  # over holes of which only this record tells how far they reach
            self.close(at)
        if self.calendar.session_of(upto) != self.calendar.session_of(self.after + 1):
            self.close(at)
        self.upto = upto
        if lists:
            self._list(at)

    def _list(self, at: int) -> None:
        event = codec.decode(SliceBars, self.values[at])
        self.listed += [Listing(one.symbol, one.slot, one.name) for one in event.listed]
        self.acting += [(event.ts, one) for one in event.actions]
        fresh = [one for one in event.models if one.since > self.told]  # a session repeats all before it
        self.models += [(event.ts, one) for one in fresh]
        self.told = max(self.told, *(one.since for one in fresh)) if fresh else self.told

    def _objection(self, at: int) -> tuple[str, str]:
        """Why a record is of no use; two empty texts if it is."""
        shard, timeframe, ts, _, upto, _, _, flaw = self.columns.heads[at].tolist()
        if self.foreign[at]:
            return "undecodable", self.foreign[at]
        if flaw:
            return "undecodable", FLAWS[flaw]
        if shard != self.messages.partition:
            return "wrong_partition", f"a slice of shard {shard} in partition {self.messages.partition}"
        if timeframe != self.calendar.timeframe:
            return "wrong_timeframe", f"bars of {timeframe} minutes, want {self.calendar.timeframe}"
        if self.calendar.end_of(ts) != ts:
            return "off_session", f"{ts} is no slice of the calendar"
        if self.upto >= upto:
            return "repeated", "a slice that was there before"
        return "", ""

    def _skip(self, ts: int | None) -> None:
        """The promise over a hole, where it is known to be the next slice; else the next record tells."""
        if ts is not None and self.upto != UNBEGUN and self._next() == ts:
            self.upto = ts
            if self.calendar.session_of(ts) != self.calendar.session_of(ts + 1):
                self.close(self.first)

    def _next(self) -> int:
        return self.calendar.ts_at(self.calendar.index_after(self.upto))

    def _place(self, at: int) -> str:
        return f"{self.messages.topic} partition {self.messages.partition} offset {self.messages.offsets[at]}"

    def close(self, last: int) -> None:
        """The frame of what was taken since the one before: the rows of the records up to `last`."""
        if self.upto <= self.after:
            return
        slices, c = self._slices(self.after, self.upto), self.columns
        rows = slice(int(c.starts[self.first]), int(c.starts[last]))
        actions, acted = self._actions(slices)
        self.frames.append(
            RawFrame(
                self.messages.partition, slices, tuple(self.listed), c.bar_ts[rows], c.symbol[rows], c.slot[rows],
                c.open[rows], c.high[rows], c.low[rows], c.close[rows], c.volume[rows], c.bid[rows], c.ask[rows],
                c.earnings_days[rows], c.average_volume[rows], self._market(slices, last), actions, acted,
                tuple(Activation(int(np.searchsorted(slices.ts, ts)), one.model, one.bundle_sha256)
                      for ts, one in self.models),
            )
        )  # fmt: skip
        self.first, self.after, self.listed, self.acting, self.models = last, self.upto, [], [], []

    def _slices(self, after: int, upto: int) -> Slices:
        """The calendar's slices of a range."""
        return self.calendar.slices(self.calendar.index_after(after), self.calendar.index_after(upto), after, upto)

    def _actions(self, slices: Slices) -> tuple[Actions, Ints]:
        """The splits and dividends of the frame in the making, and their symbols' slots."""
        if not self.acting:
            return NO_ACTIONS, NO_INTS
        at = np.searchsorted(slices.ts, [ts for ts, _ in self.acting]).astype(np.int32)
        columns: list[Any] = [np.array([getattr(one, name) for _, one in self.acting], kind) for name, kind in ACTIONS]
        return Actions(at, *columns[:-1]), columns[-1]

    def _market(self, slices: Slices, last: int) -> Floats:
        """The market's close by slice, NaN over holes; empty where no record has one."""
        told = self.columns.market[self.first : last]
        if not told.size or told.size == slices.size:
            return told
        closes = np.full(slices.size, np.nan)
        closes[np.searchsorted(slices.ts, self.columns.ts[self.first : last])] = told
        return closes


def values(messages: Messages) -> list[bytes]:
    """The records by the current schema; nothing of one that cannot be had so."""
    return _read(messages)[0]


def _read(messages: Messages) -> tuple[list[bytes], list[str]]:
    """The records by the current schema; or nothing, and why they cannot be had so."""
    if messages.schema == codec.mark(SliceBars):
        values: list[Any] = messages.values  # a record without a value is as rare as it is undecodable
        return values if all(values) else [value or b"" for value in values], [""] * len(values)
    read = [_current(messages, at) for at in range(len(messages.offsets))]
    return [value for value, _ in read], [why for _, why in read]


def _current(messages: Messages, at: int) -> tuple[bytes, str]:
    value = messages.values[at] or b""
    schema = dict(messages.headers[at]).get(SCHEMA, b"") if messages.headers else messages.schema
    if schema is None or schema == codec.mark(SliceBars):
        return value, ""
    try:
        return codec.encode(codec.decode(SliceBars, value, schema)), ""
    except codec.UndecodableError as error:
        return b"", str(error)
