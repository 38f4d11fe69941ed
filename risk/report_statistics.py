"""The page's numbers: all that `utp metrics` says of a run."""

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from html import escape

from risk import curve
from risk import performance as perf
from risk.curve import Curve
from risk.report_run import Run
from risk.report_words import clock, lasted, money, nothing, percent, ratio, section, table
from schemas.calendar import exchange_dates
from schemas.frames import Floats


def statistics(run: Run, of: Curve | None, turned: Floats | None) -> str:
    """All of `utp metrics`, LEAN's form beside the textbook's where it is another; `turned` is what was traded."""
    parts = []
    if of is not None and turned is not None and of.returns.size:
        found = curve.performance(of) | curve.use_of_capital(of, run.equity, turned)
        parts.append(("The curve", _numbers(found)))
        if run.benchmark is not None:
            other = curve.of_levels(exchange_dates(run.benchmark["ts"]), run.benchmark["value"])
            if curve.shared(of, other)[0].size > 1:
                parts.append((f"Beside {run.summary['benchmark']['name']}", _numbers(curve.beside(of, other))))
    if run.trades["pnl"].size:
        trades = curve.trades_of(run.trades)
        book, lean = perf.both_forms(trades)
        other_form = {f"{name}_lean": value for name, value in lean.items() if not _same(value, book[name])}
        parts.append(("Trades", _numbers(book | other_form)))
    if not parts:
        return section("statistics", "Statistics", nothing("There is nothing to measure."))
    head = ("", "value", "LEAN's")
    body = "".join(f"<h3>{escape(title)}</h3>{table(head, rows, kind='numbers')}" for title, rows in parts)
    note = f"{perf.DAYS} days a year, {perf.RISK_FREE:.0%} risk-free"
    return section("statistics", "Statistics", body, note)


def _same(x: float, y: float) -> bool:
    return x == y or (math.isnan(x) and math.isnan(y))


def _numbers(found: Mapping[str, float]) -> list[list[str]]:
    """A row for each name, LEAN's form in the third column."""
    own = {name for name in found if not name.endswith("_lean")}
    own |= {name for name in found if name.endswith("_lean") and name.removesuffix("_lean") not in found}
    return [
        [_title(name), _value(name, found[name]) if not name.endswith("_lean") else "",
         _value(name, found[name] if name.endswith("_lean") else found.get(f"{name}_lean"))]
        for name in found if name in own
    ]  # fmt: skip


_TITLES = {
    "sharpe": "Sharpe",
    "sortino": "Sortino",
    "calmar": "Calmar",
    "treynor": "Treynor",
    "cagr": "CAGR",
    "var": "VaR",
    "cvar": "CVaR",
    "mae": "MAE",
    "mfe": "MFE",
    "probabilistic": "probability",
}
_PERCENT = ("return", "cagr", "volatility", "performance", "drawdown", "var_", "cvar", "best_day", "worst_day",
            "turnover", "exposure", "time_in_market", "win_rate", "loss_rate", "probabilistic", "alpha",
            "tracking_error")  # fmt: skip
_SIGNED = ("return", "cagr", "performance", "var_", "_day", "alpha")
_USD = ("profit_loss", "total_profit", "total_loss", "largest_", "average_profit", "average_loss", "expectancy",
        "_mae", "_mfe", "trade_drawdown", "total_fees", "_deviation")  # fmt: skip


@cache
def _title(name: str) -> str:
    """`var_95` -> `VaR 95`; a probabilistic Sharpe ratio is a probability."""
    if name.endswith("_ts"):
        return "first entry" if name == "start_ts" else "last exit"
    parts = [part for part in name.removesuffix("_lean").removesuffix("_seconds").split("_") if part != "lean"]
    return escape(" ".join(_TITLES.get(part, part) for part in parts))


def _value(name: str, value: float | None) -> str:
    """In the unit that its name tells."""
    if value is None:
        return ""
    return _unit(name)(value) if math.isfinite(value) else "–"


@cache
def _unit(name: str) -> Callable[[float], str]:
    """How a number of this name is written."""
    if name.endswith("_ts"):
        return lambda value: clock(int(value))
    if "duration_seconds" in name:
        return lambda value: lasted(value * 1e9)
    if "number_of" in name or "consecutive" in name or name == "returns":
        return lambda value: f"{value:,.0f}"
    if name.endswith("variance"):
        return lambda value: f"{value:.3g}"
    if "ratio" in name or name.endswith("_days"):
        return partial(ratio, digits=3)
    if any(part in name for part in _USD):
        return money
    if any(part in name for part in _PERCENT):
        return partial(percent, sign=any(part in name for part in _SIGNED))
    return partial(ratio, digits=3)
