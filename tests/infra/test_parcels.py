"""Frames on their way: the same on the other side, copied at most once, and known to be under way."""

import gc
import pickle
from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from dataflows import pipeline
from infra.bars import open_bars
from infra.parcels import LEAST, Parcel, opened
from infra.settings import load
from infra.shared_memory import Lender, Use
from operators import barrier
from risk import account
from schemas.frames import SHARDS, RawFrame, Space
from tests.infra.parcelkit import sent

SPEC = "synthetic:symbols=24,days=3,seed=5"


def frames_of_a_run(memory=None):
    """A raw frame, a scored one and a ledger frame of every chunk of a small run."""
    settings = load(None, (), environ={}, profile="research")
    bars = open_bars(SPEC, frame_slices=390)
    params = pipeline.decide_params(settings, bars.timeframe)
    states = {shard: pipeline.start(params) for shard in range(SHARDS)}
    waiting, book = barrier.start(bars.after), account.start(settings.account)
    for chunk in bars.frames() if memory is None else bars.frames(range(SHARDS), 0, memory):
        for frame in chunk:
            yield frame
            states[frame.shard], signals = pipeline.step(params, states[frame.shard], frame)
            yield signals
            waiting, slices = barrier.step(waiting, signals)
            if slices is not None:
                book, ledger = account.step(settings.account, book, slices)
                yield ledger


def only(given):
    """The frame of what is one."""
    (frame,) = opened(given)
    return frame


def plain(value):
    """All that is in a frame, arrays as what they hold and what a kernel would see of them."""
    if isinstance(value, np.ndarray):
        seen = value.flags.writeable, value.flags.aligned, value.flags.c_contiguous
        return type(value), value.dtype, value.shape, value.tobytes(), seen
    if is_dataclass(value):
        return type(value), [(one.name, plain(getattr(value, one.name))) for one in fields(value)]
    if isinstance(value, Space):  # where nobody has lent any, the other side makes its own
        return None
    return (type(value), [plain(one) for one in value]) if isinstance(value, tuple) else value


def arrays(value):
    if isinstance(value, np.ndarray):
        return [value]
    parts = [getattr(value, one.name) for one in fields(value)] if is_dataclass(value) else value
    return [array for part in parts for array in arrays(part)] if isinstance(parts, (list, tuple)) else []


@pytest.fixture(scope="module")
def frames():
    return list(frames_of_a_run())


def test_a_frame_arrives_as_it_was_sent(frames):
    lender = Lender()
    for frame in frames:
        assert plain(only(sent(Parcel(lender, frame))())) == plain(frame)
    assert {type(frame).__name__ for frame in frames} == {"RawFrame", "SignalFrame", "LedgerFrame"}


def test_what_arrived_goes_on_as_what_was_made_here(frames):
    one, two = Lender(), Lender()
    for frame in frames:
        away = only(sent(Parcel(one, frame))())
        assert plain(only(sent(Parcel(two, away))())) == plain(frame)


def test_large_columns_are_not_in_what_is_pickled(frames):
    frame = max(frames, key=lambda one: sum(array.nbytes for array in arrays(one)))
    large = sum(array.nbytes for array in arrays(frame) if array.nbytes >= LEAST)
    assert large > 100_000
    assert len(pickle.dumps(Parcel(Lender(), frame))) < 0.05 * large


def test_columns_that_lie_in_lent_memory_are_not_copied():
    lender = Lender()
    made = frames_of_a_run(lender.room)
    raw = next(frame for frame in made if isinstance(frame, RawFrame) and frame.ts.size > 500)
    before = lender.held
    away = only(sent(Parcel(lender, raw))())
    assert lender.held == before
    raw.close[:] = 7.0
    assert (away.close == 7.0).all()


def test_what_is_made_of_lent_bars_lies_beside_them_and_is_joined_without_a_copy():
    """The scores of shards that were decided here and there: none is copied on its way or at the barrier."""
    lender = Lender()
    settings = load(None, (), environ={}, profile="research")
    bars = open_bars("synthetic:symbols=64,days=2,seed=5", frame_slices=390)
    params = pipeline.decide_params(settings, bars.timeframe)
    chunk = next(bars.frames(range(SHARDS), 0, lender.room))
    held = lender.held
    here = [pipeline.step(params, pipeline.start(params), frame)[1] for frame in chunk[::2]]
    raw = [only(sent(Parcel(lender, frame))()) for frame in chunk[1::2]]
    there = [pipeline.step(params, pipeline.start(params), frame)[1] for frame in raw]
    came = opened(sent(Parcel(lender, here))())
    assert lender.held == held
    waiting = barrier.start(bars.after)
    for frame in [*there, *came]:
        waiting, whole = barrier.step(waiting, frame)
    assert whole is not None
    assert whole.rows > 10_000
    for column in (whole.close, whole.score, whole.confidence, whole.volatility, whole.symbol):
        assert np.shares_memory(column, there[0].bars.close.base)


def test_memory_is_used_again_as_frames_go(frames):
    lender = Lender()
    for _ in range(3):
        for frame in frames:
            only(sent(Parcel(lender, frame))())
        gc.collect()
        held = lender.held
    for frame in frames:
        only(sent(Parcel(lender, frame))())
    assert lender.held == held
    assert held < 3 * max(sum(array.nbytes for array in arrays(frame)) for frame in frames) + (1 << 20)


def test_what_is_unpacked_leaves_no_cycle(frames):
    lender = Lender()
    gc.collect()
    gc.disable()
    try:
        for frame in frames:
            parcel = Parcel(lender, frame)
            only(sent(parcel)())
            assert all(lender.is_over(Use(loan.begin, loan.use)) for loan in parcel._sent[1])
    finally:
        gc.enable()


def test_within_a_process_it_is_the_frame_itself(frames):
    parcel = Parcel(Lender(), frames[0])
    assert not parcel.is_taken
    assert only(parcel) is frames[0]
    assert parcel.is_taken
    assert only(frames[0]) is frames[0]
    with pytest.raises(RuntimeError, match="a parcel was opened twice"):
        parcel.open()


def test_who_sent_it_knows_when_it_was_taken(frames):
    parcel = Parcel(Lender(), max(frames, key=lambda one: sum(array.nbytes for array in arrays(one))))
    away = sent(parcel)
    assert not parcel.is_taken
    frame = only(away())
    assert parcel.is_taken
    del frame
    assert parcel.is_taken


def test_a_frame_that_cannot_be_lent_is_not_sent(frames, monkeypatch):
    lender = Lender()
    monkeypatch.setattr(lender, "room", lambda size: np.empty(size, np.uint8))
    with pytest.raises(RuntimeError, match="no memory that several processes could share: run one"):
        sent(Parcel(lender, frames[0]))
