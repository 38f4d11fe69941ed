"""What holds always, read from a ledger alone: an auditor who knows the bars but not the account."""

from collections import defaultdict
from fractions import Fraction

from risk.limits import Params, limits
from schemas.events import Leg, Reason, Status
from tests.reference.account import Action, Ledger, Slice

ENDED = (Status.FILLED, Status.CANCELED, Status.EXPIRED, Status.REJECTED)
FILLING = (Status.PARTIALLY_FILLED, Status.FILLED)


def audit(params: Params, history: list[Slice], ledger: Ledger) -> None:
    """Raise AssertionError where the ledger contradicts itself, the bars or the settings."""
    money_adds_up(params, history, ledger)
    orders_end_once(history, ledger)
    fills_have_room(params, history, ledger)
    one_order_at_a_time(history, ledger)
    trades_are_their_fills(history, ledger)


def split(shares: int, action: Action) -> tuple[int, int]:
    """Whole shares after an action, long or short, and what is left over in parts of `old`."""
    whole, rest = divmod(abs(shares) * action.new, action.old)
    return (whole if shares > 0 else -whole), (rest if shares > 0 else -rest)


def money_adds_up(params: Params, history: list[Slice], ledger: Ledger) -> None:
    """Cash, exposure and equity of each row follow from the fills so far and the last closes."""
    initial = limits(params).initial_cash
    cash, shares, mark = initial, defaultdict(int), {}
    fills = by_slice(ledger.fills)
    assert [row[0] for row in ledger.equity] == [moment.ts for moment in history]
    peak_or_less = initial
    dividends = 0
    for moment, (_, equity, held_cash, exposure, drawdown) in zip(history, ledger.equity, strict=True):
        for action in moment.actions:
            symbol = action.symbol
            if action.new != action.old and shares[symbol]:
                shares[symbol], rest = split(shares[symbol], action)
                cash += rest * mark[symbol] // action.new  # // rounds a debt up
                mark[symbol] = (2 * mark[symbol] * action.old + action.new) // (2 * action.new)
            dividends += shares[symbol] * int(action.dividend * 10_000)
            cash += shares[symbol] * int(action.dividend * 10_000)
        for _, symbol, side, qty, price, fee, *_ in fills[moment.ts]:
            cash -= side * qty * price + fee
            shares[symbol] += side * qty
            assert qty > 0
            assert price > 0
            assert shares[symbol] >= 0 or params.rules.allow_short
        mark |= {symbol: round(bar.close * 10_000.0) for symbol, bar in moment.bars.items()}
        assert held_cash == cash
        # only the commission of a sale may overdraw, or a short lot
        assert cash >= 0 or params.venue.commission_usd > 0 or params.rules.allow_short
        assert exposure == sum(mark[symbol] * abs(held) for symbol, held in shares.items() if held)
        assert equity == cash + sum(mark[symbol] * held for symbol, held in shares.items() if held)
        peak_or_less = max(peak_or_less, equity)
        assert 0.0 <= drawdown <= 1.0 - equity / peak_or_less + 1e-12

    funds = ledger.funds
    assert funds["cash"] == cash
    assert funds["cash"] + funds["cost"] + funds["fees"] - funds["realised"] - funds["dividends"] == initial
    assert funds["dividends"] == dividends
    assert funds["fees"] == sum(row[5] for row in ledger.fills)
    assert funds["positions"] == sum(held != 0 for held in shares.values())
    assert funds["value"] == sum(mark[symbol] * held for symbol, held in shares.items() if held)


def orders_end_once(history: list[Slice], ledger: Ledger) -> None:
    """Each change is of an order that was sent and has not ended; fills and their updates agree."""
    quantity = {(row[1], row[0], row[5]): row[3] for row in ledger.orders}
    assert len(quantity) == len(ledger.orders)  # ids are unique
    filled, ended = defaultdict(int), set()
    splits = [(one.ts, action) for one in history for action in one.actions if action.new != action.old]
    for ts, symbol, order_ts, leg, status, qty, reason in ledger.updates:
        while splits and splits[0][0] <= ts:
            when, action = splits.pop(0)
            for key in quantity:  # a pending entry is cancelled as it is
                if key[0] == action.symbol and key[1] < when and key[2] != Leg.ENTRY and key not in ended:
                    quantity[key] = filled[key] + split(quantity[key] - filled[key], action)[0]
        key = (symbol, order_ts, leg)
        assert key in quantity
        assert key not in ended
        assert order_ts <= ts
        assert qty > 0
        if status in FILLING:
            filled[key] += qty
        elif leg == Leg.ENTRY or (leg == Leg.EXIT and reason != Reason.SPLIT):
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
        for action in moment.actions:
            shares[action.symbol] = split(shares[action.symbol], action)[0]
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


def trades_are_their_fills(history: list[Slice], ledger: Ledger) -> None:
    """A round trip is the sum of its fills, and of what splits have settled in cash."""
    fills = defaultdict(list)
    for row in ledger.fills:
        fills[row[1]].append(row)
    for symbol, _, entry_ts, exit_ts, side, qty, cost, proceeds, fees, pnl, reason, mae, mfe in ledger.trades:
        entry = fills[symbol].pop(0)
        exits = []
        while fills[symbol] and fills[symbol][0][7] != Leg.ENTRY and fills[symbol][0][0] <= exit_ts:
            exits.append(fills[symbol].pop(0))
        assert (entry[0], entry[2], entry[3], entry[3] * entry[4]) == (entry_ts, side, qty, cost)
        assert all(row[2] == -side for row in exits)
        settled = proceeds - sum(row[3] * row[4] for row in exits)
        if any(
            action.symbol == symbol and action.new != action.old
            for one in history
            if entry_ts < one.ts <= exit_ts
            for action in one.actions
        ):
            assert settled >= 0
        else:
            assert settled == 0
            assert sum(row[3] for row in exits) == qty
        if reason != Reason.SPLIT:
            assert (exits[-1][0], exits[-1][8]) == (exit_ts, reason)
        assert fees == entry[5] + sum(row[5] for row in exits)
        assert pnl == side * (proceeds - cost) - fees
        assert mae <= 1e-4
        assert mfe >= -1e-4  # a split rounds prices to the tick
    # the lot still held
    assert all([row[7] for row in rows].count(Leg.ENTRY) <= 1 for rows in fills.values())


def by_slice(rows: list[tuple]) -> dict[int, list[tuple]]:
    pages = defaultdict(list)
    for row in rows:
        pages[row[0]].append(row)
    return pages
