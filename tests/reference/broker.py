"""A broker as the account hears it, slow and obvious: open orders in a dictionary, bars in, reports out.

`Broker` fills whole orders by the rules of the simulated venue, without friction: the account at this broker must do
what it does in the simulation. `Clerk` keeps cash and shares by the reports alone, in Decimal.
"""

from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

from risk.ledger import LedgerFrame
from risk.reports import Report
from schemas.events import Leg, Phase, Reason, Side, Status
from tests.reference.account import Bar, Slice, money, ticks

LEGS = (Leg.TAKE_PROFIT, Leg.STOP_LOSS, Leg.OCO_TAKE_PROFIT, Leg.OCO_STOP_LOSS)
TARGETS = (Leg.TAKE_PROFIT, Leg.OCO_TAKE_PROFIT)

Key = tuple[str, int, int]  # symbol, slice in which it was sent, leg


@dataclass
class Order:
    """What the account sent."""

    key: Key
    side: int
    qty: int
    kind: int
    price: int
    parent: Key
    filled: int = 0
    asleep: bool = False  # a bracket's leg whose entry is not complete

    @property
    def symbol(self) -> str:
        return self.key[0]

    @property
    def leg(self) -> int:
        return self.key[2]

    @property
    def left(self) -> int:
        return self.qty - self.filled


@dataclass
class Broker:
    """Open orders by id; `cash` and `behind` (collateral by symbol) decide whether an entry is affordable."""

    cash: int
    legs_expire: bool
    orders: dict[Key, Order] = field(default_factory=dict)
    cancels: list[Key] = field(default_factory=list)
    behind: dict[str, int] = field(default_factory=dict)

    def take(self, ledger: LedgerFrame) -> None:
        """What the account asks for: cancels, then orders."""
        names = [name.decode() for name in ledger.names]
        for row in ledger.updates:
            if row.status == Status.CANCELED:
                self.cancels.append((names[row.symbol], int(row.order_ts), int(row.leg)))
        for row in ledger.orders:
            key = (names[row.symbol], int(row.ts), int(row.leg))
            assert key not in self.orders, f"{key} is sent twice"
            parent = (names[row.symbol], int(row.entry_ts), int(Leg.ENTRY))
            asleep = row.leg in (Leg.TAKE_PROFIT, Leg.STOP_LOSS)
            self.orders[key] = Order(key, int(row.side), int(row.qty), int(row.kind), int(row.price), parent,
                                     asleep=asleep)  # fmt: skip

    def report(self, order: Order, status: str, qty: int = 0, cost: int = 0, reason: Reason = Reason.NONE) -> Report:
        """A change of an order; its place in the log will be its number."""
        order.filled += qty
        return Report(0, order.symbol, order.key[1], Leg(order.leg), status, qty, cost, order.filled, reason)

    def words(self) -> list[Report]:
        """What is said of orders as they come in."""
        return []

    def replies(self) -> list[Report]:
        """The last words on what was to be cancelled; what has ended before is past it."""
        found = []
        for key in self.cancels:
            if key in self.orders:
                found += self.end(self.orders[key], "canceled")
        self.cancels = []
        return found

    def end(self, order: Order, status: str, reason: Reason = Reason.NONE) -> list[Report]:
        """An order's end; an entry's takes its sleeping legs along, unreported."""
        del self.orders[order.key]
        for leg in self.legs_of(order):
            del self.orders[leg.key]
        return [self.report(order, status, reason=reason)]

    def legs_of(self, order: Order) -> list[Order]:
        return [one for one in self.orders.values() if one.asleep and one.parent == order.key]

    def trade(self, moment: Slice) -> list[Report]:
        """What the bars of a slice do to the open orders; at the session's end the rest expires."""
        found = []
        for symbol in sorted({order.symbol for order in self.orders.values()} & moment.bars.keys()):
            found += self.meet(symbol, moment.bars[symbol])
        if moment.phase == Phase.LAST:
            for key in sorted(self.orders):
                order = self.orders.get(key)
                mortal = order and not order.asleep and (order.leg not in LEGS or self.legs_expire)
                if mortal and order.key[1] < moment.ts:  # what was sent in this slice is for the next session
                    found += self.end(order, "expired")
        return found

    def meet(self, symbol: str, bar: Bar) -> list[Report]:
        """One bar: entry and exit at the open, then the stop, then the target."""
        opened, high, low = (ticks(money(price)) for price in (bar.open, bar.high, bar.low))
        found = []
        for order in self.open_orders(symbol):
            if order.leg == Leg.ENTRY:
                edges = [leg.price for leg in self.legs_of(order)]
                if not min(edges) < opened < max(edges):
                    found += self.end(order, "rejected", Reason.STALE_BASE)
                elif opened * order.qty > self.cash - sum(self.behind.values()):
                    found += self.end(order, "rejected", Reason.INSUFFICIENT_CASH)
                else:
                    found += self.fill(order, opened)
            elif order.leg == Leg.EXIT:
                found += self.fill(order, opened)
        for order in self.open_orders(symbol):
            sells = order.side == Side.SELL
            if (
                order.leg in LEGS
                and order.leg not in TARGETS
                and (low <= order.price if sells else high >= order.price)
            ):
                return found + self.fill(order, min(order.price, opened) if sells else max(order.price, opened))
        for order in self.open_orders(symbol):
            sells = order.side == Side.SELL
            if order.leg in TARGETS and (high >= order.price if sells else low <= order.price):
                return found + self.fill(order, max(order.price, opened) if sells else max(min(order.price, opened), 1))
        return found

    def open_orders(self, symbol: str) -> list[Order]:
        return [one for one in self.orders.values() if one.symbol == symbol and not one.asleep]

    def fill(self, order: Order, price: int) -> list[Report]:
        """All of an order at one price; a complete entry wakes its legs, a leg's end is its sibling's."""
        cost = order.qty * price
        self.cash -= order.side * cost
        if order.leg == Leg.ENTRY:
            if order.side == Side.SELL:
                self.behind[order.symbol] = 2 * cost
            for leg in self.legs_of(order):
                leg.asleep = False
        else:
            self.behind.pop(order.symbol, None)
        del self.orders[order.key]
        found = [self.report(order, "filled", order.qty, cost)]
        if order.leg in LEGS:
            for sibling in [one for one in self.open_orders(order.symbol) if one.leg in LEGS]:
                found += self.end(sibling, "canceled")
        return found


@dataclass
class RoughBroker(Broker):
    """One that fills in parts, at odd prices, refuses, forgets, repeats itself, and is slow to cancel."""

    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    held: dict[str, int] = field(default_factory=dict)  # shares, negative for a short position
    told: list[Report] = field(default_factory=list)  # what was said of orders as they came in
    met: set[Key] = field(default_factory=set)
    last: dict[str, int] = field(default_factory=dict)  # price by symbol

    def take(self, ledger: LedgerFrame) -> None:
        super().take(ledger)
        for order in list(self.orders.values()):
            fresh = order.filled == 0 and order.leg in (Leg.OCO_TAKE_PROFIT, Leg.EXIT, Leg.ENTRY)
            if fresh and order.key not in self.met:
                self.met.add(order.key)
                if self.chance(0.1):
                    pair = [one for one in self.orders.values() if one.key[:2] == order.key[:2] and one.leg in LEGS]
                    for one in [order, *(pair if order.leg == Leg.OCO_TAKE_PROFIT else [])]:
                        if one.key in self.orders:
                            self.told += self.end(one, "rejected", Reason.SHARES_HELD)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def words(self) -> list[Report]:
        said, self.told = self.told, []
        return said

    def replies(self) -> list[Report]:
        """Some cancels are carried out later, and some are overtaken by a fill."""
        found = []
        asked, self.cancels = self.cancels, []
        for key in asked:
            if key in self.orders and self.chance(0.3):
                self.cancels.append(key)
            elif key in self.orders:
                if self.chance(0.4):
                    found += self.some(self.orders[key], self.last.get(key[0], 10_000))
                if key in self.orders:
                    found += self.end(self.orders[key], "canceled")
        return self.repeated(found)

    def trade(self, moment: Slice) -> list[Report]:
        found = self.replies()
        for symbol in sorted({order.symbol for order in self.orders.values()} & moment.bars.keys()):
            bar = moment.bars[symbol]
            low, high = (max(1, ticks(money(price))) for price in (bar.low, bar.high))
            for key in [order.key for order in self.open_orders(symbol)]:
                order = self.orders.get(key)
                if order is None or order.asleep or self.chance(0.4):
                    continue
                self.last[symbol] = int(self.rng.integers(low, max(low, high) + 1))
                if order.leg == Leg.EXIT and any(one.leg in LEGS for one in self.open_orders(symbol)):
                    continue  # it waits for the shares
                if self.chance(0.15):
                    found += self.end(order, str(self.rng.choice(["rejected", "expired", "canceled"])))
                elif order.leg == Leg.EXIT and not self.held.get(symbol):
                    found += self.end(order, "rejected", Reason.NOT_FOUND)
                else:
                    found += self.some(order, self.last[symbol])
        if moment.phase == Phase.LAST and self.chance(0.8):
            for key in sorted(self.orders):
                if key in self.orders and not self.orders[key].asleep:
                    found += self.end(self.orders[key], "expired")
        return self.repeated(found)

    def some(self, order: Order, price: int) -> list[Report]:
        """Some or all of an order."""
        most = order.left if order.leg == Leg.ENTRY else min(order.left, abs(self.held.get(order.symbol, 0)))
        if order.asleep or most == 0:
            return []
        qty = most if self.chance(0.5) else int(self.rng.integers(1, most + 1))
        cost = qty * price + int(self.rng.integers(0, qty))
        self.held[order.symbol] = self.held.get(order.symbol, 0) + order.side * qty
        flat = order.leg != Leg.ENTRY and self.held[order.symbol] == 0
        done = qty == order.left or flat
        others = [one for one in self.open_orders(order.symbol) if one.leg in LEGS and one.key != order.key]
        before, after = [], []
        if order.leg in LEGS and (done or order.leg not in TARGETS):
            for other in others:  # which word comes first, nobody knows
                (before if self.chance(0.5) else after).append(other)
        found = [report for other in before for report in self.end(other, "canceled")]
        if done:
            del self.orders[order.key]
            for leg in self.legs_of(order):
                leg.asleep = False
        found.append(self.report(order, "filled" if done else "partially_filled", qty, cost))
        return found + [report for other in after for report in self.end(other, "canceled")]

    def repeated(self, said: list[Report]) -> list[Report]:
        """Now and then a report is in the log twice."""
        return [one for report in said for one in [report] * (2 if self.chance(0.1) else 1)]


@dataclass
class Clerk:
    """Cash and shares by the reports alone."""

    cash: Decimal
    shares: dict[str, int] = field(default_factory=dict)
    seen: set[tuple[Key, int]] = field(default_factory=set)

    def book(self, report: Report, side: int) -> None:
        """Each fill once."""
        one = ((report.symbol, report.order_ts, int(report.leg)), report.filled)
        if report.qty and one not in self.seen:
            self.seen.add(one)
            self.cash -= side * Decimal(report.cost) / 10_000
            self.shares[report.symbol] = self.shares.get(report.symbol, 0) + side * report.qty
