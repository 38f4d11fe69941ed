"""What the account did -> events for others: orders for the venue, verdicts, executions, exits, scored signals.

Only rows that carry news become Python objects. Ids are functions of account, symbol, slice and leg, so a record that
is made again after a crash is the same record.
"""

from collections import namedtuple
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
import numpy as np

from infra.gated_sink import Record, event_record
from risk.ledger import LedgerFrame, uncalibrated
from schemas.events import Direction, Kind, Leg, Reason, Regime, Side, Status, word
from schemas.frames import Table
from schemas.identity import correlation_id, envelope, iso, moment_key
from schemas.records import Execution, ExitSignal, Order, Risk, ScoredSignal
from schemas.units import to_usd

TOLD = ("risk.approved", "risk.rejected", "execution.completed", "execution.blocked", "exit.signals", "signals.scored")
ENTRY_LEGS = (Leg.TAKE_PROFIT, Leg.STOP_LOSS)
DIRECTIONS = {Direction.LONG: "long", Direction.SHORT: "short", Direction.FLAT: "neutral"}


class Writer:
    """Makes the records of one account."""

    def __init__(
        self, account: str, timeframe: str, alphas: list[str], limits: dict[str, float], *, at_broker: bool = False
    ):
        self._account, self._timeframe, self._alphas, self._limits = account, timeframe, alphas, limits
        self._at_broker = at_broker

    def told(self, frame: LedgerFrame) -> dict[str, list[Record]]:
        """By topic, what is written there for others than the broker's side."""
        made = (self.verdicts(frame, True), self.verdicts(frame, False), self.fills(frame), self.unfilled(frame),
                self.exits(frame), self.signals(frame))  # fmt: skip
        return {topic: list(records) for topic, records in zip(TOLD, made, strict=True)}

    def orders(self, frame: LedgerFrame) -> Iterator[Record]:
        """One record per cancel, then per order that was sent, the entry's with the prices of its bracket.

        An exit needs the shares that its lot's legs hold at a broker, so these go first.
        """
        names = frame.names
        for row in _rows(frame.updates[frame.updates["status"] == Status.CANCELED]):
            name, leg, ts = names[row.symbol].decode(), Leg(row.leg), row.ts
            one = self._id(name, row.order_ts, leg)
            key = f"{one}|cancel"
            event = Order(
                **self._envelope("account.orders", key, name, ts), account=self._account, order_id=one,
                action="cancel", side="", kind="", leg=word(leg), quantity=row.qty, reason=word(Reason(row.reason)),
                slice_ts=ts,
            )  # fmt: skip
            yield self._record(key, ts, name, event)
        orders = _rows(frame.orders)
        prices = {(row.symbol, row.ts, row.leg): row.price for row in orders if row.leg in ENTRY_LEGS}
        for row in orders:
            name, leg, ts = names[row.symbol].decode(), Leg(row.leg), row.ts
            one = self._id(name, ts, leg)
            parent = None if leg == Leg.ENTRY else self._id(name, row.entry_ts, Leg.ENTRY)
            price, kind = row.price, Kind(row.kind)
            bracket = [
                prices.get((row.symbol, row.ts, one_leg)) if leg == Leg.ENTRY else None for one_leg in ENTRY_LEGS
            ]
            event = Order(
                **self._envelope("account.orders", one, name, ts), account=self._account, order_id=one, action="submit",
                side=word(Side(row.side)), kind=word(kind), leg=word(leg), parent_id=parent, quantity=row.qty,
                limit=price if kind == Kind.LIMIT else None, stop=price if kind == Kind.STOP else None,
                take_profit=bracket[0], stop_loss=bracket[1], reason=word(Reason(row.reason)), slice_ts=ts,
                price=price if kind == Kind.MARKET else 0,
            )  # fmt: skip
            yield self._record(one, ts, name, event)

    def verdicts(self, frame: LedgerFrame, approved: bool) -> Iterator[Record]:
        """What the rules said of candidates."""
        topic = "risk.approved" if approved else "risk.rejected"
        own = frame.verdicts["approved"] == approved
        if not own.any():
            return
        for row, doubtful in zip(_rows(frame.verdicts[own]), uncalibrated(frame)[own], strict=True):
            name, ts = frame.names[row.symbol].decode(), row.ts
            key = moment_key(f"verdict:{self._account}", name, ts)
            event = Risk(
                **self._envelope(topic, key, name, ts), approved=approved, reason=word(Reason(row.reason)),
                risk_score=row.risk_score, max_position=self._limits["max_position_pct"],
                max_notional=self._limits["max_notional_usd"], min_confidence=self._limits["min_confidence"],
                cvar_95=row.cvar_95, max_loss=to_usd(row.max_loss), direction=DIRECTIONS[row.direction],
                uncalibrated=bool(doubtful),
            )  # fmt: skip
            yield self._record(key, ts, name, event)

    def fills(self, frame: LedgerFrame) -> Iterator[Record]:
        """Shares that changed hands."""
        for row in _rows(frame.fills):
            name, ts = frame.names[row.symbol].decode(), row.ts
            one = self._id(name, row.order_ts, Leg(row.leg))
            key = f"{one}|fill|{iso(ts) if frame.report < 0 else frame.report}"  # a slice may bring several parts
            yield self._execution("execution.completed", key, name, ts, "filled", row, row.price)

    def unfilled(self, frame: LedgerFrame) -> Iterator[Record]:
        """Orders that the venue refused or let expire."""
        for row in _rows(frame.updates[np.isin(frame.updates["status"], (Status.REJECTED, Status.EXPIRED))]):
            name, ts = frame.names[row.symbol].decode(), row.ts
            one = self._id(name, row.order_ts, Leg(row.leg))
            status = word(Status(row.status))
            key = f"{one}|{status}"
            yield self._execution("execution.blocked", key, name, ts, status, row, 0, word(Reason(row.reason)))

    def _execution(self, topic: str, key: str, name: str, ts: int, status: str, row: Any, price: int,
                   error: str | None = None) -> Record:  # fmt: skip
        side = word(Side(row.side)) if hasattr(row, "side") else ""
        event = Execution(
            **self._envelope(topic, key, name, ts), status=status, filled_qty=row.qty if price else 0,
            avg_price=to_usd(price), paper_trade=True, dry_run=not self._at_broker, side=side, error_message=error,
        )  # fmt: skip
        return self._record(key, ts, name, event)

    def exits(self, frame: LedgerFrame) -> Iterator[Record]:
        """Round trips that ended."""
        for row in _rows(frame.trades):
            name, ts = frame.names[row.symbol].decode(), row.exit_ts
            key = f"exit|{self._id(name, row.order_ts, Leg.ENTRY)}"
            event = ExitSignal(**self._envelope("exit.signals", key, name, ts), reason=word(Reason(row.reason)),
                               qty=row.qty, pnl_pct=row.pnl / row.cost)  # fmt: skip
            yield self._record(key, ts, name, event)

    def signals(self, frame: LedgerFrame) -> Iterator[Record]:
        """Signals that passed the publish gate, wherever they ended later."""
        s = frame.signals
        columns = (s.symbol, s.ts, s.direction, s.confidence, s.score, s.views, s.regime, s.reason)
        for symbol, ts, direction, confidence, score, views, regime, reason in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            name = frame.names[symbol].decode()
            key = moment_key("signal", name, ts)
            event = ScoredSignal(
                **self._envelope("signals.scored", key, name, ts), ensemble_direction=DIRECTIONS[direction],
                ensemble_confidence=confidence, signal_score=score, active_alphas=self._active(views),
                regime=word(Regime(regime)), reason=word(Reason(reason)),
            )  # fmt: skip
            yield self._record(key, ts, name, event)

    def _active(self, views: int) -> list[str]:
        """The alphas that have a view: one base-3 digit each."""
        return [name for k, name in enumerate(self._alphas) if views // 3**k % 3 != 1]

    def _id(self, name: str, ts: int, leg: Leg) -> str:
        stamp = iso(ts).replace("-", "").replace(":", "")
        return f"{self._account}|{name}|{stamp}|{word(leg)}"

    def _envelope(self, topic: str, key: str, name: str, ts: int) -> dict[str, Any]:
        return envelope(topic, key, name, ts, "account", correlation_id(name, ts, self._timeframe))

    def _record(self, key: str, ts: int, name: str, event: msgspec.Struct) -> Record:
        return event_record(key, ts, name.encode(), event)


def _rows(table: Table) -> list[Any]:
    """The rows as named tuples of plain numbers: an attribute of a numpy record takes twenty times as long."""
    return [_row(table.dtype.names)._make(values) for values in table.tolist()]


@cache
def _row(names: tuple[str, ...]) -> Any:
    return namedtuple("Row", names)
