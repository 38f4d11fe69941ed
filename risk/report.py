"""A run's folder -> report.html: one file that needs no network and reads well on a phone.

Everything on the page comes from the folder, summary.json and the tables, so that it can be made again
from a finished run, byte for byte.
"""

import json
import re
from collections.abc import Mapping
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from risk import attribution, curve, report_figures
from risk import performance as perf
from risk.curve import Curve
from risk.report_figures import Dots
from risk.report_forecasts import forecasts
from risk.report_run import Columns, Run, read
from risk.report_slippage import slippage
from risk.report_statistics import statistics
from risk.report_style import PAGE, SCRIPT, STYLE
from risk.report_words import (
    BLUE,
    GREY,
    RED,
    Labels,
    bar,
    cell,
    chart,
    clock,
    facts,
    groups,
    key,
    lasted,
    log_widths,
    money,
    months,
    nothing,
    percent,
    plain,
    ratio,
    section,
    table,
    texts,
    tone,
    words,
)  # fmt: skip
from schemas.frames import Floats, Longs

SECTIONS = (
    "equity", "drawdowns", "months", "sharpe", "capital", "funnel", "rejections", "trades", "excursions", "symbols",
    "alphas", "regimes", "exits", "slippage", "listed", "statistics", "data", "settings",
)  # fmt: skip
_CLOSING = re.compile(rb"<(?=/)")  # of tags within a script; searched for by its first byte, ten times as fast as both
_LISTED = 8  # trades in each table
_NO_TRADES = "No trade was closed in this run."
_TRADE = ("closed", "symbol", "profit", "exit", "shares", "in", "out")


def write(folder: Path, run: Run | None = None) -> Path:
    """Make report.html of summary.json and the tables of `folder`; it is whole or not there.

    `run`: what lies in the folder, where that is at hand.
    """
    made = page(read(folder) if run is None else run)
    path, partial = folder / "report.html", folder / "report.html.partial"
    try:
        with partial.open("wb") as file:
            file.write(made.head.encode())
            if made.figures != b"{}":
                file.write(b"<script>")
                file.write(_plotly().read_bytes())  # at once: the system keeps large writes in large pieces
                file.write(b"</script>")
            file.writelines([made.body.encode(), made.figures, made.foot.encode()])
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


class Page(NamedTuple):
    """The page in parts; the library belongs behind the first, and is needed where there is a figure."""

    head: str
    body: str
    figures: bytes  # JSON
    foot: str


def page(run: Run) -> Page:
    """The page of a run."""
    figures: dict[str, Any] = {}
    of = curve.run_curve(run.equity, run.summary["initial_cash"]) if run.equity["ts"].size else None
    turned = curve.traded(of.days, run.fills) if of else None
    drawn = report_figures.dots(run.trades) if run.trades["pnl"].size else None
    sections = [
        _head(run.summary),
        _tiles(run.summary),
        _reconciliation(run.summary),
        _equity(run, figures),
        _drawdowns(run, of),
        _months(of),
        _sharpe(of, figures),
        _capital(run, of, turned, figures),
        _funnel(run.summary),
        _rejections(run.summary),
        _trades(run.trades, drawn, figures),
        _excursions(run.trades, drawn, figures),
        _symbols(run.trades, figures),
        _alphas(run),
        _regimes(run),
        forecasts(run.summary.get("forecasts"), figures),
        _exits(run.trades),
        slippage(run),
        _listed(run.trades, drawn),
        statistics(run, of, turned),
        _data(run.summary),
        _settings(run.summary),
    ]
    text = PAGE.format(
        title=escape(f"{run.summary['bars'].get('label', 'run')}: {percent(run.summary['return'])}"),
        style=STYLE,
        body="\n".join(sections),
        plotly=_MARK,
        figures=_MARK,
        script=SCRIPT if figures else "",
    )
    head, body, foot = text.split(_MARK)
    return Page(head, body, _CLOSING.sub(rb"<\\", msgspec.json.encode(figures)), foot)


# The parts, in their order.


def _head(summary: Mapping[str, Any]) -> str:
    bars, data = summary["bars"], summary["data"]
    label = escape(str(bars.get("label", "")))
    first, last = data["first_slice"] or data["after"], data["last_slice"] or data["upto"]
    line = [summary["timeframe"], f"{first[:10]} to {last[:10]}"]
    if "symbols" in bars:
        line.append(f"{plain(bars['symbols'])} symbols")
    line += [f"account {summary['account']}", f"settings {summary['settings_hash']}"]
    banner = ""
    if summary["synthetic"]:
        banner = '<div class="banner">SYNTHETIC DATA: made-up prices, no statement about any market</div>'
    return f"{banner}<header><h1>{label}</h1><p>{escape(' · '.join(line))}</p></header>"


def _tiles(summary: Mapping[str, Any]) -> str:
    counts = summary["counts"]
    gain = summary["final_equity"] - summary["initial_cash"]
    tiles = [
        ("Return", percent(summary["return"]), f"{money(gain, sign=True)} USD", gain),
        ("Final equity", money(summary["final_equity"]), f"from {money(summary['initial_cash'])} USD", 0),
        ("Max drawdown", percent(-summary["max_drawdown"]), "from the highest equity", 0),
        ("Trades", f"{counts['trades']:,}", f"{counts['open_positions']:,} lots still open", 0),
        ("Win rate", percent(summary["win_rate"], sign=False), "of trades, after fees", 0),
        ("Profit factor", ratio(summary["profit_factor"]), "gains / losses", 0),
    ]
    cells = "".join(
        f'<div class="tile"><span>{name}</span><b class="{tone(value)}">{shown}</b><small>{note}</small></div>'
        for name, shown, note, value in tiles
    )
    return f'<section class="tiles">{cells}</section>'


def _reconciliation(summary: Mapping[str, Any]) -> str:
    terms = [
        ("initial cash", summary["initial_cash"], ""),
        ("realised", summary["realised_pnl"], "+"),
        ("unrealised", summary["unrealised_pnl"], "+"),
        ("fees", summary["fees"], "−"),
        *([("dividends", summary["dividends"], "+")] if summary["dividends"] else []),
        ("final equity", summary["final_equity"], "="),
    ]
    parts = " ".join(f"<span>{sign} {name} <b>{money(value)}</b></span>" for name, value, sign in terms)
    return f'<p class="sum" id="reconciliation">{parts}</p>'


def _equity(run: Run, figures: dict[str, Any]) -> str:
    if not run.equity["ts"].size:
        return section("equity", "Equity and drawdown", nothing("There is no slice in this run."))
    figures["curve"] = report_figures.equity_curve(run.equity, run.benchmark, run.summary["initial_cash"])
    legend = [("this run", BLUE), ("drawdown", RED)]
    body = chart("curve", 420)
    if run.benchmark is not None:
        about = run.summary["benchmark"]
        legend.insert(1, (escape(f"benchmark: {about['name']}"), GREY))
        total = run.benchmark["value"][-1] / run.benchmark["value"][0] - 1.0
        body += f'<p class="under">Benchmark {percent(total)}: {escape(about["meaning"])}.</p>'
    else:
        body += '<p class="under">No benchmark: the run was given none, and its bars have no price to hold.</p>'
    return section("equity", "Equity and drawdown", f"<p>{key(*legend)}</p>{body}")


def _drawdowns(run: Run, of: Curve | None) -> str:
    rows = []
    for fall in curve.drawdown_episodes(of.points) if of else ():
        end = fall.recovered if fall.recovered >= 0 else run.equity["ts"].size
        # a point's slice; of the cash before the first one there is no instant
        peak, low, back = (int(run.equity["ts"][max(point - 1, 0)]) for point in (fall.peak, fall.low, end))
        rows.append(
            [
                f'<b class="down">{percent(-fall.depth)}</b>',
                clock(peak),
                clock(low),
                clock(back) if fall.recovered >= 0 else "not yet",
                lasted(float(back - peak)),
            ]
        )
    body = (
        table(("depth", "from", "lowest", "back at", "lasted"), rows, kind="tight")
        if rows
        else nothing("There was none.")
    )
    return section("drawdowns", "Worst drawdowns", body, "the five deepest, peak to recovery" if rows else "")


def _months(of: Curve | None) -> str:
    returns = curve.monthly_returns(of) if of else {}
    body = months(returns) if returns else nothing("There is no return in this run.")
    return section("months", "Monthly returns", body, "of closing equity")


def _sharpe(of: Curve | None, figures: dict[str, Any]) -> str:
    title = "Rolling Sharpe ratio"
    window, days, values = curve.rolling_sharpe(of) if of else (curve.MONTH, np.zeros(0, np.int64), np.zeros(0))
    if not values.size:
        there = of.returns.size if of else 0
        text = f"It wants {curve.MONTH + 1} days of returns; this run has {there}."
        return section("sharpe", title, nothing(text))
    figures["rolling"] = report_figures.sharpe_line(days, values)
    note = f"{window} days, annual, over {perf.RISK_FREE:.0%} risk-free"
    return section("sharpe", title, chart("rolling", 240), note)


def _capital(run: Run, of: Curve | None, turned: Floats | None, figures: dict[str, Any]) -> str:
    title = "Exposure and turnover"
    if of is None or turned is None:
        return section("capital", title, nothing("There is no slice in this run."))
    figures["held"] = report_figures.capital(run.equity, of.days, turned / of.closes)
    return section("capital", title, chart("held", 300), "shares of the equity; turnover is bought + sold per day")


def _funnel(summary: Mapping[str, Any]) -> str:
    """From bars to fills; widths on a logarithmic scale, or the last stages would not be seen."""
    stages = summary["funnel"]
    widths = log_widths([stage["count"] for stage in stages])
    rows = []
    for stage, width in zip(stages, widths, strict=True):
        lost = ""
        if stage["lost"]:
            verb = "refused before" if stage["stage"] == "rows" else "lost here"
            most = f"{words(stage['commonest_reason'])} {stage['reason_count']:,}"
            lost = f"{stage['lost']:,} {verb}, most: {most}"
        rows.append(bar(stage["stage"], f"{stage['count']:,}", width, BLUE, lost))
    return section("funnel", "From bars to fills", f'<div class="bars">{"".join(rows)}</div>', "log scale")


def _rejections(summary: Mapping[str, Any]) -> str:
    counts, title = summary["counts"], "Refused by the rules"
    rejected = counts["rejected_by_reason"]
    if not rejected:
        return section("rejections", title, nothing("Nothing was refused."))
    most = max(rejected.values())
    rows = [bar(words(rule), f"{number:,}", max(100 * number / most, 1), RED) for rule, number in rejected.items()]
    note = f"{counts['rejected']:,} of {counts['verdicts']:,} candidates"
    return section("rejections", title, f'<div class="bars">{"".join(rows)}</div>', note)


def _trades(trades: Columns, drawn: Dots | None, figures: dict[str, Any]) -> str:
    if drawn is None:
        return section("trades", "Trades", nothing(_NO_TRADES))
    figures |= {"dots": report_figures.trade_dots(trades, drawn), "spread": report_figures.histogram(trades["pnl"])}
    charts = f"{chart('dots', 280)}<h3>Profit per trade</h3>{chart('spread', 240)}"
    return section("trades", "Trades", charts, drawn.note)


def _excursions(trades: Columns, drawn: Dots | None, figures: dict[str, Any]) -> str:
    title = "Worst and best price of each trade"
    if drawn is None:
        return section("excursions", title, nothing(_NO_TRADES))
    figures["reach"] = report_figures.excursion_dots(trades, drawn)
    note = " · ".join(filter(None, ["MAE and MFE, per cent of the entry", drawn.note]))
    return section("excursions", title, chart("reach", 320), note)


def _symbols(trades: Columns, figures: dict[str, Any]) -> str:
    if not trades["pnl"].size:
        return section("symbols", "Profit per symbol", nothing(_NO_TRADES))
    figure = figures["each"] = report_figures.by_symbol(trades)
    body = chart("each", 90 + 22 * len(figure["data"][0]["y"]))
    return section("symbols", "Profit per symbol", body, figure["note"])


def _alphas(run: Run) -> str:
    title, pnl, entries = "Profit per alpha", run.trades["pnl"], run.entries
    if not pnl.size:
        return section("alphas", title, nothing(_NO_TRADES))
    weights = run.summary["settings"]["ensemble"]["weights"]
    shares = attribution.by_alpha(pnl, entries.direction, entries.views, run.summary["alphas"], weights)
    rows = [
        [words(each.alpha), cell(each.profit), f"{each.agreed:,}",
         percent(each.won / each.agreed, sign=False) if each.agreed else "–", cell(each.of_agreed), f"{each.against:,}"]
        for each in shares
    ]  # fmt: skip
    rest = float(pnl.sum()) - sum(each.profit for each in shares)
    if round(rest, 2):
        rows.append(["no alpha", cell(rest), "–", "–", "–", "–"])
    rows.append(["all", cell(pnl.sum()), f"{pnl.size:,}", percent(float((pnl > 0).mean()), sign=False), "–", "–"])
    head = ("alpha", "share USD", "trades for", "won", "their profit", "against")
    note = (
        '<p class="under">A trade\'s profit is divided among the alphas whose view pointed its way when the entry was '
        "decided, in proportion to their weights; the shares add up to the profit of all trades.</p>"
    )
    return section("alphas", title, table(head, rows, kind="first5") + note)


def _regimes(run: Run) -> str:
    return _grouped("regimes", "Profit per regime at entry", "regime", run.entries.regime, run.trades["pnl"])


def _exits(trades: Columns) -> str:
    return _grouped("exits", "How trades ended", "exit", trades["exit_reason"], trades["pnl"])


def _grouped(name: str, title: str, what: str, labels: Labels, pnl: Floats) -> str:
    """Trades, win rate, mean and sum of the profit of each group."""
    if not pnl.size:
        return section(name, title, nothing(_NO_TRADES))
    rows = []
    for label, of in groups(labels, pnl):
        won = percent(float((of > 0).mean()), sign=False)
        rows.append([words(label), f"{of.size:,}", won, cell(of.mean()), cell(of.sum())])
    return section(name, title, table((what, "trades", "won", "mean", "profit USD"), rows))


def _listed(trades: Columns, drawn: Dots | None) -> str:
    pnl = trades["pnl"]
    if drawn is None:
        return section("listed", "Best, worst and last trades", nothing(_NO_TRADES))
    last = np.arange(pnl.size)[: -_LISTED - 1 : -1]
    parts = (("Best trades", drawn.best[:_LISTED]), ("Worst trades", drawn.worst[:_LISTED]), ("Last trades", last))
    body = "".join(f"<h3>{title}</h3>{table(_TRADE, _rows_of(trades, which), kind='first4')}" for title, which in parts)
    note = f"{_LISTED} each of {pnl.size:,}; all are in trades.parquet" if pnl.size > _LISTED else ""
    return section("listed", "Best, worst and last trades", body, note)


def _rows_of(trades: Columns, which: Longs) -> list[list[str]]:
    numbers = [trades[name][which].tolist() for name in ("exit_ts", "pnl", "qty", "entry_price", "exit_price")]
    return [
        [clock(ts), f"<b>{symbol}</b>", cell(pnl), reason, f"{int(qty):,}", money(entry), money(end)]
        for symbol, reason, ts, pnl, qty, entry, end in zip(
            texts(trades["symbol"], which), texts(trades["exit_reason"], which), *numbers, strict=True
        )
    ]


def _data(summary: Mapping[str, Any]) -> str:
    counts = summary["counts"]
    rows = [
        ["bars taken in", f"{counts['bars']:,}"],
        ["bars refused", f"{counts['refused']:,}"],
        *([f"· {words(reason)}", f"{number:,}"] for reason, number in counts["refused_by_reason"].items()),
        *facts(summary.get("quality", {})),
        ["slices", f"{counts['slices']:,}"],
        ["signals published", f"{counts['signals']:,}"],
        ["orders / fills", f"{counts['orders']:,} / {counts['fills']:,}"],
        ["drawdown latches / releases", f"{counts['drawdown_latches']:,} / {counts['latch_releases']:,}"],
        ["kill switch", "on" if counts["killed"] else "never on"],
        ["not there or switched off", escape(", ".join(summary["off"]) or "nothing")],
        ["alphas", escape(", ".join(summary["alphas"]))],
        *facts({name: value for name, value in summary["bars"].items() if name != "label"}),
    ]
    return section("data", "Data and what was off", table(None, rows, kind="facts"))


def _settings(summary: Mapping[str, Any]) -> str:
    text = escape(msgspec.json.format(json.dumps(summary["settings"]), indent=2))
    title = f"<summary>Settings {summary['settings_hash']}</summary>"
    return f'<section id="settings"><details>{title}<pre>{text}</pre></details></section>'


def _plotly() -> Path:
    """The library's own JavaScript; found without importing the package, which takes its time."""
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("plotly is not installed")
    return Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js"


_MARK = "<!-- not yet -->"  # where what is no text belongs
