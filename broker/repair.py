"""Reconciliation as it acts: what is safe is repaired by an event in the log, anything else halts entries.

Book and broker are read one after the other while both move, so what halts or cancels must be seen twice, with all news
read in between.
"""

import logging
from collections.abc import Callable

from broker.desk import Desk
from broker.port import ExecutionReport, leg_id
from broker.reconcile import Difference, Finding, Repair, reconcile
from schemas.events import Leg, Reason, Side, word
from schemas.units import NS_PER_SECOND

LOG = logging.getLogger("utp.execution")
OF_POSITIONS = frozenset({Difference.MISSING_HERE, Difference.MISSING_THERE, Difference.QUANTITY, Difference.PRICE})
BETWEEN_SECONDS = 1.0  # two looks at what moves


class Reconciliation:
    """Of one account. `halt` hears of findings that a human must look at, each once while it lasts."""

    def __init__(self, desk: Desk, halt: Callable[[list[Finding]], None]):
        self.desk, self.halt = desk, halt
        self._halting: set[Finding] = set()

    def look(self, *, positions: bool = True, repair: bool = True) -> list[Finding]:
        """All differences that stand; with `repair`, news are reported first."""
        desk = self.desk
        if repair:
            desk.updates.catch_up()
        there, held = desk.broker.open_orders(), desk.broker.positions()
        if repair:
            desk.updates.catch_up()
        found = reconcile(desk.account, desk.journal.held(), desk.journal.open_orders(), held, there)
        return [finding for finding in found if positions or finding.difference not in OF_POSITIONS]

    def run(self, *, positions: bool = True) -> list[Finding]:
        """Look, repair what is safe, halt on the rest. Returns the differences that were there; raises as reads do."""
        first = self.look(positions=positions)
        if not first:
            self._tell([])
            return []
        self.desk.clock.sleep(BETWEEN_SECONDS)
        second = self.look(positions=positions)
        found = [finding for finding in second if finding in first]  # the others were news, or are to be seen again
        halting = [finding for finding in found if finding.halts or self._is_lost(finding)]
        for finding in found:
            self._repair(finding)
        self._tell(halting)
        return found

    def _is_lost(self, finding: Finding) -> bool:
        """An order that is open here and that the broker does not have at all: no report can repair that."""
        missing = finding.difference is Difference.ORDER_MISSING_THERE
        return missing and self.desk.broker.order(finding.broker_id) is None

    def _repair(self, finding: Finding) -> None:
        desk = self.desk
        if finding.repair is Repair.REPORT:
            state = desk.broker.order(finding.broker_id)
            if state is not None:  # what a list of recent orders does not show
                desk.updates.tell(state)
        elif finding.repair is Repair.CANCEL:
            refusal = desk.submitter.cancel(finding.broker_id)
            LOG.error("%s: a leg without a position: %s", finding.symbol,
                      "cancelled" if refusal is None else refusal.message)  # fmt: skip
        elif finding.repair is Repair.ZERO:
            desk.deliver([self._gone(finding)])

    def _gone(self, finding: Finding) -> ExecutionReport:
        """The shares have left at their cost: nobody knows for how much. An order that nobody sent."""
        desk, now = self.desk, self.desk.clock.now()
        qty, cost = desk.journal.held()[finding.symbol]
        side = Side.SELL if qty > 0 else Side.BUY
        order_id = leg_id(f"{desk.account}|{finding.symbol}|lost{now // NS_PER_SECOND}|", Leg.EXIT)
        return ExecutionReport(f"{order_id}:lost", now, order_id, order_id, finding.symbol, side, Leg.EXIT, "filled",
                               abs(qty), cost, abs(qty), cost, estimated=True, reason=Reason.STATE_UNKNOWN)  # fmt: skip

    def _tell(self, halting: list[Finding]) -> None:
        """Entries stay halted in this process: what was lost and is zeroed must not open the way again."""
        fresh = [finding for finding in halting if finding not in self._halting]
        self._halting = set(halting)
        if fresh:
            said = "; ".join(described(finding) for finding in fresh)
            LOG.error("reconciliation: entries are halted: %s", said)
            self.desk.halted = f"halted by reconciliation: {said}"
            self.halt(fresh)


def described(finding: Finding) -> str:
    """A finding in a line."""
    order = f" {finding.order_id}" if finding.order_id else ""
    return f"{word(finding.difference)} {finding.symbol}{order}: {finding.ours} here, {finding.theirs} there"
