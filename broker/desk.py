"""Between the account's orders and the broker: what is still to be sent, cancelled, waited for, or answered.

The desk keeps nothing that it could not read again: orders come from their topic, what became of them from the
topic of reports and from the broker. So it may die anywhere. Whatever has a final report, or is known at the broker,
is not sent; an entry that was decided too long ago is answered and not sent; what reduces a position always is.

An exit waits for the end of whatever else is open in its symbol, for legs hold the shares, and then sells what is
left: never more than the broker has, nor than the reports say.
"""

import logging
from collections.abc import Callable
from typing import Literal

from broker.alpaca import Refused, Unanswered
from broker.intervals import Params
from broker.journal import Journal
from broker.port import ExecutionReport, OrderRequest, OrderState, Refusal, leg_id
from broker.progress import leg_named
from broker.submitter import Submitter
from broker.updates import TradeUpdates
from schemas.events import Kind, Leg, Reason, Side, word
from schemas.records import Order
from schemas.units import NS_PER_SECOND

LOG = logging.getLogger("utp.execution")
# of what reduces a position: tried again, for these pass
PASSING = frozenset({Reason.SHARES_HELD, Reason.BROKER_DOWN, Reason.RATE_LIMIT, Reason.CIRCUIT_OPEN, Reason.WASH_TRADE,
                     Reason.NOT_SHORTABLE})  # fmt: skip
FIRST = {Leg.EXIT: 0, Leg.OCO_TAKE_PROFIT: 1, Leg.ENTRY: 2}  # what reduces goes before what opens
OCO = (Leg.OCO_TAKE_PROFIT, Leg.OCO_STOP_LOSS)


class Intent:
    """An order that the account wants and nobody has answered yet."""

    def __init__(self, order: OrderRequest, slice_ts: int, ids: tuple[str, ...]):
        self.order, self.slice_ts, self.ids = order, slice_ts, ids
        self.next = 0  # on the monotonic clock: not looked at before
        self.since = 0  # when it began to wait; 0: not yet
        self.doubted = 0  # when it was sent without an answer; 0: never
        self.placed = False  # the broker has it, its report is on its way


class Withdrawal:
    """A cancel that the account wants."""

    def __init__(self) -> None:
        self.next = 0
        self.asked = False


class Desk:
    """Orders of one account, one step after the other, in one thread."""

    def __init__(
        self,
        account: str,
        submitter: Submitter,
        updates: TradeUpdates,
        journal: Journal,
        deliver: Callable[[list[ExecutionReport]], None],
        params: Params,
        slice_ns: int,
    ):
        self.account, self.submitter, self.updates, self.journal = account, submitter, updates, journal
        self.deliver, self.params, self.slice_ns = deliver, params, slice_ns
        self.broker, self.clock = submitter.broker, submitter.clock
        self.halted = ""  # why entries are not sent, whatever the gates say
        self.waiting: dict[str, Intent] = {}  # by content id, in the order of the log
        self.withdrawals: dict[str, Withdrawal] = {}
        self._half: dict[str, Order] = {}  # OCO legs whose other half was not read yet
        self._value: dict[str, int] = {}  # of entries, in ticks
        self._looked = -(10**18)

    # What comes from the log.

    def take(self, order: Order) -> None:
        """An order of the log, again or for the first time."""
        if order.account != self.account:
            return
        if order.action == "cancel":
            if not self.journal.is_final(order.order_id):
                self.withdrawals.setdefault(order.order_id, Withdrawal())
            return
        leg = leg_named(order.order_id)
        if leg in (Leg.TAKE_PROFIT, Leg.STOP_LOSS):  # part of their entry
            return
        try:
            intent = self._pair(order, leg) if leg in OCO else _single(order, leg)
        except (ValueError, KeyError) as error:
            LOG.error("%s: no order that could be sent: %s", order.order_id, error)
            if not self.journal.is_final(order.order_id):
                self._answer(order.order_id, order.symbol, Side[order.side.upper()], leg, "rejected", Reason.REFUSED)
            return
        if leg is Leg.ENTRY:
            self._value[order.order_id] = order.price * order.quantity
        if intent is not None and not self.journal.is_final(intent.order.id):
            self.waiting.setdefault(intent.order.id, intent)

    def _pair(self, order: Order, leg: Leg) -> Intent | None:
        """Both legs of an OCO are one request, sent once both are read."""
        other = self._half.pop(leg_id(order.order_id, OCO[leg is OCO[0]]), None)
        if other is None:
            self._half[order.order_id] = order
            return None
        target, stop = (order, other) if leg is OCO[0] else (other, order)
        if target.quantity != stop.quantity:
            raise ValueError(f"legs of {target.quantity} and {stop.quantity} shares")
        limit = target.limit or 0
        request = OrderRequest(target.order_id, order.symbol, Side[order.side.upper()], target.quantity, OCO[0],
                               Kind.LIMIT, limit, limit, stop.stop or 0)  # fmt: skip
        return Intent(request, order.slice_ts, (target.order_id, stop.order_id))

    # One pass over all that waits.

    def step(self, now: int) -> None:
        """Do what can be done; `now` is the market's time, UTC ns. Silence of the broker is waited out."""
        for order_id, withdrawal in list(self.withdrawals.items()):
            self._guarded(withdrawal, lambda name=order_id, one=withdrawal: self._withdraw(name, one))  # type: ignore[misc]
        entries = 0
        for intent in sorted(self.waiting.values(), key=lambda one: FIRST[one.order.leg]):
            if self.journal.last(intent.order.id) is not None or self.journal.is_final(intent.order.id):
                self._done(intent)
            elif self.waiting.get(intent.order.id) is intent:
                entries += not intent.order.reduces
                full = entries > self.submitter.gates.params.queue
                self._guarded(intent, lambda one=intent, full=full: self._act(one, now, full))  # type: ignore[misc]

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return not self.waiting and not self.withdrawals

    def _guarded(self, one: Intent | Withdrawal, act: Callable[[], None]) -> None:
        if self.clock.monotonic() < one.next:
            return
        try:
            act()
        except (Refused, Unanswered) as error:  # of a read; orders and cancels answer with a Refusal
            LOG.warning("broker: %s; asked again", error)
            self._pause(one)

    def _pause(self, one: Intent | Withdrawal) -> None:
        one.next = self.clock.monotonic() + int(self.params.retry_seconds * NS_PER_SECOND)

    def look(self) -> None:
        """Read what the stream may not have told, at most once in `retry_seconds`."""
        now = self.clock.monotonic()
        if now - self._looked >= self.params.retry_seconds * NS_PER_SECOND:
            self.updates.catch_up()
            self._looked = now

    def _act(self, intent: Intent, now: int, full: bool) -> None:
        if intent.placed:  # the stream tells; if not, a look does
            self._pause(intent)
            self.look()
        elif intent.order.id in self.submitter.doubtful and self._in_doubt(intent):
            return
        elif intent.order.leg is Leg.EXIT:
            self._exit(intent)
        elif intent.order.leg is Leg.ENTRY:
            self._entry(intent, now, full)
        else:
            self._protect(intent)

    # Entries.

    def _entry(self, intent: Intent, now: int, full: bool) -> None:
        order = intent.order
        late = now - intent.slice_ts
        if intent.doubted or late > self.params.stale_slices * self.slice_ns:
            if self._found(intent):
                return
            if intent.doubted:
                reason, message = Reason.BROKER_DOWN, "nobody said what became of it, and the broker does not have it"
            else:
                reason, message = Reason.TOO_LATE, f"decided {late / self.slice_ns:.1f} slices ago"
        elif self.halted:
            reason, message = Reason.REVOKED, self.halted
        elif full:
            reason, message = Reason.QUEUE_FULL, f"more than {self.submitter.gates.params.queue} entries wait"
        else:
            answer = self._send(intent, order)
            if answer is None:
                return
            reason, message = answer.reason, answer.message
        self._refuse(intent, reason, message)

    def value_of_entries(self) -> dict[str, int]:
        """What the entries of the log may cost, in ticks, by content id."""
        return self._value

    # What reduces a position.

    def _exit(self, intent: Intent) -> None:
        order = intent.order
        if self._waits_for_others(intent):
            return
        self.updates.catch_up()
        there = sum(held.qty for held in self.broker.positions() if held.symbol == order.symbol)
        here = self.journal.book.qty.get(order.symbol, 0)
        sign = -order.side
        qty = min(order.qty, there * sign, here * sign)
        if qty < min(order.qty, here * sign) and not self._patience_is_over(intent):
            return  # a position may be a moment behind the fills
        if self._found(intent):
            return
        if qty < 1:
            self._refuse(intent, Reason.NO_POSITION, f"{there} shares at the broker, {here} by the reports")
            return
        answer = self._send(intent, OrderRequest(order.id, order.symbol, order.side, qty, order.leg, order.kind,
                                                 order.price))  # fmt: skip
        self._after_refusal(intent, answer, forever=True)

    def _protect(self, intent: Intent) -> None:
        """An OCO for shares that are held; an exit of the same symbol makes it needless."""
        leaving = (one for one in self.waiting.values() if one.order.leg is Leg.EXIT)
        if any(one.order.symbol == intent.order.symbol and one.slice_ts >= intent.slice_ts for one in leaving):
            if not self._found(intent):
                self._refuse(intent, Reason.SIBLING, "an exit goes first", status="canceled")
            return
        self._after_refusal(intent, self._send(intent, intent.order), forever=False)

    def _after_refusal(self, intent: Intent, refusal: Refusal | None, *, forever: bool) -> None:
        if refusal is None:
            return
        if refusal.reason in PASSING and (not self._patience_is_over(intent) or forever):
            LOG.warning("%s: %s; tried again", refusal.id, refusal.message)
            self._pause(intent)
        else:
            self._refuse(intent, refusal.reason, refusal.message)

    def _waits_for_others(self, intent: Intent) -> bool:
        """Whether other orders of the symbol may still hold or move its shares; asks for their end."""
        order = intent.order
        for one in list(self.waiting.values()):
            if one is intent or one.order.symbol != order.symbol or one.slice_ts > intent.slice_ts:
                continue
            if one.placed or one.doubted:
                self._patience_is_over(intent)
                return True
            if one.order.leg is not Leg.EXIT and not self._found(one):
                self._refuse(one, Reason.SIBLING, "an exit goes first", status="canceled")
        others = [other for other in self.journal.open(order.symbol) if other.order_id != order.id]
        if not others:
            return False
        for other in others:
            if other.leg is not Leg.EXIT:
                self.withdrawals.setdefault(other.order_id, Withdrawal())
                self._withdraw(other.order_id, self.withdrawals[other.order_id])
        self.look()
        others = [other for other in self.journal.open(order.symbol) if other.order_id != order.id]
        return bool(others) and not self._patience_is_over(intent)

    def _patience_is_over(self, intent: Intent) -> bool:
        """Waits once more, unless it has waited for long enough: that is said, and the wait begins anew."""
        now = self.clock.monotonic()
        intent.since = intent.since or now
        if now - intent.since < self.params.legs_seconds * NS_PER_SECOND:
            self._pause(intent)
            return False
        LOG.error("%s: still waiting after %g s", intent.order.id, self.params.legs_seconds)
        intent.since = 0
        return True

    # Cancels.

    def _withdraw(self, order_id: str, withdrawal: Withdrawal) -> None:
        if self.journal.is_final(order_id):
            del self.withdrawals[order_id]
            return
        if self.clock.monotonic() < withdrawal.next:
            return
        last = self.journal.last(order_id)
        if last is None:
            self._withdraw_unsent(order_id, withdrawal)
            return
        self._pause(withdrawal)
        if withdrawal.asked:
            self.look()
            if self.journal.is_final(order_id):
                return
        refusal = self.submitter.cancel(last.broker_id)
        withdrawal.asked = refusal is None or refusal.reason in (Reason.TOO_LATE, Reason.NOT_FOUND)
        if refusal is not None and not withdrawal.asked:
            LOG.warning("%s: not cancelled: %s", order_id, refusal.message)

    def _withdraw_unsent(self, order_id: str, withdrawal: Withdrawal) -> None:
        """A cancel of what the broker is not known to have."""
        intent = next((one for one in self.waiting.values() if order_id in one.ids), None)
        if intent is None:
            entry = leg_id(order_id, Leg.ENTRY)  # a leg comes with its entry, or never
            if entry in self.waiting:
                self._pause(withdrawal)
            else:
                del self.withdrawals[order_id]
        elif intent.placed or intent.doubted:
            self._pause(withdrawal)
        elif not self._found(intent):
            self._refuse(intent, Reason.NONE, "cancelled before it was sent", status="canceled")

    # How an order is sent and answered.

    def _send(self, intent: Intent, order: OrderRequest) -> Refusal | None:
        """None: the broker has it, or nobody knows yet. Otherwise why it was not placed."""
        answer = self.submitter.send(order)
        if isinstance(answer, OrderState):
            self._placed(intent, answer)
            return None
        if order.id in self.submitter.doubtful:
            LOG.warning("%s: %s", order.id, answer.message)
            intent.doubted = intent.doubted or self.clock.monotonic()
            self._pause(intent)
            return None
        return answer

    def _in_doubt(self, intent: Intent) -> bool:
        """Whether nobody knows yet what became of it. What reduces is sent again, with its id; an entry is not."""
        if self._found(intent):
            return True
        passed = (self.clock.monotonic() - intent.doubted) / NS_PER_SECOND
        if passed < (self.params.retry_seconds if intent.order.reduces else self.params.doubt_seconds):
            self._pause(intent)
            return True
        del self.submitter.doubtful[intent.order.id]
        return False

    def _found(self, intent: Intent) -> bool:
        """Whether the broker has it already."""
        found = self.broker.find(intent.order.id)
        if found is not None:
            self._placed(intent, found)
        return found is not None

    def _placed(self, intent: Intent, state: OrderState) -> None:
        intent.placed = True
        self.submitter.doubtful.pop(intent.order.id, None)
        self.updates.tell(state)

    def _refuse(self, intent: Intent, reason: Reason, message: str, status: Literal["rejected", "canceled"] = "rejected"
                ) -> None:  # fmt: skip
        """Answer an order that was not placed, for all its legs that the account waits for."""
        LOG.info("%s: %s: %s (%s)", intent.order.id, status, word(reason), message)
        for order_id in intent.ids:
            self._answer(order_id, intent.order.symbol, intent.order.side, leg_named(order_id), status, reason)
        self._done(intent)

    def _answer(self, order_id: str, symbol: str, side: Side, leg: Leg, status: str, reason: Reason) -> None:
        self.deliver([ExecutionReport(f"{order_id}:{status}", self.clock.now(), order_id, "", symbol, side, leg,
                                      status, 0, 0, 0, 0, reason=reason)])  # fmt: skip

    def _done(self, intent: Intent) -> None:
        self.waiting.pop(intent.order.id, None)
        self.submitter.doubtful.pop(intent.order.id, None)


def _single(order: Order, leg: Leg) -> Intent:
    side, kind = Side[order.side.upper()], Kind[order.kind.upper()]
    request = OrderRequest(order.order_id, order.symbol, side, order.quantity, leg, kind, order.limit or order.price,
                           order.take_profit or 0, order.stop_loss or 0)  # fmt: skip
    return Intent(request, order.slice_ts, (order.order_id,))
