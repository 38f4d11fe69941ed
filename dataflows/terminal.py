"""What the user sees while something runs, and tables of what came out."""

import json as jsonlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    pass

Progress = Callable[..., None]  # rows done, rows in all, and of a backtest: trades, equity in USD


@contextmanager
def progress_bar(name: str) -> Iterator[Progress | None]:
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
def steps_bar(name: str) -> Iterator[Callable[[str, int, int, str], None]]:
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


def print_json(value: Mapping[str, Any]) -> None:
    """A value as JSON, indented."""
    typer.echo(jsonlib.dumps(value, indent=2, default=str))


def print_rows(rows: Sequence[Mapping[str, Any]], none: str, as_json: bool) -> None:
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


def finite(section: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """JSON knows no NaN."""
    if section is None:
        return None
    missing = {name: None for name, value in section.items() if isinstance(value, float) and not isfinite(value)}
    return {**section, **missing}
