"""The whole live platform on this machine: an embedded broker, a paced market, the live flow, the simulated venue.

    make live-demo          # Ctrl-C at will; started again it goes on where it was
    utp live-demo --exchange        # the same through an exchange: its HTTP, its stream, and `utp execute`

Everything is below `var/demo`; delete that folder to begin anew. An exchange keeps its ledger in memory, so with one
each start begins anew, in a folder of its own.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from broker import safety, wire
from dataflows.demo_exchange import DemoExchange
from dataflows.flows import grid
from infra.embedded import Broker
from infra.kafka import Cluster, bounds
from infra.settings import load
from infra.topics import create_topics
from schemas.errors import UserError

FLOWS = ("ingest", "live")
DEMO = {"INGEST__SOURCE": "synthetic:symbols=20,days=5,seed=7", "INGEST__SPEED": "300", "INGEST__JITTER_SECONDS": "2",
        "INGEST__LATE": "0.002", "INGEST__MISSING": "0.002", "RUN__ACCOUNT": "demo",
        "LIVE__MISSING_DATA": "off"}  # fmt: skip
COUNTED = {"raw records": "market.raw", "slices": "account.log", "orders": "account.orders",
           "fills": "execution.completed", "dead letters": "dlq.failed"}  # fmt: skip
SECONDS = 5.0  # between two lines
LEAVE_SECONDS = 3.0  # for the flows to end by themselves; less than Ctrl-C has until the program leaves at once
# A played market runs faster than the clock by which the guard counts; the account keeps its limits by the log's time.
THROUGH = {"VENUE__KIND": "broker", "GUARD__COOLDOWN_SECONDS": "0", "GUARD__MAX_ORDERS_PER_MINUTE": "100000",
           "GUARD__MAX_ORDERS_PER_SYMBOL_PER_DAY": "100000", "GUARD__SLIPPAGE_TIMES": "1000",
           "EXECUTION__RETRY_SECONDS": "0.2", "EXECUTION__STALE_SLICES": "30"}  # fmt: skip
EXECUTE = [sys.executable, "-c", "from dataflows.cli import main; main()", "execute"]


def run(folder: Path, exchange: bool = False) -> None:
    """Run until Ctrl-C. Raises UserError when a flow ends by itself, with the end of its log."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing of it must outlive us
    folder = folder.absolute()
    if exchange:
        folder = folder / f"exchange-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    broker = Broker(folder / "broker")
    flows: dict[str, subprocess.Popen[bytes]] = {}
    try:
        broker.start()
        where = Cluster(broker.servers)
        create_topics(where)
        environ = {**os.environ, **DEMO, "KAFKA_BOOTSTRAP_SERVERS": broker.servers, "LIVE__FOLDER": str(folder)}
        with ExitStack() as open_until_the_end:
            venue = None
            if exchange:
                settings = load(None, (), environ)
                venue = DemoExchange(where, grid(settings), round(settings.cash.initial_cash_usd))
                open_until_the_end.enter_context(venue)
                environ |= {**THROUGH, **venue.environ(), **approved(folder, DEMO["RUN__ACCOUNT"])}
                flows["execute"] = _spawn(folder, "execute", EXECUTE, environ)
            for name in FLOWS:
                flows[name] = _start(folder, name, environ)
            print(f"broker at {broker.servers}; logs and results in {folder}; Ctrl-C stops everything")
            if venue is not None:
                print(f"exchange at {venue.server.url}")
            while True:
                broker.check()
                _report(where, folder, flows)
                if venue is not None:
                    _check(venue)
                time.sleep(SECONDS)
    finally:
        _end(flows.values())
        broker.stop()


def _end(flows: Collection["subprocess.Popen[bytes]"]) -> None:
    """End them all; one that takes long is killed, which loses nothing."""
    deadline = time.monotonic() + LEAVE_SECONDS
    for process in flows:
        process.send_signal(signal.SIGTERM)
    for process in flows:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def approved(folder: Path, account: str) -> dict[str, str]:
    """Leave to enter, given by nobody: for the demo's own exchange, whose keys and money are dummies."""
    files = {"approval_file": str(folder / "approval"), "approval_key_file": str(folder / "approval.key")}
    params = msgspec.convert({"kind": "exchange", **files}, safety.Params)
    safety.approve(params, issuer="live-demo", account=account, scope="entries", minutes=safety.MAX_MINUTES,
                   now=time.time_ns())  # fmt: skip
    return {f"BROKER__{name.upper()}": path for name, path in files.items()}


def _check(venue: DemoExchange) -> None:
    if venue.failure is not None:
        raise UserError(f"the exchange's prices ended: {venue.failure}") from venue.failure
    held, ledger = venue.server.exchange.held, venue.server.exchange
    print(f"  at the exchange: {len(ledger.orders):,} orders, {len(ledger.fills):,} fills, {len(held)} positions, "
          f"equity {wire.usd(ledger.equity)} USD", flush=True)  # fmt: skip


def _start(folder: Path, name: str, environ: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    store = folder / "recovery" / name
    if not store.exists():
        from bytewax.recovery import init_db_dir

        store.mkdir(parents=True)
        init_db_dir(store, 2)  # type: ignore[no-untyped-call]
    command = [sys.executable, "-m", "bytewax.run", f"dataflows.{name}", "-r", str(store), "-s", "10", "-b", "0"]
    return _spawn(folder, name, command, environ)


def _spawn(folder: Path, name: str, command: Sequence[str], environ: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, env=dict(environ), stdout=log, stderr=log, start_new_session=True)  # noqa: S603


def _report(where: Cluster, folder: Path, flows: Mapping[str, "subprocess.Popen[Any]"]) -> None:
    """One line; an error when a flow is gone."""
    for name, process in flows.items():
        if process.poll() is not None:
            end = (folder / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:]
            log = folder / f"{name}.log"
            said = " ".join(end)
            raise UserError(f"{name} ended with code {process.returncode} ({said}); {log} has more")
    counts = {name: f"{_records(where, topic):,}" for name, topic in COUNTED.items()}
    days = sorted(path.parent.name for path in (folder / "results" / "demo").glob("*/summary.json"))
    line = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{line}; closed: {', '.join(days)}" if days else line, flush=True)


def _records(where: Cluster, topic: str) -> int:
    return sum(high - low for low, high in bounds(where, topic).values())
