"""A live account at a broker, record by record: orders out, reports in, the log that both are in, results by day."""

from dataclasses import replace

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from dataflows import account_log, backtest, pipeline
from dataflows.compare import TABLES, compare
from dataflows.live import writer_of
from infra.day_results import DayResults, Part
from infra.result_header import header
from infra.settings import load
from infra.snapshots import session_name
from operators import barrier, drive
from risk import account
from risk.reports import LOST, Report
from schemas import codec
from schemas.errors import UserError
from schemas.events import Leg, Phase, Reason, Side, word
from schemas.identity import envelope, iso
from schemas.records import Execution, ExecutionReport, LogEntry, LogKind, Order
from tests.dataflows.test_account_log import messages
from tests.markets import make
from tests.reference.account import Bar, Slice
from tests.reference.broker import Broker

SETS = [
    "filters.liquidity=false", "ensemble.decision_gate=0.56", "rules.cooldown_seconds=60", "rules.max_shares=5",
    "rules.max_orders_per_minute=100", "rules.max_orders_per_symbol_per_day=100", "rules.max_correlation=1.0",
    "rules.max_volatility=0.2", "exits.end_of_day=false", "exits.max_holding_bars=6",
    "halts.slippage_guard_minutes=0", "venue.slippage_bps=0",
]  # fmt: skip
SIMULATED = load(None, SETS, environ={})
LIVE = load(None, [*SETS, 'venue.kind="broker"'], environ={})
MARKET = make(7, sessions=8, quotes=False, dirt=0.0, symbols=7)
MARKET = replace(MARKET, table=MARKET.table._replace(volume=np.full(MARKET.table.ts.size, 1e6)))
ALL_BUT_FILLS = tuple(table for table in TABLES if table != "fills")


def slices():
    signals = pipeline.signals(MARKET.chunks(), pipeline.decide_params(SIMULATED, 30))
    frames = drive.replay(barrier.start(MARKET.after), barrier.step_singly, signals)
    return [frame for released in frames for frame in released]


def bars_of(frame):
    """The slice as the obvious broker reads it."""
    bars = {frame.names[symbol].decode(): Bar(*(float(getattr(frame, name)[k]) for name in
                                                ("open", "high", "low", "close", "volume")))
            for k, symbol in enumerate(frame.symbol)}  # fmt: skip
    return Slice(int(frame.slices.ts[0]), int(frame.slices.session[0]), int(frame.slices.phase[0]), bars)


def said(report, number, account_name="backtest", **more):
    """A report as the execution service writes it."""
    stamp = iso(report.order_ts).replace("-", "").replace(":", "")
    order_id = f"{account_name}|{report.symbol}|{stamp}|{word(report.leg)}"
    fields = {
        "account": account_name, "order_id": order_id, "report_id": str(number), "status": report.status,
        "side": word(Side.BUY), "leg": word(report.leg), "quantity": report.qty, "cost": report.cost,
        "price": report.cost // report.qty if report.qty else 0, "filled": report.filled, "venue_ts": MARKET.after,
        "reason": "" if report.reason == Reason.NONE else word(report.reason), **more,
    }  # fmt: skip
    event = ExecutionReport(**envelope("execution.reports", str(number), report.symbol, MARKET.after, "test"), **fields)
    return account_log.Record(str(number), MARKET.after, None, codec.encode(event), ())


class Live:
    """The account behind its log, and a broker that reads its orders and writes reports."""

    def __init__(self, late=()):
        self.state, self.writer = account.start(LIVE.account), writer_of(LIVE)
        self.broker = Broker(int(self.state.book.funds["cash"][0]), legs_expire=True)
        self.late = late  # phases whose expiries are heard only after their slice
        self.log, self.ledgers, self.orders, self.numbers = [], [], {}, 0

    def append(self, record):
        for _, one in account_log.acts(MARKET.calendar, messages("account.log", [record])):
            self.log.append(record)
            self.state, ledger = account_log.step(MARKET.calendar, LIVE.account, self.state, one)
            self.ledgers.append(ledger)
            self.broker.take(ledger)
            for order in self.writer.orders(ledger):
                assert order.id not in self.orders
                self.orders[order.id] = order.value

    def hear(self, reports):
        for report in reports:
            self.numbers += 1
            rows = [said(report, self.numbers)]
            whole = messages("execution.reports", rows)._replace(offsets=[self.numbers])
            (record,), letters = account_log.report_records("backtest", whole)
            assert letters == []
            self.append(record)

    def run(self, frames):
        for frame in frames:
            moment, phase = bars_of(frame), int(frame.slices.phase[0])
            told = self.broker.trade(replace(moment, phase=Phase.MIDDLE) if phase in self.late else moment)
            self.hear(told)
            self.append(account_log.records("backtest", (frame,))[1][0])
            if phase in self.late:
                self.hear(self.broker.trade(replace(moment, bars={})))
            self.hear(self.broker.replies())


@pytest.fixture(scope="module")
def frames():
    return slices()


@pytest.fixture(scope="module")
def live(frames):
    one = Live()
    one.run(frames)
    return one


def results(ledgers, settings, folder, stop_at=()):
    """Folders by session; the part is snapshotted and built again after so many frames."""

    def head(after, upto):
        return header(settings, alphas=settings.ensemble.voters, bars={"symbols": []}, synthetic=False, timeframe="30m",
                      after=after, upto=upto)  # fmt: skip

    sink = DayResults(folder, head, MARKET.calendar)
    part: Part = sink.build_part("results", "results", None)
    for k, ledger in enumerate(ledgers):
        part.write_batch([ledger])
        if k in stop_at:
            snapshot = part.snapshot()
            part = sink.build_part("results", "results", snapshot)
    return sorted(path.parent for path in folder.glob("*/summary.json"))


def simulated(frames):
    return list(
        drive.replay(account.start(SIMULATED.account), lambda s, f: account.step(SIMULATED.account, s, f), frames)
    )


def test_live_at_a_broker_is_the_simulation_and_its_results_compare(frames, live, tmp_path):
    ours = results(live.ledgers, LIVE, tmp_path / "live")
    theirs = results(simulated(frames), SIMULATED, tmp_path / "simulated")
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert len(ours) == 8
    assert compare(ours, theirs, ALL_BUT_FILLS) == []
    for one, other in zip(ours, theirs, strict=True):  # each day by itself too
        assert compare([one], [other], ALL_BUT_FILLS) == []
    (found,) = compare(ours, theirs)  # what a fill was expected to cost is known otherwise
    assert {name for name in found.ours if found.ours[name] != found.theirs[name]} == {"expected_price"}
    words = {row["status"] for path in ours for row in pq.read_table(path / "updates.parquet").to_pylist()}
    assert {"filled", "expired", "canceled"} <= words
    assert sum(pq.read_metadata(path / "trades.parquet").num_rows for path in ours) > 10


def test_the_log_decides_the_same_again(live):
    """From the start, and from a state in its middle."""
    state, orders, middle = account.start(LIVE.account), {}, None
    for k, (_, one) in enumerate(account_log.acts(MARKET.calendar, messages("account.log", live.log))):
        state, ledger = account_log.step(MARKET.calendar, LIVE.account, state, one)
        orders |= {record.id: record.value for record in live.writer.orders(ledger)}
        if k == len(live.log) // 2:
            middle = drive.unflat(account.start(LIVE.account), drive.flat(state))
    assert orders == live.orders
    assert len([entry for entry in live.log if entry.id.startswith("report:")]) > 40
    for _, one in account_log.acts(MARKET.calendar, messages("account.log", live.log[len(live.log) // 2 + 1 :])):
        middle, _ = account_log.step(MARKET.calendar, LIVE.account, middle, one)
    assert repr(drive.flat(middle)) == repr(drive.flat(state))


@pytest.mark.parametrize("stops", [(), range(0, 400, 3), range(400)], ids=["whole", "resumed", "resumed always"])
def test_what_expires_after_a_close_is_in_the_results_of_that_day(frames, tmp_path, stops):
    one = Live(late=(Phase.LAST,))
    one.run(frames)
    folders = results(one.ledgers, LIVE, tmp_path / "live", set(stops))
    expired = 0
    for folder in folders:
        rows = pq.read_table(folder / "updates.parquet").to_pylist()
        closes = MARKET.calendar.close_of(int(np.datetime64(folder.name, "D").astype(int)))
        assert {session_name(MARKET.calendar.session_of(int(row["ts"].value))) for row in rows} <= {folder.name}
        late = [row for row in rows if row["status"] == "expired"]
        assert all(row["ts"].value == closes for row in late)
        expired += len(late)
    assert expired == sum((ledger.updates["status"] == 3).sum() for ledger in one.ledgers) > 5


def test_cancels_go_before_the_orders_that_need_the_shares(live):
    seen = 0
    for ledger in live.ledgers:
        actions = [codec.decode(Order, record.value).action for record in live.writer.orders(ledger)]
        assert actions == sorted(actions)  # cancel, submit
        seen += len(set(actions)) == 2
    assert seen


def test_fills_at_a_broker_are_no_dry_run_and_each_part_has_its_event(live):
    fills = [codec.decode(Execution, record.value) for ledger in live.ledgers for record in live.writer.fills(ledger)]
    assert {(fill.paper_trade, fill.dry_run) for fill in fills} == {(True, False)}
    assert len({fill.idempotency_key for fill in fills}) == len(fills)


class InParts(Live):
    """The same, but the broker tells of an exit's fill in two parts."""

    def hear(self, reports):
        for one in reports:
            if one.leg == Leg.EXIT and one.status == "filled" and one.qty > 1:
                each = one.cost // one.qty
                first = msgspec.structs.replace(
                    one, status="partially_filled", qty=1, cost=each, filled=one.filled - one.qty + 1
                )
                super().hear([first, msgspec.structs.replace(one, qty=one.qty - 1, cost=one.cost - each)])
            else:
                super().hear([one])


def test_each_part_of_an_exit_has_its_entrys_id(frames):
    """A report is a frame of its own, in which no order and no trade names the entry."""
    live = InParts()
    live.run(frames)
    orders = [codec.decode(Order, value) for value in live.orders.values()]
    entries = {order.correlation_id for order in orders if order.leg == "entry"}
    fills = [codec.decode(Execution, record.value) for ledger in live.ledgers for record in live.writer.fills(ledger)]
    others = [one for one in (*orders, *fills) if "|entry" not in one.idempotency_key]
    assert len(others) > 10
    assert {one.correlation_id for one in others} <= entries


GATES = ("trading_disabled", "dry_run", "not_approved", "revoked", "circuit_open", "queue_full", "too_late")
LIMITS = ("state_unknown", "slippage_guard", "orders_per_minute", "orders_per_symbol", "open_orders", "cooldown",
          "position_capacity", "total_exposure", "symbol_exposure")  # fmt: skip
ANSWERS = ("insufficient_cash", "stale_base", "not_tradable", "not_shortable", "pattern_day_trader", "refused")


@pytest.mark.parametrize("reason", [*GATES, *LIMITS, *ANSWERS])
def test_every_block_is_an_event_with_the_name_of_what_blocked(frames, reason):
    """From the report of an entry that was not placed to `execution.blocked` and the account's update."""
    one = Live()
    for frame in frames:
        one.append(account_log.records("backtest", (frame,))[1][0])
        entries = [key for key in one.broker.orders if key[2] == Leg.ENTRY]
        if entries:
            break
    symbol, order_ts, leg = entries[0]
    one.hear([Report(0, symbol, order_ts, Leg(leg), "rejected", reason=Reason[reason.upper()])])
    (record,) = one.writer.unfilled(one.ledgers[-1])
    event = codec.decode(Execution, record.value)
    assert (event.status, event.error_message, event.symbol, event.filled_qty) == ("rejected", reason, symbol, 0)
    (update,) = one.ledgers[-1].updates
    assert Reason(update.reason) is Reason[reason.upper()]
    row = one.state.book.rows[one.state.names.tolist().index(symbol.encode())]
    assert (row.entry_shares, row.shares) == (0, 0)  # nothing is kept back for it any more


def report(number=1, **more):
    fields = {"symbol": "AAA", "order_ts": MARKET.upto, "leg": Leg.ENTRY, "status": "filled", "qty": 2, "cost": 7,
              "filled": 2}  # fmt: skip
    return Report(number, **(fields | more))


def test_reports_on_others_and_junk_do_not_enter_the_log():
    good = said(report(), 0)
    rows = [good, said(report(), 1, account_name="other"), good._replace(value=b"junk"),
            said(report(), 3, order_id="other|AAA|20240102T150000Z|entry"), said(report(), 4, order_id="backtest|AAA"),
            said(report(), 5, order_id="backtest|AAA|yesterday|entry"), said(report(), 6, reason="whim"),
            said(report(), 7, order_id="backtest|AAA|20240102T150000Z|nose"), said(report(), 8, filled=1),
            said(report(), 9, order_id="backtest|AAA|20241301T150000Z|entry")]  # fmt: skip
    found, letters = account_log.report_records("backtest", messages("execution.reports", rows))
    assert [record.id for record in found] == ["report:0"]
    assert [(letter.offset, letter.kind) for letter in letters] == [(k, "undecodable") for k in range(2, 10)]
    entry = codec.decode(LogEntry, found[0].value)
    assert (entry.kind, entry.source_topic, entry.source_offset) == (LogKind.REPORT, "execution.reports", 0)
    assert account_log.act(MARKET.calendar, entry) == report(0)


def test_a_report_without_its_cost_costs_its_price_and_a_lost_position_has_no_order():
    (record,), _ = account_log.report_records("backtest", messages("execution.reports", [
        said(report(leg=Leg.EXIT), 0, cost=0, price=5, order_id="backtest|AAA|lost1719400000|exit")]))  # fmt: skip
    one = account_log.act(MARKET.calendar, codec.decode(LogEntry, record.value))
    assert (one.cost, one.order_ts, one.leg) == (10, LOST, Leg.EXIT)


def test_a_report_stops_an_account_that_is_filled_in_the_simulation():
    with pytest.raises(ValueError, match=r"venue\.kind"):
        account_log.step(MARKET.calendar, SIMULATED.account, account.start(SIMULATED.account), report())


def test_the_slice_under_way_is_the_calendars():
    close = MARKET.calendar.closes[5]
    ts, session = account_log.under_way(MARKET.calendar, int(close))
    assert (ts, session) == (int(MARKET.calendar.opens[6]) + 30 * 60 * 10**9, MARKET.calendar.sessions[6])
    assert account_log.under_way(MARKET.calendar, 0) == (0, -1)


def test_a_backtest_at_a_broker_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'venue\.kind = "broker"'):
        backtest.plan("synthetic:symbols=2,days=2,seed=1", LIVE, tmp_path / "run")
