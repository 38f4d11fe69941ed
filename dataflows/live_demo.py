"""The whole live platform on this machine: an embedded broker, a paced market, the live flow, the simulated venue.

    make live-demo          # Ctrl-C at will; started again it goes on where it was

Everything is below `var/demo`; delete that folder to begin anew.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.embedded import Broker
from infra.kafka import Cluster, bounds
from infra.topics import create_topics
from schemas.errors import UserError

FLOWS = ("ingest", "live")
DEMO = {"INGEST__SOURCE": "synthetic:symbols=20,days=5,seed=7", "INGEST__SPEED": "300", "INGEST__JITTER_SECONDS": "2",
        "INGEST__LATE": "0.002", "INGEST__MISSING": "0.002", "RUN__ACCOUNT": "demo",
        "LIVE__MISSING_DATA": "off"}  # fmt: skip
COUNTED = {"raw records": "market.raw", "slices": "account.log", "orders": "account.orders",
           "fills": "execution.completed", "dead letters": "dlq.failed"}  # fmt: skip
SECONDS = 5.0  # between two lines


def run(folder: Path) -> None:
    """Run until Ctrl-C. Raises UserError when a flow ends by itself, with the end of its log."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    broker = Broker(folder / "broker")
    flows: dict[str, subprocess.Popen[bytes]] = {}
    broker.start()
    try:
        where = Cluster(broker.servers)
        create_topics(where)
        environ = {**os.environ, **DEMO, "KAFKA_BOOTSTRAP_SERVERS": broker.servers, "LIVE__FOLDER": str(folder)}
        for name in FLOWS:
            flows[name] = _start(folder, name, environ)
        print(f"broker at {broker.servers}; logs and results in {folder}; Ctrl-C stops everything")
        while True:
            _report(where, folder, flows)
            time.sleep(SECONDS)
    finally:
        for process in flows.values():
            process.send_signal(signal.SIGTERM)
        for process in flows.values():
            process.wait(30.0)
        broker.stop()


def _start(folder: Path, name: str, environ: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    store = folder / "recovery" / name
    if not store.exists():
        from bytewax.recovery import init_db_dir

        store.mkdir(parents=True)
        init_db_dir(store, 2)  # type: ignore[no-untyped-call]
    command = [sys.executable, "-m", "bytewax.run", f"dataflows.{name}", "-r", str(store), "-s", "10", "-b", "0"]
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
