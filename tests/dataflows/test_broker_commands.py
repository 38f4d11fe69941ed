"""approve, revoke, positions, orders, reconcile and exchange as a user meets them."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from broker import safety
from broker.port import ExecutionReport
from dataflows import cli
from schemas.events import Leg, Reason, Side
from tests.broker.rooms import ACCOUNT, KEYS, entry, order_id, trading

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Settings whose files lie in a folder of the test's own."""
    monkeypatch.setenv("BROKER__APPROVAL_FILE", str(tmp_path / "approval"))
    monkeypatch.setenv("BROKER__APPROVAL_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("RUN__ACCOUNT", ACCOUNT)
    for name in ("TRADING_ENABLED", "ALPACA_API_KEY", "ALPACA_SECRET_KEY", "ALPACA_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return safety.Params(approval_file=str(tmp_path / "approval"), approval_key_file=str(tmp_path / "key"))


@pytest.fixture
def connected(files, monkeypatch):
    with trading() as (server, broker):
        monkeypatch.setenv("ALPACA_BASE_URL", server.url)
        monkeypatch.setenv("ALPACA_API_KEY", KEYS.key_id)
        monkeypatch.setenv("ALPACA_SECRET_KEY", KEYS.secret)
        monkeypatch.setenv("BROKER__KIND", "exchange")
        yield server, broker


def utp(capsys, *arguments):
    """Exit code, what was printed, what went wrong."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_approve_and_revoke(files, capsys):
    code, out, _ = utp(capsys, "approve", "--minutes", 390, "--scope", "entries", "--issuer", "ann")
    assert code == 0
    assert "paper: entries approved by ann until" in out
    assert "still shut: trading_disabled" in out
    assert "still shut: dry_run" in out
    assert safety.approval_gate(files, ACCOUNT, time.time_ns())[0] is Reason.NONE
    assert utp(capsys, "revoke", "--issuer", "bob")[0] == 0
    assert safety.approval_gate(files, ACCOUNT, time.time_ns()) == (Reason.REVOKED, "revoked by bob")


def test_approve_says_which_gates_are_still_shut(files, capsys, monkeypatch):
    monkeypatch.setenv("TRADING_ENABLED", "true")
    monkeypatch.setenv("BROKER__DRY_RUN", "false")
    assert json.loads(utp(capsys, "approve", "--minutes", 1, "--json")[1])["shut"] == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--minutes", 0], "1 to 1440"), (["--minutes", 1_441], "1 to 1440"), ([], "minutes"),
     (["--minutes", 5, "--scope", "all"], "scope all")],
)  # fmt: skip
def test_approve_refuses_what_makes_no_sense(files, capsys, arguments, says):
    code, _, err = utp(capsys, "approve", *arguments)
    assert (code, says in err, err.count("\n")) == (2, True, 1)


def test_positions_and_orders(connected, capsys):
    _, broker = connected
    assert utp(capsys, "positions")[1] == "no positions\n"
    assert utp(capsys, "orders")[1] == "no open orders\n"
    broker.submit(entry())
    (held,) = json.loads(utp(capsys, "positions", "--json")[1])
    assert held == {"symbol": "AAPL", "qty": 5, "cost": "950.00", "price": "190.00", "unrealised": "0.00"}
    legs = json.loads(utp(capsys, "orders", "--json")[1])
    assert sorted((leg["kind"], leg["price"], leg["status"]) for leg in legs) == [
        ("limit", "195.70", "new"), ("stop", "187.15", "held"),
    ]  # fmt: skip
    code, out, _ = utp(capsys, "orders")
    assert (code, "187.15" in out, "held" in out) == (0, True, True)


def test_reconcile(connected, capsys, tmp_path):
    _, broker = connected
    path = tmp_path / "reports.jsonl"
    path.write_bytes(b"")
    dry = ("reconcile", "--dry-run", "--reports", path)
    assert utp(capsys, *dry)[:2] == (0, "book and broker agree\n")
    state = broker.submit(entry())
    code, out, _ = utp(capsys, *dry, "--json")
    assert code == 1
    assert json.loads(out)[0]["difference"] == "missing_here"
    told = ExecutionReport("x", 1, order_id(), state.broker_id, "AAPL", Side.BUY, Leg.ENTRY, "filled", 5, 9_500_000, 5,
                           9_500_000)  # fmt: skip
    path.write_bytes(msgspec.json.encode(told) + b"\n")
    code, out, _ = utp(capsys, *dry)
    assert (code, out) == (0, "book and broker agree\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["reconcile", "--reports", "f"], "--dry-run"), (["reconcile", "--dry-run", "--reports", "/nowhere"], "/nowhere")],
)
def test_reconcile_refuses(connected, capsys, arguments, says):
    code, _, err = utp(capsys, *arguments)
    assert (code, says in err, err.count("\n")) == (2, True, 1)


def test_a_line_that_is_no_report_is_named(connected, capsys, tmp_path):
    path = tmp_path / "reports.jsonl"
    path.write_text("{}\n")
    code, _, err = utp(capsys, "reconcile", "--dry-run", "--reports", path)
    assert (code, "line 1" in err) == (2, True)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "set ALPACA_API_KEY"),
        ({"ALPACA_API_KEY": "AKLIVE", "ALPACA_SECRET_KEY": "planted-9"}, "live account's"),
        ({"ALPACA_API_KEY": "PKX", "ALPACA_SECRET_KEY": "planted-9", "ALPACA_BASE_URL": "https://api.alpaca.markets"},
         "https://paper-api.alpaca.markets and nowhere else"),
        ({"ALPACA_API_KEY": "PKX", "ALPACA_SECRET_KEY": "planted-9", "ALPACA_BASE_URL": "http://127.0.0.1:8900"},
         "nowhere else"),
        ({"ALPACA_API_KEY": "PKX", "ALPACA_SECRET_KEY": "planted-9", "ALPACA_BASE_URL": "http://127.0.0.1:8900",
          "BROKER__KIND": "exchange"}, "dummy keys only"),
    ],
)  # fmt: skip
def test_acceptance_12_an_unsafe_broker_stops_the_process(files, environ, says):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALPACA")}
    run = subprocess.run(
        [sys.executable, "-c", "from dataflows.cli import main; main(['orders'])"], capture_output=True, text=True,
        cwd=ROOT, env={**kept, **environ}, check=False)  # fmt: skip
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert says in run.stderr
    assert "planted-9" not in run.stdout + run.stderr


def test_a_broker_that_is_not_there_is_one_line(connected, capsys, monkeypatch):
    monkeypatch.setenv("ALPACA_BASE_URL", "http://127.0.0.1:9")
    code, _, err = utp(capsys, "positions")
    assert (code, "no answer" in err, err.count("\n")) == (2, True, 1)


def test_the_exchange_serves_for_some_prices_and_is_the_same_again(files, capsys):
    given = ["exchange", "--port", 0, "--steps", 3, "--seconds", 0, "--json"]
    code, out, err = utp(capsys, *given)
    assert code == 0
    assert re.search(r"exchange at http://127\.0\.0\.1:\d+", err)
    assert json.loads(out) == {"steps": 3, "orders": 0, "fills": 0, "cash": "100000.00", "equity": "100000.00"}


def test_prices_wander_the_same_way_for_the_same_seed():
    from itertools import islice

    from dataflows.broker import walk

    first, second, other = (list(islice(walk(["A", "B"], seed), 50)) for seed in (1, 1, 2))
    assert first == second != other
    prices = [tick.price for ticks in first for tick in ticks]
    assert all(price > 0 and price % 100 == 0 for price in prices[2:])
    assert len(set(prices)) > 50


def test_prices_of_bars_come_open_low_high_close(files):
    from dataflows.broker import of_bars
    from infra.settings import load

    feed = of_bars("synthetic:symbols=2,days=1,seed=7", load(None, (), {}), [])
    quotes = [next(feed) for _ in range(40)]
    for part in range(0, 40, 4):
        opened, low, high, close = ({tick.symbol: tick.price for tick in quotes[part + k]} for k in range(4))
        assert {tick.ts for tick in quotes[part]} == {tick.ts for tick in quotes[part + 3]}
        assert len({tick.ts for tick in quotes[part]}) == 1
        for symbol in opened:
            assert low[symbol] <= min(opened[symbol], close[symbol])
            assert high[symbol] >= max(opened[symbol], close[symbol])


def test_a_taken_port_is_one_line(connected, capsys):
    server, _ = connected
    code, _, err = utp(capsys, "exchange", "--port", server.port, "--steps", 1)
    assert (code, f"--port {server.port}" in err, err.count("\n")) == (2, True, 1)


def test_the_exchange_ends_cleanly_when_interrupted(files):
    run = subprocess.Popen(
        [sys.executable, "-u", "-c", "from dataflows.cli import main; main(['exchange', '--port=0', '--seconds=60'])"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert "exchange at" in run.stdout.readline()
    run.terminate()
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "fills 0" in out
