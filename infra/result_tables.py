"""The tables of a run's folder: numbers of the ledger -> words, prices and ids, in Parquet."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.result_parts import GROUP_ROWS, OUTLOOK, TABLES, Columns, Parts, grouped, joined
from risk.order_ids import order_ids
from risk.report_run import TABLES as SHOWN
from risk.report_run import Run, Search, columns_of, with_points
from schemas.events import Direction, Kind, Leg, Reason, Regime, Side, Status, word
from schemas.frames import Bools, Codes, Floats, Ints, Longs, Names
from schemas.units import TICKS_PER_USD

_REST = ("signals", "orders", *(name for name in TABLES if name not in ("signals", "orders", "trades")))  # by size


def write_all(
    folder: Path, summary: Mapping[str, Any], parts: Parts, words: "Words", rank: Ints,
    points: tuple[Longs, Floats] | None,
) -> Run:  # fmt: skip
    """Write the tables of a run; answers what its page shows of them, to be read from no file again."""
    kept: dict[str, list[Any]] = {name: [] for name in SHOWN}

    def make(table: str) -> None:
        rows = _sorted(parts.read(table), rank) if table == "quarantine" else parts.read(table)

        def see(group: Any) -> None:
            if table == "signals":  # too many to be kept
                search.see(columns_of(group.select(SHOWN[table])))
            elif table in kept:
                kept[table].append(group.select(SHOWN[table]))

        schema = write(folder / f"{table}.parquet", table, words, parts.dtypes[table], rows, see)
        if table in kept and not kept[table]:
            kept[table].append(schema.empty_table().select(SHOWN[table]))

    make("trades")
    trades = columns_of(pa.concat_tables(kept["trades"]))
    search = Search(trades, words.alphas)
    with ThreadPoolExecutor(2) as pool:  # compiled code without the GIL, for the most part
        list(pool.map(make, _REST))
    equity, fills = (columns_of(pa.concat_tables(kept[name])) for name in ("equity", "fills"))
    benchmark = None
    if points is not None:
        curve = pa.table({"ts": words.ts(points[0]), "value": points[1]})
        pq.write_table(curve, folder / "benchmark.parquet")
        benchmark = with_points(columns_of(curve))
    return Run(summary, equity, trades, fills, search.entries(), benchmark)


def write(
    path: Path, table: str, words: "Words", dtypes: Mapping[str, str], parts: Iterable[Columns],
    see: Callable[[Any], None],
) -> Any:  # fmt: skip
    """Write the parts of a table as row groups of a fixed size; answers its schema.

    `see` is shown each group as it is in the file.
    """
    convert = _CONVERT[table]
    empty = {name: np.zeros(0, dtype) for name, dtype in dtypes.items()}
    schema = pa.schema(
        [field.with_nullable(field.name == "parent_id") for field in pa.table(convert(words, empty)).schema]
    )
    writer = pq.ParquetWriter(
        path,
        schema,
        compression={field.name: "lz4" if _repeats(field.type) else "none" for field in schema},
        use_dictionary=[field.name for field in schema if pa.types.is_dictionary(field.type)],
        write_statistics=[name for name in ("ts", "exit_ts", "symbol") if name in schema.names],
        write_batch_size=GROUP_ROWS,
    )
    with writer:
        for columns in grouped(parts, GROUP_ROWS):
            group = pa.table(convert(words, columns), schema)
            writer.write_table(group, GROUP_ROWS)
            see(group)
    return schema


def _sorted(parts: Iterable[Columns], rank: Ints) -> Iterator[Columns]:
    """Refused bars may lie anywhere in time: the one table that is sorted as a whole, in memory."""
    known = list(parts)
    if not known:
        return
    whole = joined(known)
    order = np.lexsort((rank[whole["symbol"]], whole["ts"]))
    yield {name: column[order] for name, column in whole.items()}


def _repeats(kind: Any) -> bool:
    """Whether columns of this type shrink enough to be worth it: slices' ends and ids do, measurements do not."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_string(kind))


class Words:
    """Turns numbers of one run into names; everything column by column."""

    def __init__(self, account: str, alphas: Sequence[str], names: Names, models: Sequence[str] = ()):
        self.alphas = alphas
        self._models = pa.array(["", *models], pa.string())
        texts = [name.decode() for name in names.tolist()]
        self.names = pa.array(texts, pa.string())
        self._heads = [f"{account}|{text}|" for text in texts]
        self._tails = [f"Z|{word(leg)}" for leg in sorted(Leg)]

    def ts(self, ts: Longs) -> Any:
        """Instants."""
        return pa.array(ts).cast(pa.timestamp("ns", "UTC"))

    def symbol(self, symbol: Ints) -> Any:
        """Names of symbols."""
        return pa.DictionaryArray.from_arrays(pa.array(symbol), self.names)

    def model(self, number: Codes) -> Any:
        """Ids of models; empty where there was none."""
        return pa.DictionaryArray.from_arrays(pa.array(number), self._models)

    def code(self, kind: type[IntEnum], codes: np.ndarray[Any, Any]) -> Any:
        """Words of an enumeration."""
        members = sorted(kind)
        place = np.zeros(256, np.int8)
        place[np.array(members, np.int8).view(np.uint8)] = np.arange(len(members))
        words = pa.array([word(member) for member in members], pa.string())
        places = np.frombuffer(codes.tobytes().translate(place.tobytes()), np.int8)  # faster than an index
        return pa.DictionaryArray.from_arrays(pa.array(places), words)

    def votes(self, views: Ints) -> Any:
        """`rsi+ ema_cross-` for each row: base 3, alpha 0 in the lowest digit; 0 down, 1 none, 2 up."""
        there: Bools = np.bincount(views, minlength=3 ** len(self.alphas)) > 0
        place = np.cumsum(there, dtype=np.int32) - 1
        words = pa.array([self._votes(int(view)) for view in np.flatnonzero(there)], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(place[views]), words)

    def _votes(self, view: int) -> str:
        digits = ((name, view // 3**k % 3) for k, name in enumerate(self.alphas))
        return " ".join(f"{name}{'-+'[digit // 2]}" for name, digit in digits if digit != 1)

    def order_id(self, symbol: Ints, sent: Longs, leg: Codes, there: Any = None) -> Any:
        """`account|symbol|20240102T150000Z|leg`; null where the bits of `there` are not set."""
        starts, text = order_ids(self._heads, self._tails, symbol, sent, leg)
        return pa.StringArray.from_buffers(symbol.size, pa.py_buffer(starts), pa.py_buffer(text), there)

    def entry_id(self, symbol: Ints, sent: Longs, there: Any = None) -> Any:
        """The id of the order that opened a lot."""
        return self.order_id(symbol, sent, np.full(symbol.size, Leg.ENTRY, np.int8), there)


def _usd(ticks: Longs) -> Floats:
    return ticks / float(TICKS_PER_USD)


def _equity(words: Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "equity": _usd(c["equity"]),
        "cash": _usd(c["cash"]),
        "exposure": _usd(c["exposure"]),
        "drawdown": c["drawdown"],
    }


def _signals(words: Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "direction": words.code(Direction, c["direction"]),
        "confidence": c["confidence"],
        "score": c["score"],
        "regime": words.code(Regime, c["regime"]),
        "votes": words.votes(c["views"]),
        "reason": words.code(Reason, c["reason"]),
        **(_outlook(words, c) if "q50" in c else {}),
    }


def _outlook(words: Words, c: Columns) -> dict[str, Any]:
    return {**{name: c[name] for name in OUTLOOK if name != "model"}, "model": words.model(c["model"])}


def _verdicts(words: Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "direction": words.code(Direction, c["direction"]),
        "approved": c["approved"],
        "reason": words.code(Reason, c["reason"]),
        "measured": c["measured"],
        "limit": c["limit"],
        "confidence": c["confidence"],
        "cvar_95": c["cvar_95"],
        "risk_score": c["risk_score"],
        "max_loss": _usd(c["max_loss"]),
        "uncalibrated": c["uncalibrated"],
    }


def _orders(words: Words, c: Columns) -> dict[str, Any]:
    entry = c["leg"] == Leg.ENTRY
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "side": words.code(Side, c["side"]),
        "qty": c["qty"],
        "kind": words.code(Kind, c["kind"]),
        "price": _usd(c["price"]),
        "order_id": words.order_id(c["symbol"], c["ts"], c["leg"]),
        "parent_id": words.entry_id(c["symbol"], c["entry_ts"], pa.py_buffer(np.packbits(~entry, bitorder="little"))),
        "leg": words.code(Leg, c["leg"]),
        "reason": words.code(Reason, c["reason"]),
    }


def _updates(words: Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "order_id": words.order_id(c["symbol"], c["order_ts"], c["leg"]),
        "status": words.code(Status, c["status"]),
        "qty": c["qty"],
        "reason": words.code(Reason, c["reason"]),
    }


def _fills(words: Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "side": words.code(Side, c["side"]),
        "qty": c["qty"],
        "price": _usd(c["price"]),
        "expected_price": _usd(c["expected"]),
        "fee": _usd(c["fee"]),
        "order_id": words.order_id(c["symbol"], c["order_ts"], c["leg"]),
        "reason": words.code(Reason, c["reason"]),
    }


def _trades(words: Words, c: Columns) -> dict[str, Any]:
    return {
        "symbol": words.symbol(c["symbol"]),
        "decided_ts": words.ts(c["order_ts"]),
        "entry_ts": words.ts(c["entry_ts"]),
        "exit_ts": words.ts(c["exit_ts"]),
        "entry_price": _usd(c["cost"]) / c["qty"],
        "exit_price": _usd(c["proceeds"]) / c["qty"],
        "side": words.code(Side, c["side"]),
        "qty": c["qty"],
        "pnl": _usd(c["pnl"]),
        "fees": _usd(c["fees"]),
        "exit_reason": words.code(Reason, c["reason"]),
        "mae": c["mae"],
        "mfe": c["mfe"],
        "entry_order_id": words.entry_id(c["symbol"], c["order_ts"]),
    }


def _quarantine(words: Words, c: Columns) -> dict[str, Any]:
    return {
        "ts": words.ts(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "reason": words.code(Reason, c["reason"]),
        **{name: c[name] for name in ("open", "high", "low", "close", "volume")},
    }


_CONVERT: dict[str, Callable[[Words, Columns], dict[str, Any]]] = {
    "equity": _equity,
    "signals": _signals,
    "verdicts": _verdicts,
    "orders": _orders,
    "updates": _updates,
    "fills": _fills,
    "trades": _trades,
    "quarantine": _quarantine,
}
