"""`utp`: backtest, report, drift, train, models, features, metrics, why, bench; the log; paper trading.

Whatever takes its time to import is imported by the command that needs it, so that `utp --help`
answers at once. A user's mistake is one line on stderr and exit code 2, Ctrl-C is 130; anything
else is a bug and keeps its traceback.
"""

import json as jsonlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import zip_longest
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflows import live_commands, log_commands
from schemas.errors import UserError

if TYPE_CHECKING:
    from dataflows.bench import Line
    from infra.settings import Settings
    from models.registry import Change, Entry

PATIENCE = 5.0  # seconds between Ctrl-C and leaving whatever is going on
Progress = Callable[..., None]  # rows done, rows in all, and of a backtest: trades, equity in USD

app = typer.Typer(
    help="US-equity bars in, orders out.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(short_help="A Kafka-protocol server for trying things out.")(log_commands.broker)
app.add_typer(log_commands.topics, name="topics")
app.add_typer(log_commands.dlq, name="dlq")
live_commands.register(app)

_BARS = Annotated[str, typer.Argument(metavar="BARS", help="Bar files, a folder of them, or synthetic:...")]
_FILE = Annotated[Path | None, typer.Option("--settings", metavar="FILE", help="A TOML file; see settings.toml.")]
_SETS = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting; may be repeated. Wins over the file."),
]
_SYMBOLS = Annotated[str | None, typer.Option(metavar="A,B", help="Only these symbols.")]
_FROM = Annotated[
    str | None,
    typer.Option("--from", metavar="DATE", help="First session, or the first bar end as 2024-01-02T10:00-05:00."),
]
_TO = Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last session or bar end, inclusive.")]
_TIMEFRAME = Annotated[str | None, typer.Option(metavar="1m|5m|1h|1d|...", help="The bars' length; else found out.")]
_PROFILE = Annotated[str | None, typer.Option(metavar="NAME", help="Built-in settings: research.")]
_QUOTES = Annotated[str | None, typer.Option(metavar="FILE", help="Quotes: symbol, ts, bid, ask.")]
_EARNINGS = Annotated[str | None, typer.Option(metavar="FILE", help="Report dates: symbol, date, known_from.")]
_ACTIONS = Annotated[
    str | None, typer.Option(metavar="FILE", help="Splits and dividends: symbol, date, split, dividend.")
]
_VOLUMES = Annotated[str | None, typer.Option(metavar="FILE", help="Reference volumes: symbol, average_volume.")]
_ACCOUNT = Annotated[str | None, typer.Option(metavar="NAME", help="Else run.account.")]
_ISSUER = Annotated[str | None, typer.Option(metavar="NAME", help="Who gives it; else the user's name.")]
_HISTORY = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Which model was in force from when; see docs/serving.md.")
]
_FORECASTS = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where forecasts are kept for the next run; else in the cache.")
]
_JSON = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command(short_help="Bars in; tables, summary and report out.")
def backtest(
    bars: _BARS,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder; a former run there is replaced.")] = Path(
        "runs/backtest"
    ),
    settings: _FILE = None,
    sets: _SETS = None,
    symbols: _SYMBOLS = None,
    start: _FROM = None,
    stop: _TO = None,
    timeframe: _TIMEFRAME = None,
    profile: _PROFILE = None,
    quotes: _QUOTES = None,
    earnings: _EARNINGS = None,
    actions: _ACTIONS = None,
    volumes: _VOLUMES = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A curve to stand beside; else SPY or QQQ of the bars, or all of them."),
    ] = None,
    models: _HISTORY = None,
    forecasts: _FORECASTS = None,
    json: _JSON = False,
    workers: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Threads of the dataflow.")] = 1,
    loop: Annotated[bool, typer.Option(help="A plain loop instead of the dataflow; the same result.")] = False,
) -> None:
    """Replay bars through signals, rules and the simulated venue; write tables and a report."""
    given = _settings(settings, sets, profile, timeframe)
    names, first, last = _symbols(symbols), _first(start), _last(stop)
    _refuse_empty(start, stop, first, last)
    from dataflows import backtest as command
    from infra.reference import Files

    files = Files(quotes, earnings, actions, volumes)
    plan = command.plan(bars, given, out, symbols=names, start=first, stop=last, files=files, benchmark=benchmark,
                        models=models, forecasts=forecasts)  # fmt: skip
    with _progress("backtest") as progress:
        summary = command.run(plan, workers=workers, loop=loop, progress=progress)
    if json:
        _print_json(summary)
    else:
        _print_summary(summary, out)
        if "forecasts" in summary and plan.forecaster is not None:
            _print_forecasts(summary["forecasts"], plan.forecaster.counts())


@app.command(short_help="Bars in; a forecasting model and its report out.")
def train(
    bars: _BARS,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where models are kept; made where it is not there.")] = Path(
        "models_store"
    ),
    folds: Annotated[int | None, typer.Option(min=1, metavar="N", help="Folds, as training.folds.count.")] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make it the champion if it passes every gate.")] = False,
    settings: _FILE = None,
    sets: _SETS = None,
    symbols: _SYMBOLS = None,
    start: _FROM = None,
    stop: _TO = None,
    timeframe: _TIMEFRAME = None,
    profile: _PROFILE = None,
    quotes: _QUOTES = None,
    earnings: _EARNINGS = None,
    actions: _ACTIONS = None,
    volumes: _VOLUMES = None,
    json: _JSON = False,
) -> None:
    """Fit a model on rolling folds, hold it against the gates, and keep it with its report."""
    more = [*(sets or []), *([] if folds is None else [f"training.folds.count={folds}"])]
    given = _settings(settings, more, profile, timeframe)
    names, first, last = _symbols(symbols), _first(start), _last(stop)
    _refuse_empty(start, stop, first, last)
    from dataflows import train as command
    from infra.reference import Files

    files = Files(quotes, earnings, actions, volumes)
    with _steps("train") as progress:
        summary = command.run(
            bars, given, out, symbols=names, start=first, stop=last, files=files, promote=promote, progress=progress
        )
    if json:
        _print_json(
            {**summary, "metrics": _finite(summary["metrics"]), "models": list(map(_finite, summary["models"]))}
        )
    else:
        _print_training(summary)


models_app = typer.Typer(
    help="The models of a store: list, promote, roll back.", add_completion=False, invoke_without_command=True
)
app.add_typer(models_app, name="models", short_help="The models of a store; promote and roll back.")
_ANNOUNCED = Annotated[
    bool | None,
    typer.Option("--announce/--no-announce", help="Tell the live flow; by default where a cluster is named."),
]
_FROM_SLICE = Annotated[
    str | None,
    typer.Option("--from-slice", metavar="TIME", help="Slice from which it acts; else the next that begins."),
]
_STORE = Annotated[Path, typer.Option("--store", metavar="DIR", help="Where models are kept.")]
_MODELS = Path("models_store")


@models_app.callback()
def models(context: typer.Context, store: _STORE = _MODELS, json: _JSON = False) -> None:
    """List models, the latest first, and why each was promoted or refused."""
    if context.invoked_subcommand is not None:
        context.obj = store
        return
    from models.registry import Registry

    registry = Registry(store)
    entries, challenger = registry.models(), registry.challenger()
    rows = [_entry(entry, challenger is not None and entry.id == challenger.id) for entry in entries]
    if json:
        _print_json({"models": rows, "history": [change._asdict() for change in registry.history()]})
    else:
        _print_models(rows)


@models_app.command(short_help="Make a model the champion.")
def promote(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="ID", help="The id, or how it begins.")],
    announced: _ANNOUNCED = None,
    from_slice: _FROM_SLICE = None,
    settings: _FILE = None,
    sets: _SETS = None,
) -> None:
    """Make a model that passed every gate the champion; the one before is deprecated."""
    given = _settings(settings, sets, None, None)
    from dataflows import train as command
    from models.registry import Registry

    registry, tell = Registry(context.obj), _announcing(announced, from_slice)
    change = registry.promote(registry.full_id(model), command.now())
    _print_change(change, command.mirrored(registry, given))
    tell(given, registry.store, change.id)


@models_app.command(short_help="Go back to the champion before.")
def rollback(
    context: typer.Context,
    announced: _ANNOUNCED = None,
    from_slice: _FROM_SLICE = None,
    settings: _FILE = None,
    sets: _SETS = None,
) -> None:
    """Make the champion before the present one the champion again."""
    given = _settings(settings, sets, None, None)
    from dataflows import train as command
    from models.registry import Registry

    registry, tell = Registry(context.obj), _announcing(announced, from_slice)
    change = registry.rollback(command.now())
    _print_change(change, command.mirrored(registry, given))
    tell(given, registry.store, change.id)


@models_app.command("announce", short_help="Tell the live flow which model is in force.")
def announce_model(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[ID]", help="Any bundle of the store, or none.")] = None,
    from_slice: _FROM_SLICE = None,
    settings: _FILE = None,
    sets: _SETS = None,
) -> None:
    """Write into the log that a model is in force, by default the champion; `none` ends all forecasts."""
    from dataflows import announce

    chosen = model or announce.champion(context.obj)
    _announcing(True, from_slice)(_settings(settings, sets, None, None), context.obj, chosen)


def _announcing(wanted: bool | None, from_slice: str | None) -> Callable[["Settings", Path, str], None]:
    """What tells the log of a model; a cluster that is not there is found out before anything is changed."""
    from dataflows import announce
    from dataflows.flows import grid
    from infra.kafka import cluster
    from schemas.identity import iso

    since = None if from_slice is None else _ns(_aware("--from-slice", from_slice))
    if not (announce.is_configured() if wanted is None else wanted):
        return lambda settings, store, model: None
    where = cluster()
    refusal = announce.refusal(where)
    if refusal and wanted:
        raise UserError(refusal)
    if refusal:
        return lambda settings, store, model: typer.echo(f"{model} is not announced to a live flow ({refusal})")

    def tell(settings: "Settings", store: Path, model: str) -> None:
        at = announce.announce(where, grid(settings), store, model, since)
        when = f"the slice that ends at {iso(at)}" if at else "the first slice"
        typer.echo(f"{model} is announced to the live flow from {when} on")

    return tell


@app.command(short_help="Bars in; features in one Parquet file out.")
def features(
    bars: _BARS,
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="Where the features go.")],
    settings: _FILE = None,
    sets: _SETS = None,
    symbols: _SYMBOLS = None,
    start: _FROM = None,
    stop: _TO = None,
    timeframe: _TIMEFRAME = None,
    profile: _PROFILE = None,
    actions: _ACTIONS = None,
    json: _JSON = False,
) -> None:
    """Write each bar's features, as the signals see them, to one Parquet file."""
    given = _settings(settings, sets, profile, timeframe)
    names, first, last = _symbols(symbols), _first(start), _last(stop)
    _refuse_empty(start, stop, first, last)
    from dataflows import features as command
    from infra.reference import Files

    files = Files(actions=actions)
    with _progress("features") as progress:
        done = command.run(bars, given, out, symbols=names, start=first, stop=last, files=files, progress=progress)
    if json:
        _print_json(done)
    else:
        typer.echo(f"{done['rows']:,} rows, {len(done['columns'])} columns: {out}")
        typer.echo(", ".join(done["columns"]))


@app.command(short_help="Does a model still see what it was trained on?")
def drift(
    bars: _BARS,
    settings: _FILE = None,
    sets: _SETS = None,
    symbols: _SYMBOLS = None,
    start: _FROM = None,
    stop: _TO = None,
    timeframe: _TIMEFRAME = None,
    quotes: _QUOTES = None,
    earnings: _EARNINGS = None,
    actions: _ACTIONS = None,
    volumes: _VOLUMES = None,
    models: _HISTORY = None,
    forecasts: _FORECASTS = None,
    json: _JSON = False,
) -> None:
    """Forecast over bars and compare with training: edge, coverage by month, stability of each feature."""
    given = _settings(settings, sets, None, timeframe)
    names, first, last = _symbols(symbols), _first(start), _last(stop)
    _refuse_empty(start, stop, first, last)
    from dataflows import drift as command
    from infra.reference import Files

    files = Files(quotes, earnings, actions, volumes)
    told = command.run(bars, given, symbols=names, start=first, stop=last, files=files, models=models,
                       forecasts=forecasts)  # fmt: skip
    if json:
        _print_json(told)
        return
    for model in told["models"]:
        edge = "-" if model["edge"] is None else f"{model['edge']:.3f}"
        typer.echo(f"{model['id']}: {model['forecasts']:,} forecasts, median edge {edge}, "
                   f"{model['reference_edge']:.3f} in validation")  # fmt: skip
        typer.echo("within [q10, q90]  " + "  ".join(f"{bars} bars" for bars in model["horizons"]))
        for month, shares in model["coverage"].items():
            typer.echo(f"  {month:<16} " + "  ".join("-" if one is None else f"{one:6.1%}" for one in shares))
        typer.echo("stability of features, the most changed first (0.25: another one)")
        known = {name: value for name, value in model["stability"].items() if value is not None}
        for name in sorted(known, key=lambda name: -known[name]):
            typer.echo(f"  {name:<16} {known[name]:.3f}")


@app.command(short_help="How good a run or a curve was.")
def metrics(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A run's folder, or Parquet or CSV with ts and equity or returns.")
    ],
    benchmark: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another curve; of a file with several symbols, SPY.")
    ] = None,
    risk_free: Annotated[float, typer.Option(metavar="RATE", help="Per year, a fraction.")] = 0.04,
    json: _JSON = False,
) -> None:
    """Compute return, risk and trade statistics, annual ones from daily closes and 252 days."""
    if not -1 < risk_free < 1:
        raise UserError(f"--risk-free {risk_free:g}: want a fraction per year, as 0.04")
    from dataflows import metrics as command

    answer = command.metrics(file, benchmark, risk_free)
    if json:
        _print_json({name: _finite(section) for name, section in answer.items()})
    else:
        _print_metrics(answer, command.lines(answer))


@app.command(short_help="A finished run's page, made again.")
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")]) -> None:
    """Write report.html anew from the run's summary and tables; the same ones give the same page."""
    from dataflows import report as command

    typer.echo(f"report: {command.again(run)}")


@app.command(short_help="Why a bar led to an order, or did not.")
def why(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL")],
    ts: Annotated[str, typer.Argument(metavar="TS", help='End of the bar: "2024-01-02 10:30" in New York, or ISO.')],
    json: _JSON = False,
) -> None:
    """Say why a bar of a run led to an order, or why it did not."""
    instant = _instant(ts)
    from dataflows import why as command

    answer = command.explain(run, symbol.upper(), instant)
    if json:
        _print_json(answer)
    else:
        _print_answer(answer, instant)


@app.command(short_help="How fast it is, beside its goals.")
def bench(
    size: Annotated[str | None, typer.Option(metavar="A|B|C", help="Only the throughput of this size.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions.")] = False,
    json: _JSON = False,
) -> None:
    """Measure throughput, start, memory and latency; every measurement in a fresh process. Takes minutes."""
    from dataflows import bench as command

    if size is not None and size.upper() not in command.SIZES:
        raise UserError(f"--size {size}: want one of {', '.join(command.SIZES)}")
    names = [] if size is None else [size.upper()]
    lines = command.run(names, quick=quick, progress=lambda part: typer.echo(f"bench: {part}", err=True))
    if json:
        _print_json(command.as_json(lines))
    else:
        _print_bench(lines)


@app.command(short_help="Let the live flow open positions, for a while.")
def approve(
    minutes: Annotated[int, typer.Option(metavar="N", help="For how long, at most 1440.")],
    scope: Annotated[str, typer.Option(metavar="entries|exits", help="What is approved.")] = "entries",
    account: _ACCOUNT = None,
    issuer: _ISSUER = None,
    log: Annotated[
        bool, typer.Option("--log", help="Tell the account too: after a revoke in its log, or if it needs approval.")
    ] = False,
    settings: _FILE = None,
    sets: _SETS = None,
    json: _JSON = False,
) -> None:
    """Sign a human's approval: without one no position is opened. Exits need none."""
    given = _settings(settings, sets, None, None)
    from dataflows import broker as command

    done = command.approve(given, minutes=minutes, scope=scope, account=account, issuer=issuer, log=log)
    if json:
        _print_json(done)
        return
    typer.echo(
        f"{done['account']}: {done['scope']} approved by {done['issuer']} until {done['until']} ({done['file']})"
    )
    for reason, message in done["shut"].items():
        typer.echo(f"still shut: {reason} ({message})")


@app.command(short_help="Take the approval back, at once.")
def revoke(issuer: _ISSUER = None, settings: _FILE = None, sets: _SETS = None, json: _JSON = False) -> None:
    """Take back every approval before the next order; exits stay allowed."""
    given = _settings(settings, sets, None, None)
    from dataflows import broker as command

    done = command.revoke(given, issuer=issuer)
    if json:
        _print_json(done)
    else:
        typer.echo(f"revoked by {done['by']} ({done['file']})")


@app.command(short_help="What the broker says we hold.")
def positions(settings: _FILE = None, sets: _SETS = None, json: _JSON = False) -> None:
    """List the broker's positions."""
    given = _settings(settings, sets, None, None)
    from dataflows import broker as command

    _print_rows(command.positions(given), "no positions", json)


@app.command(short_help="The broker's open orders.")
def orders(settings: _FILE = None, sets: _SETS = None, json: _JSON = False) -> None:
    """List the broker's open orders, bracket legs on their own."""
    given = _settings(settings, sets, None, None)
    from dataflows import broker as command

    _print_rows(command.orders(given), "no open orders", json)


@app.command(short_help="Where book and broker differ.")
def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say it; nothing is changed.")] = False,
    reports: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Execution reports, one JSON object a line; else the log's.")
    ] = None,
    account: _ACCOUNT = None,
    settings: _FILE = None,
    sets: _SETS = None,
    json: _JSON = False,
) -> None:
    """Compare book and broker, repair what is safe by events in the log, halt entries on the rest: then exit code 1."""
    if reports is not None and not dry_run:
        raise UserError(f"--reports {reports}: a file cannot be repaired; want --dry-run with it")
    chosen = [*(sets or []), *([f"run.account={account}"] if account else [])]
    given = _settings(settings, chosen, None, None)
    from dataflows import broker as command
    from schemas.events import word

    found = command.compare(given, reports, account) if dry_run else command.repair(given)
    rows = [
        {"difference": word(f.difference), "symbol": f.symbol, "order": f.order_id, "ours": f.ours, "theirs": f.theirs,
         "repair": word(f.repair), "halts": f.halts}
        for f in found
    ]  # fmt: skip
    _print_rows(rows, "book and broker agree", json)
    if any(f.halts for f in found):
        raise typer.Exit(1)


@app.command(short_help="An exchange on this machine to try orders on.")
def exchange(
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="N", help="0 takes any that is free.")] = 8900,
    bars: Annotated[str | None, typer.Option(metavar="BARS", help="Prices from bars; else they wander.")] = None,
    symbols: _SYMBOLS = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the wandering prices, and of all ids.")] = 7,
    cash: Annotated[int, typer.Option(min=1, max=1_000_000_000, metavar="USD")] = 100_000,
    seconds: Annotated[float, typer.Option(min=0.0, max=3_600.0, metavar="S", help="Between two prices.")] = 1.0,
    steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after so many prices.")] = None,
    settings: _FILE = None,
    sets: _SETS = None,
    json: _JSON = False,
) -> None:
    """Serve Alpaca's trading API on 127.0.0.1, with dummy keys and a ledger of its own, until interrupted."""
    given, names = _settings(settings, sets, None, None), _symbols(symbols)
    from dataflows import broker as command

    feed = command.of_bars(bars, given, names) if bars else command.walk(names or ["AAPL", "MSFT", "SPY"], seed)
    done = command.serve(feed, port=port, seed=seed, cash_usd=cash, seconds=seconds, steps=steps,
                         told=lambda line: typer.echo(line, err=json))  # fmt: skip
    if json:
        _print_json(done)
    else:
        typer.echo(", ".join(f"{name} {value}" for name, value in done.items()))


def main(argv: Sequence[str] | None = None) -> None:
    """The program: one line for a mistake."""
    with _heeding_interrupts():
        code = _run(list(sys.argv[1:] if argv is None else argv))
    if argv is None:  # all is done: the interpreter may close down in peace
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """The exit code; what is a bug is raised."""
    try:
        code = typer.main.get_command(app).main(arguments or ["--help"], prog_name="utp", standalone_mode=False)
    except typer.TyperException as error:  # unknown option, missing argument
        return _stopped(2, error.format_message())
    except typer.Abort:
        return _stopped(130, "interrupted")
    except (Exception, KeyboardInterrupt) as error:
        for cause in _causes(error):  # a dataflow wraps what its steps raise
            if isinstance(cause, UserError):
                return _stopped(2, str(cause))
            if isinstance(cause, KeyboardInterrupt):
                return _stopped(130, "interrupted")
        raise
    if code == 130:  # typer's answer to Ctrl-C
        return _stopped(130, "interrupted")
    return code if isinstance(code, int) else 0


def _stopped(code: int, message: str) -> int:
    print("utp:", " ".join(message.split()), file=sys.stderr)
    return code


@contextmanager
def _heeding_interrupts() -> Iterator[None]:
    """Ctrl-C ends the program within seconds, even where no exception can pass.

    Compiled code and compilers do not look for signals, Bytewax waits for its workers without doing so, and
    an exception in a finaliser is lost. A run's folder appears in one rename, so that leaving at any moment
    leaves nothing half-written.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as after `nohup`
        yield
        return
    hook = sys.unraisablehook
    timers: list[threading.Timer] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if timers:  # pressed again
            _leave()
        timers.append(threading.Timer(PATIENCE, _leave))
        timers[0].daemon = True
        timers[0].start()
        signal.default_int_handler(number, frame)

    def lost(what: "sys.UnraisableHookArgs") -> None:
        if what.exc_type is not KeyboardInterrupt:
            hook(what)
            return
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, handle)
    sys.unraisablehook = lost
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = hook
        for timer in timers:
            timer.cancel()


def _leave() -> None:
    os.write(2, b"utp: interrupted\n")
    os._exit(130)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


# What the user wrote.


def _settings(file: Path | None, sets: list[str] | None, profile: str | None, timeframe: str | None) -> "Settings":
    from infra.settings import load

    more = [] if timeframe is None else [f"run.timeframe={timeframe}"]
    return load(file, [*(sets or []), *more], profile=profile)


def _symbols(text: str | None) -> list[str]:
    if text is None:
        return []
    names = [name.strip().upper() for name in text.split(",")]
    if not all(names):
        raise UserError(f"--symbols {text!r}: want names with commas between them, as AAPL,MSFT")
    return list(dict.fromkeys(names))


def _first(text: str | None) -> int | None:
    """--from as the earliest bar end, UTC ns: a date's bars end after its midnight in New York."""
    if text is None:
        return None
    day = _date(text)
    return _ns(_midnight(day)) + 1 if day else _ns(_aware("--from", text))


def _last(text: str | None) -> int | None:
    """--to as the latest bar end, UTC ns."""
    if text is None:
        return None
    day = _date(text)
    return _ns(_midnight(day + timedelta(days=1))) if day else _ns(_aware("--to", text))


def _refuse_empty(start: str | None, stop: str | None, first: int | None, last: int | None) -> None:
    if first is not None and last is not None and first > last:
        raise UserError(f"--from {start} --to {stop}: nothing lies between them")


def _instant(text: str) -> int:
    """The bar end that `why` is asked about, UTC ns; New York's clock unless an offset is given."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f'time {text}: want "2024-01-02 10:30" (New York) or 2024-01-02T15:30Z') from error
    if given.tzinfo is None:
        from schemas.calendar import NEW_YORK

        given = given.replace(tzinfo=NEW_YORK)
    return _ns(given)


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _aware(option: str, text: str) -> datetime:
    try:
        given = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{option} {text}: want a date as 2024-01-02 or a time as 2024-01-02T10:00-05:00") from error
    if given.tzinfo is None:
        raise UserError(f"{option} {text}: has no time zone; write {text}Z for UTC, or an offset as {text}-05:00")
    return given


def _midnight(day: date) -> datetime:
    from schemas.calendar import NEW_YORK

    return datetime(day.year, day.month, day.day, tzinfo=NEW_YORK)


def _ns(instant: datetime) -> int:
    return (instant.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000


# What the user sees.


@contextmanager
def _progress(name: str) -> Iterator[Progress | None]:
    """A bar on stderr with rate and time left; nothing (None) unless that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from time import monotonic

    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(name), BarColumn(), TextColumn("{task.percentage:>3.0f}% {task.fields[note]}"))
    began = monotonic()
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None, note="")

        def show(done_rows: int, total_rows: int, trades: int = 0, equity_usd: float = 0.0) -> None:
            rate = done_rows / max(monotonic() - began, 1e-9)
            note = f"{done_rows:,} rows, {rate:,.0f}/s"
            if trades:
                note += f", {trades:,} trades, {equity_usd:,.2f} USD"
            bar.update(task, completed=done_rows, total=total_rows, note=note)

        yield show


@contextmanager
def _steps(name: str) -> Iterator[Callable[[str, int, int, str], None]]:
    """A bar on a terminal, else a line for what is worth one: what, done, in all, a note."""
    if not sys.stderr.isatty():

        def line(what: str, done: int, total: int, note: str) -> None:
            if note:
                print(f"{name}: {what} {done}/{total} {note}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}% {task.fields[note]}"),
    )
    with Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int, note: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(f"{name}: {what}", total=None, note="")
            bar.update(tasks[what], completed=done, total=total, note=note)

        yield show


def _print_training(summary: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    made_up = " [bold yellow]SYNTHETIC DATA[/]" if summary["synthetic"] else ""
    console.print(f"[bold]{escape(summary['id'])}[/]{made_up}")
    table = Table(box=None, pad_edge=False)
    for head in ("model", "pinball", "skill", "± error", "coverage", "Sharpe", "below 0", "trades a fold"):
        table.add_column(head, justify="left" if head == "model" else "right")
    for model in sorted(summary["models"], key=lambda one: one["loss"]):
        table.add_row(model["name"], f"{model['loss']:.4f}", f"{model['skill']:+.2%}", f"{model['error']:.2%}",
                      f"{model['corrected']:.3f}", f"{model['sharpe']:.2f}", f"{model['negative']}",
                      f"{model['trades']:.0f}")  # fmt: skip
    console.print(table)
    console.print(escape(summary["skill"]))
    if summary["promotable"]:
        champion = summary["champion"] == summary["id"]
        console.print(
            "every gate is passed; " + ("it is the champion" if champion else f"utp models promote {summary['id']}")
        )
    else:
        console.print(f"refused: {escape('; '.join(summary['reasons']))}")
    console.print(f"report: {escape(summary['report'])}")


def _entry(entry: "Entry", challenger: bool) -> dict[str, Any]:
    """A model as plain values."""
    from models.bundle import Refusal

    row = {
        name: getattr(entry, name) for name in ("id", "state", "created_at", "promoted_at", "deprecated_at", "replaced")
    }
    row |= {"alias": "champion" if entry.state == "green" else "challenger" if challenger else None, "run": entry.run}
    if isinstance(entry.manifest, Refusal):
        return {**row, "promotable": False, "why": str(entry.manifest), "metrics": {}, "synthetic": None, "data": None}
    m = entry.manifest
    why = "passed every gate" if m.promotable else "; ".join(m.reasons)
    return {
        **row,
        "promotable": m.promotable,
        "why": why,
        "metrics": m.metrics,
        "synthetic": m.synthetic,
        "data": m.data,
    }


def _print_models(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    if not rows:
        console.print("no models yet: utp train BARS")
    for row in rows:
        made_up = " [bold yellow]SYNTHETIC DATA[/]" if row["synthetic"] else ""
        alias = f" ({row['alias']})" if row["alias"] else ""
        since = row["promoted_at"] if row["state"] == "green" else row["created_at"]
        console.print(f"[bold]{escape(row['id'])}[/]  {row['state']}{alias}  since {since}{made_up}")
        numbers = [f"{name.replace('median_', '')} {row['metrics'][name]:.4g}" for name in
                   ("median_sharpe", "median_win_rate", "median_trades", "median_coverage_corrected", "skill_tft")
                   if name in row["metrics"]]  # fmt: skip
        if row["data"]:
            console.print(f"  {escape(row['data'])}: {', '.join(numbers)}")
        console.print(f"  {escape(row['why'])}")


def _print_change(change: "Change", mirrored: bool) -> None:
    before = f", {change.before} is deprecated" if change.before else ""
    typer.echo(f"{change.id} is the champion{before}")
    if not mirrored:
        typer.echo("MLflow is not installed here: its aliases follow with the next utp train")


def _print_json(value: Mapping[str, Any]) -> None:
    typer.echo(jsonlib.dumps(value, indent=2, default=str))


def _print_rows(rows: Sequence[Mapping[str, Any]], none: str, as_json: bool) -> None:
    """A table, numbers to the right; of nothing, a sentence."""
    if as_json:
        typer.echo(jsonlib.dumps(rows, indent=2, default=str))
        return
    if not rows:
        typer.echo(none)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, value in rows[0].items():
        table.add_column(name, justify="right" if isinstance(value, int) else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    width = None if sys.stdout.isatty() else 1_000  # a file has room for an id
    Console(highlight=False, width=width).print(table)


def _finite(section: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """JSON knows no NaN."""
    if section is None:
        return None
    missing = {name: None for name, value in section.items() if isinstance(value, float) and not isfinite(value)}
    return {**section, **missing}


def _print_metrics(answer: Mapping[str, Any], sections: Sequence[tuple[str, list[tuple[str, str]]]]) -> None:
    """Two names and values to a line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    data = answer["data"]
    made_up = " [bold yellow]SYNTHETIC DATA[/]" if data["synthetic"] else ""
    days = f"{data['first_day']} to {data['last_day']}, {data['days']:,} days, {data['rows']:,} points"
    console.print(f"[bold]{escape(data['file'])}[/] {days}, risk-free {data['risk_free']:.2%}{made_up}")
    facts = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(2):
        facts.add_column(style="dim")
        facts.add_column(justify="right")
    for k, (_, rows) in enumerate(sections):
        if k:
            facts.add_row()
        for left, right in zip_longest(rows[::2], rows[1::2], fillvalue=("", "")):
            facts.add_row(left[0], left[1], f"  {right[0]}", right[1])
    console.print(facts)


def _print_bench(lines: "Sequence[Line]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from dataflows.bench import goal, machine, shown

    console = Console(highlight=False)
    console.print("  ".join(f"{name} {value}" for name, value in machine().items()), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name in ("", "median", "best", "", "goal", "reached"):
        table.add_column(name, justify="right" if name in ("median", "best") else "left", no_wrap=True)
    group = ""
    for line in lines:
        if line.group != group:
            group = line.group
            table.add_row(f"[bold]{escape(group)}[/]")
        mark = "" if line.reached is None else "[green]yes[/]" if line.reached else "[red]no[/]"
        table.add_row(f"  {escape(line.name)}", shown(line, line.value), shown(line, line.best),
                      "" if line.unit == "share" else line.unit, goal(line), mark)  # fmt: skip
    console.print(table)


def _print_forecasts(forecasts: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    """Who forecast, and how many rows had one."""
    for model in forecasts["models"]:
        marks = [word for word, holds in (("made-up training data", model["synthetic"]),
                                          ("not promotable", not model["promotable"]),
                                          ("uncalibrated", not model["calibrated"])) if holds]  # fmt: skip
        typer.echo(f"model {model['id']}, trained up to {model['trained_upto'][:10]} {', '.join(marks)}".rstrip())
    missing = ", ".join(f"{reason} {rows:,}" for reason, rows in forecasts["missing"].items())
    typer.echo(f"forecasts: {counts['computed']:,} computed, {counts['reused']:,} kept from before; "
               f"in force at {forecasts['rows']:,} rows; none: {missing or 'never'}")  # fmt: skip
    if forecasts["drift_alarms"]:
        first = forecasts["first_drift_alarm"]
        typer.echo(
            f"drift: {forecasts['drift_alarms']} shards stopped a model, {first['model']} first at {first['ts']}"
        )
    if "first_failure" in counts:
        typer.echo(f"{counts['failed']:,} forecasts failed, the first: {counts['first_failure']}")


def _print_summary(summary: Mapping[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    counts, data = summary["counts"], summary["data"]
    label = escape(str(summary["bars"].get("label", "")))
    made_up = " [bold yellow]SYNTHETIC DATA[/]" if summary["synthetic"] else ""
    first, last = data["first_slice"] or data["after"], data["last_slice"] or data["upto"]
    console.print(f"[bold]{label}[/] {summary['timeframe']}, {first[:10]} to {last[:10]}{made_up}")
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column(justify="right")
    facts.add_column(style="dim")
    facts.add_column(justify="right")
    ratio, rate = summary["profit_factor"], summary["win_rate"]
    for row in (
        ("return", f"{summary['return']:+.2%}", "  trades", f"{counts['trades']:,}"),
        (
            "final equity",
            f"{summary['final_equity']:,.2f}",
            "  win rate",
            "-" if rate is None else f"{rate:.1%}",
        ),
        (
            "max drawdown",
            f"{summary['max_drawdown']:.2%}",
            "  profit factor",
            "-" if ratio is None else f"{ratio:.2f}",
        ),
        (
            "bars / refused",
            f"{counts['bars']:,} / {counts['refused']:,}",
            "  still open",
            f"{counts['open_positions']:,}",
        ),
    ):
        facts.add_row(*row)
    console.print(facts)
    funnel = Table(box=None, pad_edge=False)
    for name, side in (
        ("from bars to fills", "left"),
        ("count", "right"),
        ("lost", "right"),
        ("mostly", "left"),
    ):
        funnel.add_column(name, justify="right" if side == "right" else "left")
    for stage in summary["funnel"]:
        reason = f"{stage['commonest_reason']} ({stage['reason_count']:,})" if stage["lost"] else ""
        funnel.add_row(stage["stage"], f"{stage['count']:,}", f"{stage['lost']:,}", reason)
    console.print(funnel)
    if summary["off"]:
        console.print(f"off: {', '.join(summary['off'])}")
    if counts["refused"] > counts["bars"]:
        most = max(counts["refused_by_reason"], key=counts["refused_by_reason"].__getitem__)
        console.print(
            f"[bold yellow]most bars were refused[/] ({most}): is {summary['timeframe']} their timeframe, "
            "and is ts the bar's end in UTC?"
        )
    console.print(reconciliation(summary))
    console.print(f"report: {escape(str(out / 'report.html'))}")


def reconciliation(summary: Mapping[str, Any]) -> str:
    """The account's sum in one line; it holds to the tick, or the run would have failed."""
    dividends = f" + dividends {summary['dividends']:,.2f}" if summary["dividends"] else ""
    return (
        f"initial {summary['initial_cash']:,.2f} + realised {summary['realised_pnl']:,.2f}"
        f" + unrealised {summary['unrealised_pnl']:,.2f} - fees {summary['fees']:,.2f}{dividends}"
        f" = final {summary['final_equity']:,.2f} USD"
    )


def _print_answer(answer: Mapping[str, Any], ts: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from schemas.calendar import NEW_YORK

    console = Console(highlight=False)
    ts = answer["ts"] if isinstance(answer["ts"], int) else ts
    local = datetime.fromtimestamp(ts // 1_000_000_000, NEW_YORK)
    utc = local.astimezone(UTC)
    console.print(f"[bold]{escape(answer['symbol'])}[/] {local:%Y-%m-%d %H:%M} New York ({utc:%Y-%m-%dT%H:%M:%SZ})")
    console.print(escape(answer["sentence"]), soft_wrap=True)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    for name in ("bar", "features", "votes"):
        facts.add_row(name, escape(_pairs(answer[name])))
    for name in ("regime", "score", "confidence", "direction", "reason"):
        facts.add_row(name, escape(_plain(answer[name])))
    if answer["verdict"]:
        facts.add_row("verdict", escape(_pairs(answer["verdict"])))
    for name in ("orders", "fills"):
        for row in answer[name]:
            facts.add_row(name[:-1], escape(_pairs(row)))
    console.print(facts)


def _pairs(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.8g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
