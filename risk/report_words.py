"""Small pieces of the report: numbers, times and words as text, rows as tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from html import escape
from typing import Any, NamedTuple

import numpy as np

from operators.kernel import kernel
from schemas.calendar import NEW_YORK
from schemas.frames import Codes, Floats, Ints, Longs
from schemas.units import NS_PER_DAY, NS_PER_MINUTE, NS_PER_SECOND

GREEN, RED, BLUE, GREY = "#1a7f4b", "#c0392b", "#2457a6", "#8a94a3"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DEEP = 0.10  # a month's return that is coloured in full


class Labels(NamedTuple):
    """A column of words: row i says names[place[i]]."""

    names: list[str]
    place: Codes | Ints


def groups(labels: Labels, *values: Floats) -> list[tuple[Any, ...]]:
    """A name and its values, of each column, in their order; names in alphabetical order."""
    place = np.require(labels.place, np.int32, ["C", "W"])
    ends = np.cumsum(np.bincount(place, minlength=len(labels.names)))
    begins = np.append(0, ends[:-1])
    columns = [np.empty(place.size) for _ in values]
    for column, own in zip(columns, values, strict=True):
        deal(place, np.require(own, np.float64, ["C", "W"]), begins.copy(), column)
    some = zip(labels.names, begins.tolist(), ends.tolist(), strict=True)
    return [(name, *(column[begin:end] for column in columns)) for name, begin, end in sorted(some) if begin < end]


@kernel
def deal(place: Ints, values: Floats, begins: Longs, dealt: Floats) -> None:
    """Each value behind those of its place; `begins` moves on."""
    for i in range(place.size):
        dealt[begins[place[i]]] = values[i]
        begins[place[i]] += 1


def section(name: str, title: str, body: str, note: str = "") -> str:
    """A part of the page; `name` is its id."""
    small = f" <small>{note}</small>" if note else ""
    return f'<section id="{name}"><h2>{title}{small}</h2>{body}</section>'


def nothing(text: str) -> str:
    """Where a part has nothing to show, it says why."""
    return f'<p class="none">{text}</p>'


def chart(name: str, height: int) -> str:
    """The place where the script draws a figure."""
    return f'<div class="chart" id="{name}" style="height:{height}px"></div>'


def key(*names: tuple[str, str]) -> str:
    """Which colour is what."""
    return " ".join(f'<span class="key"><i style="background:{colour}"></i>{name}</span>' for name, colour in names)


def bar(name: str, value: str, width: float, colour: str, note: str = "") -> str:
    """A line with a bar of a width in per cent."""
    below = f"<small>{note}</small>" if note else ""
    strip = f'<i style="width:{width:.1f}%;background:{colour}"></i>'
    return f'<div class="bar"><span>{name}</span><div>{strip}</div><b>{value}</b>{below}</div>'


def table(head: Sequence[str] | None, rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """Rows of cells; wide ones scroll within themselves, so that the page never does."""
    top = "<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    name = f' class="{kind}"' if kind else ""
    return f'<div class="scroll"><table{name}>{top}{body}</table></div>'


def months(returns: Mapping[tuple[int, int], float]) -> str:
    """A row of twelve months for each year; on a phone three rows of four."""
    blocks = []
    for year in sorted({year for year, _ in returns}):
        of_year = [returns.get((year, month)) for month in range(1, 13)]
        total = float(np.prod([1.0 + value for value in of_year if value is not None])) - 1.0
        cells = "".join(_month(_MONTHS[k], value) for k, value in enumerate(of_year))
        head = f'<b>{year}</b> <b class="{tone(total)}">{percent(total)}</b>'
        blocks.append(f'<div class="year"><p>{head}</p><div class="months">{cells}</div></div>')
    return "".join(blocks)


def _month(name: str, value: float | None) -> str:
    if value is None:
        return f"<div><small>{name}</small><span>–</span></div>"
    colour = "26,127,75" if value > 0 else "192,57,43"
    ground = f' style="background:rgba({colour},{min(abs(value) / _DEEP, 1.0) * 0.5:.3f})"'
    return f"<div{ground}><small>{name}</small><span>{percent(value)}</span></div>"


def log_widths(counts: Sequence[int]) -> list[float]:
    """Per cent of the full width; one is still visible, none is none."""
    top = float(np.log1p(max([*counts, 1])))
    return [100 * float(np.log1p(count)) / top for count in counts]


def cell(value: float) -> str:
    """An amount in its colour."""
    return f'<b class="{tone(float(value))}">{money(value, sign=True)}</b>'


def tone(value: float) -> str:
    """The class of a gain or a loss."""
    return "up" if value > 0 else "down" if value < 0 else ""


def money(value: float, *, sign: bool = False) -> str:
    """USD with cents."""
    text = f"{value:+,.2f}" if sign else f"{value:,.2f}"
    return text.replace("-", "−")


def percent(value: float | None, *, sign: bool = True) -> str:
    """A fraction as per cent; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return (f"{value:+.2%}" if sign and value else f"{value:.2%}").replace("-", "−")


def ratio(value: float | None, digits: int = 2) -> str:
    """A plain number; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}".replace("-", "−")


def words(text: Any) -> str:
    """A code's name, for reading."""
    return _words(str(text))


@cache
def _words(text: str) -> str:
    return escape(text.replace("_", " "))


def texts(labels: Labels, rows: Longs) -> list[str]:
    """The words of some rows."""
    return [words(labels.names[place]) for place in labels.place[rows].tolist()]


def plain(value: Any) -> str:
    """Text as it is, of a list how long it is."""
    if isinstance(value, list):
        return f"{len(value):,}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else str(value)


def facts(values: Mapping[str, Any], above: str = "") -> list[list[str]]:
    """Rows of names and values, whatever they are; nested names stand behind each other."""
    rows: list[list[str]] = []
    for name, value in values.items():
        full = f"{above} · {words(name)}" if above else words(name)
        if isinstance(value, Mapping):
            rows += facts(value, full)
        elif name.endswith("_ts") and isinstance(value, int):
            rows.append([words(full.removesuffix(" ts")), clock(value)])
        else:
            rows.append([full, escape(plain(value))])
    return rows


def clock(ts: int) -> str:
    """New York's date and minute; a narrow page may break between them."""
    there = datetime.fromtimestamp(ts // NS_PER_SECOND, NEW_YORK).isoformat()
    return f'<span class="when">{there[:10]}</span> {there[11:16]}'


def lasted(span: float) -> str:
    """A time in ns, in its two largest units."""
    minutes = round(span / NS_PER_MINUTE)
    if span >= NS_PER_DAY:
        return f"{minutes // 1_440:,} d {minutes % 1_440 // 60} h"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
