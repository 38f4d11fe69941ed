"""Cash and shares as execution reports tell them: exact, and deaf to a report that comes twice."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.port import ExecutionReport
from schemas.events import Side


@dataclass
class Book:
    """What we believe we hold. A sale takes its share of the lot's cost out, rounded down."""

    cash: int = 0  # what came in less what was paid, in ticks; add what the account began with
    qty: dict[str, int] = field(default_factory=dict)
    cost: dict[str, int] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)  # by the broker's id: shares booked
    status: dict[str, str] = field(default_factory=dict)
    last: dict[str, ExecutionReport] = field(default_factory=dict)  # by the broker's id

    @classmethod
    def of(cls, reports: Iterable[ExecutionReport]) -> "Book":
        """The book after a log of reports."""
        book = cls()
        for report in reports:
            book.apply(report)
        return book

    def apply(self, report: ExecutionReport) -> bool:
        """Book a report; False if it was known, or tells of an order that was never placed."""
        if not report.broker_id:
            return False
        counted = self.counted.get(report.broker_id, 0)
        if report.qty and report.filled_qty <= counted:
            return False
        if report.qty and report.filled_qty - report.qty != counted:
            raise ValueError(
                f"{report.order_id}: fill {report.qty} ends at {report.filled_qty}, but {counted} are booked"
            )
        self.status[report.broker_id] = report.status
        self.last[report.broker_id] = report
        if report.qty:
            self.counted[report.broker_id] = report.filled_qty
            self._fill(report)
        return True

    def _fill(self, report: ExecutionReport) -> None:
        """Shares and money of one report; shares sold beyond those held open a short at the sale's price."""
        self.cash -= report.side * report.cost
        held, cost = self.qty.get(report.symbol, 0), self.cost.get(report.symbol, 0)
        change = report.qty if report.side is Side.BUY else -report.qty
        if held * change >= 0:  # grows
            held, cost = held + change, cost + report.cost
        else:
            closing = min(abs(held), abs(change))
            cost -= cost * closing // abs(held)
            opening = abs(change) - closing
            held += change
            cost += report.cost * opening // report.qty
        self.qty[report.symbol], self.cost[report.symbol] = held, cost
        if held == 0:
            del self.qty[report.symbol], self.cost[report.symbol]
