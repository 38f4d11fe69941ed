"""Whether a candidate may become an order: the rules in their order; the first that objects decides."""

import math
from typing import NamedTuple

from operators.kernel import kernel
from risk.exits import portion, portion_up
from risk.halts import day_loss, drawdown, fraction
from risk.limits import Limits, Sheet
from risk.portfolio import Book, Funds, Row, power
from risk.returns import NORMAL_TAIL, marginal_shortfall, mean_correlation
from risk.scratch import Scratch, Stock
from schemas.events import Direction, Reason
from schemas.units import NS_PER_MINUTE, NS_PER_SECOND, TICKS_PER_USD, to_cents

cents = kernel(to_cents)

WORST_CVAR = 0.05  # the score counts no more than that


class Candidate(NamedTuple):
    """What the signal side says of a row."""

    symbol: int
    direction: int
    confidence: float
    volatility: float
    price: int  # its close in ticks


class Objection(NamedTuple):
    """A reason with what was measured and the limit it met; NONE: no objection."""

    reason: int
    measured: float
    limit: float


@kernel
def take_stock(limits: Limits, sheet: Sheet, book: Book, stock: Stock) -> None:
    """Sum up what the rules ask of all names together, once for all verdicts of a slice.

    No verdict changes it but by its own order (`reserve`), so nobody looks at each name again: with thousands held
    that would be nearly all of a verdict. A symbol that is a sector by itself needs no sum.
    """
    funds = book.funds[0]
    stock.sectors[:] = 0
    for k in range(funds.busy):
        symbol = book.busy[k]
        if sheet.sector[symbol] >= 0:
            stock.sectors[sheet.sector[symbol]] += committed_to(book.rows[symbol])
    stock.opened[0] = 0
    if funds.equity < limits.day_trade_equity:
        stock.opened[0] = opened_today(book)


@kernel
def reserve(sheet: Sheet, stock: Stock, funds: Funds, symbol: int, amount: int) -> None:
    """An entry was sent: its cash is spoken for, in the account and in its sector."""
    funds.reserved += amount
    funds.pending += 1
    if sheet.sector[symbol] >= 0:
        stock.sectors[sheet.sector[symbol]] += amount


@kernel
def object_to(limits: Limits, sheet: Sheet, book: Book, room: Scratch, ts: int, one: Candidate) -> Objection:
    """The first rule that objects to an entry."""
    found = halted(limits, book.funds[0], ts, one.price)
    if found.reason == Reason.NONE:
        found = unwanted(limits, sheet, one)
    if found.reason == Reason.NONE:
        found = crowded(limits, sheet, book, room.stock, one)
    if found.reason == Reason.NONE:
        found = concentrated(limits, sheet, book, room, one)
    if found.reason == Reason.NONE:
        found = throttled(limits, book.funds[0], book.rows[one.symbol], ts)
    if found.reason == Reason.NONE:
        found = guarded(limits, book, room.stock, ts)
    if found.reason == Reason.NONE:
        found = misfit(limits, one)
    return found


@kernel
def halted(limits: Limits, funds: Funds, ts: int, price: int) -> Objection:
    """Halts: nothing may be entered at all."""
    if funds.killed:
        return Objection(Reason.KILL_SWITCH, 1.0, 0.0)
    if ts > funds.allowed_until:
        return Objection(Reason.REVOKED, 1.0, 0.0)
    if price < 1:
        return Objection(Reason.STATE_UNKNOWN, usd(price), 0.0)
    if funds.latched:
        return Objection(Reason.DRAWDOWN, drawdown(funds), limits.drawdown_bps / 10_000)
    loss = day_loss(funds)
    if loss >= portion_up(funds.day_equity, limits.daily_loss_bps):
        return Objection(Reason.DAILY_LOSS, fraction(loss, funds.day_equity), limits.daily_loss_bps / 10_000)
    return Objection(Reason.NONE, 0.0, 0.0)


@kernel
def unwanted(limits: Limits, sheet: Sheet, one: Candidate) -> Objection:
    """The signal itself: direction, confidence, volatility. What is not known is refused."""
    if one.direction != Direction.LONG and not (one.direction == Direction.SHORT and limits.allow_short):
        return Objection(Reason.NO_POSITION, float(one.direction), 0.0)
    if one.confidence < limits.min_confidence:
        return Objection(Reason.LOW_CONFIDENCE, one.confidence, limits.min_confidence)
    if not one.volatility <= sheet.max_volatility[one.symbol]:
        return Objection(Reason.VOLATILITY, one.volatility, sheet.max_volatility[one.symbol])
    return Objection(Reason.NONE, 0.0, 0.0)


@kernel
def crowded(limits: Limits, sheet: Sheet, book: Book, stock: Stock, one: Candidate) -> Objection:
    """Room for at least one share: in the symbol, under the caps, in the cash, in the sector."""
    funds, row, price = book.funds[0], book.rows[one.symbol], one.price
    if row.shares > 0:
        return Objection(Reason.POSITION_HELD, float(row.shares), 0.0)
    if row.entry_shares > 0:
        return Objection(Reason.ORDER_PENDING, float(row.entry_shares), 0.0)
    capacity = portion(funds.equity, sheet.max_position_bps[one.symbol])
    if price > capacity:
        return Objection(Reason.POSITION_CAPACITY, usd(price), usd(capacity))
    committed = funds.exposure + funds.reserved + price
    if committed > limits.max_total_exposure:
        return Objection(Reason.TOTAL_EXPOSURE, usd(committed), usd(limits.max_total_exposure))
    if price > limits.max_symbol_exposure:
        return Objection(Reason.SYMBOL_EXPOSURE, usd(price), usd(limits.max_symbol_exposure))
    if price > power(funds):
        return Objection(Reason.BUYING_POWER, usd(price), usd(power(funds)))
    committed, cap = in_sector(sheet, book, stock, one.symbol) + price, portion(funds.equity, limits.max_sector_bps)
    if committed > cap:
        return Objection(Reason.SECTOR_EXPOSURE, usd(committed), usd(cap))
    return Objection(Reason.NONE, 0.0, 0.0)


@kernel
def in_sector(sheet: Sheet, book: Book, stock: Stock, symbol: int) -> int:
    """Exposure and reserved cash in the symbol's sector."""
    if sheet.sector[symbol] >= 0:
        return int(stock.sectors[sheet.sector[symbol]])
    return committed_to(book.rows[symbol])


@kernel
def committed_to(row: Row) -> int:
    """Exposure and reserved cash of one symbol."""
    return row.mark * row.shares + row.entry_price * row.entry_shares


@kernel
def concentrated(limits: Limits, sheet: Sheet, book: Book, room: Scratch, one: Candidate) -> Objection:
    """How it moves with what is held: the mean correlation, and its part in the portfolio's shortfall."""
    if limits.max_correlation < 1.0:
        found = mean_correlation(
            book, room.returns, limits.min_returns, limits.max_correlation, one.symbol, one.direction
        )
        if found > limits.max_correlation:
            return Objection(Reason.CORRELATION, found, limits.max_correlation)
    value = one.price * max(size(limits, sheet, book, room.stock, one), 1)
    # no long lot loses more than all of it: most candidates need no further look
    most = max(1.0, NORMAL_TAIL * one.volatility) * value
    if one.direction != Direction.LONG or most > limits.max_cvar * book.funds[0].equity:
        found = marginal_shortfall(
            book, room.returns, limits.min_returns, one.symbol, one.direction, value, one.volatility
        )
        if found > limits.max_cvar:
            return Objection(Reason.CVAR, found, limits.max_cvar)
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
def guarded(limits: Limits, book: Book, stock: Stock, ts: int) -> Objection:
    """Pauses that our own fills have brought about."""
    funds = book.funds[0]
    if ts - funds.slipped_ts < limits.guard_ns:
        return Objection(Reason.SLIPPAGE_GUARD, funds.slipped, limits.guard_bps / 10_000)
    if funds.equity < limits.day_trade_equity:
        trades = day_trades(funds, stock)
        if trades >= limits.max_day_trades:
            return Objection(Reason.PATTERN_DAY_TRADER, float(trades), float(limits.max_day_trades))
    return Objection(Reason.NONE, 0.0, 0.0)


@kernel
def day_trades(funds: Funds, stock: Stock) -> int:
    """Day trades in five sessions, those included that what was entered today may still become."""
    trades = funds.day_trades + funds.day_trades_1 + funds.day_trades_2 + funds.day_trades_3 + funds.day_trades_4
    return int(trades + funds.pending + stock.opened[0])


@kernel
def opened_today(book: Book) -> int:
    """Lots that were opened in this session; one whose entry still comes counts among the pending entries."""
    funds, opened = book.funds[0], 0
    for k in range(funds.busy):
        row = book.rows[book.busy[k]]
        if row.shares > 0 and row.entry_shares == 0 and row.entry_session == funds.session:
            opened += 1
    return opened


@kernel
def misfit(limits: Limits, one: Candidate) -> Objection:
    """An order that cannot be built: dearer than the notional, or its bracket collapses on the cents."""
    side, price, most = one.direction, one.price, notional(limits, one.confidence)
    if price > most:
        return Objection(Reason.TOO_SMALL, usd(price), usd(most))
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
def notional(limits: Limits, confidence: float) -> int:
    """What one entry may cost."""
    if limits.weight_by_confidence:
        return portion(limits.max_notional, math.floor(confidence * 10_000.0))
    return limits.max_notional


@kernel
def size(limits: Limits, sheet: Sheet, book: Book, stock: Stock, one: Candidate) -> int:
    """Whole shares: the least that any cap leaves room for."""
    funds = book.funds[0]
    room = min(
        notional(limits, one.confidence),
        portion(funds.equity, sheet.max_position_bps[one.symbol]),
        limits.max_total_exposure - funds.exposure - funds.reserved,
        limits.max_symbol_exposure,
        power(funds),
        portion(funds.equity, limits.max_sector_bps) - in_sector(sheet, book, stock, one.symbol),
    )
    return int(min(room // one.price, limits.max_shares))


@kernel
def score(
    limits: Limits, sheet: Sheet, funds: Funds, symbol: int, confidence: float, volatility: float, cvar: float
) -> float:
    """How risky an entry is, 0 to 1; what is not known counts in full."""
    day = fraction(abs(day_loss(funds)), portion(funds.equity, limits.daily_loss_bps))
    wild = volatility / sheet.max_volatility[symbol]
    total = 0.3 * capped(wild) + 0.2 * (1.0 - confidence) + 0.3 * capped(cvar / WORST_CVAR) + 0.2 * capped(day)
    return capped(total)


@kernel
def capped(part: float) -> float:
    """At most 1; NaN is 1."""
    return part if part <= 1.0 else 1.0


@kernel
def usd(amount: int) -> float:
    """Ticks as USD."""
    return amount / TICKS_PER_USD
