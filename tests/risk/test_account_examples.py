"""Corners of the account that histories seldom reach, each checked by hand and against the reference."""

from dataclasses import replace
from decimal import Decimal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.kernel import table
from risk import account
from risk.limits import Exits, Halts, Params, Rules, Venue
from risk.portfolio import Book, Funds, Row, attend, dismiss_idle
from schemas.events import Direction, Leg, Phase, Reason, Status
from schemas.units import MAX_PRICE_USD
from tests.reference.account import Action, Bar, Ledger, Slice
from tests.risk.test_account_agrees import frames, run, same

MINUTE = 60_000_000_000
QUIET = Bar(100.0, 100.0, 100.0, 100.0, 1e6)
WANTED = replace(QUIET, direction=Direction.LONG, confidence=0.9, reason=Reason.NONE)
RULES = {
    "max_position_pct": 1.0,
    "max_notional_usd": 1_000.0,
    "max_orders_per_minute": 100,
    "cooldown_seconds": 0,
    "max_sector_pct": 1.0,
    "max_cvar_pct": 1.0,
    "day_trade_equity_usd": 0.0,
}
EXITS = Exits(take_profit_pct=0.1, stop_loss_pct=0.1, trailing_pct=1.0, max_holding_bars=0, end_of_day=False)


def params(cash: float = 10_000.0, slippage_bps: int = 0, commission_usd: float = 0.0, **rules: object) -> Params:
    """10 shares of 100.00 USD at most; target 110.00, stop 90.00; no costs unless they are named."""
    venue = Venue(slippage_bps=slippage_bps, commission_usd=commission_usd)
    halts = Halts(drawdown_pct=1.0, kill_loss_pct=1.0, slippage_guard_minutes=0)
    return Params("x", cash, Rules(**RULES | rules), EXITS, halts, venue)


def ledger(settings: Params, *bars: Bar | dict[str, Bar]) -> Ledger:
    """A minute each; one bar is of the symbol A. Both accounts must agree on it."""
    told = [
        Slice((k + 1) * MINUTE, 1, Phase.MIDDLE, one if isinstance(one, dict) else {"A": one})
        for k, one in enumerate(bars)
    ]
    same(settings, told)
    return run(settings, told)


def reasons(found: Ledger) -> list[Reason]:
    return [row[4] for row in found.verdicts]


@pytest.mark.parametrize(("cash", "booked"), [(1_000.01, True), (1_000.0099, False)])
def test_the_commission_must_be_in_cash_too(cash: float, booked: bool) -> None:
    found = ledger(params(cash, commission_usd=0.01), WANTED, QUIET)
    assert len(found.fills) == booked
    assert found.updates[0][4:] == (
        (Status.FILLED, 10, Reason.NONE) if booked else (Status.REJECTED, 10, Reason.INSUFFICIENT_CASH)
    )
    assert found.funds["cash"] == (0 if booked else 1_000_0099)


def test_cash_for_one_of_two_goes_to_the_first_by_name() -> None:
    """Decided by confidence, filled by name: both fit when they are decided, with slippage only one does."""
    settings = params(2_000.0, slippage_bps=10)
    keen = replace(WANTED, confidence=0.95)
    for names in (("A", "B"), ("B", "A")):
        eager, other = names
        found = ledger(settings, {eager: keen, other: WANTED}, {"A": QUIET, "B": QUIET})
        assert reasons(found) == [Reason.NONE] * 2
        assert [row[1] for row in found.fills] == ["A"]
        assert [(row[1], row[4]) for row in found.updates] == [("A", Status.FILLED), ("B", Status.REJECTED)]


def test_cash_for_two_of_three_goes_by_name_whoever_came_first() -> None:
    settings = params(3_000.0, slippage_bps=10)
    empty = replace(QUIET, volume=0.0)
    one_by_one = [{"B": WANTED}, {"B": empty, "C": WANTED}, {"B": empty, "C": empty, "A": WANTED}]
    found = ledger(settings, *one_by_one, dict.fromkeys("ABC", QUIET))
    assert [row[1] for row in found.fills] == ["A", "B"]


@pytest.mark.parametrize(("lost", "reason"), [(50.0, Reason.DAILY_LOSS), (49.9999, Reason.NONE)])
def test_a_loss_of_exactly_the_limit_stops_entries(lost: float, reason: Reason) -> None:
    """5 % of 10 000 USD are 50 USD for each of 10 shares."""
    wide = msgspec.structs.replace(EXITS, stop_loss_pct=0.9, take_profit_pct=1.0)
    settings = Params("x", 10_000.0, params().rules, wide, Halts(0.05, 1.0, True, 1.0), Venue(slippage_bps=0))
    low = 100.0 - lost
    found = ledger(settings, WANTED, QUIET, {"A": replace(QUIET, low=low, close=low), "B": WANTED})
    assert reasons(found)[-1] == reason


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"max_symbol_exposure_usd": 100.0}, Reason.NONE),
        ({"max_symbol_exposure_usd": 99.9999}, Reason.SYMBOL_EXPOSURE),
        ({"max_total_exposure_usd": 100.0}, Reason.NONE),
        ({"max_total_exposure_usd": 99.9999}, Reason.TOTAL_EXPOSURE),
        ({"max_notional_usd": 100.0}, Reason.NONE),
        ({"max_notional_usd": 99.9999}, Reason.TOO_SMALL),
        ({"max_position_pct": 0.01}, Reason.NONE),
        ({"max_position_pct": 0.0099}, Reason.POSITION_CAPACITY),
        ({"cash": 100.0}, Reason.NONE),
        ({"cash": 99.9999}, Reason.POSITION_CAPACITY),
        ({"max_orders_per_minute": 0}, Reason.ORDERS_PER_MINUTE),
        ({"max_orders_per_symbol_per_day": 0}, Reason.ORDERS_PER_SYMBOL),
        ({"max_open_orders": 0}, Reason.OPEN_ORDERS),
        ({"min_confidence": 0.9}, Reason.NONE),
        ({"min_confidence": 0.91}, Reason.LOW_CONFIDENCE),
        ({"max_volatility": 0.01}, Reason.NONE),
        ({"max_volatility": 0.0099}, Reason.VOLATILITY),
    ],
)
def test_a_limit_that_is_just_kept_and_just_not(rule: dict[str, float], reason: Reason) -> None:
    found = ledger(params(**rule), WANTED, QUIET)
    assert reasons(found) == [reason]
    if reason == Reason.NONE:
        assert found.fills[0][3] == (10 if {"max_volatility", "min_confidence"} & set(rule) else 1)


@pytest.mark.parametrize("volume", [1.0, 2.0])
def test_a_target_with_room_for_one_share(volume: float) -> None:
    found = ledger(params(), WANTED, QUIET, Bar(105.0, 110.0, 105.0, 105.0, volume))
    assert [row[3] for row in found.fills] == [10, int(volume)]
    assert found.updates[-1][3:6] == (Leg.TAKE_PROFIT, Status.PARTIALLY_FILLED, int(volume))


def test_a_wide_quote_costs_half_of_it() -> None:
    """Up to the next tick, also where one part in ten thousand is more than that."""
    found = ledger(
        params(), replace(WANTED, half_spread=5.0), replace(QUIET, half_spread=4.0001), Bar(*[85.0] * 4, 1e6)
    )
    assert [row[4] for row in found.fills] == [105_0000, 85_0000 - 4_0001]


def test_a_stop_below_the_first_tick_is_still_a_stop() -> None:
    """An open of 0.00002 USD is 0 ticks: what is left is sold at one tick."""
    found = ledger(params(), WANTED, QUIET, Bar(0.00002, 50.0, 0.00002, 50.0, 1e6), QUIET)
    assert [(row[0], row[7], row[4]) for row in found.fills[1:]] == [(3 * MINUTE, Leg.STOP_LOSS, 1)]


def test_who_never_traded_need_not_rest() -> None:
    """However long the cooldown and however early the clock."""
    assert reasons(ledger(params(cooldown_seconds=1_000_000_000), WANTED)) == [Reason.NONE]


@given(st.permutations(range(6)), st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_busy_symbols_stand_in_order_of_their_names(order: list[int], ranks: list[int], leaving: set[int]) -> None:
    """Whoever comes first, and whatever stands behind the end of the list."""
    book = Book(table(Funds, 1), table(Row, 6), np.zeros(6, np.int32), np.zeros((6, 8)), np.zeros((8, 6)))
    rank = np.array(ranks, np.int32)
    for symbol in order:
        attend(book, rank, symbol)
    assert book.busy.tolist() == sorted(order, key=ranks.__getitem__)
    for symbol in set(order) - leaving:
        book.rows[symbol].entry_shares = 1
    dismiss_idle(book)
    stay = sorted(set(order) - leaving, key=ranks.__getitem__)
    assert book.busy[: book.funds[0].busy].tolist() == stay
    for symbol in sorted(leaving):
        attend(book, rank, symbol)
    assert book.busy.tolist() == sorted(order, key=ranks.__getitem__)


@pytest.mark.parametrize("symbols", [2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 150])
def test_many_candidates_are_taken_by_confidence_then_by_name(symbols: int) -> None:
    """Half of them find an order; those of equal confidence by name."""
    names = [f"S{k:03d}" for k in range(symbols)]
    bars = {name: replace(WANTED, confidence=0.6 + 0.01 * (7 * k % 11)) for k, name in enumerate(names)}
    found = ledger(
        params(1_000_000.0, max_open_orders=symbols // 2, max_orders_per_minute=1_000, max_total_exposure_usd=1e6), bars
    )
    wanted = sorted(names, key=lambda name: (-bars[name].confidence, name))[: symbols // 2]
    assert {row[1] for row in found.verdicts if row[3]} == set(wanted)


def acted(*actions: Action) -> list[Slice]:
    return [
        Slice(MINUTE, 1, Phase.MIDDLE, {"A": QUIET, "B": QUIET}),
        Slice(2 * MINUTE, 2, Phase.MIDDLE, {"A": QUIET, "B": QUIET}, list(actions)),
    ]


LEAST = Decimal("0.0001")  # USD, a tick
HIGHEST = Decimal(MAX_PRICE_USD)


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ([Action("A", 0, 1)], "a split of 0 or 1 shares: want 1 to 100000"),
        ([Action("A", 1, 0)], "a split of 0 or 1 shares"),
        ([Action("A", 3, -2)], "a split of -2 or 3 shares"),
        ([Action("A", 100_001, 1)], "a split of 1 or 100001 shares"),
        ([Action("A", 1, 100_001)], "a split of 1 or 100001 shares"),
        ([Action("A", 2, 1), Action("B", 0, 1)], "a split of 0 or 2 shares"),
        ([Action("A", dividend=-LEAST)], "a dividend of -1 or -1 ticks: want 0 to a share's price"),
        ([Action("A", dividend=HIGHEST + LEAST)], "a dividend of 100000000001 or 100000000001 ticks"),
        ([Action("A", dividend=LEAST), Action("B", dividend=-LEAST)], "a dividend of -1 or 1 ticks"),
        ([Action("A", dividend=LEAST), Action("B", dividend=HIGHEST + LEAST)], "a dividend of 1 or 100000000001 ticks"),
    ],
)
def test_what_no_company_ever_did_stops_the_account(actions: list[Action], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run(params(), acted(*actions))


@pytest.mark.parametrize(
    "action", [Action("A", 100_000, 1), Action("A", 1, 100_000), Action("A", 100_000, 100_000, HIGHEST)]
)
def test_the_largest_split_and_dividend_are_let_in(action: Action) -> None:
    same(params(), acted(action))


def test_without_a_model_the_loss_is_that_at_the_stop() -> None:
    """Then there is no column of forecasts at all, where one without a forecast has nothing in its rows."""
    (known,) = frames([Slice(MINUTE, 1, Phase.MIDDLE, {"A": WANTED})], [])
    without = replace(known, q10=np.zeros(0))
    for frame in (known, without):
        _, found = account.step(params(), account.start(params()), frame)
        assert found.verdicts["max_loss"].tolist() == [10 * 10 * 10_000]


@pytest.mark.parametrize(("opened", "booked"), [(101.0, True), (101.01, False)])
def test_what_a_short_lot_brought_buys_nothing(opened: float, booked: bool) -> None:
    """3 010 USD are there when the second entry is filled, and 2 000 stand behind the shares that were sold."""
    short, gap = replace(WANTED, direction=Direction.SHORT), replace(QUIET, open=opened, high=opened)
    told = ledger(params(2_010.0, allow_short=True), {"A": short}, {"A": QUIET, "B": WANTED}, {"A": QUIET, "B": gap})
    assert len(told.fills) == 1 + booked
    last = (Status.FILLED, 10, Reason.NONE) if booked else (Status.REJECTED, 10, Reason.INSUFFICIENT_CASH)
    assert next(row[4:] for row in told.updates if row[1] == "B") == last


@pytest.mark.parametrize(("volatility", "reason"), [(1.0, Reason.NONE), (1.5, Reason.CVAR)])
def test_a_name_that_may_lose_more_than_all_of_it_is_looked_at(volatility: float, reason: Reason) -> None:
    """Without a history its shortfall is the normal tail's: 2.06 times 1.5 of 1 000 USD are more than 2 500."""
    settings = params(max_cvar_pct=0.25, max_volatility=2.0)
    assert reasons(ledger(settings, replace(WANTED, volatility=volatility))) == [reason]


def test_a_short_target_at_nought_cannot_be_placed() -> None:
    exits = msgspec.structs.replace(EXITS, take_profit_pct=1.0)
    settings = msgspec.structs.replace(params(allow_short=True), exits=exits)
    assert reasons(ledger(settings, replace(WANTED, direction=Direction.SHORT))) == [Reason.BRACKET_UNPLACEABLE]


def test_the_notional_is_weighted_in_whole_basis_points_of_confidence() -> None:
    settings = params(10_000_000.0, weight_by_confidence=True, max_notional_usd=1_000_000.0, max_shares=100_000,
                      max_symbol_exposure_usd=2_000_000.0, max_total_exposure_usd=2_000_000.0)  # fmt: skip
    found = ledger(settings, replace(WANTED, confidence=0.90005))
    assert [row[3] for row in found.orders[:1]] == [9_000]
