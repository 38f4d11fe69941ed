"""`utp backtest`, `features`, `drift`, `metrics`, `report`, `why`, `bench`: runs from the command line."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflows.options import (
    ACTIONS,
    BARS,
    EARNINGS,
    FILE,
    FORECASTS,
    FROM,
    HISTORY,
    JSON,
    PROFILE,
    QUOTES,
    SETS,
    SYMBOLS,
    TIMEFRAME,
    TO,
    VOLUMES,
    instant_of,
    settings_of,
    span_of,
    symbols_of,
)
from dataflows.terminal import finite, print_json, progress_bar
from schemas.errors import UserError

if TYPE_CHECKING:
    from dataflows.bench import Line


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command(short_help="Bars in; tables, summary and report out.")(backtest)
    app.command(short_help="Bars in; features in one Parquet file out.")(features)
    app.command(short_help="Does a model still see what it was trained on?")(drift)
    app.command(short_help="How good a run or a curve was.")(metrics)
    app.command(short_help="A finished run's page, made again.")(report)
    app.command(short_help="Why a bar led to an order, or did not.")(why)
    app.command(short_help="How fast it is, beside its goals.")(bench)


def backtest(
    bars: BARS,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder; a former run there is replaced.")] = Path(
        "runs/backtest"
    ),
    settings: FILE = None,
    sets: SETS = None,
    symbols: SYMBOLS = None,
    start: FROM = None,
    stop: TO = None,
    timeframe: TIMEFRAME = None,
    profile: PROFILE = None,
    quotes: QUOTES = None,
    earnings: EARNINGS = None,
    actions: ACTIONS = None,
    volumes: VOLUMES = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A curve to stand beside; else SPY or QQQ of the bars, or all of them."),
    ] = None,
    models: HISTORY = None,
    forecasts: FORECASTS = None,
    json: JSON = False,
    workers: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Threads of the dataflow.")] = 1,
    loop: Annotated[bool, typer.Option(help="A plain loop instead of the dataflow; the same result.")] = False,
) -> None:
    """Replay bars through signals, rules and the simulated venue; write tables and a report."""
    from dataflows.sources import SCHEME

    given = settings_of(settings, sets, profile, timeframe, log=bars.startswith(SCHEME))
    names, (first, last) = symbols_of(symbols), span_of(start, stop)
    from dataflows import backtest as command
    from infra.reference import Files

    files = Files(quotes, earnings, actions, volumes)
    plan = command.plan(bars, given, out, symbols=names, start=first, stop=last, files=files, benchmark=benchmark,
                        models=models, forecasts=forecasts)  # fmt: skip
    with progress_bar("backtest") as progress:
        summary = command.run(plan, workers=workers, loop=loop, progress=progress)
    if json:
        print_json(summary)
    else:
        _print_summary(summary, out)
        if "forecasts" in summary and plan.forecaster is not None:
            _print_forecasts(summary["forecasts"], plan.forecaster.counts())


def features(
    bars: BARS,
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="Where the features go.")],
    settings: FILE = None,
    sets: SETS = None,
    symbols: SYMBOLS = None,
    start: FROM = None,
    stop: TO = None,
    timeframe: TIMEFRAME = None,
    profile: PROFILE = None,
    actions: ACTIONS = None,
    json: JSON = False,
) -> None:
    """Write each bar's features, as the signals see them, to one Parquet file."""
    given = settings_of(settings, sets, profile, timeframe)
    names, (first, last) = symbols_of(symbols), span_of(start, stop)
    from dataflows import features as command
    from infra.reference import Files

    files = Files(actions=actions)
    with progress_bar("features") as progress:
        done = command.run(bars, given, out, symbols=names, start=first, stop=last, files=files, progress=progress)
    if json:
        print_json(done)
    else:
        typer.echo(f"{done['rows']:,} rows, {len(done['columns'])} columns: {out}")
        typer.echo(", ".join(done["columns"]))


def drift(
    bars: BARS,
    settings: FILE = None,
    sets: SETS = None,
    symbols: SYMBOLS = None,
    start: FROM = None,
    stop: TO = None,
    timeframe: TIMEFRAME = None,
    quotes: QUOTES = None,
    earnings: EARNINGS = None,
    actions: ACTIONS = None,
    volumes: VOLUMES = None,
    models: HISTORY = None,
    forecasts: FORECASTS = None,
    json: JSON = False,
) -> None:
    """Forecast over bars and compare with training: edge, coverage by month, stability of each feature."""
    given = settings_of(settings, sets, None, timeframe)
    names, (first, last) = symbols_of(symbols), span_of(start, stop)
    from dataflows import drift as command
    from infra.reference import Files

    files = Files(quotes, earnings, actions, volumes)
    told = command.run(bars, given, symbols=names, start=first, stop=last, files=files, models=models,
                       forecasts=forecasts)  # fmt: skip
    if json:
        print_json(told)
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


def metrics(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A run's folder, or Parquet or CSV with ts and equity or returns.")
    ],
    benchmark: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another curve; of a file with several symbols, SPY.")
    ] = None,
    risk_free: Annotated[float, typer.Option(metavar="RATE", help="Per year, a fraction.")] = 0.04,
    json: JSON = False,
) -> None:
    """Compute return, risk and trade statistics, annual ones from daily closes and 252 days."""
    if not -1 < risk_free < 1:
        raise UserError(f"--risk-free {risk_free:g}: want a fraction per year, as 0.04")
    from dataflows import metrics as command

    answer = command.metrics(file, benchmark, risk_free)
    if json:
        print_json({name: finite(section) for name, section in answer.items()})
    else:
        _print_metrics(answer, command.lines(answer))


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")]) -> None:
    """Write report.html anew from the run's summary and tables; the same ones give the same page."""
    from dataflows import report as command

    typer.echo(f"report: {command.again(run)}")


def why(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL")],
    ts: Annotated[str, typer.Argument(metavar="TS", help='End of the bar: "2024-01-02 10:30" in New York, or ISO.')],
    json: JSON = False,
) -> None:
    """Say why a bar of a run led to an order, or why it did not."""
    instant = instant_of(ts)
    from dataflows import why as command

    answer = command.explain(run, symbol.upper(), instant)
    if json:
        print_json(answer)
    else:
        _print_answer(answer, instant)


def bench(
    size: Annotated[str | None, typer.Option(metavar="A|B|C", help="Only the throughput of this size.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions.")] = False,
    json: JSON = False,
) -> None:
    """Measure throughput, start, memory and latency; every measurement in a fresh process. Takes minutes."""
    from dataflows import bench as command

    if size is not None and size.upper() not in command.SIZES:
        raise UserError(f"--size {size}: want one of {', '.join(command.SIZES)}")
    names = [] if size is None else [size.upper()]
    lines = command.run(names, quick=quick, progress=lambda part: typer.echo(f"bench: {part}", err=True))
    if json:
        print_json(command.as_json(lines))
    else:
        _print_bench(lines)


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

    from dataflows.sources import SCHEME
    from infra.result_header import CLOSED

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
    if any(CLOSED in name for name in summary["off"]):
        setting = "live.missing_data" if str(summary["bars"]["source"]).startswith(SCHEME) else "filters.missing_data"
        console.print(f"[bold yellow]{CLOSED}[/] what has no source: --set {setting}=off switches it off instead")
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
