"""What is true of the barrier alone; what every operator promises stands in test_every_operator."""

from dataclasses import replace

import numpy as np
import pytest

from dataflows import pipeline
from infra.settings import Settings
from operators import barrier
from operators.drive import flat, replay
from schemas.frames import GAP, JUMPED, SHARDS, STALE, SignalFrame, SliceFrame
from tests.markets import Market, make

DECIDE = pipeline.decide_params(Settings(), 30)


def frames(market: Market, cuts: list[int]) -> list[SignalFrame]:
    return list(pipeline.signals(market.chunks(cuts), DECIDE))


def test_nothing_is_released_before_the_slowest_shard_has_covered_it() -> None:
    market = make(5)
    state, released = barrier.start(market.after), []
    ahead = sorted(frames(market, [10, 20, 30]), key=lambda frame: (frame.bars.shard == 7, frame.bars.slices.after))
    for frame in ahead:  # shard 7 comes last of all
        state, answer = barrier.step(state, frame)
        released.append(answer)
    count = sum(frame.bars.shard != 7 for frame in ahead)
    assert released[:count] == [None] * count
    assert [answer.slices.size for answer in released[count:]] == [10, 10, 10, market.last - market.first - 30]
    assert state.waiting == ()


def test_shards_may_be_cut_in_different_places() -> None:
    market = make(6)
    early, late = frames(market, [13]), frames(market, [29, 40])
    mixed = [frame for frame in early if frame.bars.shard % 2] + [frame for frame in late if not frame.bars.shard % 2]
    state, rows, slices = barrier.start(market.after), 0, 0
    for frame in mixed:
        state, answer = barrier.step(state, frame)
        if answer is not None:
            rows, slices = rows + answer.rows, slices + answer.slices.size
    assert slices == market.last - market.first
    assert rows == sum(frame.bars.at.size for frame in early)
    assert state.waiting == ()


@pytest.mark.parametrize(
    ("bid", "ask", "half"),
    [
        (9.99, 10.01, 0.01),
        (10.0, 10.0, 0.0),
        (10.01, 9.99, None),  # crossed
        (0.0, 10.0, None),
        (float("nan"), 10.0, None),
        (10.0, float("inf"), None),
        (10.0, 1e12, None),  # its half would not fit the account's integers
    ],
)
def test_only_a_sane_quote_has_a_spread(bid: float, ask: float, half: float | None) -> None:
    market = make(7, dirt=0.0)
    size = market.table.ts.size
    quoted = replace(market, table=market.table._replace(bid=np.full(size, bid), ask=np.full(size, ask)))
    state, found = barrier.start(market.after), np.zeros(0)
    for frame in frames(quoted, []):
        state, answer = barrier.step(state, frame)
        if answer is not None:
            found = answer.half_spread
    assert found.size == size
    if half is None:
        assert np.isnan(found).all()
    else:
        np.testing.assert_allclose(found, half, atol=1e-12)


def test_a_source_without_quotes_has_no_spreads() -> None:
    market = make(8, quotes=False)
    state = barrier.start(market.after)
    for frame in frames(market, []):
        state, answer = barrier.step(state, frame)
    assert answer is not None
    assert answer.half_spread.size == 0


def test_waiting_is_bounded_by_what_the_sources_may_be_ahead() -> None:
    """With every shard at most one frame ahead of the slowest, at most 2 × 15 frames wait."""
    market, most = make(9), 0
    state = barrier.start(market.after)
    for frame in frames(market, list(range(0, 60, 5))):
        state, _ = barrier.step(state, frame)
        most = max(most, len(state.waiting))
    assert most <= SHARDS - 1


def released(market: Market, cuts: list[int]) -> list[SliceFrame]:
    """What comes out when the odd shards are cut elsewhere than the even ones."""
    early, late = frames(market, cuts), frames(market, [cut + 3 for cut in cuts])
    mixed = [frame for frame in early if frame.bars.shard % 2] + [frame for frame in late if not frame.bars.shard % 2]
    return list(replay(barrier.start(market.after), barrier.step, mixed))


@pytest.mark.parametrize("cuts", [[], [9], [1, 20, 31]])
def test_actions_of_all_shards_keep_their_slice_and_come_by_name(cuts: list[int]) -> None:
    market = make(11, symbols=7, beside=True)
    names, found = market.universe.names, []
    for answer in released(market, cuts):
        own = answer.actions
        rank = answer.rank[own.symbol]
        assert (np.diff(own.at * 100 + rank) > 0).all()
        for k in range(own.at.size):
            what = (int(own.new[k]), int(own.old[k]), int(own.dividend[k]))
            found.append((int(answer.slices.ts[own.at[k]]), names[own.symbol[k]], *what))
    assert len(found) == 14
    assert found == [tuple(action) for action in market.reference.actions]


@pytest.mark.parametrize("cuts", [[9], [1, 20, 31]])
def test_what_is_odd_is_counted_once(cuts: list[int]) -> None:
    market = make(12, symbols=7)
    whole = sum(answer.quality.sum(axis=0) for answer in released(market, []) if answer.quality.size)
    parts = sum(answer.quality.sum(axis=0) for answer in released(market, cuts) if answer.quality.size)
    assert whole.tolist() == parts.tolist()
    marks = np.concatenate([frame.bars.marks for frame in frames(market, [])])
    missing = np.concatenate([frame.bars.missing for frame in frames(market, [])])
    expected = [missing.sum(), *((marks & bit != 0).sum() for bit in (GAP, STALE, JUMPED))]
    assert whole.tolist() == expected
    assert whole[0] >= whole[1] > 0


def test_a_barrier_of_the_time_before_models_were_named_goes_on() -> None:
    market = make(5, symbols=7)
    *most, last = frames(market, [])
    state = barrier.start(market.after)
    for frame in most:
        state, _ = barrier.step(state, frame)
    version, *rest, waiting = flat(state)
    assert (version, len(waiting)) == (5, SHARDS - 1)
    before = (4, *rest, tuple(parts[:-1] for parts in waiting))
    resumed = barrier.restore(barrier.start(), before)
    assert resumed.version == 5
    _, answer = barrier.step(resumed, last)
    _, expected = barrier.step(state, last)
    assert repr(flat(answer)) == repr(flat(expected))
