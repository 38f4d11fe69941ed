"""Items of the contracts' acceptance list (section 19), each under its own number: 1, 2, 3, and 8 for price and state.

Where the part that must pass or refuse is tested, the others stand as `test_item_N_...`: 6 in
tests/operators/test_ensemble.py, 8 for quote and forecast there and in test_filters.py, 7, 10 and 11 in tests/risk.
"""

import pickle
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows import pipeline
from infra.settings import load
from operators import barrier, clean, drive, features
from risk import account
from risk.ledger import LedgerFrame
from schemas.events import Leg, Reason
from schemas.frames import SHARDS
from tests.markets import Market, make

ALL = features.Params(set="all")
EAGER = ["ensemble.publish_gate=0.52", "ensemble.decision_gate=0.53", "rules.cooldown_seconds=0",
         "rules.max_orders_per_symbol_per_day=100", "run.timeframe=30m",
         "filters.liquidity=false", "regime.hysteresis=1"]  # fmt: skip
SETTINGS = load(None, EAGER, environ={})
DECIDE = pipeline.decide_params(SETTINGS, 30)
ACCOUNT = SETTINGS.account

Values = dict[tuple[int, int], np.ndarray]  # by instant and symbol


def featured(market: Market, cuts: list[int]) -> Values:
    """Every feature of every good bar, from frames that end at these slices; each state pickled on its way."""
    states: dict[int, Any] = {shard: (clean.start(), features.start()) for shard in range(SHARDS)}
    found: Values = {}
    for frame in (frame for chunk in market.chunks(cuts) for frame in chunk):
        first, second = states[frame.shard]
        first, bars = clean.step(clean.Params(), first, frame)
        second, answer = features.step(ALL, second, bars)
        states[frame.shard] = pickle.loads(pickle.dumps((first, second))) if cuts else (first, second)
        for at, symbol, row in zip(bars.at.tolist(), bars.symbol.tolist(), answer.values, strict=True):
            found[int(bars.slices.ts[at]), symbol] = row
    return found


@cache
def streamed_and_batched() -> tuple[Values, Values]:
    market = make(7, sessions=18, symbols=3, beside=True)
    return featured(market, list(range(1, market.slices.size))), featured(market, [])


@pytest.mark.parametrize("name", features.SETS["all"])
def test_1_batch_features_equal_streamed_features(name: str) -> None:
    streamed, batch = streamed_and_batched()
    assert streamed.keys() == batch.keys()
    column = features.SETS["all"].index(name)
    left = np.array([streamed[key][column] for key in batch])
    right = np.array([row[column] for row in batch.values()])
    assert np.isfinite(right).any(), "never warm: nothing was compared"
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-9)


@given(seed=st.integers(0, 9999), share=st.floats(0.1, 0.9))
def test_2_shuffling_the_future_never_changes_the_past(seed: int, share: float) -> None:
    market = make(seed, sessions=5, symbols=3)
    now = int(market.slices.ts[int(share * market.slices.size)])
    rng = np.random.default_rng(seed)
    later = np.flatnonzero(market.table.ts > now)
    mixed = rng.permutation(later)
    columns = {name: getattr(market.table, name).copy() for name in ("open", "high", "low", "close", "volume")}
    for column in columns.values():
        column[later] = column[mixed]
    other = replace(market, table=market.table._replace(**columns))
    known, told = featured(market, []), featured(other, [])
    past = [key for key in known if key[0] <= now]
    assert past
    assert [key for key in told if key[0] <= now] == past
    for key in past:
        assert known[key].tobytes() == told[key].tobytes()


def ledgers(market: Market, restart: int | None = None) -> list[LedgerFrame]:
    """The whole way from bars to orders; every state comes from a pickle after slice `restart`."""
    decide: dict[int, Any] = {shard: pipeline.start(DECIDE) for shard in range(SHARDS)}
    gate, book = barrier.start(market.after), account.start(ACCOUNT)
    found = []
    for chunk in market.chunks([] if restart is None else [restart]):
        for frame in chunk:
            decide[frame.shard], signals = pipeline.step(DECIDE, decide[frame.shard], frame)
            gate, slices = barrier.step(gate, signals)
            if slices is not None:
                book, ledger = account.step(ACCOUNT, book, slices)
                found.append(ledger)
        fresh = pipeline.start(DECIDE)
        decide = {shard: revived(drive.unflat, fresh, state) for shard, state in decide.items()}
        gate = revived(barrier.restore, barrier.start(market.after), gate)
        book = revived(drive.unflat, account.start(ACCOUNT), book)
    return found


def revived(restore: Any, start: Any, state: Any) -> Any:
    """A state as it comes back from a recovery store."""
    return restore(start, pickle.loads(pickle.dumps(drive.flat(state, start))))


def orders(market: Market, restart: int | None = None) -> list[tuple[Any, ...]]:
    """Every order and every fill, as plain values."""
    tables = [getattr(ledger, name) for name in ("orders", "fills") for ledger in ledgers(market, restart)]
    return [row for table in tables for row in table.tolist()]


@cache
def trading() -> Market:
    """A market in which the eager settings trade."""
    return make(5, sessions=8, symbols=4, dirt=0.01)


def test_3_a_restart_at_any_bar_gives_the_same_orders() -> None:
    market = trading()
    whole = orders(market)
    assert sum(row[5] == Leg.ENTRY for row in whole) > 10
    for restart in range(1, market.slices.size):
        assert orders(market, restart) == whole, f"restarted after slice {restart}"


def entries(market: Market) -> dict[tuple[int, int], int]:
    """Entry orders, by instant and symbol."""
    found = [table for ledger in ledgers(market) for table in [ledger.orders]]
    return {(int(row.ts), int(row.symbol)): int(row.qty) for table in found for row in table if row.leg == Leg.ENTRY}


MISSING = {
    "no close": ("close", np.nan, Reason.NOT_A_NUMBER),
    "no open": ("open", np.nan, Reason.NOT_A_NUMBER),
    "a close of zero": ("close", 0.0, Reason.BAD_PRICE),
    "a close below zero": ("close", -5.0, Reason.BAD_PRICE),
    "an impossible range": ("high", 0.5, Reason.BAD_RANGE),
    "no volume": ("volume", np.nan, Reason.NOT_A_NUMBER),
}


@pytest.mark.parametrize("what", MISSING)
def test_8_a_missing_price_makes_no_order(what: str) -> None:
    name, value, reason = MISSING[what]
    market = trading()
    sent = sorted(entries(market))
    assert len(sent) > 10
    for ts, symbol in sent[:: len(sent) // 4]:
        rows = np.flatnonzero((market.table.ts == ts) & (market.table.symbol == symbol))
        column = getattr(market.table, name).copy()
        column[rows] = value
        other = replace(market, table=market.table._replace(**{name: column}))
        assert (ts, symbol) not in entries(other)
        refused = [
            Reason(int(code))
            for ledger in ledgers(other)
            for at, who, code in zip(ledger.refused.ts, ledger.refused.symbol, ledger.refused.reason, strict=True)
            if (int(at), int(who)) == (ts, symbol)
        ]
        assert reason in refused


def test_8_a_missing_bar_makes_no_order() -> None:
    market = trading()
    sent = sorted(entries(market))
    for ts, symbol in sent[:: len(sent) // 4]:
        keep = ~((market.table.ts == ts) & (market.table.symbol == symbol))
        other = replace(market, table=type(market.table)(*(c[keep] if c.size else c for c in market.table)))
        assert (ts, symbol) not in entries(other)


def test_8_a_missing_state_makes_no_order() -> None:
    """Of a symbol whose past is too short no indicator speaks: the first orders wait until it is warm."""
    market = trading()
    sent = sorted(entries(market))
    for ts, symbol in sent[:: len(sent) // 4]:
        before = np.flatnonzero((market.table.symbol == symbol) & (market.table.ts <= ts))
        for kept in (1, 5, 9):
            gone = np.zeros(market.table.ts.size, np.bool_)
            gone[before[:-kept]] = True
            columns = (c[~gone] if c.size else c for c in market.table)
            other = replace(market, table=type(market.table)(*columns))
            assert (ts, symbol) not in entries(other)
