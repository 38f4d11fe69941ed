"""One day of the synthetic market at the exchange is the backtest of that day: orders, fills, money.

The account hears an exchange through the desk, in lockstep with the slices of a real account log. Prices touch what
legs wait for, orders are filled at the next slice's open as in the simulation, and nothing slips: then nothing differs.
"""

import random
import time
from collections import defaultdict
from dataclasses import replace

import pytest

from broker import guard, safety
from broker.desk import Desk
from broker.exchange import Exchange
from broker.guard import Exposure
from broker.intervals import Params
from broker.journal import Journal
from broker.progress import Progress
from broker.safety import Gates, Keys
from broker.simulated import SimulatedBroker
from broker.submitter import Submitter
from broker.updates import TradeUpdates
from dataflows import account_log, pipeline
from dataflows.execution import session
from dataflows.execution_reports import event
from dataflows.ingest import grid
from dataflows.live import writer_of
from infra.bars import open_bars
from infra.settings import load
from operators import barrier
from risk import account
from schemas import codec
from schemas.events import Leg, Phase
from schemas.frames import NO_FLOATS
from schemas.identity import iso
from schemas.records import Order
from schemas.units import NS_PER_MINUTE, to_ticks
from tests.broker.protection import Watch
from tests.broker.rooms import Quick

SOURCE = "synthetic:symbols=20,days=3,seed=11,timeframe=5m"
SETS = ["live.timeframe=5m", "rules.cooldown_seconds=60", "rules.max_orders_per_minute=1000", "venue.slippage_bps=0"]
OPEN = guard.Params(cooldown_seconds=0, max_orders_per_minute=1_000_000, max_orders_per_symbol_per_day=1_000_000,
                    max_notional_usd=10**9, max_total_exposure_usd=10**9, max_symbol_exposure_usd=10**9,
                    slippage_times=1_000)  # fmt: skip


class Venue:
    """The exchange and the desk, in this thread."""

    def __init__(self, settings, folder, calendar, start, slip=0, room=lambda: None):
        params = safety.Params(kind="exchange", dry_run=False, approval_file=str(folder / "a"),
                               approval_key_file=str(folder / "k"))  # fmt: skip
        name, self.slip, self.room = settings.run.account, slip, room
        safety.approve(params, issuer="ann", account=name, scope="entries", minutes=60, now=time.time_ns())
        self.exchange, clock = Exchange(round(settings.cash.initial_cash_usd), now=start), Quick()
        self.broker, self.journal, self.told = SimulatedBroker(self.exchange), Journal(), []
        self.broker.clock = clock
        gates = Gates(params, safety.endpoint("exchange", "http://127.0.0.1:1"), Keys("TEST", "x"), name, enabled=True)
        submitter = Submitter(self.broker, gates, OPEN, lambda: Exposure(0, {}, 0), session, clock)
        self.updates = TradeUpdates(self.broker, Progress(name), self._deliver, 0)
        self.desk = Desk(name, submitter, self.updates, self.journal, self._deliver, Params(retry_seconds=0.001),
                         calendar.timeframe * NS_PER_MINUTE)  # fmt: skip

    def _deliver(self, reports):
        for report in reports:
            self.journal.take(report)
        self.told += reports

    def settle(self, now):
        """Work off what was asked; then everything waits for the next price."""
        for _ in range(200):
            self.desk.step(now)
            if self.desk.is_idle:
                break
            time.sleep(0.001)
        assert self.desk.is_idle

    def trade(self, symbol, prices):
        """A bar: its open (or `slip` ticks above), what legs wait for below and above it, its close.

        At each price `room()` of our shares may be filled, None: any number.
        """
        opened, high, low, close = prices
        stops, targets = [], []
        for order in self.exchange.orders.values():
            if order.symbol == symbol and order.open:
                stops += [order.stop] if low <= order.stop < opened else []
                targets += [order.limit] if opened < order.limit <= high else []
        for price in (opened + self.slip, *sorted(stops, reverse=True), low, *sorted(targets), high, close):
            self.exchange.quote(symbol, price, self.room())
        self.exchange.quote(symbol, close, 0)  # orders wait for the next bar


def slices_of(settings):
    """The scored slices that an account log would hold, one by one."""
    bars = open_bars(SOURCE, timeframe=settings.live.timeframe)
    params = pipeline.decide_params(settings, bars.timeframe)
    states, gate = defaultdict(lambda: pipeline.start(params)), barrier.start(bars.after)
    for chunk in bars.frames():
        for frame in chunk:
            states[frame.shard], decided = pipeline.step(params, states[frame.shard], frame)
            gate, whole = barrier.step_singly(gate, decided)
            yield from whole or ()


class Account:
    """The account over slices, and what it said: orders and cancels as its log has them, fills."""

    def __init__(self, settings):
        self.settings, self.calendar, self.writer = settings, grid(settings), writer_of(settings)
        self.state, self.sent, self.fills, self.ledgers = account.start(settings.account), [], [], []

    def act(self, one):
        """One record of the log; the orders that it caused."""
        self.state, ledger = account_log.step(self.calendar, self.settings.account, self.state, one)
        self.ledgers.append(ledger)
        orders = [codec.decode(Order, record.value) for record in self.writer.orders(ledger)]
        self.sent += [order.order_id for order in orders if order.action == "submit"]
        self.fills += [(ledger.names[row.symbol].decode(), int(row.ts), int(row.side), int(row.qty), int(row.price),
                        int(row.leg)) for row in ledger.fills]  # fmt: skip
        return orders

    @property
    def cash(self):
        return int(self.state.book.funds[0].cash)


def at_the_exchange(settings, slices, folder, **how):
    """The account whose orders go to the exchange; no shares lie there without a stop for longer than a slice."""
    one, venue, watch, offset = Account(settings), None, None, 0

    def hear(orders, now):
        nonlocal offset
        while True:
            for order in orders:
                venue.desk.take(order)
            venue.settle(now)
            venue.updates.catch_up()
            if not venue.told:
                return
            told, venue.told, orders = venue.told, [], []
            for report in told:
                orders += one.act(account_log.report_of(event(settings.run.account, report), offset))
                offset += 1

    for frame in slices:
        if venue is None:
            venue = Venue(settings, folder, one.calendar, frame.slices.upto, **how)
            watch = Watch(venue.exchange)
        venue.exchange.now = max(venue.exchange.now, frame.slices.after)
        for row in frame.order:
            name = frame.names[frame.symbol[row]].decode()
            venue.trade(name, [to_ticks(float(column[row])) for column in
                               (frame.open, frame.high, frame.low, frame.close)])  # fmt: skip
        if frame.slices.phase[-1] == Phase.LAST:
            venue.exchange.close_market()
        hear([], frame.slices.upto)
        venue.exchange.is_open = True
        hear(one.act(frame), frame.slices.upto)
        watch.close(iso(frame.slices.upto), venue.exchange.quotes)
    venue.watched = watch.reached
    return one, venue


@pytest.fixture(scope="module")
def slices():
    """Without quotes: half a spread is what the simulation adds to a price, and an exchange does not."""
    return [replace(frame, half_spread=NO_FLOATS) for frame in slices_of(load(None, SETS, {}))]


@pytest.mark.parametrize("exits", [(0.03, 0.015), (0.004, 0.003)])
def test_days_at_the_exchange_are_the_backtest_of_these_days(tmp_path, slices, exits):
    """With legs that are far, and with legs that are reached."""
    sets = [*SETS, f"exits.take_profit_pct={exits[0]}", f"exits.stop_loss_pct={exits[1]}"]
    simulated = Account(load(None, sets, {}))
    for frame in slices:
        simulated.act(frame)
    real, venue = at_the_exchange(load(None, [*sets, "venue.kind=broker"], {}), slices, tmp_path)
    assert len(simulated.fills) > 20
    if exits[0] < 0.01:
        assert {Leg.TAKE_PROFIT, Leg.STOP_LOSS, Leg.EXIT} <= {fill[-1] for fill in simulated.fills}
    assert real.sent == simulated.sent
    assert sorted(real.fills) == sorted(simulated.fills)
    assert real.cash == simulated.cash == venue.exchange.cash
    assert venue.exchange.held == {}


@pytest.mark.parametrize("seed", range(6))
def test_what_is_filled_in_parts_is_protected_within_a_slice(tmp_path, slices, seed):
    """By the exchange's ledger, slice by slice; then the account's fills are that ledger."""
    dice = random.Random(seed)
    sets = [*SETS, "exits.take_profit_pct=0.004", "exits.stop_loss_pct=0.003", "venue.kind=broker"]
    real, venue = at_the_exchange(load(None, sets, {}), slices, tmp_path,
                                  room=lambda: dice.choice([None, None, 0, 0, 1, 3, 8]))  # fmt: skip
    assert venue.watched["watched"] > 20
    partial = [order for order in venue.exchange.orders.values()
               if order.shape == "bracket" and order.side == "buy" and 0 < order.filled < order.qty]  # fmt: skip
    assert partial
    assert real.cash == venue.exchange.cash
    assert sum(fill[3] for fill in real.fills) == sum(fill.qty for fill in venue.exchange.fills)
    assert any("oco_take_profit" in name for name in real.sent)


def test_a_spread_changes_prices_and_nothing_else(tmp_path):
    """What differs from the backtest is what the exchange reports."""
    quoted = list(slices_of(load(None, SETS, {})))
    simulated = Account(load(None, SETS, {}))
    for frame in quoted:
        simulated.act(frame)
    real, _ = at_the_exchange(load(None, [*SETS, "venue.kind=broker"], {}), quoted, tmp_path)
    assert real.sent == simulated.sent
    ours, theirs = (sorted((*fill[:4], fill[5]) for fill in one.fills) for one in (real, simulated))
    assert ours == theirs
    assert real.cash > simulated.cash
