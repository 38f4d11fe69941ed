"""The tables of a run's folder: numbers of the ledger -> words, prices and ids, in Parquet."""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from infra.aside import Aside
from infra.benchmark import Curve
from infra.parquet import Coded, Column, Flags, Ids, Instants, Lexicon, Numbers, Writer
from infra.result_parts import OUTLOOK, PART_ROWS, TABLES, Columns, grouped, joined, size_of
from infra.shared_memory import has_borrowed
from risk.order_ids import forms
from risk.report_run import TABLES as SHOWN
from risk.report_run import Run, Search, seek, with_points
from risk.report_words import Labels
from schemas.events import Direction, Kind, Leg, Reason, Regime, Side, Status, word
from schemas.frames import Codes, Ints, Longs, Names
from schemas.units import TICKS_PER_USD

_FEW = 100  # words that a dictionary may have for nothing

Told = dict[str, Column]  # columns as they are in the file


class Tables:
    """The tables of a run's folder, in row groups of a fixed size, each written as soon as it is full.

    Rows of a table come in their order, tables in any; but the orders of a stretch of time are told before its signals
    come, since of these the page shows what stood behind an entry. Refused bars may lie anywhere in time: the one table
    that is kept whole, to be sorted.
    """

    def __init__(self, folder: Path, words: "Words", dtypes: Mapping[str, Mapping[str, str]]):
        self._folder, self._words, self._dtypes = folder, words, dtypes
        self._writers: dict[str, Writer] = {}
        self._left: dict[str, list[Columns]] = {table: [] for table in TABLES}  # rows that fill no group
        self._kept: dict[str, list[Told]] = {name: [] for name in SHOWN}
        self._entries = _Entries()
        self._aside: Aside | None = None

    def expect(self, orders: Columns) -> None:
        """Orders whose signals are to come."""
        self._entries.expect(orders)

    def add(self, table: str, columns: Columns) -> None:
        """Some more rows of a table; those of whole groups are not copied."""
        left, most = self._left[table], PART_ROWS[table]
        left.append(columns)
        if table == "quarantine" or sum([size_of(part) for part in left]) < most:
            return
        self._left[table] = []
        for group in grouped(left, most):
            if size_of(group) == most:
                self._write(table, group)
            else:  # the last one
                self._left[table].append(group)

    def _write(self, table: str, columns: Columns) -> None:
        if table not in self._writers:
            self._writers[table] = Writer(self._folder / f"{table}.parquet")
        group = _CONVERT[table](self._words, columns)
        self._call(self._writers[table].write, group)
        if table == "signals":  # too many to be kept
            self._entries.see(columns)
        elif table in self._kept:
            self._keep(table, group)

    def _keep(self, table: str, told: Told) -> None:
        """What the page shows of some rows."""
        self._kept[table].append({name: told[name] for name in SHOWN[table]})

    def close(self, summary: Mapping[str, Any], rank: Ints, curve: Curve | None) -> Run:
        """Write the rest, to be waited for; answers what the page shows of all, to be read from no file again."""
        for table, left in self._left.items():
            some = joined(left) if left else {name: np.zeros(0, kind) for name, kind in self._dtypes[table].items()}
            if table == "quarantine":
                order = np.lexsort((rank[some["symbol"]], some["ts"]))
                for group in grouped([{name: column[order] for name, column in some.items()}], PART_ROWS[table]):
                    self._write(table, group)
            elif left:
                self._write(table, some)
            if table not in self._writers:
                self._write(table, some)
            self._call(self._writers[table].close)
            left.clear()
        benchmark = None
        if curve is not None:
            with Writer(self._folder / "benchmark.parquet") as writer:
                writer.write({"ts": Instants(curve.ts), "value": Numbers(curve.values)})
            benchmark = with_points({"ts": curve.ts, "value": curve.values})
        equity, trades, fills = (_shown(self._kept.pop(name)) for name in ("equity", "trades", "fills"))
        search = Search(trades, self._words.alphas)
        if (found := self._entries.found()) is not None:
            self._keep("signals", _CONVERT["signals"](self._words, found))
            search.see(_shown(self._kept["signals"]))
        return Run(summary, equity, trades, fills, search.entries(), benchmark)

    def _call(self, what: Callable[..., None], *given: Any) -> None:
        """At once; or beside what is done next, where bars come from another process: then there is a core for it."""
        if self._aside is None and has_borrowed():
            self._aside = Aside()
        if self._aside is None:
            what(*given)
        else:
            self._aside.call(what, *given)

    def wait(self) -> None:
        """Until all files are written."""
        if self._aside is not None:
            self._aside.wait()

    def leave(self) -> None:
        """Nothing more is written: the folder is finished, or will not be."""
        if self._aside is not None:
            self._aside.leave()
        for writer in self._writers.values():
            writer.leave()


class _Entries:
    """The signals behind entries, picked as all signals pass by in order of time."""

    def __init__(self) -> None:
        self._wanted = np.zeros(0, np.int64), np.zeros(0, np.int32)  # of entries: when they were decided, the symbol
        self._expected: list[tuple[Longs, Ints]] = []  # to be added to these
        self._found: list[Columns] = []

    def expect(self, orders: Columns) -> None:
        """Orders in order of time, those of entries among them."""
        entry = orders["leg"] == Leg.ENTRY
        self._expected.append((orders["ts"][entry], orders["symbol"][entry]))

    def see(self, signals: Columns) -> None:
        """Signals that follow those before; all entries up to the last of them are expected."""
        if not signals["ts"].size:
            return
        ts, symbol = (np.concatenate(each) for each in zip(self._wanted, *self._expected, strict=True))
        self._expected.clear()
        row = np.empty(ts.size, np.int64)
        seek(*(np.require(each, None, "W") for each in (signals["ts"], signals["symbol"], ts, symbol, row)))
        found = row[row >= 0]
        if not self._found:  # a first one in any case: it tells the words
            found = np.concatenate(([0], found))
        self._found.append({name: column[found] for name, column in signals.items()})
        later = (row < 0) & (ts >= signals["ts"][-1])
        self._wanted = ts[later], symbol[later]

    def found(self) -> Columns | None:
        """Those that were there; None without any signals."""
        return joined(self._found) if self._found else None


def _shown(groups: Sequence[Told]) -> dict[str, Any]:
    """The page's columns of a table: arrays, and words as Labels."""
    return {name: _whole([group[name] for group in groups]) for name in groups[0]}


def _whole(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Coded):
        return Labels(first.lexicon.words, _end_to_end([part.lexicon.places(part.codes) for part in parts]))
    return _end_to_end([part.values for part in parts])


def _end_to_end(arrays: Sequence[Any]) -> Any:
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


class Words:
    """Turns numbers of one run into names; everything column by column."""

    def __init__(self, account: str, alphas: Sequence[str], names: Names, models: Sequence[str] = ()):
        self.alphas = alphas
        texts = [name.decode() for name in names.tolist()]
        self._names, self._models = _each_once(texts), Lexicon(["", *models])
        self._ids = forms([f"{account}|{text}|" for text in texts], [f"|{word(leg)}" for leg in sorted(Leg)])
        self._said: dict[int, str] = {}  # by what the alphas voted

    def symbol(self, symbol: Ints) -> Coded:
        """Names of symbols."""
        return Coded(symbol, self._names)

    def model(self, number: Codes) -> Coded:
        """Ids of models; empty where there was none."""
        return Coded(number, self._models)

    def code(self, kind: type[IntEnum], codes: Codes) -> Coded:
        """Words of an enumeration."""
        return Coded(codes, _lexicon(kind))

    def votes(self, views: Ints) -> Coded:
        """`rsi+ ema_cross-` for each row: base 3, alpha 0 in the lowest digit; 0 down, 1 none, 2 up."""
        kinds = 3 ** len(self.alphas)
        if kinds <= _FEW:  # all of them: to look which are there takes longer
            return Coded(views, Lexicon([self._votes(view) for view in range(kinds)]))
        there = np.bincount(views, minlength=kinds) > 0
        words = [self._votes(view) for view in np.flatnonzero(there).tolist()]
        return Coded(views, Lexicon(words, np.cumsum(there, dtype=np.int32) - 1))

    def _votes(self, view: int) -> str:
        if view not in self._said:
            digits = ((name, view // 3**k % 3) for k, name in enumerate(self.alphas))
            self._said[view] = " ".join(f"{name}{'-+'[digit // 2]}" for name, digit in digits if digit != 1)
        return self._said[view]

    def order_id(self, symbol: Ints, sent: Longs, leg: Codes) -> Ids:
        """`account|symbol|20240102T150000Z|leg`."""
        return Ids(symbol, sent, leg, self._ids)

    def entry_id(self, symbol: Ints, sent: Longs, there: Any = None) -> Ids:
        """The id of the order that opened a lot; only where it is `there`."""
        return Ids(symbol, sent, np.full(symbol.size, Leg.ENTRY, np.int8), self._ids, there)


def _each_once(texts: list[str]) -> Lexicon:
    """Names by id. A log's ids have gaps, all of the same empty name, and readers take equal words for one."""
    words = list(dict.fromkeys(texts))
    if len(words) == len(texts):
        return Lexicon(texts)
    place = {text: k for k, text in enumerate(words)}
    return Lexicon(words, np.array([place[text] for text in texts], np.int32))


@cache
def _lexicon(kind: type[IntEnum]) -> Lexicon:
    members = sorted(kind)
    if members == list(range(len(members))):  # codes are places
        return Lexicon([word(member) for member in members])
    place = np.zeros(256, np.int8)
    place[np.array(members, np.int8).view(np.uint8)] = np.arange(len(members))
    return Lexicon([word(member) for member in members], place)


def _usd(ticks: Longs) -> Numbers:
    return Numbers(ticks / float(TICKS_PER_USD))


def _per_share(ticks: Longs, shares: Longs) -> Numbers:
    return Numbers(ticks / float(TICKS_PER_USD) / shares)


def _equity(words: Words, c: Columns) -> Told:
    return {
        "ts": Instants(c["ts"]),
        "equity": _usd(c["equity"]),
        "cash": _usd(c["cash"]),
        "exposure": _usd(c["exposure"]),
        "drawdown": Numbers(c["drawdown"]),
    }


def _signals(words: Words, c: Columns) -> Told:
    return {
        "ts": Instants(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "direction": words.code(Direction, c["direction"]),
        "confidence": Numbers(c["confidence"]),
        "score": Numbers(c["score"]),
        "regime": words.code(Regime, c["regime"]),
        "votes": words.votes(c["views"]),
        "reason": words.code(Reason, c["reason"]),
        **(_outlook(words, c) if "q50" in c else {}),
    }


def _outlook(words: Words, c: Columns) -> Told:
    return {**{name: Numbers(c[name]) for name in OUTLOOK if name != "model"}, "model": words.model(c["model"])}


def _verdicts(words: Words, c: Columns) -> Told:
    return {
        "ts": Instants(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "direction": words.code(Direction, c["direction"]),
        "approved": Flags(c["approved"]),
        "reason": words.code(Reason, c["reason"]),
        "measured": Numbers(c["measured"]),
        "limit": Numbers(c["limit"]),
        "confidence": Numbers(c["confidence"]),
        "cvar_95": Numbers(c["cvar_95"]),
        "risk_score": Numbers(c["risk_score"]),
        "max_loss": _usd(c["max_loss"]),
        "uncalibrated": Flags(c["uncalibrated"]),
    }


def _orders(words: Words, c: Columns) -> Told:
    entry = c["leg"] == Leg.ENTRY
    return {
        "ts": Instants(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "side": words.code(Side, c["side"]),
        "qty": Numbers(c["qty"]),
        "kind": words.code(Kind, c["kind"]),
        "price": _usd(c["price"]),
        "order_id": words.order_id(c["symbol"], c["ts"], c["leg"]),
        "parent_id": words.entry_id(c["symbol"], c["entry_ts"], ~entry),
        "leg": words.code(Leg, c["leg"]),
        "reason": words.code(Reason, c["reason"]),
    }


def _updates(words: Words, c: Columns) -> Told:
    return {
        "ts": Instants(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "order_id": words.order_id(c["symbol"], c["order_ts"], c["leg"]),
        "status": words.code(Status, c["status"]),
        "qty": Numbers(c["qty"]),
        "reason": words.code(Reason, c["reason"]),
    }


def _fills(words: Words, c: Columns) -> Told:
    return {
        "ts": Instants(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "side": words.code(Side, c["side"]),
        "qty": Numbers(c["qty"]),
        "price": _usd(c["price"]),
        "expected_price": _usd(c["expected"]),
        "fee": _usd(c["fee"]),
        "order_id": words.order_id(c["symbol"], c["order_ts"], c["leg"]),
        "reason": words.code(Reason, c["reason"]),
    }


def _trades(words: Words, c: Columns) -> Told:
    return {
        "symbol": words.symbol(c["symbol"]),
        "decided_ts": Instants(c["order_ts"]),
        "entry_ts": Instants(c["entry_ts"]),
        "exit_ts": Instants(c["exit_ts"]),
        "entry_price": _per_share(c["cost"], c["qty"]),
        "exit_price": _per_share(c["proceeds"], c["qty"]),
        "side": words.code(Side, c["side"]),
        "qty": Numbers(c["qty"]),
        "pnl": _usd(c["pnl"]),
        "fees": _usd(c["fees"]),
        "exit_reason": words.code(Reason, c["reason"]),
        "mae": Numbers(c["mae"]),
        "mfe": Numbers(c["mfe"]),
        "entry_order_id": words.entry_id(c["symbol"], c["order_ts"]),
    }


def _quarantine(words: Words, c: Columns) -> Told:
    return {
        "ts": Instants(c["ts"]),
        "symbol": words.symbol(c["symbol"]),
        "reason": words.code(Reason, c["reason"]),
        **{name: Numbers(c[name]) for name in ("open", "high", "low", "close", "volume")},
    }


_CONVERT: dict[str, Callable[[Words, Columns], Told]] = {
    "equity": _equity,
    "signals": _signals,
    "verdicts": _verdicts,
    "orders": _orders,
    "updates": _updates,
    "fills": _fills,
    "trades": _trades,
    "quarantine": _quarantine,
}
