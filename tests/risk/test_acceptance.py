"""The acceptance list, as far as it is the account's: items 6, 7, 10 and 11. Every case is one by hand.

At its limit a rule lets pass, one step beyond it objects, and it is the only one that does. Each history
is told to the reference too, which must agree.
"""

import math
import pickle
from dataclasses import replace
from decimal import Decimal

import msgspec
import numpy as np
import pytest

from operators.drive import flat, unflat
from risk import account
from risk.commands import Command, obey
from risk.limits import Exits, Halts, Params, Venue
from schemas.events import Direction, Leg, Phase, Reason, Side, Status
from tests.reference.account import Action, Bar, Ledger, Slice
from tests.risk.test_account_agrees import frames, run, same
from tests.risk.test_account_examples import EXITS, MINUTE, QUIET, WANTED, ledger, params, reasons

LONG, SHORT = Direction.LONG, Direction.SHORT
BOTH = pytest.mark.parametrize("side", [LONG, SHORT])
SHORTABLE = {"allow_short": True}


def wanted(side: Direction, price: float = 100.0) -> Bar:
    """A candidate."""
    return Bar(price, price, price, price, 1e6, direction=side, confidence=0.9, reason=Reason.NONE)


def at(price: float, high: float | None = None, low: float | None = None) -> Bar:
    return Bar(price, high or price, low or price, price, 1e6)


def told(settings: Params, *moments: Slice) -> Ledger:
    same(settings, list(moments))
    return run(settings, list(moments))


def slices(*bars: dict[str, Bar], session: int = 1, first: int = 1) -> list[Slice]:
    return [Slice((first + k) * MINUTE, session, Phase.MIDDLE, one) for k, one in enumerate(bars)]


def closed(found: Ledger) -> list[Reason]:
    return [row[10] for row in found.trades]


# --- item 10: exits at 3 %, 1.5 %, 5 %, 60 bars, long and short -----------------------------------------------


def exits_as_set(**other: object) -> Params:
    """The exits' defaults, no costs."""
    exits = msgspec.structs.replace(Exits(end_of_day=False), **other)
    return msgspec.structs.replace(params(**SHORTABLE), exits=exits)


@BOTH
@pytest.mark.parametrize(
    ("moves", "reason"),
    [(0.03, Reason.TAKE_PROFIT), (0.0299, None), (-0.015, Reason.STOP_LOSS), (-0.0149, None)],
)
def test_item_10_target_and_stop_are_reached_at_three_and_at_one_and_a_half_percent(
    side: Direction, moves: float, reason: Reason | None
) -> None:
    there = round(100.0 * (1.0 + side * moves), 4)
    found = ledger(exits_as_set(), wanted(side), at(100.0), at(100.0, max(there, 100.0), min(there, 100.0)))
    assert closed(found) == ([reason] if reason else [])
    if reason:
        assert found.fills[1][4] == round(there * 10_000)
        assert found.trades[0][9] == round(10 * 100.0 * moves * 10_000)


@BOTH
@pytest.mark.parametrize(
    ("moves", "reason"),
    [(0.03, Reason.TAKE_PROFIT), (0.0299, None), (-0.015, Reason.STOP_LOSS), (-0.0149, None)],
)
def test_item_10_the_account_watches_the_same_prices_once_the_legs_have_expired(
    side: Direction, moves: float, reason: Reason | None
) -> None:
    there = at(round(100.0 * (1.0 + side * moves), 4))
    evening = [
        Slice(MINUTE, 1, Phase.MIDDLE, {"A": wanted(side)}),
        Slice(2 * MINUTE, 1, Phase.LAST, {"A": at(100.0)}),
    ]
    morning = slices({"A": there}, {"A": there}, session=2, first=1_000)
    assert closed(told(exits_as_set(), *evening, *morning)) == ([reason] if reason else [])


@BOTH
@pytest.mark.parametrize(("back", "reason"), [(0.05, [Reason.TRAILING_STOP]), (0.0499, [])])
def test_item_10_five_percent_given_back_from_the_best_price_is_enough(
    side: Direction, back: float, reason: list[Reason]
) -> None:
    best = 100.0 * (1.0 + 0.2 * side)
    there = round(best * (1.0 - side * back), 4)
    wide = exits_as_set(take_profit_pct=0.9, stop_loss_pct=0.9)
    found = ledger(wide, wanted(side), at(100.0), at(best), at(there), at(there))
    assert closed(found) == reason


@BOTH
def test_item_10_sixty_bars_after_the_fill_the_lot_goes_and_a_new_one_has_sixty_of_its_own(side: Direction) -> None:
    settings = exits_as_set(trailing_pct=1.0)
    bars = [wanted(side), *[at(100.0)] * 63, wanted(side), *[at(100.0)] * 63]
    found = ledger(settings, *bars)
    entries = [row[0] // MINUTE for row in found.fills if row[7] == Leg.ENTRY]
    sent = [row[0] // MINUTE for row in found.orders if row[5] == Leg.EXIT]
    assert entries == [2, 66]
    assert sent == [62, 126]
    assert closed(found) == [Reason.TIME_EXIT] * 2


@BOTH
def test_item_10_a_new_lot_has_a_best_price_of_its_own(side: Direction) -> None:
    """The first lot saw a price 20 % better; the second is not closed for falling short of that."""
    best, back = 100.0 * (1.0 + 0.2 * side), 100.0 * (1.0 + 0.1 * side)
    wide = exits_as_set(take_profit_pct=0.9, stop_loss_pct=0.9)
    first = [wanted(side), at(100.0), at(best), at(back), at(back)]
    found = ledger(wide, *first, wanted(side), at(100.0), at(100.0), at(100.0))
    assert closed(found) == [Reason.TRAILING_STOP]
    assert found.funds["positions"] == 1


# --- item 7: losses, the switch, the leave to enter ------------------------------------------------------------


def losing(loss: float, **halts: object) -> tuple[Params, list[Slice]]:
    """A lot that loses so much of the equity of 10 000 USD, beside an entry that no bar has filled."""
    wide = msgspec.structs.replace(EXITS, stop_loss_pct=0.9, take_profit_pct=0.9)
    settings = msgspec.structs.replace(
        params(max_notional_usd=4_000.0),
        exits=wide,
        halts=msgspec.structs.replace(Halts(slippage_guard_minutes=0, drawdown_pct=1.0), **halts),
    )
    low = round(100.0 - 10_000.0 * loss / 40, 4)
    bars = slices(
        {"A": WANTED}, {"A": QUIET, "B": WANTED}, {"A": at(low), "C": WANTED}, {"A": replace(at(low), direction=SHORT)}
    )
    return settings, bars


def test_item_7_a_loss_of_five_percent_blocks_entries_and_permits_exits() -> None:
    found = told(*_flat(losing(0.05)))
    assert reasons(found) == [Reason.NONE, Reason.NONE, Reason.DAILY_LOSS]
    assert [row[7] for row in found.orders if row[5] == Leg.EXIT] == [Reason.SIGNAL_FLIP]
    assert reasons(told(*_flat(losing(0.0499)))) == [Reason.NONE] * 3


def _flat(case: tuple[Params, list[Slice]]) -> tuple[object, ...]:
    return case[0], *case[1]


def test_item_7_a_loss_of_ten_percent_trips_the_switch_cancels_and_takes_the_leave_back() -> None:
    settings, bars = losing(0.10, needs_approval=True)
    bars[0] = replace(bars[0], bars={"Z": WANTED}, commands=[Command(1, "approve")])
    bars.insert(1, Slice(bars[0].ts + 1, 1, Phase.MIDDLE, {"A": WANTED}))
    found = told(settings, *bars)
    assert reasons(found) == [Reason.REVOKED, Reason.NONE, Reason.NONE, Reason.KILL_SWITCH]
    assert found.funds["killed"]
    assert [row[7] for row in found.orders if row[5] == Leg.EXIT] == [Reason.KILL_SWITCH]
    assert [row[1:] for row in found.updates if row[6] == Reason.KILL_SWITCH and row[3] == Leg.ENTRY] == [
        ("B", 2 * MINUTE, Leg.ENTRY, Status.CANCELED, 40, Reason.KILL_SWITCH)
    ]
    later = slices({"D": WANTED}, {"D": WANTED}, {"D": WANTED}, session=4, first=5_000)
    later[0].commands.append(Command(2, "resume"))
    later[1].commands.append(Command(3, "approve"))
    found = told(settings, *bars, *later)
    assert reasons(found)[4:] == [Reason.KILL_SWITCH, Reason.REVOKED, Reason.NONE]


def test_item_7_the_switch_survives_a_restart_and_a_weekend() -> None:
    settings, bars = losing(0.10)
    friday, monday = frames(bars + slices({"D": WANTED}, session=4, first=5_000), [4])
    state, _ = account.step(settings, account.start(settings), friday)
    again = unflat(account.start(settings), pickle.loads(pickle.dumps(flat(state))))
    _, found = account.step(settings, again, monday)
    assert found.verdicts.reason.tolist() == [Reason.KILL_SWITCH]
    assert found.funds[0].killed


# --- items 6 and 11: each rule at its limit and one step beyond ------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"max_sector_pct": 0.01}, Reason.NONE),
        ({"max_sector_pct": 0.0099}, Reason.SECTOR_EXPOSURE),
        ({"volatility_of": {"A": 0.01}}, Reason.NONE),
        ({"volatility_of": {"A": 0.0099}}, Reason.VOLATILITY),
        ({"volatility_of": {"a": 0.0099}}, Reason.VOLATILITY),
        ({"volatility_of": {"B": 0.0001}}, Reason.NONE),
        ({"max_volatility": 0.0001, "volatility_of": {"A": 0.02}}, Reason.NONE),
        ({"position_pct_of": {"A": 0.01}}, Reason.NONE),
        ({"position_pct_of": {"A": 0.0099}}, Reason.POSITION_CAPACITY),
        ({"position_pct_of": {"B": 0.0001}}, Reason.NONE),
        ({"weight_by_confidence": True, "max_notional_usd": 111.1112}, Reason.NONE),
        ({"weight_by_confidence": True, "max_notional_usd": 111.1111}, Reason.TOO_SMALL),
        ({"max_day_trades": 0, "day_trade_equity_usd": 10_000.0}, Reason.NONE),
        ({"max_day_trades": 0, "day_trade_equity_usd": 10_000.0001}, Reason.PATTERN_DAY_TRADER),
        ({"max_day_trades": 1, "day_trade_equity_usd": 10_000.0001}, Reason.NONE),
    ],
)
def test_item_11_a_limit_that_is_just_kept_and_just_not(rule: dict[str, object], reason: Reason) -> None:
    assert reasons(ledger(params(**rule), WANTED)) == [reason]


@BOTH
def test_item_11_a_sector_is_full_at_its_cap(side: Direction) -> None:
    """Ten shares of 100.00 are held, the cap leaves room for one more in the sector; others are free."""
    rule = {"max_sector_pct": 0.11, "sector_of": {"A": "x", "B": "x"}, "max_notional_usd": 1_000.0} | SHORTABLE
    bars = {"A": wanted(side)}, {"A": QUIET, "B": wanted(LONG), "C": wanted(LONG)}
    found = ledger(params(**rule), *bars)
    assert [(row[1], row[4], row[5]) for row in found.verdicts[1:]] == [("B", 0, 100.0), ("C", 0, 1_000.0)]
    found = ledger(params(**rule | {"max_sector_pct": 0.1099}), *bars)
    assert [row[4:7] for row in found.verdicts if row[1] == "B"] == [(Reason.SECTOR_EXPOSURE, 1_100.0, 1_099.0)]


def together(seed: int = 3, size: int = 40, echo: float = 0.9) -> list[dict[str, Bar]]:
    """Two symbols that move much alike; the first is wanted early, the second in the end."""
    rng = np.random.default_rng(seed)
    one = rng.normal(0.0, 0.01, size)
    other = echo * one + (1.0 - echo) * rng.normal(0.0, 0.01, size)
    prices = np.round(100.0 * np.exp(np.cumsum([one, other], axis=1)), 2)
    bars = [{"A": at(a), "B": at(b)} for a, b in prices.T.tolist()]
    bars[0]["A"] = wanted(LONG, bars[0]["A"].close)
    bars[-1]["B"] = wanted(LONG, bars[-1]["B"].close)
    return bars


def closes(bars: list[dict[str, Bar]], name: str) -> np.ndarray:
    return np.array([one[name].close for one in bars])


WIDE = {"exits": Exits(take_profit_pct=0.9, stop_loss_pct=0.9, trailing_pct=1.0, max_holding_bars=0, end_of_day=False)}


def alike(rule: dict[str, object], bars: list[dict[str, Bar]]) -> tuple[object, ...]:
    """The last verdict: reason, measured, limit, confidence, CVaR-95."""
    settings = msgspec.structs.replace(params(**{"max_correlation": 1.0, "min_returns": 30} | rule), **WIDE)
    return ledger(settings, *bars).verdicts[-1][4:9]


def test_item_11_two_names_may_move_as_alike_as_the_limit_and_no_more() -> None:
    bars = together()
    returns = [np.diff(closes(bars, name)) / closes(bars, name)[:-1] for name in "AB"]
    reason, measured, *_ = alike({"max_correlation": 0.95}, bars)
    assert reason == Reason.CORRELATION
    assert measured == pytest.approx(np.corrcoef(returns)[0, 1], rel=1e-12)
    assert alike({"max_correlation": measured}, bars)[0] == Reason.NONE
    assert alike({"max_correlation": math.nextafter(measured, 0.0)}, bars)[0] == Reason.CORRELATION
    assert alike({"max_correlation": 0.1, "min_returns": 39}, bars)[0] == Reason.CORRELATION
    assert alike({"max_correlation": 0.1, "min_returns": 40}, bars)[0] == Reason.NONE  # 39 are known
    assert alike({"max_correlation": 0.1, "returns_window": 38, "min_returns": 38}, bars)[0] == Reason.CORRELATION


def test_a_short_lot_counts_with_the_other_sign() -> None:
    bars = together()
    bars[0]["A"] = wanted(SHORT, bars[0]["A"].close)
    assert alike({"max_correlation": 0.1} | SHORTABLE, bars)[0] == Reason.NONE
    bars[-1]["B"] = wanted(SHORT, bars[-1]["B"].close)
    assert alike({"max_correlation": 0.95} | SHORTABLE, bars)[0] == Reason.CORRELATION


def test_the_mean_is_over_all_pairs() -> None:
    rng = np.random.default_rng(5)
    moves = 0.004 * rng.normal(size=40) + 0.003 * rng.normal(size=(5, 40))
    prices = np.round(100.0 * np.exp(np.cumsum(moves, axis=1)), 2)
    names = "ABCDE"
    bars = [dict(zip(names, map(at, column), strict=True)) for column in prices.T.tolist()]
    for name in names[:4]:
        bars[0][name] = wanted(LONG, bars[0][name].close)
    bars[-1]["E"] = wanted(LONG, bars[-1]["E"].close)
    returns = np.diff(prices) / prices[:, :-1]
    pairs = np.corrcoef(returns)[np.triu_indices(5, 1)]
    reason, measured, *_ = alike({"max_correlation": 0.2, "max_symbol_exposure_usd": 1_000.0}, bars)
    assert (reason, measured) == (Reason.CORRELATION, pytest.approx(pairs.mean(), rel=1e-9))
    for limit, then in ((0.99 * measured, Reason.CORRELATION), (1.01 * measured, Reason.NONE)):
        assert alike({"max_correlation": limit, "max_symbol_exposure_usd": 1_000.0}, bars)[0] == then


def test_item_11_the_part_in_the_shortfall_may_be_the_limit_and_no_more() -> None:
    """Both lots are worth what 1 000 USD buy; the worst two of 39 returns of both together count."""
    bars = together(echo=0.5)
    bars[0]["A"].volatility = 0.0  # so that nothing is held against the first
    decided = {"A": closes(bars, "A")[0], "B": closes(bars, "B")[-1]}
    value = {name: math.floor(1_000 / price) * closes(bars, name)[-1] for name, price in decided.items()}
    profit = {name: value[name] * np.diff(closes(bars, name)) / closes(bars, name)[:-1] for name in "AB"}
    whole = profit["A"] + profit["B"]
    expected = -profit["B"][whole <= np.percentile(whole, 5)].mean()
    settings = msgspec.structs.replace(params(), **WIDE)
    equity = ledger(settings, *bars).equity[-1][1] / 10_000
    reason, measured, *_ = alike({"max_cvar_pct": 0.0001}, bars)
    assert reason == Reason.CVAR
    assert measured == pytest.approx(expected / equity, rel=1e-9)
    assert alike({"max_cvar_pct": measured}, bars)[0] == Reason.NONE
    assert alike({"max_cvar_pct": math.nextafter(measured, 0.0)}, bars)[0] == Reason.CVAR


def test_few_returns_make_a_normal_shortfall() -> None:
    """2.0627 deviations of 1 % on 1 000 of 10 000 USD."""
    assert alike({"max_cvar_pct": 0.0001}, [{"A": WANTED}])[:2] == (Reason.CVAR, pytest.approx(0.0020627))
    measured = alike({"max_cvar_pct": 0.0001}, [{"A": WANTED}])[1]
    assert alike({"max_cvar_pct": measured}, [{"A": WANTED}])[0] == Reason.NONE
    assert alike({"max_cvar_pct": math.nextafter(measured, 0.0)}, [{"A": WANTED}])[0] == Reason.CVAR


def test_cvar_of_an_approved_entry_is_that_of_its_own_returns() -> None:
    bars = together()
    returns = np.diff(closes(bars, "B")) / closes(bars, "B")[:-1]
    tail = returns[returns <= np.percentile(returns, 5)]
    assert alike({}, bars)[4] == pytest.approx(-tail.mean(), rel=1e-12)
    assert alike({"min_returns": 100}, bars)[4] == 2.0627 * 0.01


@pytest.mark.parametrize(("bps", "reason"), [(15, Reason.NONE), (16, Reason.SLIPPAGE_GUARD)])
def test_item_11_a_fill_three_times_as_dear_as_expected_is_borne_and_no_dearer(bps: int, reason: Reason) -> None:
    settings = msgspec.structs.replace(params(), halts=Halts(), venue=Venue(slippage_bps=bps))
    found = ledger(settings, WANTED, {"A": QUIET, "B": WANTED})
    assert reasons(found) == [Reason.NONE, reason]
    if reason:
        assert found.verdicts[1][5:7] == (0.0016, 0.0015)


@pytest.mark.parametrize(("minutes", "reason"), [(29, Reason.SLIPPAGE_GUARD), (30, Reason.NONE)])
def test_item_11_the_guard_lasts_half_an_hour(minutes: int, reason: Reason) -> None:
    settings = msgspec.structs.replace(params(), halts=Halts(), venue=Venue(slippage_bps=16))
    bars = [{"A": WANTED}, {"A": QUIET}, *[{}] * (minutes - 1), {"B": WANTED}]
    assert reasons(ledger(settings, *bars)) == [Reason.NONE, reason]


def test_the_guard_is_silent_at_the_defaults_and_speaks_at_a_wide_spread() -> None:
    """5 bps and half of a spread of 0.24 on 100.00 are 17 bps; an exit is never held back."""
    settings = msgspec.structs.replace(params(), halts=Halts(), venue=Venue())
    quoted = replace(WANTED, half_spread=0.12)
    assert reasons(ledger(settings, WANTED, {"A": QUIET, "B": WANTED})) == [Reason.NONE, Reason.NONE]
    flip = replace(QUIET, direction=SHORT)
    found = ledger(settings, quoted, {"A": QUIET, "B": WANTED}, {"A": flip}, {"A": QUIET})
    assert reasons(found) == [Reason.NONE, Reason.SLIPPAGE_GUARD]
    assert closed(found) == [Reason.SIGNAL_FLIP]


def day_trader(sessions: int, equity_usd: float = 25_000.0) -> list[Reason]:
    """One day trade in each of so many sessions, then three entries at once in the next."""
    settings = params(10_000.0, day_trade_equity_usd=equity_usd)
    flip = replace(QUIET, direction=SHORT)
    moments = []
    for day in range(sessions):
        moments += slices({"A": WANTED}, {"A": flip}, {"A": QUIET}, session=day + 1, first=1_000 * day + 1)
    last = {"B": WANTED, "C": WANTED, "D": WANTED}
    moments += slices(last, session=sessions + 1, first=1_000 * sessions + 1)
    return reasons(told(settings, *moments))[sessions:]


def test_item_11_the_fourth_day_trade_in_five_sessions_is_refused() -> None:
    free, refused = Reason.NONE, Reason.PATTERN_DAY_TRADER
    assert day_trader(0) == [free] * 3
    assert day_trader(1) == [free, free, refused]
    assert day_trader(2) == [free, refused, refused]
    assert day_trader(3) == [refused] * 3
    assert day_trader(3, 10_000.0) == [free] * 3  # at the limit the rule does not hold
    assert day_trader(3, 10_000.0001) == [refused] * 3


def test_day_trades_are_forgotten_after_five_sessions() -> None:
    settings = params(10_000.0, day_trade_equity_usd=25_000.0)
    flip = replace(QUIET, direction=SHORT)
    moments = []
    for trip in range(3):
        moments += slices({"A": WANTED}, {"A": flip}, {"A": QUIET}, first=10 * trip + 1)
    for day, reason in ((2, Reason.PATTERN_DAY_TRADER), (5, Reason.PATTERN_DAY_TRADER), (6, Reason.NONE)):
        quiet = [Slice(1_000 * k * MINUTE, k, Phase.MIDDLE, {}) for k in range(2, day)]
        last = Slice(1_000 * day * MINUTE, day, Phase.MIDDLE, {"A": WANTED})
        assert reasons(told(settings, *moments, *quiet, last))[-1] == reason


def test_a_lot_held_overnight_is_no_day_trade() -> None:
    settings = params(10_000.0, day_trade_equity_usd=25_000.0, max_day_trades=1)
    flip = replace(QUIET, direction=SHORT)
    moments = slices({"A": WANTED}, {"A": QUIET, "B": WANTED})
    moments += slices({"A": flip}, {"A": QUIET}, {"B": WANTED}, session=2, first=1_000)
    found = told(settings, *moments)
    assert reasons(found) == [Reason.NONE, Reason.PATTERN_DAY_TRADER, Reason.NONE]


def counted(limit: int, *moments: Slice, **rules: object) -> tuple[Reason, float]:
    """The last verdict of an account that may not trade by day, and how many day trades it counted for it."""
    row = told(params(day_trade_equity_usd=25_000.0, max_day_trades=limit, **rules), *moments).verdicts[-1]
    return row[4], row[5]


def test_each_lot_of_today_may_become_a_day_trade_one_share_or_many() -> None:
    two = slices({"A": WANTED, "B": WANTED}, {"A": QUIET, "B": QUIET, "C": WANTED})
    for notional in (100.0, 1_000.0):
        assert counted(2, *two, max_notional_usd=notional) == (Reason.PATTERN_DAY_TRADER, 2.0)
        assert counted(3, *two, max_notional_usd=notional)[0] == Reason.NONE


def test_a_lot_of_yesterday_is_none() -> None:
    night = [*slices({"A": WANTED}, {"A": QUIET}), *slices({"A": QUIET, "B": WANTED}, session=2, first=1_000)]
    assert counted(1, *night)[0] == Reason.NONE
    today = slices({"A": WANTED}, {"A": QUIET}, {"A": QUIET, "B": WANTED})
    assert counted(1, *today) == (Reason.PATTERN_DAY_TRADER, 1.0)


def test_a_lot_that_was_closed_in_this_slice_counts_once() -> None:
    stopped = slices({"A": WANTED}, {"A": QUIET}, {"A": at(80.0), "B": WANTED})
    assert counted(1, *stopped) == (Reason.PATTERN_DAY_TRADER, 1.0)


def test_a_lot_of_which_only_a_part_came_counts_once() -> None:
    part, nothing = replace(QUIET, volume=2.0), replace(QUIET, volume=0.0)
    assert counted(1, *slices({"A": WANTED}, {"A": part}, {"A": nothing, "B": WANTED})) == (
        Reason.PATTERN_DAY_TRADER,
        1.0,
    )


def test_confidence_weighs_the_notional() -> None:
    found = ledger(params(weight_by_confidence=True), WANTED)
    assert [(row[3], row[4]) for row in found.orders[:1]] == [(9, 0)]
    assert found.verdicts[0][5:7] == (900.0, 900.0)


def test_the_score_of_an_entry_by_hand() -> None:
    """Volatility a tenth of its limit, CVaR 0.020627 of 0.05, nothing lost today."""
    (verdict,) = ledger(params(), WANTED).verdicts
    assert verdict[8] == 2.0627 * 0.01
    assert verdict[9] == pytest.approx(0.3 * 0.1 + 0.2 * 0.1 + 0.3 * 0.020627 / 0.05)
    assert verdict[10] == 10 * 10_0000  # ten shares, each down to its stop at 90.00
    (verdict,) = ledger(params(), replace(WANTED, q10=-0.02)).verdicts
    assert verdict[10] == 10 * 2_0000  # or, with a forecast, two percent
    (verdict,) = ledger(params(), replace(WANTED, volatility=math.nan)).verdicts
    assert verdict[4] == Reason.VOLATILITY
    assert verdict[9] == pytest.approx(0.3 + 0.2 * 0.1 + 0.3)
    assert verdict[10] == 0


# --- short lots -----------------------------------------------------------------------------------------------


def test_a_short_signal_needs_leave_to_be_more_than_no_position() -> None:
    assert reasons(ledger(params(), wanted(SHORT))) == [Reason.NO_POSITION]
    found = ledger(params(**SHORTABLE), wanted(SHORT), at(100.0))
    assert reasons(found) == [Reason.NONE]
    assert [(row[2], row[5], row[8]) for row in found.orders] == [
        (Side.SELL, Leg.ENTRY, 100_0000),
        (Side.BUY, Leg.TAKE_PROFIT, 90_0000),
        (Side.BUY, Leg.STOP_LOSS, 110_0000),
    ]
    assert (found.funds["cash"], found.funds["value"], found.funds["cost"]) == (11_000_0000, -1_000_0000, -1_000_0000)


@pytest.mark.parametrize(("cash", "reason"), [(2_000.0, Reason.NONE), (1_099.99, Reason.BUYING_POWER)])
def test_what_a_short_sale_brings_cannot_be_spent_and_as_much_again_is_tied_up(cash: float, reason: Reason) -> None:
    """Ten shares sold for 1 000.00: of 3 000.00 in cash 2 000.00 stand behind them."""
    found = ledger(params(cash, **SHORTABLE), wanted(SHORT), {"A": QUIET, "B": wanted(LONG)})
    assert reasons(found) == [Reason.NONE, reason]
    assert found.verdicts[1][5] == (1_000.0 if reason == Reason.NONE else 100.0)
    if reason:
        assert found.verdicts[1][6] == pytest.approx(cash - 1_000.0)


@BOTH
def test_the_opposite_signal_closes_and_the_next_one_may_open(side: Direction) -> None:
    other = Direction(-side)
    found = ledger(params(**SHORTABLE), wanted(side), wanted(other), wanted(other), wanted(other), at(100.0))
    assert closed(found) == [Reason.SIGNAL_FLIP]
    assert [row[2] for row in found.fills] == [side, -side, -side]
    assert found.funds["positions"] == 1


def test_a_short_pays_for_slippage_too() -> None:
    found = ledger(params(slippage_bps=10, **SHORTABLE), wanted(SHORT), at(100.0), at(110.0))
    assert [row[4] for row in found.fills] == [100_0000 - 1000, 110_0000 + 1100]


# --- corporate actions ----------------------------------------------------------------------------------------


def acted(settings: Params, bars: list[Bar], at_slice: int, action: Action) -> Ledger:
    """Minutes of one symbol, with an action at the start of one of them."""
    moments = slices(*({"A": bar} for bar in bars))
    moments[at_slice].actions.append(action)
    return told(settings, *moments)


@BOTH
def test_a_split_changes_shares_and_prices_and_no_money(side: Direction) -> None:
    """Ten shares of 100.00 become forty of 25.00, the legs follow to the cent; the target then pays."""
    target = 25.0 + 2.5 * side
    bars = [wanted(side), at(100.0), at(25.0), at(25.0, max(25.0, target), min(25.0, target))]
    found = acted(params(**SHORTABLE), bars, 2, Action("A", 4, 1))
    assert [row[1] for row in found.equity] == [10_000_0000] * 3 + [10_100_0000]
    assert [(row[3], row[4]) for row in found.fills] == [(10, 100_0000), (40, round(target * 10_000))]
    assert found.trades[0][5:10] == (10, 1_000_0000, round(40 * target * 10_000), 0, 100_0000)
    assert found.trades[0][11:] == pytest.approx((0.0, 0.1))


@BOTH
def test_a_fraction_of_a_share_is_settled_in_cash(side: Direction) -> None:
    """Seven shares, one for two, at a mark of 100.0001: three new ones, and half of one at 200.0002."""
    bars = [wanted(side), at(100.0), at(100.0001), at(200.0002)]
    settings = params(max_shares=7, **SHORTABLE)
    found = acted(settings, bars, 3, Action("A", 1, 2))
    before, after = found.equity[2], found.equity[3]
    assert before[1] == 10_000_0000 + side * 7
    assert after[2] - before[2] == side * 100_0001  # exactly half of 200.0002
    assert after[1] == before[1]
    assert found.funds["positions"] == 1


@pytest.mark.parametrize(("side", "settled"), [(LONG, 33_3333), (SHORT, -33_3334)])
def test_what_is_settled_is_rounded_against_us(side: Direction, settled: int) -> None:
    """Seven shares, three for two, at 100.0001: half a new share of 66.66673."""
    bars = [wanted(side), at(100.0), at(100.0001), at(66.6667)]
    found = acted(params(max_shares=7, **SHORTABLE), bars, 3, Action("A", 3, 2))
    assert found.equity[3][2] - found.equity[2][2] == settled


def test_a_lot_that_becomes_less_than_one_share_is_paid_out() -> None:
    found = acted(params(), [WANTED, QUIET, at(1_100.0), at(1_100.0)], 2, Action("A", 1, 11))
    (trade,) = found.trades
    assert trade[5:11] == (10, 1_000_0000, 1_000_0000, 0, 0, Reason.SPLIT)
    assert [row[3:] for row in found.updates[1:]] == [
        (Leg.TAKE_PROFIT, Status.CANCELED, 10, Reason.SPLIT),
        (Leg.STOP_LOSS, Status.CANCELED, 10, Reason.SPLIT),
    ]
    assert found.funds["cash"] == 10_000_0000


def test_an_entry_decided_before_a_split_is_cancelled() -> None:
    found = acted(params(), [WANTED, at(50.0)], 1, Action("A", 2, 1))
    assert found.updates == [(2 * MINUTE, "A", MINUTE, Leg.ENTRY, Status.CANCELED, 10, Reason.SPLIT)]
    assert not found.fills
    assert found.funds["pending"] == 0
    assert not acted(params(), [WANTED, at(100.0)], 1, Action("A", 1, 1, Decimal("0.5000"))).updates[0][6]


@BOTH
def test_a_dividend_is_received_and_by_a_short_lot_paid(side: Direction) -> None:
    """0.50 on each of forty new shares."""
    found = acted(params(**SHORTABLE), [wanted(side), at(100.0), at(25.0)], 2, Action("A", 4, 1, Decimal("0.5000")))
    assert found.funds["dividends"] == side * 20_0000
    assert found.equity[-1][1] == 10_000_0000 + side * 20_0000
    assert found.funds["realised"] == 0


def test_returns_know_of_a_split() -> None:
    """Without a memory of it the correlation would be that of two crashes."""
    bars = together()
    plain = alike({"max_correlation": 0.5}, bars)
    split = [{"A": at(one["A"].close), "B": one["B"]} for one in bars]
    moments = slices(*split)
    for k, one in enumerate(moments):
        if k >= 20:
            one.bars["A"] = at(one.bars["A"].close / 2.0)
    moments[0].bars["A"] = bars[0]["A"]
    moments[20].actions.append(Action("A", 2, 1))
    settings = msgspec.structs.replace(params(max_correlation=0.5, min_returns=30), **WIDE)
    assert told(settings, *moments).verdicts[-1][4:6] == (plain[0], pytest.approx(plain[1], rel=1e-9))


@pytest.mark.parametrize("wrong", [Action("A", 0, 1), Action("A", 1, 100_001), Action("A", 1, 1, Decimal(-1))])
def test_an_impossible_action_is_refused(wrong: Action) -> None:
    moments = slices({"A": QUIET})
    moments[0].actions.append(wrong)
    with pytest.raises(ValueError, match="want"):
        run(params(), moments)


# --- commands -------------------------------------------------------------------------------------------------


def test_kill_acts_before_the_next_slice() -> None:
    moments = slices({"A": WANTED}, {"A": QUIET, "B": WANTED}, {"A": QUIET, "B": QUIET, "C": WANTED})
    moments[1].commands.append(Command(7, "kill", issuer="somebody", reason="a drill"))
    found = told(params(), *moments)
    assert [(row[0] // MINUTE, row[1], row[7]) for row in found.orders if row[5] == Leg.EXIT] == [
        (2, "A", Reason.KILL_SWITCH)
    ]
    assert (2 * MINUTE, "B", 2 * MINUTE, Leg.ENTRY, Status.CANCELED, 10, Reason.KILL_SWITCH) in found.updates
    assert [row[0] // MINUTE for row in found.fills] == [2, 3]
    assert reasons(found)[-1] == Reason.KILL_SWITCH


def test_without_flattening_kill_leaves_the_lot_to_its_legs() -> None:
    moments = slices({"A": WANTED}, {"A": QUIET}, {"A": QUIET})
    moments[1].commands.append(Command(0, "kill"))
    halts = Halts(kill_flatten=False)
    found = told(msgspec.structs.replace(params(), halts=halts), *moments)
    assert (found.funds["positions"], found.funds["killed"]) == (1, True)
    assert len(found.orders) == 3


def test_a_command_that_comes_twice_acts_once() -> None:
    """The same number again, after a human has resumed: the switch stays off."""
    moments = slices({"A": QUIET}, {"A": QUIET}, {"A": WANTED})
    moments[0].commands += [Command(5, "kill"), Command(6, "resume"), Command(5, "kill"), Command(6, "kill")]
    assert reasons(told(params(), *moments)) == [Reason.NONE]


@pytest.mark.parametrize(
    ("until", "last"), [(None, Reason.NONE), (3 * MINUTE, Reason.NONE), (3 * MINUTE - 1, Reason.REVOKED)]
)
def test_entries_go_out_while_they_are_allowed(until: int | None, last: Reason) -> None:
    moments = slices({"A": WANTED}, {"A": QUIET, "B": WANTED}, {"C": WANTED})
    moments[0].commands.append(Command(1, "revoke"))
    moments[1].commands.append(Command(2, "approve", until))
    found = told(params(), *moments)
    assert reasons(found) == [Reason.NONE, Reason.REVOKED, last]
    assert found.updates[0] == (MINUTE, "A", MINUTE, Leg.ENTRY, Status.CANCELED, 10, Reason.REVOKED)


def test_resume_measures_losses_from_where_it_is() -> None:
    settings, bars = losing(0.10)
    bars[2].commands.append(Command(1, "resume"))
    bars += slices({"D": WANTED}, first=20)
    found = told(settings, *bars)
    assert not found.funds["killed"]
    assert reasons(found)[-1] == Reason.NONE


def test_a_command_before_the_first_slice_is_kept() -> None:
    settings = params()
    state, found = obey(settings, account.start(settings), Command(0, "kill"))
    assert (found.orders.size, found.slices.after, found.slices.upto) == (0, 0, 0)
    _, found = account.step(settings, state, *frames(slices({"A": WANTED}), []))
    assert found.verdicts.reason.tolist() == [Reason.KILL_SWITCH]


def test_a_command_leaves_the_state_it_was_given_alone() -> None:
    settings = params()
    state, _ = account.step(settings, account.start(settings), *frames(slices({"A": WANTED}, {"A": QUIET}), []))
    before = pickle.dumps(flat(state))
    after, found = obey(settings, state, Command(0, "kill"))
    assert pickle.dumps(flat(state)) == before
    assert found.orders.leg.tolist() == [Leg.EXIT]
    assert found.slices.after == found.slices.upto == 2 * MINUTE
    assert after.book.funds[0].killed
