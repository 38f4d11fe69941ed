"""What all verdicts of a slice ask of the whole book is summed up once; it is what a walk over all names would find."""

from collections import Counter
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from operators.kernel import table
from risk import account, rules
from risk.limits import Limits, Params, Sheet, limits
from risk.portfolio import Book, Funds, Row, attend
from risk.scratch import Stock
from schemas.events import Direction
from tests.plain import plain
from tests.reference.histories import history
from tests.risk.test_account_agrees import run
from tests.risk.test_actions import held

NAMES = 6
MONEY, SHARES = st.integers(1, 10**12), st.integers(0, 1_000)


def walked(sheet: Sheet, book: Book, symbol: int) -> int:
    """What is held and reserved in the symbol's sector, name by name."""
    busy = book.busy[: book.funds[0].busy].tolist()
    others = [k for k in busy if sheet.sector[k] == sheet.sector[symbol]]
    rows = [book.rows[k] for k in others]
    return sum(int(row.mark) * int(row.shares) + int(row.entry_price) * int(row.entry_shares) for row in rows)


def may_become_day_trades(book: Book) -> int:
    """The day trades that are counted, and all entries and lots of today."""
    funds, names = book.funds[0], ("day_trades", "day_trades_1", "day_trades_2", "day_trades_3", "day_trades_4")
    rows = [book.rows[k] for k in book.busy[: funds.busy].tolist()]
    lots = sum(row.shares > 0 and row.entry_shares == 0 and row.entry_session == funds.session for row in rows)
    return sum(int(funds[name]) for name in names) + sum(row.entry_shares > 0 for row in rows) + lots


def test_at_every_verdict_the_sums_are_those_of_a_walk() -> None:
    """On seeded histories, in plain Python: corporate actions, fills, exits, halts and other verdicts came before."""
    asked: Counter[str] = Counter()
    in_sector, take_stock = plain(rules.in_sector), plain(rules.take_stock)
    books: list[Book] = []

    def look(limit: Limits, sheet: Sheet, book: Book, stock: Stock) -> None:
        stock.sectors[:], stock.opened[:] = -1, -1  # what a slice before has left means nothing
        books.append(book)
        take_stock(limit, sheet, book, stock)

    def compared(sheet: Sheet, book: Book, stock: Stock, symbol: int) -> int:
        found = in_sector(sheet, book, stock, symbol)
        assert found == walked(sheet, book, symbol)
        asked["sectors that are not empty"] += bool(found > 0)
        return int(found)

    def counted(funds: Row, stock: Stock) -> int:
        found = plain(rules.day_trades)(funds, stock)
        assert found == may_become_day_trades(books[-1])
        asked["lots of today"] += bool(stock.opened[0] > 0)
        return int(found)

    own: dict[int, Any] = {id(rules.in_sector): compared, id(rules.day_trades): counted, id(rules.take_stock): look}
    with patch.object(account, "advance", plain(account.advance, own)):
        for seed in range(120):
            params, told = history(seed)
            poor = replace(params.rules, day_trade_equity_usd=1e9, max_day_trades=3)  # every verdict counts day trades
            run(replace(params, rules=poor), told)
    assert asked["sectors that are not empty"] > 100
    assert asked["lots of today"] > 50


@given(st.data())
def test_an_order_counts_for_the_next_verdict(data: st.DataObject) -> None:
    """Compiled: any book, any sectors, and entries one after another."""
    each = st.lists(st.integers(0, 9), min_size=NAMES, max_size=NAMES)
    sectors = np.array([data.draw(st.sampled_from([-1 - k, 0, 1, 2])) for k in range(NAMES)])
    sheet = Sheet(np.ones(NAMES), np.ones(NAMES, np.int64), sectors, 3)
    book = Book(
        table(Funds, 1), table(Row, NAMES), np.zeros(NAMES, np.int32), np.zeros((NAMES, 8)), np.zeros((8, NAMES))
    )
    stock, rank = Stock(np.full(3, -7), np.full(1, -7)), np.arange(NAMES, dtype=np.int32)
    funds, limit = book.funds[0], limits(Params())._replace(day_trade_equity=1)
    funds.session = 1
    for symbol, lot in enumerate(data.draw(each)):
        row = book.rows[symbol]
        row.mark = data.draw(MONEY)  # whoever holds nothing has one, too
        if lot >= 3:
            row.shares, row.entry_session = data.draw(SHARES), data.draw(st.integers(0, 1))
            row.entry_shares, row.entry_price = (data.draw(SHARES), data.draw(MONEY)) if lot >= 6 else (0, 5)
            funds.pending += row.entry_shares > 0
            attend(book, rank, symbol)
    rules.take_stock(limit, sheet, book, stock)
    for symbol in range(NAMES):
        row = book.rows[symbol]
        assert rules.day_trades(funds, stock) == may_become_day_trades(book)
        assert [rules.in_sector(sheet, book, stock, k) for k in range(NAMES)] == [
            walked(sheet, book, k) if sectors[k] >= 0 or k in book.busy[: funds.busy] else 0 for k in range(NAMES)
        ]
        if row.shares == 0 and row.entry_shares == 0 and symbol not in book.busy[: funds.busy]:
            before, row.entry_shares, row.entry_price = int(funds.reserved), data.draw(SHARES) + 1, data.draw(MONEY)
            rules.reserve(sheet, stock, funds, symbol, row.entry_price * row.entry_shares)
            attend(book, rank, symbol)
            assert funds.reserved == before + row.entry_price * row.entry_shares


def test_where_the_account_is_rich_nobody_counts_lots_of_today() -> None:
    book = held(Direction.LONG)
    stock, sheet = (
        Stock(np.zeros(0, np.int64), np.full(1, 9)),
        Sheet(np.ones(1), np.ones(1, np.int64), -np.ones(1, int), 0),
    )
    for equity, opened in ((99, 1), (100, 0)):
        book.funds["equity"] = equity
        rules.take_stock(limits(Params())._replace(day_trade_equity=100), sheet, book, stock)
        assert stock.opened[0] == opened
