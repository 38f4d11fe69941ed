"""`utp kill --direct`: flat at the broker although nothing else answers, however often it is said."""

import json
import threading
import time

import pytest

from broker import safety
from broker.alpaca import AlpacaBroker
from dataflows.kill import Kill, run
from schemas.events import Reason
from schemas.records import CommandKind
from tests.broker.executing import floor, until
from tests.broker.rooms import ACCOUNT, KEYS, Fault, Quick, entry, once, quick, trading
from tests.dataflows.test_broker_commands import connected, files, utp

__all__ = ["connected", "files"]


@pytest.fixture
def silent(connected, monkeypatch):
    """An exchange, and no Kafka."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setattr("dataflows.kill.LOG_SECONDS", 0.2)
    monkeypatch.setattr("dataflows.kill.ROUND_SECONDS", 0.01)
    return connected


def test_it_flattens_with_the_log_down_and_twice(silent, capsys, files):
    server, broker = silent
    with server.control() as exchange:
        exchange.quote("MSFT", 1_900_000, 2)  # partly filled
    broker.submit(entry())
    broker.submit(entry(minute=1, symbol="MSFT"))
    assert server.exchange.held == {"AAPL": 5, "MSFT": 2}
    with server.control() as exchange:
        exchange.quote("MSFT", 1_900_000, 0)
    thread = threading.Timer(0.3, lambda: server.exchange.quote("MSFT", 1_900_000))
    thread.start()
    code, out, err = utp(capsys, "kill", "--direct", "--reason", "a test", "--json")
    thread.join()
    assert code == 0, err
    done = json.loads(out)
    assert (done["closed"], done["left"]) == (["AAPL", "MSFT"], [])
    assert "not in the log of commands" in done["log"]
    assert server.exchange.held == {}
    assert not any(order.open for order in server.exchange.orders.values())
    assert safety.approval_gate(files, ACCOUNT, time.time_ns())[0] is not Reason.NONE
    code, out, _ = utp(capsys, "kill", "--direct", "--reason", "again")
    assert (code, out.split(";")[0]) == (0, "cancelled 0 orders")
    assert server.exchange.held == {}


def test_two_at_once_place_one_order(silent):
    server, broker = silent
    broker.submit(entry())
    killers = []
    for _ in range(3):
        one = AlpacaBroker(broker.there, KEYS, quick(), clock=Quick())
        killers.append(threading.Thread(target=Kill(one, ACCOUNT, flatten=True).run, args=(20.0,)))
    for thread in killers:
        thread.start()
    for thread in killers:
        thread.join(30.0)
    assert server.exchange.held == {}
    assert sum(order.kind == "market" and order.side == "sell" for order in server.exchange.orders.values()) == 1


def test_positions_stay_where_the_setting_says_so(silent, capsys):
    server, broker = silent
    broker.submit(entry())
    code, _, _ = utp(capsys, "kill", "--direct", "--reason", "a test", "--set", "halts.kill_flatten=false")
    assert code == 0
    assert server.exchange.held == {"AAPL": 5}
    assert not any(order.open for order in server.exchange.orders.values())


def test_what_cannot_be_closed_is_named(silent, capsys, monkeypatch):
    server, broker = silent
    broker.submit(entry())
    monkeypatch.setattr("dataflows.kill.SECONDS", 0.2)
    monkeypatch.setattr("dataflows.kill.Kill.run", lambda self, seconds, run=Kill.run: run(self, 0.2))
    with server.control() as exchange:
        exchange.is_open = False
    code, out, _ = utp(capsys, "kill", "--direct", "--reason", "a test")
    assert (code, "left: 5 AAPL" in out) == (1, True)
    with server.control() as exchange:
        exchange.open_market()
    assert server.exchange.held == {}


def test_it_goes_on_through_faults(silent, capsys):
    server, broker = silent
    broker.submit(entry())
    server.faults = once(Fault("drop"), times=2)
    assert utp(capsys, "kill", "--direct", "--reason", "a test")[0] == 0
    assert server.exchange.held == {}


def test_it_passes_the_gates_of_address_and_keys_only(connected, capsys, monkeypatch):
    monkeypatch.setenv("ALPACA_API_KEY", "AKLIVE")
    code, _, err = utp(capsys, "kill", "--direct", "--reason", "a test")
    assert (code, "dummy keys only" in err, err.count("\n")) == (2, True, 1)


def test_a_reason_is_wanted(connected, capsys):
    assert utp(capsys, "kill", "--direct", "--reason", " ")[0] == 2


def test_where_the_log_answers_the_kill_is_in_it_and_the_service_tells_of_the_sale(kafka, tmp_path, monkeypatch):
    with floor(kafka, tmp_path) as place, place.serving(monkeypatch) as room:
        assert until(room.ready.is_set)
        place.write(entry())
        assert until(lambda: place.exchange.held == {"AAPL": 5} and place.agrees())
        done = run(place.settings(), "a test")
        assert (done["left"], "at offset" in done["log"]) == ([], True)
        assert until(lambda: not place.exchange.held and place.agrees())
        (kill,) = place.commands()
        assert (kill.kind, kill.reason) == (CommandKind.KILL, "a test")


def test_it_needs_no_market_data_to_be_quick():
    with trading() as (_, broker):
        assert Kill(broker, ACCOUNT, flatten=True).run(5.0) == {"cancelled": 0, "closed": [], "left": []}
