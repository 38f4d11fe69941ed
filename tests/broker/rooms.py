"""What the broker's tests share: an exchange behind HTTP, a broker that talks to it, a clock that never waits long."""

import threading
import time
from contextlib import contextmanager

from broker import guard
from broker.alpaca import AlpacaBroker
from broker.exchange import Exchange
from broker.exchange_server import ExchangeServer, Fault
from broker.port import OrderRequest
from broker.safety import Keys, Params, endpoint
from schemas.events import Kind, Leg, Side

KEYS = Keys("TESTKEY", "planted-secret-9f3c")
ACCOUNT = "paper"
# a breaker that stays out of the way of tests that are about something else
LIMITS = guard.Params(breaker_failures=1_000)


class Quick:
    """Waiting is told and not done: the monotonic clock jumps, the wall clock is the machine's."""

    def __init__(self, uniform=0.5):
        self.slept = []
        self.ahead = 0
        self._uniform = uniform

    def now(self):
        return time.time_ns()

    def monotonic(self):
        return time.monotonic_ns() + self.ahead

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.ahead += int(seconds * 1e9)
        time.sleep(min(seconds, 0.001))

    def uniform(self):
        return self._uniform


def quick(**changes):
    return Params(kind="exchange", **{"timeout_seconds": 5.0, "entry_seconds": 20.0, "exit_seconds": 60.0, **changes})


@contextmanager
def trading(price=1_900_000, symbol="AAPL", params=None, limits=LIMITS, clock=None, **options):
    """Server and broker, and a price."""
    exchange = Exchange(**options)
    exchange.quote(symbol, price)
    with ExchangeServer(exchange, KEYS, rate=100_000) as server:
        broker = AlpacaBroker(endpoint("exchange", server.url), KEYS, params or quick(), limits, clock or Quick())
        try:
            yield server, broker
        finally:
            broker.close()


def order_id(minute=0, symbol="AAPL", leg="entry"):
    return f"{ACCOUNT}|{symbol}|20240102T15{minute:02d}00Z|{leg}"


def entry(qty=5, price=1_900_000, minute=0, symbol="AAPL", target=None, stop=None):
    return OrderRequest(
        order_id(minute, symbol), symbol, Side.BUY, qty, Leg.ENTRY, Kind.MARKET, price,
        target or price * 103 // 10_000 * 100, stop or price * 985 // 100_000 * 100,
    )  # fmt: skip


def exit_(qty=5, minute=0, symbol="AAPL", price=1_900_000):
    return OrderRequest(order_id(minute, symbol, "exit"), symbol, Side.SELL, qty, Leg.EXIT, Kind.MARKET, price)


def oco(qty=5, price=1_900_000, minute=0, symbol="AAPL"):
    return OrderRequest(
        order_id(minute, symbol, "oco_take_profit"), symbol, Side.SELL, qty, Leg.OCO_TAKE_PROFIT, Kind.LIMIT,
        price * 103 // 10_000 * 100, price * 103 // 10_000 * 100, price * 985 // 100_000 * 100,
    )  # fmt: skip


def once(fault, method="POST", path="/v2/orders", times=1):
    """A fault for the first so many requests of a kind."""
    left = [times]

    def faults(given, at):
        if given == method and at.startswith(path) and left[0]:
            left[0] -= 1
            return fault
        return None

    return faults


def posts(server):
    return sum(1 for method, _ in server.requests if method == "POST")


def until(condition, seconds=20.0):
    """Wait for what another thread will do; False if it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


@contextmanager
def in_thread(target, *args):
    """Runs beside the test; what it raises is raised here at the end."""
    raised = []

    def run():
        try:
            target(*args)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield raised
    thread.join(20.0)
    assert not thread.is_alive()


__all__ = ["ACCOUNT", "KEYS", "LIMITS", "Fault", "Quick", "entry", "exit_", "in_thread", "oco", "once", "order_id",
           "posts", "quick", "trading", "until"]  # fmt: skip
