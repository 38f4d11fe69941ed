"""How far each order has come: states and executions in, each change reported once out.

The truth of a fill is the order's cumulative quantity. So it does not matter whether news comes from the
stream, twice, late or not at all, or from a list that was fetched after a reconnect: what is already
counted says nothing new, and what was missed shows as a gap.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from broker.port import FINAL, Execution, ExecutionReport, OrderState, leg_id
from schemas.events import Leg, Side


class Known(NamedTuple):
    """What has been reported of one order."""

    order_id: str
    symbol: str
    side: Side
    leg: Leg
    status: str
    filled_qty: int
    filled_cost: int
    updated: int


class Progress:
    """All orders of one account, by the broker's id."""

    def __init__(self, account: str, reported: Iterable[ExecutionReport] = ()):
        self.account = account
        self.known: dict[str, Known] = {}
        for report in reported:  # a restart goes on where the log ends
            if not report.broker_id:  # the broker never had it
                continue
            self.known[report.broker_id] = Known(
                report.order_id, report.symbol, report.side, report.leg, report.status, report.filled_qty,
                report.filled_cost, report.ts,
            )  # fmt: skip

    @property
    def open(self) -> list[str]:
        """Broker's ids of orders whose end has not been reported."""
        return [broker_id for broker_id, known in self.known.items() if known.status not in FINAL]

    def knows(self, state: OrderState) -> bool:
        """Whether an order can be named: a leg only once its parent was seen with its legs."""
        return state.broker_id in self.known or state.replaces in self.known or self._ours(state)

    def lacks(self, state: OrderState, executions: Sequence[Execution]) -> list[str]:
        """Broker's ids, legs included, with fills that are in no execution given."""
        missing = []
        for order in (state, *state.legs):
            qty = self._filled(order.broker_id)
            for execution in _of(order.broker_id, executions):
                if execution.filled_qty - execution.qty == qty:
                    qty = execution.filled_qty
            if order.filled_qty > qty:
                missing.append(order.broker_id)
        return missing

    def advance(self, state: OrderState, executions: Sequence[Execution] = ()) -> list[ExecutionReport]:
        """What is new in an order and its legs. An order that is not this account's is nothing to report."""
        if not self.knows(state):
            return []
        order_id, leg = self._name(state)
        reports = self._advance(state, order_id, leg, _of(state.broker_id, executions))
        for child in state.legs:
            name = _leg_of(leg, child)
            reports += self._advance(child, leg_id(order_id, name), name, _of(child.broker_id, executions))
        return reports

    def _advance(
        self, state: OrderState, order_id: str, leg: Leg, executions: Sequence[Execution]
    ) -> list[ExecutionReport]:
        before = self.known.get(state.broker_id)
        known = before or Known(order_id, state.symbol, state.side, leg, "", 0, 0, 0)
        fresh = state.updated >= known.updated and known.status not in FINAL
        status = state.status if fresh else known.status
        reports = []
        for execution in executions:
            if execution.filled_qty - execution.qty == known.filled_qty:
                cost = execution.qty * execution.price
                reached = execution.filled_qty
                known = known._replace(
                    status=status if reached >= state.filled_qty else "partially_filled",
                    filled_qty=reached, filled_cost=known.filled_cost + cost, updated=max(known.updated, execution.ts),
                )  # fmt: skip
                reports.append(_report(state.broker_id, known, execution.qty, cost, execution.ts))
        if state.filled_qty > known.filled_qty:
            qty, cost = state.filled_qty - known.filled_qty, state.filled_cost - known.filled_cost
            known = known._replace(status=status, filled_qty=state.filled_qty, filled_cost=state.filled_cost)
            reports.append(_report(state.broker_id, known, qty, cost, state.updated, estimated=True))
        if status != (reports[-1].status if reports else known.status):
            known = known._replace(status=status)
            reports.append(_report(state.broker_id, known, 0, 0, state.updated))
        self.known[state.broker_id] = known._replace(status=status, updated=max(known.updated, state.updated))
        return reports

    def _filled(self, broker_id: str) -> int:
        known = self.known.get(broker_id)
        return known.filled_qty if known else 0

    def _ours(self, state: OrderState) -> bool:
        return state.client_id.startswith(f"{self.account}|")

    def _name(self, state: OrderState) -> tuple[str, Leg]:
        """Content id and leg; a replacement is the leg that it replaces."""
        known = self.known.get(state.broker_id) or self.known.get(state.replaces)
        if known is not None:
            return known.order_id, known.leg
        return state.client_id, leg_named(state.client_id)


def leg_named(order_id: str) -> Leg:
    """The leg that a content id ends with."""
    return Leg[order_id.rpartition("|")[2].upper()]


def _leg_of(parent: Leg, child: OrderState) -> Leg:
    stops = child.kind.startswith("stop")
    if parent in (Leg.OCO_TAKE_PROFIT, Leg.OCO_STOP_LOSS):
        return Leg.OCO_STOP_LOSS if stops else Leg.OCO_TAKE_PROFIT
    return Leg.STOP_LOSS if stops else Leg.TAKE_PROFIT


def _of(broker_id: str, executions: Sequence[Execution]) -> list[Execution]:
    return sorted((e for e in executions if e.broker_id == broker_id), key=lambda e: e.filled_qty)


def _report(broker_id: str, known: Known, qty: int, cost: int, ts: int, *, estimated: bool = False) -> ExecutionReport:
    return ExecutionReport(
        id=f"{broker_id}:{known.filled_qty}" if qty else f"{broker_id}:{known.filled_qty}:{known.status}",
        ts=ts,
        order_id=known.order_id,
        broker_id=broker_id,
        symbol=known.symbol,
        side=known.side,
        leg=known.leg,
        status=known.status,
        qty=qty,
        cost=cost,
        filled_qty=known.filled_qty,
        filled_cost=known.filled_cost,
        estimated=estimated,
    )  # fmt: skip
