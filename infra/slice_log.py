"""`market.slices` <-> frames: a batch of records is one raw frame, a bad record a dead letter."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np

from infra.dead_letters import Letter, letter
from infra.gated_sink import Record
from infra.kafka import SCHEMA
from infra.ranges import Messages
from operators.slice_columns import FLAWS, Columns
from operators.slice_columns import decode as decode_columns
from schemas import codec
from schemas.calendar import Calendar, timeframe_name
from schemas.frames import NO_ACTIONS, Actions, Listing, RawFrame, Slices
from schemas.identity import slice_key
from schemas.records import Action, Listed, SliceBars

TOPIC = "market.slices"


def record(frame: RawFrame, timeframe: int, actions: Actions = NO_ACTIONS) -> Record:
    """A shard's closed slice; the frame holds exactly that one, and of `actions` those of the shard's symbols."""
    if frame.slices.size != 1:
        raise ValueError(f"a record holds one slice, this frame {frame.slices.size}")
    ts = int(frame.slices.ts[0])
    event = SliceBars(
        shard=frame.shard,
        timeframe=timeframe,
        ts=ts,
        after=frame.slices.after,
        upto=frame.slices.upto,
        listed=[Listed(symbol=int(one.symbol), slot=int(one.slot), name=one.name) for one in frame.listed],
        symbol=frame.symbol.astype("<i4").tobytes(),
        slot=frame.slot.astype("<i4").tobytes(),
        bar_ts=frame.ts.astype("<i8").tobytes(),
        open=frame.open.astype("<f8").tobytes(),
        high=frame.high.astype("<f8").tobytes(),
        low=frame.low.astype("<f8").tobytes(),
        close=frame.close.astype("<f8").tobytes(),
        volume=frame.volume.astype("<f8").tobytes(),
        bid=frame.bid.astype("<f8").tobytes(),
        ask=frame.ask.astype("<f8").tobytes(),
        actions=[
            Action(symbol=int(symbol), new=int(new), old=int(old), dividend=int(dividend))
            for symbol, new, old, dividend in zip(
                actions.symbol, actions.new, actions.old, actions.dividend, strict=True
            )
        ],
    )
    key = slice_key(frame.shard, ts, timeframe_name(timeframe))
    return Record(key, ts, b"%02d" % frame.shard, codec.encode(event), ((SCHEMA, codec.mark(SliceBars)),))


class Read:
    """What a batch of records came to.

    Records whose ranges join are one frame; where a record is missing or bad the next frame begins at a later
    `after` than the last one ended: the declared gap.
    """

    def __init__(self, messages: Messages, calendar: Calendar):
        self.frames: list[RawFrame] = []
        self.actions: list[Actions] = []  # of each frame
        self.letters: list[Letter] = []
        current = codec.mark(SliceBars)
        values = [value or b"" for value in messages.values]
        if messages.headers or messages.schema != current:
            for at in range(len(values)):
                if (schema := _schema(messages, at)) != current:
                    values[at] = self._upgraded(messages, at, schema)
        columns = decode_columns(values)
        for at in np.flatnonzero(columns.flaw).tolist():
            if not any(one.offset == messages.offsets[at] for one in self.letters):
                self.letters.append(letter(messages, at, "undecodable", FLAWS[columns.flaw[at]]))
        off = (columns.timeframe != calendar.timeframe) & (columns.flaw == 0)
        for at in np.flatnonzero(off).tolist():
            message = f"bars of {columns.timeframe[at]} minutes, want {calendar.timeframe}"
            self.letters.append(letter(messages, at, "wrong_timeframe", message))
        for first, last in _runs(columns, (columns.flaw == 0) & ~off):
            self._add(columns, values, first, last, calendar)

    def _upgraded(self, messages: Messages, at: int, schema: bytes) -> bytes:
        """A record of a former schema, as the current one has it; nothing if it cannot be."""
        try:
            return codec.encode(codec.decode(SliceBars, messages.values[at], schema))
        except codec.UndecodableError as error:
            self.letters.append(letter(messages, at, "undecodable", str(error)))
            return b""

    def _add(self, columns: Columns, values: list[bytes], first: int, last: int, calendar: Calendar) -> None:
        """One frame of the records first <= i < last."""
        slices = _slices(calendar, int(columns.after[first]), int(columns.upto[last - 1]))
        listed: list[Listing] = []
        found: list[tuple[int, Action]] = []
        for at in first + np.flatnonzero(columns.lists[first:last]):
            event = codec.decode(SliceBars, values[at])
            listed += [Listing(one.symbol, one.slot, one.name) for one in event.listed]
            found += [(int(np.searchsorted(slices.ts, event.ts)), one) for one in event.actions]
        rows = slice(int(columns.starts[first]), int(columns.starts[last]))
        self.frames.append(
            RawFrame(
                int(columns.shard[first]),
                slices,
                tuple(listed),
                columns.bar_ts[rows],
                columns.symbol[rows],
                columns.slot[rows],
                columns.open[rows],
                columns.high[rows],
                columns.low[rows],
                columns.close[rows],
                columns.volume[rows],
                columns.bid[rows],
                columns.ask[rows],
            )
        )
        self.actions.append(_actions(found))


def _schema(messages: Messages, at: int) -> bytes:
    """The header's fingerprint, by record or of the whole batch; nothing where there is none."""
    if not messages.headers:
        return messages.schema or b""
    for name, value in messages.headers[at]:
        if name == SCHEMA:
            return value
    return b""


def _runs(columns: Columns, good: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> Iterator[tuple[int, int]]:
    """Ranges of good records that join, first <= i < last."""
    breaks = np.flatnonzero(
        ~good[1:] | ~good[:-1] | (columns.after[1:] != columns.upto[:-1]) | (columns.shard[1:] != columns.shard[:-1])
    )
    for first, last in pairwise([0, *(int(at) + 1 for at in breaks), good.size]):
        if first < last and good[first]:
            yield first, last


@lru_cache(64)  # the shards ask for the same slices
def _slices(calendar: Calendar, after: int, upto: int) -> Slices:
    return calendar.slices(calendar.index_after(after), calendar.index_after(upto), after, upto)


def _actions(found: list[tuple[int, Action]]) -> Actions:
    if not found:
        return NO_ACTIONS
    columns = zip(*((at, one.symbol, one.new, one.old, one.dividend) for at, one in found), strict=True)
    kinds = (np.int32, np.int32, np.int64, np.int64, np.int64)
    return Actions(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))
