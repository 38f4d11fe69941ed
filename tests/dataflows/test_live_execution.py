"""The flows, the service and an exchange together: what the account has booked is what the exchange has filled."""

import contextlib
import subprocess

import pyarrow.parquet as pq
import pytest

from broker.book import Book
from dataflows.broker import EXCHANGE_KEYS
from dataflows.demo_exchange import DemoExchange
from dataflows.execution_reports import written
from dataflows.ingest import grid
from dataflows.live_demo import EXECUTE, THROUGH, approved
from infra.kafka import bounds, records
from infra.settings import load
from infra.topics import TOPICS, create_topics
from schemas.units import to_ticks
from tests.broker.rooms import until
from tests.dataflows.livekit import ROOT, Site

PLANTED = (EXCHANGE_KEYS.secret.encode(), EXCHANGE_KEYS.key_id.encode())


@contextlib.contextmanager
def together(kafka, folder, **settings):
    """A site, the exchange's ledger, and `utp execute` beside them."""
    create_topics(kafka)
    day = {"INGEST__SOURCE": "synthetic:symbols=12,days=1,seed=11", "INGEST__SPEED": "600", **THROUGH, **settings}
    with DemoExchange(kafka, grid(load(None, (), settings))) as venue:
        site = Site(folder, kafka, **day, **venue.environ(), **approved(folder, "backtest"))
        (folder / "var").mkdir()
        with (folder / "execute.log").open("ab") as log:
            service = subprocess.Popen(EXECUTE, cwd=ROOT, env=site.env, stdout=log, stderr=log)
        try:
            yield site, venue.server.exchange
        finally:
            service.terminate()
            ended = service.wait(40.0)
            site.stop_all()
        assert ended == 0


def entries(ledger):
    return [order for order in ledger.orders.values() if order.client_id.endswith("|entry")]


@pytest.mark.slow
def test_a_kill_needs_no_signals_and_no_bars_and_survives_a_restart(kafka, tmp_path):
    """Ingest and signals are dead; the account closes what it holds, and enters nothing when all are back."""
    flows = {"ingest": "dataflows.ingest", "signals": "dataflows.signals", "trading": "dataflows.trading"}
    slow = {"INGEST__SOURCE": "synthetic:symbols=40,days=1,seed=11,timeframe=5m", "LIVE__TIMEFRAME": "5m",
            "INGEST__SPEED": "300", "RULES__COOLDOWN_SECONDS": "60"}  # a slice a second  # fmt: skip
    with together(kafka, tmp_path, **slow) as (site, ledger):
        for name, flow in flows.items():
            site.start(name, flow)
        assert until(lambda: site.check() or ledger.held, 400.0), site.tails()
        site.stop("ingest")
        site.stop("signals")
        done = site.utp("kill", "--reason", "a test")
        assert done.returncode == 0, done.stderr
        assert until(lambda: not ledger.held and not any(order.open for order in ledger.orders.values()), 200.0), (
            site.tails()
        )
        before, logged = len(entries(ledger)), in_log(kafka)
        site.stop("trading")
        for name, flow in flows.items():
            site.start(name, flow)
        (folder,) = site.wait(1)
        assert in_log(kafka) > logged  # slices went on
        assert len(entries(ledger)) == before
        assert not ledger.held
        reasons = pq.read_table(folder / "verdicts.parquet")["reason"].to_pylist()
        assert reasons[-1] == "kill_switch"
        assert "kill_switch" in pq.read_table(folder / "trades.parquet")["exit_reason"].to_pylist()


def in_log(kafka):
    """Records in the account's log."""
    return bounds(kafka, "account.log")[0][1]


def told(folder):
    """The fills in a day's results; none while the folder is being replaced."""
    try:
        return pq.read_table(folder / "fills.parquet").to_pylist()
    except FileNotFoundError:
        return []


@pytest.mark.slow
def test_a_day_through_the_exchange(kafka, tmp_path):
    with together(kafka, tmp_path) as (site, ledger):
        site.start("live", "dataflows.live")
        site.start("ingest", "dataflows.ingest")
        (folder,) = site.wait(1)

        def agrees():
            book = Book.of(written(kafka, "backtest"))
            return not ledger.held and book.cash == ledger.cash - ledger.initial_cash

        assert until(agrees, 60.0), site.tails()
        want = sum(one.qty for one in ledger.fills)
        assert want  # how many depends on how fast this machine is beside the market
        # what a report says after the close makes the day's folder anew, a little after the log has it
        assert until(lambda: sum(one["qty"] for one in told(folder)) == want, 60.0), told(folder)
        fills = told(folder)
        spent = sum(to_ticks(one["price"]) * one["qty"] * (1 if one["side"] == "buy" else -1) for one in fills)
        assert spent == ledger.initial_cash - ledger.cash
    # Every process had the keys in its environment; nothing that stays behind has them.
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {".log", ".sqlite3", ".parquet", ".html", ".json"} <= {path.suffix for path in kept}
    assert [path for path in kept if any(word in path.read_bytes() for word in PLANTED)] == []
    for topic in TOPICS:
        for number, (low, high) in bounds(kafka, topic.name).items():
            for message in records(kafka, topic.name, number, low, high):
                said = (message.key() or b"", message.value() or b"", *(value for _, value in message.headers() or ()))
                assert not any(word in part for part in said for word in PLANTED), topic.name
