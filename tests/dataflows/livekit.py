"""The live flows as processes: start them, kill them, wait until sessions are recorded; and what they said."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from bytewax.recovery import init_db_dir
from confluent_kafka import Producer

from infra.embedded import Broker, free_port
from infra.gated_sink import BY
from infra.kafka import ID, Cluster, bounds, records, topic_names

SYNCED = 2.5  # seconds after which the embedded broker has on its disk what it had acknowledged
DECIDED = ("account.log", "account.orders", "risk.approved", "risk.rejected", "execution.completed",
           "execution.blocked", "exit.signals", "signals.scored")  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
UTP = [sys.executable, "-c", "from dataflows.cli import main; main()"]


class Site:
    """A folder, a cluster and settings that several flows share."""

    def __init__(self, folder: Path, where: Cluster, **settings: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.results = folder, folder / "var" / "results" / "backtest"
        self.env = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": where.servers, "KAFKA_TOPIC_PREFIX": where.prefix,
                    "LIVE__FOLDER": str(folder / "var"), "LIVE__MISSING_DATA": "off", "PYTHONFAULTHANDLER": "1",
                    **settings}  # fmt: skip
        self.running: dict[str, list[subprocess.Popen[bytes]]] = {}

    def start(
        self,
        name: str,
        flow: str,
        *arguments: str,
        processes: int = 1,
        runner: str = "bytewax.run",
        epoch: str = "1",
    ) -> None:
        """Start a flow on its recovery store, in one process or in several that know each other."""
        store = self.folder / "recovery" / name
        if not store.exists():
            store.mkdir(parents=True)
            init_db_dir(store, 2)
        command = [sys.executable, "-m", runner, flow, *arguments, "-r", str(store), "-s", epoch, "-b", "0"]
        hosts = ["-a", ";".join(f"127.0.0.1:{free_port()}" for _ in range(processes))]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = [
                subprocess.Popen(
                    command if processes == 1 else [*command, "-i", str(k), *hosts],
                    cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True,
                )
                for k in range(processes)
            ]  # fmt: skip

    def stop(self, name: str, number: int = signal.SIGKILL) -> None:
        """End it and all its processes."""
        members = self.running.pop(name)
        _send(members, number)
        for process in members:
            process.wait()

    def signal(self, number: int) -> None:
        """To all processes of all flows."""
        for members in self.running.values():
            _send(members, number)

    def check(self) -> None:
        """Fail when a flow has ended by itself."""
        for name, members in self.running.items():
            ended = [process.poll() for process in members]
            assert not any(code is not None for code in ended), f"{name} ended with {ended}: {self.said(name)}"

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
            self.check()
            assert time.monotonic() < deadline, f"{self.sessions()} after {seconds} s; {self.tails()}"
            time.sleep(0.1)
        return self.sessions()

    def said(self, name: str) -> str:
        """The end of a flow's log, less what its clients say of a broker that is away."""
        lines = (self.folder / f"{name}.log").read_text().splitlines()
        return "\n".join([line for line in lines if "FAIL [" not in line and "going on with" not in line][-120:])

    def tails(self) -> str:
        return "\n".join(f"{path.name}: {self.said(path.stem)[-800:]}" for path in self.folder.glob("*.log"))

    def utp(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A command of the program."""
        return subprocess.run([*UTP, *arguments], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=300)


def _send(members: "list[subprocess.Popen[bytes]]", number: int) -> None:
    for process in members:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def sometime(rng: random.Random, least: float, most: float) -> None:
    time.sleep(rng.uniform(least, most))


def kill_broker(broker: Broker, site: Site, rng: random.Random) -> None:
    """What flows see of an Apache Kafka whose process is killed, at a moment of theirs that nobody chose.

    It has in its log what it had acknowledged, which the embedded one has only a while later. So the flows are held
    still for that while: requests under way stay unanswered or unheard, connections break, and whatever the broker
    knew but in its log is gone.
    """
    site.signal(signal.SIGSTOP)
    time.sleep(SYNCED)
    broker.kill()
    site.signal(signal.SIGCONT)
    sometime(rng, 0.0, 3.0)
    broker.start()


def deliver_again(where: Cluster, rng: random.Random, topic: str, most: int = 50) -> int:
    """Append copies of records that are in the log already, in another order; how many."""
    if where.topic(topic) not in topic_names(where):
        return 0
    number, (low, high) = rng.choice(sorted(bounds(where, topic).items()))
    first = rng.randint(low, high)
    copies = list(records(where, topic, number, first, min(high, first + most)))
    rng.shuffle(copies)
    client = Producer({**where.client, "linger.ms": 0})
    for copy in copies:
        client.produce(where.topic(topic), copy.value(), copy.key(), number, headers=copy.headers())
    assert client.flush(60) == 0
    return len(copies)


def said(where: Cluster, topic: str) -> list[tuple[str, bytes, bytes, bytes]]:
    """A topic with one partition, in order: id, writer, key, value."""
    low, high = bounds(where, topic)[0]
    found = []
    for message in records(where, topic, 0, low, high):
        headers = dict(message.headers())
        found.append((headers[ID].decode(), headers[BY], message.key(), message.value()))
    return found


def slices(where: Cluster) -> list[dict[str, bytes]]:
    """By partition: the slices by id. Raises where one id has two contents."""
    found = []
    for number, (low, high) in sorted(bounds(where, "market.slices").items()):
        found.append({})
        for message in records(where, "market.slices", number, low, high):
            name = dict(message.headers())[ID].decode()
            assert found[-1].setdefault(name, message.value()) == message.value(), name
    return found


def states(site: Site) -> dict[str, bytes]:
    """The hashed snapshots of all sessions, by file."""
    folder = site.folder / "var" / "snapshots"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.state"))}
