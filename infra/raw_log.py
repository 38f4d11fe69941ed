"""`market.raw` and `market.late` <-> arrivals: bars as received, and the feed's beats among them."""

import math
from collections.abc import Iterator

from infra.dead_letters import Letter, letter
from infra.gated_sink import Record
from infra.kafka import SCHEMA, Headers
from infra.ranges import Messages
from operators.slicer import Arrival
from schemas import codec
from schemas.identity import bar_key, envelope, nanos
from schemas.records import Beat, MarketRaw

RAW, LATE = "market.raw", "market.late"


def record(topic: str, name: str, arrival: Arrival, timeframe: str, source: str) -> Record:
    """A bar or a beat for the log; `name` tells the record from every other of its partition."""
    if not arrival.symbol:
        return Record(name, arrival.ts, None, codec.encode(Beat(ts=arrival.ts)), ((SCHEMA, codec.mark(Beat)),))
    key = bar_key(arrival.symbol, arrival.ts, timeframe)
    event = MarketRaw(
        **envelope(topic, key, arrival.symbol, arrival.ts, source),
        open=arrival.open, high=arrival.high, low=arrival.low, close=arrival.close, price=arrival.close,
        volume=arrival.volume, bid=_known(arrival.bid), ask=_known(arrival.ask), timeframe=timeframe,
    )  # fmt: skip
    return Record(name, arrival.ts, arrival.symbol.encode(), codec.encode(event), ((SCHEMA, codec.mark(MarketRaw)),))


def arrivals(messages: Messages) -> Iterator[Arrival | Letter]:
    """What the records say, in their order; a dead letter for one that says nothing."""
    for at, (offset, value) in enumerate(zip(messages.offsets, messages.values, strict=True)):
        try:
            yield _arrival(offset, value, _schema(messages.headers[at]))
        except ValueError as error:
            yield letter(messages, at, "undecodable", str(error))


def _arrival(offset: int, value: bytes | None, schema: bytes | None) -> Arrival:
    if schema == codec.mark(Beat):
        return Arrival(offset, codec.decode(Beat, value).ts)
    bar = codec.decode(MarketRaw, value, schema)
    return Arrival(offset, nanos(bar.ts), bar.symbol, bar.open, bar.high, bar.low, bar.close, bar.volume,
                   _number(bar.bid), _number(bar.ask))  # fmt: skip


def _schema(headers: Headers) -> bytes | None:
    return dict(headers).get(SCHEMA)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _number(value: float | None) -> float:
    return math.nan if value is None else value
