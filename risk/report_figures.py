"""The report's charts: what plotly.js takes, as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from operators.kernel import kernel
from risk.performance import quantile
from risk.report_json import dates, either, local, noons, phrases, rounded
from risk.report_words import BLUE, GREEN, GREY, RED, Labels, groups
from schemas.frames import Bools, Floats, Longs

MOST_POINTS = 4_000  # of a curve; longer ones are thinned
_BUCKETS = 600  # a thinned curve keeps first, last, lowest and highest of each; a chart is some 1,000 pixels wide
_DOTS = 2_000  # trades in a scatter
_EXTREMES = 50  # of these, the worst and the best at least
_BINS = 41
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
                "x": dates(days),
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
                "x": noons(days[shown]),
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


class Dots(NamedTuple):
    """Trades as dots, wherever a chart puts them."""

    kept: Longs  # the trades that are drawn
    worst: Longs  # among them, the worst first
    best: Longs
    texts: msgspec.Raw
    colours: msgspec.Raw
    note: str


def dots(trades: Mapping[str, Any]) -> Dots:
    """All trades, of which there must be one; of many some evenly through the run, the worst and the best."""
    pnl, note = trades["pnl"], ""
    worst, best = extremes(pnl, _EXTREMES)
    kept = np.arange(pnl.size)
    if pnl.size > _DOTS:
        drawn = np.zeros(pnl.size, np.bool_)
        for some in (np.linspace(0, pnl.size - 1, _DOTS).astype(np.int64), worst, best):
            drawn[some] = True
        kept = np.flatnonzero(drawn)
        note = f"{kept.size:,} of {pnl.size:,}"
    symbols, reasons = (Labels(trades[name].names, trades[name].place[kept]) for name in ("symbol", "exit_reason"))
    return Dots(kept, worst, best, phrases(symbols, reasons), either(pnl[kept] > 0, GREEN, RED), note)


def trade_dots(trades: Mapping[str, Any], drawn: Dots) -> Figure:
    """Profit of trades when they were closed."""
    x, y = local(trades["exit_ts"][drawn.kept]), rounded(trades["pnl"][drawn.kept], 2)
    return _scatter(drawn, x, y, "%{text}<br>%{y:,.2f} USD<br>%{x}<extra></extra>") | {
        "layout": {"yaxis": {"title": {"text": "profit USD"}, "zeroline": True}, "xaxis": {"type": "date"}}
    }


def excursion_dots(trades: Mapping[str, Any], drawn: Dots) -> Figure:
    """How far trades went against us, and how far our way; per cent of the entry."""
    against, ours = (rounded(100 * trades[name][drawn.kept], 3) for name in ("mae", "mfe"))
    axis = {"ticksuffix": " %", "zeroline": True}
    return _scatter(drawn, against, ours, "%{text}<br>worst %{x:.2f} %, best %{y:.2f} %<extra></extra>") | {
        "layout": {
            "xaxis": axis | {"title": {"text": "worst (MAE)"}},
            "yaxis": axis | {"title": {"text": "best (MFE)"}},
        }
    }


def _scatter(drawn: Dots, x: msgspec.Raw, y: msgspec.Raw, hover: str) -> Figure:
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "x": x,
                "y": y,
                "text": drawn.texts,
                "marker": {"size": 5, "opacity": 0.6, "color": drawn.colours},
                "hovertemplate": hover,
            }
        ],
        "note": drawn.note,
    }


def histogram(pnl: Floats) -> Figure:
    """The middle 99 % in bins of equal width; the tails are added to the outermost bins."""
    low, high = quantile(pnl, 0.005), quantile(pnl, 0.995)
    if not low < high:
        low, high = float(pnl.min()) - 0.5, float(pnl.max()) + 0.5
    edges, counts = np.linspace(low, high, _BINS + 1), np.zeros(_BINS, np.int64)
    count(np.require(pnl, np.float64, ["C", "W"]), edges, counts)
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


@kernel
def count(values: Floats, edges: Floats, counts: Longs) -> None:
    """How many lie from each edge to the next, as `np.histogram` has it; those outside at the ends."""
    last = counts.size - 1
    width = (edges[counts.size] - edges[0]) / counts.size
    for i in range(values.size):
        k = int(min(max((values[i] - edges[0]) / width, 0.0), float(last)))
        while k > 0 and values[i] < edges[k]:
            k -= 1
        while k < last and values[i] >= edges[k + 1]:
            k += 1
        counts[k] += 1


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
    kept = np.zeros(size, np.bool_)
    for curve in curves:
        reach(np.require(curve, np.float64, ["C", "W"]), edges, kept)
    return np.flatnonzero(kept)


@kernel
def reach(curve: Floats, edges: Longs, kept: Bools) -> None:
    """Mark each bucket's ends, and where its lowest and its highest value stands first."""
    for k in range(edges.size - 1):
        low = high = edges[k]
        lowest = highest = curve[low]
        for i in range(edges[k] + 1, edges[k + 1]):
            if curve[i] < lowest:
                low, lowest = i, curve[i]
            if curve[i] > highest:
                high, highest = i, curve[i]
        kept[edges[k]] = kept[low] = kept[high] = kept[edges[k + 1] - 1] = True


def extremes(values: Floats, most: int) -> tuple[Longs, Longs]:
    """Indices of the lowest values and of the highest, the extreme first; among equals the first is lower."""
    low, high = np.empty((2, min(most, values.size)), np.int64)
    find_ends(np.require(values, np.float64, ["C", "W"]), low, high)
    return low, high


@kernel
def find_ends(values: Floats, low: Longs, high: Longs) -> None:
    """Put each value in its place among the ends so far, of which there are `low.size` at most."""
    last = low.size - 1
    for i in range(values.size):
        if i <= last or values[i] < values[low[last]]:
            k = min(i, last)
            while k > 0 and values[low[k - 1]] > values[i]:
                low[k] = low[k - 1]
                k -= 1
            low[k] = i
        if i <= last or values[i] >= values[high[last]]:
            k = min(i, last)
            while k > 0 and values[high[k - 1]] <= values[i]:
                high[k] = high[k - 1]
                k -= 1
            high[k] = i


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
