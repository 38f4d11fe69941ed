"""What holds always, read from a ledger alone: an auditor who knows the bars but not the account."""

from collections import defaultdict
from fractions import Fraction

from risk.limits import Params, limits
from schemas.events import Leg, Side, Status
from tests.reference.account import Ledger, Slice

ENDED = (Status.FILLED, Status.CANCELED, Status.EXPIRED, Status.REJECTED)
FILLING = (Status.PARTIALLY_FILLED, Status.FILLED)


def audit(params: Params, history: list[Slice], ledger: Ledger) -> None:
    """Raise AssertionError where the ledger contradicts itself, the bars or the settings."""
    money_adds_up(params, history, ledger)
    orders_end_once(ledger)
    fills_have_room(params, history, ledger)
    one_order_at_a_time(history, ledger)
    trades_are_their_fills(ledger)


def money_adds_up(params: Params, history: list[Slice], ledger: Ledger) -> None:
    """Cash, exposure and equity of each row follow from the fills so far and the last closes."""
    initial = limits(params).initial_cash
    cash, shares, mark = initial, defaultdict(int), {}
    fills = by_slice(ledger.fills)
    assert [row[0] for row in ledger.equity] == [moment.ts for moment in history]
    peak_or_less = initial
    for moment, (_, equity, held_cash, exposure, drawdown) in zip(history, ledger.equity, strict=True):
        for _, symbol, side, qty, price, fee, *_ in fills[moment.ts]:
            cash -= side * qty * price + fee
            shares[symbol] += side * qty
            assert qty > 0
            assert price > 0
            assert shares[symbol] >= 0
        mark |= {symbol: round(bar.close * 10_000.0) for symbol, bar in moment.bars.items()}
        assert held_cash == cash
        assert cash >= 0 or params.venue.commission_usd > 0  # only the commission of a sale may overdraw
        assert exposure == sum(mark[symbol] * held for symbol, held in shares.items() if held)
        assert equity == cash + exposure
        peak_or_less = max(peak_or_less, equity)
        assert 0.0 <= drawdown <= 1.0 - equity / peak_or_less + 1e-12

    funds = ledger.funds
    assert funds["cash"] == cash
    assert funds["cash"] + funds["cost"] + funds["fees"] - funds["realised"] == initial
    assert funds["fees"] == sum(row[5] for row in ledger.fills)
    assert funds["positions"] == sum(held > 0 for held in shares.values())
    assert funds["value"] == (ledger.equity[-1][3] if ledger.equity else 0)


def orders_end_once(ledger: Ledger) -> None:
    """Each change is of an order that was sent and has not ended; fills and their updates agree."""
    quantity = {(row[1], row[0], row[5]): row[3] for row in ledger.orders}
    assert len(quantity) == len(ledger.orders)  # ids are unique
    filled, ended = defaultdict(int), set()
    for ts, symbol, order_ts, leg, status, qty, _ in ledger.updates:
        key = (symbol, order_ts, leg)
        assert key in quantity
        assert key not in ended
        assert order_ts <= ts
        assert qty > 0
        if status in FILLING:
            filled[key] += qty
        elif leg in (Leg.ENTRY, Leg.EXIT):
            assert filled[key] + qty == quantity[key]
        if status in ENDED:
            ended.add(key)
        assert filled[key] <= quantity[key]
    told = [(row[0], row[1], row[2], row[3], row[5]) for row in ledger.updates if row[4] in FILLING]
    done = [(row[0], row[1], row[6], row[7], row[3]) for row in ledger.fills]
    assert told == done


def fills_have_room(params: Params, history: list[Slice], ledger: Ledger) -> None:
    """No bar gives more shares than its part of the volume; no fill without a bar."""
    taken = defaultdict(int)
    for ts, symbol, _, qty, *_ in ledger.fills:
        taken[ts, symbol] += qty
    for moment in history:
        for symbol, bar in moment.bars.items():
            room = Fraction(bar.volume) * limits(params).volume_bps / 10_000
            assert taken.pop((moment.ts, symbol), 0) <= room
    assert not taken


def one_order_at_a_time(history: list[Slice], ledger: Ledger) -> None:
    """After each slice a symbol has nothing, an entry, or a lot; a lot has an exit, a pair, or nothing."""
    orders, updates, fills = by_slice(ledger.orders), by_slice(ledger.updates), by_slice(ledger.fills)
    entries, sales, shares = {}, defaultdict(set), defaultdict(int)
    for moment in history:
        for ts, symbol, _, _, _, leg, *_ in orders[moment.ts]:
            if leg == Leg.ENTRY:
                entries[symbol] = ts
            elif leg not in (Leg.TAKE_PROFIT, Leg.STOP_LOSS):
                sales[symbol].add((ts, leg))
        for _, symbol, order_ts, leg, status, *_ in updates[moment.ts]:
            if leg == Leg.ENTRY and status in ENDED and entries.get(symbol) == order_ts:
                del entries[symbol]
            if leg == Leg.ENTRY and status == Status.FILLED:
                sales[symbol] |= {(order_ts, Leg.TAKE_PROFIT), (order_ts, Leg.STOP_LOSS)}
            if leg != Leg.ENTRY and status in ENDED:
                sales[symbol].remove((order_ts, leg))
        for _, symbol, side, qty, *_ in fills[moment.ts]:
            shares[symbol] += side * qty
        for symbol, open_sales in sales.items():
            assert not open_sales or shares[symbol]
            assert len({leg in (Leg.EXIT,) for _, leg in open_sales}) <= 1
            assert len(open_sales) <= 2
        assert not any(shares[symbol] for symbol in entries)
    assert ledger.funds["pending"] == len(entries)


def trades_are_their_fills(ledger: Ledger) -> None:
    """A round trip is the sum of its fills."""
    fills = defaultdict(list)
    for row in ledger.fills:
        fills[row[1]].append(row)
    for symbol, _, entry_ts, exit_ts, qty, cost, proceeds, fees, pnl, reason, mae, mfe in ledger.trades:
        mine = [fills[symbol].pop(0)]
        while sum(row[2] * row[3] for row in mine):
            mine.append(fills[symbol].pop(0))
        buy, *sales = mine
        assert (buy[0], buy[2], buy[3], buy[3] * buy[4]) == (entry_ts, Side.BUY, qty, cost)
        assert all(row[2] == Side.SELL for row in sales)
        assert (sales[-1][0], sales[-1][8]) == (exit_ts, reason)
        assert proceeds == sum(row[3] * row[4] for row in sales)
        assert fees == sum(row[5] for row in mine)
        assert pnl == proceeds - cost - fees
        assert mae <= 0.0 <= mfe
    assert all([row[2] for row in rows].count(Side.BUY) <= 1 for rows in fills.values())  # the lot still held


def by_slice(rows: list[tuple]) -> dict[int, list[tuple]]:
    pages = defaultdict(list)
    for row in rows:
        pages[row[0]].append(row)
    return pages
