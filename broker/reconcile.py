"""Book against broker: each difference classified, with what may be repaired and what must halt.

An order's difference is repaired by the report it lacks: the broker's word on its own orders is final.
Shares or money that no order explains are nobody's to repair: entries halt and a human is called.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum

from msgspec import Struct

from broker.port import BrokerPosition, OrderState
from schemas.events import Side


class Difference(IntEnum):
    """How book and broker differ."""

    MISSING_HERE = 0  # the broker holds shares that the book does not know
    MISSING_THERE = 1  # the book holds shares that the broker does not
    QUANTITY = 2
    PRICE = 3  # same shares, another cost
    ORDER_MISSING_HERE = 4  # our id, open there, not in the book
    ORDER_MISSING_THERE = 5  # open in the book, not open there
    ORDER_DIFFERS = 6  # filled further there, or at another price
    UNKNOWN_ORDER = 7  # open there with an id that is not ours
    ORPHAN_LEG = 8  # would sell what nobody holds


class Repair(IntEnum):
    """What may be done without a human."""

    NONE = 0
    REPORT = 1  # append the reports that the broker's state of the order implies
    ZERO = 2  # append that the position is gone
    CANCEL = 3


class Finding(Struct, frozen=True):
    """One difference; quantities in shares, costs in ticks."""

    difference: Difference
    symbol: str
    order_id: str  # of an order: its content id, or the broker's client id
    broker_id: str
    ours: int
    theirs: int
    repair: Repair
    halts: bool  # entries stop and an alert goes out


class OpenOrder(Struct, frozen=True):
    """An order that the book takes to be open."""

    order_id: str
    broker_id: str  # empty while nobody knows whether it was placed
    symbol: str
    side: Side
    filled_qty: int


def reconcile(
    account: str,
    held: Mapping[str, tuple[int, int]],  # symbol -> shares, cost
    orders: Iterable[OpenOrder],
    positions: Iterable[BrokerPosition],
    open_there: Iterable[OrderState],
    tolerance: int = 100,  # ticks a share by which costs may differ: the broker's are rounded, and averaged its own way
) -> list[Finding]:
    """All differences, positions first, in order of symbol; only a lost position is both repaired and halting."""
    there = {position.symbol: position for position in positions if position.qty}
    flat = {order.broker_id: order for parent in open_there for order in (parent, *parent.legs) if order.open}
    ours = list(orders)
    changing = _differing(account, ours, flat)
    explained = {finding.symbol for finding in changing if finding.repair is Repair.REPORT}
    return [
        *_positions({s: lot for s, lot in held.items() if lot[0]}, there, explained, tolerance),
        *sorted(
            [*changing, *_orphans(flat, there, {order.broker_id for order in ours})],
            key=lambda f: (f.symbol, f.difference, f.order_id),
        ),
    ]


def _positions(
    held: Mapping[str, tuple[int, int]], there: Mapping[str, BrokerPosition], explained: set[str], tolerance: int
) -> list[Finding]:
    """Differences in what is held. Where an order lacks a report, that comes first, and the next round tells."""
    findings = []
    for symbol in sorted({*held, *there}):
        qty, cost = held.get(symbol, (0, 0))
        other = there.get(symbol, BrokerPosition(symbol, 0, 0, 0))
        halts = symbol not in explained
        if other.qty == qty:
            if abs(abs(other.cost) - cost) > tolerance * abs(qty):
                findings.append(Finding(Difference.PRICE, symbol, "", "", cost, other.cost, Repair.NONE, False))
        elif not qty:
            findings.append(Finding(Difference.MISSING_HERE, symbol, "", "", 0, other.qty, Repair.NONE, halts))
        elif not other.qty:
            repair = Repair.ZERO if halts else Repair.NONE
            findings.append(Finding(Difference.MISSING_THERE, symbol, "", "", qty, 0, repair, halts))
        else:
            findings.append(Finding(Difference.QUANTITY, symbol, "", "", qty, other.qty, Repair.NONE, halts))
    return findings


def _differing(account: str, ours: list[OpenOrder], flat: Mapping[str, OrderState]) -> list[Finding]:
    """Orders on one side only, or further on there."""
    findings = []
    by_id = {order.broker_id: order for order in ours if order.broker_id}
    doubtful = {order.order_id: order for order in ours if not order.broker_id}
    for order in ours:
        other = flat.get(order.broker_id)
        if other is None and not (not order.broker_id and _with_id(flat, order.order_id)):
            findings.append(Finding(Difference.ORDER_MISSING_THERE, order.symbol, order.order_id, order.broker_id,
                                    order.filled_qty, 0, Repair.REPORT, False))  # fmt: skip
        elif other is not None and other.filled_qty != order.filled_qty:
            findings.append(Finding(Difference.ORDER_DIFFERS, order.symbol, order.order_id, order.broker_id,
                                    order.filled_qty, other.filled_qty, Repair.REPORT, False))  # fmt: skip
    for other in flat.values():
        if other.broker_id in by_id:
            continue
        mine = other.client_id.startswith(f"{account}|") or other.client_id in doubtful
        if mine:
            findings.append(Finding(Difference.ORDER_MISSING_HERE, other.symbol, other.client_id, other.broker_id,
                                    0, other.filled_qty, Repair.REPORT, False))  # fmt: skip
        elif other.side is Side.BUY or other.shape == "simple":
            findings.append(Finding(Difference.UNKNOWN_ORDER, other.symbol, other.client_id, other.broker_id,
                                    0, other.qty, Repair.NONE, True))  # fmt: skip
    return findings


def _orphans(flat: Mapping[str, OrderState], there: Mapping[str, BrokerPosition], known: set[str]) -> list[Finding]:
    """Live sell legs for shares that nobody holds; while its entry is open a leg waits, and is no orphan."""
    buying = {order.symbol for order in flat.values() if order.side is Side.BUY}
    return [
        Finding(Difference.ORPHAN_LEG, order.symbol, order.client_id, order.broker_id, 0, order.qty, Repair.CANCEL,
                False)
        for order in flat.values()
        if order.side is Side.SELL and (order.shape != "simple" or order.broker_id in known)
        and order.symbol not in there and order.symbol not in buying
    ]  # fmt: skip


def _with_id(flat: Mapping[str, OrderState], client_id: str) -> bool:
    return any(order.client_id == client_id for order in flat.values())
