"""Writing events into the ledger's tables."""

from typing import NamedTuple

import numpy as np

from operators.kernel import dtype_of, kernel
from risk.ledger import EquityRow, FillRow, OrderRow, TradeRow, UpdateRow, VerdictRow
from risk.portfolio import Row
from schemas.events import Kind, Leg, Reason, Status
from schemas.frames import Longs, Table

EQUITY, VERDICTS, ORDERS, UPDATES, FILLS, TRADES = range(6)
PER_SYMBOL = 8  # no symbol writes more rows into one table in one slice ...
PER_CANDIDATE = 3  # ... nor one that has no lot and no order before it: a verdict, an entry with its legs


class Tape(NamedTuple):
    """The tables, and how many rows of each are written."""

    equity: Table
    verdicts: Table
    orders: Table
    updates: Table
    fills: Table
    trades: Table
    written: Longs  # by table


_ROWS = (EquityRow, VerdictRow, OrderRow, UpdateRow, FillRow, TradeRow)
_DTYPES = tuple(dtype_of(row) for row in _ROWS)


def blank(slices: int, events: int) -> Tape:
    """Tables for so many slices and events; what lies in rows that are not written means nothing."""
    sizes = (slices, *(events for _ in _ROWS[1:]))
    tables = [np.empty(n, dtype) for n, dtype in zip(sizes, _DTYPES, strict=True)]
    return Tape._make([*tables, np.zeros(len(_ROWS), np.int64)])


def longer(tape: Tape, symbols: int) -> Tape:
    """The same, twice as long or more, so that a slice that concerns so many symbols fits."""
    size = max(2 * tape.verdicts.size, int(tape.written[1:].max()) + PER_SYMBOL * (symbols + 1))
    tables = []
    for rows, written in zip(tape[1:-1], tape.written[1:], strict=True):
        more = np.empty(size, rows.dtype)
        more[:written] = rows[:written]
        tables.append(more)
    return Tape._make([tape.equity, *tables, tape.written])


@kernel
def has_room(tape: Tape, busy: int, candidates: int) -> bool:
    """Whether a slice that concerns so many symbols surely fits."""
    most = 0
    for k in range(VERDICTS, TRADES + 1):
        most = max(most, tape.written[k])
    return most + PER_SYMBOL * (busy + 1) + PER_CANDIDATE * candidates <= tape.verdicts.size


@kernel
def write_order(
    tape: Tape, ts: int, symbol: int, side: int, shares: int, kind: int, leg: int,
    entry_ts: int, reason: int, price: int,
) -> None:  # fmt: skip
    """An order was sent."""
    row = tape.orders[tape.written[ORDERS]]
    tape.written[ORDERS] += 1
    row.ts, row.symbol, row.side, row.qty = ts, symbol, side, shares
    row.kind, row.leg, row.entry_ts, row.reason, row.price = kind, leg, entry_ts, reason, price


@kernel
def write_update(
    tape: Tape, ts: int, symbol: int, order_ts: int, leg: int, status: int, shares: int, reason: int
) -> None:
    """An order's state changed."""
    row = tape.updates[tape.written[UPDATES]]
    tape.written[UPDATES] += 1
    row.ts, row.symbol, row.order_ts, row.leg = ts, symbol, order_ts, leg
    row.status, row.qty, row.reason = status, shares, reason


@kernel
def write_fill(
    tape: Tape, ts: int, symbol: int, side: int, shares: int, price: int, fee: int,
    order_ts: int, leg: int, reason: int, expected: int,
) -> None:  # fmt: skip
    """Shares changed hands."""
    row = tape.fills[tape.written[FILLS]]
    tape.written[FILLS] += 1
    row.ts, row.symbol, row.side, row.qty, row.price, row.fee = ts, symbol, side, shares, price, fee
    row.order_ts, row.leg, row.reason, row.expected = order_ts, leg, reason, expected


@kernel
def write_trade(tape: Tape, ts: int, symbol: int, lot: Row, reason: int) -> None:
    """A lot was closed."""
    row = tape.trades[tape.written[TRADES]]
    tape.written[TRADES] += 1
    row.symbol, row.order_ts, row.entry_ts, row.exit_ts = symbol, lot.order_ts, lot.entry_ts, ts
    row.side, row.qty, row.cost, row.proceeds, row.fees = lot.side, lot.bought, lot.paid, lot.proceeds, lot.fees
    row.pnl, row.reason = lot.side * (lot.proceeds - lot.paid) - lot.fees, reason
    row.mae, row.mfe = lot.side * (lot.worst / lot.basis - 1.0), lot.side * (lot.best / lot.basis - 1.0)


@kernel
def write_legs(tape: Tape, ts: int, symbol: int, lot: Row, shares: int, entry_ts: int, reason: Reason) -> None:
    """Both legs that protect a lot, or will protect it once it is filled, were sent."""
    write_order(tape, ts, symbol, -lot.side, shares, Kind.LIMIT, target_leg(lot), entry_ts, reason, lot.target)
    write_order(tape, ts, symbol, -lot.side, shares, Kind.STOP, stop_leg(lot), entry_ts, reason, lot.stop)


@kernel
def target_leg(lot: Row) -> Leg:
    """Which leg takes the lot's profit."""
    if lot.oco:
        return Leg.OCO_TAKE_PROFIT
    return Leg.TAKE_PROFIT


@kernel
def stop_leg(lot: Row) -> Leg:
    """Which leg stops the lot's loss."""
    if lot.oco:
        return Leg.OCO_STOP_LOSS
    return Leg.STOP_LOSS


@kernel
def end_target(tape: Tape, ts: int, symbol: int, lot: Row, status: Status, reason: Reason) -> None:
    """The take-profit leg is no longer open."""
    write_update(tape, ts, symbol, lot.legs_ts, target_leg(lot), status, lot.shares, reason)


@kernel
def end_stop(tape: Tape, ts: int, symbol: int, lot: Row, status: Status, reason: Reason) -> None:
    """The stop-loss leg is no longer open."""
    write_update(tape, ts, symbol, lot.legs_ts, stop_leg(lot), status, lot.shares, reason)
