"""The measurements of `utp bench`, each a function that is run in a fresh process of its own.

    python -m dataflows.bench_measures '{"what": "flow", "market": [100, 60], "times": 3}'

prints its answer as one line of JSON. CPU-seconds are those of the whole process, all threads.
"""

import gc
import hashlib
import json
import math
import os
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dataflows import backtest, pipeline
from infra import barfiles, synthetic
from infra.bars import AUTO_ROWS
from infra.results import Recorder
from infra.settings import Settings, load
from infra.synthetic import write_parquet
from operators import bare_loop, barrier, clean, ema_cross, features, macd, regime, rsi
from operators.alphas import ALPHAS
from operators.kernel import cache_root, table
from risk import account
from schemas.frames import SHARDS, BarFrame

SEED = 7
WARM = [3, 11]  # a small market, read once before anything is timed; long enough for curves that are thinned
STAGES = ("read+split", "decide", "barrier", "account", "results", "finish")

Market = list[int]  # symbols, days
Answer = dict[str, Any]
_Step = tuple[Callable[[], Any], Callable[..., Any]]  # the first state, and state and frame -> state and answer


def bars_of(market: Market) -> Path:
    """The market's bars in a Parquet file, written once for each version of what writes it."""
    symbols, days = market
    digest = hashlib.sha256()
    for module in (synthetic, barfiles):
        digest.update(Path(str(module.__file__)).read_bytes())
    name = f"{symbols}x{days}-{SEED}"
    path = cache_root() / "bench" / f"{name}-{digest.hexdigest()[:12]}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"{name}-*.parquet"):
            old.unlink(missing_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        write_parquet(partial, f"synthetic:symbols={symbols},days={days},seed={SEED}")
        partial.replace(path)
    return path


def settings(*sets: str) -> Settings:
    """The profile `research`, whatever the environment says."""
    return load(None, sets, environ={}, profile="research")


# Throughput.


def flow(market: Market, times: int) -> Answer:
    """The real dataflow, result files on, and the bare loop over the same columns."""
    path = bars_of(market)
    with _started() as folder:
        runs = []
        for _ in range(times):
            job = backtest.plan(str(path), settings(), folder / "run")
            with _measured() as spent:
                summary = backtest.run(job)
            runs.append(spent)
        bare = _bare(path, max(5, times))
    return {
        "rows": job.bars.rows,
        "trades": summary["counts"]["trades"],
        "cpu": [run["cpu"] for run in runs],
        "wall": [run["wall"] for run in runs],
        "bare_cpu": bare,
    }


def _bare(path: Path, times: int) -> list[float]:
    columns = pq.read_table(path).combine_chunks()
    symbol = columns["symbol"].chunk(0)
    ts = columns["ts"].chunk(0).cast("int64").to_numpy()
    names = ("open", "high", "low", "close", "bid", "ask")
    prices = [np.ascontiguousarray(columns[name].to_numpy()) for name in names]
    codes = symbol.indices.to_numpy()
    spent = []
    for number in range(times + 1):
        states = [table(row, len(symbol.dictionary)) for row in (rsi.Row, ema_cross.Row, macd.Row, regime.Row)]
        rows, trades = table(bare_loop.Row, len(symbol.dictionary)), table(bare_loop.Trade, codes.size // 8)
        with _measured() as one:
            bare_loop.walk(*[rows, *states, trades, ts, codes, *prices])
        if number:  # the first one loads the kernel
            spent.append(one["cpu"])
    return spent


def stages(market: Market, times: int) -> Answer:
    """CPU-seconds by stage of a plain loop over the same steps."""
    path = bars_of(market)
    with _started() as folder:
        runs = [_by_stage(backtest.plan(str(path), settings(), folder / "run")) for _ in range(times)]
    return {"stages": runs}


def _by_stage(job: backtest.Plan) -> dict[str, float]:
    spent = dict.fromkeys(STAGES, 0.0)
    params = pipeline.decide_params(job.settings, job.bars.timeframe)
    states = {shard: pipeline.start(params) for shard in range(SHARDS)}
    waiting, book = barrier.start(job.bars.after), account.start(job.settings.account)
    recorder = Recorder(job.out, job.header, job.benchmark.points, lasting=False)
    chunks = job.bars.frames()
    gc.collect()
    at = time.process_time()

    def lap(stage: str) -> None:
        nonlocal at
        now = time.process_time()
        spent[stage] += now - at
        at = now

    while (chunk := next(chunks, None)) is not None:
        lap("read+split")
        for frame in chunk:
            states[frame.shard], signals = pipeline.step(params, states[frame.shard], frame)
            lap("decide")
            waiting, slices = barrier.step(waiting, signals)
            lap("barrier")
            if slices is not None:
                book, ledger = account.step(job.settings.account, book, slices)
                lap("account")
                recorder.add(ledger)
                lap("results")
    recorder.finish()
    lap("finish")
    return spent


def kernels(market: Market, times: int) -> Answer:
    """CPU-seconds of the steps that make features, over bars that lie in memory."""
    job = backtest.plan(str(bars_of(market)), settings(), Path(tempfile.gettempdir()) / "utp-bench")
    states = {shard: clean.start() for shard in range(SHARDS)}
    frames: list[BarFrame] = []
    for chunk in job.bars.frames():
        for frame in chunk:
            states[frame.shard], bars = clean.step(clean.Params(), states[frame.shard], frame)
            frames.append(bars)
    params = pipeline.decide_params(job.settings, job.bars.timeframe)
    needed: list[_Step] = [
        (features.start, partial(features.step, features.Params())),
        (regime.start, partial(regime.step, params.regime)),
        *((ALPHAS[name].start, partial(ALPHAS[name].step, alpha)) for name, alpha in params.alphas),
    ]
    everything: list[_Step] = [(features.start, partial(features.step, features.Params(set="all")))]
    answer: Answer = {"rows": job.bars.rows}
    for name, chosen in (("needed_cpu", needed), ("all_cpu", everything)):
        answer[name] = [_walked(chosen, frames) for _ in range(times + 1)][1:]  # the first one loads the kernels
    return answer


def _walked(steps: list[_Step], frames: list[BarFrame]) -> float:
    """One pass of each step over all frames."""
    with _measured() as spent:
        for start, step in steps:
            states = {shard: start() for shard in range(SHARDS)}
            for frame in frames:
                states[frame.shard], _ = step(states[frame.shard], frame)
    return spent["cpu"]


# Recovery, processes, memory.


def recovery(market: Market, times: int, epochs: int = 6) -> Answer:
    """The dataflow with a recovery store, about so many epochs long, and without one; in turns.

    An epoch ends with a chunk: chunks a quarter as large as they would be, so that it does so in time.
    """
    from bytewax.recovery import RecoveryConfig, init_db_dir
    from bytewax.testing import cluster_main

    path = bars_of(market)
    answer: Answer = {"off_cpu": [], "on_cpu": [], "epochs": []}
    with _started() as folder:

        def once(interval: timedelta | None, store: Path | None) -> dict[str, float]:
            chunks = settings(f"run.frame_slices={AUTO_ROWS // market[0] // 4}")
            job = backtest.plan(str(path), chunks, folder / "run")
            graph, sink = backtest.build(job, lasting=store is not None)
            config = RecoveryConfig(store) if store else None  # type: ignore[no-untyped-call]
            with _measured() as spent:
                cluster_main(graph, [], 0, epoch_interval=interval, recovery_config=config)  # type: ignore[no-untyped-call]
            sink.summary()
            return spent

        shortest = math.inf  # of the runs so far, s: a slow one must not make epochs too few
        for number in range(times):
            off = once(None, None)
            shortest = min(shortest, off["wall"])
            store = folder / f"recovery{number}"
            store.mkdir()
            init_db_dir(store, 1)  # type: ignore[no-untyped-call]
            on = once(timedelta(seconds=shortest / (epochs + 1.5)), store)
            answer["off_cpu"].append(off["cpu"])
            answer["on_cpu"].append(on["cpu"])
            answer["epochs"].append(_epochs(store))
    return answer


def _epochs(store: Path) -> int:
    """How many epochs a run of one execution has come through."""
    most = 0
    for file in store.glob("*.sqlite3"):
        with sqlite3.connect(file) as database:
            (found,) = database.execute("SELECT max(worker_frontier) FROM fronts").fetchone()
            most = max(most, (found or 1) - 1)
    return most


def member(market: Market, out: str, addresses: list[str], place: int) -> Answer:
    """One process of a cluster, as Bytewax's own command has it; it says that it is ready and waits for a line.

    When it began and when it ended, by the clock that all processes have.
    """
    from bytewax.testing import cluster_main

    with _started():
        graph = backtest.flow(str(bars_of(market)), out, profile="research")
        gc.collect()
        print("ready", flush=True)
        sys.stdin.readline()
        begun = time.monotonic()
        cluster_main(graph, addresses, place)  # type: ignore[no-untyped-call]
        return {"begun": begun, "ended": time.monotonic()}


def memory(market: Market) -> Answer:
    """Peak memory of a process that runs one backtest."""
    with tempfile.TemporaryDirectory() as folder:
        backtest.run(backtest.plan(str(bars_of(market)), settings(), Path(folder) / "run"))
    return {"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


# Latency.


def first_frame(market: Market, out: str) -> Answer:
    """Runs until the first ledger frame comes out of the account, and says when that was."""

    def stop(*_: Any) -> None:
        print(json.dumps({"at": time.time()}), flush=True)
        os._exit(0)

    backtest.run(backtest.plan(str(bars_of(market)), settings(), Path(out)), progress=stop)
    raise RuntimeError("no frame came")


def live(market: Market) -> Answer:
    """One slice per frame: milliseconds from a slice's bars in to its orders out."""
    job = backtest.plan(str(bars_of(market)), settings("run.frame_slices=1"), Path(tempfile.gettempdir()) / "utp-bench")
    params = pipeline.decide_params(job.settings, job.bars.timeframe)
    states = {shard: pipeline.start(params) for shard in range(SHARDS)}
    waiting, book = barrier.start(job.bars.after), account.start(job.settings.account)
    took, orders = [], 0
    for chunk in job.bars.frames():
        begun = time.perf_counter()
        for frame in chunk:
            states[frame.shard], signals = pipeline.step(params, states[frame.shard], frame)
            waiting, slices = barrier.step(waiting, signals)
            if slices is not None:
                book, ledger = account.step(job.settings.account, book, slices)
                orders += ledger.orders.size
        took.append(1e3 * (time.perf_counter() - begun))
    settled = np.array(took[min(100, len(took) // 2) :])  # kernels are loaded, indicators warm
    return {
        "slices": settled.size,
        "orders": orders,
        "p50_ms": float(np.percentile(settled, 50)),
        "p99_ms": float(np.percentile(settled, 99)),
        "worst_ms": float(settled.max()),
    }


# What they share.


@contextmanager
def _started() -> Iterator[Path]:
    """A folder for results, after a small run that has imported and loaded everything."""
    with tempfile.TemporaryDirectory() as folder:
        backtest.run(backtest.plan(str(bars_of(WARM)), settings(), Path(folder) / "warm"))
        yield Path(folder)


@contextmanager
def _measured() -> Iterator[dict[str, float]]:
    """CPU-seconds and seconds of a block, once it has ended."""
    gc.collect()
    spent = {"cpu": 0.0, "wall": 0.0}
    cpu, wall = time.process_time(), time.perf_counter()
    yield spent
    spent["cpu"], spent["wall"] = time.process_time() - cpu, time.perf_counter() - wall


MEASURES: dict[str, Callable[..., Answer]] = {
    each.__name__: each for each in (flow, stages, kernels, recovery, member, memory, first_frame, live)
}


def main() -> None:
    """Measure what is asked for."""
    asked = json.loads(sys.argv[1])
    print(json.dumps(MEASURES[asked.pop("what")](**asked)), flush=True)


if __name__ == "__main__":
    main()
