"""Histories for the account: short sessions, few symbols, and much that seldom happens.

`history(seed)` draws one from a NumPy generator. `histories()` is the same for Hypothesis, which chooses
scene, size and seed and, when it shrinks, drops days, symbols and the last slices.

A random walk hardly ever ends exactly at a limit. Therefore prices are drawn to *magnets*: the legs of
brackets that may be open, and in the scene `exact` the marks at which an exit or a halt would just apply.
"""

import math
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from hypothesis import strategies as st

from risk.commands import Command
from risk.limits import Exits, Halts, Params, Rules, Venue
from schemas.events import Direction, Phase, Reason
from tests.reference.account import TICK, Action, Bar, Slice

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
FIRST_DAY = 19_723  # 2024-01-01
OPENING = 52_200 * SECOND  # 14:30 UTC
NAMES = ("AA", "B", "C", "DD", "E")  # in alphabetical order

NAN = float("nan")


@dataclass
class Walk:
    """One symbol's prices so far."""

    price: float  # the last close
    grid: float  # 0.01 or 0.0001
    swing: float  # deviation of one bar's return
    volume: float  # of a usual bar
    magnets: list[float]


def history(
    seed: int,
    scene: str | None = None,
    days: int | None = None,
    symbols: int | None = None,
    spacings: tuple[int, ...] = (60,),
) -> tuple[Params, list[Slice]]:
    """Settings and slices, the same for the same arguments; `spacings`: seconds between slices."""
    rng = np.random.default_rng([seed, 7])
    scene = scene or pick(rng, SCENES)
    days = days or int(rng.integers(1, 5))
    symbols = symbols or int(rng.integers(1, len(NAMES) + 1))
    settings = params(rng, scene)
    return settings, slices(rng, scene, settings, days, NAMES[:symbols], pick(rng, spacings))


@st.composite
def histories(draw, spacings: tuple[int, ...] = (60,)) -> tuple[Params, list[Slice]]:
    """Strategy of `(Params, list[Slice])`."""
    scene = draw(st.sampled_from(SCENES))
    days = draw(st.integers(1, 4))
    symbols = draw(st.integers(1, len(NAMES)))
    settings, whole = history(draw(st.integers(0, 2**32 - 1)), scene, days, symbols, spacings)
    length = draw(st.integers(1, len(whole)) | st.just(len(whole)) | st.just(len(whole)))
    return settings, whole[:length]


def pick(rng: np.random.Generator, values):
    """One of the values; repeat one to make it likelier."""
    return values[int(rng.integers(len(values)))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


# --- settings --------------------------------------------------------------------------------------------


def params(rng: np.random.Generator, scene: str) -> Params:
    """Settings under which a few slices suffice to reach the limits."""
    fields = usual(rng) | OVERRIDES[scene](rng)
    fields["min_returns"] = min(fields["min_returns"], fields["returns_window"])
    sections = {"rules": Rules, "exits": Exits, "halts": Halts, "venue": Venue}
    return Params(
        initial_cash_usd=fields["cash"],
        **{key: kind(**{f: fields[f] for f in kind.__struct_fields__}) for key, kind in sections.items()},
    )


def usual(rng: np.random.Generator) -> dict[str, object]:
    """Each setting near or far from where it matters; the cash, and the fields of all sections."""
    return {
        "cash": pick(rng, (1_000.0, 10_000.0, 100_000.0)),
        "allow_short": chance(rng, 0.5),
        "min_confidence": pick(rng, (0.5, 0.5, 0.55, 0.6)),
        "max_volatility": pick(rng, (0.02, 0.05, 0.1)),
        "max_position_pct": pick(rng, (0.05, 0.2, 0.5, 1.0, 1.0)),
        "max_notional_usd": pick(rng, (120.0, 500.0, 1_000.0, 5_000.0, 50_000.0)),
        "max_shares": pick(rng, (1, 3, 10, 100, 100, 1_000)),
        "max_total_exposure_usd": pick(rng, (1_000.0, 50_000.0, 1e6, 1e6)),
        "max_symbol_exposure_usd": pick(rng, (200.0, 10_000.0, 1e6, 1e6)),
        "max_sector_pct": pick(rng, (0.1, 0.5, 1.0, 1.0, 1.0)),
        "max_correlation": pick(rng, (0.5, 0.95, 1.0, 1.0)),
        "max_cvar_pct": pick(rng, (0.001, 0.01, 0.04, 1.0, 1.0, 1.0)),
        "returns_window": pick(rng, (2, 4, 8, 22)),
        "min_returns": pick(rng, (2, 3, 5, 30)),
        "weight_by_confidence": chance(rng, 0.3),
        "day_trade_equity_usd": pick(rng, (0.0, 0.0, 0.0, 0.0, 500.0, 1e6)),
        "max_day_trades": pick(rng, (0, 1, 1, 3)),
        "volatility_of": {"B": 0.03, "c": 0.2} if chance(rng, 0.3) else {},
        "position_pct_of": {"AA": 0.1, "DD": 0.3} if chance(rng, 0.3) else {},
        "sector_of": pick(rng, ({}, {"AA": "x", "B": "x", "C": "y", "e": "y"})),
        "max_orders_per_minute": pick(rng, (1, 2, 5, 100, 100)),
        "max_orders_per_symbol_per_day": pick(rng, (1, 2, 3, 100)),
        "max_open_orders": pick(rng, (1, 2, 20, 20)),
        "cooldown_seconds": pick(rng, (0, 0, 60, 61, 120, 900)),
        "take_profit_pct": pick(rng, (0.002, 0.005, 0.01, 0.03, 0.1)),
        "stop_loss_pct": pick(rng, (0.001, 0.005, 0.01, 0.015, 0.05)),
        "trailing_pct": pick(rng, (0.003, 0.01, 0.05, 0.05)),
        "max_holding_bars": pick(rng, (0, 0, 1, 2, 3, 5)),
        "end_of_day": chance(rng, 0.5),
        "daily_loss_pct": pick(rng, (0.0005, 0.005, 0.05, 0.5)),
        "kill_loss_pct": pick(rng, (0.005, 0.02, 0.1, 1.0, 1.0)),
        "kill_flatten": chance(rng, 0.7),
        "drawdown_pct": pick(rng, (0.002, 0.01, 0.1, 1.0, 1.0)),
        "latch_reset": pick(rng, ("never", "next_session", "next_session")),
        "slippage_guard_pct": pick(rng, (0.0005, 0.0015, 0.01)),
        "slippage_guard_minutes": pick(rng, (0, 0, 0, 1, 2, 30)),
        "needs_approval": chance(rng, 0.05),
        "kind": "simulated",
        "slippage_bps": pick(rng, (0, 1, 5, 5, 50)),
        "commission_usd": pick(rng, (0.0, 0.0, 0.35, 1.0)),
        "max_volume_share": pick(rng, (0.0001, 0.1, 0.333, 1.0, 1.0)),
        "time_in_force": pick(rng, ("day", "gtc")),
    }


# The rules beside the scene's own point: they do not object.
AT_EASE = {
    "max_sector_pct": 1.0,
    "max_correlation": 1.0,
    "max_cvar_pct": 1.0,
    "day_trade_equity_usd": 0.0,
    "slippage_guard_minutes": 0,
    "needs_approval": False,
    "weight_by_confidence": False,
    "position_pct_of": {},
}


def plain(rng: np.random.Generator) -> dict[str, object]:
    return {}


def thin(rng: np.random.Generator) -> dict[str, object]:
    """Orders larger than the bars' volume."""
    return AT_EASE | {
        "cash": 100_000.0,
        "max_notional_usd": 50_000.0,
        "max_shares": 100,
        "max_position_pct": 1.0,
        "max_volume_share": pick(rng, (0.5, 1.0)),
    }


def poor(rng: np.random.Generator) -> dict[str, object]:
    """All the cash in one order or two, and fills that cost more than was reserved."""
    return AT_EASE | {
        "cash": pick(rng, (60.0, 200.0, 333.3333, 1_000.0)),
        "max_position_pct": pick(rng, (0.4, 0.5, 1.0, 1.0)),
        "max_notional_usd": 50_000.0,
        "max_shares": 1_000,
        "slippage_bps": pick(rng, (50, 200, 1_000)),
    }


def wild(rng: np.random.Generator) -> dict[str, object]:
    """Large positions with wide legs, and halts that are soon reached."""
    return AT_EASE | {
        "cash": pick(rng, (10_000.0, 100_000.0)),
        "max_position_pct": 1.0,
        "max_notional_usd": pick(rng, (3_000.0, 20_000.0, 1e6)),
        "max_shares": 10_000,
        "max_total_exposure_usd": 1e6,
        "max_symbol_exposure_usd": 1e6,
        "max_orders_per_minute": 100,
        "max_open_orders": 20,
        "cooldown_seconds": 0,
        "take_profit_pct": 0.1,
        "stop_loss_pct": pick(rng, (0.02, 0.05, 0.2)),
        "trailing_pct": pick(rng, (0.01, 1.0, 1.0)),
        "max_holding_bars": pick(rng, (0, 0, 3)),
        "daily_loss_pct": pick(rng, (0.0005, 0.005, 0.02)),
        "kill_loss_pct": pick(rng, (0.003, 0.01, 0.03, 1.0)),
        "drawdown_pct": pick(rng, (0.002, 0.01, 0.03)),
        "max_volume_share": pick(rng, (0.333, 1.0, 1.0)),
    }


def even(rng: np.random.Generator) -> dict[str, object]:
    """Round prices, round limits, no costs: sums that end exactly at a limit."""
    return AT_EASE | {
        "cash": pick(rng, (100.0, 200.0, 500.0, 1_000.0)),
        "max_position_pct": pick(rng, (0.1, 0.25, 0.5, 1.0)),
        "max_notional_usd": pick(rng, (40.0, 50.0, 100.0, 1_000.0)),
        "max_total_exposure_usd": pick(rng, (100.0, 150.0, 1_000.0)),
        "max_symbol_exposure_usd": pick(rng, (40.0, 100.0, 1_000.0)),
        "cooldown_seconds": pick(rng, (0, 60)),
        "take_profit_pct": pick(rng, (0.1, 0.2, 0.5)),
        "stop_loss_pct": pick(rng, (0.1, 0.2, 0.5)),
        "trailing_pct": pick(rng, (0.1, 0.2, 0.5)),
        "daily_loss_pct": pick(rng, (0.01, 0.05, 0.1)),
        "kill_loss_pct": pick(rng, (0.05, 0.1, 0.2)),
        "drawdown_pct": pick(rng, (0.05, 0.1, 0.2)),
        "slippage_bps": 0,
        "commission_usd": 0.0,
        "max_volume_share": 1.0,
    }


def exact(rng: np.random.Generator) -> dict[str, object]:
    """Lots of a share or two, no costs, odd amounts: which way a division rounds decides."""
    cash = pick(rng, (111.1111, 333.3333, 777.7777))
    limits = (cash, 1_000.0, 1_000.0)
    return AT_EASE | {
        "cash": cash,
        "max_position_pct": pick(rng, (0.3333, 1.0, 1.0)),
        "max_notional_usd": pick(rng, limits),
        "max_shares": pick(rng, (1, 1, 2)),
        "max_total_exposure_usd": pick(rng, limits),
        "max_symbol_exposure_usd": pick(rng, limits),
        "max_orders_per_minute": 100,
        "max_orders_per_symbol_per_day": 100,
        "cooldown_seconds": 0,
        "take_profit_pct": pick(rng, (0.005, 0.0333, 0.1)),
        "stop_loss_pct": pick(rng, (0.005, 0.0333, 0.2)),
        "trailing_pct": pick(rng, (0.0333, 1.0)),
        "max_holding_bars": 0,
        "end_of_day": False,
        "daily_loss_pct": pick(rng, (0.005, 0.0111, 0.5)),
        "kill_loss_pct": pick(rng, (0.005, 0.0111, 1.0)),
        "drawdown_pct": pick(rng, (0.005, 0.0111, 1.0)),
        "slippage_bps": 0,
        "commission_usd": 0.0,
        "max_volume_share": 1.0,
        "time_in_force": "day",
    }


def penny(rng: np.random.Generator) -> dict[str, object]:
    """Legs less than a cent from the price."""
    return {
        "max_notional_usd": 1_000.0,
        "cooldown_seconds": 0,
        "take_profit_pct": pick(rng, (0.005, 0.01)),
        "stop_loss_pct": pick(rng, (0.001, 0.005, 0.01)),
        "commission_usd": 0.0,
    }


def crowd(rng: np.random.Generator) -> dict[str, object]:
    """Few orders at a time."""
    return {
        "max_notional_usd": pick(rng, (60.0, 1_000.0)),
        "max_orders_per_minute": pick(rng, (1, 2, 3)),
        "max_open_orders": pick(rng, (1, 2)),
        "cooldown_seconds": pick(rng, (0, 120)),
    }


def trail(rng: np.random.Generator) -> dict[str, object]:
    """Legs too wide to be reached."""
    return AT_EASE | {
        "take_profit_pct": 0.1,
        "stop_loss_pct": 0.05,
        "trailing_pct": pick(rng, (0.003, 0.01)),
        "max_holding_bars": pick(rng, (0, 2, 4)),
        "end_of_day": False,
        "kill_loss_pct": 1.0,
        "drawdown_pct": 1.0,
    }


def together(rng: np.random.Generator) -> dict[str, object]:
    """Few returns, which easily agree, and little shortfall to spare."""
    return {
        "cash": 100_000.0,
        "max_position_pct": pick(rng, (0.2, 0.5)),
        "max_notional_usd": 50_000.0,
        "max_shares": 1_000,
        "max_total_exposure_usd": 1e6,
        "max_symbol_exposure_usd": 1e6,
        "max_sector_pct": pick(rng, (0.2, 0.5, 1.0)),
        "sector_of": {"AA": "x", "B": "x", "c": "x"},
        "max_correlation": pick(rng, (0.0, 0.3, 0.8, 1.0)),
        "max_cvar_pct": pick(rng, (0.0005, 0.002, 0.01)),
        "returns_window": pick(rng, (3, 5, 8)),
        "min_returns": pick(rng, (2, 3)),
        "max_orders_per_minute": 100,
        "max_orders_per_symbol_per_day": 100,
        "cooldown_seconds": 0,
        "take_profit_pct": 0.1,
        "stop_loss_pct": 0.05,
        "max_holding_bars": 0,
        "end_of_day": False,
        "kill_loss_pct": 1.0,
        "drawdown_pct": 1.0,
        "daily_loss_pct": 0.5,
        "day_trade_equity_usd": 0.0,
        "slippage_guard_minutes": 0,
        "needs_approval": False,
    }


def outlive(rng: np.random.Generator) -> dict[str, object]:
    """Lots that are held after their legs have expired."""
    legs = {"take_profit_pct": 0.01, "stop_loss_pct": 0.01, "trailing_pct": 1.0}
    return trail(rng) | legs | {"time_in_force": "day"}


OVERRIDES = {
    scene.__name__: scene for scene in (plain, thin, poor, wild, even, exact, penny, crowd, trail, outlive, together)
}
SCENES = (*OVERRIDES, "thin", "wild", "even", "exact")  # these oftener


# --- slices ----------------------------------------------------------------------------------------------


def slices(
    rng: np.random.Generator, scene: str, settings: Params, days: int, names: tuple[str, ...], spacing: int
) -> list[Slice]:
    """Sessions of 1 to 6 slices, nights between them."""
    walks = {name: walk(rng, scene, settings) for name in names}
    eagerness = pick(rng, (0.3, 0.6, 0.9))  # share of bars that are candidates
    presence = pick(rng, (0.5, 0.7, 0.9) if scene == "wild" else (0.6, 0.9, 1.0))  # of bars that come
    quotes = 0.0 if scene in ("even", "exact") else pick(rng, (0.0, 0.5, 1.0))  # share of bars with a quote
    dust = 0.03 if chance(rng, 0.2) else 0.0  # share of closes near one tick
    eventful = pick(rng, (0.0, 0.03, 0.1))  # splits and dividends by symbol and slice
    told = 0  # commands so far
    talkative = pick(rng, (0.0, 0.0, 0.0, 0.0, 0.1, 0.3))  # commands by slice
    fresh = True
    history = []
    for day in range(days):
        session = FIRST_DAY + 3 * day + int(rng.integers(0, 2))
        length = pick(rng, (1, 2, 3, 4, 5, 6, 6))
        for k in range(length):
            left = length - 1 - k
            phase = (Phase.LAST, Phase.EVE, Phase.MIDDLE)[min(left, 2)]
            actions = [action(rng, name, walks[name]) for name in names if chance(rng, eventful)]
            bars = {}
            for name in names:
                if not chance(rng, presence):
                    continue
                bar = prices(rng, scene, walks[name], night=k == 0 and not fresh)
                if chance(rng, dust):
                    bar.low = bar.close = pick(rng, (0.00002, 0.00002, 0.0001, 0.0048))
                    if chance(rng, 0.3):
                        bar.open = bar.close
                if chance(rng, quotes):
                    bar.half_spread = half_spread(rng)
                opinion(rng, settings, bar, eagerness)
                if bar.reason == Reason.NONE and (bar.direction == Direction.LONG or settings.rules.allow_short):
                    attract(walks[name], scene, settings, bar.close, bar.direction)
                bars[name] = bar
            ts = session * DAY + OPENING + (k + 1) * spacing * SECOND
            commands = []
            while chance(rng, talkative):
                told += chance(rng, 0.8)  # else it is repeated, or another says the same number
                commands.append(command(rng, told, ts, spacing))
            history.append(Slice(ts, session, phase, bars, actions, commands))
            fresh = False
    return history


def action(rng: np.random.Generator, name: str, at: Walk) -> Action:
    """A split, a dividend or both; the prices that follow know of it."""
    new, old = pick(
        rng, ((1, 1), (1, 1), (2, 1), (4, 1), (3, 2), (1, 2), (1, 8), (7, 3), (1_000, 1_001), (1, 50), (1, 500))
    )
    dividend = pick(rng, ("0", "0.01", "0.2375", "3"))
    if new != old:
        at.price = min(500.0, max(0.5, snap(at.price * old / new, at.grid)))
        at.magnets = [round(magnet * old / new, 4) for magnet in at.magnets]
    return Action(name, new, old, Decimal(dividend).quantize(TICK))


def command(rng: np.random.Generator, number: int, ts: int, spacing: int) -> Command:
    """What a human says after a slice."""
    kind = pick(rng, ("kill", "resume", "resume", "revoke", "approve", "approve"))
    until = pick(rng, (None, None, ts, ts + spacing * SECOND, ts + 2 * spacing * SECOND))
    return Command(number, kind, until if kind == "approve" else None)


def walk(rng: np.random.Generator, scene: str, settings: Params) -> Walk:
    """Where a symbol starts, and how it moves against the distance of its legs."""
    grid = pick(rng, (0.01, 0.0001))
    price = float(np.exp(rng.uniform(np.log(0.5), np.log(500.0))))
    if scene == "penny":
        price = float(rng.uniform(0.5, 3.0))
    if scene in ("poor", "wild", "thin", "trail", "outlive"):
        price = float(np.exp(rng.uniform(np.log(5.0), np.log(200.0))))
    if scene == "even":
        price, grid = pick(rng, (10.0, 20.0, 25.0, 40.0, 50.0)), 1.0
    if scene == "exact":
        cash, grid = settings.initial_cash_usd, 0.0001
        cap = math.ceil(cash * settings.rules.max_position_pct * 10_000.0) / 10_000.0
        price = pick(rng, (cash, cash / 2.0, cash / 3.0, cash / 11.0, cap, cap / 2.0, cap - 0.0001))
    reach = min(settings.exits.take_profit_pct, settings.exits.stop_loss_pct)
    swing = max(reach * pick(rng, (0.2, 0.6, 1.5)), 0.0005)
    volume = pick(rng, (4.0, 20.0, 1_000.0)) if scene == "thin" else pick(rng, (50.0, 5_000.0, 1e6, 1e6))
    return Walk(max(0.5, snap(price, grid)), grid, swing, volume, [])


def snap(price: float, grid: float) -> float:
    """The nearest price of the grid, as the float that its decimals are read as."""
    return round(round(price / grid) * grid, 4)


def attract(at: Walk, scene: str, settings: Params, close: float, side: int) -> None:
    """Remember the legs that a bracket decided on this close would have, and where a halt would be near."""
    exits, halts = settings.exits, settings.halts
    down, up = close * (1.0 - side * exits.stop_loss_pct), close * (1.0 + side * exits.take_profit_pct)
    magnets = [math.floor(edge * 100.0 + 0.5) / 100.0 for edge in (down, up)]
    if scene == "exact":
        shares = (halts.daily_loss_pct, halts.kill_loss_pct, halts.drawdown_pct)
        edges = [close - side * settings.initial_cash_usd * share for share in shares]
        edges += [down, up, close * (1.0 - side * exits.trailing_pct)]
        magnets += [rounded(edge * 10_000.0) / 10_000.0 for edge in edges for rounded in (math.floor, math.ceil)]
    at.magnets = [*at.magnets, *magnets][-2 * len(magnets) :]


def prices(rng: np.random.Generator, scene: str, at: Walk, night: bool) -> Bar:
    """The next bar of a symbol: gaps, spikes through both legs, prices exactly at a leg."""
    jump = pick(rng, (0.0, 1.0, 4.0)) if night else pick(rng, (0.0, 0.0, 0.0, 0.3, 0.3, 3.0))
    spike = pick(rng, (0.2, 0.7, 0.7, 3.0))
    drift = 1.0
    if scene == "exact":
        jump, spike, drift = pick(rng, (0.0, 0.0, 0.0, 0.0, jump)), 0.0, pick(rng, (0.0, 0.0, 1.0))
    opening = at.price * (1.0 + jump * at.swing * rng.standard_normal())
    close = opening * (1.0 + drift * at.swing * rng.standard_normal())
    high = max(opening, close) * (1.0 + spike * at.swing * abs(rng.standard_normal()))
    low = min(opening, close) * (1.0 - spike * at.swing * abs(rng.standard_normal()))
    parts = [min(500.0, max(0.5, snap(price, at.grid))) for price in (opening, high, low, close)]
    pulls = (0.0, 0.0, 0.0, 0.5) if scene == "exact" else (0.12, 0.12, 0.12, 0.12)
    for i in range(4):
        if at.magnets and chance(rng, pulls[i]):
            aside = pick(rng, (0.0, 0.0, 0.0, 0.0001, -0.0001))
            parts[i] = max(0.01, round(pick(rng, at.magnets) + aside, 4))
    if scene == "exact":
        parts[1:3] = max(parts[0], parts[3]), min(parts[0], parts[3])
    opening, _, _, close = parts
    at.price = max(0.5, close)
    volume = 0.0 if chance(rng, 0.1) else snap(at.volume * rng.exponential(), 0.5)
    return Bar(opening, max(parts), min(parts), close, volume)


def half_spread(rng: np.random.Generator) -> float:
    """USD; only such that `× 10 000` rounds up to the same tick in floats and in decimals."""
    half = int(rng.integers(0, pick(rng, (600, 600, 600, 60_000)))) / 20_000
    product = half * 10_000.0
    return half if product * 2.0 == round(product * 2.0) else 0.00725


def opinion(rng: np.random.Generator, settings: Params, bar: Bar, eagerness: float) -> None:
    """What the signal side says: mostly buy; now and then at the very limits of the rules."""
    rules = settings.rules
    usual = (0.6, 0.6, 0.7, 0.8)
    bar.confidence = pick(rng, (*usual, *usual, rules.min_confidence, rules.min_confidence - 0.01))
    usual = (0.01,) * 12
    bar.volatility = pick(rng, (*usual, rules.max_volatility, rules.max_volatility + 0.001, NAN))
    bar.q10 = None if bar.volatility != bar.volatility or bar.confidence < 0.7 else -1.3 * bar.volatility
    candidate = chance(rng, eagerness)
    bar.reason = Reason.NONE if candidate else pick(rng, (Reason.NEUTRAL, Reason.BELOW_DECISION_GATE))
    bar.direction = Direction.SHORT if chance(rng, 0.45 if rules.allow_short else 0.12) else Direction.LONG
    if bar.reason == Reason.NEUTRAL:
        bar.direction = Direction.FLAT
