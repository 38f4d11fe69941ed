import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows import pipeline
from infra.settings import Settings
from infra.snapshots import Snapshot, SnapshotError, path_of, read, sessions, write
from operators import barrier
from operators.drive import flat, replay, unflat
from risk import account
from schemas.errors import UserError
from tests.markets import make

SETTINGS = Settings()
DAY = 19_900


def test_the_states_of_a_run_come_back_to_the_bit(tmp_path):
    market = make(7, sessions=2)
    params = pipeline.decide_params(SETTINGS, 30)
    states = {}
    signals = []
    for frame in (frame for chunk in market.chunks([5]) for frame in chunk):
        states[frame.shard], answer = pipeline.step(params, states.get(frame.shard, pipeline.start(params)), frame)
        signals.append(answer)
    book = account.start(SETTINGS.account)
    for slices in replay(barrier.start(market.after), barrier.step, signals):
        book, _ = account.step(SETTINGS.account, book, slices)
    for key, state, first in [
        ("decide", states[3], pipeline.start(params)),
        ("account", book, account.start(SETTINGS.account)),
    ]:
        write(tmp_path, DAY, key, Snapshot(market.upto, "settings", flat(state)))
        kept = read(tmp_path, DAY, key)
        assert (kept.upto, kept.identity) == (market.upto, "settings")
        assert repr(kept.state) == repr(flat(state))
        write(tmp_path, DAY, key, Snapshot(market.upto, "settings", flat(unflat(first, kept.state))))  # or it raises


numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(max_size=5), st.none())
arrays = st.builds(
    lambda size, kind: np.arange(size).astype(kind), st.integers(0, 5), st.sampled_from(["i1", "f8", "S4"])
)
states = st.recursive(st.one_of(numbers, arrays), lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=12)


@given(state=states)
def test_any_plain_state_comes_back(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("snapshots")
    write(folder, DAY, "key", Snapshot(5, "x", state))
    assert repr(read(folder, DAY, "key").state) == repr(state)


def test_records_keep_their_names(tmp_path):
    rows = np.zeros(2, [("ts", "i8"), ("on", "?")]).view(np.recarray)
    write(tmp_path, DAY, "key", Snapshot(5, "x", (1, rows)))
    back = read(tmp_path, DAY, "key").state[1]
    assert (type(back), back.dtype, back.tolist()) == (np.ndarray, rows.dtype, rows.tolist())
    assert (back[0].ts, back[1].on) == (0, False)
    back[0].ts = 3  # and may be written into, as a step's copy is made from it


def test_the_same_state_may_be_written_again_and_another_one_may_not(tmp_path):
    write(tmp_path, DAY, "key", Snapshot(5, "x", (1, 2)))
    write(tmp_path, DAY, "key", Snapshot(5, "x", (1, 2)))
    with pytest.raises(SnapshotError, match="differs"):
        write(tmp_path, DAY, "key", Snapshot(5, "x", (1, 3)))
    assert read(tmp_path, DAY, "key").state == (1, 2)
    assert [path.name for path in path_of(tmp_path, DAY, "key").parent.iterdir()] == ["key.state"]


def test_a_damaged_or_missing_snapshot_is_one_clear_line(tmp_path):
    path = write(tmp_path, DAY, "key", Snapshot(5, "x", (1, 2)))
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path, DAY, "key")
    path.write_bytes(b"junk")
    with pytest.raises(UserError, match="no snapshot"):
        read(tmp_path, DAY, "key")
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path, DAY + 1, "key")


def test_a_state_that_is_not_plain_is_refused(tmp_path):
    with pytest.raises(TypeError, match="may not hold a object"):
        write(tmp_path, DAY, "key", Snapshot(5, "x", (object(),)))
    assert not path_of(tmp_path, DAY, "key").exists()


def test_lists_the_sessions_in_order(tmp_path):
    for day in (DAY + 3, DAY, DAY + 1):
        write(tmp_path, day, "key", Snapshot(5, "x", ()))
    write(tmp_path, DAY + 9, "other", Snapshot(5, "x", ()))
    assert sessions(tmp_path, "key") == [DAY, DAY + 1, DAY + 3]
