"""How good was it? A run, or any file with a curve -> performance statistics. `utp metrics FILE`."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from infra.barfiles import reading
from infra.results import read_summary
from risk import curve as curves
from risk import performance as perf
from risk.curve import Curve
from risk.performance import Trades
from schemas.calendar import exchange_dates
from schemas.errors import UserError
from schemas.frames import Floats, Longs
from schemas.units import NS_PER_DAY

TIMES = ("ts", "date", "time", "timestamp", "datetime")
LEVELS = ("equity", "value", "nav", "balance", "close", "adj_close", "price")
RETURNS = ("returns", "return")
KINDS = (".parquet", ".csv", ".csv.gz")
BENCHMARKS = ("SPY", "QQQ")  # of a benchmark file with several symbols

_EPOCH = date(1970, 1, 1)
_NAN = float("nan")
_USE = ("turnover", "exposure", "time_in_market")

Answer = dict[str, Any]


def metrics(file: Path, benchmark: Path | None = None, risk_free: float = perf.RISK_FREE) -> Answer:
    """Every statistic of a file by name, in sections; NaN where it is undefined or not known.

    `file` is a run's folder or its equity.parquet, or a Parquet or CSV file with a column ts or date and
    one of equity, value, close (USD) or returns (fractions). Sections: data, performance, legacy;
    benchmark (None without a file) over the dates that both have; trades (None but for a run).
    Probabilistic Sharpe ratios are net of the risk-free rate, against an annual 1 or the benchmark's;
    LEAN's knows no such rate. Raises UserError.
    """
    run = _run_of(file)
    source, curve = _of_run(run) if run else _of_file(file)
    if curve.daily.size < 2:
        raise UserError(f"{file}: holds one day; a return wants two")
    trades = _trades(run) if run else None
    held = _columns(run / "equity.parquet", ["exposure", "equity"]) if run else None
    levels = source in LEVELS
    return {
        "data": {
            "file": str(file),
            "kind": "run" if run else "curve",
            "column": source,
            "rows": curve.rows,
            "days": int(curve.days.size),
            "first_day": _iso(int(curve.days[0])),
            "last_day": _iso(int(curve.days[-1])),
            "synthetic": bool(read_summary(run)["synthetic"]) if run else None,
            "risk_free": risk_free,
            "periods_per_year": perf.DAYS,
        },
        "performance": {
            "initial_equity": float(curve.points[0]) if levels else _NAN,
            "final_equity": float(curve.points[-1]) if levels else _NAN,
            **curves.performance(curve, risk_free),
            **(_use(run, curve, held) if run and held else dict.fromkeys(_USE, _NAN)),
        },
        "benchmark": _beside(curve, _of_file(benchmark, BENCHMARKS)[1], file, benchmark, risk_free)
        if benchmark
        else None,
        "trades": _named(trades) if trades else None,
        "legacy": _legacy(curve, source, trades, held),
    }


def benchmark_of(path: Path) -> Curve:
    """The curve of a benchmark's file; of several symbols SPY's, else QQQ's. Raises UserError."""
    return _of_file(path, BENCHMARKS)[1]


def _use(run: Path, curve: Curve, held: Mapping[str, Any]) -> dict[str, float]:
    turned = curves.traded(curve.days, _columns(run / "fills.parquet", ["ts", "qty", "price"]))
    return curves.use_of_capital(curve, held, turned)


def _beside(curve: Curve, other: Curve, file: Path, benchmark: Path, risk_free: float) -> Answer:
    if curves.shared(curve, other)[0].size < 2:
        raise UserError(f"{benchmark}: shares no two days with {file}: {_span(other)} beside {_span(curve)}")
    return {"file": str(benchmark), **curves.beside(curve, other, risk_free)}


def _legacy(curve: Curve, source: str, trades: Trades | None, held: Mapping[str, Any] | None) -> dict[str, float]:
    """The old names; drawdown and exposure are of the whole curve, as everywhere here."""
    names = perf.legacy_names(curve.daily, trades)
    names["max_drawdown"] = perf.max_drawdown(curve.points)
    names["exposure_pct"] = perf.exposure(held["exposure"], held["equity"]) if held else _NAN
    if source not in LEVELS:
        names["final_equity"] = _NAN
    return names if trades is None else {**names, "num_trades": trades.size}


# A run.


def _run_of(file: Path) -> Path | None:
    """The folder, when this is a run or a run's own curve."""
    if file.is_dir():
        return file
    return file.parent if file.name == "equity.parquet" and (file.parent / "summary.json").exists() else None


def _of_run(run: Path) -> tuple[str, Curve]:
    summary = read_summary(run)
    if "initial_cash" not in summary:
        raise UserError(f"{run}: its summary.json is not that of a run")
    table = _columns(run / "equity.parquet", ["ts", "equity"])
    if not table["ts"].size:
        raise UserError(f"{run}: there is no slice in this run")
    _refuse(exchange_dates(table["ts"]), table["equity"], 0.0, run, "equity")
    return "equity", curves.run_curve(table, float(summary["initial_cash"]))


def _trades(run: Path) -> Trades:
    names = ["entry_ts", "exit_ts", "pnl", "fees", "entry_price", "qty", "mae", "mfe"]
    return curves.trades_of(_columns(run / "trades.parquet", names))


def _named(trades: Trades) -> Answer:
    """Statistics of the trades; counts are whole and times ISO."""
    found: Answer = dict(perf.trade_statistics(trades))
    for name in ("start_ts", "end_ts"):
        ts = found[name]
        found[name] = None if np.isnan(ts) else f"{datetime.fromtimestamp(ts / 1e9, UTC):%Y-%m-%dT%H:%M:%SZ}"
    for name in found:
        if "number_of" in name or "consecutive" in name:
            found[name] = int(found[name])
    return found


def _columns(path: Path, names: list[str]) -> Mapping[str, Any]:
    """Columns of a run's table, times as UTC ns."""
    with reading(path):
        table = pq.read_table(path, columns=names)
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: no column {missing[0]}; is it a run's table?")
    return {name: _plain_column(table[name]) for name in names}


def _plain_column(column: pa.ChunkedArray) -> Any:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ns", "UTC")).cast(pa.int64())
    return column.to_numpy()


# Any other file.


def _of_file(path: Path, symbols: Sequence[str] = ()) -> tuple[str, Curve]:
    """The column that was read of a Parquet or CSV file, and its curve; of several symbols the first that is wanted."""
    if _run_of(path):
        return _of_run(path if path.is_dir() else path.parent)
    table = _read(path)
    time = next((name for name in TIMES if name in table.column_names), None)
    source = next((name for name in (*LEVELS, *RETURNS) if name in table.column_names), None)
    if time is None or source is None:
        wanted = f"one of {', '.join((*LEVELS, *RETURNS))}" if time else "ts or date"
        raise UserError(f"{path}: no column {wanted}; it has {', '.join(table.column_names[:12]) or 'none'}")
    if "symbol" in table.column_names:
        table = _of_symbol(table, path, symbols)
    days, order = _when(table[time], path, time)
    values = _numbers(table[source], path, source)[order]
    if source in RETURNS:
        return "returns", _of_returns(days, values, path, source)
    _refuse(days, values, 0.0, path, source)
    return source, curves.of_levels(days, values)


def _of_returns(days: Longs, values: Floats, path: Path, source: str) -> Curve:
    """Compounded from 1; missing ones at the start, where nothing comes before, are left out."""
    there = np.flatnonzero(~np.isnan(values))
    first = int(there[0]) if there.size else values.size
    days, values = days[first:], values[first:]
    if not values.size:
        raise UserError(f"{path}: no numbers in {source}")
    _refuse(days, values, -1.0, path, source)
    curve = perf.curve_of(values)
    return curves.curve(days, curve[1:], float(curve[0]))


def _refuse(days: Longs, values: Floats, bound: float, path: Path, source: str) -> None:
    """What is missing, infinite, or leaves nothing to earn with."""
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > bound)))
    if wrong.size:
        at = wrong[0]
        raise UserError(f"{path}: {source} {values[at]:g} on {_iso(int(days[at]))}: want a number above {bound:g}")


def _read(path: Path) -> pa.Table:
    """The columns we may want, by their names in lower case; text where the file is text."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    name = path.name.lower()
    if not name.endswith(KINDS):
        raise UserError(f"{path}: want a run's folder or a file: {', '.join(KINDS)}")
    known = {*TIMES, *LEVELS, *RETURNS, "symbol"}
    with reading(path):
        if name.endswith(".parquet"):
            names = pq.read_schema(path).names
            table = pq.read_table(path, columns=[each for each in names if each.strip().lower() in known])
        else:
            names = _header(path)
            text = pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=[each for each in names if each.strip().lower() in known] or names[:1],
                strings_can_be_null=True,
                null_values=["", "NaN", "nan", "null"],
            )
            table = pyarrow.csv.read_csv(path, convert_options=text)
    lower = [each.strip().lower() for each in table.column_names]
    twice = [each for each in lower if each in known and lower.count(each) > 1]
    if twice:
        raise UserError(f"{path}: two columns {twice[0]}; leave one")
    if not {*lower} & known:
        raise UserError(f"{path}: no column ts or date; it has {', '.join(names[:12]) or 'none'}")
    return table.rename_columns(lower)


def _header(path: Path) -> list[str]:
    with pyarrow.csv.open_csv(path) as stream:
        names: list[str] = stream.schema.names
    return names


def _of_symbol(table: pa.Table, path: Path, symbols: Sequence[str]) -> pa.Table:
    """The rows of the one symbol, or of the first that is wanted."""
    column = pc.utf8_upper(table["symbol"].cast(pa.string()))
    names = pc.unique(column).to_pylist()
    if len(names) == 1:
        return table
    symbol = next((name for name in symbols if name in names), None)
    if symbol is None:
        which = f" and {' or '.join(symbols)} is not among them" if symbols else ""
        raise UserError(f"{path}: {len(names)} symbols{which}; want the rows of one")
    return table.filter(pc.equal(column, symbol))


def _when(column: pa.ChunkedArray, path: Path, name: str) -> tuple[Longs, Longs]:
    """Exchange dates in order of time, and the order."""
    if column.null_count or not len(column):
        raise UserError(f"{path}: {'a row without' if len(column) else 'no rows in'} {name}")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _parsed(column, path, name)
    if pa.types.is_date(column.type):
        days = column.cast(pa.date32()).cast(pa.int32()).to_numpy().astype(np.int64)
        return _sorted(days, days, path)
    if not pa.types.is_timestamp(column.type):
        raise UserError(f"{path}: {name} holds {column.type}; want times in UTC or dates")
    naive = column.type.tz is None
    with reading(path):
        ts = column.cast(pa.timestamp("ns", None if naive else "UTC")).cast(pa.int64()).to_numpy()
    if not (ts % NS_PER_DAY).any():  # dates written as midnights
        return _sorted(ts, ts // NS_PER_DAY, path)
    if naive:
        raise UserError(f"{path}: {name} has no time zone; write UTC as in 2024-01-02T21:00:00Z, or dates")
    return _sorted(ts, exchange_dates(ts), path)


def _parsed(column: pa.ChunkedArray, path: Path, name: str) -> pa.ChunkedArray:
    """Text -> dates or times."""
    for kind in (pa.date32(), pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue
    raise UserError(
        f"{path}: {name} {column[0].as_py()!r} ..: want dates as 2024-01-02 or times as 2024-01-02T21:00:00Z"
    )


def _sorted(ts: Longs, days: Longs, path: Path) -> tuple[Longs, Longs]:
    order = np.argsort(ts, kind="stable")
    again = np.flatnonzero(np.diff(ts[order]) == 0)
    if again.size:
        raise UserError(f"{path}: two rows of the same time on {_iso(int(days[order][again[0]]))}")
    return days[order], order


def _numbers(column: pa.ChunkedArray, path: Path, name: str) -> Floats:
    """Numbers, NaN for null."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        values: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{path}: {name} is not all numbers: {' '.join(str(error).split())[:120]}") from error
    return values


def _iso(day: int) -> str:
    try:
        return (_EPOCH + timedelta(days=day)).isoformat()
    except OverflowError:
        return f"day {day} since 1970"


def _span(curve: Curve) -> str:
    return f"{_iso(int(curve.days[0]))} to {_iso(int(curve.days[-1]))}"


# For reading.

Show = Callable[[float], str]


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def _plain(value: float) -> str:
    return f"{value:,.2f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


_SHOWN: dict[str, tuple[tuple[str, str, Show], ...]] = {
    "performance": (
        ("total return", "total_return", _percent),
        ("CAGR", "cagr", _percent),
        ("annual volatility", "annual_volatility", _percent),
        ("Sharpe", "sharpe", _ratio),
        ("Sharpe, LEAN", "sharpe_lean", _ratio),
        ("probability Sharpe > 1", "probabilistic_sharpe", _percent),
        ("Sortino", "sortino", _ratio),
        ("Calmar", "calmar", _ratio),
        ("max drawdown", "max_drawdown", _percent),
        ("longest drawdown, days", "max_drawdown_days", _plain),
        ("VaR 95 / day", "var_95", _percent),
        ("CVaR 95 / day", "cvar_95", _percent),
        ("best day", "best_day", _percent),
        ("worst day", "worst_day", _percent),
        ("exposure", "exposure", _percent),
        ("turnover / day", "turnover", _percent),
    ),
    "benchmark": (
        ("benchmark return", "total_return", _percent),
        ("excess return", "excess_return", _percent),
        ("beta", "beta", _ratio),
        ("alpha", "alpha", _percent),
        ("information ratio", "information_ratio", _ratio),
        ("tracking error", "tracking_error", _percent),
        ("Treynor", "treynor", _ratio),
        ("correlation", "correlation", _ratio),
    ),
    "trades": (
        ("trades", "total_number_of_trades", _whole),
        ("win rate", "win_rate", _percent),
        ("profit factor", "profit_factor", _ratio),
        ("expectancy, USD", "expectancy", _plain),
        ("average win, USD", "average_profit", _plain),
        ("average loss, USD", "average_loss", _plain),
        ("largest win, USD", "largest_profit", _plain),
        ("largest loss, USD", "largest_loss", _plain),
        ("holding time", "average_trade_duration_seconds", _time),
        ("fees, USD", "total_fees", _plain),
    ),
}


def lines(answer: Answer) -> list[tuple[str, list[tuple[str, str]]]]:
    """What a reader wants first: sections of names and values; `-` for what is undefined."""
    absent = () if answer["data"]["kind"] == "run" else ("exposure", "turnover")
    return [
        (section, [(name, _shown(answer[section][key], show)) for name, key, show in rows if key not in absent])
        for section, rows in _SHOWN.items()
        if answer[section] is not None
    ]


def _shown(value: float, show: Show) -> str:
    return show(value) if np.isfinite(value) else "-"
