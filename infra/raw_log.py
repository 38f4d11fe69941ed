"""`market.raw` and `market.late` <-> arrivals: bars as received, and what else stands among them for the slicer.

That is the feed's beats, the market symbol's bars for the shards that have it not, and activations of models.
"""

import math
from collections.abc import Iterator

from infra.dead_letters import Letter, letter
from infra.gated_sink import Record, event_record
from infra.kafka import ID, SCHEMA
from infra.ranges import Messages
from operators.slicer import Activated, Arrival, Market
from schemas import codec
from schemas.identity import bar_key, envelope, nanos
from schemas.records import Beat, MarketClose, MarketRaw, ModelActivated

RAW, LATE = "market.raw", "market.late"
NONE = "none"  # the version of a ModelActivated after which no model is in force


def record(topic: str, name: str, arrival: Arrival, timeframe: str, source: str) -> Record:
    """A bar or a beat for the log; `name` tells the record from every other of its partition."""
    if not arrival.symbol:
        return event_record(name, arrival.ts, None, Beat(ts=arrival.ts))
    key = bar_key(arrival.symbol, arrival.ts, timeframe)
    event = MarketRaw(
        **envelope(topic, key, arrival.symbol, arrival.ts, source),
        open=arrival.open, high=arrival.high, low=arrival.low, close=arrival.close, price=arrival.close,
        volume=arrival.volume, bid=_known(arrival.bid), ask=_known(arrival.ask), timeframe=timeframe,
    )  # fmt: skip
    return event_record(name, arrival.ts, arrival.symbol.encode(), event)


def market_record(name: str, bar: Arrival) -> Record:
    """The market symbol's bar for another shard."""
    event = MarketClose(ts=bar.ts, symbol=bar.symbol, open=bar.open, high=bar.high, low=bar.low, close=bar.close,
                        volume=bar.volume)  # fmt: skip
    return event_record(name, bar.ts, None, event)


def model_record(name: str, event: ModelActivated) -> Record:
    """An activation for one shard."""
    return event_record(name, nanos(event.ts), event.model.encode(), event)


def arrivals(messages: Messages) -> Iterator[Arrival | Activated | Market | Letter]:
    """What the records say, in their order; a dead letter for one that says nothing."""
    for at, (offset, value) in enumerate(zip(messages.offsets, messages.values, strict=True)):
        try:
            yield _arrival(offset, value, {name: each or b"" for name, each in messages.headers[at]})
        except ValueError as error:
            yield letter(messages, at, "undecodable", str(error))


def _arrival(offset: int, value: bytes | None, headers: dict[str, bytes]) -> Arrival | Activated | Market:
    schema = headers.get(SCHEMA)
    if schema == codec.mark(Beat):
        return Arrival(offset, codec.decode(Beat, value).ts)
    if schema == codec.mark(MarketClose):
        told = codec.decode(MarketClose, value)
        return Market(Arrival(offset, told.ts, told.symbol, told.open, told.high, told.low, told.close, told.volume))
    if schema in codec.written_by(ModelActivated):
        event = codec.decode(ModelActivated, value, schema)
        model = "" if event.version == NONE else event.version
        return Activated(offset, event.from_slice, model, event.bundle_sha256, headers.get(ID, b"").decode())
    bar = codec.decode(MarketRaw, value, schema)
    return Arrival(offset, nanos(bar.ts), bar.symbol, bar.open, bar.high, bar.low, bar.close, bar.volume,
                   _number(bar.bid), _number(bar.ask))  # fmt: skip


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _number(value: float | None) -> float:
    return math.nan if value is None else value
