"""`market.slices` <-> frames: a batch of records is one raw frame, a bad record a dead letter."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from infra.gated_sink import Record, event_record
from infra.kafka import SCHEMA, Cluster, bounds, records
from schemas import codec
from schemas.calendar import Calendar, timeframe_name
from schemas.frames import RawFrame
from schemas.identity import slice_key
from schemas.records import Action, InForce, Listed, SliceBars

TOPIC = "market.slices"
BLOCK = 512  # records of a partition that are read at a time: more than any session has


def models_upto(where: Cluster, calendar: Calendar, ts: int) -> list[InForce]:
    """All models that came into force by `ts`, UTC ns, in order: each session's first record repeats all before it.

    The log is read from its end back, until every slice from such a record up to `ts` was met: how many records were
    written again, and where, is of no matter. Where nobody can use one of them, it is read to its begin.
    """
    low, high = bounds(where, TOPIC, [0])[0]
    found: dict[tuple[int, str], InForce] = {}
    met, firsts = set[int](), set[int]()  # ends of slices, UTC ns
    while low < high and not _is_whole(calendar, ts, met, firsts):
        begin = max(low, high - BLOCK)
        for message in records(where, TOPIC, 0, begin, high):
            with suppress(codec.UndecodableError):  # a dead letter by now
                event = codec.decode(SliceBars, message.value(), dict(message.headers() or ()).get(SCHEMA))
                found |= {(one.since, one.model): one for one in event.models if one.since <= ts}
                met.add(event.ts)
                if calendar.session_of(event.ts) != calendar.session_of(event.after):
                    firsts.add(event.ts)
        high = begin
    return sorted(found.values(), key=lambda one: one.since)


def _is_whole(calendar: Calendar, ts: int, met: set[int], firsts: set[int]) -> bool:
    """Whether all slices from a session's first one up to `ts` were met; none has to be where that one is later."""
    if not firsts:
        return False
    begin = max(firsts)
    if begin > ts:
        return True
    slices = np.arange(calendar.index_after(begin - 1), calendar.index_after(ts))
    return met.issuperset(calendar.ends_at(slices).tolist())


def record(frame: RawFrame, timeframe: int, models: Sequence[InForce] = ()) -> Record:
    """A shard's closed slice; the frame holds exactly that one, `models` are told with it."""
    if frame.slices.size != 1:
        raise ValueError(f"a record holds one slice, this frame {frame.slices.size}")
    ts, actions = int(frame.slices.ts[0]), frame.actions
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
            Action(symbol=int(symbol), new=int(new), old=int(old), dividend=int(dividend), slot=int(slot))
            for symbol, new, old, dividend, slot in zip(
                actions.symbol, actions.new, actions.old, actions.dividend, frame.acted, strict=True
            )
        ],
        earnings_days=frame.earnings_days.astype("<i4").tobytes(),
        average_volume=frame.average_volume.astype("<f8").tobytes(),
        market=frame.market.astype("<f8").tobytes(),
        models=list(models),
    )
    key = slice_key(frame.shard, ts, timeframe_name(timeframe))
    return event_record(key, ts, b"%02d" % frame.shard, event)
