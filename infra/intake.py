"""Intake: records of `market.slices` -> raw frames, up to a session's close each.

A record that cannot be used is a hole of its slice: a dead letter is written, and the frame's promise goes on
without bars, so that nobody waits. How far the hole reaches tells the record's header, or the record that follows.
"""

from typing import NamedTuple

import numpy as np

from infra.dead_letters import Letter, letter
from infra.kafka import SCHEMA, stated_time
from infra.ranges import Messages
from operators.slice_columns import FLAWS, Columns, decode
from schemas import codec
from schemas.calendar import Calendar
from schemas.frames import Listing, RawFrame
from schemas.records import SliceBars

UNBEGUN = -1


class State(NamedTuple):
    """One partition: how far it is covered, UTC ns, and how many of its records could not be used."""

    version: int
    upto: int
    holes: int


class Answer(NamedTuple):
    """Frames in order, and the letters of what could not be used."""

    frames: tuple[RawFrame, ...]
    letters: tuple[Letter, ...]


def start(upto: int = UNBEGUN) -> State:
    """Nothing read; `upto` where a snapshot says how far its state is."""
    return State(1, upto, 0)


def step(calendar: Calendar, state: State, messages: Messages) -> tuple[State, Answer]:
    """Records of one partition, in order of their offsets."""
    desk = _Desk(calendar, state, messages)
    if not desk.take_all():
        for at in range(len(messages.offsets)):
            desk.take(at)
    desk.close(len(messages.offsets))
    return State(1, desk.upto, state.holes + len(desk.letters)), Answer(tuple(desk.frames), tuple(desk.letters))


class _Desk:
    """The work of one step."""

    def __init__(self, calendar: Calendar, state: State, messages: Messages):
        self.calendar, self.messages = calendar, messages
        self.after = self.upto = state.upto
        read = [_current(messages, at) for at in range(len(messages.offsets))]
        self.values, self.foreign = [value for value, _ in read], [why for _, why in read]
        self.columns: Columns = decode(self.values)
        self.frames: list[RawFrame] = []
        self.letters: list[Letter] = []
        self.first = 0  # record with which the frame in the making begins
        self.listed: list[Listing] = []

    def take_all(self) -> bool:
        """All records at once, if they are good ones that follow each other; otherwise nothing."""
        c = self.columns
        if not c.ts.size or c.flaw.any() or (c.shard != self.messages.partition).any():
            return False
        begin = int(c.after[0]) if self.upto == UNBEGUN else self.upto
        if c.after[0] != begin or (c.after[1:] != c.upto[:-1]).any() or (c.timeframe != self.calendar.timeframe).any():
            return False
        first, last = self.calendar.index_after(begin), self.calendar.index_after(int(c.upto[-1]))
        slices = self.calendar.slices(first, last, begin, int(c.upto[-1]))
        if slices.size != c.ts.size or (slices.ts != c.ts).any():
            return False
        lists = c.lists.nonzero()[0].tolist()
        self.after = self.upto = begin
        for last_of in [*(np.flatnonzero(np.diff(slices.session)) + 1).tolist(), slices.size]:
            for at in (at for at in lists if self.first <= at < last_of):
                self._list(at)
            self.upto = int(c.upto[last_of - 1])
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
        after, upto = int(self.columns.after[at]), int(self.columns.upto[at])
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
        if self.columns.lists[at]:
            self._list(at)

    def _list(self, at: int) -> None:
        event = codec.decode(SliceBars, self.values[at])
        self.listed += [Listing(one.symbol, one.slot, one.name) for one in event.listed]

    def _objection(self, at: int) -> tuple[str, str]:
        """Why a record is of no use; two empty texts if it is."""
        columns = self.columns
        if self.foreign[at]:
            return "undecodable", self.foreign[at]
        if columns.flaw[at]:
            return "undecodable", FLAWS[columns.flaw[at]]
        if columns.shard[at] != self.messages.partition:
            return "wrong_partition", f"a slice of shard {columns.shard[at]} in partition {self.messages.partition}"
        if columns.timeframe[at] != self.calendar.timeframe:
            return "wrong_timeframe", f"bars of {columns.timeframe[at]} minutes, want {self.calendar.timeframe}"
        if self.calendar.end_of(int(columns.ts[at])) != columns.ts[at]:
            return "off_session", f"{columns.ts[at]} is no slice of the calendar"
        if self.upto >= columns.upto[at]:
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
        first, end = self.calendar.index_after(self.after), self.calendar.index_after(self.upto)
        slices = self.calendar.slices(first, end, self.after, self.upto)
        c = self.columns
        rows = slice(int(c.starts[self.first]), int(c.starts[last]))
        self.frames.append(
            RawFrame(
                self.messages.partition, slices, tuple(self.listed), c.bar_ts[rows], c.symbol[rows], c.slot[rows],
                c.open[rows], c.high[rows], c.low[rows], c.close[rows], c.volume[rows], c.bid[rows], c.ask[rows],
            )
        )  # fmt: skip
        self.first, self.after, self.listed = last, self.upto, []


def _current(messages: Messages, at: int) -> tuple[bytes, str]:
    """A record by the current schema; or nothing, and why it cannot be had so."""
    value = messages.values[at] or b""
    schema = dict(messages.headers[at]).get(SCHEMA, b"") if messages.headers else messages.schema
    if schema is None or schema == codec.mark(SliceBars):
        return value, ""
    try:
        return codec.encode(codec.decode(SliceBars, value, schema)), ""
    except codec.UndecodableError as error:
        return b"", str(error)
