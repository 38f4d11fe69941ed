"""The account's memory: a row per symbol, the funds, and the list of symbols that need attention."""

from typing import NamedTuple, Protocol

import numpy as np

from operators.kernel import kernel, table
from risk.limits import Limits
from schemas.events import Side
from schemas.frames import Floats, Ints, Table

MAX_MONEY = 4_000_000_000_000_000_000  # beyond it the next addition might overflow int64

LONG_AGO, FOREVER = -(2**62), 2**62  # UTC ns

BLOCK = 8  # slices whose closes go to their symbols together: a cache line of each

NO_LEGS, LIVE_LEGS, TRIGGERED = 0, 1, 2
NO_LEG, TARGET, STOP = 0, 1, 2


class Row(Protocol):
    """One symbol: its lot, its open orders and its day. Money in ticks."""

    mark: int  # close of its last bar
    half_spread: int  # ticks, of its last quote; 0 without one
    # the lot
    side: int  # Side of its entry: BUY a long lot, SELL a short one; of a pending entry too
    shares: int
    cost: int  # of the shares still held: what they were bought or sold short for
    bought: int  # shares of the lot when it was entered, before any split
    paid: int  # their cost
    basis: float  # the price of the entry, in the shares of today
    proceeds: int  # of the shares closed so far: what they were sold or bought back for
    fees: int
    best: int
    worst: int
    order_ts: int  # slice in which the entry was sent
    entry_ts: int  # slice of its fill
    entry_slice: int  # the same, counted
    entry_session: int
    # open orders
    entry_shares: int  # still to come of a pending entry, 0 if none
    entry_price: int  # on which it was decided: what is reserved per share
    stop: int
    target: int
    legs: int  # NO_LEGS, LIVE_LEGS, TRIGGERED
    legs_ts: int  # slice in which the legs were sent
    oco: bool  # they protect a partly filled entry
    exit_reason: int  # pending exit, NONE if none
    exit_ts: int
    # at a broker
    cancelling: bool  # the pending entry is to end; the broker's last word on it has not come
    leaving: int  # why the lot is to be closed as soon as that word has come; NONE if it is not
    survivor: int  # of legs of which a broker has ended one: the other (NO_LEG, TARGET, STOP); the lot counts as bare
    exit_price: int  # on which the exit was decided
    entry_filled: int  # shares filled of the last entry sent, as the broker counts
    target_filled: int  # ... of the last legs
    stop_filled: int
    exit_filled: int  # ... of the last exit
    # the day
    orders: int  # entries sent in `orders_session`
    orders_session: int
    last_ts: int  # the last order sent, or the fill that closed the lot


class Funds(Protocol):
    """The account as a whole. Money in ticks."""

    cash: int  # what short sales brought is in it
    realised: int  # before fees
    fees: int
    dividends: int  # received less those paid on short lots
    collateral: int  # cash behind short lots: what they brought, and as much again
    reserved: int  # for pending entries
    pending: int  # entries
    exposure: int  # of lots at their marks, short ones as if they were long
    value: int  # the same, short ones negative
    equity: int
    day_equity: int  # at the start of the session
    peak: int  # since the latch was last released: what the latch measures from
    high: int  # of all time: what the drawdown is reported from
    session: int
    slices: int  # counted since the log began
    ts: int  # of the last one
    command: int  # number of the last command
    report: int  # number of the last execution report
    sent_ts: int  # the last slice with entries ...
    sent: int  # ... and how many
    busy: int  # symbols with a lot or a pending entry
    day_trades: int  # lots opened and closed today ...
    day_trades_1: int  # ... one session ago
    day_trades_2: int
    day_trades_3: int
    day_trades_4: int
    slipped_ts: int  # the last fill that was far too dear ...
    slipped: float  # ... by so much, a fraction
    allowed_until: int  # entries may go out up to this slice, UTC ns
    killed: bool
    latched: bool
    latches: int
    releases: int
    overflow: bool


class Book(NamedTuple):
    """The account's state, as arrays."""

    funds: Table  # one row
    rows: Table  # by symbol id
    busy: Ints  # ids of busy symbols, in alphabetical order; the first `funds.busy` count
    closes: Floats  # [symbol id, slices counted]: a ring of the last closes, NaN without a bar; whole blocks
    recent: Floats  # [slices counted, symbol id]: the block of slices that is not full yet


def start(limits: Limits) -> Book:
    """Cash and nothing else."""
    funds = table(Funds, 1)
    for name in ("cash", "equity", "day_equity", "peak", "high"):
        funds[name] = limits.initial_cash
    funds["session"] = funds["command"] = funds["report"] = -1
    funds["slipped_ts"] = LONG_AGO
    funds["allowed_until"] = LONG_AGO if limits.needs_approval else FOREVER
    blocks = -(-(limits.returns_window + 1) // BLOCK)
    return Book(funds, table(Row, 0), np.zeros(0, np.int32), np.zeros((0, blocks * BLOCK)), np.zeros((BLOCK, 0)))


@kernel
def attend(book: Book, rank: Ints, symbol: int) -> None:
    """Put a symbol on the busy list, in alphabetical order."""
    funds = book.funds[0]
    place, end = 0, funds.busy
    while place < end:
        middle = (place + end) // 2
        if rank[book.busy[middle]] > rank[symbol]:
            end = middle
        else:
            place = middle + 1
    behind, coming = book.busy[place : funds.busy + 1], symbol
    for k in range(behind.size):  # from 0 upwards: eight at a time
        behind[k], coming = coming, behind[k]
    funds.busy += 1


@kernel
def dismiss_idle(book: Book) -> None:
    """Take symbols without a lot and without a pending entry off the busy list."""
    funds = book.funds[0]
    kept = 0
    for k in range(funds.busy):
        symbol = book.busy[k]
        row = book.rows[symbol]
        if row.shares > 0 or row.entry_shares > 0:
            book.busy[kept] = symbol
            kept += 1
    funds.busy = kept


@kernel
def put_away(book: Book) -> None:
    """A block of slices is full: its closes go to their symbols."""
    begin = (book.funds[0].slices + 1 - BLOCK) % book.closes.shape[1]
    for symbol in range(book.closes.shape[0]):
        for k in range(BLOCK):
            book.closes[symbol, begin + k] = book.recent[k, symbol]


@kernel
def part_of(amount: int, part: int, whole: int) -> int:
    """`amount * part / whole`, rounded down, without overflow for any money."""
    return amount // whole * part + amount % whole * part // whole


@kernel
def open_lot(funds: Funds, row: Row, shares: int, cost: int, price: int, commission: int) -> None:
    """Book the fill of an entry: the lot begins."""
    funds.cash -= row.side * cost + commission
    funds.fees += commission
    if row.side == Side.SELL:
        funds.collateral += 2 * cost
    row.shares = row.bought = shares
    row.cost = row.paid = cost
    row.basis = cost / shares
    row.proceeds = 0
    row.fees = commission
    row.best = row.worst = price


@kernel
def extend_lot(funds: Funds, row: Row, shares: int, cost: int, price: int) -> None:
    """Book another fill of the same entry."""
    funds.cash -= row.side * cost
    if row.side == Side.SELL:
        funds.collateral += 2 * cost
    row.shares += shares
    row.bought += shares
    row.cost += cost
    row.paid += cost
    row.basis = row.cost / row.shares
    widen(row, price, price)


@kernel
def reduce_lot(funds: Funds, row: Row, shares: int, amount: int, commission: int) -> None:
    """Book the fill of an order that closes some or all shares of a lot, for `amount` in all."""
    take_out(funds, row, amount, part_of(row.cost, shares, row.shares))
    funds.cash -= commission
    funds.fees += commission
    funds.overflow = funds.overflow or funds.cash > MAX_MONEY or funds.cash < -MAX_MONEY
    row.shares -= shares
    row.fees += commission


@kernel
def take_out(funds: Funds, row: Row, amount: int, cost: int) -> None:
    """A part of a lot that had cost `cost` is gone, for `amount`."""
    funds.cash += row.side * amount
    funds.realised += row.side * (amount - cost)
    if row.side == Side.SELL:
        funds.collateral -= 2 * cost
    row.cost -= cost
    row.proceeds += amount


@kernel
def widen(row: Row, high: int, low: int) -> None:
    """Best and worst price of a lot, after these were seen."""
    if row.side == Side.BUY:
        row.best, row.worst = max(row.best, high), min(row.worst, low)
    else:
        row.best, row.worst = min(row.best, low), max(row.worst, high)


@kernel
def power(funds: Funds) -> int:
    """Cash that an entry may use."""
    return funds.cash - funds.collateral - funds.reserved


@kernel
def release(funds: Funds, row: Row) -> None:
    """A pending entry is gone: filled, cancelled, expired or refused."""
    funds.reserved -= row.entry_price * row.entry_shares
    funds.pending -= 1
    row.entry_shares = 0
    row.cancelling = False
