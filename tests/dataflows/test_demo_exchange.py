"""The demonstration's exchange: prices of the slices, sessions that end, an approval that is good for it alone."""

import struct
import time

from broker import safety
from broker.alpaca import AlpacaBroker
from dataflows.broker import EXCHANGE_KEYS, Tick
from dataflows.demo_exchange import DemoExchange, ticks
from dataflows.flows import grid
from dataflows.live_demo import approved
from infra.bars import open_bars
from infra.kafka import bounds
from infra.settings import load
from infra.topics import create_topics
from schemas.events import Reason
from schemas.records import Listed, SliceBars
from schemas.units import to_ticks
from tests.broker.rooms import entry, until
from tests.dataflows.livekit import Site

SOURCE = "synthetic:symbols=3,days=1,seed=11,timeframe=5m"


def test_its_prices_are_those_of_the_slices_and_orders_end_with_the_session(kafka, tmp_path):
    create_topics(kafka)
    one = Site(tmp_path, kafka, INGEST__SOURCE=SOURCE, INGEST__SPEED="0", LIVE__TIMEFRAME="5m")
    last = {}
    bars = open_bars(SOURCE, timeframe="5m")
    for chunk in bars.frames():
        for frame in chunk:
            last.update((bars.universe.names[s], to_ticks(close)) for s, close in zip(frame.symbol, frame.close,
                                                                                      strict=True))  # fmt: skip
    with DemoExchange(kafka, grid(load(None, ["live.timeframe=5m"], {}))) as venue:
        exchange, symbol = venue.server.exchange, next(iter(last))
        with venue.server.control():
            exchange.quote(symbol, 1_900_000)
        broker = AlpacaBroker(safety.endpoint("exchange", venue.server.url), EXCHANGE_KEYS)
        broker.submit(entry(symbol=symbol, target=90_000_000, stop=100))  # legs that no price reaches
        assert exchange.held == {symbol: 5}
        try:
            one.start("ingest", "dataflows.ingest")
            assert until(lambda: sum(high for _, high in bounds(kafka, "market.slices").values()) >= 16 * 78, 90.0)
            assert until(lambda: min(venue._upto.values()) == bars.last_ts, 30.0)
        finally:
            one.stop_all()
        assert {name: exchange.quotes[name] for name in last} == {
            name: round(price / 100) * 100 for name, price in last.items()
        }
        assert until(lambda: sorted(order.status for order in exchange.orders.values())
                     == ["expired", "expired", "filled"])  # fmt: skip
        assert venue.failure is None
        broker.close()


def test_prices_come_open_low_high_close_and_by_the_cent():
    column = {name: value.to_bytes(4, "little") for name, value in (("symbol", 4), ("slot", 0))}
    prices = {name: struct.pack("<d", value) for name, value in
              (("open", 10.004), ("high", 12.0), ("low", 9.0), ("close", 11.0), ("volume", 5.0))}  # fmt: skip
    one = SliceBars(shard=0, timeframe=1, ts=7, after=6, upto=7, listed=[Listed(symbol=4, slot=0, name="A")],
                    bar_ts=struct.pack("<q", 7), **column, **prices)  # fmt: skip
    assert list(ticks(one, {4: "A"})) == [Tick(7, "A", price) for price in (100_000, 90_000, 120_000, 110_000)]


def test_the_approval_is_for_its_account(tmp_path):
    given = approved(tmp_path, "demo")
    params = load(None, (), {**given, "BROKER__KIND": "exchange"}).broker
    assert safety.approval_gate(params, "demo", time.time_ns())[0] is Reason.NONE
    assert safety.approval_gate(params, "paper", time.time_ns())[0] is Reason.NOT_APPROVED
