"""Whole numbers at their limits: nothing wraps, and what would is refused before it does.

Python's integers have no limits, so each product is compared with the same expression in them.
"""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.venue import fill_price, room
from operators.kernel import table
from risk import account, exits, fills, halts, portfolio, rules
from risk.actions import MAX_SHARES_HELD
from risk.limits import MAX_SHARES, MAX_USD, Exits, Halts, Limits, Params, Rules, Sheet, Venue, limits
from risk.portfolio import MAX_MONEY, Book, Funds, Row
from risk.scratch import Stock
from risk.tape import longer
from schemas.events import Direction, Phase, Reason, Side
from schemas.frames import Table
from schemas.units import MAX_PRICE_USD, TICKS_PER_USD, to_cents, to_ticks, to_usd
from tests.reference import account as reference
from tests.reference.account import Bar, Slice
from tests.reference.histories import history
from tests.risk.test_account_agrees import TABLES, equal, run, same

MINUTE = 60_000_000_000
MAX_PRICE = 10_000_000 * 10_000
MAX_VOLUME = 1e15  # shares; above it a bar is refused
FREE = Params(  # nothing is refused but for money
    initial_cash_usd=MAX_USD,
    rules=Rules(
        max_position_pct=1.0,
        max_notional_usd=MAX_USD,
        max_shares=MAX_SHARES,
        max_total_exposure_usd=MAX_USD,
        max_symbol_exposure_usd=MAX_USD,
        max_orders_per_minute=1_000_000_000,
        max_orders_per_symbol_per_day=1_000_000_000,
        max_open_orders=1_000_000_000,
        cooldown_seconds=0,
        max_sector_pct=1.0,
        max_correlation=1.0,
        max_cvar_pct=1.0,
        returns_window=2,  # nothing here looks back
        min_returns=2,
        day_trade_equity_usd=0.0,
    ),
    exits=Exits(take_profit_pct=1.0, stop_loss_pct=0.99, trailing_pct=1.0, max_holding_bars=0, end_of_day=False),
    halts=Halts(daily_loss_pct=1.0, kill_loss_pct=1.0, drawdown_pct=1.0, slippage_guard_minutes=0),
    venue=Venue(slippage_bps=0),
)

bps = st.integers(0, 10_000)
amounts = st.integers(-MAX_MONEY, MAX_MONEY) | st.integers(0, 40_000).map(lambda k: MAX_MONEY - k)
prices = st.integers(1, MAX_PRICE) | st.integers(MAX_PRICE - 20_000, MAX_PRICE)
shares = st.integers(1, MAX_SHARES) | st.integers(MAX_SHARES - 3, MAX_SHARES)


# --- products, against the same in Python ----------------------------------------------------------------


@given(amounts, bps)
def test_a_portion_of_any_amount(amount: int, share: int) -> None:
    assert exits.portion(amount, share) == amount * share // 10_000
    assert exits.portion_up(amount, share) == -(-amount * share // 10_000)


@given(st.integers(0, MAX_PRICE), st.integers(0, 1_000), st.integers(0, MAX_PRICE // 2))
def test_the_venue_at_the_highest_prices(raw: int, slippage: int, half: int) -> None:
    friction = -(-raw * slippage // 10_000) + half
    assert fill_price(Side.BUY, raw, slippage, half) == max(raw + friction, 1)
    assert fill_price(Side.SELL, raw, slippage, half) == max(raw - friction, 1)
    assert fill_price(Side.BUY, MAX_PRICE, 1_000, MAX_PRICE // 2) * MAX_SHARES_HELD < MAX_MONEY


@given(st.integers(0, int(2 * MAX_VOLUME)).map(lambda halves: halves / 2), bps)
def test_the_room_in_a_huge_volume(volume: float, share: int) -> None:
    exact = int(volume * 2) * share // 20_000
    found = room(volume, share)
    if exact <= 2**49:  # beyond it the float product may be rounded, far above any order
        assert found == exact
    assert min(found, MAX_SHARES) == min(exact, MAX_SHARES)


def test_the_largest_price_has_all_its_ticks() -> None:
    assert to_ticks(MAX_PRICE_USD) == MAX_PRICE
    assert to_ticks(MAX_PRICE_USD - 0.0001) == MAX_PRICE - 1
    assert to_usd(MAX_PRICE - 1) == 9_999_999.9999
    assert to_usd(TICKS_PER_USD) == 1.0
    assert fills.ticks(1.00004) == 10_000
    assert fills.ticks(1.00006) == 10_001


@given(st.integers(0, 2 * MAX_PRICE))
def test_cents_are_the_nearest(ticks: int) -> None:
    assert to_cents(ticks) % 100 == 0
    assert -50 < to_cents(ticks) - ticks <= 50


@given(shares, shares, prices, st.integers(0, MAX_SHARES - 1), prices, st.integers(0, 1_000_000))
def test_a_sale_takes_its_part_of_any_cost(
    held: int, sold: int, each: int, odd: int, price: int, commission: int
) -> None:
    sold, cost = min(held, sold), each * held + odd % held
    book = one_lot(held, cost)
    funds, row = book.funds[0], book.rows[0]
    portfolio.reduce_lot(funds, row, sold, price * sold, commission)
    taken = cost * sold // held
    assert (row.shares, row.cost, row.proceeds) == (held - sold, cost - taken, price * sold)
    assert (funds.cash, funds.realised) == (price * sold - commission, price * sold - taken)
    assert (row.fees, funds.fees, funds.overflow) == (commission, commission, False)


@given(prices, prices, shares, bps.filter(bool), bps.filter(bool), st.data())
def test_exits_at_the_highest_values(
    best: int, mark: int, held: int, stop: int, target: int, data: st.DataObject
) -> None:
    best, trailing = max(best, mark), data.draw(bps.filter(bool))
    edge = data.draw(st.sampled_from([mark * held * 10_000 // (10_000 + target), mark * held, best * held]))
    cost = max(edge + data.draw(st.integers(-2, 2)), 1)
    book = one_lot(held, cost)
    row = book.rows[0]
    row.mark, row.best, row.legs = mark, best, portfolio.NO_LEGS
    limit = limits(FREE)._replace(stop_loss_bps=stop, take_profit_bps=target, trailing_bps=trailing)
    if mark * held * 10_000 <= cost * (10_000 - stop):
        wanted = Reason.STOP_LOSS
    elif (best - mark) * 10_000 >= trailing * best:
        wanted = Reason.TRAILING_STOP
    elif mark * held * 10_000 >= cost * (10_000 + target):
        wanted = Reason.TAKE_PROFIT
    else:
        wanted = Reason.NONE
    assert exits.exit_reason(limit, book.funds[0], row, int(Phase.MIDDLE), False) == wanted


@given(st.integers(0, MAX_MONEY), st.integers(0, MAX_MONEY), st.integers(1, MAX_MONEY), bps.filter(bool), st.data())
def test_halts_at_the_highest_values(equity: int, day: int, peak: int, fall: int, data: st.DataObject) -> None:
    loss, peak, limit = data.draw(bps.filter(bool)), max(peak, equity), limits(FREE)
    near = data.draw(st.sampled_from([0, day * (10_000 - loss) // 10_000, peak * (10_000 - fall) // 10_000]))
    equity = min(near + data.draw(st.integers(0, 1)), peak) if near else equity
    book = one_lot(1, 1)
    funds = book.funds[0]
    funds.equity, funds.day_equity, funds.peak = equity, day, peak
    tripped = halts.trip(limit._replace(drawdown_bps=fall, kill_loss_bps=loss), funds)
    latches, kills = (peak - equity) * 10_000 >= peak * fall, (day - equity) * 10_000 >= day * loss
    assert (funds.latched, funds.killed) == (latches, kills)
    assert tripped == (Reason.KILL_SWITCH if kills else Reason.DRAWDOWN if latches else Reason.NONE)


@given(prices, st.integers(1, 10_000), st.integers(1, 9_999))
def test_legs_of_the_highest_prices(price: int, target: int, stop: int) -> None:
    limit = limits(FREE)._replace(take_profit_bps=target, stop_loss_bps=stop)
    for side in Side:
        assert rules.target_for(limit, side, price) == (price + side * (price * target // 10_000) + 50) // 100 * 100
        assert rules.stop_for(limit, side, price) == (price - side * (price * stop // 10_000) + 50) // 100 * 100


@given(prices, st.integers(0, MAX_MONEY), st.integers(0, MAX_USD * 10_000), st.data())
def test_the_size_at_the_highest_caps(price: int, equity: int, cash: int, data: st.DataObject) -> None:
    limit: Limits = limits(FREE)
    caps = st.integers(price, max(price, MAX_USD * 10_000))
    limit = limit._replace(max_notional=data.draw(caps), max_symbol_exposure=data.draw(caps),
                           max_sector_bps=data.draw(bps))  # fmt: skip
    book, position = one_lot(1, 1), data.draw(bps)
    book.funds["busy"] = 0
    funds, own = book.funds[0], Sheet(np.array([0.1]), np.array([position]), np.array([-1]), 0)
    funds.equity, funds.cash, funds.reserved = equity, cash, data.draw(st.integers(0, cash))
    funds.exposure = data.draw(st.integers(0, MAX_USD * 10_000))
    stock = Stock(np.zeros(0, np.int64), np.zeros(1, np.int64))
    least = min(limit.max_notional, equity * position // 10_000, limit.max_symbol_exposure,
                limit.max_total_exposure - funds.exposure - funds.reserved, cash - funds.reserved,
                equity * limit.max_sector_bps // 10_000)  # fmt: skip
    found = rules.size(limit, own, book, stock, rules.Candidate(0, Direction.LONG, 0.9, 0.01, price))
    assert found == min(int(least) // price, MAX_SHARES)


def one_lot(held: int, cost: int) -> Book:
    """A book with a lot of one symbol and no cash."""
    funds, rows = table(Funds, 1), table(Row, 1)
    funds["busy"], row = 1, rows[0]
    row.side, row.shares, row.bought, row.cost, row.paid = Side.BUY, held, held, cost, cost
    row.basis = cost / held
    return Book(funds, rows, np.zeros(1, np.int32), np.full((1, 8), np.nan), np.full((8, 1), np.nan))


# --- overflow is noticed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cash", "exposure", "seen"),
    [
        (0, MAX_MONEY, False),
        (0, MAX_MONEY + 1, True),
        (-5, MAX_MONEY + 1, True),  # the exposure alone
        (1, MAX_MONEY - 1, False),
        (1, MAX_MONEY, True),  # the equity alone
        (MAX_MONEY, 0, False),
    ],
)
def test_stock_is_taken_up_to_the_bound(cash: int, exposure: int, seen: bool) -> None:
    book = one_lot(1, 1)
    book.funds["cash"], book.rows["mark"] = cash, exposure
    halts.value(book)
    assert book.funds[0].overflow == seen
    assert (book.funds[0].exposure, book.funds[0].equity) == (exposure, cash + exposure)


def test_what_was_noticed_is_not_forgotten() -> None:
    book = one_lot(1, 1)
    book.funds["overflow"], book.rows["mark"] = True, 1
    halts.value(book)
    assert book.funds[0].overflow
    portfolio.reduce_lot(book.funds[0], book.rows[0], 1, 1, 0)
    assert book.funds[0].overflow
    wide = Book(table(Funds, 1), table(Row, 2), np.arange(2, dtype=np.int32), np.zeros((2, 8)), np.zeros((8, 2)))
    wide.funds["busy"], wide.rows["side"], wide.rows["shares"], wide.rows["mark"] = (
        2,
        Side.BUY,
        1,
        [MAX_MONEY + 1, -MAX_MONEY],
    )
    halts.value(wide)
    assert wide.funds[0].overflow


@pytest.mark.parametrize(("cash", "seen"), [(MAX_MONEY - 10, False), (MAX_MONEY - 9, True)])
def test_cash_is_bounded(cash: int, seen: bool) -> None:
    book = one_lot(1, 1)
    book.funds["cash"] = cash
    portfolio.reduce_lot(book.funds[0], book.rows[0], 1, 10, 0)
    assert book.funds[0].overflow == seen
    assert book.funds[0].cash == cash + 10


def bought(symbols: int, then: Bar) -> list[Slice]:
    """A million shares of each of so many symbols at 1 USD, and one more bar of each."""
    names = [f"S{k:04d}" for k in range(symbols)]
    decided = Bar(1.0, 1.0, 1.0, 1.0, MAX_VOLUME, None, Direction.LONG, 0.9, 0.01, Reason.NONE)
    entered = Bar(1.0, 1.0, 1.0, 1.0, MAX_VOLUME)
    told = zip((decided, entered, then), (Phase.MIDDLE,) * 3, strict=True)
    return [Slice((k + 1) * MINUTE, 1, phase, dict.fromkeys(names, bar)) for k, (bar, phase) in enumerate(told)]


MARKED = Bar(1.0, MAX_PRICE_USD, 1.0, MAX_PRICE_USD, 0.0)  # no room: the lots stay, at the highest mark
SOLD = Bar(MAX_PRICE_USD, MAX_PRICE_USD, MAX_PRICE_USD, MAX_PRICE_USD, MAX_VOLUME)


@pytest.mark.parametrize("then", [MARKED, SOLD], ids=["marked", "sold"])
def test_money_grows_up_to_the_bound_as_in_the_reference(then: Bar) -> None:
    told = bought(39, then)
    same(FREE, told)
    assert run(FREE, told).equity[-1][1] == 39 * MAX_PRICE * MAX_SHARES + (MAX_USD - 39 * MAX_SHARES) * 10_000


@pytest.mark.parametrize("symbols", [40, 41, 80, 93, 185, 300])  # at 93 and 185 the sum in int64 is small again
@pytest.mark.parametrize("then", [MARKED, SOLD], ids=["marked", "sold"])
def test_money_beyond_the_bound_is_refused(then: Bar, symbols: int) -> None:
    with pytest.raises(OverflowError, match="no longer fits int64"):
        run(FREE, bought(symbols, then))


def test_the_same_when_more_slices_follow() -> None:
    told = bought(40, SOLD)
    told += [Slice(one.ts + 10 * MINUTE, 1, one.phase, one.bars) for one in bought(1, MARKED)]
    with pytest.raises(OverflowError, match="no longer fits int64"):
        run(FREE, told)


def test_the_highest_price_and_the_largest_order() -> None:
    """One share of 10 000 000 USD, and a thousand million USD of one symbol."""
    dear = Bar(*[MAX_PRICE_USD] * 4, MAX_VOLUME, None, Direction.LONG, 0.9, 0.01, Reason.NONE)
    many = Bar(*[999.0] * 4, MAX_VOLUME, 0.5, Direction.LONG, 0.8, 0.01, Reason.NONE)
    fall = Bar(*[0.01] * 4, MAX_VOLUME)
    params = Params(
        FREE.name, MAX_USD, FREE.rules, FREE.exits, FREE.halts, Venue(slippage_bps=1_000, commission_usd=100.0)
    )
    for bar in (dear, many):
        for last in (bar, fall, MARKED, SOLD):
            same(
                params,
                [Slice((k + 1) * MINUTE, 1, Phase.MIDDLE, {"A": one}) for k, one in enumerate((bar, bar, last, last))],
            )
    same(FREE, [Slice((k + 1) * MINUTE, 1, Phase.MIDDLE, {"A": dear, "B": many}) for k in range(3)])


# --- the tape grows ---------------------------------------------------------------------------------------


def ledger(events: int, params: Params, told: list[Slice], cuts: list[int] = ()) -> reference.Ledger:
    """The account's ledger with tables that begin with so many rows; each slice lengthens them once at most."""
    calls = []

    def counted(tape: Table, events: int) -> Table:
        calls.append(events)
        assert len(calls) <= len(told) + 1, "the tables are lengthened again and again"
        return longer(tape, events)

    with patch.object(account, "EVENTS", events), patch.object(account, "longer", counted):
        return run(params, told, cuts)


def alike(one: reference.Ledger, other: reference.Ledger) -> None:
    assert one.funds == other.funds
    for kind in TABLES:
        ours, theirs = getattr(one, kind), getattr(other, kind)
        assert len(ours) == len(theirs), kind
        assert all(map(equal, ours, theirs)), kind


def crowd(symbols: int) -> list[Slice]:
    """Every symbol a candidate in the same slice; filled in part, stopped, sold; expired at the close."""
    names = [f"S{k:04d}" for k in range(symbols)]
    wanted = Bar(10.0, 10.0, 10.0, 10.0, 1e6, 0.01, Direction.LONG, 0.9, 0.01, Reason.NONE)
    partly, through = Bar(10.0, 10.0, 10.0, 10.0, 7.0), Bar(10.0, 10.0, 8.0, 9.0, 5.0)
    bars = [
        *(wanted, partly, through, wanted, wanted, Bar(10.0, 11.0, 10.0, 10.0, 3.0)),
        Bar(10.0, 10.0, 7.0, 9.0, 2.0, direction=Direction.SHORT),
    ]
    phases = [Phase.MIDDLE, Phase.MIDDLE, Phase.LAST, Phase.MIDDLE, Phase.MIDDLE, Phase.EVE, Phase.LAST]
    return [
        Slice((k + 1) * MINUTE, k // 3, phase, dict.fromkeys(names, bar))
        for k, (bar, phase) in enumerate(zip(bars, phases, strict=True))
    ]


CROWDED = Params(
    initial_cash_usd=MAX_USD,
    rules=Rules(
        **{name: getattr(FREE.rules, name) for name in FREE.rules.__struct_fields__} | {"max_notional_usd": 100.0}
    ),
    exits=Exits(take_profit_pct=0.05, stop_loss_pct=0.05, trailing_pct=1.0, max_holding_bars=0),
    halts=Halts(slippage_guard_minutes=0),
)


def test_three_thousand_orders_in_a_slice() -> None:
    told = crowd(3_000)
    long = ledger(100_000, CROWDED, told)
    assert len([row for row in long.orders if row[0] == MINUTE]) == 9_000
    assert len(long.updates) > 20_000
    alike(long, ledger(8, CROWDED, told))
    alike(long, run(CROWDED, told))


def test_a_crowd_is_as_in_the_reference() -> None:
    same(CROWDED, crowd(200))


def test_a_ledger_of_many_years_is_in_order() -> None:
    """Nanoseconds times symbols would not fit."""
    same(CROWDED, [replace(one, ts=k * 2 * 365 * 1_440 * MINUTE) for k, one in enumerate(crowd(200)[:4], 1)])


@pytest.mark.parametrize("symbols", [1, 2, 3, 5, 40])
def test_short_tables_hold_all(symbols: int) -> None:
    told = crowd(symbols)
    alike(ledger(8, CROWDED, told), ledger(100_000, CROWDED, told))


def test_short_tables_hold_what_is_said_of_many_candidates_that_are_refused() -> None:
    """Nobody is busy, so only the candidates tell how much room a slice takes."""
    refused = Bar(10.0, 10.0, 10.0, 10.0, 1e6, 0.01, Direction.SHORT, 0.9, 0.01, Reason.NONE)
    told = [replace(one, bars=dict.fromkeys(one.bars, refused)) for one in crowd(100)]
    short = ledger(8, CROWDED, told)
    assert len(short.verdicts) == 700
    assert not short.orders
    alike(short, ledger(100_000, CROWDED, told))


def test_short_tables_hold_any_history() -> None:
    for seed in range(100):
        params, told = history(seed)
        alike(ledger(8, params, told, [seed % 7]), ledger(100_000, params, told, [seed % 7]))


def test_orders_without_a_verdict_lengthen_the_tables_too() -> None:
    """A lot of an earlier call is all that happens in this one: its rows must make room, not the verdicts."""
    quiet = Bar(10.0, 10.0, 10.0, 10.0, 1e6)
    names = [f"S{k:04d}" for k in range(600)]
    phases = (Phase.MIDDLE, Phase.MIDDLE, Phase.LAST)
    told = [Slice((k + 1) * MINUTE, k // 3, phases[k % 3], dict.fromkeys(names, quiet)) for k in range(6)]
    wanted = Bar(10.0, 10.0, 10.0, 10.0, 1e6, None, Direction.LONG, 0.9, 0.01, Reason.NONE)
    told[0] = Slice(told[0].ts, told[0].session, told[0].phase, told[0].bars | {"S0000": wanted})
    params = Params(CROWDED.name, MAX_USD, CROWDED.rules, FREE.exits, CROWDED.halts)
    alike(ledger(account.EVENTS, params, told, [2]), ledger(100_000, params, told, [2]))


def test_silent_symbols_write_rows_too() -> None:
    """Lots without a bar: every session their exit expires and is sent again."""
    told = crowd(40)[:2]
    told += [Slice((k + 3) * MINUTE, k, Phase.LAST, {}) for k in range(40)]
    params = Params(CROWDED.name, MAX_USD, CROWDED.rules, Exits(max_holding_bars=1), CROWDED.halts)
    assert len(run(params, told).updates) > 1_600
    alike(ledger(8, params, told), ledger(100_000, params, told))


@pytest.mark.parametrize("events", range(8, 24))
def test_tables_are_lengthened_for_whichever_is_full(events: int) -> None:
    """Orders of one symbol that the venue refuses; then verdicts without any order."""
    wanted = Bar(10.0, 10.0, 10.0, 10.0, 1e6, None, Direction.LONG, 0.9, 0.01, Reason.NONE)
    gone, doubted = Bar(30.0, 30.0, 30.0, 30.0, 1e6), replace(wanted, confidence=0.1)
    for bars in ((wanted, gone) * 30, (doubted,) * 60):
        told = [Slice((k + 1) * MINUTE, 1, Phase.MIDDLE, {"A": bar}) for k, bar in enumerate(bars)]
        alike(ledger(events, CROWDED, told), ledger(100_000, CROWDED, told))


def test_bars_without_a_column_of_quotes() -> None:
    """A source without quotes gives an empty column; one row with a quote is a column of one."""
    wanted = Bar(10.0, 10.0, 10.0, 10.0, 1e6, None, Direction.LONG, 0.9, 0.01, Reason.NONE)
    told = [Slice((k + 1) * MINUTE, 1, Phase.MIDDLE, {"A": wanted}) for k in range(4)]
    with patch("tests.risk.test_account_agrees.SliceFrame", without_quotes):
        alike(run(CROWDED, told), reference.run(CROWDED, told))
        alike(run(CROWDED, told, [1, 2, 3]), reference.run(CROWDED, told))
    wanted.half_spread = 0.0123
    same(CROWDED, told, [1, 2, 3])


def without_quotes(**columns: object) -> account.SliceFrame:
    return account.SliceFrame(**columns | {"half_spread": np.zeros(0)})


def test_a_loss_of_nothing_or_of_debts_is_all_there_is() -> None:
    """A short lot may take more than there was: then no division by zero says that all is well."""
    assert [halts.fraction(*pair) for pair in ((0, 1), (1, 2), (3, 2), (0, 0), (5, 0), (0, -1), (5, -7))] == [
        0.0, 0.5, 1.5, 1.0, 1.0, 1.0, 1.0,
    ]  # fmt: skip
