import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataflows import pipeline
from infra.settings import Settings
from operators import barrier, drive
from risk import account
from schemas.scored_columns import pack, unpack
from tests.markets import cuts, markets

SETTINGS = Settings()
DECIDE = pipeline.decide_params(SETTINGS, 30)


def singly(market, chunks, shuffle=None):
    """Slice by slice, as the account log gets them; shards in any order."""
    frames = list(pipeline.signals(chunks, DECIDE))
    if shuffle is not None:  # whose turn it is; the frames of one shard keep their order
        by_shard = {}
        for frame in frames:
            by_shard.setdefault(frame.bars.shard, []).append(frame)
        frames = [by_shard[frames[k].bars.shard].pop(0) for k in shuffle.permutation(len(frames))]
    for released in drive.replay(barrier.start(market.after), barrier.step_singly, frames):
        yield from released


@given(market=markets, at=cuts, seed=st.integers(0, 99))
def test_the_bytes_of_a_slice_depend_on_nothing_else(market, at, seed):
    """Neither on how the log was cut into frames nor on the order in which shards arrived."""
    first = [pack(frame) for frame in singly(market, market.chunks())]
    second = [pack(frame) for frame in singly(market, market.chunks(at), np.random.default_rng(seed))]
    assert len(first) == market.slices.size
    assert first == second


@given(market=markets, at=cuts)
def test_the_account_cannot_tell_a_slice_from_the_log_from_one_of_the_barrier(market, at):
    direct, logged = account.start(SETTINGS.account), account.start(SETTINGS.account)
    for frame in singly(market, market.chunks(at)):
        columns = pack(frame)
        back = unpack(columns, frame.slices)
        assert pack(back) == columns
        direct, expected = account.step(SETTINGS.account, direct, frame)
        logged, answer = account.step(SETTINGS.account, logged, back)
        assert repr(drive.flat(answer)) == repr(drive.flat(expected))
    assert repr(drive.flat(logged)) == repr(drive.flat(direct))


@given(market=markets, at=cuts)
def test_slice_by_slice_the_account_decides_as_over_many(market, at):
    slices = drive.replay(barrier.start(market.after), barrier.step, pipeline.signals(market.chunks(), DECIDE))
    state = account.start(SETTINGS.account)
    orders = []
    for frame in slices:
        state, ledger = account.step(SETTINGS.account, state, frame)
        orders += ledger.orders.tolist()
    state, singles = account.start(SETTINGS.account), []
    for frame in singly(market, market.chunks(at)):
        state, ledger = account.step(SETTINGS.account, state, frame)
        singles += ledger.orders.tolist()
    assert singles == orders
