import pytest

from broker.book import Book
from broker.port import ExecutionReport
from schemas.events import Leg, Side


def report(side, qty, price, filled, order="o", status="filled"):
    return ExecutionReport(f"{order}:{filled}", 0, order, order, "A", side, Leg.ENTRY, status, qty, qty * price, filled,
                           filled * price)  # fmt: skip


def test_a_report_counts_once():
    book = Book()
    assert book.apply(report(Side.BUY, 3, 100, 3, status="partially_filled"))
    assert book.apply(report(Side.BUY, 2, 110, 5))
    assert not book.apply(report(Side.BUY, 2, 110, 5))
    assert not book.apply(report(Side.BUY, 3, 100, 3))
    assert (book.cash, book.qty, book.cost) == (-520, {"A": 5}, {"A": 520})


def test_a_hole_in_the_fills_is_never_booked():
    book = Book.of([report(Side.BUY, 3, 100, 3)])
    with pytest.raises(ValueError, match="3 are booked"):
        book.apply(report(Side.BUY, 2, 100, 6))


def test_a_sale_takes_its_share_of_the_cost_and_the_last_one_all():
    book = Book.of([report(Side.BUY, 3, 100, 3), report(Side.SELL, 1, 130, 1, "s")])
    assert (book.cash, book.qty, book.cost) == (-170, {"A": 2}, {"A": 200})
    book.apply(report(Side.SELL, 2, 90, 3, "s"))
    assert (book.cash, book.qty, book.cost) == (10, {}, {})


def test_a_sale_beyond_what_is_held_opens_a_short_at_its_price():
    book = Book.of([report(Side.BUY, 2, 100, 2), report(Side.SELL, 5, 120, 5, "s")])
    assert (book.cash, book.qty, book.cost) == (400, {"A": -3}, {"A": 360})
    book.apply(report(Side.BUY, 3, 110, 3, "b"))
    assert (book.cash, book.qty) == (70, {})


def test_a_state_without_shares_is_kept():
    book = Book.of([report(Side.BUY, 0, 0, 0, status="new"), report(Side.BUY, 0, 0, 0, status="canceled")])
    assert (book.status, book.cash, book.qty) == ({"o": "canceled"}, 0, {})
