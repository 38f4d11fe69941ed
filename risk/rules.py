"""Whether a candidate may become an order: the rules in their order; the first that objects decides."""

from typing import NamedTuple

from operators.kernel import kernel
from risk.exits import portion, portion_up
from risk.halts import day_loss, drawdown, fraction
from risk.limits import Limits
from risk.portfolio import Funds, Row, power
from schemas.events import Direction, Reason
from schemas.units import NS_PER_MINUTE, NS_PER_SECOND, TICKS_PER_USD, to_cents

cents = kernel(to_cents)


class Objection(NamedTuple):
    """A reason with what was measured and the limit it met; NONE: no objection."""

    reason: int
    measured: float
    limit: float


@kernel
def object_to(
    limits: Limits, funds: Funds, row: Row, ts: int, direction: int, confidence: float,
    volatility: float, price: int,
) -> Objection:  # fmt: skip
    """The first rule that objects to an entry at this price."""
    found = halted(limits, funds, price)
    if found.reason == Reason.NONE:
        found = unwanted(limits, direction, confidence, volatility)
    if found.reason == Reason.NONE:
        found = crowded(limits, funds, row, price)
    if found.reason == Reason.NONE:
        found = throttled(limits, funds, row, ts)
    if found.reason == Reason.NONE:
        found = misfit(limits, direction, price)
    return found


@kernel
def halted(limits: Limits, funds: Funds, price: int) -> Objection:
    """Halts: nothing may be entered at all."""
    if funds.killed:
        return Objection(Reason.KILL_SWITCH, 1.0, 0.0)
    if price < 1:
        return Objection(Reason.STATE_UNKNOWN, usd(price), 0.0)
    if funds.latched:
        return Objection(Reason.DRAWDOWN, drawdown(funds), limits.drawdown_bps / 10_000)
    loss = day_loss(funds)
    if loss >= portion_up(funds.day_equity, limits.daily_loss_bps):
        return Objection(Reason.DAILY_LOSS, fraction(loss, funds.day_equity), limits.daily_loss_bps / 10_000)
    return Objection(Reason.NONE, 0.0, 0.0)


@kernel
def unwanted(limits: Limits, direction: int, confidence: float, volatility: float) -> Objection:
    """The signal itself: direction, confidence, volatility. What is not known is refused."""
    if direction != Direction.LONG and not (direction == Direction.SHORT and limits.allow_short):
        return Objection(Reason.NO_POSITION, float(direction), 0.0)
    if confidence < limits.min_confidence:
        return Objection(Reason.LOW_CONFIDENCE, confidence, limits.min_confidence)
    if not volatility <= limits.max_volatility:
        return Objection(Reason.VOLATILITY, volatility, limits.max_volatility)
    return Objection(Reason.NONE, 0.0, 0.0)


@kernel
def crowded(limits: Limits, funds: Funds, row: Row, price: int) -> Objection:
    """Room for at least one share: in the symbol, under the caps, in the cash."""
    if row.shares > 0:
        return Objection(Reason.POSITION_HELD, float(row.shares), 0.0)
    if row.entry_shares > 0:
        return Objection(Reason.ORDER_PENDING, float(row.entry_shares), 0.0)
    capacity = portion(funds.equity, limits.max_position_bps)
    if price > capacity:
        return Objection(Reason.POSITION_CAPACITY, usd(price), usd(capacity))
    committed = funds.exposure + funds.reserved + price
    if committed > limits.max_total_exposure:
        return Objection(Reason.TOTAL_EXPOSURE, usd(committed), usd(limits.max_total_exposure))
    if price > limits.max_symbol_exposure:
        return Objection(Reason.SYMBOL_EXPOSURE, usd(price), usd(limits.max_symbol_exposure))
    if price > power(funds):
        return Objection(Reason.BUYING_POWER, usd(price), usd(power(funds)))
    return Objection(Reason.NONE, 0.0, 0.0)


@kernel
def throttled(limits: Limits, funds: Funds, row: Row, ts: int) -> Objection:
    """How often orders may go out. What was refused is not counted."""
    sent = funds.sent if ts - funds.sent_ts < NS_PER_MINUTE else 0
    if sent >= limits.max_orders_per_minute:
        return Objection(Reason.ORDERS_PER_MINUTE, float(sent), float(limits.max_orders_per_minute))
    today = row.orders if row.orders_session == funds.session else 0
    if today >= limits.max_orders_per_symbol:
        return Objection(Reason.ORDERS_PER_SYMBOL, float(today), float(limits.max_orders_per_symbol))
    if funds.pending >= limits.max_open_orders:
        return Objection(Reason.OPEN_ORDERS, float(funds.pending), float(limits.max_open_orders))
    pause = ts - row.last_ts
    if pause < limits.cooldown_ns:
        return Objection(Reason.COOLDOWN, pause / NS_PER_SECOND, limits.cooldown_ns / NS_PER_SECOND)
    return Objection(Reason.NONE, 0.0, 0.0)


@kernel
def misfit(limits: Limits, side: int, price: int) -> Objection:
    """An order that cannot be built: dearer than the notional, or its bracket collapses on the cents."""
    if price > limits.max_notional:
        return Objection(Reason.TOO_SMALL, usd(price), usd(limits.max_notional))
    stop, target = stop_for(limits, side, price), target_for(limits, side, price)
    if not (min(stop, target) > 0 and side * stop < side * price < side * target):
        return Objection(Reason.BRACKET_UNPLACEABLE, usd(stop), usd(price))
    return Objection(Reason.NONE, 0.0, 0.0)


@kernel
def target_for(limits: Limits, side: int, price: int) -> int:
    """Take-profit price for an entry decided at `price`, in whole cents."""
    return cents(price + side * portion(price, limits.take_profit_bps))


@kernel
def stop_for(limits: Limits, side: int, price: int) -> int:
    """Stop price for an entry decided at `price`, in whole cents."""
    return cents(price - side * portion(price, limits.stop_loss_bps))


@kernel
def size(limits: Limits, funds: Funds, price: int) -> int:
    """Whole shares: the least that any cap leaves room for."""
    room = min(
        limits.max_notional,
        portion(funds.equity, limits.max_position_bps),
        limits.max_total_exposure - funds.exposure - funds.reserved,
        limits.max_symbol_exposure,
        power(funds),
    )
    return min(room // price, limits.max_shares)


@kernel
def usd(amount: int) -> float:
    """Ticks as USD."""
    return amount / TICKS_PER_USD
