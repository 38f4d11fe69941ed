"""The report's charts: what plotly.js takes, as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from operators.kernel import kernel
from risk.report_words import BLUE, GREEN, GREY, RED, groups, local, texts
from schemas.frames import Floats, Longs
from schemas.units import NS_PER_DAY

MOST_POINTS = 4_000  # of a curve; longer ones are thinned
_BUCKETS = 600  # a thinned curve keeps first, last, lowest and highest of each; a chart is some 1,000 pixels wide
_DOTS = 2_000  # trades in a scatter
_EXTREMES = 50  # of these, the worst and the best at least
BARS = 12  # symbols at each end of the P&L chart

Figure = dict[str, Any]


def equity_curve(equity: Mapping[str, Any], benchmark: Mapping[str, Any] | None, initial_cash: float) -> Figure:
    """Equity above its drawdown; the benchmark as if all of the initial cash had gone into it."""
    kept = thinned(equity["equity"], equity["drawdown"])
    times = local(equity["ts"][kept])
    line = {"type": "scatter", "mode": "lines", "x": times}
    traces = [
        line
        | {
            "name": "this run",
            "y": rounded(equity["equity"][kept], 2),
            "line": {"color": BLUE, "width": 1.5},
            "hovertemplate": "%{y:,.2f} USD",
        },
        line
        | {
            "name": "drawdown",
            "y": rounded(-equity["drawdown"][kept], 6),
            "yaxis": "y2",
            "line": {"color": RED, "width": 1},
            "fill": "tozeroy",
            "fillcolor": "rgba(192,57,43,0.15)",
            "hovertemplate": "%{y:.2%}",
        },
    ]
    if benchmark is not None:
        value = initial_cash * benchmark["value"] / benchmark["value"][0]
        shown = thinned(value)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "benchmark",
                "x": local(benchmark["ts"][shown]),
                "y": rounded(value[shown], 2),
                "line": {"color": GREY, "width": 1.2},
                "hovertemplate": "%{y:,.2f} USD",
            }
        )
    return {
        "data": traces,
        "layout": {
            "yaxis": {"domain": [0.34, 1], "tickformat": ",~f", "title": {"text": "USD"}},
            "yaxis2": {"domain": [0, 0.26], "tickformat": ".2~%", "nticks": 4},
            "xaxis": {"anchor": "y2", "type": "date"},
            "hovermode": "x unified",
        },
    }


def sharpe_line(days: Longs, values: Floats) -> Figure:
    """The rolling Sharpe ratio."""
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "x": local_days(days),
                "y": rounded(values, 3),
                "line": {"color": BLUE, "width": 1.5},
                "hovertemplate": "%{x}: %{y:.2f}<extra></extra>",
            }
        ],
        "layout": {"xaxis": {"type": "date"}, "yaxis": {"zeroline": True}},
    }


def capital(equity: Mapping[str, Any], days: Longs, turnover: Floats) -> Figure:
    """The share of the equity that is held, and below it what is traded on a day."""
    share = np.zeros(equity["equity"].size)
    np.divide(equity["exposure"], equity["equity"], out=share, where=equity["equity"] > 0)
    kept = thinned(share)
    shown = thinned(turnover)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": "exposure",
                "x": local(equity["ts"][kept]),
                "y": rounded(share[kept], 5),
                "line": {"color": BLUE, "width": 1, "shape": "hv"},
                "fill": "tozeroy",
                "fillcolor": "rgba(36,87,166,0.12)",
                "hovertemplate": "%{y:.2%}",
            },
            {
                "type": "bar",
                "name": "turnover of the day",
                "x": local_days(days[shown], noon=True),
                "y": rounded(turnover[shown], 5),
                "yaxis": "y2",
                "marker": {"color": GREY},
                "hovertemplate": "%{y:.2%}",
            },
        ],
        "layout": {
            "yaxis": {"domain": [0.42, 1], "tickformat": ".2~%", "title": {"text": "exposure"}, "rangemode": "tozero"},
            "yaxis2": {"domain": [0, 0.32], "tickformat": ".2~%", "title": {"text": "turnover"}, "nticks": 4},
            "xaxis": {"anchor": "y2", "type": "date"},
            "hovermode": "x unified",
            "bargap": 0.3,
        },
    }


def trade_dots(trades: Mapping[str, Any], kept: Longs) -> Figure:
    """Profit of the trades that are `kept` when they were closed."""
    pnl = trades["pnl"]
    return _dots(trades, kept, local(trades["exit_ts"][kept]), rounded(pnl[kept], 2)) | {
        "layout": {"yaxis": {"title": {"text": "profit USD"}, "zeroline": True}, "xaxis": {"type": "date"}}
    }


def excursion_dots(trades: Mapping[str, Any], kept: Longs) -> Figure:
    """How far each of these trades went against us, and how far our way; per cent of the entry."""
    against, ours = rounded(100 * trades["mae"][kept], 3), rounded(100 * trades["mfe"][kept], 3)
    figure = _dots(trades, kept, against, ours)
    figure["data"][0]["hovertemplate"] = "%{text}<br>worst %{x:.2f} %, best %{y:.2f} %<extra></extra>"
    axis = {"ticksuffix": " %", "zeroline": True}
    return figure | {
        "layout": {
            "xaxis": axis | {"title": {"text": "worst (MAE)"}},
            "yaxis": axis | {"title": {"text": "best (MFE)"}},
        }
    }


def _dots(trades: Mapping[str, Any], kept: Longs, x: Any, y: list[float]) -> Figure:
    pairs = zip(texts(trades["symbol"], kept), texts(trades["exit_reason"], kept), strict=True)
    won, size = (trades["pnl"][kept] > 0).tolist(), trades["pnl"].size
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "x": x,
                "y": y,
                "text": [f"{symbol} {reason}" for symbol, reason in pairs],
                "marker": {
                    "size": 5,
                    "opacity": 0.6,
                    "color": [GREEN if each else RED for each in won],
                },
                "hovertemplate": "%{text}<br>%{y:,.2f} USD<br>%{x}<extra></extra>",
            }
        ],
        "note": "" if kept.size == size else f"{kept.size:,} of {size:,}",
    }


def sample(pnl: Floats) -> Longs:
    """Trades to draw: all, or so many evenly through the run, and the extremes."""
    if pnl.size <= _DOTS:
        return np.arange(pnl.size)
    evenly = np.linspace(0, pnl.size - 1, _DOTS).astype(np.int64)
    return np.unique(np.concatenate([evenly, *extremes(pnl, _EXTREMES)]))


def histogram(pnl: Floats) -> Figure:
    """The middle 99 % in bins of equal width; the tails are added to the outermost bins."""
    low, high = np.quantile(pnl, [0.005, 0.995])
    if not low < high:
        low, high = float(pnl.min()) - 0.5, float(pnl.max()) + 0.5
    counts, edges = np.histogram(np.clip(pnl, low, high), bins=41, range=(low, high))
    middle = (edges[1:] + edges[:-1]) / 2
    return {
        "data": [
            {
                "type": "bar",
                "x": rounded(middle, 4),
                "y": counts.tolist(),
                "marker": {"color": [GREEN if value > 0 else RED for value in middle]},
                "hovertemplate": "about %{x:,.2f} USD: %{y:,} trades<extra></extra>",
            }
        ],
        "layout": {
            "bargap": 0.05,
            "xaxis": {"title": {"text": "profit USD"}},
            "yaxis": {"title": {"text": "trades"}},
        },
    }


def by_symbol(trades: Mapping[str, Any]) -> Figure:
    """Profit per symbol; of many, both ends."""
    sums = sorted(
        ((float(pnl.sum()), symbol, pnl.size) for symbol, pnl in groups(trades["symbol"], trades["pnl"])),
        key=lambda row: (row[0], row[1]),
    )
    note = ""
    if len(sums) > 2 * BARS:
        note = f"the {BARS} worst and best of {len(sums)}"
        sums = [*sums[:BARS], *sums[-BARS:]]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": [symbol for _, symbol, _ in sums],
                "x": [round(pnl, 2) for pnl, _, _ in sums],
                "customdata": [size for _, _, size in sums],
                "marker": {"color": [GREEN if pnl > 0 else RED for pnl, _, _ in sums]},
                "hovertemplate": "%{y}: %{x:,.2f} USD in %{customdata:,} trades<extra></extra>",
            }
        ],
        "layout": {
            "bargap": 0.25,
            "yaxis": {"type": "category", "dtick": 1},
            "xaxis": {"title": {"text": "profit USD"}, "tickformat": ",~f"},
        },
        "note": note,
    }


def thinned(*curves: Floats, most: int = MOST_POINTS, buckets: int = _BUCKETS) -> Longs:
    """Indices to draw: all, or of each bucket the first and last point and every curve's extremes."""
    size = curves[0].size
    if size <= most:
        return np.arange(size)
    edges = np.linspace(0, size, buckets + 1).astype(np.int64)
    kept = [edges[:-1], edges[1:] - 1]
    for curve in curves:
        low, high = np.empty(buckets, np.int64), np.empty(buckets, np.int64)
        reach(np.require(curve, np.float64, ["C", "W"]), edges, low, high)
        kept += [low, high]
    return np.unique(np.concatenate(kept))


@kernel
def reach(curve: Floats, edges: Longs, low: Longs, high: Longs) -> None:
    """Where the lowest and the highest value of each bucket stands first."""
    for k in range(low.size):
        low[k] = high[k] = edges[k]
        for i in range(edges[k] + 1, edges[k + 1]):
            if curve[i] < curve[low[k]]:
                low[k] = i
            if curve[i] > curve[high[k]]:
                high[k] = i


def extremes(values: Floats, most: int) -> tuple[Longs, Longs]:
    """Indices of the lowest values and of the highest, the extreme first; among equals the first is lower."""
    last = min(most, values.size) - 1
    ends = np.partition(values, [last, values.size - 1 - last])
    low = np.flatnonzero(values <= ends[last])
    high = np.flatnonzero(values >= ends[values.size - 1 - last])
    worst = low[np.argsort(values[low], kind="stable")]
    best = high[np.argsort(values[high], kind="stable")][::-1]
    return worst[:most], best[:most]


def rounded(values: Floats, digits: int) -> list[float]:
    """Plain numbers, as short as they may be; NaN is a gap in a line."""
    numbers: list[float] = np.round(values, digits).tolist()
    return numbers


def local_days(days: Longs, *, noon: bool = False) -> list[str]:
    """Dates as a date axis takes them; a bar of a day stands at its noon."""
    found: list[str] = np.datetime_as_string((days * NS_PER_DAY // 1_000_000_000).view("M8[s]"), unit="D").tolist()
    return [f"{day}T12:00" for day in found] if noon else found


def reliability(bins: Sequence[Mapping[str, Any]]) -> Figure:
    """Said probability against the share that came true, over how many decisions there were of each."""
    said = rounded(np.array([one["said"] for one in bins]), 4)
    low, high = min(one["from"] for one in bins), max(one["upto"] for one in bins)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": "as said",
                "x": [low, high],
                "y": [low, high],
                "line": {"color": GREY, "width": 1, "dash": "dot"},
                "hoverinfo": "skip",
            },
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "came true",
                "x": said,
                "y": rounded(np.array([one["came"] for one in bins]), 4),
                "line": {"color": BLUE, "width": 1.5},
                "hovertemplate": "said %{x:.1%}, came %{y:.1%}<extra></extra>",
            },
            {
                "type": "bar",
                "name": "decisions",
                "x": rounded(np.array([(one["from"] + one["upto"]) / 2 for one in bins]), 4),
                "y": [one["decisions"] for one in bins],
                "width": [round(one["upto"] - one["from"], 4) for one in bins],
                "yaxis": "y2",
                "marker": {"color": GREY},
                "hovertemplate": "about %{x:.1%}: %{y:,} decisions<extra></extra>",
            },
        ],
        "layout": {
            "bargap": 0.05,
            "yaxis": {"domain": [0.42, 1], "tickformat": ".0%", "title": {"text": "came true"}},
            "yaxis2": {"domain": [0, 0.32], "title": {"text": "decisions"}, "nticks": 4, "rangemode": "tozero"},
            "xaxis": {"anchor": "y2", "tickformat": ".0%"},
        },
    }
