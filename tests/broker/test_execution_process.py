"""`utp execute` and `utp reconcile` as processes: how they end, that there is one, what they print."""

import os
import signal
import subprocess
import sys
import time

import pytest

from broker.port import Leg
from infra.kafka import Cluster
from schemas.records import CommandKind
from tests.broker.executing import ROOT, floor, until
from tests.broker.rooms import KEYS, Fault, entry, exit_, once, order_id

PLANTED = (KEYS.secret, KEYS.key_id)


@pytest.fixture
def place(kafka, tmp_path):
    with floor(kafka, tmp_path) as one:
        yield one


@pytest.fixture
def running(place):
    place.start()
    assert until(lambda: "orders to settle" in place.printed(), 60.0), place.printed()
    return place


def utp(place, *arguments, **environ):
    """A command beside it."""
    sets = [part for one in place.sets for part in ("--set", one)]
    return subprocess.run(
        [sys.executable, "-c", "from dataflows.cli import main; main()", *arguments, *sets], cwd=ROOT,
        env={**os.environ, **place.environ, **environ}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def test_it_ends_when_told_to_and_its_place_is_free_again(running):
    second = utp(running, "execute")
    assert (second.returncode, second.stderr.count("\n")) == (2, 1)
    assert f"by process {running.process.pid}" in second.stderr
    assert utp(running, "reconcile").returncode == 2  # the service repairs by itself
    begun = time.monotonic()
    assert running.end(signal.SIGTERM) == 0
    assert time.monotonic() - begun < 30.0
    running.start()
    assert until(lambda: running.printed().count("orders to settle") == 2, 60.0)
    assert running.end(signal.SIGINT) == 0


def elsewhere(place, folder):
    """The settings of the same account on another host: another folder, so no lock file is shared."""
    return [*place.sets, f"live.folder={folder}", "execution.lease_seconds=3"]


def test_on_another_host_it_is_refused_while_the_first_is_alive(place, tmp_path):
    place.sets.append("execution.lease_seconds=3")
    place.start()
    assert until(lambda: "orders to settle" in place.printed(), 60.0), place.printed()
    place.sets, own = elsewhere(place, tmp_path / "elsewhere"), place.sets
    for command in ("execute", "reconcile"):
        second = utp(place, command)
        assert second.returncode == 2
        assert "account paper is executed already, by" in second.stderr.splitlines()[-1]
    place.sets = own
    place.write(entry())
    assert until(lambda: place.exchange.held == {"AAPL": 5} and place.agrees())  # the first goes on
    assert place.end(signal.SIGTERM) == 0
    place.sets = elsewhere(place, tmp_path / "elsewhere")
    assert utp(place, "reconcile").returncode == 0  # it has let go


def test_one_that_hung_is_replaced_from_another_host_and_stops_when_it_wakes(place, tmp_path):
    """No order is sent twice, and the one that comes to again does nothing more."""
    place.sets.append("execution.lease_seconds=3")
    place.start()
    assert until(lambda: "orders to settle" in place.printed(), 60.0), place.printed()
    hung = place.process
    hung.send_signal(signal.SIGSTOP)
    place.sets = elsewhere(place, tmp_path / "elsewhere")
    place.start()
    try:
        assert until(lambda: place.printed().count("orders to settle") == 2, 60.0), place.printed()
        place.write(entry())
        assert until(lambda: place.exchange.held == {"AAPL": 5} and place.agrees())
    finally:
        hung.send_signal(signal.SIGCONT)
    assert hung.wait(40.0) == 2
    assert "account paper is executed by" in place.printed()
    assert "Traceback" not in place.printed()
    place.write(exit_(minute=1))
    assert until(lambda: not place.exchange.held and place.agrees())
    ours = [order.client_id for order in place.exchange.orders.values() if order.client_id.startswith("paper|")]
    assert sorted(ours) == [order_id(), exit_(minute=1).id]
    assert len(place.ids()) == len(set(place.ids()))


def test_it_ends_while_the_broker_does_not_answer(running):
    running.server.faults = lambda method, path: Fault("slow", after=False, value=25.0)
    running.write(entry())
    assert until(lambda: running.server.requests[-1][0] == "POST")
    begun = time.monotonic()
    assert running.end(signal.SIGTERM) == 0
    assert time.monotonic() - begun < 30.0


def test_being_shut_out_is_one_line_and_no_secret_is_printed(running):
    running.server.faults = once(Fault("echo", after=False))  # a refusal that repeats the keys
    running.write(entry())
    assert until(lambda: running.said().get(order_id()) is not None)
    running.server.faults = lambda method, path: Fault("status", after=False, value=401)
    assert running.process.wait(60.0) == 2
    printed = running.printed()
    assert printed.splitlines()[-1].startswith("utp: trading stopped (unauthorized)")
    assert "Traceback" not in printed
    assert not any(word in printed for word in PLANTED)
    assert not any(word in repr(running.reports()) for word in PLANTED)


@pytest.mark.parametrize(
    ("environ", "says"),
    [({"ALPACA_BASE_URL": "https://api.alpaca.markets"}, "the test exchange is at"),
     ({"ALPACA_API_KEY": "PKREAL"}, "dummy keys only"), ({"ALPACA_API_KEY": ""}, "set ALPACA_API_KEY")],
)  # fmt: skip
def test_an_unsafe_broker_is_one_line(place, environ, says):
    done = utp(place, "execute", **environ)
    assert (done.returncode, done.stderr.count("\n"), says in done.stderr) == (2, 1, True), done.stderr


def test_orders_of_an_account_that_is_filled_in_simulation_are_not_sent(place):
    place.write(entry())
    place.sets.append("venue.kind=simulated")
    done = utp(place, "execute")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "venue.kind is simulated" in done.stderr
    assert place.server.requests == []


def test_a_port_for_metrics_that_is_taken_is_one_line(place):
    port = place.server.url.rpartition(":")[2]
    place.sets.append(f"execution.metrics_port={port}")
    done = utp(place, "execute")
    assert (done.returncode, f"execution.metrics_port {port} at 127.0.0.1" in done.stderr.splitlines()[-1]) == (2, True)


def test_reconcile_reads_the_log_and_repairs(place, monkeypatch):
    with place.serving(monkeypatch) as room:
        place.write(entry())
        assert until(lambda: room.ready.is_set() and place.said().get(order_id(leg="take_profit")) == "new")
    with place.server.control() as exchange:  # while nobody follows the stream
        exchange.quote("AAPL", 1_960_000)
    dry = utp(place, "reconcile", "--dry-run", "--json")
    assert "order_missing_there" in dry.stdout, dry.stderr
    assert not place.agrees()
    done = utp(place, "reconcile", "--json")
    assert "order_missing_there" in done.stdout, done.stderr
    assert place.agrees()
    assert [one.leg for one in place.reports() if one.qty] == [Leg.ENTRY, Leg.TAKE_PROFIT]
    again = utp(place, "reconcile")
    assert (again.returncode, again.stdout) == (0, "book and broker agree\n")
    assert place.commands() == []


def test_reconcile_halts_on_what_nobody_explains(place):
    with place.server.control() as exchange:
        exchange.place({"symbol": "AAPL", "qty": 3, "side": "buy", "type": "market"})
    assert utp(place, "reconcile", "--dry-run").returncode == 1
    assert place.commands() == []
    assert utp(place, "reconcile").returncode == 1
    assert [one.kind for one in place.commands()] == [CommandKind.REVOKE]


def test_an_approval_reaches_the_account_where_that_is_wanted(place):
    done = utp(place, "approve", "--minutes", "5", "--log", "--issuer", "ann")
    assert done.returncode == 0, done.stderr
    (said,) = place.commands()
    assert (said.kind, said.issuer, said.until > time.time_ns()) == (CommandKind.APPROVE, "ann", True)


def test_without_a_log_reconciliation_says_so(place):
    place.where = Cluster("127.0.0.1:9")
    done = utp(place, "reconcile", "--dry-run")
    assert (done.returncode, "does not answer" in done.stderr.splitlines()[-1]) == (2, True)
