import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataflows import pipeline
from infra.forecaster import Event, Forecaster
from infra.settings import Settings
from operators import barrier, drive, features
from risk import account
from schemas.scored_columns import pack, unpack
from tests.markets import cuts, make, markets
from tests.models import bundles

SETTINGS = Settings()
DECIDE = pipeline.decide_params(SETTINGS, 30)


def singly(market, chunks, shuffle=None, decide=DECIDE):
    """Slice by slice, as the account log gets them; shards in any order."""
    frames = list(pipeline.signals(chunks, decide))
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


def test_what_came_of_forecasts_travels_with_its_slice(tmp_path):
    """In one order, whichever shard came first; and the account cannot tell."""
    market = make(3, sessions=6)
    about = {"feature_set": features.set_hash(features.Params(set="all")), "timeframe": 30}
    usual = ((-1.0, 0.0, 1.0),) * 2
    id_ = bundles.make(tmp_path, 4, horizons=(2, 5), reference=bundles.Reference(usual=usual), **about).name
    made = Forecaster([Event(0, id_)], {}, tmp_path, market.calendar, market.after).open(2**62)
    decide = pipeline.decide_params(SETTINGS, 30, made)

    def told(at):
        return [[made.told(frame) for frame in chunk] for chunk in market.chunks(at)]

    state = logged = account.start(SETTINGS.account)
    first, outcomes = [], 0
    for frame in singly(market, told([7, 40]), decide=decide):
        columns = pack(frame)
        back = unpack(columns, frame.slices)
        assert pack(back) == columns
        state, expected = account.step(SETTINGS.account, state, frame)
        logged, answer = account.step(SETTINGS.account, logged, back)
        assert repr(drive.flat(answer)) == repr(drive.flat(expected))
        assert answer.outcomes.ts.tolist() == [int(frame.slices.ts[0])] * answer.outcomes.ts.size
        outcomes += answer.outcomes.ts.size
        first.append(columns)
    assert outcomes > 50
    assert [pack(frame) for frame in singly(market, told([25]), np.random.default_rng(1), decide)] == first


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
