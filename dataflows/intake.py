"""Intake: records of `market.slices` -> raw frames, up to a session's close each.

A record that cannot be read is a hole of its slice: the frame's promise goes on, without bars, and a letter is
written. How far the hole reaches says the record's own event time, or the record that follows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from infra.kafka import stated_time
from infra.log_codec import NO_ROWS, SliceRecord
from infra.ranges import Messages
from schemas.calendar import Calendar
from schemas.frames import RawFrame


class Params(NamedTuple):
    """The grid, and how a record is read."""

    calendar: Calendar
    read: Callable[[bytes], SliceRecord]


class Hole(NamedTuple):
    """A slice record that could not be read."""

    topic: str
    partition: int
    offset: int
    value: bytes
    reason: str


class State(NamedTuple):
    """One partition: how far it is covered, UTC ns; -1 before its first record."""

    version: int
    upto: int
    holes: int


class Answer(NamedTuple):
    """Frames in order, and letters."""

    frames: tuple[RawFrame, ...]
    holes: tuple[Hole, ...]


def start(upto: int = -1) -> State:
    """Nothing read; `upto` where a snapshot says how far its state is."""
    return State(1, upto, 0)


def step(params: Params, state: State, messages: Messages) -> tuple[State, Answer]:
    """Records of one partition, in order of their offsets."""
    desk = _Desk(params, state)
    headers = messages.headers or [()] * len(messages.offsets)
    for offset, value, told in zip(messages.offsets, messages.values, headers, strict=True):
        desk.take(messages, offset, value, stated_time(told))
    desk.close()
    return State(state.version, desk.upto, state.holes + len(desk.holes)), Answer(tuple(desk.frames), tuple(desk.holes))


class _Desk:
    """The work of one step."""

    def __init__(self, params: Params, state: State):
        self.calendar, self.read = params.calendar, params.read
        self.upto, self.after = state.upto, state.upto
        self.frames: list[RawFrame] = []
        self.holes: list[Hole] = []
        self.shard = -1
        self.session = -1
        self.slices: list[SliceRecord] = []  # of the frame in the making

    def take(self, messages: Messages, offset: int, value: bytes | None, ts: int | None) -> None:
        """One record."""
        self.shard = messages.partition
        record, reason = self._decoded(value)
        if record is None:
            self.holes.append(Hole(messages.topic, messages.partition, offset, value or b"", reason))
            if ts is not None and self.upto >= 0 and self._is_next(ts):
                self._cover(ts)
            return
        if record.ts <= self.upto:
            self.holes.append(
                Hole(messages.topic, messages.partition, offset, value or b"", "a slice that was there before")
            )
            return
        if self.upto < 0:
            self.upto = self.after = record.after
        if record.after > self.upto:
            self._cover(record.after)  # a hole of which nobody could tell how far it reaches
        if record.after < self.upto:
            raise ValueError(
                f"partition {self.shard} offset {offset}: a slice after {record.after} follows {self.upto}"
            )
        self._cover(record.ts)
        self.slices.append(record)

    def _decoded(self, value: bytes | None) -> tuple[SliceRecord | None, str]:
        try:
            record: SliceRecord = self.read(value or b"")
        except (ValueError, EOFError, IndexError, TypeError, OverflowError, KeyError) as error:
            return None, f"not a slice record: {type(error).__name__}: {error}"
        if record.shard != self.shard:
            return None, f"a slice of shard {record.shard} in partition {self.shard}"
        if record.after >= record.ts or self.calendar.end_of(record.ts) != record.ts:
            return None, f"{record.ts} is no slice of this calendar"
        return record, ""

    def _is_next(self, ts: int) -> bool:
        return self.calendar.ts_at(self.calendar.index_after(self.upto)) == ts

    def _cover(self, upto: int) -> None:
        """Promise more; a frame ends with its session, so that the state at the close can be kept."""
        session = self.calendar.session_of(upto)
        if session != self.session and self.session >= 0:
            self.close()
        self.session, self.upto = session, upto

    def close(self) -> None:
        """The frame of what was taken since the last one."""
        if self.upto <= self.after or self.upto < 0:
            return
        first, last = self.calendar.index_after(self.after), self.calendar.index_after(self.upto)
        grid = self.calendar.slices(first, last, self.after, self.upto)
        rows = [record.columns["symbol"].size for record in self.slices]
        ts = np.repeat(np.array([record.ts for record in self.slices], np.int64), rows)
        columns = {name: np.concatenate([record.columns[name] for record in self.slices]) if self.slices else empty
                   for name, empty in NO_ROWS.items()}  # fmt: skip
        listed = tuple(entry for record in self.slices for entry in record.listed)
        self.frames.append(RawFrame(self.shard, grid, listed, ts, **columns))
        self.slices, self.after = [], self.upto
