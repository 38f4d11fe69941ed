"""`market.slices` <-> frames: a batch of records is one raw frame, a bad record a dead letter."""

from collections.abc import Sequence
from contextlib import suppress

from infra.gated_sink import Record, event_record
from infra.kafka import SCHEMA, Cluster, bounds, records
from schemas import codec
from schemas.calendar import timeframe_name
from schemas.frames import RawFrame
from schemas.identity import slice_key
from schemas.records import Action, InForce, Listed, SliceBars

TOPIC = "market.slices"
DAY = 512  # records of a partition: more than any session has


def models_upto(where: Cluster, ts: int) -> list[InForce]:
    """All models that came into force by `ts`, UTC ns, in order: each session's first record repeats them."""
    low, high = bounds(where, TOPIC, [0])[0]
    found: dict[tuple[int, str], InForce] = {}
    for message in records(where, TOPIC, 0, max(low, high - DAY), high):
        with suppress(codec.UndecodableError):  # a dead letter by now
            event = codec.decode(SliceBars, message.value(), dict(message.headers() or ()).get(SCHEMA))
            found |= {(one.since, one.model): one for one in event.models if one.since <= ts}
    return sorted(found.values(), key=lambda one: one.since)


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
