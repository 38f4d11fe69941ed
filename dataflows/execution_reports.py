"""Execution reports in the log: written once, proven before they count, read again at a start."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator

from broker.port import ExecutionReport
from infra.gated_sink import GatedSink, Record, event_record
from infra.kafka import SCHEMA, Cluster, bounds, records
from infra.ranges import part_name
from schemas import codec
from schemas.events import Leg, Reason, Side, word
from schemas.identity import envelope
from schemas.records import ExecutionReport as Event

TOPIC = "execution.reports"


class Undelivered(RuntimeError):  # noqa: N818
    """Reports could not be written: the process must end, and tells them again after its start."""


def event(account: str, report: ExecutionReport, correlation: str = "") -> Event:
    """A report as the log holds it."""
    key = f"{account}:{report.id}"
    return Event(
        **envelope(TOPIC, key, report.symbol, report.ts, "execution", correlation), account=account,
        order_id=report.order_id, report_id=report.id, venue_order_id=report.broker_id or None, status=report.status,
        side=word(report.side), leg=word(report.leg), quantity=report.qty,
        price=report.cost // report.qty if report.qty else 0, filled=report.filled_qty,
        reason="" if report.reason is Reason.NONE else word(report.reason), venue_ts=report.ts, cost=report.cost,
    )  # fmt: skip


def reports(events: Iterator[Event]) -> Iterator[ExecutionReport]:
    """What was said, in order; what an order's shares cost so far is the sum of its reports."""
    spent: defaultdict[str, int] = defaultdict(int)
    for one in events:
        broker_id = one.venue_order_id or ""
        spent[broker_id] += one.cost
        yield ExecutionReport(
            one.report_id, one.venue_ts, one.order_id, broker_id, one.symbol, Side[one.side.upper()],
            Leg[one.leg.upper()], one.status, one.quantity, one.cost, one.filled, spent[broker_id] if broker_id else 0,
            reason=Reason[one.reason.upper()] if one.reason else Reason.NONE,
        )  # fmt: skip


def written(where: Cluster, account: str) -> list[ExecutionReport]:
    """All reports of an account that are in the log."""
    low, high = bounds(where, TOPIC)[0]
    messages = records(where, TOPIC, 0, low, high)
    events = (codec.decode(Event, m.value(), dict(m.headers() or ()).get(SCHEMA)) for m in messages)
    return list(reports(one for one in events if one.account == account))


class ReportLog:
    """Appends to the topic; one writer at a time, from any thread."""

    def __init__(self, where: Cluster, account: str, take: Callable[[ExecutionReport], None],
                 correlation: Callable[[str], str] = lambda order_id: ""):  # fmt: skip
        self._account, self._take, self._correlation = account, take, correlation
        self._lock = threading.Lock()
        sink = GatedSink(where, TOPIC, f"execution.{account}", lambda key: 0, linger_ms=0)
        self._part = sink.build_part("execution", part_name(TOPIC, 0), None)

    def deliver(self, told: list[ExecutionReport]) -> None:
        """Write them; they count once the log has them. Raises Undelivered when it has not."""
        with self._lock:
            try:
                self._part.write_batch([[self._record(report) for report in told]])
                self._part.snapshot()
            except Exception as error:  # a UserError among them must not pass for a value that the broker sent
                raise Undelivered(f"execution reports were not written: {error}") from error
            for report in told:
                self._take(report)

    def close(self) -> None:
        """Leave the producer."""
        with self._lock:
            self._part.close()

    def _record(self, report: ExecutionReport) -> Record:
        one = event(self._account, report, self._correlation(report.order_id))
        return event_record(one.idempotency_key, report.ts, self._account.encode(), one)
