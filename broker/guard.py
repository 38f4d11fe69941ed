"""A second line between orders and the broker: throttles, caps, slippage guard, circuit breaker, back-off.

The account applies the same limits first, from the log; this one counts what is really sent, so that a fault
up there cannot flood a broker. Everything is a function of values and of the time that is passed in.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from broker.port import ExecutionReport, OrderRequest, Refusal
from schemas.events import Reason, Side
from schemas.units import NS_PER_MINUTE, NS_PER_SECOND, TICKS_PER_USD, to_ticks

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]
Usd = Annotated[float, Meta(gt=0.0, le=1_000_000_000.0)]


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits on what is sent to a broker; a second line behind the account's own."""

    max_orders_per_minute: Count = 5  # entries
    max_orders_per_symbol_per_day: Count = 3
    max_open_orders: Count = 20  # entries, not their legs
    cooldown_seconds: Annotated[int, Meta(ge=0, le=86_400)] = 900
    max_notional_usd: Usd = 1_000.0  # of one entry
    max_shares: Count = 100
    max_total_exposure_usd: Usd = 50_000.0
    max_symbol_exposure_usd: Usd = 10_000.0
    slippage_bps: Annotated[float, Meta(gt=0.0, le=10_000.0)] = 5.0  # expected
    slippage_times: Annotated[float, Meta(ge=1.0, le=1_000.0)] = 3.0  # more than so many times as much: entries pause
    slippage_minutes: Count = 30  # for so long
    breaker_failures: Count = 5  # the broker is left alone after so many failures
    breaker_window_seconds: Seconds = 60.0  # within this time
    breaker_seconds: Seconds = 30.0  # until one call may probe


class State(NamedTuple):
    """What was sent in the last day, and until when fills were too dear; times in UTC ns."""

    sent: tuple[tuple[int, int, str], ...] = ()  # time, session, symbol
    paused_until: int = 0


class Exposure(NamedTuple):
    """What stands at risk, in ticks: positions at their marks and entries on their way."""

    total: int
    by_symbol: Mapping[str, int]
    open_entries: int


def objection(
    params: Params, state: State, order: OrderRequest, exposure: Exposure, now: int, session: int
) -> Refusal | None:
    """The first limit that an entry breaks; what reduces is never refused here."""
    if order.reduces:
        return None
    at_symbol = [ts for ts, _, symbol in state.sent if symbol == order.symbol]
    today = sum(1 for _, day, symbol in state.sent if symbol == order.symbol and day == session)
    minute = sum(1 for ts, _, _ in state.sent if now - ts < NS_PER_MINUTE)
    since = (now - max(at_symbol)) / NS_PER_SECOND if at_symbol else float("inf")
    value = order.price * order.qty
    total, held = exposure.total + value, exposure.by_symbol.get(order.symbol, 0) + value
    limits = (
        (order.price < 1, Reason.STATE_UNKNOWN, "the order has no price"),
        (now < state.paused_until, Reason.SLIPPAGE_GUARD,
         f"fills were dearer than {params.slippage_times:g} x {params.slippage_bps:g} bps"),
        (minute >= params.max_orders_per_minute, Reason.ORDERS_PER_MINUTE,
         f"{minute} entries in the last minute, limit {params.max_orders_per_minute}"),
        (today >= params.max_orders_per_symbol_per_day, Reason.ORDERS_PER_SYMBOL,
         f"{today} entries in {order.symbol} today, limit {params.max_orders_per_symbol_per_day}"),
        (exposure.open_entries >= params.max_open_orders, Reason.OPEN_ORDERS,
         f"{exposure.open_entries} open entries, limit {params.max_open_orders}"),
        (since < params.cooldown_seconds, Reason.COOLDOWN,
         f"{since:.0f} s since the last entry in {order.symbol}, limit {params.cooldown_seconds}"),
        (order.qty > params.max_shares, Reason.POSITION_CAPACITY, f"{order.qty} shares, limit {params.max_shares}"),
        (value > to_ticks(params.max_notional_usd), Reason.POSITION_CAPACITY,
         f"{value / TICKS_PER_USD:,.2f} USD, limit {params.max_notional_usd:,.2f}"),
        (total > to_ticks(params.max_total_exposure_usd), Reason.TOTAL_EXPOSURE,
         f"{total / TICKS_PER_USD:,.2f} USD at risk, limit {params.max_total_exposure_usd:,.2f}"),
        (held > to_ticks(params.max_symbol_exposure_usd), Reason.SYMBOL_EXPOSURE,
         f"{held / TICKS_PER_USD:,.2f} USD in {order.symbol}, limit {params.max_symbol_exposure_usd:,.2f}"),
    )  # fmt: skip
    for broken, reason, message in limits:
        if broken:
            return Refusal(order.id, reason, message)
    return None


def sent(state: State, order: OrderRequest, now: int, session: int) -> State:
    """Count an entry that is about to be sent; days before this session are forgotten once they are past a day."""
    if order.reduces:
        return state
    kept = tuple(row for row in state.sent if row[1] == session or now - row[0] < 86_400 * NS_PER_SECOND)
    return state._replace(sent=(*kept, (now, session, order.symbol)))


def filled(params: Params, state: State, report: ExecutionReport, expected: int, now: int) -> State:
    """Pause entries when a fill was much dearer than the price it was decided on, in ticks per share."""
    if not report.qty or expected < 1:
        return state
    dearer = report.cost - expected * report.qty if report.side is Side.BUY else expected * report.qty - report.cost
    bps = dearer * 10_000 / (expected * report.qty)
    if bps <= params.slippage_bps * params.slippage_times:
        return state
    return state._replace(paused_until=max(state.paused_until, now + params.slippage_minutes * NS_PER_MINUTE))


class Breaker(NamedTuple):
    """The circuit breaker; times are a monotonic clock's, in ns."""

    failures: tuple[int, ...] = ()
    opened: int = -1  # since when it is open; -1: closed
    probed: int = -1  # when the probe set out; -1: none is under way


def passes(params: Params, breaker: Breaker, now: int) -> tuple[bool, Breaker]:
    """Whether a call may go out. Of an open breaker one probe may, after its time; a lost one yields to the next."""
    if breaker.opened < 0:
        return True, breaker
    pause = int(params.breaker_seconds * NS_PER_SECOND)
    if now - max(breaker.opened, breaker.probed) < pause:
        return False, breaker
    return True, breaker._replace(probed=now)


def answered(breaker: Breaker) -> Breaker:
    """A call was answered, though it be a refusal. Closes an open breaker; a closed one keeps its count."""
    return Breaker() if breaker.opened >= 0 else breaker


def failed(params: Params, breaker: Breaker, now: int) -> Breaker:
    """A call was not answered: time-out, lost connection or the broker's own fault."""
    if breaker.opened >= 0:
        return Breaker((), now)
    window = int(params.breaker_window_seconds * NS_PER_SECOND)
    failures = (*(ts for ts in breaker.failures if now - ts < window), now)
    return Breaker((), now) if len(failures) >= params.breaker_failures else Breaker(failures)


def delay(attempt: int, base: float, cap: float, uniform: float) -> float:
    """Seconds before try `attempt` + 1, counted from 0, with full jitter: `uniform` is drawn from [0, 1)."""
    return uniform * min(cap, base * 2.0 ** min(attempt, 60))
