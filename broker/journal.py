"""What has been said of each order: the execution reports of one account, as their topic holds them."""

from collections.abc import Iterable, Mapping

from broker.book import Book
from broker.guard import Exposure
from broker.port import FINAL, ExecutionReport
from broker.reconcile import OpenOrder
from schemas.events import Leg


class Journal:
    """Reports in, answers out; it writes nothing and asks nobody. One thread tells it, any may ask."""

    def __init__(self, reports: Iterable[ExecutionReport] = ()):
        self.book = Book()
        self._last: dict[str, ExecutionReport] = {}  # by content id
        self._refused: dict[str, ExecutionReport] = {}  # by content id: never placed
        self._first: dict[str, ExecutionReport] = {}  # by content id: when it was first heard of
        for report in reports:
            self.take(report)

    def take(self, report: ExecutionReport) -> None:
        """A report that is in the log."""
        if not report.broker_id:
            self._refused[report.order_id] = report
            return
        self.book.apply(report)
        self._first.setdefault(report.order_id, report)
        self._last[report.order_id] = report

    def last(self, order_id: str) -> ExecutionReport | None:
        """What was last said of an order that the broker has."""
        return self._last.get(order_id)

    def is_final(self, order_id: str) -> bool:
        """Whether nothing more can come of an order."""
        last = self._last.get(order_id)
        return order_id in self._refused if last is None else last.status in FINAL

    def open(self, symbol: str = "") -> list[ExecutionReport]:
        """The last word on each order that can still be filled, of one symbol or of all."""
        return [last for last in list(self._last.values())
                if last.status not in FINAL and symbol in ("", last.symbol)]  # fmt: skip

    def open_orders(self) -> list[OpenOrder]:
        """The same, for reconciliation."""
        return [OpenOrder(one.order_id, one.broker_id, one.symbol, one.side, one.filled_qty) for one in self.open()]

    def held(self) -> dict[str, tuple[int, int]]:
        """By symbol: shares and what they cost."""
        return {symbol: (qty, self.book.cost[symbol]) for symbol, qty in list(self.book.qty.items())}

    def entries(self) -> list[ExecutionReport]:
        """The first word on each entry that was placed, in order."""
        return [first for first in list(self._first.values()) if first.leg is Leg.ENTRY]

    def exposure(self, on_their_way: Mapping[str, int]) -> Exposure:
        """What stands at risk, in ticks: positions at cost, and entries that are open; of those, what each may cost."""
        by_symbol = {symbol: cost for symbol, (_, cost) in self.held().items()}
        entries = [one for one in self.open() if one.leg is Leg.ENTRY]
        for one in entries:
            left = max(on_their_way.get(one.order_id, 0) - one.filled_cost, 0)
            by_symbol[one.symbol] = by_symbol.get(one.symbol, 0) + left
        return Exposure(sum(by_symbol.values()), by_symbol, len(entries))
