"""`utp kill --direct`: cancel and close at the broker, without the log, for the day when the log is the problem.

Reducing needs no approval and heeds no dry run; address and keys are looked at as before every order. A closing order's
id counts those of the day that have ended, so that two kills at once place one. `lost` stands where other ids have
their slice: the account hears of a sale that it did not send.
"""

import getpass
import logging
import os
import re
from typing import Any

from broker import safety, wire
from broker.alpaca import AlpacaBroker, Clock, Refused, SystemClock, Unanswered
from broker.port import BrokerPosition, OrderRequest, OrderState, Refusal, TradingStopped
from dataflows.commands import send
from infra.kafka import cluster
from infra.settings import Settings
from schemas.errors import UserError
from schemas.events import Leg, Reason, Side, word
from schemas.records import CommandKind
from schemas.units import NS_PER_SECOND

LOG = logging.getLogger("utp.kill")
SECONDS = 60.0  # until what is not done is said to be left
ROUND_SECONDS = 0.5
AFTER_SECONDS = 3.0  # a fill's, in which a position may still show what was sold
LOG_SECONDS = 5.0  # that the log may take to answer
DAY = 86_400 * NS_PER_SECOND


def run(settings: Settings, reason: str, clock: Clock | None = None, seconds: float = SECONDS) -> dict[str, Any]:
    """Kill, and say what was done and what is left."""
    if not reason.strip():
        raise UserError("kill: give the reason with --reason; it is kept")
    safety.revoke(settings.broker, issuer=getpass.getuser(), now=(clock or SystemClock()).now())
    there, keys = safety.of_environ(settings.broker, os.environ)
    broker = AlpacaBroker(there, keys, settings.broker, settings.guard, clock)
    try:
        done = Kill(broker, settings.run.account, settings.halts.kill_flatten).run(seconds)
    except TradingStopped as error:
        raise UserError(f"broker: {error}") from error
    finally:
        broker.close()
    return {**done, "log": _logged(settings.run.account, reason)}


def _logged(account: str, reason: str) -> str:
    try:
        offset = send(cluster(), account, CommandKind.KILL, reason, patience=LOG_SECONDS)
    except UserError as error:
        return f"not in the log of commands ({error}): say it again with utp kill once that answers"
    return f"in the log of commands at offset {offset}"


class Kill:
    """One kill; what it does may be done again at any moment."""

    def __init__(self, broker: AlpacaBroker, account: str, flatten: bool):
        self.broker, self.account, self.flatten = broker, account, flatten
        self.cancelled: set[str] = set()
        self.closed: set[str] = set()

    def run(self, seconds: float) -> dict[str, Any]:
        """Round by round, until nothing is left or time is over."""
        clock = self.broker.clock
        deadline = clock.monotonic() + int(seconds * NS_PER_SECOND)
        left = ["the broker did not answer"]
        while True:
            try:
                left = self._round()
            except (Refused, Unanswered) as error:
                LOG.warning("broker: %s; asked again", error)
                left = [f"the broker: {error}"]
            if not left or clock.monotonic() >= deadline:
                return {"cancelled": len(self.cancelled), "closed": sorted(self.closed), "left": left}
            clock.sleep(ROUND_SECONDS)

    def _round(self) -> list[str]:
        """What is left after it."""
        orders = [order for order in self._open() if not self._is_closing(order)]
        for order in orders:
            refusal = self.broker.cancel(order.broker_id)
            if refusal is None:
                self.cancelled.add(order.broker_id)
            elif refusal.reason not in (Reason.TOO_LATE, Reason.NOT_FOUND):
                LOG.warning("%s: not cancelled: %s", order.client_id, refusal.message)
        left = [order for order in self._open() if not self._is_closing(order)]
        held = self.broker.positions() if self.flatten else []
        for position in held:
            if not any(order.symbol == position.symbol for order in left):
                self._close(position)
        left = [order for order in self._open() if not self._is_closing(order)]
        said = [f"order {order.client_id} ({order.status})" for order in left]
        return said + [
            f"{one.qty} {one.symbol}" for one in (self.broker.positions() if self.flatten else []) if one.qty
        ]

    def _open(self) -> list[OrderState]:
        """Open orders, with legs that only their parents show; those that end with their parent come after it."""
        found = {order.broker_id: order for order in self.broker.open_orders()}
        since = (
            0 if self.broker.there.kind == "exchange" else self.broker.clock.now() - DAY
        )  # an exchange is told its time
        for parent in self.broker.orders_since(since):
            found.update((order.broker_id, order) for order in (parent, *parent.legs) if order.open)
        return list(found.values())

    def _is_closing(self, order: OrderState) -> bool:
        return re.match(rf"{re.escape(self.account)}\|[^|]+\|lost\d{{12}}\|exit", order.client_id) is not None

    def _close(self, position: BrokerPosition) -> None:
        """One market order for all shares, or the one that is on its way."""
        day = wire.stamp(self.broker.clock.now())[:10].replace("-", "")
        for number in range(1_000):
            order_id = f"{self.account}|{position.symbol}|lost{day}{number:04}|exit"
            found = self.broker.find(order_id)
            if found is None:
                side = Side.SELL if position.qty > 0 else Side.BUY
                answer = self.broker.submit(OrderRequest(order_id, position.symbol, side, abs(position.qty), Leg.EXIT))
                if isinstance(answer, Refusal):
                    LOG.warning("%s: not closed: %s (%s)", position.symbol, answer.message, word(answer.reason))
                else:
                    self.closed.add(position.symbol)
                return
            if found.open or self.broker.clock.now() - found.updated < AFTER_SECONDS * NS_PER_SECOND:
                return  # the position that we read may be from before its fill
