"""`utp train`, `utp models`: models from the command line."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflows.options import (
    ACTIONS,
    BARS,
    EARNINGS,
    FILE,
    FROM,
    JSON,
    PROFILE,
    QUOTES,
    SETS,
    SYMBOLS,
    TIMEFRAME,
    TO,
    VOLUMES,
    moment_of,
    settings_of,
    span_of,
    symbols_of,
)
from dataflows.terminal import finite, print_json, steps_bar
from schemas.errors import UserError

if TYPE_CHECKING:
    from infra.settings import Settings
    from models.registry import Change, Entry, Registry


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command(short_help="Bars in; a forecasting model and its report out.")(train)
    app.add_typer(models_app, name="models", short_help="The models of a store; promote and roll back.")


models_app = typer.Typer(
    help="The models of a store: list, promote, roll back.", add_completion=False, invoke_without_command=True
)
_STORE = Annotated[Path, typer.Option("--store", metavar="DIR", help="Where models are kept.")]
_MODELS = Path("models_store")
_ANNOUNCED = Annotated[
    bool | None,
    typer.Option("--announce/--no-announce", help="Tell the live flow; by default where a cluster is named."),
]
_FROM_SLICE = Annotated[
    str | None,
    typer.Option("--from-slice", metavar="TIME", help="Slice from which it acts; else the next that begins."),
]


def train(
    bars: BARS,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where models are kept; made where it is not there.")] = Path(
        "models_store"
    ),
    folds: Annotated[int | None, typer.Option(min=1, metavar="N", help="Folds, as training.folds.count.")] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make it the champion if it passes every gate.")] = False,
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
    json: JSON = False,
) -> None:
    """Fit a model on rolling folds, hold it against the gates, and keep it with its report."""
    more = [*(sets or []), *([] if folds is None else [f"training.folds.count={folds}"])]
    given = settings_of(settings, more, profile, timeframe)
    names, (first, last) = symbols_of(symbols), span_of(start, stop)
    from dataflows import train as command
    from infra.reference import Files

    files = Files(quotes, earnings, actions, volumes)
    with steps_bar("train") as progress:
        summary = command.run(
            bars, given, out, symbols=names, start=first, stop=last, files=files, promote=promote, progress=progress
        )
    if json:
        print_json({**summary, "metrics": finite(summary["metrics"]), "models": list(map(finite, summary["models"]))})
    else:
        _print_training(summary)


@models_app.callback()
def models(context: typer.Context, store: _STORE = _MODELS, json: JSON = False) -> None:
    """List models, the latest first, and why each was promoted or refused."""
    if context.invoked_subcommand is not None:
        context.obj = store
        return
    from models.registry import Registry

    registry = Registry(store)
    entries, challenger = registry.models(), registry.challenger()
    rows = [_entry(entry, challenger is not None and entry.id == challenger.id) for entry in entries]
    if json:
        print_json({"models": rows, "history": [change._asdict() for change in registry.history()]})
    else:
        _print_models(rows)


@models_app.command(short_help="Make a model the champion.")
def promote(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="ID", help="The id, or how it begins.")],
    announced: _ANNOUNCED = None,
    from_slice: _FROM_SLICE = None,
    settings: FILE = None,
    sets: SETS = None,
) -> None:
    """Make a model that passed every gate the champion; the one before is deprecated."""
    given = settings_of(settings, sets, None, None)
    _change(
        context.obj, given, announced, from_slice, lambda registry, now: registry.promote(registry.full_id(model), now)
    )


@models_app.command(short_help="Go back to the champion before.")
def rollback(
    context: typer.Context,
    announced: _ANNOUNCED = None,
    from_slice: _FROM_SLICE = None,
    settings: FILE = None,
    sets: SETS = None,
) -> None:
    """Make the champion before the present one the champion again."""
    given = settings_of(settings, sets, None, None)
    _change(context.obj, given, announced, from_slice, lambda registry, now: registry.rollback(now))


@models_app.command("announce", short_help="Tell the live flow which model is in force.")
def announce_model(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[ID]", help="Any bundle of the store, or none.")] = None,
    from_slice: _FROM_SLICE = None,
    settings: FILE = None,
    sets: SETS = None,
) -> None:
    """Write into the log that a model is in force, by default the champion; `none` ends all forecasts."""
    from dataflows import announce

    chosen = model or announce.champion(context.obj)
    _announcing(True, from_slice)(settings_of(settings, sets, None, None), context.obj, chosen)


def _change(
    store: Path, settings: "Settings", announced: bool | None, from_slice: str | None,
    act: Callable[["Registry", str], "Change"],
) -> None:  # fmt: skip
    """Another champion: said to the user, to MLflow and to the log."""
    from dataflows import train as command
    from models.registry import Registry

    registry, tell = Registry(store), _announcing(announced, from_slice)
    change = act(registry, command.now())
    _print_change(change, command.mirrored(registry, settings))
    tell(settings, registry.store, change.id)


def _announcing(wanted: bool | None, from_slice: str | None) -> Callable[["Settings", Path, str], None]:
    """What tells the log of a model; a cluster that is not there is found out before anything is changed."""
    from dataflows import announce
    from dataflows.flows import grid
    from infra.kafka import cluster
    from schemas.identity import iso

    since = None if from_slice is None else moment_of("--from-slice", from_slice)
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
