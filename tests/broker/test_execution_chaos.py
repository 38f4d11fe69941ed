"""Chaos through the log: kills of the service, answers lost after acceptance, streams cut and scrambled.

Then the topic of reports is the exchange's ledger, to the share and the tick, no order was placed twice, and by that
ledger no shares lay without a stop for longer than a slice. Some slices are so short that the next one comes in the
middle of things; the others last until all is done that can be done in them, and those are watched.

An account of a few lines follows `execution.reports` and writes `account.orders`; the service is the real one.
`HYPOTHESIS_PROFILE=long` runs 500 sessions.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

from broker.book import Book
from broker.port import FINAL
from dataflows.execution import Room, Service
from dataflows.execution_reports import Undelivered
from schemas.events import Leg
from tests.broker.executing import cancels, floor, until
from tests.broker.protection import Watch
from tests.broker.rooms import ACCOUNT, entry, exit_, oco
from tests.broker.test_chaos import Chaos, Killed

SESSIONS = 500 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 30
SLICES = 8
SYMBOLS = ("AAPL", "MSFT")
REACHED = Counter()
# entries of a session that was interrupted must still be sent, answers are waited for briefly
QUICK = ("broker.timeout_seconds=0.3", "broker.entry_seconds=1", "broker.exit_seconds=1", "execution.doubt_seconds=0.5",
         "execution.legs_seconds=0.3")  # fmt: skip


class Mortal:
    """The service in this process, which dies between any two of its acts and is started again."""

    def __init__(self, place, chaos):
        self.place, self.chaos, self.room, self.thread = place, chaos, None, None

    def start(self):
        room = self.room = Room(self.place.settings(*QUICK), self.place.where, threading.Event())
        for broker in (room.broker, room.reader):
            broker._client._session.send = self.chaos.around(broker._client._session.send)
        deliver = room.log.deliver

        def delivering(told):
            chance = 1.0 if self.chaos.calm else self.chaos.dice.random()
            if chance < 0.01:
                raise Killed
            deliver(told)
            if chance < 0.04:
                REACHED["killed after a report was written"] += 1
                raise Killed

        room.log.deliver = delivering
        self.thread = threading.Thread(target=self._run, args=(room,), daemon=True)
        self.thread.start()

    def _run(self, room):
        try:
            Service(room, lambda line: None).run()
        except (Killed, Undelivered):  # the other thread heard of it first
            REACHED["killed"] += 1
        finally:
            room.stop.set()

    def tend(self):
        """Start it again if it is dead."""
        if not self.thread.is_alive():
            REACHED["restarts"] += 1
            self.room.close()
            self.start()

    def stop(self):
        self.room.stop.set()
        self.thread.join(30.0)
        assert not self.thread.is_alive()
        self.room.close()


class Account:
    """One lot and one entry or exit on its way per symbol, decided from the reports alone; protected by ruling 26."""

    def __init__(self, place, dice):
        self.place, self.dice, self.slice = place, dice, 0
        self.sent = {symbol: [] for symbol in SYMBOLS}  # requests, in order
        self.written = 0  # requests and cancels
        self.first = {}  # by entry: the slice in which it was first heard of, or had its first shares
        self.cancelled = {}  # by entry: the slice in which its end was last asked for

    def act(self, *, opens=True):
        """What the reports up to here ask for; `opens`: a new slice, in which something may be begun, too."""
        reports = self.place.reports()
        last = {one.order_id: one for one in reports}
        book = Book.of(reports)
        for symbol in SYMBOLS:
            self.decide(symbol, last, book.qty.get(symbol, 0), opens)

    def decide(self, symbol, last, held, opens):
        sent = self.sent[symbol]
        flying = [one for one in sent if one.id not in last or last[one.id].status not in FINAL]
        moving = [one for one in flying if one.leg in (Leg.ENTRY, Leg.EXIT)]
        price = self.place.exchange.quotes[symbol]
        if moving:
            if moving[0].leg is Leg.ENTRY:
                self.wait(moving[0], last, opens)
            return
        if held < 1:
            if opens and not flying and self.dice.random() < 0.8:
                self.send(entry(self.dice.randint(1, 9), price, self.slice, symbol))
            return
        lot = next(one for one in reversed(sent) if one.leg is Leg.ENTRY)
        later = [one for one in sent if one.id > lot.id]
        left = any(one.leg is Leg.EXIT for one in later)
        pair = next((one for one in later if one.leg is Leg.OCO_TAKE_PROFIT), None)
        partial = last[lot.id].filled_qty < lot.qty
        if partial and not left and pair is None:
            REACHED["pairs"] += 1
            self.send(oco(held, price, self.slice, symbol))
        elif (opens and self.dice.random() < 0.4) or left or (partial and pair not in flying):
            way_out = exit_(held, self.slice, symbol, price)
            if way_out.id not in {one.id for one in sent}:  # one a slice
                REACHED["exits"] += 1
                self.send(way_out)

    def wait(self, one, last, opens):
        """For an entry: a rest of what is filled in part is cancelled after a slice, others at will."""
        part = one.id in last and last[one.id].filled_qty > 0
        waited = self.first.setdefault((one.id, part), self.slice)
        if (
            self.slice > waited
            and self.cancelled.get(one.id) != self.slice
            and (part or (opens and self.dice.random() < 0.6))
        ):
            REACHED["rests cancelled"] += 1
            self.cancelled[one.id] = self.slice
            self.written += 1
            self.place.write(cancels(one.id))

    def is_done(self):
        """Whether nothing of what was asked for is still under way; an order may rest at the exchange."""
        last = {one.order_id: one for one in self.place.reports()}
        sent = [one.id for orders in self.sent.values() for one in orders]
        ends = [name for name, asked in self.cancelled.items() if asked == self.slice]
        return (all(name in last for name in sent) and all(last[name].status in FINAL for name in ends)
                and self.place.agrees())  # fmt: skip

    def send(self, order):
        self.sent[order.symbol].append(order)
        self.written += 1
        self.place.write(order)
        if self.dice.random() < 0.1:
            self.place.write(order)  # delivered twice: still one order


def trade(seed, kafka, folder):
    """One session, and what must be true after it."""
    chaos, dice = Chaos(seed), random.Random(f"market {seed}")
    with floor(kafka, folder, seed=seed, partial_one_in=dice.choice([0, 2])) as place:
        os.environ.update(place.environ)
        place.exchange.judges_id_last = dice.random() < 0.5
        account, service = Account(place, random.Random(f"account {seed}")), Mortal(place, chaos)
        watch = Watch(place.exchange)
        place.server.faults, place.server.scramble = chaos, chaos.scramble
        service.start()
        try:
            for account.slice in range(SLICES):
                with place.server.control() as exchange:
                    exchange.cancel_lag = dice.random() < 0.2
                    for symbol in SYMBOLS:
                        price = exchange.quotes[symbol] * dice.randint(988, 1_012) // 100_000 * 100
                        exchange.quote(symbol, price, dice.choice([None, None, 0, 2, 4]))
                    exchange.settle()
                if dice.random() < 0.15:
                    place.server.close_streams()
                account.act()
                whole = not exchange.cancel_lag and dice.random() < 0.5
                if whole:
                    finish(place, account, service, seed)
                else:
                    time.sleep(dice.choice([0.0, 0.05, 0.3]))
                with place.server.control():
                    watch.close(account.slice, SYMBOLS, () if whole else SYMBOLS)
                service.tend()
            chaos.calm = True
            with place.server.control() as exchange:
                exchange.cancel_lag = False
                exchange.settle()
            for account.slice in range(SLICES, SLICES + 2):
                account.act(opens=False)
                finish(place, account, service, seed)
                with place.server.control():
                    watch.close(account.slice, SYMBOLS)
            assert not any(watch.naked.values()), f"seed {seed}: {watch.naked}"
            with place.server.control() as exchange:
                for symbol in SYMBOLS:
                    exchange.quote(symbol, exchange.quotes[symbol])
            settled = until(lambda: (service.tend(), answered(place, account) and place.agrees())[1], 90.0)
            assert settled, f"seed {seed}: {place.said()} {[o.id for s in account.sent.values() for o in s]}"
        finally:
            chaos.calm = True
            service.stop()
            REACHED.update(watch.reached)
        verify(place, account, seed)


def finish(place, account, service, seed):
    """The slice lasts until all is done that can be done in it, whatever dies meanwhile."""

    def done():
        service.tend()
        settled, sent = account.is_done(), account.written
        account.act(opens=False)  # by reports that are no older than those it is settled by
        return settled and account.written == sent

    assert until(done, 60.0), f"seed {seed}, slice {account.slice}: {place.said()} {account.cancelled}"


def answered(place, account):
    """Whether every order has been heard of, and nothing moves."""
    last = {one.order_id: one for one in place.reports()}
    sent = [one for orders in account.sent.values() for one in orders]
    return all(one.id in last and (one.leg is Leg.OCO_TAKE_PROFIT or last[one.id].status in FINAL) for one in sent)


def verify(place, account, seed):
    exchange, reports = place.exchange, place.reports()
    ours = [order for order in exchange.orders.values() if order.client_id.startswith(f"{ACCOUNT}|")]
    assert len({order.client_id for order in ours}) == len(ours), f"seed {seed}"
    wanted = {one.id: one for orders in account.sent.values() for one in orders}
    for order in ours:
        one = wanted[order.client_id]
        assert order.symbol == one.symbol
        assert order.qty == one.qty or (one.leg is Leg.EXIT and order.qty < one.qty)
    assert [one.status for one in reports if not one.broker_id and one.order_id in {o.client_id for o in ours}] == []
    ids = place.ids()
    assert len(ids) == len(set(ids)), f"seed {seed}"
    told = sorted((one.broker_id, one.filled_qty, one.qty, one.cost) for one in reports if one.qty)
    filled = sorted((f.order_id, f.filled_qty, f.qty, f.qty * f.price) for f in exchange.fills)
    assert told == filled, f"seed {seed}"
    REACHED["fills"] += len(filled)
    REACHED["sessions"] += 1
    assert place.commands() == [], f"seed {seed}: no difference that halts"


@pytest.mark.slow
@pytest.mark.parametrize("block", range(SESSIONS // 5))
def test_reports_are_the_ledger_after_anything(block, kafka, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for seed in range(block * 5, block * 5 + 5):
        where = replace(kafka, prefix=f"{kafka.prefix}{seed}.")
        folder = tmp_path / str(seed)
        folder.mkdir()
        trade(seed, where, folder)
    print(dict(REACHED))
    kinds = ("fills", "restarts", "exits", "pairs", "bare for a slice", "watched")
    assert all(REACHED[kind] for kind in kinds), REACHED


@pytest.mark.slow
def test_the_process_is_killed_at_random_moments(kafka, tmp_path):
    """SIGKILL, as the system does it; four times in one session."""
    dice = random.Random(11)
    with floor(kafka, tmp_path, partial_one_in=2) as place:
        account = Account(place, random.Random(3))
        place.start()
        assert until(lambda: "orders to settle" in place.printed(), 60.0), place.printed()
        for account.slice in range(24):
            account.act()
            with place.server.control() as exchange:
                for symbol in SYMBOLS:
                    price = exchange.quotes[symbol] * dice.randint(988, 1_012) // 100_000 * 100
                    exchange.quote(symbol, price, dice.choice([None, 2, 4]))
            time.sleep(dice.uniform(0.1, 0.5))
            if account.slice % 6 == 5:
                place.end()
                before = place.printed().count("orders to settle")
                place.start()
        with place.server.control() as exchange:
            for symbol in SYMBOLS:
                exchange.quote(symbol, exchange.quotes[symbol])
        assert until(lambda: answered(place, account) and place.agrees(), 120.0), place.printed()[-3000:]
        assert until(lambda: place.printed().count("orders to settle") > before, 60.0), place.printed()[-3000:]
        assert place.end(signal.SIGTERM) == 0
        assert place.printed().rstrip().endswith("stopped")
        verify(place, account, 11)
        assert place.exchange.fills
