"""A curve of equity or prices, by points and by exchange dates, and every statistic of it.

Annual numbers are those of the last value of each exchange date, with 252 days to the year; drawdowns
are those of the whole curve. Of a run the initial cash stands before the first day, so that the
total return is the run's own. `docs/statistics.md` has the formulas.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from operators.kernel import kernel
from risk import performance as perf
from risk.performance import Trades
from schemas.calendar import dates_within
from schemas.frames import Floats, Longs

MONTH, QUARTER = 21, 63  # trading days

_NAN = float("nan")
_EPOCH_YEAR = 1970


class Curve(NamedTuple):
    """One curve at two resolutions."""

    points: Floats  # every value in order of time, `base` first where there is one
    rows: int
    days: Longs  # exchange dates, days since 1970-01-01
    closes: Floats  # the last value of each
    base: float  # the value before the first day; NaN where the first day's close is the first value

    @property
    def daily(self) -> Floats:
        """The closes, after the base where there is one."""
        return self.closes if np.isnan(self.base) else np.concatenate([[self.base], self.closes])

    @property
    def dates(self) -> Longs:
        """Of `daily`; the base is dated the day before the first."""
        return self.days if np.isnan(self.base) else np.concatenate([self.days[:1] - 1, self.days])

    @property
    def returns(self) -> Floats:
        """One per date, but for the first where nothing comes before it."""
        return perf.returns_of(self.daily)

    @property
    def return_days(self) -> Longs:
        """The dates of `returns`."""
        return self.dates[1:]


def curve(days: Longs, values: Floats, base: float = _NAN) -> Curve:
    """A curve of values in order of time, each with its exchange date."""
    last = np.flatnonzero(np.append(np.diff(days) > 0, True))
    points = values if np.isnan(base) else np.concatenate([[base], values])
    return Curve(points, values.size, days[last], values[last], base)


def of_levels(days: Longs, values: Floats) -> Curve:
    """A curve from its first value on; what the first day itself brought is kept where it is known."""
    several = days.size > 1 and days[0] == days[1]
    return curve(days, values, float(values[0]) if several else _NAN)


def performance(of: Curve, risk_free: float = perf.RISK_FREE) -> dict[str, float]:
    """Return and risk by name; what is undefined is NaN."""
    returns = of.returns
    total = perf.total_return(returns)
    growth, fall = perf.cagr(returns), perf.max_drawdown(of.points)
    return {
        "total_return": total,
        "cagr": growth,
        "cagr_calendar": perf.calendar_cagr(total, float(of.dates[-1] - of.dates[0])),
        "annual_performance_lean": perf.annual_performance(returns),
        "annual_variance": perf.annual_variance(returns),
        "annual_volatility": perf.annual_volatility(returns),
        "sharpe": perf.sharpe(returns, risk_free),
        "sharpe_lean": perf.sharpe(returns, risk_free, form="lean"),
        "sortino": perf.sortino(returns, risk_free),
        "sortino_lean": perf.sortino(returns, risk_free, form="lean"),
        "probabilistic_sharpe": perf.probabilistic_sharpe(returns, None, risk_free / perf.DAYS),
        "probabilistic_sharpe_lean": perf.probabilistic_sharpe(returns, form="lean"),
        "max_drawdown": fall,
        "max_drawdown_days": perf.max_drawdown_duration(of.points) * of.days.size / of.rows,
        "max_drawdown_recovery_days": perf.max_drawdown_recovery_days(of.daily, of.dates.astype(np.float64)),
        "calmar": perf.calmar(growth, fall),
        "var_95": perf.value_at_risk(returns, 0.95),
        "var_99": perf.value_at_risk(returns, 0.99),
        "var_95_historical": perf.value_at_risk(returns, 0.95, "historical"),
        "cvar_95": perf.cvar(returns, 0.95),
        "best_day": float(returns.max()) if returns.size else _NAN,
        "worst_day": float(returns.min()) if returns.size else _NAN,
    }


def beside(of: Curve, other: Curve, risk_free: float = perf.RISK_FREE) -> dict[str, float]:
    """Of two curves over the dates that they share, of which there must be two; `other` is the benchmark.

    What lies between two shared dates is one return.
    """
    ours, theirs = shared(of, other)
    r, b = perf.returns_of(ours), perf.returns_of(theirs)
    own, market, free = perf.total_return(r), perf.total_return(b), risk_free / perf.DAYS
    return {
        "returns": int(r.size),
        "total_return": market,
        "cagr": perf.cagr(b),
        "annual_volatility": perf.annual_volatility(b),
        "sharpe": perf.sharpe(b, risk_free),
        "max_drawdown": perf.max_drawdown(theirs),
        "excess_return": own - market,
        "correlation": perf.correlation(r, b),
        "beta": perf.beta(r, b),
        "alpha": perf.alpha(r, b, risk_free),
        "alpha_lean": perf.alpha(r, b, risk_free, form="lean"),
        "tracking_error": perf.tracking_error(r, b),
        "information_ratio": perf.information_ratio(r, b),
        "information_ratio_lean": perf.information_ratio(r, b, form="lean"),
        "treynor": perf.treynor(r, b, risk_free),
        "treynor_lean": perf.treynor(r, b, risk_free, form="lean"),
        "probabilistic_sharpe": perf.probabilistic_sharpe(r, perf.observed_sharpe(b, free), free),
    }


def shared(of: Curve, other: Curve) -> tuple[Floats, Floats]:
    """Values of both on shared dates; before them, for a curve with a base, the benchmark's last close."""
    place = np.searchsorted(other.days, of.days)
    ours = np.flatnonzero(np.append(other.days, np.iinfo(np.int64).min)[place] == of.days)
    theirs = place[ours]
    left, right = of.closes[ours], other.closes[theirs]
    if ours.size and ours[0] == 0 and not np.isnan(of.base):
        before = other.closes[theirs[0] - 1] if theirs[0] else other.base
        if not np.isnan(before):
            left, right = np.concatenate([[of.base], left]), np.concatenate([[before], right])
    return left, right


# A run's tables: columns by name, times in UTC ns.


def run_curve(equity: Mapping[str, Any], initial_cash: float) -> Curve:
    """The curve of a run's equity table."""
    (days, ends), values = dates_within(equity["ts"]), equity["equity"]
    return Curve(np.concatenate([[initial_cash], values]), values.size, days, values[ends - 1], initial_cash)


def use_of_capital(of: Curve, equity: Mapping[str, Any], turned: Floats) -> dict[str, float]:
    """How much of a run's equity was held and traded: `turnover`, `exposure`, `time_in_market`.

    `turned` is what was `traded`.
    """
    return {
        "turnover": perf.turnover(turned, of.closes),
        "exposure": perf.exposure(equity["exposure"], equity["equity"]),
        "time_in_market": perf.time_in_market(equity["exposure"]),
    }


def traded(days: Longs, fills: Mapping[str, Any]) -> Floats:
    """Value bought and sold on each of these dates, USD."""
    (own, ends), sums = dates_within(fills["ts"]), np.zeros(days.size)
    qty, price = (
        np.require(fills[name], kind, ["C", "W"]) for name, kind in (("qty", np.int64), ("price", np.float64))
    )
    add_up(qty, price, ends, np.searchsorted(days, own), sums)
    return sums


@kernel
def add_up(qty: Longs, price: Floats, ends: Longs, place: Longs, sums: Floats) -> None:
    """Add values to the sums at these places, in their order; each place takes those up to its end."""
    begin = 0
    for k in range(ends.size):
        for i in range(begin, ends[k]):
            sums[place[k]] += qty[i] * price[i]
        begin = ends[k]


def trades_of(table: Mapping[str, Any]) -> Trades:
    """The round trips of a run's trades table; its excursions are fractions of the entry, here they are USD."""
    cost = table["entry_price"] * table["qty"]
    best = table["mfe"] * cost
    given_back = np.maximum(best - table["pnl"], 0.0)
    return Trades(
        table["entry_ts"], table["exit_ts"], table["pnl"], table["fees"], cost, table["mae"] * cost, best, given_back
    )


# What a page shows of a curve.


class Episode(NamedTuple):
    """A fall from a peak: places of points; `recovered` is -1 while the peak has not been reached again."""

    peak: int  # the last point at the peak
    low: int  # the first of the lowest points
    recovered: int
    depth: float  # a fraction of the peak, above zero


def drawdown_episodes(points: Floats, most: int = 5) -> list[Episode]:
    """The deepest falls from a peak to its recovery, deepest first, the earlier of equals first."""
    places, depth = np.empty((most, 3), np.int64), np.empty(most)
    found = falls(np.require(points, np.float64, ["C", "W"]), places, depth)
    rows = zip(places[:found].tolist(), depth.tolist(), strict=False)
    return [Episode(top, low, end, deep) for (top, low, end), deep in rows]


@kernel
def falls(points: Floats, places: Longs, depth: Floats) -> int:
    """Fill in the deepest falls, as many as there is room for; returns how many there are."""
    found, low, top = 0, -1, 0
    for i in range(1, points.size + 1):
        if i < points.size and points[i] < points[top]:
            if low < 0 or points[i] < points[low]:
                low = i
            continue
        if low >= 0:
            deep = (points[top] - points[low]) / points[top]
            place = found
            while place > 0 and depth[place - 1] < deep:
                place -= 1
            if place < depth.size:
                found = min(found + 1, depth.size)
                for k in range(found - 1, place, -1):
                    depth[k] = depth[k - 1]
                    for n in range(3):
                        places[k, n] = places[k - 1, n]
                depth[place] = deep
                places[place, 0], places[place, 1], places[place, 2] = top, low, i if i < points.size else -1
            low = -1
        top = i
    return found


def monthly_returns(of: Curve) -> dict[tuple[int, int], float]:
    """Compounded daily returns by (year, month); months without a return are not there."""
    returns = of.returns
    months = of.return_days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    edges = [0, *(np.flatnonzero(np.diff(months)) + 1).tolist(), months.size]
    found = {}
    for begin, end in pairwise(edges if months.size else ()):
        month = int(months[begin])
        found[_EPOCH_YEAR + month // 12, month % 12 + 1] = perf.total_return(returns[begin:end])
    return found


def rolling_sharpe(of: Curve, risk_free: float = perf.RISK_FREE) -> tuple[int, Longs, Floats]:
    """Window in days, dates, and the Sharpe ratio of the window that ends there.

    A quarter's days where at least two quarters are there, else a month's; nothing below a month and a day.
    """
    returns = of.returns
    window = QUARTER if returns.size >= 2 * QUARTER else MONTH
    if returns.size <= MONTH:
        return window, of.return_days[:0], np.zeros(0)
    return window, of.return_days[window - 1 :], perf.rolling_sharpe(returns, window, risk_free)
