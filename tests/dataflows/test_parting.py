from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dataflows import account_log, parting, pipeline, replay
from infra.ranges import Messages
from infra.settings import load
from operators import barrier, drive
from schemas.scored_columns import _ROWS
from tests.markets import make

MARKET = make(5, sessions=2)
DECIDE = pipeline.decide_params(load(None, [], environ={}), 30)


class Inner(NamedTuple):
    rows: np.ndarray
    mean: float


class State(NamedTuple):
    version: int
    inner: Inner


ROW = np.dtype([("shares", "i8"), ("price", "f8")], align=True)


def state(shares=3, price=np.nan, mean=np.nan):
    return State(1, Inner(np.array([(1, 2.0), (shares, price)], ROW), mean))


def test_states_part_at_their_first_value():
    assert parting.states(state(), drive.flat(state()), "account") == ""
    told = parting.states(state(), drive.flat(state(shares=4)), "account")
    assert told == "account.inner.rows.shares[1]: replayed 3, recorded 4"
    told = parting.states(state(price=1.5), drive.flat(state()), "account")
    assert told == "account.inner.rows.price[1]: replayed 1.5, recorded nan"
    told = parting.states(state(), drive.flat(state(mean=2.0)), "account")
    assert told == "account.inner.mean: replayed nan, recorded 2.0"
    more = state()._replace(inner=Inner(np.zeros(3, ROW), 0.0))
    assert parting.states(state(), drive.flat(more), "s").startswith("s.inner.rows: replayed (2,) of ")


def recorded():
    """A slice as the account log has it, and as it was decided."""
    signals = pipeline.signals(MARKET.chunks(), DECIDE)
    frames = drive.replay(barrier.start(MARKET.after), barrier.step_singly, signals)
    frame = next(one for released in frames for one in released if one.symbol.size > 2)
    (record,) = account_log.records("backtest", (frame,))[1]
    ((_, kept),) = account_log.acts(MARKET.calendar, _messages(record))
    return frame, kept


def _messages(record):
    headers = [list(record.headers)]
    return Messages("account.log", 0, [0], [record.key], [record.value], headers)


def test_slices_part_at_a_symbols_value():
    frame, kept = recorded()
    assert parting.slices(frame, kept) == ""
    close = kept.close.copy()
    close[1] += 1.0
    name = kept.names[kept.symbol[1]].decode()
    told = parting.slices(frame, replace(kept, close=close))
    assert told == f"close of {name}: replayed {close[1] - 1.0}, recorded {close[1]}"
    told = parting.slices(frame, replace(kept, close=close, score=kept.score - 0.5))
    assert told.startswith("close of ")
    assert told.endswith("; also other score")
    told = parting.slices(frame, replace(kept, stopped=kept.stopped + 1))
    assert told == "other stopped"
    last = replace(kept, order=kept.order[:-1], **{one: getattr(kept, one)[:-1] for one in _ROWS})
    assert parting.slices(frame, last) == f"other bars: {kept.names[kept.symbol[-1]].decode()}"


def test_a_slice_that_was_recorded_before_models_were_named_is_the_same():
    frame, kept = recorded()
    named = replace(frame, models=np.array([b"m1"]))
    assert parting.slices(replay._as_known(named, kept), kept) == ""
    other = replace(kept, models=np.array([b"m2"]))
    assert parting.slices(replay._as_known(named, other), other) == "other models"
