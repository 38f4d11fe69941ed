"""Backtest: a bar file through the whole pipeline, with the simulated venue inside the account.

    utp backtest BARS --out runs/NAME
    python -m bytewax.run "dataflows.backtest:flow('BARS')"

Both run the same dataflow; `loop=True` drives the same steps by a plain loop, to the same results.
"""

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from dataflows import pipeline
from dataflows.sources import SCHEME, Source, logged, open_source
from infra.bars import NO_FILES, Bars
from infra.benchmark import Benchmark, of_bars, of_curve
from infra.forecaster import Forecaster, open_forecaster
from infra.heap import keep_freed
from infra.parcels import LENDER, Parcel
from infra.preload import load_all
from infra.recovery import accepts_loss, check_store, folder_of
from infra.reference import Files
from infra.result_header import CLOSED, Header, header
from infra.results import Recorder, check_out, write_timing
from infra.settings import Settings, load, of_log
from infra.worker_thread import wake_seldom, waking_seldom
from operators.filters import Params as Filters
from operators.kernel import cache_root
from risk.ledger import LedgerFrame
from schemas.calendar import evenings, timeframe_name
from schemas.errors import UserError
from schemas.frames import RawFrame
from schemas.units import NS_PER_DAY, to_usd

if TYPE_CHECKING:
    from bytewax.dataflow import Dataflow

    from infra.result_sink import ResultSink

Progress = Callable[[int, int, int, float], None]  # rows done, rows in all, trades, equity in USD


@dataclass(frozen=True, slots=True)
class Plan:
    """A backtest that can be run: bars opened, settings checked, the output folder free."""

    bars: Source
    settings: Settings
    out: Path
    header: Header
    benchmark: Benchmark
    forecaster: Forecaster | None = None  # None: no model is configured

    @property
    def names_are_known(self) -> bool:
        """False for a log, which may tell more on its way; tables have to know all of them."""
        return isinstance(self.bars, Bars)


def plan(
    spec: str,
    settings: Settings,
    out: Path,
    *,
    symbols: Sequence[str] = (),
    start: int | None = None,
    stop: int | None = None,
    files: Files = NO_FILES,
    benchmark: Path | None = None,
    models: Path | None = None,
    forecasts: Path | None = None,
) -> Plan:
    """Open bars and models and check everything that a user may get wrong; `start`, `stop`: UTC ns, inclusive.

    `benchmark` is a file as `utp metrics` takes it; SPY, QQQ or all of the bars themselves without one. `models` is a
    history of activations, `forecasts` the folder in which forecasts are kept, one in the cache if it is not
    given. Raises UserError.
    """
    if settings.venue.kind != "simulated":
        raise UserError(f'venue.kind = "{settings.venue.kind}": no broker reports on a backtest; want "simulated"')
    out = check_out(out)
    bars = open_source(spec, settings, symbols=symbols, start=start, stop=stop, files=files)
    settings = settings if isinstance(bars, Bars) else of_log(settings)
    forecaster = open_forecaster(settings.forecast, bars.calendar, bars.after, bars.upto, models,
                                 forecasts or cache_root() / "forecasts", logged(bars))  # fmt: skip
    beside = of_bars(bars) if benchmark is None else _benchmark(benchmark, bars)
    return Plan(bars, settings, out, _header(bars, settings, spec, beside, forecaster), beside, forecaster)


def _benchmark(file: Path, bars: Source) -> Benchmark:
    from dataflows.metrics import benchmark_of

    found = benchmark_of(file)
    ts = evenings(found.dates)
    inside = (ts > bars.after) & (ts <= bars.upto + NS_PER_DAY)
    if not inside.any():
        raise UserError(f"--benchmark {file}: has no value on the dates of the bars")
    path = str(file.expanduser().resolve())
    return of_curve(file.name, path, ts, found.daily, bars.after, bars.upto + NS_PER_DAY // 2)


def _header(bars: Source, settings: Settings, spec: str, benchmark: Benchmark, forecaster: Forecaster | None) -> Header:
    off = [*([] if forecaster else ["forecast"]), *_off(bars, settings.filters)]
    source = bars.label if bars.synthetic or spec.startswith(SCHEME) else str(Path(spec).expanduser().resolve())
    described = {
        "source": source,
        "label": bars.label, "fingerprint": bars.fingerprint, "rows": bars.rows, "symbols": bars.universe.names,
        "first_ts": bars.first_ts, "last_ts": bars.last_ts, "files": bars.files.resolved(),
    }  # fmt: skip
    voters = [*settings.ensemble.voters, *(["forecast"] if forecaster else [])]
    return header(settings, alphas=voters, bars=described, synthetic=bars.synthetic,
                  timeframe=timeframe_name(bars.timeframe), after=bars.after, upto=bars.upto, off=off,
                  benchmark=benchmark.about, forecast=forecaster.describe() if forecaster else None)  # fmt: skip


def _off(bars: Source, filters: Filters) -> list[str]:
    """What this run does without: switched off, or without a source, and what that makes of its filter."""
    lenient, there = filters.missing_data == "off", bars.beside
    missing = {
        "spread cost (no quotes)": not bars.has_quotes,
        "market hours filter": not filters.market_hours,
        "liquidity filter": not filters.liquidity,
        "liquidity filter in a symbol's first 3 sessions": filters.liquidity and "volumes" not in there and lenient,
        "spread filter": not filters.spread or (not bars.has_quotes and lenient),
        "earnings filter": not filters.earnings or ("earnings" not in there and lenient),
        f"liquidity filter (no volumes) in a symbol's first 3 sessions {CLOSED}":
            filters.liquidity and "volumes" not in there and not lenient,
        f"spread filter (no quotes) {CLOSED}": filters.spread and not bars.has_quotes and not lenient,
        f"earnings filter (no reports) {CLOSED}": filters.earnings and "earnings" not in there and not lenient,
        "corporate actions": "actions" not in there,
    }  # fmt: skip
    return [name for name, is_missing in missing.items() if is_missing]


def flow(
    spec: str,
    out: str = "runs/backtest",
    settings: str | None = None,
    sets: Sequence[str] = (),
    symbols: Sequence[str] = (),
    profile: str | None = None,
    quotes: str | None = None,
    earnings: str | None = None,
    actions: str | None = None,
    volumes: str | None = None,
    benchmark: str | None = None,
    models: str | None = None,
    forecasts: str | None = None,
) -> "Dataflow":
    """The dataflow, for `python -m bytewax.run`; arguments as those of `utp backtest`."""
    loaded = load(Path(settings) if settings else None, sets, profile=profile, log=spec.startswith(SCHEME))
    files = Files(quotes, earnings, actions, volumes)
    beside, history, keep = (None if given is None else Path(given) for given in (benchmark, models, forecasts))
    job = plan(spec, loaded, Path(out), symbols=symbols, files=files, benchmark=beside, models=history, forecasts=keep)
    load_all()  # there may be several workers
    keep_freed()
    wake_seldom()
    store = folder_of()
    graph = build(job, announce=True, lasting=store is not None)[0]
    check_store(graph, store, accepts_loss())
    return graph


def build(
    job: Plan, progress: Progress | None = None, announce: bool = False, lasting: bool = True
) -> tuple["Dataflow", "ResultSink"]:
    """Source → decide → trade → results, and past the steps the benchmark. Ids of steps are keys of a recovery store.

    `lasting`: there may be one; else the tables are written while the run goes on.
    """
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow

    from infra.result_sink import ResultSink
    from infra.source import BarInput

    lasting = lasting or not job.names_are_known
    sink = ResultSink(job.out, job.header, announce, job.benchmark.points, lasting=lasting)
    graph = Dataflow("backtest")
    read = op.input("bars", graph, BarInput(job.bars, job.settings.run.run_ahead, LENDER, job.benchmark.points))
    keys = pipeline.ASIDE if job.forecaster is None else pipeline.KEYS
    keyed = op.flat_map_batch("shard", read, partial(_keyed, job.forecaster, keys))
    params = pipeline.decide_params(job.settings, job.bars.timeframe, job.forecaster)
    decided = pipeline.decide("decide", keyed, params)
    ledger = pipeline.trade(
        "trade", decided, job.settings.account, job.bars.after, pipeline.WRITER, partial(Parcel, LENDER)
    )
    if progress is not None:
        ledger = op.map("progress", ledger, _Meter(job, progress))
    benchmark = op.flat_map_batch("benchmark", read, _beside)
    op.output("results", op.merge("whole", ledger, benchmark), sink)
    return graph, sink


def _keyed(forecaster: Forecaster | None, keys: Sequence[str], read: list[Any]) -> list[tuple[str, Parcel[RawFrame]]]:
    """What was read of frames, each under its key, with the models' events of its range."""
    keyed = []
    for parcel in read:
        if isinstance(parcel, Parcel):
            frame = parcel.frame
            assert frame is not None  # noqa: S101  (it was put in just now)
            if forecaster is not None:
                parcel.frame = forecaster.told(frame)
            keyed.append((keys[frame.shard], parcel))
    return keyed


def _beside(read: list[Any]) -> list[tuple[str, Any]]:
    """What was read that is no frame, for the results."""
    return [(pipeline.WRITER, one) for one in read if not isinstance(one, Parcel)]


class _Meter:
    """Tells how far the run is; passes everything on."""

    def __init__(self, job: Plan, progress: Progress):
        self._progress, self._rows, self._done, self._trades = progress, job.bars.rows, 0, 0

    def __call__(self, item: tuple[str, LedgerFrame]) -> tuple[str, LedgerFrame]:
        """Count one frame."""
        self.count(item[1])
        return item

    def count(self, frame: LedgerFrame) -> None:
        """Count one frame."""
        self._done += frame.rows + frame.refused.ts.size
        self._trades += frame.trades.size
        if frame.equity.size:
            self._progress(self._done, self._rows, self._trades, to_usd(frame.equity[-1].equity))


def run(job: Plan, *, workers: int = 1, loop: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Run it to the end and return the summary; `workers` are threads of this process.

    What stops it, Ctrl-C too, leaves nothing: there is no store from which to go on.
    """
    keep_freed()
    if workers > 1:
        load_all()
    gc.freeze()  # what is loaded now stays: the collector need not walk it, now or later
    begun = time.perf_counter(), time.process_time()
    try:
        summary = _loop(job, progress) if loop else _flow(job, workers, progress)
    finally:
        gc.unfreeze()
        if job.forecaster is not None:
            job.forecaster.close()
    spent = {"wall_seconds": time.perf_counter() - begun[0], "cpu_seconds": time.process_time() - begun[1]}
    write_timing(job.out, spent | ({"forecasts": job.forecaster.counts()} if job.forecaster else {}))
    return summary


def _flow(job: Plan, workers: int, progress: Progress | None) -> dict[str, Any]:
    graph, sink = build(job, progress, lasting=False)
    try:
        with _interrupting(sink):
            _cluster(graph, workers)
        return sink.summary()
    except BaseException:
        sink.discard()
        raise


@contextmanager
def _interrupting(sink: "ResultSink") -> Iterator[None]:
    """Ctrl-C reaches the sink, too: Bytewax waits for its workers, and one may be finishing the run."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        sink.interrupt()
        before(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _cluster(graph: "Dataflow", workers: int) -> None:
    from bytewax.testing import cluster_main

    # bytewax.run's entry prints a backtrace of its own on every error and on Ctrl-C; this one raises
    with waking_seldom():
        cluster_main(graph, [], 0, worker_count_per_proc=workers)  # type: ignore[no-untyped-call]


def _loop(job: Plan, progress: Progress | None) -> dict[str, Any]:
    recorder = Recorder(job.out, job.header, job.benchmark.points, lasting=not job.names_are_known)
    meter = _Meter(job, progress) if progress is not None else None
    params = pipeline.decide_params(job.settings, job.bars.timeframe, job.forecaster)
    try:
        for frame in pipeline.run(_chunks(job), params, job.settings.account, job.bars.after):
            recorder.add(frame)
            if meter is not None:
                meter.count(frame)
        return recorder.finish()
    except BaseException:
        recorder.discard()
        raise


def _chunks(job: Plan) -> Iterator[list[RawFrame]]:
    """The bars' frames with the models' events."""
    for chunk in job.bars.frames():
        yield chunk if job.forecaster is None else [job.forecaster.told(frame) for frame in chunk]
