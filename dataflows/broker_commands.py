"""`utp approve`, `revoke`, `positions`, `orders`, `reconcile`, `exchange`: the broker from the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataflows.options import ACCOUNT, FILE, ISSUER, JSON, SETS, SYMBOLS, settings_of, symbols_of
from dataflows.terminal import print_json, print_rows
from schemas.errors import UserError

if TYPE_CHECKING:
    pass


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command(short_help="Let the live flow open positions, for a while.")(approve)
    app.command(short_help="Take the approval back, at once.")(revoke)
    app.command(short_help="What the broker says we hold.")(positions)
    app.command(short_help="The broker's open orders.")(orders)
    app.command(short_help="Where book and broker differ.")(reconcile)
    app.command(short_help="An exchange on this machine to try orders on.")(exchange)


def approve(
    minutes: Annotated[int, typer.Option(metavar="N", help="For how long, at most 1440.")],
    scope: Annotated[str, typer.Option(metavar="entries|exits", help="What is approved.")] = "entries",
    account: ACCOUNT = None,
    issuer: ISSUER = None,
    log: Annotated[
        bool, typer.Option("--log", help="Tell the account too: after a revoke in its log, or if it needs approval.")
    ] = False,
    settings: FILE = None,
    sets: SETS = None,
    json: JSON = False,
) -> None:
    """Sign a human's approval: without one no position is opened. Exits need none."""
    given = settings_of(settings, sets, None, None)
    from dataflows import broker as command

    done = command.approve(given, minutes=minutes, scope=scope, account=account, issuer=issuer, log=log)
    if json:
        print_json(done)
        return
    typer.echo(
        f"{done['account']}: {done['scope']} approved by {done['issuer']} until {done['until']} ({done['file']})"
    )
    for reason, message in done["shut"].items():
        typer.echo(f"still shut: {reason} ({message})")


def revoke(issuer: ISSUER = None, settings: FILE = None, sets: SETS = None, json: JSON = False) -> None:
    """Take back every approval before the next order; exits stay allowed."""
    given = settings_of(settings, sets, None, None)
    from dataflows import broker as command

    done = command.revoke(given, issuer=issuer)
    if json:
        print_json(done)
    else:
        typer.echo(f"revoked by {done['by']} ({done['file']})")


def positions(settings: FILE = None, sets: SETS = None, json: JSON = False) -> None:
    """List the broker's positions."""
    given = settings_of(settings, sets, None, None)
    from dataflows import broker as command

    print_rows(command.positions(given), "no positions", json)


def orders(settings: FILE = None, sets: SETS = None, json: JSON = False) -> None:
    """List the broker's open orders, bracket legs on their own."""
    given = settings_of(settings, sets, None, None)
    from dataflows import broker as command

    print_rows(command.orders(given), "no open orders", json)


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say it; nothing is changed.")] = False,
    reports: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Execution reports, one JSON object a line; else the log's.")
    ] = None,
    account: ACCOUNT = None,
    settings: FILE = None,
    sets: SETS = None,
    json: JSON = False,
) -> None:
    """Compare book and broker, repair what is safe by events in the log, halt entries on the rest: then exit code 1."""
    if reports is not None and not dry_run:
        raise UserError(f"--reports {reports}: a file cannot be repaired; want --dry-run with it")
    chosen = [*(sets or []), *([f"run.account={account}"] if account else [])]
    given = settings_of(settings, chosen, None, None)
    from dataflows import broker as command
    from schemas.events import word

    found = command.compare(given, reports, account) if dry_run else command.repair(given)
    rows = [
        {"difference": word(f.difference), "symbol": f.symbol, "order": f.order_id, "ours": f.ours, "theirs": f.theirs,
         "repair": word(f.repair), "halts": f.halts}
        for f in found
    ]  # fmt: skip
    print_rows(rows, "book and broker agree", json)
    if any(f.halts for f in found):
        raise typer.Exit(1)


def exchange(
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="N", help="0 takes any that is free.")] = 8900,
    bars: Annotated[str | None, typer.Option(metavar="BARS", help="Prices from bars; else they wander.")] = None,
    symbols: SYMBOLS = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the wandering prices, and of all ids.")] = 7,
    cash: Annotated[int, typer.Option(min=1, max=1_000_000_000, metavar="USD")] = 100_000,
    seconds: Annotated[float, typer.Option(min=0.0, max=3_600.0, metavar="S", help="Between two prices.")] = 1.0,
    steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after so many prices.")] = None,
    settings: FILE = None,
    sets: SETS = None,
    json: JSON = False,
) -> None:
    """Serve Alpaca's trading API on 127.0.0.1, with dummy keys and a ledger of its own, until interrupted."""
    given, names = settings_of(settings, sets, None, None), symbols_of(symbols)
    from dataflows import broker as command

    feed = command.of_bars(bars, given, names) if bars else command.walk(names or ["AAPL", "MSFT", "SPY"], seed)
    done = command.serve(feed, port=port, seed=seed, cash_usd=cash, seconds=seconds, steps=steps,
                         told=lambda line: typer.echo(line, err=json))  # fmt: skip
    if json:
        print_json(done)
    else:
        typer.echo(", ".join(f"{name} {value}" for name, value in done.items()))
