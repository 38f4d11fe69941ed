"""What a human asks of a broker: approve, revoke, positions, orders, reconcile; and an exchange to try it on."""

import getpass
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from broker import safety, wire
from broker.alpaca import AlpacaBroker, Refused, Unanswered
from broker.exchange import Exchange
from broker.exchange_server import ExchangeServer
from broker.journal import Journal
from broker.port import Broker, ExecutionReport, OrderState, TradingStopped
from broker.reconcile import Finding, reconcile
from dataflows.commands import send
from infra.kafka import cluster, topic_names, wait_for
from infra.settings import Settings
from infra.topics import create_topics
from schemas.errors import UserError
from schemas.events import word
from schemas.records import CommandKind
from schemas.units import NS_PER_MINUTE, to_ticks

LOG_SECONDS = 10.0  # that a look waits for Kafka
EXCHANGE_KEYS = safety.Keys("TESTKEY", "TESTSECRET")
Row = dict[str, Any]


def approve(
    settings: Settings, *, minutes: int, scope: str, account: str | None, issuer: str | None, log: bool = False
) -> Row:
    """Leave to send entries, from now on, for some minutes; with `log` the account hears of it too."""
    now = time.time_ns()
    given = safety.approve(
        settings.broker, issuer=issuer or getpass.getuser(), account=account or settings.run.account, scope=scope,
        minutes=minutes, now=now,
    )  # fmt: skip
    if log and scope == "entries":
        send(cluster(), given.account, CommandKind.APPROVE, "utp approve", given.expires, given.issuer)
    shut = _gates(settings, given.account).shut(now)
    return {
        "account": given.account, "scope": given.scope, "issuer": given.issuer, "from": wire.stamp(given.issued),
        "until": wire.stamp(given.expires), "file": settings.broker.approval_file,
        "shut": {word(reason): message for reason, message in shut},
    }  # fmt: skip


def revoke(settings: Settings, *, issuer: str | None) -> Row:
    """Take every approval back; it acts before the next order."""
    by = issuer or getpass.getuser()
    safety.revoke(settings.broker, issuer=by, now=time.time_ns())
    return {"revoked": True, "by": by, "file": settings.broker.approval_file}


def positions(settings: Settings) -> list[Row]:
    """What the broker says we hold; amounts in USD."""
    with _broker(settings) as broker:
        return [
            {"symbol": held.symbol, "qty": held.qty, "cost": wire.usd(held.cost), "price": wire.usd(held.price),
             "unrealised": wire.usd(held.price * held.qty - held.cost)}
            for held in broker.positions()
        ]  # fmt: skip


def orders(settings: Settings) -> list[Row]:
    """The broker's open orders."""
    with _broker(settings) as broker:
        return [_order_row(order) for order in broker.open_orders()]


def compare(settings: Settings, reports: Path | None, account: str | None) -> list[Finding]:
    """Book against broker; the book follows the execution reports in the log, or a file, one JSON object a line."""
    name = account or settings.run.account
    journal = Journal(_reports(reports) if reports else _logged(name))
    with _broker(settings) as broker:
        there, held = broker.open_orders(), broker.positions()
    return reconcile(name, journal.held(), journal.open_orders(), held, there)


def repair(settings: Settings) -> list[Finding]:
    """What differs; what is safe is repaired by events in the log, the rest halts the account's entries."""
    from dataflows.execution import Room, alone, ended_in_a_line

    where = cluster()
    with alone(settings), ended_in_a_line():
        create_topics(where)
        room = Room(settings, where, threading.Event())
        try:
            before = room.reconciliation.look(repair=False)
            room.updates.catch_up()
            return [*before, *(finding for finding in room.reconciliation.run() if finding not in before)]
        finally:
            room.close()


def _logged(account: str) -> list[ExecutionReport]:
    """The reports in the log; none where there is no such topic yet."""
    from dataflows.execution_reports import TOPIC, written

    where = cluster()
    wait_for(where, LOG_SECONDS)
    return written(where, account) if where.topic(TOPIC) in topic_names(where) else []


def _reports(path: Path) -> list[ExecutionReport]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"--reports {path}: {error.strerror or error}") from error
    told = []
    for number, line in enumerate(lines, 1):
        try:
            told.append(msgspec.json.decode(line, type=ExecutionReport))
        except msgspec.MsgspecError as error:
            raise UserError(f"--reports {path}, line {number}: {error}") from error
    return told


def _order_row(order: OrderState) -> Row:
    price = order.limit_price or order.stop_price
    return {
        "id": order.client_id, "symbol": order.symbol, "side": word(order.side), "qty": order.qty,
        "filled": order.filled_qty, "kind": order.kind, "price": wire.usd(price) if price else None,
        "status": order.status, "submitted": wire.stamp(order.submitted),
    }  # fmt: skip


def _gates(settings: Settings, account: str) -> safety.Gates:
    """Gates for looking only: which are shut says nothing of address and keys."""
    there = safety.endpoint("paper", f"https://{safety.PAPER_HOST}")
    enabled = safety.trading_enabled(os.environ)
    return safety.Gates(settings.broker, there, safety.Keys("", ""), account, enabled=enabled)


@contextmanager
def _broker(settings: Settings) -> Iterator[Broker]:
    """The broker of the environment, to read from; what it refuses is one line."""
    there, keys = safety.of_environ(settings.broker, os.environ)
    broker = AlpacaBroker(there, keys, settings.broker, settings.guard)
    try:
        yield broker
    except (TradingStopped, Refused) as error:
        raise UserError(f"broker: {error}") from error
    except Unanswered as error:
        raise UserError(f"broker {there.rest}: no answer ({error})") from error
    finally:
        broker.close()


# The exchange at home.


class Tick(NamedTuple):
    """A price, in ticks; `ts` when it is one of a bar's that ends then, UTC ns, else 0."""

    ts: int
    symbol: str
    price: int


def walk(symbols: Sequence[str], seed: int) -> Iterator[list[Tick]]:
    """Prices that wander by up to a tenth of a percent a step; the same for the same seed, for ever."""
    prices = {symbol: 1_000_000 + _chance(seed, symbol, 0) % 2_000_000 for symbol in symbols}
    step = 0
    while True:
        yield [Tick(0, symbol, price) for symbol, price in prices.items()]
        step += 1
        for symbol, price in prices.items():
            move = _chance(seed, symbol, step) % 21 - 10  # basis points
            prices[symbol] = max(round(price * (10_000 + move) / 1_000_000) * 100, 100)


def of_bars(spec: str, settings: Settings, symbols: Sequence[str]) -> Iterator[list[Tick]]:
    """Each bar's open, low, high and close, slice by slice: the stop is reached before the target, as in a backtest."""
    from infra.bars import open_bars

    bars = open_bars(spec, timeframe=settings.run.timeframe, symbols=symbols)
    names = bars.universe.names
    for chunk in bars.frames():
        rows = sorted(
            (int(frame.ts[i]), names[frame.symbol[i]], tuple(float(column[i]) for column in
                                                             (frame.open, frame.low, frame.high, frame.close)))
            for frame in chunk for i in range(frame.ts.size)
        )  # fmt: skip
        for ts in sorted({row[0] for row in rows}):
            here = [row for row in rows if row[0] == ts]
            for part in range(4):
                yield [Tick(ts, symbol, to_ticks(prices[part])) for _, symbol, prices in here if prices[part] > 0]


def _chance(seed: int, symbol: str, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{symbol}:{step}".encode()).digest()[:6], "big")


def serve(
    feed: Iterator[list[Tick]], *, port: int, seed: int, cash_usd: int, seconds: float, steps: int | None,
    told: Callable[[str], None],
) -> Row:  # fmt: skip
    """An exchange on this machine until interrupted, until its feed ends, or for some steps of it."""
    exchange = Exchange(cash_usd, seed, now=time.time_ns() // NS_PER_MINUTE * NS_PER_MINUTE, partial_one_in=10)
    server = ExchangeServer(exchange, EXCHANGE_KEYS, port)
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with server:
            told(f"exchange at {server.url}; to use it:")
            told(f"  export ALPACA_BASE_URL={server.url} ALPACA_API_KEY={EXCHANGE_KEYS.key_id} "
                 f"ALPACA_SECRET_KEY={EXCHANGE_KEYS.secret} BROKER__KIND=exchange")  # fmt: skip
            done = 0
            for quotes in feed:
                with server.control() as venue:
                    venue.now = max(venue.now + 1, quotes[0].ts if quotes else 0, time.time_ns())
                    for tick in quotes:
                        venue.quote(tick.symbol, tick.price)
                done += 1
                if (steps is not None and done >= steps) or stop.wait(seconds):
                    break
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        told("stopped")
    return {"steps": done if server.port else 0, "orders": len(exchange.orders), "fills": len(exchange.fills),
            "cash": wire.usd(exchange.cash), "equity": wire.usd(exchange.equity)}  # fmt: skip
