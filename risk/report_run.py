"""What a run's page is made of: read from its folder, or at hand when the run ends."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from operators.kernel import kernel
from risk import attribution
from risk.report_words import Labels
from schemas.errors import UserError
from schemas.frames import Bools, Codes, Ints, Longs

Columns = Mapping[str, Any]

TABLES = {
    "equity": ("ts", "equity", "exposure", "drawdown"),
    "trades": ("symbol", "decided_ts", "entry_ts", "exit_ts", "entry_price", "exit_price", "qty", "pnl", "fees",
               "exit_reason", "mae", "mfe"),
    "fills": ("ts", "side", "qty", "price", "expected_price", "reason"),
    "signals": ("ts", "symbol", "direction", "regime", "votes"),
    "benchmark": ("ts", "value"),
}  # fmt: skip
_SIGNS = {"short": -1, "flat": 0, "long": 1}


class Entries(NamedTuple):
    """What was said of each trade when its entry was decided."""

    known: Bools  # the signal is there
    direction: Codes
    regime: Labels
    views: Codes  # [trades, alphas]


class Run(NamedTuple):
    """All that the page is made of; columns are arrays by name, times UTC ns, words Labels."""

    summary: Mapping[str, Any]
    equity: Columns
    trades: Columns
    fills: Columns
    entries: Entries
    benchmark: Columns | None


def read(folder: Path) -> Run:
    """A finished run's tables. Raises UserError where one is not what it was."""
    summary = json.loads((folder / "summary.json").read_bytes())
    equity, trades, fills = (_read(folder, name) for name in ("equity", "trades", "fills"))
    benchmark = _read(folder, "benchmark") if summary.get("benchmark") else None
    search = Search(trades, summary["alphas"])
    _show(folder / "signals.parquet", search)
    return Run(summary, equity, trades, fills, search.entries(), with_points(benchmark))


def with_points(benchmark: Columns | None) -> Columns | None:
    """A benchmark's curve; None where it has none."""
    return benchmark if benchmark is not None and benchmark["ts"].size else None


def _read(folder: Path, name: str) -> Columns:
    """The columns of a table that the page needs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, names = folder / f"{name}.parquet", TABLES[name]
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            missing = [name for name in names if name not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{path}: no column {missing[0]}: another version's run; run the backtest again")
            return columns_of(file.read(list(names), use_threads=False))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error


def columns_of(table: Any) -> Columns:
    """An Arrow table's columns by name: arrays, times as integers, words as Labels."""
    whole = table.unify_dictionaries().combine_chunks()
    return {name: _plain(whole[name].combine_chunks()) for name in whole.column_names}


def _plain(column: Any) -> Any:
    """An array, or Labels."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return Labels(column.dictionary.to_pylist(), column.indices.to_numpy())
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())
    return column.to_numpy(zero_copy_only=False)


def _show(path: Path, search: "Search") -> None:
    """Show the signals, one row group at a time, and only those with an entry in them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            for group in range(file.num_row_groups):
                bounds = file.metadata.row_group(group).column(0).statistics
                if search.wants(bounds.min.value, bounds.max.value):
                    search.see(columns_of(file.read_row_group(group, list(TABLES["signals"]), use_threads=False)))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error


class Search:
    """Looks for the signal behind each trade, while signals are shown in order of time."""

    def __init__(self, trades: Columns, alphas: Sequence[str]):
        size = trades["decided_ts"].size
        self._alphas, self._symbols = alphas, trades["symbol"]
        self._order = np.argsort(trades["decided_ts"], kind="stable")
        self._decided = trades["decided_ts"][self._order]
        self._known, self._direction = np.zeros(size, np.bool_), np.zeros(size, np.int8)
        self._regimes: list[str] = []
        self._place, self._views = np.zeros(size, np.int32), np.zeros((size, len(alphas)), np.int8)

    def _within(self, first: int, last: int) -> tuple[int, int]:
        begin, end = np.searchsorted(self._decided, [first, last + 1]).tolist()
        return begin, end

    def wants(self, first: int, last: int) -> bool:
        """Whether an entry was decided in this range of time."""
        begin, end = self._within(first, last)
        return begin < end

    def see(self, signals: Columns) -> None:
        """Some signals, in order of time."""
        ts, symbol = signals["ts"], signals["symbol"]
        if not ts.size:
            return
        begin, end = self._within(int(ts[0]), int(ts[-1]))
        which, names = self._order[begin:end], {name: k for k, name in enumerate(symbol.names)}
        same = np.array([names.get(name, -1) for name in self._symbols.names], np.int32)
        row = np.empty(which.size, np.int64)
        # writable, so that there is one compiled form
        ts, place = np.require(ts, None, "W"), np.require(symbol.place, np.int32, "W")
        seek(ts, place, self._decided[begin:end], same[self._symbols.place[which]], row)
        which, row = which[row >= 0], row[row >= 0]
        self._known[which] = True
        directions = np.array([_SIGNS[name] for name in signals["direction"].names], np.int8)
        self._direction[which] = directions[signals["direction"].place[row]]
        votes = [attribution.views_of(each, self._alphas) for each in signals["votes"].names]
        self._views[which] = np.array(votes, np.int8).reshape(-1, len(self._alphas))[signals["votes"].place[row]]
        self._regimes = signals["regime"].names  # every group has all of them
        self._place[which] = signals["regime"].place[row]

    def entries(self) -> Entries:
        """What was found."""
        names = [*self._regimes, "not known"]
        return Entries(self._known, self._direction,
                       Labels(names, np.where(self._known, self._place, len(self._regimes))), self._views)  # fmt: skip


@kernel
def seek(ts: Longs, symbol: Ints, decided: Longs, wanted: Ints, row: Longs) -> None:
    """The row of each entry's signal, by instant and symbol, -1 without one; both in order of time."""
    begin = 0
    for k in range(decided.size):
        while begin < ts.size and ts[begin] < decided[k]:
            begin += 1
        j = begin
        while j < ts.size and ts[j] == decided[k] and symbol[j] != wanted[k]:
            j += 1
        row[k] = j if j < ts.size and ts[j] == decided[k] else -1
