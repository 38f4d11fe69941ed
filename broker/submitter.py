"""One order through gates, guard and broker, each time looked at anew; and those of which nobody knows what became.

Calls block as long as the broker does: whoever sends has a process, or a thread, of his own for it.
"""

import threading
from collections.abc import Callable

from broker import guard
from broker.alpaca import Clock, SystemClock
from broker.guard import Exposure
from broker.port import Broker, ExecutionReport, OrderRequest, OrderState, Refusal
from broker.safety import Gates
from schemas.events import Kind, Reason

Outcome = OrderState | Refusal


class Submitter:
    """Sends orders; checking and counting one is a single step, whoever sends beside."""

    def __init__(
        self,
        broker: Broker,
        gates: Gates,
        limits: guard.Params,
        exposure: Callable[[], Exposure],
        session: Callable[[int], int],  # UTC ns -> the exchange day, counted
        clock: Clock | None = None,
    ):
        self.broker, self.gates, self.limits = broker, gates, limits
        self.exposure, self.session = exposure, session
        self.clock: Clock = clock or SystemClock()
        self.guard = guard.State()
        self.doubtful: dict[str, OrderRequest] = {}  # sent, and nobody knows what became of them
        self._decided: dict[str, int] = {}  # by content id: the price a market order was decided on
        self._lock = threading.Lock()

    def send(self, order: OrderRequest) -> Outcome:
        """One order through gates, guard and broker, now, in the caller's thread."""
        with self._lock:
            refusal = self._admit(order)
        if refusal is not None:
            return refusal
        answer = self.broker.submit(order)
        if isinstance(answer, Refusal) and answer.reason is Reason.STATE_UNKNOWN:
            self.doubtful[order.id] = order
        else:
            self.doubtful.pop(order.id, None)
        return answer

    def cancel(self, broker_id: str) -> Refusal | None:
        """Ask for an order's end, now, in the caller's thread; None: accepted."""
        return self.gates.closed(broker_id) or self.broker.cancel(broker_id)

    def heard(self, report: ExecutionReport) -> None:
        """Hold a fill's price against the one it was decided on: a dear one pauses entries."""
        with self._lock:
            self.guard = guard.filled(
                self.limits, self.guard, report, self._decided.get(report.order_id, 0), self.clock.now()
            )

    def _admit(self, order: OrderRequest) -> Refusal | None:
        """What objects to an order, or None: then it counts as sent."""
        now = self.clock.now()
        refusal = self.gates.check(order, now)
        if refusal is not None:
            return refusal
        session = self.session(now)
        refusal = guard.objection(self.limits, self.guard, order, self.exposure(), now, session)
        if refusal is not None:
            return refusal
        self.guard = guard.sent(self.guard, order, now, session)
        self._decided[order.id] = order.price if order.kind is Kind.MARKET else 0
        return None
