"""The account: scored slices -> ledger. The one writer of cash, positions, orders and halts.

Slice by slice: fills, exits, halts, then the rules for each candidate. `docs/account.md` says it in words,
`tests/reference/account.py` in slow plain Python; all three agree.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from operators.kernel import grown, kernel, table
from risk.exits import cancel_entries, send_exits
from risk.fills import expire, fill, quote, ticks
from risk.halts import open_session, trip, value
from risk.ledger import FundsRow, LedgerFrame, SignalColumns
from risk.limits import Limits, Params, limits
from risk.portfolio import Book, attend, dismiss_idle
from risk.portfolio import start as empty_book
from risk.rules import object_to, size, stop_for, target_for, usd
from risk.tape import EQUITY, VERDICTS, Tape, blank, has_room, longer, write_legs, write_order
from schemas.events import Direction, Kind, Leg, Phase, Reason, Side
from schemas.frames import Codes, Floats, Ints, Longs, SliceFrame, Table
from schemas.units import NS_PER_MINUTE

FEW = 32  # candidates that an insertion sort puts in order faster than a merge sort
EVENTS = 4_096  # rows of each table that a call starts with
UNPUBLISHED = (Reason.NOT_WARM, Reason.NO_INSIGHT, Reason.NEUTRAL, Reason.BELOW_PUBLISH_GATE)

convert = lru_cache(maxsize=8)(limits)


class State(NamedTuple):
    """The book; a snapshot of it is a version and plain arrays."""

    version: int
    book: Book


class Market(NamedTuple):
    """What the kernel reads of a SliceFrame."""

    ts: Longs
    session: Ints
    phase: Codes
    starts: Longs
    order: Ints
    rank: Ints
    symbol: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    half_spread: Floats  # empty without quotes
    volatility: Floats
    direction: Codes
    confidence: Floats
    reason: Codes


def start(params: Params) -> State:
    """Cash, no positions. Raises ValueError for settings that do not fit whole ticks or basis points."""
    return State(1, empty_book(convert(params)))


def step(params: Params, state: State, frame: SliceFrame) -> tuple[State, LedgerFrame]:
    """Advance slice by slice; raises OverflowError before money could leave int64."""
    book = _widened(state.book, frame.names.size)
    slices = frame.slices
    market = Market(slices.ts, slices.session, slices.phase, frame.starts, frame.order, frame.rank, frame.symbol,
                    frame.open, frame.high, frame.low, frame.close, frame.volume, frame.half_spread,
                    frame.volatility, frame.direction, frame.confidence, frame.reason)  # fmt: skip

    tape = blank(slices.size, EVENTS + frame.rows // 8)
    done = 0
    while done < slices.size:
        done = advance(convert(params), market, book, tape, done)
        if book.funds[0].overflow:
            raise OverflowError("the account's money no longer fits int64; lower the caps or the cash")
        if done < slices.size:
            tape = longer(tape, int(np.diff(frame.starts).max()) + int(book.funds[0].busy))
    return State(state.version, book), _ledger(frame, book, tape)


def _widened(book: Book, symbols: int) -> Book:
    """A copy to write into, with rows for every symbol."""
    rows = grown(book.rows, symbols)
    rows.last_ts[book.rows.size :] = -(2**62)
    busy = np.zeros(rows.size, np.int32)
    busy[: book.busy.size] = book.busy
    is_busy = np.zeros(rows.size, np.int8)
    is_busy[: book.is_busy.size] = book.is_busy
    return Book(grown(book.funds, 1), rows, busy, is_busy)


@kernel
def advance(limits: Limits, market: Market, book: Book, tape: Tape, first: int) -> int:
    """The loop over slices; returns the first slice for which the tables have no room."""
    bar_of = np.full(book.rows.size, -1, np.int32)
    candidates = np.empty(np.max(np.diff(market.starts)), np.int64)  # rows of one slice
    funds = book.funds[0]
    for i in range(first, market.ts.size):
        begin, end = market.starts[i], market.starts[i + 1]
        if funds.overflow or not has_room(tape, end - begin + funds.busy):
            return i
        ts, phase = market.ts[i], market.phase[i]
        funds.slices += 1
        open_session(limits, funds, market.session[i])
        found = look(market, book, begin, end, bar_of, candidates)
        run_fills(limits, market, book, tape, ts, phase, bar_of)
        run_exits(limits, market, book, tape, ts, phase, bar_of)
        run_halts(limits, market, book, tape, ts, phase, bar_of)
        forget(book, bar_of)
        if found > 0:
            decide(limits, market, book, tape, ts, candidates[:found])
    return market.ts.size


@kernel
def look(market: Market, book: Book, begin: int, end: int, bar_of: Ints, candidates: Longs) -> int:
    """Note the rows of busy symbols and of candidates; returns how many these are. Idle rows cost no more."""
    found = 0
    for j in range(begin, end):
        r = market.order[j]
        if book.is_busy[market.symbol[r]]:
            bar_of[market.symbol[r]] = r
        if market.reason[r] == Reason.NONE:
            candidates[found] = r
            found += 1
    return found


@kernel
def run_fills(limits: Limits, market: Market, book: Book, tape: Tape, ts: int, phase: int, bar_of: Ints) -> None:
    """Open orders meet this slice's bars; at the session's end the rest expires."""
    funds = book.funds[0]
    for k in range(funds.busy):
        symbol = book.busy[k]
        r = bar_of[symbol]
        if r < 0:
            continue
        fill(limits, funds, book.rows[symbol], tape, ts, symbol, market.open[r], market.high[r],
             market.low[r], market.close[r], market.volume[r])  # fmt: skip
        if market.half_spread.size > 0:
            quote(book.rows[symbol], market.half_spread[r])
    if phase == Phase.LAST:
        expire(limits, book, tape, ts)


@kernel
def run_exits(limits: Limits, market: Market, book: Book, tape: Tape, ts: int, phase: int, bar_of: Ints) -> None:
    """Lots that should be closed; and with them, entries that could not be closed tonight."""
    send_exits(limits, book, tape, ts, phase, bar_of, market.direction)
    if limits.end_of_day and phase == Phase.EVE:
        cancel_entries(book, tape, ts, Reason.END_OF_DAY)


@kernel
def run_halts(limits: Limits, market: Market, book: Book, tape: Tape, ts: int, phase: int, bar_of: Ints) -> None:
    """Take stock; a halt that goes on now cancels and sells at once."""
    funds = book.funds[0]
    value(book)
    tripped = trip(limits, funds)
    if tripped != Reason.NONE:
        cancel_entries(book, tape, ts, tripped)
        send_exits(limits, book, tape, ts, phase, bar_of, market.direction)
    row = tape.equity[tape.written[EQUITY]]
    tape.written[EQUITY] += 1
    row.ts, row.equity, row.cash, row.exposure = ts, funds.equity, funds.cash, funds.exposure
    row.drawdown = (funds.high - funds.equity) / funds.high


@kernel
def forget(book: Book, bar_of: Ints) -> None:
    """No row is noted any more; symbols without lot or order leave the busy list before new ones come."""
    funds = book.funds[0]
    for k in range(funds.busy):
        bar_of[book.busy[k]] = -1
    dismiss_idle(book)


@kernel
def decide(limits: Limits, market: Market, book: Book, tape: Tape, ts: int, rows: Longs) -> None:
    """Judge the candidates by falling confidence, ties by name (the order they come in)."""
    if rows.size <= FEW:
        rank_few(market.confidence, rows)
    else:
        rows = rows[np.argsort(-market.confidence[rows], kind="mergesort")]
    for r in rows:
        held = book.rows[market.symbol[r]].shares > 0
        if not (held and market.direction[r] == Direction.SHORT):  # that one was an exit
            judge(limits, market, book, tape, ts, r)


@kernel
def rank_few(confidence: Floats, rows: Longs) -> None:
    """Put a few rows in order of falling confidence, in place; equal ones keep their order."""
    for k in range(1, rows.size):
        r, place = rows[k], k
        while place > 0 and confidence[rows[place - 1]] < confidence[r]:
            rows[place] = rows[place - 1]
            place -= 1
        rows[place] = r


@kernel
def judge(limits: Limits, market: Market, book: Book, tape: Tape, ts: int, r: int) -> None:
    """One verdict, and the order if there is no objection."""
    funds, symbol = book.funds[0], market.symbol[r]
    row, price = book.rows[symbol], ticks(market.close[r])
    found = object_to(limits, funds, row, ts, market.direction[r], market.confidence[r],
                      market.volatility[r], price)  # fmt: skip
    verdict = tape.verdicts[tape.written[VERDICTS]]
    tape.written[VERDICTS] += 1
    verdict.ts, verdict.symbol, verdict.direction = ts, symbol, market.direction[r]
    verdict.confidence, verdict.reason = market.confidence[r], found.reason
    verdict.measured, verdict.limit = found.measured, found.limit
    verdict.approved = found.reason == Reason.NONE
    if not verdict.approved:
        return
    shares = size(limits, funds, price)
    verdict.measured, verdict.limit = usd(price * shares), usd(limits.max_notional)
    if market.half_spread.size > 0:
        row.half_spread = 0
        quote(row, market.half_spread[r])
    enter(limits, market, book, tape, ts, symbol, shares, price)


@kernel
def enter(
    limits: Limits, market: Market, book: Book, tape: Tape, ts: int, symbol: int, shares: int, price: int
) -> None:
    """Send a bracket: its prices are fixed now, its cash is reserved now."""
    funds, row = book.funds[0], book.rows[symbol]
    row.entry_shares, row.entry_price, row.order_ts = shares, price, ts
    row.stop, row.target = stop_for(limits, price), target_for(limits, price)
    row.oco, row.legs_ts, row.last_ts = False, ts, ts
    row.orders = 1 + (row.orders if row.orders_session == funds.session else 0)
    row.orders_session = funds.session
    funds.sent = 1 + (funds.sent if funds.sent_ts == ts else 0)
    funds.sent_ts = ts
    funds.reserved += price * shares
    funds.pending += 1
    attend(book, market.rank, symbol)
    write_order(tape, ts, symbol, Side.BUY, shares, Kind.MARKET, Leg.ENTRY, ts, Reason.NONE, price)
    write_legs(tape, ts, symbol, shares, ts, row.target, row.stop, False)


def _ledger(frame: SliceFrame, book: Book, tape: Tape) -> LedgerFrame:
    """The tables in order of `(ts, symbol name)`, and the published signals."""
    equity, *events = (rows[:n].view(np.recarray) for rows, n in zip(tape[:-1], tape.written, strict=True))
    keys = ("ts", "ts", "ts", "ts", "exit_ts")
    verdicts, orders, updates, fills, trades = (
        _in_order(rows, rows[key], frame.rank) for rows, key in zip(events, keys, strict=True)
    )
    head = (frame.slices, frame.names, frame.rows, frame.stopped, frame.refused)
    return LedgerFrame(*head, _signals(frame), equity, verdicts, orders, updates, fills, trades, _funds(book),
                       frame.quality, frame.absent, frame.made, frame.alarms)  # fmt: skip


def _in_order(rows: Table, ts: Longs, rank: Ints) -> Table:
    """Events by slice, then by the symbol's name; those of one symbol as they happened.

    Slices are in order already and at least a minute apart.
    """
    if rows.size < 2:
        return rows
    keys = (ts - ts[0]) // NS_PER_MINUTE * rank.size + rank[rows.symbol]
    return rows.take(np.argsort(keys, kind="stable")).view(np.recarray)


def _signals(frame: SliceFrame) -> SignalColumns:
    """Rows that passed the publish gate, wherever they ended later."""
    is_published = (frame.reason == Reason.NONE) | (frame.reason > max(UNPUBLISHED))
    places = np.flatnonzero(is_published[frame.order])
    published = frame.order[places]
    ts = np.repeat(frame.slices.ts, np.diff(frame.starts))[places]
    return SignalColumns(ts, frame.symbol[published], frame.direction[published], frame.confidence[published],
                         frame.score[published], frame.regime[published], frame.views[published],
                         frame.reason[published], **_of_forecasts(frame, published))  # fmt: skip


def _of_forecasts(frame: SliceFrame, rows: Ints) -> dict[str, Any]:
    """The forecasts' columns; none where no model is configured."""
    names = ("q10", "q50", "q90", "probability", "age", "model") if frame.absent.size else ()
    return {name: getattr(frame, name)[rows] for name in names}


def _funds(book: Book) -> Table:
    """The totals, for the summary."""
    funds, totals = book.funds[0], table(FundsRow, 1)
    for name in ("cash", "realised", "fees", "pending", "killed"):
        totals[name] = funds[name]
    totals["cost"], totals["value"] = book.rows.cost.sum(), funds.exposure
    totals["positions"] = np.count_nonzero(book.rows.shares)
    totals["drawdown_latches"], totals["latch_releases"] = funds.latches, funds.releases
    return totals
