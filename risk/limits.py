"""The account's settings: what a user writes, and the whole numbers that kernels compare."""

import math
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Struct, field

from schemas.frames import Floats, Longs, Names
from schemas.units import NS_PER_MINUTE, NS_PER_SECOND, TICKS_PER_USD

MAX_USD = 1_000_000_000  # bounds that keep every product below within int64
MAX_SHARES = 1_000_000

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Usd = Annotated[float, Meta(ge=0.0, le=MAX_USD)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Volatility = Annotated[float, Meta(gt=0.0, le=10.0)]

SECTORS = {
    **dict.fromkeys(("AAPL", "MSFT", "GOOG", "GOOGL", "NVDA", "META"), "technology"),
    **dict.fromkeys(("AMZN", "TSLA"), "consumer_discretionary"),
    **dict.fromkeys(("JPM", "BAC", "GS"), "financials"),
    **dict.fromkeys(("XOM", "CVX"), "energy"),
    **dict.fromkeys(("JNJ", "UNH", "PFE"), "healthcare"),
    **dict.fromkeys(("SPY", "QQQ"), "index"),
}


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a signal may become an order; how large. Shares of equity are fractions."""

    allow_short: bool = False  # a SHORT signal may open a lot, at twice its value in cash
    min_confidence: Share = 0.50
    max_volatility: Volatility = 0.10
    max_position_pct: Share = 0.02
    max_notional_usd: Usd = 1_000.0
    max_shares: Annotated[int, Meta(ge=1, le=MAX_SHARES)] = 100
    max_total_exposure_usd: Usd = 50_000.0
    max_symbol_exposure_usd: Usd = 10_000.0
    max_sector_pct: Share = 0.30
    max_correlation: Share = 0.95  # mean over all pairs of the candidate and what is held; 1: off
    max_cvar_pct: Share = 0.04  # the candidate's part in the portfolio's expected shortfall of one bar
    returns_window: Annotated[int, Meta(ge=2, le=1_000)] = 250  # slices that both look back on
    min_returns: Annotated[int, Meta(ge=2, le=1_000)] = 30  # with fewer: no correlation, a normal shortfall
    weight_by_confidence: bool = False  # the notional times the signal's confidence
    max_orders_per_minute: Count = 5
    max_orders_per_symbol_per_day: Count = 3
    max_open_orders: Count = 20
    cooldown_seconds: Count = 900
    day_trade_equity_usd: Usd = 25_000.0  # below it the pattern-day-trader rule holds; 0: never
    max_day_trades: Count = 3  # in five sessions, today's included
    # symbols with a max_volatility of their own
    volatility_of: dict[str, Volatility] = field(default_factory=lambda: {"NVDA": 0.08, "TSLA": 0.12})
    # symbols with a max_position_pct of their own
    position_pct_of: dict[str, Share] = field(default_factory=lambda: {"NVDA": 0.015, "TSLA": 0.01})
    # a symbol that is not listed here is a sector by itself
    sector_of: dict[str, str] = field(default_factory=lambda: dict(SECTORS))

    def __post_init__(self) -> None:
        if self.min_returns > self.returns_window:
            raise ValueError(f"min_returns = {self.min_returns} of {self.returns_window}: want at most returns_window")

    def __hash__(self) -> int:
        """Of all values; the tables among them have no hash of their own."""
        return hash(msgspec.json.encode(self, order="deterministic"))


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
    # A fill that is dearer than expected by more than this, spread included, stops entries for a while: three
    # times the five basis points that are expected.
    slippage_guard_pct: Share = 0.0015
    slippage_guard_minutes: Count = 30  # 0: off
    needs_approval: bool = False  # entries wait for a human's leave; the kill switch takes it back


class Venue(Struct, frozen=True, forbid_unknown_fields=True):
    """Where orders are filled, and what a fill costs in the simulation."""

    # "broker": fills come from the broker's reports in the account log. What follows then says only what a fill is
    # expected to cost.
    kind: Literal["simulated", "broker"] = "simulated"
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
    max_sector_bps: int
    max_correlation: float
    max_cvar: float
    returns_window: int
    min_returns: int
    weight_by_confidence: bool
    max_orders_per_minute: int
    max_orders_per_symbol: int
    max_open_orders: int
    cooldown_ns: int
    day_trade_equity: int
    max_day_trades: int
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
    guard_bps: int
    guard_ns: int
    needs_approval: bool
    at_broker: bool
    slippage_bps: int
    commission: int
    volume_bps: int
    legs_expire: bool


def limits(params: Params) -> Limits:
    """Convert; raises ValueError for a fraction that is not a whole number of basis points."""
    rules, exits, halts, venue = params.rules, params.exits, params.halts, params.venue
    sheet(rules, np.zeros(0, "S1"))
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
        max_sector_bps=_bps("rules.max_sector_pct", rules.max_sector_pct),
        max_correlation=rules.max_correlation,
        max_cvar=rules.max_cvar_pct,
        returns_window=rules.returns_window,
        min_returns=rules.min_returns,
        weight_by_confidence=rules.weight_by_confidence,
        max_orders_per_minute=rules.max_orders_per_minute,
        max_orders_per_symbol=rules.max_orders_per_symbol_per_day,
        max_open_orders=rules.max_open_orders,
        cooldown_ns=rules.cooldown_seconds * NS_PER_SECOND,
        day_trade_equity=_ticks("rules.day_trade_equity_usd", rules.day_trade_equity_usd),
        max_day_trades=rules.max_day_trades,
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
        guard_bps=_bps("halts.slippage_guard_pct", halts.slippage_guard_pct),
        guard_ns=halts.slippage_guard_minutes * NS_PER_MINUTE,
        needs_approval=halts.needs_approval,
        at_broker=venue.kind == "broker",
        slippage_bps=venue.slippage_bps,
        commission=_commission(venue),
        volume_bps=_bps("venue.max_volume_share", venue.max_volume_share),
        legs_expire=venue.time_in_force == "day",
    )


class Sheet(NamedTuple):
    """The limits that symbols have of their own, by symbol id."""

    max_volatility: Floats
    max_position_bps: Longs
    sector: Longs  # a number for each; below 0 for a symbol that is a sector by itself
    sectors: int  # that have a number


def sheet(rules: Rules, names: Names) -> Sheet:
    """Look the symbols up; raises ValueError for a fraction that is not a whole number of basis points."""
    usual = _bps("rules.max_position_pct", rules.max_position_pct)
    shares = {
        name.upper(): _bps(f"rules.position_pct_of.{name}", share) for name, share in rules.position_pct_of.items()
    }
    volatilities = {name.upper(): limit for name, limit in rules.volatility_of.items()}
    numbers = {sector: k for k, sector in enumerate(sorted(set(rules.sector_of.values())))}
    sectors = {name.upper(): numbers[sector] for name, sector in rules.sector_of.items()}
    texts = [name.decode() for name in names.tolist()]
    return Sheet(
        np.array([volatilities.get(name, rules.max_volatility) for name in texts], np.float64),
        np.array([shares.get(name, usual) for name in texts], np.int64),
        np.array([sectors.get(name, -1 - k) for k, name in enumerate(texts)], np.int64),
        len(numbers),
    )


def _commission(venue: Venue) -> int:
    """What each fill costs; a broker's reports speak of none."""
    ticks = _ticks("venue.commission_usd", venue.commission_usd)
    return 0 if venue.kind == "broker" else ticks


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
