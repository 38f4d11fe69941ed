"""The account's settings: what a user writes, and the whole numbers that kernels compare."""

import math
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from schemas.units import NS_PER_SECOND, TICKS_PER_USD

MAX_USD = 1_000_000_000  # bounds that keep every product below within int64
MAX_SHARES = 1_000_000

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Usd = Annotated[float, Meta(ge=0.0, le=MAX_USD)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a signal may become an order; how large. Shares of equity are fractions."""

    allow_short: bool = False
    min_confidence: Share = 0.50
    max_volatility: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.10
    max_position_pct: Share = 0.02
    max_notional_usd: Usd = 1_000.0
    max_shares: Annotated[int, Meta(ge=1, le=MAX_SHARES)] = 100
    max_total_exposure_usd: Usd = 50_000.0
    max_symbol_exposure_usd: Usd = 10_000.0
    max_orders_per_minute: Count = 5
    max_orders_per_symbol_per_day: Count = 3
    max_open_orders: Count = 20
    cooldown_seconds: Count = 900


class Exits(Struct, frozen=True, forbid_unknown_fields=True):
    """When a lot is closed. Fractions of the price, except `max_holding_bars` (0: never)."""

    take_profit_pct: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.03
    stop_loss_pct: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.015
    # At these defaults the trailing stop cannot fire: a lot leaves at +3 % or -1.5 % before it gives
    # back 5 %. It acts once the target is set wider or the legs have expired.
    trailing_pct: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05
    max_holding_bars: Count = 60
    end_of_day: bool = True


class Halts(Struct, frozen=True, forbid_unknown_fields=True):
    """When entries stop altogether. Fractions of equity."""

    daily_loss_pct: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05
    kill_loss_pct: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.10
    kill_flatten: bool = True
    drawdown_pct: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.10
    latch_reset: Literal["never", "next_session"] = "next_session"


class Venue(Struct, frozen=True, forbid_unknown_fields=True):
    """What a fill costs in the simulation."""

    slippage_bps: Annotated[int, Meta(ge=0, le=1_000)] = 5
    commission_usd: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.0
    max_volume_share: Share = 1.0  # of a bar's volume that our fills may take
    time_in_force: Literal["day", "gtc"] = "day"  # of bracket legs


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """All that the account is told."""

    name: str = "backtest"
    initial_cash_usd: Annotated[float, Meta(gt=0.0, le=MAX_USD)] = 100_000.0
    rules: Rules = Rules()
    exits: Exits = Exits()
    halts: Halts = Halts()
    venue: Venue = Venue()


class Limits(NamedTuple):
    """The same in ticks, whole basis points, shares and nanoseconds."""

    initial_cash: int
    allow_short: bool
    min_confidence: float
    max_volatility: float
    max_position_bps: int
    max_notional: int
    max_shares: int
    max_total_exposure: int
    max_symbol_exposure: int
    max_orders_per_minute: int
    max_orders_per_symbol: int
    max_open_orders: int
    cooldown_ns: int
    take_profit_bps: int
    stop_loss_bps: int
    trailing_bps: int
    max_holding_bars: int
    end_of_day: bool
    daily_loss_bps: int
    kill_loss_bps: int
    kill_flatten: bool
    drawdown_bps: int
    latch_resets: bool
    slippage_bps: int
    commission: int
    volume_bps: int
    legs_expire: bool


def limits(params: Params) -> Limits:
    """Convert; raises ValueError for a fraction that is not a whole number of basis points."""
    rules, exits, halts, venue = params.rules, params.exits, params.halts, params.venue
    return Limits(
        initial_cash=_ticks("cash.initial_cash_usd", params.initial_cash_usd),
        allow_short=rules.allow_short,
        min_confidence=rules.min_confidence,
        max_volatility=rules.max_volatility,
        max_position_bps=_bps("rules.max_position_pct", rules.max_position_pct),
        max_notional=_ticks("rules.max_notional_usd", rules.max_notional_usd),
        max_shares=rules.max_shares,
        max_total_exposure=_ticks("rules.max_total_exposure_usd", rules.max_total_exposure_usd),
        max_symbol_exposure=_ticks("rules.max_symbol_exposure_usd", rules.max_symbol_exposure_usd),
        max_orders_per_minute=rules.max_orders_per_minute,
        max_orders_per_symbol=rules.max_orders_per_symbol_per_day,
        max_open_orders=rules.max_open_orders,
        cooldown_ns=rules.cooldown_seconds * NS_PER_SECOND,
        take_profit_bps=_bps("exits.take_profit_pct", exits.take_profit_pct),
        stop_loss_bps=_bps("exits.stop_loss_pct", exits.stop_loss_pct),
        trailing_bps=_bps("exits.trailing_pct", exits.trailing_pct),
        max_holding_bars=exits.max_holding_bars,
        end_of_day=exits.end_of_day,
        daily_loss_bps=_bps("halts.daily_loss_pct", halts.daily_loss_pct),
        kill_loss_bps=_bps("halts.kill_loss_pct", halts.kill_loss_pct),
        kill_flatten=halts.kill_flatten,
        drawdown_bps=_bps("halts.drawdown_pct", halts.drawdown_pct),
        latch_resets=halts.latch_reset == "next_session",
        slippage_bps=venue.slippage_bps,
        commission=_ticks("venue.commission_usd", venue.commission_usd),
        volume_bps=_bps("venue.max_volume_share", venue.max_volume_share),
        legs_expire=venue.time_in_force == "day",
    )


def _bps(name: str, fraction: float) -> int:
    bps = round(fraction * 10_000)
    if not math.isclose(bps / 10_000, fraction, abs_tol=1e-12):
        raise ValueError(f"{name} = {fraction}: want a whole number of basis points (0.0001)")
    return bps


def _ticks(name: str, usd: float) -> int:
    ticks = round(usd * TICKS_PER_USD)
    if not math.isclose(ticks / TICKS_PER_USD, usd, rel_tol=1e-15, abs_tol=1e-9):
        raise ValueError(f"{name} = {usd}: want whole ticks of 0.0001 USD")
    return ticks
