"""An exchange whose prices are those of `market.slices` as they come: the account trades at what it decides on."""

import threading
from collections.abc import Iterator

import numpy as np

from broker.exchange import Exchange
from broker.exchange_server import ExchangeServer
from dataflows.broker import EXCHANGE_KEYS, Tick
from infra.kafka import SCHEMA, Cluster
from infra.slice_log import TOPIC
from infra.tail import TailSource
from schemas import codec
from schemas.calendar import Calendar
from schemas.frames import SHARDS
from schemas.records import SliceBars
from schemas.units import to_ticks

IDLE_SECONDS = 0.02
RATE = 100_000  # requests a minute: a played market is faster than a real one
PRICES = ("open", "low", "high", "close")  # the stop is reached before the target, as in a backtest


class DemoExchange:
    """Server and feed; it trades by the time of the slices, and a session ends once all shards have closed it.

    Its ledger lives as long as it does.
    """

    def __init__(self, where: Cluster, calendar: Calendar, cash_usd: int = 100_000):
        self.server = ExchangeServer(Exchange(cash_usd, partial_one_in=10, now=0), EXCHANGE_KEYS, rate=RATE)
        self._calendar = calendar
        self._source = TailSource(where, TOPIC)
        self._names: dict[int, str] = {}
        self._upto = dict.fromkeys(range(SHARDS), 0)
        self._close = 0  # of the session that is under way
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-exchange", daemon=True)
        self.failure: Exception | None = None

    def __enter__(self) -> "DemoExchange":
        self.server.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(10.0)
        self.server.__exit__(*error)

    def environ(self) -> dict[str, str]:
        """What leads an executor here."""
        return {"ALPACA_BASE_URL": self.server.url, "ALPACA_API_KEY": EXCHANGE_KEYS.key_id,
                "ALPACA_SECRET_KEY": EXCHANGE_KEYS.secret, "BROKER__KIND": "exchange",
                "BROKER__DRY_RUN": "false", "TRADING_ENABLED": "true"}  # fmt: skip

    def _run(self) -> None:
        try:
            parts = [self._source.build_part("prices", name, None) for name in self._source.list_parts()]
            while not self._stop.is_set():
                batches = [messages for part in parts for messages in part.next_batch()]
                for messages in batches:
                    for value, headers in zip(messages.values, messages.headers, strict=True):
                        self._take(codec.decode(SliceBars, value, dict(headers).get(SCHEMA)))
                if not batches:
                    self._stop.wait(IDLE_SECONDS)
            for part in parts:
                part.close()
        except Exception as error:  # whoever watches says it
            self.failure = error

    def _take(self, one: SliceBars) -> None:
        """A shard's slice: its prices, and perhaps the end of a session."""
        self._names.update((entry.symbol, entry.name) for entry in one.listed)
        self._upto[one.shard] = one.upto
        with self.server.control() as venue:
            for tick in ticks(one, self._names):
                venue.now = max(venue.now + 1, tick.ts)
                venue.quote(tick.symbol, tick.price)
            upto = min(self._upto.values())
            if self._close and upto >= self._close:
                venue.close_market()
                venue.open_market()
                self._close = 0
            if not self._close and upto:
                after = self._calendar.closes[self._calendar.closes > upto]
                self._close = int(after[0]) if after.size else 0


def ticks(one: SliceBars, names: dict[int, str]) -> Iterator[Tick]:
    """The prices of a slice, bar by bar."""
    symbols = np.frombuffer(one.symbol, "<i4").tolist()
    columns = [np.frombuffer(getattr(one, name), "<f8").tolist() for name in PRICES]
    for row, symbol in enumerate(symbols):
        for column in columns:
            cents = round(to_ticks(column[row]) / 100) * 100  # an exchange trades by the cent
            if cents > 0:
                yield Tick(one.ts, names[symbol], cents)
