import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import numpy as np
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, cluster_main, run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import source
from infra.bars import open_bars
from infra.source import BarInput, Board
from schemas.frames import SHARDS
from tests.infra.barkit import bits

SPEC = "synthetic:symbols=24,days=2,seed=5"
ROOT = Path(__file__).resolve().parents[2]


class Counted:
    """Bars that count how often and for which shards they are read."""

    def __init__(self, frame_slices=60):
        self.bars = open_bars(SPEC, frame_slices=frame_slices)
        self.chunks = self.bars.chunks
        self.reads: list[tuple[list[int], int]] = []

    def frames(self, shards, first):
        self.reads.append((shards, first))
        return self.bars.frames(shards, first)


def build(bars, ahead=2, board=None, resume=None):
    """All parts of one process."""
    given_ = BarInput(bars, ahead, board)
    return [given_.build_part("input", name, (resume or {}).get(name)) for name in given_.list_parts()]


def drain(parts, polls=10_000):
    """Poll all parts in turn until each has ended; what each gave."""
    given_ = [[] for _ in parts]
    live = set(range(len(parts)))
    for _ in range(polls):
        for i in sorted(live):
            try:
                frames = parts[i].next_batch()
            except StopIteration:
                live.discard(i)
            else:
                assert len(frames) <= 1
                given_[i] += frames
        if not live:
            return given_
    raise AssertionError(f"parts {sorted(live)} never ended")


def summary(frames):
    return [(frame.shard, frame.slices.after, frame.slices.upto, frame.listed, bits(frame)) for frame in frames]


@pytest.fixture
def whole():
    """What each shard should give."""
    return [summary(shard) for shard in zip(*open_bars(SPEC, frame_slices=60).frames(), strict=True)]


def test_every_part_gives_its_shard_in_order_and_the_bars_are_read_once(whole):
    bars = Counted()
    parts = build(bars)
    assert [summary(frames) for frames in drain(parts)] == whole
    assert bars.reads == [(list(range(SHARDS)), 0)]
    for part in parts:
        part.close()
    assert not source._READERS


@settings(max_examples=20, deadline=None)
@given(
    resume=st.dictionaries(st.integers(0, 15).map(lambda k: f"{k:02}"), st.integers(0, 13)),
    ahead=st.integers(1, 5),
)
def test_resuming_anywhere_gives_the_rest(resume, ahead):
    bars = Counted()
    expected = [summary(shard) for shard in zip(*bars.bars.frames(), strict=True)]
    parts = build(bars, ahead, resume=resume)
    assert [part.snapshot() for part in parts] == [resume.get(f"{k:02}", 0) for k in range(SHARDS)]
    for k, frames in enumerate(drain(parts)):
        assert summary(frames) == expected[k][resume.get(f"{k:02}", 0) :]
        assert parts[k].snapshot() == bars.chunks


@pytest.mark.parametrize("ahead", [1, 3])
def test_with_one_slow_part_the_others_wait_and_memory_is_bounded(ahead):
    bars = Counted(frame_slices=10)
    assert bars.chunks > 50
    parts = build(bars, ahead)
    slow, reader = parts[3], parts[3]._reader
    done = 0
    while done < bars.chunks:
        for _ in range(20):  # the others are asked far more often than the slow one
            for part in parts:
                if part is not slow and part.snapshot() < bars.chunks:
                    waits = part.next_batch() == []
                    assert (part.next_awake() is not None) == waits
        assert max(part.snapshot() for part in parts) <= done + ahead
        assert reader.held <= ahead
        assert len(slow.next_batch()) == 1
        assert slow.next_awake() is None
        done += 1


def test_nothing_flows_before_all_parts_are_built():
    bars = Counted()
    whole_source = BarInput(bars)
    parts = [whole_source.build_part("input", f"{k:02}", None) for k in range(15)]
    assert all(part.next_batch() == [] for part in parts)
    assert not bars.reads
    parts.append(whole_source.build_part("input", "15", None))
    assert all(len(part.next_batch()) == 1 for part in parts)


def test_two_processes_keep_together_through_the_board(tmp_path):
    """Two sources stand for two processes; only the board is between them."""
    bars = [Counted(), Counted()]
    inputs = [BarInput(each, 2, tmp_path / "run") for each in bars]
    parts = [inputs[k % 2].build_part("input", f"{k:02}", None) for k in range(SHARDS)]
    for _ in range(10):
        for part in parts[::2]:
            part.next_batch()
    assert {part.snapshot() for part in parts[::2]} == {2}
    given_ = drain(parts)
    assert [len(frames) for frames in given_] == [bars[0].chunks - 2, bars[0].chunks] * 8
    assert bars[0].reads == [([0, 2, 4, 6, 8, 10, 12, 14], 0)]
    assert bars[1].reads == [([1, 3, 5, 7, 9, 11, 13, 15], 0)]


def test_a_board_of_an_earlier_start_costs_no_bar(tmp_path, whole):
    board = Board(tmp_path)
    for shard in range(SHARDS):
        board.put(shard, 99)
    bars = Counted()
    given_ = BarInput(bars, 2, tmp_path)
    first = given_.build_part("input", "00", None)
    early = [frame for _ in range(3) for frame in first.next_batch()]
    parts = [first, *(given_.build_part("input", f"{k:02}", None) for k in range(1, SHARDS))]
    frames = drain(parts)
    frames[0] = early + frames[0]
    assert [summary(each) for each in frames] == whole
    assert bars.reads == [([0], 0), (list(range(1, SHARDS)), 0)]


def test_threads_may_ask_at_once(whole):
    parts = build(Counted())
    given_ = [[] for _ in parts]

    def run(mine):
        live = set(mine)
        while live:
            for k in sorted(live):
                try:
                    given_[k] += parts[k].next_batch()
                except StopIteration:
                    live.discard(k)

    threads = [threading.Thread(target=run, args=(range(k, SHARDS, 4),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [summary(frames) for frames in given_] == whole


def test_bars_that_end_early_are_no_end(whole):
    bars = Counted()
    bars.chunks += 1
    with pytest.raises(RuntimeError, match="the bars end before chunk"):
        drain(build(bars))


def flow_of(bars, out, board=None):
    flow = Dataflow("bars")
    op.output("out", op.input("in", flow, BarInput(bars, 2, board)), TestingSink(out))
    return flow


@pytest.mark.parametrize("workers", [1, 2])
def test_in_a_dataflow(workers, whole):
    bars, out = Counted(), []
    flow = flow_of(bars, out)
    if workers == 1:
        run_main(flow)
    else:
        cluster_main(flow, [], 0, worker_count_per_proc=workers)
    by_shard = [[frame for frame in out if frame.shard == shard] for shard in range(SHARDS)]
    assert [summary(frames) for frames in by_shard] == whole
    assert bars.reads == [(list(range(SHARDS)), 0)]


def test_after_a_crash_the_flow_goes_on_where_it_was(tmp_path, whole):
    init_db_dir(tmp_path, 1)
    taken = []

    def take(frame):
        if len(taken) == 50:
            raise RuntimeError("the worker dies")
        taken.append(frame)
        return frame

    def run(into):
        flow = Dataflow("bars")
        frames = op.map("take", op.input("in", flow, BarInput(Counted(), 2)), take)
        op.output("out", frames, TestingSink(into))
        store = RecoveryConfig(str(tmp_path))
        run_main(flow, epoch_interval=timedelta(0), recovery_config=store)

    before, after = [], []
    with pytest.raises(RuntimeError):
        run(before)
    taken.extend([None] * 1000)
    run(after)
    assert 0 < len(after) < sum(len(frames) for frames in whole)
    for shard, expected in enumerate(whole):
        early, late = (summary(f for f in out if f.shard == shard) for out in (before, after))
        assert late == expected[len(expected) - len(late) :]
        assert early == expected[: len(early)]
        assert len(early) + len(late) >= len(expected)


FLOW = """
import sys
from pathlib import Path
import bytewax.operators as op
from bytewax.connectors.files import FileSink
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from infra.bars import open_bars
from infra.source import BarInput

flow = Dataflow("bars")
frames = op.input("in", flow, BarInput(open_bars({spec!r}, frame_slices=60), 2, Path({board!r})))
lines = op.map("line", frames, lambda f: ("all", f"{{f.shard}} {{f.slices.upto}} {{f.close.sum()!r}}"))
op.output("out", lines, FileSink({out!r}))
"""


def test_two_processes_in_a_dataflow(tmp_path):
    script, out = tmp_path / "flow.py", tmp_path / "out.txt"
    script.write_text(FLOW.format(spec=SPEC, board=str(tmp_path / "board"), out=str(out)))
    subprocess.run(
        [sys.executable, "-m", "bytewax.testing", f"{script}:flow", "-p", "2"],
        cwd=ROOT, check=True, timeout=120, capture_output=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    expected = [
        f"{f.shard} {f.slices.upto} {f.close.sum()!r}"
        for chunk in open_bars(SPEC, frame_slices=60).frames()
        for f in chunk
    ]
    assert sorted(out.read_text().splitlines()) == sorted(expected)


def test_positions_on_a_board_are_seen_by_who_opens_it_later(tmp_path):
    one, two = Board(tmp_path), Board(tmp_path)
    assert one.slowest() is None
    for shard in range(SHARDS):
        one.put(shard, shard + 5)
    assert two.slowest() == 5
    assert np.array_equal(one._done, two._done)


def test_an_impossible_bound_is_refused():
    with pytest.raises(ValueError, match="ahead 0: want at least 1 chunk"):
        BarInput(Counted(), 0)
