"""What the commands' options are called, and what a user may write there."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import UserError

if TYPE_CHECKING:
    from infra.settings import Settings

BARS = Annotated[str, typer.Argument(metavar="BARS", help="Bar files, a folder of them, or synthetic:...")]
FILE = Annotated[Path | None, typer.Option("--settings", metavar="FILE", help="A TOML file; see settings.toml.")]
SETS = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting; may be repeated. Wins over the file."),
]
SYMBOLS = Annotated[str | None, typer.Option(metavar="A,B", help="Only these symbols.")]
FROM = Annotated[
    str | None,
    typer.Option("--from", metavar="DATE", help="First session, or the first bar end as 2024-01-02T10:00-05:00."),
]
TO = Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last session or bar end, inclusive.")]
TIMEFRAME = Annotated[str | None, typer.Option(metavar="1m|5m|1h|1d|...", help="The bars' length; else found out.")]
PROFILE = Annotated[str | None, typer.Option(metavar="NAME", help="Built-in settings: research.")]
QUOTES = Annotated[str | None, typer.Option(metavar="FILE", help="Quotes: symbol, ts, bid, ask.")]
EARNINGS = Annotated[str | None, typer.Option(metavar="FILE", help="Report dates: symbol, date, known_from.")]
ACTIONS = Annotated[
    str | None, typer.Option(metavar="FILE", help="Splits and dividends: symbol, date, split, dividend.")
]
VOLUMES = Annotated[str | None, typer.Option(metavar="FILE", help="Reference volumes: symbol, average_volume.")]
ACCOUNT = Annotated[str | None, typer.Option(metavar="NAME", help="Else run.account.")]
ISSUER = Annotated[str | None, typer.Option(metavar="NAME", help="Who gives it; else the user's name.")]
HISTORY = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Which model was in force from when; see docs/serving.md.")
]
FORECASTS = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where forecasts are kept for the next run; else in the cache.")
]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def settings_of(
    file: Path | None, sets: list[str] | None, profile: str | None, timeframe: str | None, *, log: bool = False
) -> "Settings":
    """The settings of a command line: a file, single settings, a profile; `log`: for decisions from the log."""
    from infra.settings import load

    more = [] if timeframe is None else [f"run.timeframe={timeframe}"]
    return load(file, [*(sets or []), *more], profile=profile, log=log)


def symbols_of(text: str | None) -> list[str]:
    """--symbols as names in upper case, each once."""
    if text is None:
        return []
    names = [name.strip().upper() for name in text.split(",")]
    if not all(names):
        raise UserError(f"--symbols {text!r}: want names with commas between them, as AAPL,MSFT")
    return list(dict.fromkeys(names))


def first_of(text: str | None) -> int | None:
    """--from as the earliest bar end, UTC ns: a date's bars end after its midnight in New York."""
    if text is None:
        return None
    day = _date(text)
    return _ns(_midnight(day)) + 1 if day else _ns(_aware("--from", text))


def last_of(text: str | None) -> int | None:
    """--to as the latest bar end, UTC ns."""
    if text is None:
        return None
    day = _date(text)
    return _ns(_midnight(day + timedelta(days=1))) if day else _ns(_aware("--to", text))


def span_of(start: str | None, stop: str | None) -> tuple[int | None, int | None]:
    """--from and --to as the earliest and the latest bar end, UTC ns; a UserError where nothing lies between them."""
    first, last = first_of(start), last_of(stop)
    if first is not None and last is not None and first > last:
        raise UserError(f"--from {start} --to {stop}: nothing lies between them")
    return first, last


def moment_of(option: str, text: str) -> int:
    """An instant with its time zone, UTC ns."""
    return _ns(_aware(option, text))


def instant_of(text: str) -> int:
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
