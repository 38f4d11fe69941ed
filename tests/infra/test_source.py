import subprocess
import sys
from datetime import UTC, datetime, timedelta
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
from infra.parcels import opened
from infra.shared_memory import Lender
from infra.source import NOTHING, PART, BarInput
from schemas.frames import SHARDS
from tests.infra.barkit import bits
from tests.infra.parcelkit import sent

SPEC = "synthetic:symbols=24,days=2,seed=5"
ROOT = Path(__file__).resolve().parents[2]


class Counted:
    """Bars that count how often and from where they are read."""

    def __init__(self, frame_slices=60):
        self.bars = open_bars(SPEC, frame_slices=frame_slices)
        self.chunks, self.bytes_per_chunk = self.bars.chunks, self.bars.bytes_per_chunk
        self.reads: list[tuple[list[int], int]] = []

    def frames(self, shards, first, memory):
        self.reads.append((list(shards), first))
        return self.bars.frames(shards, first, memory)


def build(bars, ahead=2, resume=None, lender=None, alone=True):
    """The part that reads; `alone`: the results are in another process."""
    source_ = BarInput(bars, ahead, lender or Lender())
    if not alone:
        source_.build_part("input", NOTHING, None)
    return source_.build_part("input", PART, resume)


def drain(part):
    """What all chunks hold, each opened as soon as it is there, and looked at no longer."""
    chunks = []
    while True:
        try:
            parcels = part.next_batch()
        except StopIteration:
            return chunks
        assert parcels, "everything was taken, and it waits"
        assert part.next_awake() is None
        chunks.append(summary([parcel.open() for parcel in parcels]))


def summary(frames):
    return [(frame.shard, frame.slices.after, frame.slices.upto, frame.listed, bits(frame)) for frame in frames]


@pytest.fixture(scope="module")
def whole():
    """What each chunk should give."""
    return [summary(frames) for frames in open_bars(SPEC, frame_slices=60).frames()]


def test_all_frames_come_in_order_and_the_bars_are_read_once(whole):
    bars = Counted()
    source_ = BarInput(bars)
    assert source_.list_parts() == [NOTHING, PART]
    part = source_.build_part("input", PART, None)
    assert drain(part) == whole
    assert bars.reads == [(list(range(SHARDS)), 0)]


@settings(max_examples=15, deadline=None)
@given(first=st.integers(0, 13))
def test_resuming_anywhere_gives_the_rest(first):
    bars = Counted()
    expected = [summary(frames) for frames in bars.bars.frames()]
    part = build(bars, resume=first)
    assert part.snapshot() == first
    assert drain(part) == expected[first:]
    assert part.snapshot() == bars.chunks


@pytest.mark.parametrize("ahead", [1, 3])
def test_it_waits_while_steps_have_enough_to_do(ahead):
    part = build(Counted(frame_slices=10), ahead)
    given_ = [part.next_batch() for _ in range(ahead)]
    for _ in range(3):
        assert part.next_batch() == []
        assert part.next_awake() is not None
    for parcel in given_[0][1:]:
        parcel.open()
    assert part.next_batch() == []  # one frame of its first chunk is still under way
    given_[0][0].open()
    assert len(part.next_batch()) == SHARDS
    assert part.next_batch() == []


def test_frames_in_another_process_are_waited_for_until_nothing_looks_at_them():
    part = build(Counted(frame_slices=200), 1)
    away = [sent(parcel) for parcel in part.next_batch()]
    assert part.next_batch() == []
    frames = [opened(one()) for one in away]
    assert part.next_batch() == []  # taken, and still looked at
    del frames
    assert len(part.next_batch()) == SHARDS


@pytest.mark.parametrize("alone", [True, False])
def test_what_is_made_of_a_chunk_is_waited_for_too(alone):
    """Here or elsewhere: scores lie beside their bars, and the account may be far behind who decided."""
    part = build(Counted(frame_slices=200), 1, alone=alone)
    frames = [parcel.open() for parcel in part.next_batch()]
    made = next(frame.space.columns(frame.ts.size, [np.float64]) for frame in frames if frame.space)
    del frames
    assert part.next_batch() == []
    del made
    assert len(part.next_batch()) == SHARDS


@pytest.mark.parametrize("alone", [True, False])
def test_the_slices_that_the_ledger_speaks_of_hold_nobody_up(alone):
    part = build(Counted(frame_slices=200), 1, alone=alone)
    kept = [parcel.open().slices for parcel in part.next_batch()]
    before = kept[0].ts.copy()
    assert len(part.next_batch()) == SHARDS
    assert (kept[0].ts == before).all()  # nor are they written over


def test_memory_that_something_holds_for_good_delays_the_run_and_does_not_stop_it(monkeypatch):
    monkeypatch.setattr(source, "PATIENCE", 0.05)
    part = build(Counted(frame_slices=200), 1)
    away = [sent(parcel) for parcel in part.next_batch()]
    time_is_up = iter([10.0, 10.04, 10.1, 10.2])
    monkeypatch.setattr(source.time, "monotonic", lambda: next(time_is_up))
    assert [part.next_batch() for _ in range(3)] == [[], [], []]  # nobody has taken them yet: no patience for that
    held = [opened(one()) for one in away]
    assert len(part.next_batch()) == SHARDS
    assert any(frame.ts.size for frames in held for frame in frames)
    assert part.overdue == 1


def test_bars_are_read_into_memory_that_others_see():
    lender = Lender()
    part = build(Counted(), lender=lender)
    for expected in open_bars(SPEC, frame_slices=60).frames():
        held, parcels = lender.held, part.next_batch()
        frames = [frame for parcel in parcels for frame in opened(sent(parcel)())]
        assert summary(frames) == summary(expected)
        assert all(lender.lend(frame.close.ctypes.data) is None for frame in frames)  # these are of another process
    assert lender.held == held  # chunks use the memory of those before


def test_one_process_reads_into_memory_of_its_own_until_there_are_others():
    lender = Lender()
    part = build(Counted(frame_slices=200), lender=lender, alone=False)
    first = [parcel.open() for parcel in part.next_batch()]
    assert not lender.held
    assert summary(first) == summary(next(open_bars(SPEC, frame_slices=200).frames()))
    sent(build(Counted(), lender=lender, alone=False).next_batch()[0])  # another worker's, of another process
    bars = max((parcel.open() for parcel in part.next_batch()), key=lambda frame: frame.ts.size)
    assert lender.use_of(bars.close) is not None


def test_bars_that_end_early_are_no_end():
    bars = Counted()
    bars.chunks += 1
    with pytest.raises(RuntimeError, match="the bars end before chunk"):
        drain(build(bars))


def flow_of(bars, out, take=lambda frame: frame):
    """It keeps what frames hold: a frame that is kept is one with which something has still to do."""
    flow = Dataflow("bars")
    frames = op.flat_map("open", op.input("in", flow, BarInput(bars, 2)), opened)
    seen = op.map("look", frames, lambda frame: summary([frame])[0])
    op.output("out", op.map("take", seen, take), TestingSink(out))
    return flow


@pytest.mark.parametrize("workers", [1, 2])
def test_in_a_dataflow(workers, whole):
    bars, out = Counted(), []
    cluster_main(flow_of(bars, out), [], 0, worker_count_per_proc=workers)
    assert out == [frame for chunk in whole for frame in chunk]
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
        flow = flow_of(Counted(), into, take)
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(str(tmp_path)))

    expected = [frame for chunk in whole for frame in chunk]
    before, after = [], []
    with pytest.raises(RuntimeError):
        run(before)
    taken.extend([None] * 1000)
    run(after)
    assert 0 < len(after) < len(expected)
    assert after == expected[len(expected) - len(after) :]
    assert before == expected[: len(before)]
    assert len(before) + len(after) >= len(expected)


FLOW = """
import bytewax.operators as op
from bytewax.connectors.files import FileSink
from bytewax.dataflow import Dataflow
from dataflows.pipeline import KEYS
from infra.bars import open_bars
from infra.parcels import opened
from infra.source import BarInput
from operators.drive import scan

flow = Dataflow("bars")
parcels = op.input("in", flow, BarInput(open_bars({spec!r}, frame_slices=60), 2))
keyed = op.map("key", parcels, lambda parcel: (KEYS[parcel.frame.shard], parcel))
seen = scan("see", keyed, (), lambda state, f: (state, f"{{f.shard}} {{f.slices.upto}} {{f.close.sum()!r}}"),
            opened=opened)
op.output("out", op.map("line", seen, lambda item: ("all", item[1])), FileSink({out!r}))
"""


def test_two_processes_in_a_dataflow(tmp_path):
    script, out = tmp_path / "flow.py", tmp_path / "out.txt"
    script.write_text(FLOW.format(spec=SPEC, out=str(out)))
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


@pytest.mark.parametrize("workers", [1, 2])
def test_behind_the_last_frames_comes_what_was_seen_of_all(workers):
    bars, out, asked = Counted(), [], []

    def seen():
        asked.append(bars.bars.chunks)
        return "curve"

    flow = Dataflow("bars")
    told = op.branch("kind", op.input("in", flow, BarInput(bars, 2, Lender(), seen)), lambda one: one != "curve")
    op.output("out", op.flat_map("open", told.trues, opened), TestingSink(out))
    op.output("beside", told.falses, TestingSink(out))
    cluster_main(flow, [], 0, worker_count_per_proc=workers)
    assert sum(one != "curve" for one in out) == bars.chunks * SHARDS
    assert out.count("curve") == len(asked) == 1


def test_it_comes_with_the_frames_of_the_last_chunk_and_with_none_after_them():
    """Of one epoch: a snapshot that has all frames has it, too."""
    bars = Counted()
    part = BarInput(bars, bars.chunks, Lender(), lambda: "curve").build_part("input", PART, bars.chunks - 2)
    assert len(part.next_batch()) == SHARDS
    assert part.next_batch()[SHARDS:] == ["curve"]
    with pytest.raises(StopIteration):
        part.next_batch()
    done = BarInput(bars, 2, Lender(), lambda: "curve").build_part("input", PART, bars.chunks)
    with pytest.raises(StopIteration):
        done.next_batch()


def test_memory_is_asked_for_ahead_where_all_frames_go_to_other_processes(whole):
    beside, alone, bars = Lender(), Lender(), Counted()
    source_ = BarInput(bars, 2, beside)
    source_.build_part("input", NOTHING, None)
    assert drain(source_.build_part("input", PART, None)) == whole
    assert not beside.held
    part = build(bars, 2, lender=alone)
    assert not alone.held  # before all workers are ready they are not held up
    parcels = part.next_batch()
    assert alone.held >= 2 * bars.bytes_per_chunk
    held = alone.held
    chunks = [piece for piece in alone._pieces.values() if piece.size >= bars.bytes_per_chunk]
    assert len(chunks) == 2
    assert [summary([parcel.open() for parcel in parcels]), *drain(part)] == whole
    # no chunk needed a piece of its own
    assert chunks == [piece for piece in alone._pieces.values() if piece.size >= bars.bytes_per_chunk]
    assert any(piece.uses for piece in chunks)
    assert alone.held - held < bars.bytes_per_chunk  # what all its frames have in common


def test_a_chunk_takes_about_as_much_memory_as_it_says():
    bars, asked = open_bars(SPEC, frame_slices=60), []

    def room(size):
        asked.append(size)
        return np.empty(size, np.uint8)

    for _ in bars.frames(memory=room):
        pass
    assert 0.8 * bars.bytes_per_chunk < max(asked) <= bars.bytes_per_chunk


def test_no_part_wants_to_be_asked_before_all_workers_are_ready():
    """Bytewax does not rest as long as one could be asked, and is not ready sooner for that."""
    source_ = BarInput(Counted())
    begun = datetime.now(UTC)
    for name in source_.list_parts():
        part = source_.build_part("input", name, None)
        assert begun + source.START <= part.next_awake() <= datetime.now(UTC) + source.START
    assert len(part.next_batch()) == SHARDS
    assert part.next_awake() is None


def test_an_impossible_bound_is_refused():
    with pytest.raises(ValueError, match="ahead 0: want at least 1 chunk"):
        BarInput(Counted(), 0)
