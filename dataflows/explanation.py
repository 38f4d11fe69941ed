"""A run at a broker beside its backtest: what each order did to the difference in equity, and why.

Decisions are functions of the bars and of what was filled. So two runs over the same bars may differ by what the
broker reported (a fill's price, fee or time, a refusal, a leg that was reached or not), and by what follows from that.
What neither explains is named: an order that one run alone decided though both stood the same, another size without
another equity behind it, equity that no fill accounts for.

An order here is one of a lot's two halves: its entry, or its way out, whichever orders that took.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from broker.wire import stamp
from dataflows.compare import read
from infra.results import read_summary
from schemas.units import NS_PER_SECOND, TICKS_PER_USD, share_of, to_ticks

Kind = Literal["same", "price", "reported", "follows", "unexplained"]
KINDS: tuple[Kind, ...] = ("same", "price", "reported", "follows", "unexplained")  # the later one outweighs
Row = dict[str, Any]

UNTOUCHED = ("signals", "quarantine")  # tables that no fill can change
NS_PER_DAY = 86_400 * NS_PER_SECOND
# why an order was not filled, or not wholly: said by the venue, or by the account because the venue did not fill it
SAID_BY_VENUE = frozenset({
    "stale_base", "insufficient_cash", "day_order", "partial_entry", "sibling", "end_of_day", "not_tradable",
    "not_shortable", "fractional", "sub_penny", "wash_trade", "shares_held", "refused",
})  # fmt: skip
# rules that look at the symbol's own lot and orders, at those of all symbols, and at money
BY_SYMBOL = frozenset({"position_held", "order_pending", "no_position", "cooldown", "orders_per_symbol"})
BY_BOOK = frozenset({"total_exposure", "sector_exposure", "correlation", "cvar", "orders_per_minute", "open_orders",
                     "pattern_day_trader", "buying_power"})  # fmt: skip
IN_USD = frozenset({"position_capacity", "buying_power", "total_exposure", "sector_exposure"})
IN_EQUITY = frozenset({"daily_loss", "drawdown", "cvar"})  # a fraction of it
BY_COST = frozenset({"stop_loss", "trailing_stop", "take_profit"})  # exits that look at what the lot cost


class Half(NamedTuple):
    """What was filled of an entry, or of a way out."""

    qty: int
    cash: int  # ticks: what it brought, less what it cost
    fee: int
    ts: int  # of the first fill, UTC ns; 0: none

    @property
    def price(self) -> float | None:
        """The mean, USD."""
        return abs(self.cash) / self.qty / TICKS_PER_USD if self.qty else None


class Line(NamedTuple):
    """One order in both runs; `usd` is what it made of the difference in cash, fees included."""

    ts: int
    order: str
    kind: Kind
    shares: tuple[int, int]
    price: tuple[float | None, float | None]
    fee: float  # USD more
    seconds: float  # later
    usd: float
    why: str

    @property
    def bps(self) -> float | None:
        """How much higher our price is, in basis points of theirs."""
        ours, theirs = self.price
        return None if ours is None or theirs is None else (ours / theirs - 1.0) * 10_000.0


class Explanation(NamedTuple):
    """All orders, and the sums: `explained + unexplained` is the difference in equity at the end."""

    lines: list[Line]
    equity: tuple[float, float]  # USD
    explained: float
    unexplained: float
    notes: list[str]  # what is not explained and is no order's

    @property
    def whole(self) -> bool:
        """Whether nothing is left unexplained."""
        return not self.notes and all(line.kind != "unexplained" for line in self.lines)

    def counts(self) -> dict[Kind, int]:
        """Orders by kind."""
        return {kind: sum(line.kind == kind for line in self.lines) for kind in KINDS}

    def described(self) -> dict[str, Any]:
        """For JSON; orders that are the same are only counted."""
        return {
            "orders": [{**line._asdict(), "bps": line.bps} for line in self.lines if line.kind != "same"],
            "counts": self.counts(), "equity": self.equity, "explained": self.explained,
            "unexplained": self.unexplained, "notes": self.notes, "whole": self.whole,
        }  # fmt: skip


def explain(ours: list[Path], theirs: list[Path]) -> Explanation:
    """Hold one run against another; runs of several folders (sessions) are taken one after the other."""
    return _Pair(Run(ours), Run(theirs)).explanation()


class Run:
    """The tables of one run, in ticks and UTC ns, and what they say of any instant. Ids lack the account's name."""

    def __init__(self, folders: list[Path]):
        summary = read_summary(folders[-1])
        self.settings, self.dividends = summary["settings"], to_ticks(summary["dividends"])
        self.equity = _rows(folders, "equity")
        self.times = [row["ts"] for row in self.equity]
        self.upto = self.times[-1] if self.times else 0
        self.orders = {_own(row["order_id"]): row for row in _rows(folders, "orders")}
        self.fills = [row for row in _rows(folders, "fills") if row["ts"] <= self.upto]
        self.updates: defaultdict[str, list[Row]] = defaultdict(list)
        for row in _rows(folders, "updates"):
            self.updates[_own(row["order_id"])].append(row)
        self.verdicts = {(row["ts"], row["symbol"]): row for row in _rows(folders, "verdicts")}
        self.by_lot: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.orders:
            self.by_lot[self.lot_of(name)].append(name)
        self.filled: defaultdict[str, list[Row]] = defaultdict(list)
        self._moves: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)  # by symbol: when, shares held then
        for row in self.fills:
            self.filled[_own(row["order_id"])].append(row)
            moves = self._moves[row["symbol"]]
            moves.append((row["ts"], (moves[-1][1] if moves else 0) + _side(row) * row["qty"]))
        for name in self.filled:
            if name not in self.orders:  # nobody sent it
                self.by_lot[name].append(name)

    def lot_of(self, name: str) -> str:
        """The entry that an order belongs to."""
        row = self.orders.get(name)
        return name if row is None or row["leg"] == "entry" or row["parent_id"] is None else _own(row["parent_id"])

    def half(self, lot: str, names: Sequence[str]) -> Half:
        """What these orders came to, as far as they are the lot's: another run's lot may have been left by this id."""
        rows = [row for name in names if name in self.by_lot.get(lot, ()) for row in self.filled.get(name, ())]
        cash = -sum(_side(row) * row["qty"] * to_ticks(row["price"]) for row in rows)
        return Half(sum(row["qty"] for row in rows), cash, sum(to_ticks(row["fee"]) for row in rows),
                    min((row["ts"] for row in rows), default=0))  # fmt: skip

    def outs(self, lot: str) -> list[str]:
        """The orders by which shares of a lot could leave it."""
        return [name for name in self.by_lot.get(lot, ()) if name != lot or name not in self.orders]

    def exits(self, lot: str) -> dict[str, Row]:
        """Those that the account sent to leave it."""
        return {name: self.orders[name] for name in self.outs(lot)
                if name in self.orders and self.orders[name]["leg"] == "exit"}  # fmt: skip

    def held(self, symbol: str, ts: int) -> int:
        """Shares after a slice's fills."""
        moves = self._moves.get(symbol, [])
        place = bisect_right(moves, ts, key=lambda move: move[0])
        return moves[place - 1][1] if place else 0

    def end_of(self, name: str) -> Row | None:
        """The last word on an order."""
        updates = self.updates.get(name)
        return updates[-1] if updates else None

    def standing(self, symbol: str, ts: int) -> tuple[Any, ...]:
        """What rules ask of a symbol before the orders of a slice: shares, open orders, and what was sent lately."""
        moving = [(name, row) for name, row in self._moving.get(symbol, ()) if row["ts"] < ts]
        waiting = {name for name, _ in moving if not any(
            up["ts"] <= ts and up["status"] != "partially_filled" for up in self.updates.get(name, ()))}  # fmt: skip
        touched = [row["ts"] for _, row in moving]
        touched += [when for when, held in self._moves.get(symbol, ()) if when <= ts and held == 0]
        cooldown = self.settings["rules"]["cooldown_seconds"] * NS_PER_SECOND
        last = max((when for when in touched if ts - when < cooldown), default=0)
        today = sum(row["ts"] // NS_PER_DAY == ts // NS_PER_DAY for _, row in moving if row["leg"] == "entry")
        return self.held(symbol, ts), frozenset(waiting), last, today

    @cached_property
    def _moving(self) -> dict[str, list[tuple[str, Row]]]:
        """By symbol: entries and exits."""
        found: defaultdict[str, list[tuple[str, Row]]] = defaultdict(list)
        for name, row in self.orders.items():
            if row["leg"] in ("entry", "exit"):
                found[row["symbol"]].append((name, row))
        return found

    @property
    def symbols(self) -> set[str]:
        """That were traded."""
        return set(self._moving) | set(self._moves)

    def money(self, ts: int) -> Row:
        """The row of the equity curve of a slice, or of the one before it."""
        return self.equity[max(bisect_left(self.times, ts + 1) - 1, 0)]

    def bound_by_equity(self, order: Row) -> bool:
        """Whether an entry is as large as its equity allows."""
        rules, symbol = self.settings["rules"], order["symbol"]
        part = rules["position_pct_of"].get(symbol, rules["max_position_pct"])
        room = share_of(to_ticks(self.money(order["ts"])["equity"]), round(part * 10_000))
        price = to_ticks(order["price"])
        return price > 0 and bool(room // price == order["qty"])


class _Pair:
    """Both runs; lines are made in order of time, so that a cause is known before what follows from it."""

    def __init__(self, ours: Run, theirs: Run):
        self.ours, self.theirs = ours, theirs
        self.lines: list[Line] = []
        self.parted: list[Line] = []  # those that are not the same

    def explanation(self) -> Explanation:
        for ts, is_entry, lot in sorted(self._tasks()):
            line = self._entry(ts, lot) if is_entry else self._way_out(ts, lot)
            self.lines.append(line)
            if line.kind != "same":
                self.parted.append(line)
        return self._summed()

    def _tasks(self) -> Iterator[tuple[int, bool, str]]:
        """When, whether it is an entry, which lot. What leaves goes before what enters."""
        for lot in {**self.ours.by_lot, **self.theirs.by_lot}:
            if any(lot in run.orders for run in (self.ours, self.theirs)):
                yield next(run.orders[lot]["ts"] for run in (self.ours, self.theirs) if lot in run.orders), True, lot
            begun = [time for run in (self.ours, self.theirs) for time in self._leaving(run, lot)]
            if begun:
                yield min(begun), False, lot

    def _leaving(self, run: Run, lot: str) -> list[int]:
        outs = run.outs(lot)
        return [*(row["ts"] for row in run.exits(lot).values()),
                *(row["ts"] for name in outs for row in run.filled.get(name, ()))]  # fmt: skip

    # Entries.

    def _entry(self, ts: int, lot: str) -> Line:
        a, b = self.ours.orders.get(lot), self.theirs.orders.get(lot)
        if a is None or b is None:
            kind, why = self._only(
                self.ours if b is None else self.theirs, self.theirs if b is None else self.ours, lot
            )
        elif changed := self._changed(lot, a, b):
            kind, why = self._resized(a, b, changed)
        elif missing := [run for run, side in ((self.ours, "here"), (self.theirs, "there"))
                         if not run.verdicts.get((ts, a["symbol"]), {"approved": False})["approved"]]:  # fmt: skip
            where = " and ".join("here" if run is self.ours else "there" for run in missing)
            kind, why = "unexplained", f"sent without an approved verdict {where}"
        else:
            kind, why = self._filled(lot, [lot])
        return self._line(ts, lot, kind, why, [lot])

    def _changed(self, lot: str, a: Row, b: Row) -> list[str]:
        """What was decided otherwise, as `side sell, there buy`; prices of the legs included."""
        found = _parted("", a, b, ("side", "qty", "kind", "price", "reason"))
        for leg in ("take_profit", "stop_loss"):
            ours, theirs = (self._bracket(run, lot, leg) for run in (self.ours, self.theirs))
            found += [f"{leg} {name} {x}, there {y}" for name, x, y in zip(("price", "shares less the entry's"), ours,
                                                                          theirs, strict=True) if x != y]  # fmt: skip
        return found

    def _bracket(self, run: Run, lot: str, leg: str) -> tuple[Any, Any]:
        row = run.orders.get(f"{lot.rpartition('|')[0]}|{leg}")
        return (None, None) if row is None else (row["price"], row["qty"] - run.orders[lot]["qty"])

    def _resized(self, a: Row, b: Row, changed: list[str]) -> tuple[Kind, str]:
        if len(changed) == 1 and a["qty"] != b["qty"]:
            smaller, order = (self.ours, a) if a["qty"] < b["qty"] else (self.theirs, b)
            if self._money_parted(a["ts"]) and smaller.bound_by_equity(order):
                return "follows", f"{changed[0]}: as its equity allows, {self._because()}"
            if self._book_parted(a["ts"]):
                return "follows", f"{changed[0]}: other lots and orders, {self._because()}"
        return "unexplained", "; ".join(changed)

    def _only(self, has: Run, lacks: Run, lot: str) -> tuple[Kind, str]:
        """An entry that one run alone has sent."""
        row = has.orders[lot]
        ts, symbol, where = row["ts"], row["symbol"], "here" if has is self.ours else "there"
        said = f"sent {where} only"
        own, verdict = has.verdicts.get((ts, symbol)), lacks.verdicts.get((ts, symbol))
        if own is None or not own["approved"]:
            return "unexplained", f"{said}, without an approved verdict"
        parted = has.standing(symbol, ts) != lacks.standing(symbol, ts)
        if verdict is None:
            if parted:
                return "follows", f"{said}: no candidate of the other, {self._because(symbol)}"
            return "unexplained", f"{said}: no candidate of the other, though the symbol stood the same in both"
        reason = verdict["reason"]
        said = f"{said}: refused as {reason}" if not verdict["approved"] else f"{said}, though both approved it"
        if verdict["approved"]:
            return "unexplained", said
        if reason in BY_SYMBOL and parted:
            return "follows", f"{said}, {self._because(symbol)}"
        if reason in BY_BOOK and self._book_parted(ts):
            return "follows", f"{said}, {self._because()}"
        if reason in IN_USD | IN_EQUITY and self._reaches(lacks, ts, verdict):
            return "follows", f"{said}, {self._because()}"
        if reason == "slippage_guard" and any(line.kind == "price" for line in self.parted):
            return "follows", f"{said}, {self._because()}"
        return "unexplained", said

    def _reaches(self, run: Run, ts: int, verdict: Row) -> bool:
        """Whether the two runs' money differs by as much as a rule was exceeded."""
        ours, theirs = self.ours.money(ts), self.theirs.money(ts)
        gap = verdict["measured"] - verdict["limit"]
        usd = gap if verdict["reason"] in IN_USD else gap * run.money(ts)["equity"]
        return bool(0 < abs(ours["equity"] - theirs["equity"]) + abs(ours["cash"] - theirs["cash"]) >= usd)

    def _money_parted(self, ts: int) -> bool:
        return bool(self.ours.money(ts)["equity"] != self.theirs.money(ts)["equity"])

    def _book_parted(self, ts: int) -> bool:
        return any(self.ours.standing(symbol, ts) != self.theirs.standing(symbol, ts)
                   for symbol in self.ours.symbols | self.theirs.symbols)  # fmt: skip

    # Ways out.

    def _way_out(self, ts: int, lot: str) -> Line:
        a, b = self.ours.exits(lot), self.theirs.exits(lot)
        names = list({**dict.fromkeys(self.ours.outs(lot)), **dict.fromkeys(self.theirs.outs(lot))})
        judged: list[tuple[Kind, str]] = [("unexplained", f"{name}: filled, but nobody sent it") for name in names
                                          if self._unsent(name)]  # fmt: skip
        for name in {**a, **b}:
            if name not in a or name not in b:
                judged.append(self._left(lot, name, self.ours if name in a else self.theirs))
            elif changed := _parted(name, a[name], b[name], ("side", "kind", "price", "reason")):
                judged.append(("unexplained", "; ".join(changed)))
            elif a[name]["qty"] != b[name]["qty"]:
                judged.append(self._left_other(lot, name, a[name], b[name]))
        legs = [{name.rpartition("|")[2] for name in run.outs(lot) if name in run.filled} - {"exit"}
                for run in (self.ours, self.theirs)]  # fmt: skip
        if legs[0] != legs[1]:
            here, there = (" and ".join(sorted(one)) or "no leg" for one in legs)
            judged.append(("reported", f"{here} filled here, {there} there"))
        judged.append(self._filled(lot, names))
        kind = max((one for one, _ in judged), key=KINDS.index)
        why = "; ".join(dict.fromkeys(why for one, why in judged if why and one == kind))
        return self._line(ts, lot, kind, why, names)

    def _unsent(self, name: str) -> bool:
        return any(name in run.filled and name not in run.orders for run in (self.ours, self.theirs))

    def _left(self, lot: str, name: str, has: Run) -> tuple[Kind, str]:
        """An exit that one run alone has sent."""
        lacks, row = (self.theirs if has is self.ours else self.ours), has.orders[name]
        ts, reason = row["ts"], row["reason"]
        said = f"exit at {_clock(ts)} ({reason}) {'here' if has is self.ours else 'there'} only"
        if lot not in lacks.orders or not lacks.filled.get(lot):
            return "follows", f"{said}: the other has no such lot"
        gone = [each for each in lacks.outs(lot) if each in lacks.filled]
        if lacks.held(row["symbol"], ts) == 0 and gone:
            legs = [each.rpartition("|")[2] for each in gone]
            return ("follows" if "exit" in legs else "reported"), f"{said}: the other had left by {' and '.join(legs)}"
        if any(each["ts"] < ts for each in lacks.exits(lot).values()):
            return "follows", f"{said}: the other was leaving already"
        entries = has.half(lot, [lot]), lacks.half(lot, [lot])
        if reason in BY_COST and entries[0][:2] != entries[1][:2]:
            return "follows", f"{said}: by what the lot had cost"
        if reason == "time_exit" and entries[0].ts != entries[1].ts:
            return "follows", f"{said}: by when the lot was opened"
        if reason == "drawdown" and self._money_parted(ts):
            return "follows", f"{said}, {self._because()}"
        return "unexplained", f"{said}, though both held the lot"

    def _left_other(self, lot: str, name: str, a: Row, b: Row) -> tuple[Kind, str]:
        said = f"exit of {a['qty']} shares, there {b['qty']}"
        left = [run.half(lot, [lot]).qty - run.half(lot, [each for each in run.outs(lot) if each != name]).qty
                for run in (self.ours, self.theirs)]  # fmt: skip
        return ("follows", f"{said}: as many as were left") if left[0] != left[1] else ("unexplained", said)

    # Fills, of either.

    def _filled(self, lot: str, names: list[str]) -> tuple[Kind, str]:
        ours, theirs = self.ours.half(lot, names), self.theirs.half(lot, names)
        if ours == theirs:
            return "same", ""
        if ours.qty == theirs.qty:
            parts = [part for part, differs in (("price", ours.cash != theirs.cash), ("fee", ours.fee != theirs.fee),
                                                ("time", ours.ts != theirs.ts)) if differs]  # fmt: skip
            return "price", f"another {', '.join(parts)}"
        fewer, where = (self.ours, "here") if ours.qty < theirs.qty else (self.theirs, "there")
        said = f"{min(ours.qty, theirs.qty)} of {max(ours.qty, theirs.qty)} shares {where}"
        entries = [name for name in names if name.endswith("|entry")]
        if not entries:  # of a way out: what was bought, or what is still held
            return "reported", said
        end = fewer.end_of(entries[0])
        if end is None or end["status"] in ("filled", "partially_filled"):
            return "reported", f"{said}, still open"
        said = f"{said}: {end['status']} ({end['reason']})"
        return ("reported" if end["reason"] in SAID_BY_VENUE else "unexplained"), said

    def _line(self, ts: int, lot: str, kind: Kind, why: str, names: list[str]) -> Line:
        ours, theirs = self.ours.half(lot, names), self.theirs.half(lot, names)
        return Line(
            ts, lot if lot in names else f"{lot.rpartition('|')[0]}|out", kind,
            (ours.qty, theirs.qty), (ours.price, theirs.price), (ours.fee - theirs.fee) / TICKS_PER_USD,
            (ours.ts - theirs.ts) / NS_PER_SECOND if ours.ts and theirs.ts else 0.0,
            (ours.cash - ours.fee - theirs.cash + theirs.fee) / TICKS_PER_USD, why,
        )  # fmt: skip

    def _because(self, symbol: str | None = None) -> str:
        """What parted before, of a symbol or of any."""
        found = next(
            (one for one in reversed(self.parted) if symbol is None or one.order.split("|")[0] == symbol), None
        )
        return f"after {found.order}" if found is not None else "with other positions"

    # Sums.

    def _summed(self) -> Explanation:
        last = [run.equity[-1] if run.equity else {"equity": 0.0, "cash": 0.0} for run in (self.ours, self.theirs)]
        equity = (last[0]["equity"], last[1]["equity"])
        notes: list[str] = []
        held = to_ticks(equity[0] - last[0]["cash"]) - to_ticks(equity[1] - last[1]["cash"])
        cash = to_ticks(last[0]["cash"]) - to_ticks(last[1]["cash"])
        rows = sum(to_ticks(line.usd) for line in self.lines)
        odd = sum(to_ticks(line.usd) for line in self.lines if line.kind == "unexplained")
        upto = self.ours.upto, self.theirs.upto
        differ = [symbol for symbol in sorted(self.ours.symbols | self.theirs.symbols)
                  if self.ours.held(symbol, upto[0]) != self.theirs.held(symbol, upto[1])]  # fmt: skip
        blamed = [line for line in self.parted if line.kind == "unexplained"]
        if held and (not differ or any(line.order.split("|")[0] in differ for line in blamed)):
            odd += held
            if not differ:
                notes.append(f"the same shares are worth {held / TICKS_PER_USD:+.4f} USD more at the end")
        rest = cash - rows
        if paid := self.ours.dividends - self.theirs.dividends:
            rest -= paid
            if all(line.kind in ("same", "price") for line in self.lines):
                odd += paid
                notes.append(f"dividends on the same shares: {paid / TICKS_PER_USD:+.4f} USD")
        rounded = sum(row["qty"] for run in (self.ours, self.theirs) for row in run.fills)  # below a tick a share each
        if rest and (abs(rest) >= rounded or not self._is_at_broker):
            odd += rest
            notes.append(f"cash that no fill accounts for: {rest / TICKS_PER_USD:+.4f} USD; compare from the first "
                         f"session on if the accounts differed before")  # fmt: skip
        if upto[0] != upto[1]:
            notes.append(f"they end at {_clock(upto[0])} and {_clock(upto[1])}")
        whole = to_ticks(equity[0]) - to_ticks(equity[1])
        return Explanation(self.lines, equity, (whole - odd) / TICKS_PER_USD, odd / TICKS_PER_USD, notes)

    @property
    def _is_at_broker(self) -> bool:
        """Whether a fill's price may be rounded: a broker tells what all shares of it cost."""
        return any(run.settings["venue"]["kind"] == "broker" for run in (self.ours, self.theirs))


def at_broker(folders: list[Path]) -> bool:
    """Whether a run's orders went to a broker."""
    return bool(read_summary(folders[0])["settings"]["venue"]["kind"] == "broker")


def _rows(folders: list[Path], table: str) -> list[Row]:
    rows = read(folders, table)
    for place, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type):
            rows = rows.set_column(place, field.name, rows.column(place).cast(pa.int64()))
    found: list[Row] = rows.to_pylist()
    return found


def _parted(name: str, a: Row, b: Row, fields: Sequence[str]) -> list[str]:
    """The fields in which two rows differ, as `side sell, there buy`."""
    return [f"{name} {one} {a[one]}, there {b[one]}".strip() for one in fields if a[one] != b[one]]


def _own(order_id: str) -> str:
    """An id without the account's name."""
    return order_id.partition("|")[2]


def _side(row: Row) -> int:
    return 1 if row["side"] == "buy" else -1


def _clock(ts: int) -> str:
    return stamp(ts)[:19] + "Z"
