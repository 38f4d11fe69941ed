"""Writes `schemas/xnys.py` from the library that knows the exchange's calendar: `python -m infra.sessions`.

Loading exchange_calendars, and with it pandas, takes half a second and 46 MB in each process; what it says of one
exchange is some 700 dates. A test holds that they are the library's.
"""

import textwrap
from datetime import date
from importlib.metadata import version
from pathlib import Path

from schemas import xnys
from schemas.calendar import FIRST, LAST, USUAL_CLOSE, USUAL_OPEN

PATH = Path(xnys.__file__)
_WIDTH = 116


def text() -> str:
    """The module's source."""
    import exchange_calendars

    first, last = date(FIRST.year - 1, 1, 1), date(LAST.year + 1, 12, 31)  # a spare year on each side
    schedule = exchange_calendars.get_calendar("XNYS", start=first, end=last).schedule
    there, closed, hours = set(), [], []
    for day, opens, closes in zip(schedule.index, schedule["open"], schedule["close"], strict=True):
        there.add(day.date())
        minutes = [at.hour * 60 + at.minute for at in (each.tz_convert("America/New_York") for each in (opens, closes))]
        if minutes != [USUAL_OPEN, USUAL_CLOSE]:
            hours.append(f"{day.date()}/{minutes[0]}/{minutes[1]}")
    for number in range(first.toordinal(), last.toordinal() + 1):
        day = date.fromordinal(number)
        if day.weekday() < 5 and day not in there:
            closed.append(str(day))
        if day.weekday() >= 5 and day in there:
            raise ValueError(f"{day}: a session at a weekend, which schemas.calendar does not know")
    return (
        f'"""The New York Stock Exchange\'s days off and unusual hours, by exchange_calendars '
        f'{version("exchange_calendars")}.\n\nWritten by `python -m infra.sessions`.\n"""\n\n'
        f"# Weekdays without a session.\nCLOSED = {_lines(closed)}\n\n"
        f"# Sessions of other minutes of New York's day than {USUAL_OPEN} to {USUAL_CLOSE}.\nHOURS = {_lines(hours)}\n"
    )


def _lines(words: list[str]) -> str:
    return '"""\n' + "\n".join(textwrap.wrap(" ".join(words), _WIDTH, break_on_hyphens=False)) + '\n"""'


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
