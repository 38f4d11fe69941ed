"""The lines of `utp bench` that need a log: a replay of `market.slices`, live latency, the start after a crash, memory.

    python -m dataflows.bench_log '{"what": "source", "times": 3}'       with KAFKA_BOOTSTRAP_SERVERS set

runs one measurement in a process of its own, on whatever cluster the environment names; `utp bench` starts the
embedded broker for them. CPU-seconds are the reader's, all threads of the Kafka client included, the broker's not.

Latency is taken by the clock of this machine: from when the slice's last record was handed to its writer's client to
when the flow handed the last order to its own, which the order's record states. So both ends are one way to the broker
before the append.
"""

import ctypes
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataflows import pipeline
from dataflows.bench import Line
from infra import intake, slice_log
from infra.bars import open_bars
from infra.embedded import Broker
from infra.gated_sink import BY
from infra.heap import keep_freed
from infra.kafka import ID, TS, Cluster, bounds, cluster, stated_time
from infra.ranges import BATCH, Messages, RangeSource, part_name
from infra.reader import Reader
from infra.settings import Settings, load
from infra.topics import create_topics
from operators.drive import scan
from schemas.calendar import Calendar
from schemas.frames import RawFrame

if TYPE_CHECKING:
    from bytewax.dataflow import Dataflow

MARKETS = ((100, 10), (1_000, 2))  # symbols, days of minutes: 6 and 62 bars in a record
LIVE = (100, 4)
LONG = (400, 67)  # ten million bars
PACE = 0.15  # seconds between two slices
SEED = 7
TOPIC = slice_log.TOPIC
BLOCK = 64  # bytes of a small Python object, about

Answer = dict[str, Any]
Ranges = dict[tuple[str, int], tuple[int, int]]


def lines(quick: bool = False) -> Iterator[Line]:
    """All of them, on an embedded broker."""
    times = 2 if quick else 5
    for market in MARKETS:
        with _broker() as where:
            rows = measure(where, "fill", market=market)["rows"]
            for name, what in (("to frames", "source"), ("to the ledger", "replay")):
                rates = [rows / cpu for cpu in measure(where, what, times=times)["cpu"]]
                sign, goal = (">=", 1e6) if what == "replay" else ("", 0.0)
                group = f"log: replay, {market[0]:,} symbols"
                yield Line(group, name, "bars/CPU-s", statistics.median(rates), max(rates), sign, goal)
    with _broker() as where:
        answer = measure(where, "latency", market=LIVE, slices=200 if quick else 600)
        yield Line("log: live", "slices with orders", "", answer["ordered"])
        bounds_ms = {"p50": 20.0, "p99": 100.0}
        for (name, most), value in zip(bounds_ms.items(), answer["orders_ms"], strict=False):  # none without orders
            yield Line("log: live", f"slice to its orders, {name}", "ms", value, None, "<=", most)
        for name, value in zip(bounds_ms, answer["log_ms"], strict=True):
            yield Line("log: live", f"slice to the account log, {name}", "ms", value)
        yield Line("log: live", "start after a crash", "s", answer["start_s"], None, "<=", 5.0)


# What is measured.


def fill(market: Sequence[int]) -> Answer:
    """Write a synthetic market as slices; how many bars."""
    where, bars = cluster(), _bars(market)
    create_topics(where)
    client, rows = _Writer(where), 0
    for chunk in bars.frames():
        for frame in chunk:
            client.write(frame)
            rows += frame.ts.size
    client.flush()
    return {"rows": rows}


def source(times: int) -> Answer:
    """CPU-seconds from the broker to frames."""
    where, calendar = cluster(), _calendar()
    ranges, spent = _ranges(where), list[float]()
    for _ in range(times):
        rows = 0
        with _cpu(spent):
            built = RangeSource(where, ranges, headers=False)
            parts = {name: (built.build_part("bench", name, None), intake.start()) for name in built.list_parts()}
            while parts:
                for name, (part, state) in list(parts.items()):
                    try:
                        batch = part.next_batch()
                    except StopIteration:
                        part.close()
                        del parts[name]
                        continue
                    for messages in batch:
                        state, answer = intake.step(calendar, state, messages)
                        parts[name] = part, state
                        rows += sum(frame.ts.size for frame in answer.frames)
                time.sleep(0.0005)
    return {"cpu": spent, "rows": rows}


def replay(times: int) -> Answer:
    """CPU-seconds of a dataflow from the broker to the account's ledger."""
    from bytewax.testing import cluster_main

    spent: list[float] = []
    for _ in range(times + 1):
        counted: list[int] = []
        graph = _flow(cluster(), counted.append, _ranges(cluster()))
        with _cpu(spent):
            cluster_main(graph, [], 0)  # type: ignore[no-untyped-call]
    return {"cpu": spent[1:], "slices": sum(counted)}  # the first one loads the kernels


def growth(slices: int | None = None, batch: int = BATCH) -> Answer:
    """Memory in MB at ten places of a replay, at its highest, and of what the flow holds at its last slice.

    `slices`: no more than these of the log. At the last one all has been read, so that the log itself, which takes as
    much memory in the client as the broker sends at once, is not in that figure.
    """
    from bytewax.testing import cluster_main

    where = cluster()
    ranges = {place: (first, stop if slices is None else min(stop, first + slices))
              for place, (first, stop) in _ranges(where).items()}  # fmt: skip
    total = min(stop - first for first, stop in ranges.values())
    done, tenths, held = 0, [0.0] * 10, list[float]()

    def count(size: int) -> None:
        nonlocal done
        done += size
        tenths[min(done * 10 // total, 9)] = _resident()
        if done == total:
            gc.collect()
            held.append(_in_use())

    begun = time.process_time()
    cluster_main(_flow(where, count, ranges, batch), [], 0)  # type: ignore[no-untyped-call]
    cpu = time.process_time() - begun
    return {"mb": tenths, "peak_mb": _peak(), "held_mb": held[0], "slices": done, "cpu": cpu}


def latency(market: Sequence[int], slices: int, pace: float = PACE) -> Answer:
    """Milliseconds from a slice to its orders in the live flow, and seconds until it goes on after a kill."""
    where = cluster()
    create_topics(where)
    os.sync()  # else the recovery store waits for what measurements before this one have written
    with tempfile.TemporaryDirectory() as folder, _Watch(where, "account.orders") as orders, \
            _Watch(where, "account.log") as log:  # fmt: skip
        flow = _start(Path(folder))
        try:
            chunks = _bars(market).frames()
            client = _Writer(where)
            for _ in range(390):  # the first day: indicators are warm, kernels are loaded
                last = client.slice(next(chunks))
            client.flush()
            log.wait_for(last)
            _night(Path(folder))
            sent: dict[int, float] = {}
            for _ in range(slices):
                begun = time.time()
                sent[client.slice(next(chunks))] = time.time()
                client.poll()
                time.sleep(max(0.0, pace - (time.time() - begun)))
            log.wait_for(max(sent))
            told, logged = orders.settled(), log.settled()  # before the kill: what comes after it is late
            flow.send_signal(signal.SIGKILL)
            flow.wait()
            for _ in range(20):
                last = client.slice(next(chunks))
            client.flush()
            begun = time.time()
            flow = _start(Path(folder))
            start = log.wait_for(last) - begun
        finally:
            flow.kill()
            flow.wait()
    took = np.array([1e3 * (at - sent[ts]) for ts, at in told.items() if ts in sent])
    to_log = np.array([1e3 * (at - sent[ts]) for ts, at in logged.items() if ts in sent])
    return {
        "ordered": took.size,
        "orders_ms": np.percentile(took, [50, 99]).tolist() if took.size else [],
        "log_ms": np.percentile(to_log, [50, 99]).tolist(),
        "start_s": start,
    }  # fmt: skip


# What they share.


def _flow(where: Cluster, count: Callable[[int], None], ranges: Ranges, batch: int = BATCH) -> "Dataflow":
    """From the log to the ledger: the steps of the live flow, without the account log between its halves."""
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.testing import TestingSink

    settings, calendar = _settings(), _calendar()
    graph = Dataflow("bench")
    read = op.input("slices", graph, RangeSource(where, ranges, batch, headers=False))
    keyed = op.map("shard", read, _by_shard)
    answers = scan("intake", keyed, intake.start(), partial(intake.step, calendar))
    frames = op.flat_map("frames", answers, _frames)
    decided = pipeline.decide("decide", frames, pipeline.decide_params(settings, calendar.timeframe))
    ledger = pipeline.trade("trade", decided, settings.account, _after(where))
    sizes = op.map("slices_done", ledger, lambda item: count(item[1].slices.size))
    op.output("nothing", op.filter("none", sizes, lambda _: False), TestingSink([]))
    return graph


def _after(where: Cluster) -> int:
    """Where the log begins, UTC ns."""
    part = RangeSource(where, {(TOPIC, 0): (0, 1)}).build_part("bench", part_name(TOPIC, 0), None)
    (messages,) = _read(part)
    part.close()
    _, answer = intake.step(_calendar(), intake.start(), messages)
    return answer.frames[0].slices.after


def _read(part: Any) -> Iterator[Messages]:
    """All of a range."""
    while True:
        try:
            found = part.next_batch()
        except StopIteration:
            return
        yield from found
        if not found:
            time.sleep(0.001)


def _by_shard(messages: Messages) -> tuple[str, Messages]:
    return pipeline.KEYS[messages.partition], messages


def _frames(item: tuple[str, intake.Answer]) -> list[tuple[str, RawFrame]]:
    return [(item[0], frame) for frame in item[1].frames]


def _ranges(where: Cluster) -> Ranges:
    return {(TOPIC, number): span for number, span in bounds(where, TOPIC).items()}


def _settings(*sets: str) -> Settings:
    return load(None, sets, environ={}, profile="research")


def _calendar() -> Calendar:
    from dataflows.flows import grid

    return grid(_settings())


def _bars(market: Sequence[int]) -> Any:
    """A synthetic market, slice by slice."""
    symbols, days = market
    return open_bars(f"synthetic:symbols={symbols},days={days},seed={SEED}", frame_slices=1)


class _Writer:
    """Appends slices as the slicer does, less its proofs."""

    def __init__(self, where: Cluster):
        from confluent_kafka import Producer

        self._name = where.topic(TOPIC)
        self._client = Producer({**where.client, "linger.ms": 0, "queue.buffering.max.kbytes": 262_144})

    def write(self, frame: RawFrame) -> int:
        """One shard's slice; its end, UTC ns."""
        one = slice_log.record(frame, 1)
        headers: list[tuple[str, str | bytes | None]] = [
            (ID, one.id.encode()), (TS, b"%d" % one.ts), (BY, b"bench"), *one.headers
        ]  # fmt: skip
        while True:
            try:
                self._client.produce(self._name, one.value, one.key, frame.shard, headers=headers)
                break
            except BufferError:
                self._client.poll(0.1)
        return one.ts

    def slice(self, chunk: list[RawFrame]) -> int:
        """One slice of all shards."""
        return max(self.write(frame) for frame in chunk)

    def poll(self) -> None:
        """Hear answers."""
        self._client.poll(0)

    def flush(self) -> None:
        """Wait until all is in the log."""
        self._client.flush(60.0)


class _Watch:
    """When the last record of each event time was written to a topic with one partition; a thread of its own."""

    def __init__(self, where: Cluster, topic: str):
        self._where, self._topic = where, topic
        self.last: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10.0)

    def _follow(self) -> None:
        """Through the reader of the flows, which rests where a broker answers at once: others would take the cores."""
        place = self._where.topic(self._topic), 0
        reader, queue = Reader.join(self._where, "bench", place, 0)
        while not self._stop.is_set():
            for message in queue.take(100)[0]:
                ts = stated_time(message.headers())
                if ts is not None:
                    self.last[ts] = message.timestamp()[1] / 1e3
            reader.check()
            time.sleep(0.001)
        reader.leave(place)

    def settled(self, seconds: float = 5.0) -> dict[int, float]:
        """All, once nothing has come for a while."""
        begun = time.time()
        while time.time() - max([begun, *self.last.values()]) < seconds:
            time.sleep(0.1)
        return dict(self.last)

    def wait_for(self, ts: int, seconds: float = 240.0) -> float:
        """When a record of this event time came."""
        deadline = time.monotonic() + seconds
        while ts not in self.last:
            if time.monotonic() > deadline:
                raise RuntimeError(f"bench: {self._topic} has nothing of {ts} within {seconds:g} s")
            time.sleep(0.005)
        return self.last[ts]


def _start(folder: Path) -> "subprocess.Popen[bytes]":
    """The live flow with recovery every ten seconds."""
    from bytewax.recovery import init_db_dir

    store = folder / "recovery"
    if not store.exists():
        store.mkdir()
        init_db_dir(store, 1)  # type: ignore[no-untyped-call]
    command = [sys.executable, "-m", "infra.run", "dataflows.live", "-r", str(store), "-s", "10", "-b", "0"]
    return subprocess.Popen(command, env={**os.environ, "LIVE__FOLDER": str(folder), "LIVE__MISSING_DATA": "off"})  # noqa: S603  (our own flow)


def _night(folder: Path, seconds: float = 120.0) -> None:
    """Until the day's results and report are written, which its close brings and no opening has to wait for."""
    deadline = time.monotonic() + seconds
    while not any(one.suffix != ".partial" for one in folder.glob("results/*/*")):
        if time.monotonic() > deadline:
            raise RuntimeError(f"bench: no results of a day within {seconds:g} s")
        time.sleep(0.1)


def _resident() -> float:
    """MB of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _peak() -> float:
    """MB of this process that were in memory at once."""
    lines = Path("/proc/self/status").read_text().splitlines()
    high: int = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return high / 2**10


class _Mallinfo(ctypes.Structure):
    """What the C library says of its heap (mallinfo2 of glibc), bytes."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks",
                                                     "fsmblks", "uordblks", "fordblks", "keepcost")]  # fmt: skip


def _in_use() -> float:
    """MB of this process that something holds: what is free, and what the system has not got back, is not among it."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _Mallinfo
    told = ask()
    held: int = told.uordblks + told.hblkhd + sys.getallocatedblocks() * BLOCK
    return held / 2**20


@contextmanager
def _cpu(spent: list[float]) -> Iterator[None]:
    gc.collect()
    begun = time.process_time()
    yield
    spent.append(time.process_time() - begun)


@contextmanager
def _broker() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        broker.start()
        try:
            yield Cluster(broker.servers)
        finally:
            broker.stop()


def measure(where: Cluster, what: str, **asked: Any) -> Answer:
    """The answer of one measurement in a fresh process."""
    call = [sys.executable, "-m", "dataflows.bench_log", json.dumps({"what": what, **asked})]
    environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": where.servers, "KAFKA_TOPIC_PREFIX": where.prefix}
    done = subprocess.run(call, env=environ, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"bench: {what} ended with {done.returncode}; what it said stands above")
    answer: Answer = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


MEASURES: Mapping[str, Callable[..., Answer]] = {
    each.__name__: each for each in (fill, source, replay, growth, latency)
}


def main() -> None:
    """Measure what is asked for, on a heap like that of the platform's processes."""
    keep_freed()
    asked = json.loads(sys.argv[1])
    print(json.dumps(MEASURES[asked.pop("what")](**asked)), flush=True)


if __name__ == "__main__":
    main()
