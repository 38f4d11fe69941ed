"""The account at a broker: the same decisions as in the simulation, and what only a broker can do to it."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest

from operators import drive
from risk import account, commands, reports
from risk.ledger import LedgerFrame
from risk.limits import Params
from schemas.events import Leg, Reason
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

    def run(self) -> None:
        told = self.told
        for k, frame in enumerate(frames(told, list(range(len(told))))):
            self.hear(self.broker.trade(told[k]), told[k].ts, told[k].session)
            self.note(account.step(self.params, self.state, frame))
            after = told[k + 1] if k + 1 < len(told) else replace(told[k], ts=told[k].ts + NIGHT, session=10**6)
            self.hear(self.broker.words() + self.broker.replies(), after.ts, after.session)
            for command in told[k].commands:
                self.note(commands.obey(self.params, self.state, command))
                self.hear(self.broker.words() + self.broker.replies(), after.ts, after.session)


def funds(state: account.State) -> dict[str, Any]:
    """All totals but what the two ways cannot share."""
    one = state.book.funds
    return {name: one[name][0] for name in one.dtype.names if name not in ("report", "slipped", "slipped_ts")}


@pytest.mark.parametrize("block", range(3))
def test_at_a_broker_it_does_what_it_does_in_the_simulation(block: int) -> None:
    trades, legs, killed = 0, set[int](), 0
    for seed in range(block * 250, (block + 1) * 250):
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
        rows = book.rows
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
    for seed in range(block * 100, (block + 1) * 100):
        desk = rough(seed)
        try:
            desk.run()
            desk.agree()
        except (AssertionError, ValueError) as error:
            raise AssertionError(f"seed {seed}") from error
        parts += desk.parts
    wanted = {"entries", "raced", "again", "oco", "late exit", "called back", "bare", "triggered"}
    assert wanted <= {name for name, count in parts.items() if count}, parts
