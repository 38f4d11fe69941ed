"""The account: scored slices -> ledger. The one writer of cash, positions, orders and halts.

Slice by slice: corporate actions, fills, exits, halts, then the rules for each candidate. `docs/account.md`
says it in words, `tests/reference/account.py` in slow plain Python; all three agree.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from operators.kernel import ahead, grown, kernel, table
from operators.ordering import order_of, sort
from risk.actions import MAX_RATIO, act
from risk.exits import cancel_entries, cancel_rests, send_exits
from risk.fills import expire, fill, quote, see, ticks
from risk.halts import open_session, trip, value
from risk.ledger import FundsRow, LedgerFrame, VerdictRow
from risk.limits import Limits, Params, Sheet, limits
from risk.limits import sheet as sheet_of
from risk.portfolio import BLOCK, LONG_AGO, NO_LEG, Book, attend, dismiss_idle, put_away
from risk.portfolio import start as empty_book
from risk.published import published
from risk.returns import NORMAL_TAIL, bring_closes, own_shortfall
from risk.rules import Candidate, notional, object_to, reserve, score, size, stop_for, take_stock, target_for, usd
from risk.scratch import Scratch, scratch
from risk.tape import (
    EQUITY,
    PER_CANDIDATE,
    PER_SYMBOL,
    VERDICTS,
    Tape,
    blank,
    has_room,
    longer,
    write_legs,
    write_order,
)
from schemas.events import Kind, Leg, Phase, Reason
from schemas.frames import Codes, Floats, Ints, Longs, Names, SliceFrame, Table
from schemas.units import MAX_PRICE_USD, TICKS_PER_USD
from schemas.universe import MAX_NAME

AHEAD = 32  # rows of a shard: a slice or some later, in time for memory that is far away
EVENTS = 4_096  # rows of each table that a call starts with

convert = lru_cache(maxsize=8)(limits)


@lru_cache(maxsize=8)
def look_up(params: Params, names: bytes, width: int) -> Sheet:
    """The symbols' own limits, read once for the same names."""
    return sheet_of(params.rules, np.frombuffer(names, f"S{width}"))


class State(NamedTuple):
    """The book, and the symbols' names; a snapshot of it is a version and plain arrays."""

    version: int
    book: Book
    names: Names


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
    q10: Floats  # log return over the decision horizon; empty without a model
    acted_at: Ints
    acted: Ints
    new: Longs
    old: Longs
    dividend: Longs


def start(params: Params) -> State:
    """Cash, no positions. Raises ValueError for settings that do not fit whole ticks or basis points."""
    return State(5, empty_book(convert(params)), np.zeros(0, f"S{MAX_NAME}"))


def step(params: Params, state: State, frame: SliceFrame) -> tuple[State, LedgerFrame]:
    """Advance slice by slice; raises OverflowError before money could leave int64."""
    is_past = bool(frame.actions.at.size) or fills_block(state.book, frame.slices.size)
    book = widened(state.book, frame.names.size, is_past)
    limits, sheet = convert(params), look_up(params, frame.names.tobytes(), frame.names.itemsize)
    slices = frame.slices
    market = Market(slices.ts, slices.session, slices.phase, frame.starts, frame.order, frame.rank, frame.symbol,
                    frame.open, frame.high, frame.low, frame.close, frame.volume, frame.half_spread,
                    frame.volatility, frame.direction, frame.confidence, frame.reason, frame.q10,
                    *_actions(frame))  # fmt: skip

    widest = int(np.diff(frame.starts).max(initial=0))
    events = EVENTS + frame.rows // 8 + PER_SYMBOL * int(book.funds[0].busy) + PER_CANDIDATE * widest
    tape, room = blank(slices.size, events), scratch(book.rows.size, widest, limits.returns_window, sheet.sectors)
    done = 0
    while done < slices.size:
        done = advance(limits, sheet, market, book, tape, room, done)
        if book.funds[0].overflow:
            raise OverflowError("the account's money no longer fits int64; lower the caps or the cash")
        if done < slices.size:
            tape = longer(tape, widest + int(book.funds[0].busy))
    head = (slices, frame.names, frame.rows, frame.stopped, frame.refused, published(frame))
    beside = (frame.quality, frame.absent, frame.made, frame.alarms, frame.outcomes)
    return State(state.version, book, frame.names), answer(head, frame.rank, book, tape, beside)


def fills_block(book: Book, slices: int) -> bool:
    """Whether with so many slices more a block of them is full."""
    return (int(book.funds[0].slices) + 1) % BLOCK + slices >= BLOCK


def widened(book: Book, symbols: int, is_past: bool = False) -> Book:
    """A copy to write into, with rows for every symbol; of the closes of full blocks where they will be written."""
    rows = grown(book.rows, symbols)
    rows["last_ts"][book.rows.size :] = LONG_AGO
    busy = np.zeros(rows.size, np.int32)
    busy[: book.busy.size] = book.busy
    closes, recent = book.closes, np.empty((BLOCK, rows.size))
    if is_past or rows.size > book.rows.size:
        closes = np.empty((rows.size, book.closes.shape[1]))
        closes[: book.rows.size], closes[book.rows.size :] = book.closes, np.nan
    recent[:, : book.rows.size], recent[:, book.rows.size :] = book.recent, np.nan
    return Book(grown(book.funds, 1), rows, busy, closes, recent)


def _actions(frame: SliceFrame) -> tuple[Ints, Ints, Longs, Longs, Longs]:
    """The columns of the frame's actions; raises ValueError for what no company ever did."""
    one = frame.actions
    if one.at.size:
        ratios = np.concatenate([one.new, one.old])
        if ratios.min() < 1 or ratios.max() > MAX_RATIO:
            raise ValueError(f"a split of {ratios.min()} or {ratios.max()} shares: want 1 to {MAX_RATIO}")
        if one.dividend.min() < 0 or one.dividend.max() > MAX_PRICE_USD * TICKS_PER_USD:
            raise ValueError(
                f"a dividend of {one.dividend.min()} or {one.dividend.max()} ticks: want 0 to a share's price"
            )
    return one.at, one.symbol, one.new, one.old, one.dividend


@kernel
def advance(limits: Limits, sheet: Sheet, market: Market, book: Book, tape: Tape, room: Scratch, first: int) -> int:
    """The loop over slices; returns the first slice for which the tables have no room."""
    funds, bar_of = book.funds[0], room.bar_of
    action = 0
    for i in range(first, market.ts.size):
        begin, end = market.starts[i], market.starts[i + 1]
        if funds.overflow or not fits(market, tape, begin, end, funds.busy):
            return i
        ts, phase = market.ts[i], market.phase[i]
        funds.slices += 1
        funds.ts = ts
        open_session(limits, funds, market.session[i])
        action = run_actions(limits, market, book, tape, ts, i, action)
        found = look(market, book, begin, end, bar_of, room.candidates)
        if limits.at_broker:
            run_marks(limits, market, book, tape, ts, bar_of)
        else:
            run_fills(limits, market, book, tape, ts, phase, bar_of, room.bars)
        run_exits(limits, market, book, tape, ts, phase, bar_of)
        run_halts(limits, market, book, tape, ts, phase, bar_of)
        dismiss_idle(book)  # before new ones come
        if found > 0:
            decide(limits, sheet, market, book, tape, room, ts, room.candidates[:found])
    return market.ts.size


@kernel
def fits(market: Market, tape: Tape, begin: int, end: int, busy: int) -> bool:
    """Whether the tables have room for a slice: only symbols that are busy or candidates write into them.

    Candidates are counted where room for all rows is not there anyway: of thousands of symbols few are any.
    """
    if has_room(tape, busy, end - begin):
        return True
    found = 0
    for j in range(begin, end):
        found += market.reason[market.order[j]] == Reason.NONE
    return has_room(tape, busy, found)


@kernel
def run_actions(limits: Limits, market: Market, book: Book, tape: Tape, ts: int, i: int, action: int) -> int:
    """Splits and dividends that hold from this slice on; returns where those of later slices begin."""
    while action < market.acted_at.size and market.acted_at[action] <= i:
        if market.acted_at[action] == i:
            act(limits, book, tape, ts, market.acted[action], market.new[action], market.old[action],
                market.dividend[action])  # fmt: skip
        action += 1
    return action


@kernel
def look(market: Market, book: Book, begin: int, end: int, bar_of: Ints, candidates: Longs) -> int:
    """Note all closes, where each symbol's bar is, and the rows of candidates; returns how many these are.

    Idle rows cost no more than these three stores, none of which depends on a guess.
    """
    closes = book.recent[book.funds[0].slices % BLOCK]
    closes[:] = np.nan
    bar_of[:] = -1
    found = 0
    for j in range(begin, end):
        r = market.order[j]
        bring(market, r + AHEAD)
        symbol = market.symbol[r]
        closes[symbol], bar_of[symbol], candidates[found] = market.close[r], r, r
        found += market.reason[r] == Reason.NONE
    if (book.funds[0].slices + 1) % BLOCK == 0:
        put_away(book)
    return found


@kernel
def bring(market: Market, r: int) -> None:
    """Have what is read of a row brought near: a slice's rows are of a dozen places in a dozen columns."""
    ahead(market.symbol, r)
    ahead(market.close, r)
    ahead(market.reason, r)
    ahead(market.open, r)
    ahead(market.high, r)
    ahead(market.low, r)
    ahead(market.volume, r)
    ahead(market.half_spread, r)
    ahead(market.confidence, r)
    ahead(market.volatility, r)


@kernel
def run_fills(
    limits: Limits, market: Market, book: Book, tape: Tape, ts: int, phase: int, bar_of: Ints, bars: Table
) -> None:
    """Open orders meet this slice's bars; at the session's end the rest expires."""
    funds = book.funds[0]
    gather(market, book, bar_of, bars)
    for k in range(funds.busy):
        symbol = book.busy[k]
        if bar_of[symbol] >= 0:
            fill(limits, funds, book.rows[symbol], tape, ts, symbol, bars[k])
            quote(book.rows[symbol], bars[k].half_spread)
    if phase == Phase.LAST:
        expire(limits, book, tape, ts)


@kernel
def gather(market: Market, book: Book, bar_of: Ints, bars: Table) -> None:
    """The bars of busy symbols, before anything is guessed of what they do: so the waits for memory overlap."""
    for k in range(book.funds[0].busy):
        r = bar_of[book.busy[k]]
        if r >= 0:
            bar = bars[k]
            bar.open, bar.high, bar.low = ticks(market.open[r]), ticks(market.high[r]), ticks(market.low[r])
            bar.close, bar.volume = ticks(market.close[r]), market.volume[r]
            bar.half_spread = market.half_spread[r] if market.half_spread.size > 0 else np.nan


@kernel
def run_marks(limits: Limits, market: Market, book: Book, tape: Tape, ts: int, bar_of: Ints) -> None:
    """Open orders are at a broker, whose reports have been heard: lots are marked, rests of entries cancelled."""
    for k in range(book.funds[0].busy):
        symbol = book.busy[k]
        r = bar_of[symbol]
        if r < 0:
            continue
        see(book.rows[symbol], market.high[r], market.low[r], market.close[r])
    cancel_rests(limits, book, tape, ts)


@kernel
def run_exits(limits: Limits, market: Market, book: Book, tape: Tape, ts: int, phase: int, bar_of: Ints) -> None:
    """Lots that should be closed; and with them, entries that could not be closed tonight."""
    send_exits(limits, book, tape, ts, phase, bar_of, market.direction)
    if limits.end_of_day and phase == Phase.EVE:
        cancel_entries(limits, book, tape, ts, Reason.END_OF_DAY)


@kernel
def run_halts(limits: Limits, market: Market, book: Book, tape: Tape, ts: int, phase: int, bar_of: Ints) -> None:
    """Take stock; a halt that goes on now cancels and sells at once."""
    funds = book.funds[0]
    value(book)
    tripped = trip(limits, funds)
    if tripped != Reason.NONE:
        cancel_entries(limits, book, tape, ts, tripped)
        send_exits(limits, book, tape, ts, phase, bar_of, market.direction)
    row = tape.equity[tape.written[EQUITY]]
    tape.written[EQUITY] += 1
    row.ts, row.equity, row.cash, row.exposure = ts, funds.equity, funds.cash, funds.exposure
    row.drawdown = (funds.high - funds.equity) / funds.high


@kernel
def decide(
    limits: Limits, sheet: Sheet, market: Market, book: Book, tape: Tape, room: Scratch, ts: int, rows: Longs
) -> None:
    """Judge the candidates by falling confidence, ties by name (the order they come in, and verdicts stand in)."""
    found, first = 0, tape.written[VERDICTS]
    for r in rows:
        row = book.rows[market.symbol[r]]
        if not (row.shares > 0 and market.direction[r] == -row.side):  # that one was an exit
            rows[found], room.turns[found] = r, found
            room.urgency[found], room.volatility[found] = -market.confidence[r], market.volatility[r]
            found += 1
    tape.written[VERDICTS] += found
    sort(room.urgency, room.turns[:found], room.spare)
    take_stock(limits, sheet, book, room.stock)
    for k in room.turns[:found]:
        judge(limits, sheet, market, book, tape, room, ts, rows[k], room.volatility[k], tape.verdicts[first + k])
    assess(limits, sheet, book, room, tape.verdicts[first : first + found])


@kernel
def assess(limits: Limits, sheet: Sheet, book: Book, room: Scratch, verdicts: Table) -> None:
    """How risky each candidate is, which decides nothing: of the approved their own shortfall counts.

    While one is worked out, the closes of the next one are on their way: with thousands of symbols they are far away.
    """
    approved = 0
    for k in range(verdicts.size):
        room.spare[approved] = k
        approved += verdicts[k].approved
    for n in range(approved):
        k = room.spare[n]
        if n + 1 < approved:
            bring_closes(book.closes[verdicts[room.spare[n + 1]].symbol])
        one = verdicts[k]
        one.cvar_95 = own_shortfall(
            book, room.returns, limits.min_returns, one.symbol, one.direction, room.volatility[k]
        )
    for k in range(verdicts.size):
        one = verdicts[k]
        one.risk_score = score(
            limits, sheet, book.funds[0], one.symbol, one.confidence, room.volatility[k], one.cvar_95
        )


@kernel
def judge(
    limits: Limits, sheet: Sheet, market: Market, book: Book, tape: Tape, room: Scratch, ts: int, r: int,
    volatility: float, verdict: VerdictRow,
) -> None:  # fmt: skip
    """One verdict, and the order if there is no objection."""
    funds, symbol = book.funds[0], market.symbol[r]
    row, price = book.rows[symbol], ticks(market.close[r])
    one = Candidate(symbol, int(market.direction[r]), market.confidence[r], volatility, price)
    found = object_to(limits, sheet, book, room, ts, one)
    verdict.ts, verdict.symbol, verdict.direction = ts, symbol, market.direction[r]
    verdict.confidence, verdict.reason = market.confidence[r], found.reason
    verdict.measured, verdict.limit = found.measured, found.limit
    verdict.approved = found.reason == Reason.NONE
    verdict.cvar_95, verdict.max_loss = NORMAL_TAIL * volatility, 0
    if not verdict.approved:
        return
    shares = size(limits, sheet, book, room.stock, one)
    verdict.measured, verdict.limit = usd(price * shares), usd(notional(limits, one.confidence))
    if market.half_spread.size > 0:
        row.half_spread = 0
        quote(row, market.half_spread[r])
    enter(limits, market, book, tape, ts, symbol, one.direction, shares, price)
    reserve(sheet, room.stock, funds, symbol, price * shares)
    verdict.max_loss = one.direction * (price - row.stop) * shares
    if market.q10.size > 0 and market.q10[r] == market.q10[r]:
        verdict.max_loss = round(price * abs(market.q10[r])) * shares


@kernel
def enter(
    limits: Limits, market: Market, book: Book, tape: Tape, ts: int, symbol: int, side: int, shares: int, price: int
) -> None:
    """Send a bracket: its prices are fixed now."""
    funds, row = book.funds[0], book.rows[symbol]
    row.side, row.entry_shares, row.entry_price, row.order_ts = side, shares, price, ts
    row.stop, row.target = stop_for(limits, side, price), target_for(limits, side, price)
    row.oco, row.legs_ts, row.last_ts = False, ts, ts
    row.entry_filled = row.target_filled = row.stop_filled = 0
    row.leaving, row.survivor = Reason.NONE, NO_LEG
    row.orders = 1 + (row.orders if row.orders_session == funds.session else 0)
    row.orders_session = funds.session
    funds.sent = 1 + (funds.sent if funds.sent_ts == ts else 0)
    funds.sent_ts = ts
    attend(book, market.rank, symbol)
    write_order(tape, ts, symbol, side, shares, Kind.MARKET, Leg.ENTRY, ts, Reason.NONE, price)
    write_legs(tape, ts, symbol, row, shares, ts, Reason.NONE)


def answer(head: tuple[Any, ...], rank: Ints, book: Book, tape: Tape, beside: tuple[Any, ...] = ()) -> LedgerFrame:
    """The tables in order of `(ts, symbol name)`, after what a ledger begins with."""
    slices, names, bars, stopped, refused, signals = head
    equity, verdicts, *events = (rows[:n] for rows, n in zip(tape[:-1], tape.written.tolist(), strict=True))
    keys = ("ts", "ts", "ts", "exit_ts")
    orders, updates, fills, trades = (
        _in_order(rows, key, rank).view(np.recarray) for rows, key in zip(events, keys, strict=True)
    )
    return LedgerFrame(
        slices, names, bars, stopped, refused, signals, equity.view(np.recarray), verdicts.view(np.recarray), orders,
        updates, fills, trades, _funds(book), *beside,
    )  # fmt: skip


def _in_order(rows: Table, key: str, rank: Ints) -> Table:
    """Events by slice, then by the symbol's name; those of one symbol as they happened."""
    order = order_of(rows[key], rows["symbol"], rank) if rows.size > 1 else None
    return rows if order is None else rows.take(order)


def _funds(book: Book) -> Table:
    """The totals, for the summary."""
    funds, totals = book.funds[0], table(FundsRow, 1)
    for name in ("cash", "value", "realised", "fees", "dividends", "pending", "killed"):
        totals[name] = funds[name]
    totals["cost"] = (book.rows["side"] * book.rows["cost"]).sum()
    totals["positions"] = np.count_nonzero(book.rows["shares"])
    totals["drawdown_latches"], totals["latch_releases"] = funds.latches, funds.releases
    return totals
