"""The report's part about forecasts: who made them, how right they were, and why rows had none."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from risk import report_figures
from risk.report_words import BLUE, GREY, bar, chart, clock, key, nothing, percent, plain, ratio, section, table, words

NAME = "forecasts"  # of the section; it is there where a model is configured
TARGET = 0.8  # of [q10, q90]


def forecasts(told: Mapping[str, Any] | None, figures: dict[str, Any]) -> str:
    """The section, or nothing where no model is configured."""
    if told is None:
        return ""
    numbered = list(enumerate(told["judged"], 1))
    parts = [_share(told), _accuracy(told["judged"]), *(_probability(n, one, figures) for n, one in numbered)]
    return section(NAME, "Forecasts", "".join([*parts, _models(told)]), f"{told['made']:,} were made")


def _share(told: Mapping[str, Any]) -> str:
    """How many rows had a forecast in force, and what the others lacked."""
    rows = told["rows"] + sum(told["missing"].values())
    if not rows:
        return nothing("There was no row.")
    counts = [("in force", told["rows"], BLUE), *((words(why), count, GREY) for why, count in told["missing"].items())]
    lines = [bar(name, percent(count / rows, sign=False), 100 * count / rows, colour) for name, count, colour in counts]
    alarm = told["first_drift_alarm"]
    drift = ""
    if alarm is not None:
        drift = (
            f'<p class="under">{told["drift_alarms"]:,} shards stopped a model that had become less sure than in '
            f"validation, the first at {escape(alarm['ts'])}: median edge {ratio(alarm['edge'], 3)}, "
            f"{ratio(alarm['reference'], 3)} there.</p>"
        )
    return f'<h3>Share of {rows:,} rows with a forecast</h3><div class="bars">{"".join(lines)}</div>{drift}'


def _accuracy(judged: Sequence[Mapping[str, Any]]) -> str:
    """By model and horizon, against what came."""
    head = ("horizon", "judged", "in q10–q90", "pinball", "skill", "empirical pinball")
    rows = [
        [_who(judged, number, one["id"]) + f"{own['bars']} bars", f"{own['forecasts']:,}",
         percent(own["coverage"], sign=False), ratio(own["pinball"], 4), percent(own["skill"]),
         ratio(own["empirical_pinball"], 4)]
        for number, one in enumerate(judged, 1) for own in one["horizons"]
    ]  # fmt: skip
    note = (
        f'<p class="under">Judged are forecasts whose bar so many bars later is there; {TARGET:.0%} of the returns are '
        "wanted within q10–q90. Pinball loss in units of the window's volatility, beside that of the quantiles of the "
        "model's training labels, which use no feature; a skill above 0 beats them.</p>"
    )
    return f"<h3>Against what came</h3>{table(head, rows, kind='first5')}{note}"


def _who(judged: Sequence[Any], number: int, ident: str) -> str:
    """A model's number before its row, where there are several."""
    return f'<span title="{escape(ident)}">{number}</span> · ' if len(judged) > 1 else ""


def _probability(number: int, one: Mapping[str, Any], figures: dict[str, Any]) -> str:
    """How probable the direction was said to be, and how often it came; how often which probability was said."""
    if not one["probability"]:
        return ""
    name = f"reliability{number}"
    figures[name] = report_figures.reliability(one["probability"])
    legend = key(("came true", BLUE), ("decisions", GREY))
    title = f"Probability of the direction, said and come true <small>{escape(one['id'])}</small>"
    return f"<h3>{title}</h3><p>{legend}</p>{chart(name, 300)}"


def _models(told: Mapping[str, Any]) -> str:
    """Which was in force from when."""
    about = {model["id"]: (number, model) for number, model in enumerate(told["models"], 1)}
    rows = []
    for event in told["events"]:
        number, model = about.get(event["model"], (0, {}))
        marks = [name for name, holds in (("made-up training data", model.get("synthetic")),
                                          ("not promotable", model and not model["promotable"])) if holds]  # fmt: skip
        note = f"<br><small>{escape(', '.join(marks))}</small>" if marks else ""
        rows.append([
            clock(int(event["ts"])), f"{number} · {escape(event['model'])}{note}" if number else "none",
            escape(str(model.get("trained_upto", "–"))[:10]), plain(model["calibrated"]) if number else "–",
        ])  # fmt: skip
    head = ("in force from", "model", "trained up to", "calibrated")
    return f"<h3>Which model when</h3>{table(head, rows, kind='tight')}"
