"""What a split or a dividend makes of prices and cash, against fractions."""

from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from operators.kernel import table
from risk.actions import MAX_RATIO, MAX_SHARES_HELD, MAX_TICKS, act, rescaled, rescaled_to_cents
from risk.limits import limits
from risk.portfolio import LIVE_LEGS, MAX_MONEY, NO_LEG, NO_LEGS, STOP, TARGET, TRIGGERED, Book, Funds, Row
from risk.tape import UPDATES, blank
from schemas.events import Direction, Leg, Reason, Status
from schemas.units import TICKS_PER_CENT
from tests.reference.account import Action
from tests.risk.test_acceptance import at, slices, told, wanted
from tests.risk.test_account_agrees import run
from tests.risk.test_account_examples import MINUTE, QUIET, params

RATIOS = st.integers(1, 12) | st.integers(1, MAX_RATIO)
PRICES = st.integers(0, 200) | st.integers(0, 10**11)


def nearest(price: Fraction, unit: int) -> int:
    """A half rounds up."""
    return floor(price / unit + Fraction(1, 2)) * unit


@given(PRICES, RATIOS, RATIOS)
@example(50, 1, 1)  # half a cent
@example(99, 2, 1)  # half a tick less
def test_prices_are_rescaled_to_the_nearest_tick_and_cent(price: int, new: int, old: int) -> None:
    exact = Fraction(price * old, new)
    assert rescaled(price, new, old) == nearest(exact, 1)
    assert rescaled_to_cents(price, new, old) == nearest(exact, TICKS_PER_CENT)


@pytest.mark.parametrize("side", [Direction.LONG, Direction.SHORT])
def test_dividends_add_up_and_a_short_lot_owes_them(side: Direction) -> None:
    moments = slices(*({"A": bar} for bar in (wanted(side), QUIET, QUIET, QUIET)))
    for moment in moments[2:]:
        moment.actions.append(Action("A", dividend=Decimal("0.25")))
    found = told(params(allow_short=True), *moments)
    assert found.funds["dividends"] == side * 10 * 2 * 2_500
    assert found.funds["cash"] == 10_000_0000 - side * 10 * 100_0000 + side * 10 * 2 * 2_500


@pytest.mark.parametrize(("price", "shares"), [(10.0, 100), (9.9, 101)])
def test_more_shares_than_can_be_counted_stop_the_account(price: float, shares: int) -> None:
    """A thousand USD's worth; each share becomes 100 000, and ten million are the most."""
    moments = slices({"A": wanted(Direction.LONG, price)}, {"A": at(price)}, {"A": at(price)})
    moments[2].actions.append(Action("A", MAX_RATIO, 1))
    if shares * MAX_RATIO <= MAX_SHARES_HELD:
        assert run(params(max_shares=1_000), moments).fills[0][3] == shares
    else:
        with pytest.raises(OverflowError):
            run(params(max_shares=1_000), moments)


def held(side: Direction, shares: int = 1, **numbers: int) -> Book:
    """An account that holds one lot."""
    book = Book(table(Funds, 1), table(Row, 1), np.zeros(1, np.int32), np.zeros((1, 8)), np.zeros((8, 1)))
    book.funds["busy"], book.rows["side"], book.rows["shares"] = 1, side, shares
    for name, number in numbers.items():
        (book.funds if name in (book.funds.dtype.names or ()) else book.rows)[name] = number
    return book


def after(book: Book, new: int = 1, old: int = 1, dividend: int = 0) -> Any:
    act(limits(params()), book, blank(0, 40), MINUTE, 0, new, old, dividend)
    return book.funds[0]


@pytest.mark.parametrize("side", [Direction.LONG, Direction.SHORT])
def test_cash_beyond_what_can_be_counted_is_told(side: Direction) -> None:
    for beyond in (0, 1):
        funds = after(held(side, cash=side * (MAX_MONEY - 10)), dividend=10 + beyond)
        assert (funds.cash, bool(funds.overflow)) == (side * (MAX_MONEY + beyond), bool(beyond))
    assert after(held(side, overflow=1)).overflow  # and is not forgotten


@pytest.mark.parametrize("name", ["mark", "best", "worst"])
def test_a_price_beyond_what_can_be_counted_is_told(name: str) -> None:
    for beyond in (0, 1):
        book = held(Direction.LONG, **{name: 2 * (MAX_TICKS + beyond)})
        assert bool(after(book, 2, 1).overflow) == bool(beyond)


def test_so_are_shares_and_nothing_that_was_told_is_forgotten() -> None:
    for beyond in (0, 1):
        assert bool(after(held(Direction.LONG, 2 * (MAX_SHARES_HELD + beyond)), 1, 2).overflow) == bool(beyond)
    assert after(held(Direction.LONG, overflow=1), 2, 1).overflow


@pytest.mark.parametrize(
    ("legs", "survivor", "ended"),
    [
        (LIVE_LEGS, NO_LEG, [(Leg.TAKE_PROFIT, Reason.SPLIT), (Leg.STOP_LOSS, Reason.SPLIT)]),
        (TRIGGERED, NO_LEG, [(Leg.STOP_LOSS, Reason.SPLIT)]),
        (NO_LEGS, TARGET, [(Leg.TAKE_PROFIT, Reason.SIBLING)]),
        (NO_LEGS, STOP, [(Leg.STOP_LOSS, Reason.SIBLING)]),
        (NO_LEGS, NO_LEG, []),
    ],
)
def test_of_a_lot_that_a_split_leaves_nothing_of_no_order_stays(
    legs: int, survivor: int, ended: list[tuple[Leg, Reason]]
) -> None:
    book, tape = held(Direction.LONG, legs=legs, survivor=survivor), blank(0, 40)
    act(limits(params()), book, tape, MINUTE, 0, 1, 2, 0)
    rows = tape.updates[: tape.written[UPDATES]]
    assert [(row["leg"], row["status"], row["reason"]) for row in rows] == [
        (leg, Status.CANCELED, reason) for leg, reason in ended
    ]
    row = book.rows[0]
    assert (row.shares, row.legs, row.survivor) == (0, NO_LEGS, NO_LEG)
