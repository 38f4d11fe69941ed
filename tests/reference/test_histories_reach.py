"""The generated histories reach every corner of the account, and what holds always holds after each."""

from collections import Counter

import pytest
from hypothesis import given, settings

from risk.limits import Params
from schemas.events import Leg, Reason, Side, Status
from tests.reference.account import Ledger, Slice, run
from tests.reference.audit import audit
from tests.reference.histories import histories, history

SEEDS = range(2_000)

RULES = [reason for reason in Reason if Reason.KILL_SWITCH <= reason <= Reason.REVOKED]
EXITS = [reason for reason in Reason if Reason.STOP_LOSS <= reason <= Reason.SIGNAL_FLIP]
HALTS = [Reason.KILL_SWITCH, Reason.DRAWDOWN]
ENDS = {  # how an order may end, but for its fills
    (Leg.ENTRY, Status.CANCELED): [*HALTS, Reason.END_OF_DAY, Reason.PARTIAL_ENTRY, Reason.SPLIT, Reason.REVOKED],
    (Leg.ENTRY, Status.EXPIRED): [Reason.DAY_ORDER],
    (Leg.ENTRY, Status.REJECTED): [Reason.STALE_BASE, Reason.INSUFFICIENT_CASH],
    (Leg.TAKE_PROFIT, Status.CANCELED): [Reason.SIBLING, Reason.SPLIT],
    (Leg.TAKE_PROFIT, Status.EXPIRED): [Reason.DAY_ORDER],
    (Leg.STOP_LOSS, Status.CANCELED): [Reason.SIBLING, Reason.SPLIT],
    (Leg.STOP_LOSS, Status.EXPIRED): [Reason.DAY_ORDER],
    (Leg.OCO_TAKE_PROFIT, Status.CANCELED): [Reason.SIBLING, Reason.SPLIT],
    (Leg.OCO_TAKE_PROFIT, Status.EXPIRED): [Reason.DAY_ORDER],
    (Leg.OCO_STOP_LOSS, Status.CANCELED): [Reason.SIBLING, Reason.SPLIT],
    (Leg.OCO_STOP_LOSS, Status.EXPIRED): [Reason.DAY_ORDER],
    (Leg.EXIT, Status.EXPIRED): [Reason.DAY_ORDER],
    (Leg.EXIT, Status.CANCELED): [Reason.SPLIT],
}


@pytest.fixture(scope="module")
def runs() -> list[tuple[Params, list[Slice], Ledger]]:
    drawn = [history(seed) for seed in SEEDS]
    return [(params, slices, run(params, slices)) for params, slices in drawn]


def seldom(counts: Counter, wanted: list, least: int) -> list:
    """What was seen less often than it should."""
    return [(key, counts[key]) for key in wanted if counts[key] < least]


def test_every_rule_objects_and_some_candidates_pass(runs):
    verdicts = Counter(row[4] for _, _, ledger in runs for row in ledger.verdicts)
    assert not seldom(verdicts, [Reason.NONE, *RULES], 20)
    assert set(verdicts) == {Reason.NONE, *RULES}


def test_every_exit_is_sent_and_filled_whole_and_in_part(runs):
    sent = Counter(row[7] for _, _, ledger in runs for row in ledger.orders if row[5] == Leg.EXIT)
    ended = Counter(row[10] for _, _, ledger in runs for row in ledger.trades)
    fills = Counter((row[3], row[4], row[6]) for _, _, ledger in runs for row in ledger.updates)
    assert not seldom(sent, [*EXITS, *HALTS], 20)
    assert not seldom(ended, [*EXITS, *HALTS], 20)
    assert not seldom(fills, [(Leg.EXIT, Status.FILLED, reason) for reason in [*EXITS, *HALTS]], 10)
    assert not seldom(fills, [(Leg.EXIT, Status.PARTIALLY_FILLED, reason) for reason in [*EXITS, *HALTS]], 1)


def test_every_leg_fills_whole_and_in_part(runs):
    fills = Counter((row[3], row[4]) for _, _, ledger in runs for row in ledger.updates)
    wanted = [(leg, status) for leg in Leg for status in (Status.FILLED, Status.PARTIALLY_FILLED)]
    assert not seldom(fills, wanted, 10)


def test_every_order_ends_in_every_way_it_may_and_in_no_other(runs):
    ends = Counter(
        (row[3], row[4], row[6])
        for _, _, ledger in runs
        for row in ledger.updates
        if row[4] not in (Status.FILLED, Status.PARTIALLY_FILLED)
    )
    wanted = [(*end, reason) for end, reasons in ENDS.items() for reason in reasons]
    assert not seldom(ends, wanted, 5)
    assert set(ends) == set(wanted)


def test_triggered_stops_sell_on_and_expire(runs):
    after, expired = 0, 0
    for _, _, ledger in runs:
        begun = set()
        for _, symbol, order_ts, leg, status, _, _ in ledger.updates:
            key = symbol, order_ts, leg
            after += key in begun and status == Status.FILLED
            expired += key in begun and status == Status.EXPIRED
            if leg in (Leg.STOP_LOSS, Leg.OCO_STOP_LOSS) and status == Status.PARTIALLY_FILLED:
                begun.add(key)
    assert after >= 20
    assert expired >= 5


def test_both_sides_and_both_outcomes(runs):
    trades = Counter((row[4], row[9] > 0, row[10]) for _, _, ledger in runs for row in ledger.trades)
    reasons = [*EXITS, *HALTS]
    assert not seldom(
        Counter((side, reason) for side, _, reason in trades.elements()),
        [(side, reason) for side in Side for reason in reasons],
        5,
    )
    assert not seldom(
        Counter((side, won) for side, won, _ in trades.elements()),
        [(side, won) for side in Side for won in (True, False)],
        50,
    )


def test_splits_and_dividends_meet_lots(runs):
    held = sum(row[10] == Reason.SPLIT for _, _, ledger in runs for row in ledger.trades)
    paid = [ledger.funds["dividends"] for _, _, ledger in runs]
    assert held >= 5
    assert sum(amount > 0 for amount in paid) >= 20
    assert sum(amount < 0 for amount in paid) >= 10


def test_halts_come_and_go(runs):
    funds = [ledger.funds for _, _, ledger in runs]
    assert sum(row["killed"] for row in funds) >= 50
    assert sum(row["drawdown_latches"] for row in funds) >= 50
    assert sum(row["latch_releases"] for row in funds) >= 20
    assert sum(row["drawdown_latches"] > 1 for row in funds) >= 5


def test_what_holds_always_holds(runs):
    for params, slices, ledger in runs:
        audit(params, slices, ledger)


def test_the_future_changes_nothing(runs):
    for params, slices, ledger in runs[:200]:
        cut = len(slices) // 2
        part = run(params, slices[:cut])
        for table in ("equity", "verdicts", "orders", "updates", "fills", "trades"):
            rows = getattr(part, table)
            assert repr(rows) == repr(getattr(ledger, table)[: len(rows)])


@settings(deadline=None)
@given(histories())
def test_what_hypothesis_draws_holds_too(drawn):
    params, slices = drawn
    audit(params, slices, run(params, slices))
