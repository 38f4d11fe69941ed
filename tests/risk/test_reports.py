"""The account at a broker: the same decisions as in the simulation, and what only a broker can do to it."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import pytest

from operators import drive
from risk import account, commands, reports
from risk.ledger import LedgerFrame
from risk.limits import Exits, Params, Rules, Venue
from schemas.events import Direction, Leg, Phase, Reason, Status
from tests.plain import plain
from tests.reference import account as reference
from tests.reference.broker import Broker, Clerk, RoughBroker
from tests.reference.histories import history
from tests.risk.test_account_agrees import TABLES, frames

NIGHT = 10**12  # ns, after the last slice there is another session


def calm(seed: int) -> tuple[Params, list[reference.Slice]]:
    """A history without friction, with room for every order, and without corporate actions."""
    params, told = history(seed)
    venue = msgspec.structs.replace(params.venue, slippage_bps=0, commission_usd=0.0, max_volume_share=1.0)
    halts = msgspec.structs.replace(params.halts, slippage_guard_minutes=0)
    for one in told:
        one.actions = []
        for bar in one.bars.values():
            bar.volume, bar.half_spread = 1e7, None
    return msgspec.structs.replace(params, venue=venue, halts=halts), told


def at_broker(params: Params) -> Params:
    return msgspec.structs.replace(params, venue=msgspec.structs.replace(params.venue, kind="broker"))


def rows(ledgers: list[LedgerFrame]) -> dict[str, list[tuple[Any, ...]]]:
    """The tables, symbols by name, in order of slice and symbol; of fills not what was expected."""
    found: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
    for ledger in ledgers:
        names = [name.decode() for name in ledger.names]
        for table in TABLES:
            for row in getattr(ledger, table):
                values = dict(zip(row.dtype.names, row.tolist(), strict=True))
                if "symbol" in values:
                    values["symbol"] = names[values["symbol"]]
                if table == "fills":
                    del values["expected"]
                found[table].append((values["exit_ts" if table == "trades" else "ts"], values.get("symbol"), values))
    return {table: [tuple(row[2].values()) for row in sorted(some, key=lambda row: row[:2])]
            for table, some in found.items()}  # fmt: skip


def simulate(params: Params, told: list[reference.Slice]) -> tuple[account.State, list[LedgerFrame]]:
    """The simulation; nothing is decided in a slice in which it ends entries, for a broker's word comes later."""
    state, ledgers = account.start(params), []
    for k, frame in enumerate(frames(told, list(range(len(told))))):
        after, ledger = account.step(params, state, frame)
        if (ledger.updates["reason"] == Reason.END_OF_DAY).any() and ledger.verdicts.size:
            for bar in told[k].bars.values():
                bar.reason = Reason.NEUTRAL
            after, ledger = account.step(params, state, frames(told, list(range(len(told))))[k])
        state = after
        ledgers.append(ledger)
        for command in told[k].commands:
            state, ledger = commands.obey(params, state, command)
            ledgers.append(ledger)
    return state, ledgers


class Desk:
    """An account at a broker: what either says reaches the other, by a log in which reports have places."""

    def __init__(self, params: Params, told: list[reference.Slice], broker: Broker):
        self.params, self.told, self.broker = params, told, broker
        self.state = account.start(params)
        self.ledgers: list[LedgerFrame] = []
        self.log: list[reports.Report] = []

    def note(self, answer: tuple[account.State, LedgerFrame]) -> None:
        self.state, ledger = answer
        self.ledgers.append(ledger)
        self.broker.take(ledger)

    def hear(self, said: list[reports.Report], ts: int, session: int) -> None:
        while said:
            for one in said:
                self.log.append(msgspec.structs.replace(one, number=len(self.log)))
                self.note(reports.hear(self.params, self.state, self.log[-1], ts, session))
                self.heard()
            said = self.broker.words()

    def heard(self) -> None:
        """Nothing to add."""

    def agree(self) -> None:
        """Nothing to compare."""

    def run(self) -> None:
        told = self.told
        for k, frame in enumerate(frames(told, list(range(len(told))))):
            self.hear(self.broker.trade(told[k]), told[k].ts, told[k].session)
            self.note(account.step(self.params, self.state, frame))
            after = told[k + 1] if k + 1 < len(told) else replace(told[k], ts=told[k].ts + NIGHT, session=10**6)
            self.hear(self.broker.words() + self.broker.replies(), after.ts, after.session)
            self.agree()
            for command in told[k].commands:
                self.note(commands.obey(self.params, self.state, command))
                self.hear(self.broker.words() + self.broker.replies(), after.ts, after.session)


def funds(state: account.State) -> dict[str, Any]:
    """All totals but what the two ways cannot share."""
    one = state.book.funds
    return {name: one[name][0] for name in one.dtype.names if name not in ("report", "slipped", "slipped_ts")}


def test_at_a_broker_it_does_what_it_does_in_the_simulation() -> None:
    trades, legs, killed = 0, set[int](), 0
    for seed in range(400):
        params, told = calm(seed)
        state, ledgers = simulate(params, told)
        cash = int(account.start(params).book.funds["cash"][0])
        desk = Desk(at_broker(params), told, Broker(cash, params.venue.time_in_force == "day"))
        desk.run()
        expected, found = rows(ledgers), rows(desk.ledgers)
        for table in TABLES:
            for one, other in zip(found[table], expected[table], strict=False):
                assert repr(one) == repr(other), (seed, table)
            assert len(found[table]) == len(expected[table]), (seed, table)
        assert repr(funds(desk.state)) == repr(funds(state)), seed
        trades += len(found["trades"])
        legs |= {row[10] for row in found["trades"]}
        killed += bool(state.book.funds["killed"][0])
    assert trades > 100
    assert {Reason.STOP_LOSS, Reason.TAKE_PROFIT, Reason.SIGNAL_FLIP, Reason.KILL_SWITCH, Reason.END_OF_DAY,
            Reason.TIME_EXIT, Reason.TRAILING_STOP, Reason.DRAWDOWN} <= legs  # fmt: skip
    assert killed


class Audited(Desk):
    """Cash, shares and open orders are compared with the broker's after whatever is heard."""

    broker: RoughBroker

    def __init__(self, params: Params, told: list[reference.Slice], broker: RoughBroker):
        super().__init__(params, told, broker)
        self.clerk = Clerk(Decimal(broker.cash) / 10_000)
        self.sides: dict[tuple[str, int, int], int] = {}
        self.parts = Counter[str]()

    def note(self, answer: tuple[account.State, LedgerFrame]) -> None:
        super().note(answer)
        names = [name.decode() for name in answer[1].names]
        for row in answer[1].orders:
            self.sides[names[row.symbol], int(row.ts), int(row.leg)] = int(row.side)

    def heard(self) -> None:
        report = self.log[-1]
        self.clerk.book(report, self.sides[report.symbol, report.order_ts, int(report.leg)])
        self.count(report)
        book, one = self.state.book, self.state.book.funds[0]
        assert Decimal(int(one.cash)) / 10_000 == self.clerk.cash, report
        for symbol, row in self.rows():
            assert row.side * row.shares == self.clerk.shares.get(symbol, 0), report
        rows = book.rows.view(np.recarray)
        assert one.cash + (rows.side * rows.cost).sum() + one.fees - one.realised == self.broker.cash
        assert one.reserved == (rows.entry_price * rows.entry_shares).sum()
        assert one.pending == (rows.entry_shares > 0).sum()
        assert one.collateral == 2 * rows.cost[rows.side < 0].sum()
        state, ledger = reports.hear(self.params, self.state, report, 0, 0)  # the same record again
        assert not any(getattr(ledger, table).size for table in TABLES)
        assert repr(drive.flat(state)) == repr(drive.flat(self.state))

    def count(self, report: reports.Report) -> None:
        row = dict(self.rows())[report.symbol]
        if report.qty and report.leg == Leg.ENTRY and self.ledgers[-1].fills.size:
            self.parts["entries"] += 1
            self.parts["raced"] += any(key[2] == Leg.ENTRY for key in self.broker.cancels)
        self.parts["again"] += bool(report.qty) and not self.ledgers[-1].fills.size
        self.parts["oco"] += bool((self.ledgers[-1].orders["leg"] == Leg.OCO_STOP_LOSS).any())
        self.parts["late exit"] += bool((self.ledgers[-1].orders["leg"] == Leg.EXIT).any())
        self.parts["called back"] += report.leg != Leg.EXIT and bool(
            (self.ledgers[-1].updates["leg"] == Leg.EXIT).any()
        )
        self.parts["bare"] += row.shares > 0 and row.survivor != 0
        self.parts["triggered"] += row.legs == 2

    def rows(self) -> list[tuple[str, Any]]:
        return [(name.decode(), row) for name, row in zip(self.state.names, self.state.book.rows, strict=True)]

    def agree(self) -> None:
        """What the account believes open is open at the broker, but for what it has asked to cancel."""
        believed = set()
        for symbol, row in self.rows():
            assert row.side * row.shares == self.broker.held.get(symbol, 0)
            if row.entry_shares:
                believed.add((symbol, int(row.order_ts), int(Leg.ENTRY)))
                assert self.broker.orders[symbol, int(row.order_ts), int(Leg.ENTRY)].left == row.entry_shares
            if row.exit_reason:
                believed.add((symbol, int(row.exit_ts), int(Leg.EXIT)))
            pair = (Leg.OCO_TAKE_PROFIT, Leg.OCO_STOP_LOSS) if row.oco else (Leg.TAKE_PROFIT, Leg.STOP_LOSS)
            if row.shares and (row.legs == 1 or row.survivor == 1):
                believed.add((symbol, int(row.legs_ts), int(pair[0])))
            if row.shares and (row.legs or row.survivor == 2):
                believed.add((symbol, int(row.legs_ts), int(pair[1])))
            assert not (row.exit_reason and (row.legs or row.entry_shares)), "an exit goes out alone"
        there = {key for key, order in self.broker.orders.items() if not order.asleep}
        asked = {key for key in self.broker.cancels if key[2] != Leg.ENTRY}
        assert believed == there - asked


def rough(seed: int) -> Audited:
    params, told = calm(seed)
    params = at_broker(msgspec.structs.replace(params, halts=history(seed)[0].halts))
    cash = int(account.start(params).book.funds["cash"][0])
    return Audited(params, told, RoughBroker(cash, True, rng=np.random.default_rng(seed)))


@pytest.mark.parametrize("block", range(4))
def test_whatever_a_broker_does_the_book_is_the_sum_of_its_reports(block: int) -> None:
    parts = Counter[str]()
    for seed in range(block * 60, (block + 1) * 60):
        desk = rough(seed)
        try:
            desk.run()
            desk.agree()
        except (AssertionError, ValueError) as error:
            raise AssertionError(f"seed {seed}") from error
        parts += desk.parts
    wanted = {"entries", "raced", "again", "oco", "late exit", "called back", "bare", "triggered"}
    assert wanted <= {name for name, count in parts.items() if count}, parts


def test_compiled_or_not_it_hears_the_same() -> None:
    for seed in range(8):
        compiled = rough(seed)
        compiled.run()
        with patch.object(reports, "take", plain(reports.take)):
            other = rough(seed)
            other.run()
        assert repr(drive.flat(other.state)) == repr(drive.flat(compiled.state))
        assert repr(rows(other.ledgers)) == repr(rows(compiled.ledgers))


# One symbol, slice by slice: what a reader can check by hand.

MINUTE = 60 * 10**9
BEGIN = 1_704_207_600_000_000_000
CALM = Params(
    rules=Rules(cooldown_seconds=0, max_notional_usd=1_000.0, max_shares=10, max_correlation=1.0, max_cvar_pct=1.0),
    exits=Exits(take_profit_pct=0.03, stop_loss_pct=0.02, end_of_day=False, max_holding_bars=0, trailing_pct=0.5),
    venue=Venue(kind="broker", slippage_bps=0),
)


class Story:
    """An account with one symbol at 100 USD, of which it has just ordered ten shares."""

    def __init__(self, params: Params = CALM, direction: int = Direction.LONG):
        self.params, self.state, self.k, self.number = params, account.start(params), 0, -1
        self.last: Any = None
        self.slice(candidate=True, direction=direction)

    @property
    def ts(self) -> int:
        return BEGIN + self.k * MINUTE

    @property
    def row(self) -> Any:
        return self.state.book.rows[0]

    @property
    def funds(self) -> Any:
        return self.state.book.funds[0]

    def slice(self, price: float = 100.0, candidate: bool = False, session: int = 100, phase: int = Phase.MIDDLE,
              actions: tuple[reference.Action, ...] = (), direction: int = Direction.LONG) -> Any:  # fmt: skip
        """The next slice, of one price."""
        self.k += 1
        bar = reference.Bar(price, price, price, price, 1e6, direction=direction, confidence=0.9,
                            reason=Reason.NONE if candidate else Reason.BELOW_DECISION_GATE)  # fmt: skip
        one = reference.Slice(self.ts, session, phase, {"AA": bar}, list(actions))
        self.state, self.last = account.step(self.params, self.state, frames([one], [])[0])
        return self.last

    def says(self, leg: Leg, status: str, qty: int = 0, filled: int = 0, price: float = 100.0, sent: int | None = None,
             reason: Reason = Reason.NONE, session: int = 100) -> Any:  # fmt: skip
        """The broker says something of the last order of a kind."""
        self.number += 1
        row = self.row
        when = {Leg.ENTRY: row.order_ts, Leg.EXIT: row.exit_ts}.get(leg, row.legs_ts) if sent is None else sent
        one = reports.Report(
            self.number, "AA", int(when), leg, status, qty, round(qty * price * 10_000), filled, reason
        )
        self.state, self.last = reports.hear(self.params, self.state, one, self.ts + MINUTE, session)
        return self.last

    def command(self, kind: str, number: int = 0) -> Any:
        self.state, self.last = commands.obey(self.params, self.state, commands.Command(number, kind))
        return self.last


def updates(ledger: LedgerFrame) -> list[tuple[Any, ...]]:
    return [(Leg(row.leg), Status(row.status), int(row.qty), Reason(row.reason)) for row in ledger.updates]


def sent(ledger: LedgerFrame) -> list[tuple[Any, ...]]:
    return [(Leg(row.leg), int(row.qty), Reason(row.reason)) for row in ledger.orders]


OCO = [(Leg.OCO_TAKE_PROFIT, 4, Reason.PARTIAL_ENTRY), (Leg.OCO_STOP_LOSS, 4, Reason.PARTIAL_ENTRY)]


def test_what_was_filled_of_an_entry_is_protected_once_its_rest_is_cancelled() -> None:
    one = Story()
    assert sent(one.last)[0] == (Leg.ENTRY, 10, Reason.NONE)
    reserved = int(one.funds.reserved)
    assert updates(one.says(Leg.ENTRY, "partially_filled", 3, 3)) == [
        (Leg.ENTRY, Status.PARTIALLY_FILLED, 3, Reason.NONE)
    ]
    assert (one.funds.reserved, one.row.mark) == (reserved * 7 // 10, 1_000_000)
    one.says(Leg.ENTRY, "partially_filled", 1, 4, price=101.0)
    assert one.row.cost == 4_010_000
    assert updates(one.slice()) == [(Leg.ENTRY, Status.CANCELED, 6, Reason.PARTIAL_ENTRY)]
    assert (one.row.legs, one.funds.pending) == (0, 1)
    assert updates(one.slice(candidate=True)) == []  # asked once, and nothing more is wanted of this symbol
    assert int(one.last.verdicts.reason[0]) == Reason.POSITION_HELD
    done = one.says(Leg.ENTRY, "canceled", 0, 4)
    assert (sent(done), updates(done), set(done.orders.ts)) == (OCO, [], {one.ts})
    assert (one.row.legs, one.funds.pending, one.funds.reserved) == (1, 0, 0)


@pytest.mark.parametrize("filled", [1, 9])
def test_a_rest_of_one_share_is_cancelled_and_so_is_that_of_a_lot_of_one(filled: int) -> None:
    one = Story()
    one.says(Leg.ENTRY, "partially_filled", filled, filled)
    assert updates(one.slice()) == [(Leg.ENTRY, Status.CANCELED, 10 - filled, Reason.PARTIAL_ENTRY)]


def test_an_exit_that_comes_due_while_more_of_the_entry_may_be_filled_waits_for_the_last_word() -> None:
    one = Story()
    one.says(Leg.ENTRY, "partially_filled", 4, 4)
    assert sent(one.slice(97.0)) == []  # 3 % below what was paid, with a stop at 2 %
    assert sent(one.says(Leg.ENTRY, "canceled", 0, 4)) == [(Leg.EXIT, 4, Reason.STOP_LOSS)]
    assert (one.row.exit_reason, one.row.legs) == (Reason.STOP_LOSS, 0)


def test_a_fill_that_wins_against_the_cancel_completes_the_bracket() -> None:
    one = Story()
    one.says(Leg.ENTRY, "partially_filled", 4, 4)
    one.slice()
    done = one.says(Leg.ENTRY, "filled", 6, 10)
    assert (sent(done), one.row.legs, one.row.oco, one.funds.pending) == ([], 1, False, 0)
    assert updates(one.says(Leg.TAKE_PROFIT, "filled", 10, 10, price=103.0)) == [
        (Leg.TAKE_PROFIT, Status.FILLED, 10, Reason.TAKE_PROFIT), (Leg.STOP_LOSS, Status.CANCELED, 10, Reason.SIBLING),
    ]  # fmt: skip
    assert updates(one.says(Leg.STOP_LOSS, "canceled")) == []
    assert int(one.last.slices.ts.size) == 0


@pytest.mark.parametrize(("direction", "first", "second", "end"), [
    (Direction.LONG, 101.0, 99.0, 104.0), (Direction.LONG, 99.0, 101.0, 104.0), (Direction.SHORT, 99.0, 101.0, 96.0),
    (Direction.SHORT, 101.0, 99.0, 96.0),
])  # fmt: skip
def test_a_trade_is_worth_what_all_fills_of_its_entry_came_to(
    direction: int, first: float, second: float, end: float
) -> None:
    rules = msgspec.structs.replace(CALM.rules, allow_short=True)
    one = Story(msgspec.structs.replace(CALM, rules=rules), direction)
    cash = int(one.funds.cash)
    one.says(Leg.ENTRY, "partially_filled", 4, 4, price=first)
    one.says(Leg.ENTRY, "filled", 6, 10, price=second)
    side, cost, proceeds = int(direction), round(4 * first + 6 * second) * 10_000, round(10 * end) * 10_000
    assert (one.row.side, one.row.bought, one.row.cost, one.row.paid) == (side, 10, cost, cost)
    assert one.row.basis == cost / 10
    assert one.funds.collateral == (2 * cost if side < 0 else 0)
    one.says(Leg.TAKE_PROFIT, "filled", 10, 10, price=end)
    (trade,) = one.last.trades
    assert (trade.side, trade.qty, trade.cost, trade.proceeds) == (side, 10, cost, proceeds)
    assert trade.pnl == side * (proceeds - cost) - trade.fees
    worst, best = (min(first, second), end) if side > 0 else (max(first, second), end)
    assert trade.mae == pytest.approx(side * (worst * 100_000 / cost - 1.0))
    assert trade.mfe == pytest.approx(side * (best * 100_000 / cost - 1.0))
    assert (one.funds.cash, one.funds.collateral) == (cash + trade.pnl, 0)


@pytest.mark.parametrize("shares", [1, 10])
def test_what_prices_do_while_a_lot_is_held_is_seen(shares: int) -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled" if shares == 10 else "partially_filled", shares, shares)
    for price in (102.0, 97.0, 101.0):
        one.slice(price)
    assert (one.row.best, one.row.worst, one.row.mark) == (1_020_000, 970_000, 1_010_000)
    if shares == 10:
        one.says(Leg.STOP_LOSS, "filled", 10, 10, price=98.0)
        (trade,) = one.last.trades
        assert (trade.mae, trade.mfe) == (pytest.approx(-0.03), pytest.approx(0.02))


def test_a_kill_waits_for_the_last_word_and_then_closes() -> None:
    one = Story()
    one.says(Leg.ENTRY, "partially_filled", 4, 4)
    assert updates(one.command("kill")) == [(Leg.ENTRY, Status.CANCELED, 6, Reason.KILL_SWITCH)]
    assert sent(one.last) == []
    assert sent(one.slice()) == []
    assert sent(one.says(Leg.ENTRY, "canceled", 0, 4)) == [(Leg.EXIT, 4, Reason.KILL_SWITCH)]
    assert updates(one.says(Leg.EXIT, "rejected", reason=Reason.BROKER_DOWN)) == [
        (Leg.EXIT, Status.REJECTED, 4, Reason.BROKER_DOWN)
    ]
    assert sent(one.command("kill", 1)) == []  # the same slice, the same id: the next one decides
    assert sent(one.slice()) == [(Leg.EXIT, 4, Reason.KILL_SWITCH)]
    one.says(Leg.EXIT, "partially_filled", 3, 3)
    one.says(Leg.EXIT, "filled", 1, 4)
    assert (one.row.shares, one.funds.cash) == (0, one.funds.equity)


def test_a_kill_that_is_overtaken_by_the_whole_entry_closes_it_at_once() -> None:
    one = Story()
    one.command("kill")
    done = one.says(Leg.ENTRY, "filled", 10, 10)
    assert sent(done) == [(Leg.EXIT, 10, Reason.KILL_SWITCH)]
    assert updates(done) == [  # what the account does at once bears the last slice, the fill the one under way
        (Leg.TAKE_PROFIT, Status.CANCELED, 10, Reason.SIBLING), (Leg.STOP_LOSS, Status.CANCELED, 10, Reason.SIBLING),
        (Leg.ENTRY, Status.FILLED, 10, Reason.NONE),
    ]  # fmt: skip


def test_an_entry_that_should_be_gone_tonight_is_closed_when_it_is_filled_after_all() -> None:
    tonight = msgspec.structs.replace(CALM, exits=msgspec.structs.replace(CALM.exits, end_of_day=True))
    for filled, last in ((10, "filled"), (4, "canceled")):
        one = Story(tonight)
        assert updates(one.slice(phase=Phase.EVE)) == [(Leg.ENTRY, Status.CANCELED, 10, Reason.END_OF_DAY)]
        one.says(Leg.ENTRY, "partially_filled", 4, 4)
        one.says(Leg.ENTRY, last, filled - 4, filled)
        assert sent(one.last) == [(Leg.EXIT, filled, Reason.END_OF_DAY)]
    one = Story(tonight)
    one.says(Leg.ENTRY, "partially_filled", 4, 4)
    assert sent(one.slice(phase=Phase.EVE)) == []
    assert sent(one.slice(phase=Phase.LAST)) == []
    assert sent(one.says(Leg.ENTRY, "canceled", 0, 4)) == [(Leg.EXIT, 4, Reason.END_OF_DAY)]


def test_why_an_entry_was_called_back_does_not_concern_the_next_one() -> None:
    one = Story(msgspec.structs.replace(CALM, exits=msgspec.structs.replace(CALM.exits, end_of_day=True)))
    assert updates(one.slice(phase=Phase.EVE)) == [(Leg.ENTRY, Status.CANCELED, 10, Reason.END_OF_DAY)]
    one.says(Leg.ENTRY, "canceled")
    assert (one.row.leaving, one.funds.pending) == (Reason.END_OF_DAY, 0)
    one.slice(candidate=True, session=101)
    done = one.says(Leg.ENTRY, "filled", 10, 10, session=101)
    assert (sent(done), one.row.shares, one.row.legs) == ([], 10, 1)
    assert one.row.exit_reason == Reason.NONE


@pytest.mark.parametrize("leg", [Leg.OCO_TAKE_PROFIT, Leg.OCO_STOP_LOSS])
def test_the_legs_of_a_lot_begin_at_nothing_whatever_those_of_the_last_one_had_come_to(leg: Leg) -> None:
    for first, price in ((Leg.TAKE_PROFIT, 103.0), (Leg.STOP_LOSS, 98.0)):
        one = Story()
        one.says(Leg.ENTRY, "filled", 10, 10)
        one.says(first, "filled", 10, 10, price=price)
        one.slice(candidate=True)
        one.says(Leg.ENTRY, "partially_filled", 4, 4)
        one.slice()
        assert sent(one.says(Leg.ENTRY, "canceled", 0, 4)) == OCO
        one.says(leg, "filled", 4, 4)
        assert one.row.shares == 0


def test_a_stop_that_is_filled_at_once_ends_the_target() -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    assert updates(one.says(Leg.STOP_LOSS, "filled", 10, 10, price=98.0)) == [
        (Leg.STOP_LOSS, Status.FILLED, 10, Reason.STOP_LOSS), (Leg.TAKE_PROFIT, Status.CANCELED, 10, Reason.SIBLING),
    ]  # fmt: skip


def test_an_end_bears_the_slice_under_way_and_after_a_close_the_one_that_closed() -> None:
    one = Story()
    assert one.says(Leg.ENTRY, "rejected").updates.ts.tolist() == [one.ts + MINUTE]
    one = Story()
    one.slice()
    assert one.says(Leg.ENTRY, "expired", session=101).updates.ts.tolist() == [one.ts]
    one = Story()  # sent in the session's last slice: for the next one
    assert one.says(Leg.ENTRY, "expired", session=101).updates.ts.tolist() == [one.ts + MINUTE]


def test_a_target_that_fills_after_its_end_was_heard_ends_the_stop_that_was_left() -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    one.says(Leg.TAKE_PROFIT, "canceled")
    assert updates(one.says(Leg.TAKE_PROFIT, "filled", 10, 10, price=103.0)) == [
        (Leg.TAKE_PROFIT, Status.FILLED, 10, Reason.TAKE_PROFIT), (Leg.STOP_LOSS, Status.CANCELED, 10, Reason.SIBLING),
    ]  # fmt: skip


def test_a_stop_that_fills_after_its_end_was_heard_ends_the_target_once() -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    one.says(Leg.STOP_LOSS, "canceled")
    told = updates(one.says(Leg.STOP_LOSS, "partially_filled", 4, 4, price=98.0))
    assert told.count((Leg.TAKE_PROFIT, Status.CANCELED, 10, Reason.SIBLING)) == 1
    assert updates(one.says(Leg.TAKE_PROFIT, "canceled")) == []
    assert one.row.shares == 6


def test_a_fill_of_an_exit_that_is_over_was_not_sent() -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    one.command("kill")
    one.says(Leg.EXIT, "rejected", reason=Reason.BROKER_DOWN)
    with pytest.raises(ValueError, match="it fills an order that was not sent, or is no more"):
        one.says(Leg.EXIT, "filled", 10, 10)


@pytest.mark.parametrize(
    ("leg", "status", "reason", "said"),
    [
        (Leg.ENTRY, "expired", Reason.NONE, Reason.DAY_ORDER), (Leg.ENTRY, "rejected", Reason.NONE, Reason.REFUSED),
        (Leg.ENTRY, "rejected", Reason.DRY_RUN, Reason.DRY_RUN), (Leg.ENTRY, "expired", Reason.SPLIT, Reason.SPLIT),
        (Leg.STOP_LOSS, "expired", Reason.NONE, Reason.DAY_ORDER),
        (Leg.STOP_LOSS, "canceled", Reason.NONE, Reason.SIBLING),
        (Leg.STOP_LOSS, "rejected", Reason.NONE, Reason.REFUSED), (Leg.EXIT, "canceled", Reason.NONE, Reason.REFUSED),
        (Leg.EXIT, "rejected", Reason.NONE, Reason.REFUSED), (Leg.EXIT, "expired", Reason.NONE, Reason.DAY_ORDER),
    ],
)  # fmt: skip
def test_why_an_order_has_ended(leg: Leg, status: str, reason: Reason, said: Reason) -> None:
    """What the report says, else what its state means."""
    one = Story()
    if leg is not Leg.ENTRY:
        one.says(Leg.ENTRY, "filled", 10, 10)
    if leg is Leg.EXIT:
        one.command("kill")
    assert updates(one.says(leg, status, reason=reason)) == [(leg, Status[status.upper()], 10, said)]


@pytest.mark.parametrize("status", ["canceled", "expired", "rejected"])
def test_a_lot_without_a_leg_is_watched_at_closes(status: str) -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    (update,) = updates(one.says(Leg.STOP_LOSS, status))
    assert update[:3] == (Leg.STOP_LOSS, Status[status.upper()], 10)
    assert sent(one.slice(98.5)) == []
    closing = one.slice(97.5)
    assert sent(closing) == [(Leg.EXIT, 10, Reason.STOP_LOSS)]
    assert updates(closing) == [(Leg.TAKE_PROFIT, Status.CANCELED, 10, Reason.SIBLING)]  # the leg that was left


def test_the_target_may_end_before_the_stop_that_was_triggered_is_filled() -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    one.says(Leg.TAKE_PROFIT, "canceled")
    one.says(Leg.STOP_LOSS, "partially_filled", 4, 4, price=98.0)
    assert sent(one.slice(90.0)) == []  # it is being sold
    assert updates(one.says(Leg.STOP_LOSS, "filled", 6, 10, price=91.0)) == [
        (Leg.STOP_LOSS, Status.FILLED, 6, Reason.STOP_LOSS)
    ]


@pytest.mark.parametrize(("ended", "left"), [(Leg.TAKE_PROFIT, Leg.STOP_LOSS), (Leg.STOP_LOSS, Leg.TAKE_PROFIT)])
def test_an_exit_ends_the_leg_that_the_broker_has_left(ended: Leg, left: Leg) -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    one.says(ended, "canceled")
    one.command("kill")
    assert (left, Status.CANCELED, 10, Reason.SIBLING) in updates(one.last)
    assert sent(one.last) == [(Leg.EXIT, 10, Reason.KILL_SWITCH)]


def test_a_leg_that_is_filled_before_the_exit_calls_it_back() -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    one.slice(direction=Direction.SHORT)
    assert sent(one.last) == [(Leg.EXIT, 10, Reason.SIGNAL_FLIP)]
    one.says(Leg.STOP_LOSS, "partially_filled", 4, 4, price=98.0)
    assert (one.row.exit_reason, one.row.shares) == (Reason.SIGNAL_FLIP, 6)
    assert updates(one.says(Leg.STOP_LOSS, "filled", 6, 10, price=98.0)) == [
        (Leg.STOP_LOSS, Status.FILLED, 6, Reason.STOP_LOSS), (Leg.EXIT, Status.CANCELED, 6, Reason.SIBLING),
    ]  # fmt: skip
    assert updates(one.says(Leg.EXIT, "rejected")) == []


def test_an_exit_for_fewer_shares_than_are_held_is_followed_by_another() -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    one.slice(direction=Direction.SHORT)
    assert updates(one.says(Leg.EXIT, "filled", 7, 7)) == [(Leg.EXIT, Status.PARTIALLY_FILLED, 7, Reason.SIGNAL_FLIP)]
    assert (one.row.shares, one.row.exit_reason) == (3, Reason.NONE)
    assert sent(one.slice(direction=Direction.SHORT)) == [(Leg.EXIT, 3, Reason.SIGNAL_FLIP)]


def test_slippage_is_measured_from_what_was_decided() -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10, price=100.1)
    assert one.funds.slipped_ts < 0
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10, price=100.2)
    assert (one.funds.slipped_ts, one.funds.slipped) == (one.ts + MINUTE, 0.002)
    one.slice(direction=Direction.SHORT)
    one.says(Leg.EXIT, "filled", 10, 10, price=99.7)
    assert one.funds.slipped == 0.003


def test_what_happens_after_a_close_belongs_to_the_coming_session_but_for_what_expires() -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    one.slice(phase=Phase.LAST)
    assert one.says(Leg.TAKE_PROFIT, "expired", session=101).updates.ts.tolist() == [one.ts]
    assert one.funds.session == 100
    gone = one.says(Leg.STOP_LOSS, "filled", 10, 10, price=98.0, session=101)
    assert (gone.trades.exit_ts.tolist(), one.funds.session, one.funds.day_trades) == ([one.ts + MINUTE], 101, 0)
    one.slice(session=101)
    assert one.funds.day_trades_1 == 0
    same_day = Story()
    same_day.says(Leg.ENTRY, "filled", 10, 10)
    same_day.says(Leg.STOP_LOSS, "filled", 10, 10, price=98.0)
    assert same_day.funds.day_trades == 1


def test_an_entry_that_a_split_overtakes_is_cancelled_and_waits() -> None:
    one = Story()
    assert updates(one.slice(50.0, actions=(reference.Action("AA", 2, 1),))) == [
        (Leg.ENTRY, Status.CANCELED, 10, Reason.SPLIT)
    ]
    assert one.funds.pending == 1
    one.says(Leg.ENTRY, "canceled")
    assert (one.funds.pending, one.funds.busy) == (0, 0)


def test_shares_that_the_broker_has_lost_leave_the_book_at_their_cost() -> None:
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    gone = one.says(Leg.EXIT, "filled", 10, 10, sent=reports.LOST)
    assert updates(gone) == [(Leg.EXIT, Status.FILLED, 10, Reason.STATE_UNKNOWN),
                             (Leg.TAKE_PROFIT, Status.CANCELED, 10, Reason.SIBLING),
                             (Leg.STOP_LOSS, Status.CANCELED, 10, Reason.SIBLING)]  # fmt: skip
    assert (one.row.shares, one.funds.realised, one.funds.busy) == (0, 0, 0)
    assert updates(one.says(Leg.EXIT, "filled", 10, 10, sent=reports.LOST)) == []


def test_a_sale_around_the_account_takes_no_more_than_it_has() -> None:
    """A direct kill sells all that the broker holds: shares bought by hand, and symbols that nobody here knows."""
    one = Story()
    one.says(Leg.ENTRY, "filled", 10, 10)
    cash = int(one.funds.cash)
    sold = one.says(Leg.EXIT, "filled", 15, 15, price=101.0, sent=reports.LOST)
    assert [(int(row.qty), int(row.price)) for row in sold.fills] == [(10, 1_010_000)]
    assert (one.row.shares, one.funds.cash - cash, one.funds.realised) == (0, 10_100_000, 100_000)
    strange = reports.Report(7, "ZZ", reports.LOST, Leg.EXIT, "filled", 5, 50_000, 5)
    state, ledger = reports.hear(one.params, one.state, strange, one.ts + MINUTE, 100)
    assert (int(state.book.funds[0].cash), ledger.fills.size) == (int(one.funds.cash), 0)


@pytest.mark.parametrize(("told", "what"), [
    ({"leg": Leg.ENTRY, "qty": 3, "filled": 5}, "fills before it were not reported"),
    ({"leg": Leg.ENTRY, "qty": 0, "filled": 5}, "fills before it were not reported"),
    ({"leg": Leg.ENTRY, "qty": 4, "filled": 4, "status": "filled"}, "fills before it were not reported"),
    ({"leg": Leg.ENTRY, "qty": 11, "filled": 11}, "more shares than were open"),
    ({"leg": Leg.ENTRY, "qty": 1, "filled": 1, "sent": BEGIN}, "was not sent"),
    ({"leg": Leg.EXIT, "qty": 1, "filled": 1, "sent": BEGIN}, "was not sent"),
    ({"leg": Leg.OCO_STOP_LOSS, "qty": 1, "filled": 1}, "was not sent"),
    ({"leg": Leg.STOP_LOSS, "qty": 1, "filled": 1}, "more shares than were open"),
])  # fmt: skip
def test_what_cannot_be_stops_the_account(told: dict[str, Any], what: str) -> None:
    one = Story()
    before = repr(drive.flat(one.state))
    with pytest.raises(ValueError, match=rf"report 0 of AA\|.*{what}"):
        one.says(told.pop("leg"), told.pop("status", "partially_filled"), **told)
    assert repr(drive.flat(one.state)) == before


def test_shares_that_were_booked_in_part_do_not_come_again_with_more() -> None:
    one = Story()
    one.says(Leg.ENTRY, "partially_filled", 3, 3)
    one.says(Leg.ENTRY, "partially_filled", 2, 3)  # known, whatever it was told as
    with pytest.raises(ValueError, match="were not reported"):
        one.says(Leg.ENTRY, "partially_filled", 4, 5)


def test_a_symbol_that_nobody_knows_has_no_fills() -> None:
    one = Story()
    stranger = reports.Report(0, "ZZ", BEGIN, Leg.ENTRY, "new")
    reports.hear(CALM, one.state, stranger, one.ts + MINUTE, 100)
    with pytest.raises(ValueError, match="was not sent"):
        reports.hear(CALM, one.state, msgspec.structs.replace(stranger, qty=1, filled=1, cost=1), one.ts + MINUTE, 100)


@pytest.mark.parametrize("more", [{"qty": 2, "filled": 1, "cost": 9}, {"qty": 2, "filled": 2}, {"cost": 5},
                                  {"qty": 1, "filled": 1, "cost": 10**12}])  # fmt: skip
def test_a_report_is_refused_that_makes_no_sense(more: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="report 1 of AA"):
        reports.Report(1, "AA", BEGIN, Leg.ENTRY, "filled", **more)


def test_a_state_of_before_is_refused() -> None:
    now = account.start(CALM)
    with pytest.raises(drive.StateVersionError, match="the snapshot has version 2"):
        drive.unflat(now, drive.flat(now._replace(version=2)))
