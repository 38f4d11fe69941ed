"""What a training found, in words and tables: one content, as Markdown and as a page."""

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from typing import NamedTuple

from models.calibration import Bin, Rolled


class Table(NamedTuple):
    """Rows of words under headings; the first column is text, the others are numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Section(NamedTuple):
    """A heading, sentences, tables."""

    title: str
    text: Sequence[str]
    tables: Sequence[Table] = ()


class Model(NamedTuple):
    """One model over all folds: medians of the folds' numbers, but the loss is their mean."""

    name: str
    loss: float
    skill: float  # against the empirical quantiles
    error: float  # of the skill
    coverage: float
    corrected: float
    sharpe: float
    negative: int  # folds below zero
    trades: float  # a fold


class Findings(NamedTuple):
    """All that is reported."""

    id: str
    data: str
    synthetic: bool
    settings: Sequence[tuple[str, str]]
    models: Sequence[Model]
    folds: Sequence[Mapping[str, float]]
    spans: Sequence[tuple[str, str]]  # out of sample, by fold
    reasons: Sequence[str]
    medians: Mapping[str, float]
    held: float  # median Sharpe of being long all the time
    probabilistic: float
    deflated: float
    trials: int
    power: Sequence[tuple[float, float]]  # true Sharpe ratio -> chance to pass
    calibration: Rolled
    bins: Sequence[Bin]
    horizons: Sequence[int]
    coverage: Sequence[float]  # of the network by horizon, out of sample
    corrected: Sequence[float]
    ends: Sequence[tuple[str, int]]  # where the network's decisions ended: the reason, and how many
    shorts: bool


def skill_sentence(models: Sequence[Model]) -> str:
    """Does the network beat the quantiles that cost nothing? Plainly."""
    tft = next(model for model in models if model.name == "tft")
    size = (
        f"skill {tft.skill:+.2%}, standard error {tft.error:.2%}" if isfinite(tft.error) else f"skill {tft.skill:+.2%}"
    )
    if not isfinite(tft.error):
        return f"One fold says nothing about chance: {size} against the empirical quantiles."
    if tft.skill > 2.0 * tft.error:
        others = [model.name for model in models if model.name != "tft" and model.skill >= tft.skill]
        beaten = f", but {' and '.join(others)} is as good or better" if others else ""
        return f"The TFT beats the empirical quantiles ({size}){beaten}."
    if tft.skill < -2.0 * tft.error:
        return f"The TFT is worse than the empirical quantiles, which use no features ({size})."
    return f"The TFT does not beat the empirical quantiles, which use no features ({size})."


def sections(found: Findings) -> list[Section]:
    """The report, part by part."""
    verdict = (
        ["Promotable: every gate is passed."] if not found.reasons else ["Refused. A refused model is a valid result."]
    )
    demonstration = (
        ["Trained on SYNTHETIC bars: a demonstration that says nothing about any market."] if found.synthetic else []
    )
    money = (
        f"Median Sharpe {_number(found.medians['sharpe'])} against {_number(found.held)} of being long in everything "
        f"all the time (without costs); median win rate {_number(found.medians['win_rate'], 'win_rate')}. "
        "Out-of-sample sessions of all folds together: probability that the true Sharpe ratio is above 0 "
        f"{_number(found.probabilistic)}, deflated for {found.trials} "
        f"configuration{'s' * (found.trials != 1)} tried {_number(found.deflated)}."
    )
    booking = (
        "Returns are booked by session at the exit, each symbol with an equal share of the money, one position per "
        "symbol at a time, in at the next open, out at the close of the decision horizon; no risk-free rate. What is "
        f"entered is what the live steps decide with the forecast as the only voter; short forecasts are "
        f"{'sold' if found.shorts else 'not traded'}."
    )
    ended = sum(count for _, count in found.ends)
    ends = Table(
        ["decisions of the TFT ended at", "rows", "share"],
        [[reason if reason != "none" else "a candidate for an order", f"{count:,}", f"{count / ended:.1%}"]
         for reason, count in found.ends],
    )  # fmt: skip
    measures = (
        "Pinball loss out of sample in volatility units, mean over folds, horizons and quantiles; coverage of "
        "[q10, q90], whose target is 0.80, before and after the conformal correction; Sharpe by the trading rule, "
        "after costs."
    )
    gates = "How often a strategy of this true Sharpe ratio passes both Sharpe gates, by blocks as many and as long:"
    power = Table(
        ["true Sharpe", *(f"{sharpe:g}" for sharpe, _ in found.power)],
        [["passes", *(f"{chance:.0%}" for _, chance in found.power)]],
    )
    reliability = Table(
        ["decisions", "said", "came"], [[f"{b.decisions:,}", f"{b.said:.3f}", f"{b.came:.3f}"] for b in found.bins]
    )
    coverage = Table(
        ["horizon", *(f"{h} bars" for h in found.horizons)],
        [
            ["coverage", *(f"{share:.3f}" for share in found.coverage)],
            ["corrected", *(f"{share:.3f}" for share in found.corrected)],
        ],
    )
    why = [Table(["why"], [[reason] for reason in found.reasons])] if found.reasons else []
    return [
        Section(f"Training report {found.id}", [*demonstration, f"Bars: {found.data}", *verdict], why),
        Section("Does it forecast?", [skill_sentence(found.models), measures], [_models(found)]),
        Section("Would it have earned?", [money, booking], [_folds(found), ends]),
        Section("What the gates can tell", [gates], [power]),
        Section("Is it calibrated?", [_platt(found.calibration)], [reliability, coverage]),
        Section("Settings", [], [Table(["setting", "value"], [list(pair) for pair in found.settings])]),
    ]


def _models(found: Findings) -> Table:
    rows = [
        [m.name, f"{m.loss:.4f}", f"{m.skill:+.2%}", "-" if not isfinite(m.error) else f"{m.error:.2%}",
         f"{m.coverage:.3f}", f"{m.corrected:.3f}", _number(m.sharpe), f"{m.negative}", f"{m.trades:.0f}"]
        for m in sorted(found.models, key=lambda model: model.loss)
    ]  # fmt: skip
    return Table(["model", "pinball", "skill", "± error", "coverage", "corrected", "median Sharpe", "folds below 0",
                  "trades a fold"], rows)  # fmt: skip


def _folds(found: Findings) -> Table:
    names = (
        "sharpe",
        "sortino",
        "calmar",
        "max_drawdown",
        "win_rate",
        "trades",
        "coverage_corrected",
        "skill",
        "total_return",
    )
    rows = [
        [f"{number} {first} to {last}", *(_number(fold[name], name) for name in names)]
        for number, ((first, last), fold) in enumerate(zip(found.spans, found.folds, strict=True), 1)
    ]
    return Table(["fold", *(name.replace("_", " ") for name in names)], rows)


def _number(value: float, name: str = "") -> str:
    if not isfinite(value):
        return "-"
    if name == "trades":
        return f"{value:.0f}"
    if name in ("max_drawdown", "win_rate", "skill", "total_return"):
        return f"{value:.1%}"
    return f"{value:.2f}"


def _platt(rolled: Rolled) -> str:
    if not rolled.calibration.fitted:
        return "Platt's scaling was not fitted: too few decisions. Probabilities are uncalibrated."
    kept = "kept" if rolled.calibration.kept else "not kept: it did not help, or it ranks backwards"
    return (
        f"Platt's scaling, fitted on the folds before each fold: Brier score {rolled.before:.4f} raw, "
        f"{rolled.after:.4f} scaled, over {rolled.samples:,} decisions; {kept} "
        f"(A {rolled.calibration.a:.2f}, B {rolled.calibration.b:.2f})."
    )


def markdown(parts: Sequence[Section]) -> str:
    """The report as Markdown."""
    lines: list[str] = []
    for depth, part in enumerate(parts):
        lines += [f"{'#' if not depth else '##'} {part.title}", ""]
        for sentence in part.text:
            lines += [sentence, ""]
        for table in part.tables:
            lines += [f"| {' | '.join(table.head)} |", f"| --- |{' ---: |' * (len(table.head) - 1)}"]
            lines += [f"| {' | '.join(row)} |" for row in table.rows]
            lines.append("")
    return "\n".join(lines)


def page(parts: Sequence[Section]) -> str:
    """The report as one page that needs nothing else."""
    body = []
    for depth, part in enumerate(parts):
        level = 1 if not depth else 2
        body.append(f"<h{level}>{escape(part.title)}</h{level}>")
        body += [f"<p>{escape(sentence)}</p>" for sentence in part.text]
        for table in part.tables:
            head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
            rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
            body.append(f"<div><table><tr>{head}</tr>{rows}</table></div>")
    return _PAGE.replace("TITLE", escape(parts[0].title)).replace("BODY", "\n".join(body))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>TITLE</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#1d2733}
div{overflow-x:auto}table{border-collapse:collapse;margin:.5em 0 1.5em}
td,th{padding:.25em .8em;border-bottom:1px solid #d8dde4;text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left;white-space:normal}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}
</style>
BODY
</html>
"""
