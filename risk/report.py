"""A run's folder -> report.html: one file that needs no network and reads well on a phone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from schemas.calendar import NEW_YORK
from schemas.frames import Floats, Ints, Longs
from schemas.units import NS_PER_MINUTE, NS_PER_SECOND

MOST_POINTS = 4_000  # of a curve; longer ones are thinned
_BUCKETS = 600  # a thinned curve keeps first, last, lowest and highest of each; a chart is some 1,000 pixels wide
_DOTS = 2_000  # trades in the scatter
_EXTREMES = 50  # of these, the worst and the best at least
_HOUR = 60 * NS_PER_MINUTE
_LISTED = 8  # trades in each table
_BARS = 12  # symbols at each end of the P&L chart
_TRADE = ("closed", "symbol", "profit", "exit", "shares", "in", "out")
_COLUMNS = ["symbol", "exit_ts", "entry_price", "exit_price", "qty", "pnl", "exit_reason"]
_GREEN, _RED, _BLUE, _GREY = "#1a7f4b", "#c0392b", "#2457a6", "#8a94a3"


class Labels(NamedTuple):
    """A column of words: row i says names[place[i]]."""

    names: list[str]
    place: Ints


def write(folder: Path) -> Path:
    """Read summary.json and the tables of `folder`, write report.html into it."""
    summary = json.loads((folder / "summary.json").read_bytes())
    equity = _read(folder / "equity.parquet", ["ts", "equity", "drawdown"])
    trades = _read(folder / "trades.parquet", _COLUMNS)
    before, mark, after = page(summary, equity, trades).partition(_MARK)
    path = folder / "report.html"
    with path.open("wb") as file:
        file.write(before.encode())
        if mark:
            file.writelines([b"<script>", _plotly(), b"</script>"])
        file.write(after.encode())
    return path


def page(summary: Mapping[str, Any], equity: Mapping[str, Any], trades: Mapping[str, Any]) -> str:
    """The page, with a mark where the library belongs; columns are arrays by name, times in UTC ns, words Labels."""
    figures: dict[str, Any] = {}
    if equity["ts"].size:
        figures["curve"] = _curve(equity)
    if trades["pnl"].size:
        figures |= {"dots": _dots(trades), "spread": _histogram(trades["pnl"]), "symbols": _by_symbol(trades)}
    sections = [
        _head(summary),
        _tiles(summary),
        _reconciliation(summary),
        _chart("curve", "Equity and drawdown", 420, figures),
        _funnel(summary),
        _chart("dots", "Trades", 300, figures),
        _chart("spread", "Profit per trade", 260, figures),
        _chart("symbols", "Profit per symbol", 90 + 22 * _heights(figures.get("symbols")), figures),
        _exits(trades),
        _rejections(summary),
        _trade_tables(trades),
        _quality(summary),
        _settings(summary),
    ]
    return _PAGE.format(
        title=escape(f"{summary['bars'].get('label', 'run')}: {_percent(summary['return'])}"),
        style=_STYLE,
        body="\n".join(section for section in sections if section),
        plotly=_MARK if figures else "",
        figures=json.dumps(figures).replace("</", "<\\/"),
        script=_SCRIPT if figures else "",
    )


def _read(path: Path, names: list[str]) -> dict[str, Any]:
    """Columns by name; times as integers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, memory_map=True) as file:
        table = file.read(names, use_threads=False).unify_dictionaries().combine_chunks()
    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            words = column.combine_chunks()
            columns[name] = Labels(words.dictionary.to_pylist(), words.indices.to_numpy())
        else:
            columns[name] = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_numpy()
    return columns


# The parts in words.


def _head(summary: Mapping[str, Any]) -> str:
    bars, data = summary["bars"], summary["data"]
    label = escape(str(bars.get("label", "")))
    first, last = data["first_slice"] or data["after"], data["last_slice"] or data["upto"]
    facts = [summary["timeframe"], f"{first[:10]} to {last[:10]}"]
    if "symbols" in bars:
        facts.append(f"{_plain(bars['symbols'])} symbols")
    facts += [f"account {summary['account']}", f"settings {summary['settings_hash']}"]
    line = " · ".join(escape(str(fact)) for fact in facts)
    banner = ""
    if summary["synthetic"]:
        banner = '<div class="banner">SYNTHETIC DATA: made-up prices, no statement about any market</div>'
    return f"{banner}<header><h1>{label}</h1><p>{line}</p></header>"


def _tiles(summary: Mapping[str, Any]) -> str:
    counts = summary["counts"]
    gain = summary["final_equity"] - summary["initial_cash"]
    tiles = [
        ("Return", _percent(summary["return"]), f"{_money(gain, sign=True)} USD", gain),
        ("Final equity", _money(summary["final_equity"]), f"from {_money(summary['initial_cash'])} USD", 0),
        ("Max drawdown", _percent(-summary["max_drawdown"]), "from the highest equity", 0),
        ("Trades", f"{counts['trades']:,}", f"{counts['open_positions']:,} lots still open", 0),
        ("Win rate", _percent(summary["win_rate"], sign=False), "of trades, after fees", 0),
        ("Profit factor", _ratio(summary["profit_factor"]), "gains / losses", 0),
    ]
    cells = "".join(
        f'<div class="tile"><span>{name}</span><b class="{_tone(tone)}">{value}</b><small>{note}</small></div>'
        for name, value, note, tone in tiles
    )
    return f'<section class="tiles">{cells}</section>'


def _reconciliation(summary: Mapping[str, Any]) -> str:
    terms = [
        ("initial cash", summary["initial_cash"], ""),
        ("realised", summary["realised_pnl"], "+"),
        ("unrealised", summary["unrealised_pnl"], "+"),
        ("fees", summary["fees"], "−"),
        ("final equity", summary["final_equity"], "="),
    ]
    parts = " ".join(f"<span>{sign} {name} <b>{_money(value)}</b></span>" for name, value, sign in terms)
    return f'<p class="sum">{parts}</p>'


def _funnel(summary: Mapping[str, Any]) -> str:
    """From bars to fills; widths on a logarithmic scale, or the last stages would not be seen."""
    stages = summary["funnel"]
    widths = _log_widths([stage["count"] for stage in stages])
    rows = []
    for stage, width in zip(stages, widths, strict=True):
        lost = ""
        if stage["lost"]:
            verb = "refused before" if stage["stage"] == "rows" else "lost here"
            most = f"{_text(stage['commonest_reason'])} {stage['reason_count']:,}"
            lost = f"{stage['lost']:,} {verb}, most: {most}"
        rows.append(_bar(stage["stage"], f"{stage['count']:,}", width, _BLUE, lost))
    return _section("From bars to fills", f'<div class="bars">{"".join(rows)}</div>', "log scale")


def _rejections(summary: Mapping[str, Any]) -> str:
    counts = summary["counts"]
    rejected = counts["rejected_by_reason"]
    if not rejected:
        return ""
    most = max(rejected.values())
    rows = [
        _bar(_text(rule), f"{number:,}", max(100 * number / most, 1), _RED, "") for rule, number in rejected.items()
    ]
    note = f"{counts['rejected']:,} of {counts['verdicts']:,} candidates"
    return _section("Refused by the rules", f'<div class="bars">{"".join(rows)}</div>', note)


def _exits(trades: Mapping[str, Any]) -> str:
    if not trades["pnl"].size:
        return ""
    rows = []
    for reason, pnl in _groups(trades["exit_reason"], trades["pnl"]):
        rate = float((pnl > 0).mean())
        rows.append([_text(reason), f"{pnl.size:,}", _percent(rate, sign=False), _cell(pnl.mean()), _cell(pnl.sum())])
    return _section("How trades ended", _table(["exit", "trades", "won", "mean", "profit USD"], rows))


def _trade_tables(trades: Mapping[str, Any]) -> str:
    pnl = trades["pnl"]
    if not pnl.size:
        return ""
    worst, best = _extremes(pnl, _LISTED)
    last = np.arange(pnl.size)[::-1]
    return "".join(
        _section(
            title,
            _table(_TRADE, _rows_of(trades, which)),
        )
        for title, which in (
            ("Best trades", best),
            ("Worst trades", worst),
            ("Last trades", last[:_LISTED]),
        )
    )


def _rows_of(trades: Mapping[str, Any], which: Longs) -> list[list[str]]:
    symbols, reasons = _texts(trades["symbol"], which), _texts(trades["exit_reason"], which)
    return [
        [
            _clock(int(trades["exit_ts"][i])),
            f"<b>{symbol}</b>",
            _cell(trades["pnl"][i]),
            reason,
            f"{int(trades['qty'][i]):,}",
            _money(trades["entry_price"][i]),
            _money(trades["exit_price"][i]),
        ]
        for i, symbol, reason in zip(which, symbols, reasons, strict=True)
    ]


def _quality(summary: Mapping[str, Any]) -> str:
    counts, bars, quality = summary["counts"], summary["bars"], summary["quality"]
    rows = [
        ["bars taken in", f"{counts['bars']:,}"],
        ["bars refused", f"{counts['refused']:,}"],
        *([f"· {_text(reason)}", f"{number:,}"] for reason, number in counts["refused_by_reason"].items()),
        ["bars missing within sessions / gaps", f"{quality['missing_bars']:,} / {quality['gaps']:,}"],
        ["bars that repeat themselves", f"{quality['stale_bars']:,}"],
        ["jumps", f"{quality['jumps']:,}"],
        ["slices", f"{counts['slices']:,}"],
        ["signals published", f"{counts['signals']:,}"],
        ["orders / fills", f"{counts['orders']:,} / {counts['fills']:,}"],
        ["drawdown latches / releases", f"{counts['drawdown_latches']:,} / {counts['latch_releases']:,}"],
        ["kill switch", "on" if counts["killed"] else "never on"],
        ["not there or switched off", escape(", ".join(summary["off"]) or "nothing")],
        ["alphas", escape(", ".join(summary["alphas"]))],
        *(
            [
                _text(name.removesuffix("_ts")),
                _clock(value) if name.endswith("_ts") else escape(_plain(value)),
            ]
            for name, value in bars.items()
            if name != "label"
        ),
    ]
    return _section("Data and what was off", _table(None, rows, facts=True))


def _settings(summary: Mapping[str, Any]) -> str:
    text = escape(json.dumps(summary["settings"], indent=2))
    title = f"<summary>Settings {summary['settings_hash']}</summary>"
    return f"<section><details>{title}<pre>{text}</pre></details></section>"


# The charts: what plotly.js takes, as plain values.


def _curve(equity: Mapping[str, Any]) -> dict[str, Any]:
    kept = thinned(equity["equity"], equity["drawdown"])
    times = _local(equity["ts"][kept])
    line = {"type": "scatter", "mode": "lines", "x": times}
    return {
        "data": [
            line
            | {
                "name": "equity USD",
                "y": _rounded(equity["equity"][kept], 2),
                "line": {"color": _BLUE, "width": 1.5},
                "hovertemplate": "%{y:,.2f} USD<extra></extra>",
            },
            line
            | {
                "name": "drawdown",
                "y": _rounded(-equity["drawdown"][kept], 6),
                "yaxis": "y2",
                "line": {"color": _RED, "width": 1},
                "fill": "tozeroy",
                "fillcolor": "rgba(192,57,43,0.15)",
                "hovertemplate": "%{y:.2%}<extra></extra>",
            },
        ],
        "layout": {
            "yaxis": {"domain": [0.34, 1], "tickformat": ",~f", "title": {"text": "USD"}},
            "yaxis2": {"domain": [0, 0.26], "tickformat": ".2~%", "nticks": 4},
            "xaxis": {"anchor": "y2", "type": "date"},
            "hovermode": "x unified",
        },
    }


def _dots(trades: Mapping[str, Any]) -> dict[str, Any]:
    pnl = trades["pnl"]
    kept = np.arange(pnl.size)
    if pnl.size > _DOTS:  # evenly through the run, and the extremes
        evenly = np.linspace(0, pnl.size - 1, _DOTS).astype(np.int64)
        kept = np.unique(np.concatenate([evenly, *_extremes(pnl, _EXTREMES)]))
    words = zip(_texts(trades["symbol"], kept), _texts(trades["exit_reason"], kept), strict=True)
    shown = "" if kept.size == pnl.size else f"{kept.size:,} of {pnl.size:,}"
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "x": _local(trades["exit_ts"][kept]),
                "y": _rounded(pnl[kept], 2),
                "text": [" ".join(pair) for pair in words],
                "marker": {
                    "size": 5,
                    "opacity": 0.6,
                    "color": np.where(pnl[kept] > 0, _GREEN, _RED).tolist(),
                },
                "hovertemplate": "%{text}<br>%{y:,.2f} USD<br>%{x}<extra></extra>",
            }
        ],
        "layout": {"yaxis": {"title": {"text": "profit USD"}, "zeroline": True}, "xaxis": {"type": "date"}},
        "note": shown,
    }


def _histogram(pnl: Floats) -> dict[str, Any]:
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
                "x": _rounded(middle, 4),
                "y": counts.tolist(),
                "marker": {"color": [_GREEN if value > 0 else _RED for value in middle]},
                "hovertemplate": "about %{x:,.2f} USD: %{y:,} trades<extra></extra>",
            }
        ],
        "layout": {
            "bargap": 0.05,
            "xaxis": {"title": {"text": "profit USD"}},
            "yaxis": {"title": {"text": "trades"}},
        },
    }


def _by_symbol(trades: Mapping[str, Any]) -> dict[str, Any]:
    sums = sorted(
        ((float(pnl.sum()), symbol, pnl.size) for symbol, pnl in _groups(trades["symbol"], trades["pnl"])),
        key=lambda row: (row[0], row[1]),
    )
    note = ""
    if len(sums) > 2 * _BARS:
        note = f"the {_BARS} worst and best of {len(sums)}"
        sums = [*sums[:_BARS], *sums[-_BARS:]]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": [symbol for _, symbol, _ in sums],
                "x": [round(pnl, 2) for pnl, _, _ in sums],
                "customdata": [size for _, _, size in sums],
                "marker": {"color": [_GREEN if pnl > 0 else _RED for pnl, _, _ in sums]},
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
        for extreme in (np.minimum, np.maximum):
            of_bucket = np.repeat(extreme.reduceat(curve, edges[:-1]), np.diff(edges))
            reached = np.flatnonzero(curve == of_bucket)
            kept.append(reached[np.searchsorted(reached, edges[:-1])])  # the first of each bucket
    return np.unique(np.concatenate(kept))


def _extremes(values: Floats, most: int) -> tuple[Longs, Longs]:
    """Indices of the lowest values and of the highest, the extreme first; among equals the first is lower."""
    last = min(most, values.size) - 1
    ends = np.partition(values, [last, values.size - 1 - last])
    low = np.flatnonzero(values <= ends[last])
    high = np.flatnonzero(values >= ends[values.size - 1 - last])
    worst = low[np.argsort(values[low], kind="stable")]
    best = high[np.argsort(values[high], kind="stable")][::-1]
    return worst[:most], best[:most]


def _groups(labels: Labels, values: Floats) -> Iterable[tuple[str, Floats]]:
    """Values by name, names in alphabetical order."""
    order = np.argsort(labels.place.astype(np.int16) if len(labels.names) < 1 << 15 else labels.place, kind="stable")
    sizes = np.bincount(labels.place, minlength=len(labels.names))
    groups = zip(labels.names, np.split(values[order], np.cumsum(sizes)[:-1]), strict=True)
    return sorted((group for group in groups if group[1].size), key=lambda group: group[0])


# Small pieces of HTML and text.


def _section(title: str, body: str, note: str = "") -> str:
    small = f" <small>{note}</small>" if note else ""
    return f"<section><h2>{title}{small}</h2>{body}</section>"


def _chart(name: str, title: str, height: int, figures: Mapping[str, Any]) -> str:
    if name not in figures:
        return ""
    body = f'<div class="chart" id="{name}" style="height:{height}px"></div>'
    return _section(title, body, figures[name].get("note", ""))


def _heights(figure: Mapping[str, Any] | None) -> int:
    return len(figure["data"][0]["y"]) if figure else 0


def _bar(name: str, value: str, width: float, colour: str, note: str) -> str:
    below = f"<small>{note}</small>" if note else ""
    bar = f'<i style="width:{width:.1f}%;background:{colour}"></i>'
    return f'<div class="bar"><span>{name}</span><div>{bar}</div><b>{value}</b>{below}</div>'


def _log_widths(counts: Sequence[int]) -> list[float]:
    """Per cent of the full width; one is still visible, none is none."""
    top = float(np.log1p(max([*counts, 1])))
    return [100 * float(np.log1p(count)) / top for count in counts]


def _table(head: Sequence[str] | None, rows: Sequence[Sequence[str]], *, facts: bool = False) -> str:
    top = "<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="facts"' if facts else ""
    return f'<div class="scroll"><table{kind}>{top}{body}</table></div>'


def _cell(value: float) -> str:
    return f'<b class="{_tone(float(value))}">{_money(value, sign=True)}</b>'


def _tone(value: float) -> str:
    return "up" if value > 0 else "down" if value < 0 else ""


def _money(value: float, *, sign: bool = False) -> str:
    text = f"{value:+,.2f}" if sign else f"{value:,.2f}"
    return text.replace("-", "−")


def _percent(value: float | None, *, sign: bool = True) -> str:
    if value is None:
        return "–"
    return (f"{value:+.2%}" if sign and value else f"{value:.2%}").replace("-", "−")


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _text(word: Any) -> str:
    return escape(str(word).replace("_", " "))


def _texts(labels: Labels, rows: Longs) -> list[str]:
    """The words of some rows."""
    texts = [_text(name) for name in labels.names]
    return [texts[place] for place in labels.place[rows].tolist()]


def _plain(value: Any) -> str:
    """Text as it is, of a list how long it is."""
    if isinstance(value, list):
        return f"{len(value):,}"
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else json.dumps(value)


def _rounded(values: Floats, digits: int) -> list[float]:
    rounded: list[float] = np.round(values, digits).tolist()
    return rounded


def _local(ts: Longs) -> list[str]:
    """New York's clock, as a date axis takes it; its distance from UTC changes with a full hour."""
    hours, place = np.unique(ts // _HOUR, return_inverse=True)
    there = [datetime.fromtimestamp(hour * 3_600, NEW_YORK).replace(tzinfo=UTC) for hour in hours.tolist()]
    begins = np.array([int(begin.timestamp()) for begin in there], np.int64)
    seconds = begins[place] + ts % _HOUR // NS_PER_SECOND
    texts: list[str] = np.datetime_as_string(seconds.view("M8[s]")).tolist()
    return texts


def _clock(ts: int) -> str:
    return datetime.fromtimestamp(ts // NS_PER_SECOND, NEW_YORK).strftime("%Y-%m-%d&nbsp;%H:%M")


def _plotly() -> bytes:
    """The library's own JavaScript; found without importing the package, which takes its time."""
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("plotly is not installed")
    return (Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_bytes()


_MARK = "<!-- plotly.js -->"

_STYLE = """
:root { --ink: #1b2430; --dim: #66707f; --line: #e3e7ec; --ground: #f5f6f8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 16px; color: var(--ink); background: var(--ground);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 10px; }
h2 small, header p, .tile span, .tile small, .bar small { color: var(--dim); font-weight: normal; }
h2 small { font-size: 0.8rem; margin-left: 6px; }
header p { margin: 2px 0 0; font-size: 0.9rem; }
.banner { background: #ffe9b8; border: 1px solid #e0b040; border-radius: 8px; padding: 8px 12px;
  margin-bottom: 12px; font-weight: 600; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 14px;
  margin-top: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 10px; padding: 0;
  background: none; border: 0; }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 10px 12px; }
.tile span, .tile b, .tile small { display: block; }
.tile b { font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tile span, .tile small { font-size: 0.8rem; }
.sum { color: var(--dim); font-size: 0.85rem; margin: 10px 2px 0; display: flex; flex-wrap: wrap;
  gap: 2px 10px; }
.sum b { color: var(--ink); font-variant-numeric: tabular-nums; }
.up { color: #1a7f4b; } .down { color: #c0392b; }
.chart { width: 100%; }
.bar { display: grid; grid-template-columns: 128px 1fr 92px; gap: 0 10px; align-items: center;
  margin: 5px 0; }
.bar div { background: #eef1f5; border-radius: 4px; }
.bar i { display: block; height: 16px; border-radius: 4px; }
.bar b { text-align: right; font-variant-numeric: tabular-nums; font-weight: 600; }
.bar small { grid-column: 2 / 4; font-size: 0.8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 8px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--dim); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr:last-child td { border-bottom: 0; }
table.facts td { white-space: normal; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: 0.8rem; }
summary { cursor: pointer; }
@media (max-width: 520px) {
  body { padding: 10px; font-size: 14px; }
  section { padding: 10px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .bar { grid-template-columns: 96px 1fr 76px; }
  .bar small { grid-column: 1 / 4; }
}
"""

_SCRIPT = """
const narrow = matchMedia("(max-width: 520px)").matches;
const touch = matchMedia("(pointer: coarse)").matches;
const axis = { gridcolor: "#e9ecf0", zerolinecolor: "#b8c0ca", automargin: true };
for (const [name, figure] of Object.entries(figures)) {
  const layout = Object.assign({ margin: { l: 48, r: 12, t: 6, b: 36 }, showlegend: false, autosize: true,
    paper_bgcolor: "#fff", plot_bgcolor: "#fff", dragmode: touch ? false : "zoom",
    font: { family: "system-ui, sans-serif", size: narrow ? 11 : 12, color: "#1b2430" } }, figure.layout);
  for (const key of ["xaxis", "yaxis", "yaxis2"]) {
    if (layout[key] || key !== "yaxis2") { layout[key] = Object.assign({}, axis, layout[key]); }
  }
  if (narrow) { for (const key of ["yaxis", "yaxis2"]) { if (layout[key]) { delete layout[key].title; } } }
  Plotly.newPlot(name, figure.data, layout, { responsive: true, displayModeBar: false });
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
{plotly}
</head>
<body>
{body}
<p class="sum">Times in the charts and tables are New York's.</p>
<script>const figures = {figures};
{script}</script>
</body>
</html>
"""
