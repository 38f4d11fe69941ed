"""`utp live-demo`, `kill`, `resume`, `replay`, `archive`, `compare`, `doctor`: the live flow from the command line."""

import json as jsonlib
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflows.options import ACCOUNT, FILE, JSON, SETS
from dataflows.terminal import print_json, print_rows
from schemas.errors import UserError

if TYPE_CHECKING:
    from dataflows.explanation import Explanation
    from infra.forecast_log import Counts

_REASON = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("live-demo", short_help="The whole live platform on this machine, until Ctrl-C.")(demo)
    app.command(short_help="Send the account's orders to the broker, until Ctrl-C.")(execute)
    app.command(short_help="Stop trading: cancel entries, close positions, refuse new ones.")(kill)
    app.command(short_help="Take a kill or a latch back.")(resume)
    app.command(short_help="Decide a live day anew from the log and compare it order by order.")(replay)
    app.command(short_help="The log of slices as Parquet, a file per session.")(archive)
    app.command(short_help="Where two runs differ first.")(compare)
    app.command(short_help="What the live flow stands on: log, store, settings, clock, calendar.")(doctor)


def demo(
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Everything is below.")] = Path("var/demo"),
    exchange: Annotated[
        bool, typer.Option("--exchange", help="Orders go to an exchange of its own instead of the simulated venue.")
    ] = False,
) -> None:
    """Run an embedded broker, a paced market, the live flow and the simulated venue, until Ctrl-C."""
    from dataflows.live_demo import run

    run(folder, exchange)


def execute(account: ACCOUNT = None, settings: FILE = None, sets: SETS = None) -> None:
    """Work off account.orders at the broker that the environment names, and write what becomes of them to the log."""
    import logging

    from dataflows.execution import run
    from infra.settings import load

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run(load(settings, [*(sets or ()), *([f"run.account={account}"] if account else [])]), typer.echo)


def kill(
    reason: _REASON,
    direct: Annotated[bool, typer.Option("--direct", help="At the broker, at once, without the log.")] = False,
    account: ACCOUNT = None,
    settings: FILE = None,
    sets: SETS = None,
    json: JSON = False,
) -> None:
    """Write a kill into the account's log of commands; it acts at its place there and survives restarts.

    With --direct the broker is told first: approvals are revoked, all open orders cancelled, and positions closed if
    halts.kill_flatten is on. Exit code 1 if anything is left there.
    """
    if not direct:
        _command("kill", reason, account, settings, sets)
        return
    from dataflows.kill import run
    from infra.settings import load

    done = run(load(settings, [*(sets or ()), *([f"run.account={account}"] if account else [])]), reason)
    if json:
        typer.echo(jsonlib.dumps(done, indent=2))
    else:
        typer.echo(f"cancelled {done['cancelled']} orders; closed: {', '.join(done['closed']) or 'nothing'}; "
                   f"left: {', '.join(done['left']) or 'nothing'}; {done['log']}")  # fmt: skip
    if done["left"]:
        raise typer.Exit(1)


def resume(reason: _REASON, account: ACCOUNT = None, settings: FILE = None, sets: SETS = None) -> None:
    """Write a resume: the kill switch and the drawdown latch are released, losses are measured anew."""
    _command("resume", reason, account, settings, sets)


def _command(kind: str, reason: str, account: str | None, settings: Path | None, sets: list[str] | None) -> None:
    from dataflows.commands import send
    from infra.kafka import cluster
    from infra.settings import load
    from schemas.records import CommandKind

    name = account or load(settings, sets or ()).run.account
    offset = send(cluster(), name, CommandKind(kind), reason)
    typer.echo(f"{kind} for {name} is in the log of commands at offset {offset}; the running flow obeys it there")


def replay(
    day: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="The session.")],
    account: ACCOUNT = None,
    snapshots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Else <live.folder>/snapshots/<account>.")
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Ask the models again, and compare with what was recorded.")
    ] = False,
    settings: FILE = None,
    sets: SETS = None,
    json: JSON = False,
) -> None:
    """Decide a session anew from the log, starting from the snapshot before it. Exit code 1 if anything differs."""
    from dataflows.replay import run
    from infra.kafka import cluster
    from infra.settings import load

    try:
        session = date.fromisoformat(day)
    except ValueError:
        raise UserError(f"--day {day}: want a date, as 2026-03-04") from None
    chosen = [*(sets or ()), *([f"run.account={account}"] if account else [])]
    outcome = run(load(settings, chosen, log=True), cluster(), session, snapshots, recompute)
    if json:
        told = outcome.forecasts._asdict() if outcome.forecasts is not None else None
        typer.echo(jsonlib.dumps(outcome._asdict() | {"forecasts": told}, indent=2))
    else:
        if outcome.forecasts is not None:
            _print_forecasts(outcome.forecasts)
        for line in outcome.differences:
            typer.echo(line)
        same = "the same" if not outcome.differences else "NOT the same"
        typer.echo(f"{day}: {outcome.slices} slices and {outcome.orders} orders, decided again: {same}")
    if outcome.differences:
        raise typer.Exit(1)


def _print_forecasts(counts: "Counts") -> None:
    typer.echo(f"forecasts: {counts.read:,} as recorded, {counts.computed:,} computed")
    if counts.compared:
        typer.echo(f"of these {counts.compared:,} were recorded, too; largest difference {counts.largest:g}")


def archive(
    out: Annotated[Path, typer.Option(metavar="DIR", help="One file per session goes here.")] = Path("archive/slices"),
    late: Annotated[Path | None, typer.Option(metavar="DIR", help="Late bars go here; else beside it.")] = None,
    topic: Annotated[str, typer.Option(metavar="NAME")] = "market.slices",
) -> None:
    """Write the sessions that are closed and not archived yet. A backtest reads the folder like any other bars.

    Bars that came after their slice have files of their own, which are made anew while more come.
    """
    from dataflows.archive import write, write_late
    from infra.kafka import cluster

    beside = late or out.parent / "late"
    for paths, folder, what in ((write(cluster(), topic, out), out, "sessions"),
                                (write_late(cluster(), beside), beside, "sessions with late bars")):  # fmt: skip
        files = 0
        for path in paths:
            typer.echo(path)
            files += 1
        typer.echo(f"{files} {what} written to {folder}")


def compare(
    ours: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or one of runs by session.")],
    theirs: Annotated[Path, typer.Argument(metavar="RUN", help="The other.")],
    explained: Annotated[
        bool, typer.Option("--explain", help="Order by order; always, where one run alone was at a broker.")
    ] = False,
    json: JSON = False,
) -> None:
    """Compare two runs table by table. Exit code 1 and the first differing row of each table if they differ.

    Of a run at a broker and its backtest each order's difference is explained by what the broker reported: exit code 1
    if anything is left.
    """
    from dataflows.compare import compare as differences
    from dataflows.explanation import UNTOUCHED, at_broker, explain

    first, second = _runs(ours), _runs(theirs)
    explained = explained or at_broker(first) != at_broker(second)
    found = differences(first, second, UNTOUCHED) if explained else differences(first, second)
    if not explained:
        if json:
            print_json({"differences": [one._asdict() for one in found]})
        else:
            for one in found:
                typer.echo(one)
            if not found:
                typer.echo("the same")
        if found:
            raise typer.Exit(1)
        return
    why = explain(first, second)
    if json:
        print_json({"differences": [one._asdict() for one in found], **why.described()})
    else:
        for one in found:
            typer.echo(one)
        _tell(why)
    if found or not why.whole:
        raise typer.Exit(1)


def _tell(why: "Explanation") -> None:
    """The orders that differ, and the sums."""
    rows = [{
        "order": line.order, "shares": line.shares[0] if line.shares[0] == line.shares[1] else
        f"{line.shares[0]}, there {line.shares[1]}", "here": _number(line.price[0], "{:,.4f}"),
        "there": _number(line.price[1], "{:,.4f}"), "bps": _number(line.bps, "{:+.2f}"),
        "fee": f"{line.fee:+.2f}" if line.fee else "", "seconds": f"{line.seconds:+.0f}" if line.seconds else "",
        "USD": f"{line.usd:+,.4f}", "": line.kind.upper() if line.kind == "unexplained" else line.kind, "why": line.why,
    } for line in why.lines if line.kind != "same"]  # fmt: skip
    print_rows(rows, "every order is the same in both", as_json=False)
    for note in why.notes:
        typer.echo(f"UNEXPLAINED: {note}")
    counts = ", ".join(f"{count} {kind}" for kind, count in why.counts().items() if count)
    here, there = why.equity
    typer.echo(f"orders: {counts or 'none'}")
    typer.echo(f"equity {here:,.4f}, there {there:,.4f}: {here - there:+,.4f} USD, of which explained "
               f"{why.explained:+,.4f}, unexplained {why.unexplained:+,.4f}")  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _runs(folder: Path) -> list[Path]:
    """A run, or the runs of a folder, by name."""
    if (folder / "summary.json").exists():
        return [folder]
    runs = sorted(path.parent for path in folder.glob("*/summary.json"))
    if not runs:
        raise UserError(f"{folder}: no finished run (no summary.json in it, nor in its folders)")
    return runs


def doctor(
    recovery: Annotated[Path, typer.Option(metavar="DIR", help="Where recovery stores are.")] = Path("var/recovery"),
    settings: FILE = None,
    sets: SETS = None,
    json: JSON = False,
) -> None:
    """Check what the live flow stands on. Exit code 1 if something is wrong."""
    from dataflows.doctor import examine
    from infra.settings import load

    findings = examine(load(settings, sets or ()), recovery)
    if json:
        rows: list[dict[str, Any]] = [finding._asdict() for finding in findings]
        typer.echo(jsonlib.dumps(rows, indent=2))
    else:
        for one in findings:
            typer.echo(f"{'ok ' if one.is_well else 'NOT'} {one.subject:<18}{one.message}")
    if not all(one.is_well for one in findings):
        raise typer.Exit(1)
