"""The account and its simulated venue, slow and obvious: docs/account.md in `Decimal` and dictionaries.

Read from `Account.take` downwards; every method is a paragraph of that page, in its order. Money is USD
with four places and exact; it leaves as whole ticks of 0.0001 USD only when a row is written.
"""

import math
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction

from risk.commands import Command
from risk.limits import Params
from schemas.events import Direction, Kind, Leg, Phase, Reason, Side, Status

TICK = Decimal("0.0001")
CENT = Decimal("0.01")
ZERO = Decimal("0.0000")
SECOND = 1_000_000_000
MINUTE = 60 * SECOND

Row = tuple[object, ...]


# --- what comes in ---------------------------------------------------------------------------------------


@dataclass
class Bar:
    """One symbol's bar, and what the signal side says of it; prices in USD."""

    open: float
    high: float
    low: float
    close: float
    volume: float
    half_spread: float | None = None  # USD; None without a quote
    direction: int = Direction.FLAT
    confidence: float = 0.5
    volatility: float = 0.01  # NaN: not known
    reason: int = Reason.NEUTRAL  # NONE: a candidate for an order
    q10: float | None = None  # the forecast's low quantile, a log return; None without a forecast


@dataclass
class Action:
    """A split of `old` shares into `new`, a dividend in USD per new share, or both."""

    symbol: str
    new: int = 1
    old: int = 1
    dividend: Decimal = ZERO


@dataclass
class Slice:
    """All bars that ended at `ts` (UTC ns), by symbol, and what holds from its start."""

    ts: int
    session: int
    phase: int
    bars: dict[str, Bar]
    actions: list[Action] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)  # after it, before the next


# --- what goes out ---------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """Plain tuples, money in whole ticks; each table in order of slice, then symbol, then happening."""

    equity: list[Row] = field(default_factory=list)  # ts, equity, cash, exposure, drawdown
    verdicts: list[Row] = field(default_factory=list)
    # ts, symbol, direction, approved, reason, measured, limit, confidence, cvar_95, risk_score, max_loss
    orders: list[Row] = field(default_factory=list)
    # ts, symbol, side, qty, kind, leg, entry_ts, reason, price
    updates: list[Row] = field(default_factory=list)  # ts, symbol, order_ts, leg, status, qty, reason
    fills: list[Row] = field(default_factory=list)
    # ts, symbol, side, qty, price, fee, order_ts, leg, reason, expected
    trades: list[Row] = field(default_factory=list)
    # symbol, order_ts, entry_ts, exit_ts, side, qty, cost, proceeds, fees, pnl, reason, mae, mfe
    funds: dict[str, int | bool] = field(default_factory=dict)  # the fields of FundsRow


# --- what is remembered ----------------------------------------------------------------------------------


@dataclass
class Entry:
    """A bracket that waits for the next bar to buy, or to sell short."""

    ts: int  # the slice in which it was sent
    side: Side
    quantity: int
    price: Decimal  # on which it was decided
    target: Decimal
    stop: Decimal


@dataclass
class Legs:
    """Take profit and stop loss of a lot, both for all of its shares."""

    ts: int
    target: Decimal
    stop: Decimal
    oco: bool  # the pair that protects a partly filled entry

    @property
    def take_profit(self) -> Leg:
        return Leg.OCO_TAKE_PROFIT if self.oco else Leg.TAKE_PROFIT

    @property
    def stop_loss(self) -> Leg:
        return Leg.OCO_STOP_LOSS if self.oco else Leg.STOP_LOSS


@dataclass
class Exit:
    """An order that closes at the next open: a market order, or a stop that was triggered."""

    ts: int
    leg: Leg
    reason: Reason


@dataclass
class Lot:
    """Shares bought, or sold short, by one entry."""

    side: Side
    order_ts: int  # the slice in which the entry was sent
    entry_ts: int  # the slice in which it was filled
    entry_count: int  # the same slice, counted from the first
    entry_session: int
    bought: int  # or sold short
    paid: Decimal  # price × bought
    basis: float  # the entry's price in ticks, in the shares of today
    shares: int  # still held
    cost: Decimal  # of those
    fees: Decimal
    best: Decimal
    worst: Decimal
    proceeds: Decimal = ZERO
    legs: Legs | None = None
    exit: Exit | None = None


@dataclass
class Book:
    """All that is known of one symbol: never both an entry and a lot."""

    mark: Decimal = ZERO
    half: Decimal = ZERO  # half the spread of the last quote that counts
    entry: Entry | None = None
    lot: Lot | None = None
    entries_today: int = 0
    last_action: int | None = None  # the last order sent, or the last fill that closed a lot
    closes: dict[int, float] = field(default_factory=dict)  # by slice, counted; in the shares of today


# --- money -----------------------------------------------------------------------------------------------


def money(usd: float) -> Decimal:
    """A float in USD to the nearest tick."""
    return Decimal(repr(float(usd))).quantize(TICK, ROUND_HALF_EVEN)


def rounded_up(usd: float) -> Decimal:
    """A float in USD to the next tick above."""
    return Decimal(repr(float(usd))).quantize(TICK, ROUND_CEILING)


def share_of(amount: Decimal, bps: int) -> Decimal:
    return (amount * bps / 10_000).quantize(TICK, ROUND_FLOOR)


def share_up(amount: Decimal, bps: int) -> Decimal:
    return (amount * bps / 10_000).quantize(TICK, ROUND_CEILING)


def nearest_cent(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, ROUND_HALF_UP).quantize(TICK)


def ticks(amount: Decimal) -> int:
    """Whole ticks, exactly."""
    count = int(amount / TICK)
    assert count * TICK == amount
    return count


def basis_points(fraction: float) -> int:
    return round(fraction * 10_000)


def ratio(part: Decimal, whole: Decimal) -> float:
    return ticks(part) / ticks(whole) if whole > 0 else 1.0


# --- the account -----------------------------------------------------------------------------------------


def run(params: Params, history: list[Slice]) -> Ledger:
    """Take all slices in order; answer with all that happened."""
    account = Account(params)
    for moment in history:
        account.take(moment)
    return account.close()


class Account:
    """Cash, lots and open orders of one account, and the venue that fills them."""

    def __init__(self, params: Params) -> None:
        rules, exits, halts, venue = params.rules, params.exits, params.halts, params.venue
        self.rules = rules
        self.max_position_bps = basis_points(rules.max_position_pct)
        self.max_notional = money(rules.max_notional_usd)
        self.max_total_exposure = money(rules.max_total_exposure_usd)
        self.max_symbol_exposure = money(rules.max_symbol_exposure_usd)
        self.max_sector_bps = basis_points(rules.max_sector_pct)
        self.volatility_of, self.position_pct_of, self.sector_of = (
            {name.upper(): value for name, value in table.items()}
            for table in (rules.volatility_of, rules.position_pct_of, rules.sector_of)
        )
        self.day_trade_equity = money(rules.day_trade_equity_usd)
        self.exits = exits
        self.take_profit_bps = basis_points(exits.take_profit_pct)
        self.stop_loss_bps = basis_points(exits.stop_loss_pct)
        self.trailing_bps = basis_points(exits.trailing_pct)
        self.halts = halts
        self.daily_loss_bps = basis_points(halts.daily_loss_pct)
        self.kill_loss_bps = basis_points(halts.kill_loss_pct)
        self.drawdown_bps = basis_points(halts.drawdown_pct)
        self.guard_bps = basis_points(halts.slippage_guard_pct)
        self.venue = venue
        self.volume_bps = basis_points(venue.max_volume_share)
        self.commission = money(venue.commission_usd)

        self.initial_cash = money(params.initial_cash_usd)
        self.cash = self.initial_cash
        self.realised = ZERO
        self.fees = ZERO
        self.dividends = ZERO
        self.equity = self.initial_cash  # at the end of the last slice
        self.start_of_day = self.initial_cash
        self.peak = self.initial_cash
        self.high = self.initial_cash
        self.killed = False
        self.latched = False
        self.allowed = not halts.needs_approval
        self.allowed_until: int | None = None  # the last slice in which entries may go out
        self.last_command = -1
        self.slip: tuple[int, float] | None = None  # when a fill was far too dear, and by how much
        self.day_trades: list[int] = []  # of each session, the last one today's
        self.latches = 0
        self.releases = 0

        self.books: dict[str, Book] = {}
        self.entries_sent: list[int] = []  # the slice of each
        self.count = 0  # slices so far
        self.session: int | None = None
        self.now = 0
        self.page = Ledger()  # the rows of this slice
        self.ledger = Ledger()

    def take(self, moment: Slice) -> None:
        """One slice."""
        self.now = moment.ts
        self.count += 1
        for symbol in moment.bars:
            self.books.setdefault(symbol, Book())
        self.new_session(moment)
        self.act(moment)
        for symbol, bar in moment.bars.items():
            self.books[symbol].closes[self.count] = bar.close
        self.fill_orders(moment)
        self.expire_orders(moment)
        self.send_exits(moment)
        self.cancel_entries_at_end_of_day(moment)
        self.halt(moment)
        self.send_entries(moment)
        self.turn_page()
        self.check()
        for command in moment.commands:
            self.obey(command)
            self.turn_page()

    def obey(self, command: Command) -> None:
        """What a human tells the account, once."""
        if command.number <= self.last_command:
            return
        self.last_command = command.number
        if command.kind == "kill":
            self.kill()
            if self.halts.kill_flatten:
                for symbol, book in self.in_order():
                    if book.lot and not book.lot.exit:
                        self.send_exit(symbol, book, Reason.KILL_SWITCH)
        if command.kind == "resume":
            self.killed = False
            self.releases += self.latched
            self.latched = False
            self.peak = self.equity
            self.start_of_day = self.equity
        if command.kind == "revoke":
            self.allowed = False
            self.cancel_entries(Reason.REVOKED)
        if command.kind == "approve":
            self.allowed, self.allowed_until = True, command.until

    def close(self) -> Ledger:
        """The ledger with the totals after the last slice."""
        lots = [book.lot for book in self.books.values() if book.lot]
        self.ledger.funds = {
            "cash": ticks(self.cash),
            "cost": ticks(sum((lot.side * lot.cost for lot in lots), ZERO)),
            "value": ticks(self.value()),
            "realised": ticks(self.realised),
            "fees": ticks(self.fees),
            "dividends": ticks(self.dividends),
            "positions": len(lots),
            "pending": len(self.pending()),
            "drawdown_latches": self.latches,
            "latch_releases": self.releases,
            "killed": self.killed,
        }
        return self.ledger

    # 1. A new session

    def new_session(self, moment: Slice) -> None:
        if moment.session == self.session:
            return
        self.session = moment.session
        self.start_of_day = self.equity
        self.day_trades.append(0)
        for book in self.books.values():
            book.entries_today = 0
        if self.latched and self.halts.latch_reset == "next_session":
            self.latched = False
            self.peak = self.equity
            self.releases += 1

    # 2. Corporate actions

    def act(self, moment: Slice) -> None:
        for action in moment.actions:
            symbol = action.symbol
            book = self.books.setdefault(symbol, Book())
            if action.new != action.old:
                book.closes = {k: close * action.old / action.new for k, close in book.closes.items()}
                if book.entry:
                    self.drop_entry(symbol, book, Status.CANCELED, Reason.SPLIT)
                if book.lot:
                    self.split(symbol, book, action)
            if book.lot:
                amount = book.lot.side * book.lot.shares * action.dividend
                self.cash += amount
                self.dividends += amount

    def split(self, symbol: str, book: Book, action: Action) -> None:
        """Shares and prices of a lot and of its orders are rescaled; a fraction of a share is settled in cash."""
        lot = book.lot
        assert lot is not None
        shares = Fraction(lot.shares * action.new, action.old)
        fraction = shares - math.floor(shares)
        against_us = math.floor if lot.side == Side.BUY else math.ceil
        amount = TICK * against_us(fraction * ticks(book.mark) * action.old / action.new)
        cost = TICK * math.floor(fraction / shares * ticks(lot.cost))
        if shares < 1:
            if lot.legs:
                self.drop_legs(symbol, lot, Status.CANCELED, Reason.SPLIT)
            if lot.exit:
                order = lot.exit
                self.report_update(symbol, order.ts, order.leg, Status.CANCELED, lot.shares, Reason.SPLIT)
                lot.exit = None
        self.take_out(lot, amount, cost)
        lot.shares = math.floor(shares)
        lot.basis = lot.basis * action.old / action.new
        lot.best = rescaled(lot.best, action, TICK)
        lot.worst = rescaled(lot.worst, action, TICK)
        book.mark = rescaled(book.mark, action, TICK)
        book.half = TICK * math.ceil(Fraction(ticks(book.half) * action.old, action.new))
        if lot.legs:
            lot.legs.target = rescaled(lot.legs.target, action, CENT)
            lot.legs.stop = rescaled(lot.legs.stop, action, CENT)
        if lot.shares == 0:
            self.report_trade(symbol, lot, Reason.SPLIT)
            book.lot = None

    def take_out(self, lot: Lot, amount: Decimal, cost: Decimal) -> None:
        """A part of a lot that had cost so much is gone, for that amount."""
        self.cash += lot.side * amount
        self.realised += lot.side * (amount - cost)
        lot.cost -= cost
        lot.proceeds += amount

    # 3. Fills

    def fill_orders(self, moment: Slice) -> None:
        partly_filled: list[tuple[str, Entry]] = []
        for symbol, book in self.in_order():
            if symbol not in moment.bars or not (book.lot or book.entry):
                continue
            bar = moment.bars[symbol]
            room = self.room(bar)
            if book.entry:
                entry = book.entry
                room -= self.fill_entry(symbol, book, bar, room)
                if book.lot and book.lot.shares < entry.quantity:
                    partly_filled.append((symbol, entry))
            if book.lot and book.lot.exit:
                self.fill_exit(symbol, book, bar, room)
            elif book.lot and book.lot.legs:
                self.fill_legs(symbol, book, bar, room)
            if book.lot:
                widen(book.lot, money(bar.high), money(bar.low))
            book.mark = money(bar.close)
            if quoted(bar):
                book.half = half_spread(bar)
        for symbol, entry in partly_filled:
            self.protect(symbol, entry)

    def room(self, bar: Bar) -> int:
        return math.floor(Decimal(bar.volume) * self.volume_bps / 10_000)

    def fill_price(self, side: Side, book: Book, raw: Decimal) -> Decimal:
        return max(TICK, raw + side * (share_up(raw, self.venue.slippage_bps) + book.half))

    def fill_entry(self, symbol: str, book: Book, bar: Bar, room: int) -> int:
        """A pending entry meets a bar; how many shares were bought or sold short."""
        entry, raw = book.entry, money(bar.open)
        assert entry is not None
        if not min(entry.stop, entry.target) < raw < max(entry.stop, entry.target):
            self.drop_entry(symbol, book, Status.REJECTED, Reason.STALE_BASE)
            return 0
        if room == 0:
            return 0
        shares = min(entry.quantity, room)
        price = self.fill_price(entry.side, book, raw)
        if price * shares + self.commission > self.cash - self.collateral():
            self.drop_entry(symbol, book, Status.REJECTED, Reason.INSUFFICIENT_CASH)
            return 0

        cost = price * shares
        self.cash -= entry.side * cost + self.commission
        self.fees += self.commission
        book.entry = None
        book.lot = Lot(
            side=entry.side,
            order_ts=entry.ts,
            entry_ts=self.now,
            entry_count=self.count,
            entry_session=self.session or 0,
            bought=shares,
            paid=cost,
            basis=ticks(cost) / shares,
            shares=shares,
            cost=cost,
            fees=self.commission,
            best=price,
            worst=price,
        )
        self.report_fill(symbol, entry.side, shares, price, entry.ts, Leg.ENTRY, Reason.NONE, raw)
        self.watch(entry.side, price, raw)
        if shares == entry.quantity:
            self.report_update(symbol, entry.ts, Leg.ENTRY, Status.FILLED, shares, Reason.NONE)
            book.lot.legs = Legs(entry.ts, entry.target, entry.stop, oco=False)
        else:
            rest = entry.quantity - shares
            self.report_update(symbol, entry.ts, Leg.ENTRY, Status.PARTIALLY_FILLED, shares, Reason.NONE)
            self.report_update(symbol, entry.ts, Leg.ENTRY, Status.CANCELED, rest, Reason.PARTIAL_ENTRY)
        return shares

    def fill_exit(self, symbol: str, book: Book, bar: Bar, room: int) -> None:
        """A pending exit or a triggered stop closes at the open."""
        assert book.lot is not None
        assert book.lot.exit is not None
        shares, raw = min(book.lot.shares, room), money(bar.open)
        if shares > 0:
            order = book.lot.exit
            self.reduce(symbol, book, shares, self.fill_price(opposite(book.lot), book, raw), raw, order)

    def fill_legs(self, symbol: str, book: Book, bar: Bar, room: int) -> None:
        """The stop before the target."""
        lot = book.lot
        assert lot is not None
        assert lot.legs is not None
        shares, legs = min(lot.shares, room), lot.legs
        if shares == 0:
            return
        long = lot.side == Side.BUY
        if (money(bar.low) <= legs.stop) if long else (money(bar.high) >= legs.stop):
            raw = (min if long else max)(legs.stop, money(bar.open))
            held = lot.shares
            stop = Exit(legs.ts, legs.stop_loss, Reason.STOP_LOSS)
            self.reduce(symbol, book, shares, self.fill_price(opposite(lot), book, raw), raw, stop)
            self.report_update(symbol, legs.ts, legs.take_profit, Status.CANCELED, held, Reason.SIBLING)
            lot.legs, lot.exit = None, stop
        elif (money(bar.high) >= legs.target) if long else (money(bar.low) <= legs.target):
            raw = (max if long else min)(legs.target, money(bar.open))
            raw = max(raw, TICK)
            held = lot.shares
            target = Exit(legs.ts, legs.take_profit, Reason.TAKE_PROFIT)
            self.reduce(symbol, book, shares, raw, raw, target)
            if book.lot is None:
                self.report_update(symbol, legs.ts, legs.stop_loss, Status.CANCELED, held, Reason.SIBLING)

    def reduce(self, symbol: str, book: Book, shares: int, price: Decimal, raw: Decimal, order: Exit) -> None:
        """Book a fill that closes some shares of a lot; the last ones close it."""
        lot = book.lot
        assert lot is not None
        cost = (lot.cost * shares / lot.shares).quantize(TICK, ROUND_FLOOR)
        self.take_out(lot, price * shares, cost)
        self.cash -= self.commission
        self.fees += self.commission
        lot.shares -= shares
        lot.fees += self.commission
        closed = lot.shares == 0
        status = Status.FILLED if closed else Status.PARTIALLY_FILLED
        self.report_fill(symbol, opposite(lot), shares, price, order.ts, order.leg, order.reason, raw)
        self.report_update(symbol, order.ts, order.leg, status, shares, order.reason)
        self.watch(opposite(lot), price, raw)
        if closed:
            self.day_trades[-1] += lot.entry_session == self.session
            widen(lot, price, price)
            self.report_trade(symbol, lot, order.reason)
            book.lot = None
            book.last_action = self.now

    def watch(self, side: Side, price: Decimal, expected: Decimal) -> None:
        """Remember a fill that was far dearer than expected."""
        slip = side * (price - expected)
        expected = max(expected, TICK)
        if slip * 10_000 > self.guard_bps * expected:
            self.slip = self.now, ratio(slip, expected)

    def protect(self, symbol: str, entry: Entry) -> None:
        """The pair with the bracket's prices for what was bought of it."""
        lot = self.books[symbol].lot
        assert lot is not None
        lot.legs = Legs(self.now, entry.target, entry.stop, oco=True)
        self.report_legs(symbol, lot.side, lot.legs, lot.shares, lot.order_ts, Reason.PARTIAL_ENTRY)

    def expire_orders(self, moment: Slice) -> None:
        """In a session's last slice."""
        if moment.phase != Phase.LAST:
            return
        for symbol, book in self.in_order():
            lot = book.lot
            if book.entry:
                self.drop_entry(symbol, book, Status.EXPIRED, Reason.DAY_ORDER)
            if lot and lot.exit:
                order = lot.exit
                self.report_update(symbol, order.ts, order.leg, Status.EXPIRED, lot.shares, Reason.DAY_ORDER)
                lot.exit = None
            if lot and lot.legs and self.venue.time_in_force == "day":
                self.drop_legs(symbol, lot, Status.EXPIRED, Reason.DAY_ORDER)

    # 4. Exits

    def send_exits(self, moment: Slice) -> None:
        for symbol, book in self.in_order():
            lot = book.lot
            if lot is None or lot.exit is not None:
                continue
            reason = self.exit_reason(book, lot, moment, moment.bars.get(symbol))
            if reason == Reason.NONE:
                continue
            self.send_exit(symbol, book, reason)

    def send_exit(self, symbol: str, book: Book, reason: Reason) -> None:
        lot = book.lot
        assert lot is not None
        if lot.legs:
            self.drop_legs(symbol, lot, Status.CANCELED, Reason.SIBLING)
        lot.exit = Exit(self.now, Leg.EXIT, reason)
        book.last_action = self.now
        self.report_order(symbol, opposite(lot), lot.shares, Kind.MARKET, Leg.EXIT, lot.order_ts, reason, book.mark)

    def exit_reason(self, book: Book, lot: Lot, moment: Slice, bar: Bar | None) -> Reason:
        """The first that applies, or NONE."""
        gain = lot.side * (book.mark * lot.shares - lot.cost)
        given_back = lot.side * (lot.best - book.mark)
        held = self.count - lot.entry_count
        if self.killed and self.halts.kill_flatten:
            return Reason.KILL_SWITCH
        if self.latched:
            return Reason.DRAWDOWN
        if not lot.legs and gain <= -share_up(lot.cost, self.stop_loss_bps):
            return Reason.STOP_LOSS
        if given_back * 10_000 >= self.trailing_bps * lot.best:
            return Reason.TRAILING_STOP
        if not lot.legs and gain >= share_up(lot.cost, self.take_profit_bps):
            return Reason.TAKE_PROFIT
        if 0 < self.exits.max_holding_bars <= held:
            return Reason.TIME_EXIT
        if self.exits.end_of_day and moment.phase == Phase.EVE:
            return Reason.END_OF_DAY
        if bar is not None and bar.direction == opposite(lot):
            return Reason.SIGNAL_FLIP
        return Reason.NONE

    def cancel_entries_at_end_of_day(self, moment: Slice) -> None:
        if self.exits.end_of_day and moment.phase == Phase.EVE:
            self.cancel_entries(Reason.END_OF_DAY)

    # 5. Halts

    def halt(self, moment: Slice) -> None:
        exposure = self.exposure()
        self.equity = self.cash + self.value()
        self.peak = max(self.peak, self.equity)
        self.high = max(self.high, self.equity)
        loss = self.start_of_day - self.equity
        fall = self.peak - self.equity
        kills = not self.killed and loss >= share_up(self.start_of_day, self.kill_loss_bps)
        latches = not self.latched and fall >= share_up(self.peak, self.drawdown_bps)
        if kills:
            self.kill()
        if latches:
            self.latched = True
            self.latches += 1
            self.cancel_entries(Reason.DRAWDOWN)
        if kills or latches:
            self.send_exits(moment)
        below = ratio(self.high - self.equity, self.high)
        row = (self.now, ticks(self.equity), ticks(self.cash), ticks(exposure), below)
        self.ledger.equity.append(row)

    def kill(self) -> None:
        """The switch goes on; a leave to enter that is needed is gone."""
        self.killed = True
        self.allowed = self.allowed and not self.halts.needs_approval
        self.cancel_entries(Reason.KILL_SWITCH)

    def drawdown(self) -> float:
        return ratio(self.peak - self.equity, self.peak)

    def exposure(self) -> Decimal:
        """Long and short lots at their marks."""
        return sum((book.mark * book.lot.shares for book in self.books.values() if book.lot), ZERO)

    def value(self) -> Decimal:
        """The same, what is owed of short lots negative."""
        return sum((book.lot.side * book.mark * book.lot.shares for book in self.books.values() if book.lot), ZERO)

    def collateral(self) -> Decimal:
        """Cash behind short lots: what they brought, and as much again."""
        lots = (book.lot for book in self.books.values() if book.lot)
        return sum((2 * lot.cost for lot in lots if lot.side == Side.SELL), ZERO)

    # 6. Rules, sizing, orders

    def send_entries(self, moment: Slice) -> None:
        candidates = [
            (symbol, bar)
            for symbol, bar in moment.bars.items()
            if bar.reason == Reason.NONE
            and not (self.books[symbol].lot and bar.direction == opposite(self.books[symbol].lot))
        ]
        for symbol, bar in sorted(candidates, key=lambda row: (-row[1].confidence, row[0])):
            reason, measured, limit = self.objection(symbol, bar)
            approved = reason == Reason.NONE
            cvar = self.own_shortfall(symbol, bar) if approved else 2.0627 * bar.volatility
            score = self.score(symbol, bar, cvar)
            max_loss = ZERO
            if approved:
                price = money(bar.close)
                shares = self.size(symbol, bar)
                measured, limit = float(price * shares), float(self.notional(bar))
                self.send_bracket(symbol, bar, shares)
                max_loss = shares * abs(price - self.bracket(bar.direction, price)[1])
                if bar.q10 is not None:
                    max_loss = shares * Decimal(round(ticks(price) * abs(bar.q10))) / 10_000
            told = (reason, measured, limit, bar.confidence, cvar, score, ticks(max_loss))
            self.page.verdicts.append((self.now, symbol, bar.direction, approved, *told))

    def objection(self, symbol: str, bar: Bar) -> tuple[Reason, float, float]:
        """The first rule that objects, what it measured, and its limit; or NONE."""
        book, rules = self.books[symbol], self.rules
        price = money(bar.close)
        target, stop = self.bracket(bar.direction, price)
        loss = self.start_of_day - self.equity
        position_cap = self.position_cap(symbol)
        sector, sector_cap = self.in_sector(symbol) + price, share_of(self.equity, self.max_sector_bps)
        wildest = self.volatility_of.get(symbol, rules.max_volatility)
        total = self.exposure() + self.reserved() + price
        available = self.cash - self.collateral() - self.reserved()
        last_minute = sum(self.now - ts < MINUTE for ts in self.entries_sent)
        rested = None if book.last_action is None else self.now - book.last_action

        if self.killed:
            return Reason.KILL_SWITCH, 1.0, 0.0
        if not self.allowed or (self.allowed_until is not None and self.now > self.allowed_until):
            return Reason.REVOKED, 1.0, 0.0
        if price < TICK:
            return Reason.STATE_UNKNOWN, float(price), 0.0
        if self.latched:
            return Reason.DRAWDOWN, self.drawdown(), self.drawdown_bps / 10_000
        if loss >= share_up(self.start_of_day, self.daily_loss_bps):
            return Reason.DAILY_LOSS, ratio(loss, self.start_of_day), self.daily_loss_bps / 10_000
        if bar.direction == Direction.SHORT and not rules.allow_short:
            return Reason.NO_POSITION, -1.0, 0.0
        if bar.confidence < rules.min_confidence:
            return Reason.LOW_CONFIDENCE, bar.confidence, rules.min_confidence
        if math.isnan(bar.volatility) or bar.volatility > wildest:
            return Reason.VOLATILITY, bar.volatility, wildest
        if book.lot:
            return Reason.POSITION_HELD, float(book.lot.shares), 0.0
        if book.entry:
            return Reason.ORDER_PENDING, float(book.entry.quantity), 0.0
        if price > position_cap:
            return Reason.POSITION_CAPACITY, float(price), float(position_cap)
        if total > self.max_total_exposure:
            return Reason.TOTAL_EXPOSURE, float(total), float(self.max_total_exposure)
        if price > self.max_symbol_exposure:
            return Reason.SYMBOL_EXPOSURE, float(price), float(self.max_symbol_exposure)
        if price > available:
            return Reason.BUYING_POWER, float(price), float(available)
        if sector > sector_cap:
            return Reason.SECTOR_EXPOSURE, float(sector), float(sector_cap)
        correlation = self.mean_correlation(symbol, bar)
        if correlation is not None and correlation > rules.max_correlation and rules.max_correlation < 1.0:
            return Reason.CORRELATION, correlation, rules.max_correlation
        shortfall = self.marginal_shortfall(symbol, bar)
        if shortfall > rules.max_cvar_pct:
            return Reason.CVAR, shortfall, rules.max_cvar_pct
        if last_minute >= rules.max_orders_per_minute:
            return Reason.ORDERS_PER_MINUTE, float(last_minute), float(rules.max_orders_per_minute)
        if book.entries_today >= rules.max_orders_per_symbol_per_day:
            sent, most = book.entries_today, rules.max_orders_per_symbol_per_day
            return Reason.ORDERS_PER_SYMBOL, float(sent), float(most)
        if len(self.pending()) >= rules.max_open_orders:
            return Reason.OPEN_ORDERS, float(len(self.pending())), float(rules.max_open_orders)
        if rested is not None and rested < rules.cooldown_seconds * SECOND:
            return Reason.COOLDOWN, rested / SECOND, float(rules.cooldown_seconds)
        guard_minutes = self.halts.slippage_guard_minutes
        if self.slip is not None and self.now - self.slip[0] < guard_minutes * MINUTE:
            return Reason.SLIPPAGE_GUARD, self.slip[1], self.guard_bps / 10_000
        day_trades = self.possible_day_trades()
        if self.equity < self.day_trade_equity and day_trades >= rules.max_day_trades:
            return Reason.PATTERN_DAY_TRADER, float(day_trades), float(rules.max_day_trades)
        if price > self.notional(bar):
            return Reason.TOO_SMALL, float(price), float(self.notional(bar))
        ordered = stop < price < target if bar.direction == Direction.LONG else target < price < stop
        if not ordered or stop <= 0 or target <= 0:
            return Reason.BRACKET_UNPLACEABLE, float(stop), float(price)
        return Reason.NONE, 0.0, 0.0

    def bracket(self, side: int, price: Decimal) -> tuple[Decimal, Decimal]:
        """Target and stop."""
        target = nearest_cent(price + side * share_of(price, self.take_profit_bps))
        stop = nearest_cent(price - side * share_of(price, self.stop_loss_bps))
        return target, stop

    def position_cap(self, symbol: str) -> Decimal:
        share = self.position_pct_of.get(symbol)
        return share_of(self.equity, self.max_position_bps if share is None else basis_points(share))

    def in_sector(self, symbol: str) -> Decimal:
        """What is held and reserved in the symbol's sector; one without a sector is alone in its own."""
        of = self.sector_of
        there = [self.books[name] for name in self.books if of.get(name, (name,)) == of.get(symbol, (symbol,))]
        held = sum((book.mark * book.lot.shares for book in there if book.lot), ZERO)
        return held + sum((book.entry.price * book.entry.quantity for book in there if book.entry), ZERO)

    def possible_day_trades(self) -> int:
        """In five sessions, those included that what was entered today may still become."""
        lots = [book.lot for book in self.books.values() if book.lot and book.lot.entry_session == self.session]
        return sum(self.day_trades[-5:]) + len(lots) + len(self.pending())

    def notional(self, bar: Bar) -> Decimal:
        if self.rules.weight_by_confidence:
            return share_of(self.max_notional, math.floor(bar.confidence * 10_000))
        return self.max_notional

    def size(self, symbol: str, bar: Bar) -> int:
        price = money(bar.close)
        amounts = (
            self.notional(bar),
            self.position_cap(symbol),
            self.max_total_exposure - self.exposure() - self.reserved(),
            self.max_symbol_exposure,
            self.cash - self.collateral() - self.reserved(),
            share_of(self.equity, self.max_sector_bps) - self.in_sector(symbol),
        )
        return min(self.rules.max_shares, *(math.floor(amount / price) for amount in amounts))

    # Returns: floats, summed from the oldest to the newest

    def returns(self, symbol: str) -> list[float | None]:
        """Of the last slices; None where a bar is missing, now or just before."""
        closes, answer = self.books[symbol].closes, []
        for k in range(self.count - self.rules.returns_window + 1, self.count + 1):
            both = k in closes and k - 1 in closes
            answer.append(closes[k] / closes[k - 1] - 1.0 if both else None)
        return answer

    def known(self, symbol: str) -> list[float]:
        return [one for one in self.returns(symbol) if one is not None]

    def enough(self, symbol: str) -> bool:
        return len(self.known(symbol)) >= self.rules.min_returns

    def taken(self) -> list[tuple[str, int, Decimal]]:
        """What is held or on order: name, side, value."""
        answer: list[tuple[str, int, Decimal]] = []
        for name, book in self.in_order():
            if book.lot:
                answer.append((name, book.lot.side, book.mark * book.lot.shares))
            if book.entry:
                answer.append((name, book.entry.side, book.entry.price * book.entry.quantity))
        return answer

    def mean_correlation(self, symbol: str, bar: Bar) -> float | None:
        """Over all pairs; |Σ y|² = names + 2 Σ correlations, of series y with mean 0 and |y| = 1."""
        series = {
            name: self.standardised(name, side) for name, side, _ in [(symbol, bar.direction, ZERO), *self.taken()]
        }
        if series[symbol] is None:
            return None
        there = [one for one in series.values() if one is not None]
        if len(there) < 2:
            return None
        total = there[0]
        for one in there[1:]:
            total = [a + b for a, b in zip(total, one, strict=True)]
        square = 0.0
        for one in total:
            square += one * one
        return (square - len(there)) / (len(there) * (len(there) - 1))

    def standardised(self, symbol: str, side: int) -> list[float] | None:
        if not self.enough(symbol):
            return None
        mean = 0.0
        for one in self.known(symbol):
            mean += one
        mean /= len(self.known(symbol))
        apart = [0.0 if one is None else side * (one - mean) for one in self.returns(symbol)]
        square = 0.0
        for one in apart:
            square += one * one
        return [one / math.sqrt(square) for one in apart] if square > 0.0 else None

    def own_shortfall(self, symbol: str, bar: Bar) -> float:
        if not self.enough(symbol):
            return 2.0627 * bar.volatility
        profits = [None if one is None else bar.direction * one for one in self.returns(symbol)]
        return tail_loss(profits, profits)

    def marginal_shortfall(self, symbol: str, bar: Bar) -> float:
        value = ticks(money(bar.close) * max(self.size(symbol, bar), 1))
        if not self.enough(symbol):
            return 2.0627 * bar.volatility * value / ticks(self.equity)
        part = [None if one is None else one * (bar.direction * value) for one in self.returns(symbol)]
        whole = list(part)
        for name, side, worth in self.taken():
            for k, one in enumerate(self.returns(name)):
                if one is not None and whole[k] is not None:
                    whole[k] += side * ticks(worth) * one
        return tail_loss(whole, part) / ticks(self.equity)

    def score(self, symbol: str, bar: Bar, cvar: float) -> float:
        wildest = self.volatility_of.get(symbol, self.rules.max_volatility)
        day = ratio(abs(self.start_of_day - self.equity), share_of(self.equity, self.daily_loss_bps))
        parts = (0.3 * capped(bar.volatility / wildest), 0.2 * (1.0 - bar.confidence), 0.3 * capped(cvar / 0.05))
        return capped(parts[0] + parts[1] + parts[2] + 0.2 * capped(day))

    def send_bracket(self, symbol: str, bar: Bar, shares: int) -> None:
        book, price = self.books[symbol], money(bar.close)
        side = Side.BUY if bar.direction == Direction.LONG else Side.SELL
        target, stop = self.bracket(side, price)
        book.entry = Entry(self.now, side, shares, price, target, stop)
        book.half = half_spread(bar)
        book.entries_today += 1
        book.last_action = self.now
        self.entries_sent.append(self.now)
        self.report_order(symbol, side, shares, Kind.MARKET, Leg.ENTRY, self.now, Reason.NONE, price)
        self.report_legs(symbol, side, Legs(self.now, target, stop, oco=False), shares, self.now, Reason.NONE)

    # Open orders

    def in_order(self) -> list[tuple[str, Book]]:
        return sorted(self.books.items())

    def pending(self) -> list[Entry]:
        return [book.entry for book in self.books.values() if book.entry]

    def reserved(self) -> Decimal:
        return sum((entry.price * entry.quantity for entry in self.pending()), ZERO)

    def cancel_entries(self, reason: Reason) -> None:
        for symbol, book in self.in_order():
            if book.entry:
                self.drop_entry(symbol, book, Status.CANCELED, reason)

    def drop_entry(self, symbol: str, book: Book, status: Status, reason: Reason) -> None:
        """Its legs were never live: of them nothing is reported."""
        assert book.entry is not None
        self.report_update(symbol, book.entry.ts, Leg.ENTRY, status, book.entry.quantity, reason)
        book.entry = None

    def drop_legs(self, symbol: str, lot: Lot, status: Status, reason: Reason) -> None:
        assert lot.legs is not None
        for leg in (lot.legs.take_profit, lot.legs.stop_loss):
            self.report_update(symbol, lot.legs.ts, leg, status, lot.shares, reason)
        lot.legs = None

    # What is reported

    def report_order(
        self,
        symbol: str,
        side: Side,
        qty: int,
        kind: Kind,
        leg: Leg,
        entry_ts: int,
        reason: Reason,
        price: Decimal,
    ) -> None:
        self.page.orders.append((self.now, symbol, side, qty, kind, leg, entry_ts, reason, ticks(price)))

    def report_legs(self, symbol: str, entry: Side, legs: Legs, qty: int, entry_ts: int, reason: Reason) -> None:
        side = Side.SELL if entry == Side.BUY else Side.BUY
        self.report_order(symbol, side, qty, Kind.LIMIT, legs.take_profit, entry_ts, reason, legs.target)
        self.report_order(symbol, side, qty, Kind.STOP, legs.stop_loss, entry_ts, reason, legs.stop)

    def report_update(self, symbol: str, order_ts: int, leg: Leg, status: Status, qty: int, reason: Reason) -> None:
        self.page.updates.append((self.now, symbol, order_ts, leg, status, qty, reason))

    def report_fill(
        self,
        symbol: str,
        side: Side,
        qty: int,
        price: Decimal,
        order_ts: int,
        leg: Leg,
        reason: Reason,
        expected: Decimal,
    ) -> None:
        fee = ticks(self.commission)
        self.page.fills.append((self.now, symbol, side, qty, ticks(price), fee, order_ts, leg, reason, ticks(expected)))

    def report_trade(self, symbol: str, lot: Lot, reason: Reason) -> None:
        mae, mfe = (lot.side * (ticks(price) / lot.basis - 1.0) for price in (lot.worst, lot.best))
        amounts = (lot.paid, lot.proceeds, lot.fees, lot.side * (lot.proceeds - lot.paid) - lot.fees)
        times = (lot.order_ts, lot.entry_ts, self.now)
        self.page.trades.append((symbol, *times, lot.side, lot.bought, *map(ticks, amounts), reason, mae, mfe))

    def turn_page(self) -> None:
        """The rows of this slice by symbol; those of one symbol as they happened."""
        for name, column in {"verdicts": 1, "orders": 1, "updates": 1, "fills": 1, "trades": 0}.items():
            rows = getattr(self.page, name)
            getattr(self.ledger, name).extend(sorted(rows, key=lambda row, at=column: row[at]))
        self.page = Ledger()

    # What holds always

    def check(self) -> None:
        books = self.books.values()
        cost = sum((book.lot.side * book.lot.cost for book in books if book.lot), ZERO)
        assert self.cash + cost + self.fees - self.realised - self.dividends == self.initial_cash
        # only the commission of a sale may overdraw, or a short lot
        assert self.cash >= 0 or self.commission > 0 or self.rules.allow_short
        assert self.equity == self.cash + self.value()
        assert not any(book.entry and book.lot for book in books)
        assert not any(book.lot.legs and book.lot.exit for book in books if book.lot)
        assert all(book.lot.shares > 0 for book in books if book.lot)


def tail_loss(profits: list[float | None], parts: list[float | None]) -> float:
    """Mean loss of the parts in the worst twentieth of the profits: at or below the 5th percentile."""
    known = sorted(one for one in profits if one is not None)
    edge = known[math.floor(0.05 * (len(known) - 1) + 1e-9)]
    total, count = 0.0, 0
    for profit, part in zip(profits, parts, strict=True):
        if profit is not None and part is not None and profit <= edge:
            total += part
            count += 1
    return -total / count


def capped(part: float) -> float:
    return 1.0 if math.isnan(part) else min(part, 1.0)


def opposite(lot: Lot) -> Side:
    """Of the orders that close it."""
    return Side.SELL if lot.side == Side.BUY else Side.BUY


def widen(lot: Lot, high: Decimal, low: Decimal) -> None:
    """Best and worst price, seen from the lot's side."""
    if lot.side == Side.BUY:
        lot.best, lot.worst = max(lot.best, high), min(lot.worst, low)
    else:
        lot.best, lot.worst = min(lot.best, low), max(lot.worst, high)


def rescaled(price: Decimal, action: Action, grid: Decimal) -> Decimal:
    """A price in the shares after a split, to the nearest of the grid, a half up."""
    count = Fraction(price) * action.old / action.new / Fraction(grid)
    return (math.floor(count + Fraction(1, 2)) * grid).quantize(TICK)


def quoted(bar: Bar) -> bool:
    return bar.half_spread is not None and not math.isnan(bar.half_spread)


def half_spread(bar: Bar) -> Decimal:
    """Half the quoted spread, up to the next tick; 0 without a quote."""
    return rounded_up(bar.half_spread) if quoted(bar) else ZERO
