"""`market.slices` <-> frames: a batch of records is one raw frame, a bad record a dead letter."""

from infra.gated_sink import Record
from infra.kafka import SCHEMA
from schemas import codec
from schemas.calendar import timeframe_name
from schemas.frames import NO_ACTIONS, Actions, RawFrame
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
