"""The live flows as processes: start them, kill them, wait until sessions are recorded."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from bytewax.recovery import init_db_dir

from infra.kafka import Cluster

ROOT = Path(__file__).resolve().parents[2]
UTP = [sys.executable, "-c", "from dataflows.cli import main; main()"]


class Site:
    """A folder, a cluster and settings that several flows share."""

    def __init__(self, folder: Path, where: Cluster, **settings: str):
        self.folder, self.results = folder, folder / "var" / "results" / "backtest"
        self.env = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": where.servers, "KAFKA_TOPIC_PREFIX": where.prefix,
                    "LIVE__FOLDER": str(folder / "var"), "LIVE__MISSING_DATA": "off", **settings}  # fmt: skip
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, flow: str, *arguments: str, module: str = "run", epoch: str = "1") -> None:
        """Start a flow on its recovery store."""
        store = self.folder / "recovery" / name
        if not store.exists():
            store.mkdir(parents=True)
            init_db_dir(store, 2)
        command = [
            sys.executable,
            "-m",
            f"bytewax.{module}",
            flow,
            *arguments,
            "-r",
            str(store),
            "-s",
            epoch,
            "-b",
            "0",
        ]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self, name: str, number: int = signal.SIGKILL) -> None:
        """End it and all its processes."""
        process = self.running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait()

    def stop_all(self) -> None:
        for name in list(self.running):
            self.stop(name)

    def sessions(self) -> list[Path]:
        """Recorded sessions, in order."""
        return sorted(path.parent for path in self.results.glob("*/summary.json"))

    def wait(self, sessions: int, seconds: float = 240.0) -> list[Path]:
        """Until so many sessions are recorded; fails when a flow ends or time is over."""
        deadline = time.monotonic() + seconds
        while len(self.sessions()) < sessions:
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} ended: {(self.folder / f'{name}.log').read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{self.sessions()} after {seconds} s; {self.tails()}"
            time.sleep(0.1)
        return self.sessions()

    def tails(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-800:]}" for path in self.folder.glob("*.log"))

    def utp(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A command of the program."""
        return subprocess.run([*UTP, *arguments], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=300)


def sometime(rng: random.Random, least: float, most: float) -> None:
    time.sleep(rng.uniform(least, most))
