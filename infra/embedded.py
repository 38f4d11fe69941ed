"""A Kafka-protocol server of our own, for tests and for trying things out: no Docker, no Java.

It is `noida-db`, an independent implementation of the protocol with one node: good enough to show that
nothing is lost or doubled through kills, not a place for money. Production runs Apache Kafka.
"""

import importlib.resources
import signal
import socket
import subprocess
import time
from pathlib import Path

from infra.kafka import Cluster, wait_for
from schemas.errors import UserError


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Broker:
    """The server as a child process; stopping and starting it again keeps port and data."""

    def __init__(self, folder: Path, port: int = 0):
        self.folder, self.port = folder, port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def servers(self) -> str:
        """What KAFKA_BOOTSTRAP_SERVERS should say."""
        return f"127.0.0.1:{self.port}"

    def start(self, seconds: float = 30.0) -> None:
        """Run it and wait until it answers; a UserError if it does not."""
        self._claim_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "broker.log").open("ab") as out:
            self.process = subprocess.Popen(  # noqa: S603  (our own binary, no shell)
                [str(binary()), "start", "--only", "kafka", "--kafka-port", str(self.port),
                 "--data-dir", str(self.folder / "data")],
                stdout=out, stderr=subprocess.STDOUT, cwd=self.folder,
            )  # fmt: skip
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            try:
                wait_for(Cluster(self.servers), 1.0)
                return
            except UserError:
                if time.monotonic() > deadline:
                    self.stop()
                    raise

    def _claim_port(self) -> None:
        """A UserError where somebody listens there: their answer would be taken for ours."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # lines of a server that ended are no obstacle
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError as error:
                raise UserError(
                    f"the broker cannot have {self.servers} ({error.strerror}): end what listens there, or name "
                    f"another port (utp broker --port)"
                ) from error

    def check(self) -> None:
        """A UserError when it has ended, which nobody asked it to."""
        if self.process is not None and self.process.poll() is not None:
            raise UserError(
                f"the broker ended with code {self.process.returncode}; {self.folder / 'broker.log'} says why"
            )

    def wait(self) -> None:
        """Until it ends by itself; a UserError then, unless it ended well."""
        if self.process is not None and self.process.wait():
            self.check()

    def stop(self) -> None:
        """End it as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would, less the cut to the disk."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(20.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def binary() -> Path:
    """The server itself, not its wrapper, so that the pid we hold is the server's."""
    try:
        found = importlib.resources.files("noida_db") / "noida-db"
    except ModuleNotFoundError as error:
        raise UserError(
            "there is no embedded broker here: pip install '.[dev]', or set KAFKA_BOOTSTRAP_SERVERS"
        ) from error
    path = Path(str(found))
    path.chmod(path.stat().st_mode | 0o111)
    return path
