"""A thread between the dataflow and a broker that may block: orders in, outcomes out, neither side waits."""

import queue
import threading
from collections.abc import Callable
from itertools import count

from broker import guard
from broker.alpaca import Clock, Refused, SystemClock, Unanswered
from broker.guard import Exposure
from broker.port import Broker, ExecutionReport, OrderRequest, OrderState, Refusal, TradingStopped
from broker.safety import Gates, UnsafeBroker
from schemas.events import Kind, Reason

Outcome = OrderState | Refusal
_STOP = (-1, -1, None)


class Submitter:
    """Sends orders one at a time, those that reduce first; each passes the gates and the guard just before."""

    def __init__(
        self,
        broker: Broker,
        gates: Gates,
        limits: guard.Params,
        exposure: Callable[[], Exposure],
        session: Callable[[int], int],  # UTC ns -> the exchange day, counted
        outcome: Callable[[OrderRequest, Outcome], None],
        clock: Clock | None = None,
    ):
        self.broker, self.gates, self.limits = broker, gates, limits
        self.exposure, self.session, self.outcome = exposure, session, outcome
        self.clock: Clock = clock or SystemClock()
        self.guard = guard.State()
        self.failure: BaseException | None = None  # why it stopped for good
        self.doubtful: dict[str, OrderRequest] = {}  # sent, and nobody knows what became of them
        self._decided: dict[str, int] = {}  # by content id: the price a market order was decided on
        self._waiting: queue.PriorityQueue[tuple[int, int, OrderRequest | None]] = queue.PriorityQueue()
        self._entries = 0
        self._number = count()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="submitter", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def offer(self, order: OrderRequest) -> Refusal | None:
        """Take an order without waiting, or say why not. Raises once the submitter has stopped for good."""
        self.check()
        with self._lock:
            if not order.reduces:
                if self._entries >= self.gates.params.queue:
                    return Refusal(order.id, Reason.QUEUE_FULL, f"{self._entries} entries are waiting for the broker")
                self._entries += 1
        self._waiting.put((0 if order.reduces else 1, next(self._number), order))
        return None

    def check(self) -> None:
        """Raise what stopped the submitter, if anything did: its process must end too."""
        if self.failure is not None:
            raise self.failure

    def stop(self, timeout: float) -> bool:
        """Leave entries that wait unsent, finish the call that is under way; whether it ended in time."""
        self._waiting.put(_STOP)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def send(self, order: OrderRequest) -> Outcome:
        """One order through gates, guard and broker, now, in the caller's thread."""
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
        self.guard = guard.filled(
            self.limits, self.guard, report, self._decided.get(report.order_id, 0), self.clock.now()
        )

    def settle(self) -> None:
        """Ask once more for orders of unknown fate; those that are found are told, the others stay in doubt."""
        for order in list(self.doubtful.values()):
            found = self.broker.find(order.id)
            if found is not None:
                del self.doubtful[order.id]
                self.outcome(order, found)

    def _run(self) -> None:
        while True:
            try:
                _, _, order = self._waiting.get(timeout=1.0)
            except queue.Empty:
                if not self._guarded(self.settle):
                    return
                continue
            if order is None:
                return
            if not order.reduces:
                with self._lock:
                    self._entries -= 1
            if not self._guarded(lambda order=order: self.outcome(order, self.send(order))):  # type: ignore[misc]
                return

    def _guarded(self, act: Callable[[], None]) -> bool:
        """Whether to go on: silence of the broker is survived, a broken rule is not."""
        try:
            act()
        except (Unanswered, Refused):
            return True  # reads while settling; orders themselves answer with a Refusal
        except (UnsafeBroker, TradingStopped) as error:
            self.failure = error
            return False
        except Exception as error:  # a bug: nothing more goes out, and whoever offers next is told
            self.failure = error
            return False
        return True
