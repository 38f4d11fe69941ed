"""What the account did -> events for others: orders for the venue, verdicts, executions, exits, scored signals.

Only rows that carry news become Python objects. Ids are functions of account, symbol, slice and leg, so a record that
is made again after a crash is the same record.
"""

import math
from collections import namedtuple
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
import numpy as np

from infra.gated_sink import Record, event_record
from risk.ledger import LedgerFrame, SignalColumns, uncalibrated
from schemas.events import Direction, Kind, Leg, Reason, Regime, Side, Status, word
from schemas.frames import Table
from schemas.identity import correlation_id, envelope, iso, moment_key
from schemas.records import Execution, ExitSignal, Order, Risk, ScoredSignal
from schemas.units import to_usd

TOLD = ("risk.approved", "risk.rejected", "execution.completed", "execution.blocked", "exit.signals", "signals.scored")
FORECAST = "forecast"  # among the voters
FILTERS = range(Reason.OUTSIDE_MARKET_HOURS, Reason.LOG_GAP + 1)
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
        names, entries = frame.names, _entries(frame)
        for row in _rows(frame.updates[frame.updates["status"] == Status.CANCELED]):
            name, leg, ts = names[row.symbol].decode(), Leg(row.leg), row.ts
            one = self._id(name, row.order_ts, leg)
            key = f"{one}|cancel"
            event = Order(
                **self._envelope("account.orders", key, name, ts, begun=_begun(entries, row)), account=self._account,
                order_id=one, action="cancel", side="", kind="", leg=word(leg), quantity=row.qty,
                reason=word(Reason(row.reason)), slice_ts=ts,
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
                **self._envelope("account.orders", one, name, ts, begun=row.entry_ts), account=self._account,
                order_id=one, action="submit", side=word(Side(row.side)), kind=word(kind), leg=word(leg),
                parent_id=parent, quantity=row.qty, limit=price if kind == Kind.LIMIT else None,
                stop=price if kind == Kind.STOP else None, take_profit=bracket[0], stop_loss=bracket[1],
                reason=word(Reason(row.reason)), slice_ts=ts, price=price if kind == Kind.MARKET else 0,
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
        entries = _entries(frame)
        for row in _rows(frame.fills):
            name, ts = frame.names[row.symbol].decode(), row.ts
            one = self._id(name, row.order_ts, Leg(row.leg))
            key = f"{one}|fill|{iso(ts) if frame.report < 0 else frame.report}"  # a slice may bring several parts
            yield self._execution("execution.completed", key, name, ts, "filled", row, _begun(entries, row), row.price)

    def unfilled(self, frame: LedgerFrame) -> Iterator[Record]:
        """Orders that the venue refused or let expire."""
        entries = _entries(frame)
        for row in _rows(frame.updates[np.isin(frame.updates["status"], (Status.REJECTED, Status.EXPIRED))]):
            name, ts = frame.names[row.symbol].decode(), row.ts
            one = self._id(name, row.order_ts, Leg(row.leg))
            status = word(Status(row.status))
            key = f"{one}|{status}"
            begun, error = _begun(entries, row), word(Reason(row.reason))
            yield self._execution("execution.blocked", key, name, ts, status, row, begun, 0, error)

    def _execution(self, topic: str, key: str, name: str, ts: int, status: str, row: Any, begun: int, price: int,
                   error: str | None = None) -> Record:  # fmt: skip
        side = word(Side(row.side)) if hasattr(row, "side") else ""
        event = Execution(
            **self._envelope(topic, key, name, ts, begun=begun), status=status, filled_qty=row.qty if price else 0,
            avg_price=to_usd(price), paper_trade=True, dry_run=not self._at_broker, side=side, error_message=error,
        )  # fmt: skip
        return self._record(key, ts, name, event)

    def exits(self, frame: LedgerFrame) -> Iterator[Record]:
        """Round trips that ended."""
        for row in _rows(frame.trades):
            name, ts = frame.names[row.symbol].decode(), row.exit_ts
            key = f"exit|{self._id(name, row.order_ts, Leg.ENTRY)}"
            reason = word(Reason(row.reason))
            event = ExitSignal(**self._envelope("exit.signals", key, name, ts, begun=row.order_ts), reason=reason,
                               qty=row.qty, pnl_pct=row.pnl / row.cost)  # fmt: skip
            told = self._record(key, ts, name, event)
            yield told._replace(headers=(*told.headers, ("source", b"exit_monitor"), ("reason", reason.encode())))

    def signals(self, frame: LedgerFrame) -> Iterator[Record]:
        """Signals that passed the publish gate, wherever they ended later."""
        for row in _signals(frame.signals):
            name, ts = frame.names[row.symbol].decode(), row.ts
            key, votes = moment_key("signal", name, ts), self._votes(row.views)
            event = ScoredSignal(
                **self._envelope("signals.scored", key, name, ts, "signal_engine"),
                tft_direction=None if row.q50 is None else DIRECTIONS[votes[FORECAST]],
                tft_confidence=row.probability or 0.0, ensemble_direction=DIRECTIONS[row.direction],
                ensemble_confidence=row.confidence, signal_score=row.score,
                active_alphas=[one for one, vote in votes.items() if vote != Direction.FLAT],
                regime=word(Regime(row.regime)), price=row.price, q10=row.q10, q50=row.q50, q90=row.q90,
                volatility=row.volatility, probability=row.probability if row.is_calibrated else None,
                filters=[word(Reason(row.reason))] if row.reason in FILTERS else [], reason=word(Reason(row.reason)),
                model_version=row.version.decode() if row.version else None,
            )  # fmt: skip
            yield self._record(key, ts, name, event)

    def _votes(self, views: int) -> dict[str, Direction]:
        """Who votes which way: one base-3 digit each, 0 down, 1 none, 2 up."""
        return {name: Direction(views // 3**k % 3 - 1) for k, name in enumerate(self._alphas)}

    def _id(self, name: str, ts: int, leg: Leg) -> str:
        stamp = iso(ts).replace("-", "").replace(":", "")
        return f"{self._account}|{name}|{stamp}|{word(leg)}"

    def _envelope(
        self, topic: str, key: str, name: str, ts: int, source: str = "account", *, begun: int | None = None
    ) -> dict[str, Any]:
        """`begun`: the slice whose bar led to all this, where that is not this one."""
        since = ts if begun is None else begun
        return envelope(topic, key, name, ts, source, correlation_id(name, since, self._timeframe))

    def _record(self, key: str, ts: int, name: str, event: msgspec.Struct) -> Record:
        return event_record(key, ts, name.encode(), event)


def _entries(frame: LedgerFrame) -> dict[int, int]:
    """By symbol: the slice in which the entry was sent, of lots that are held or have ended here.

    Where one ends and another begins, what was done besides an entry was done to the first.
    """
    held = {int(symbol): int(frame.entered[symbol]) for symbol in np.flatnonzero(frame.entered)}
    return held | {row.symbol: row.order_ts for row in _rows(frame.trades)}


def _begun(entries: dict[int, int], row: Any) -> int:
    """The slice whose bar led to an order: the entry's of its lot; its own where there is no lot any more."""
    return int(row.order_ts) if row.leg == Leg.ENTRY else entries.get(row.symbol, row.order_ts)


def _signals(columns: SignalColumns) -> Iterator[Any]:
    """The rows as named tuples; what is not a number, or not told at all, is None."""
    told: dict[str, list[Any]] = {}
    for name in columns.__dataclass_fields__:
        values = getattr(columns, name).tolist() or [None] * columns.ts.size
        told[name] = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    return map(_row(tuple(told))._make, zip(*told.values(), strict=True))


def _rows(table: Table) -> list[Any]:
    """The rows as named tuples of plain numbers: an attribute of a numpy record takes twenty times as long."""
    return [_row(table.dtype.names)._make(values) for values in table.tolist()]


@cache
def _row(names: tuple[str, ...]) -> Any:
    return namedtuple("Row", names)
