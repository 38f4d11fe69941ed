"""What takes the late lane comes all, once and in order, whenever it is made, through any stop."""

import pickle
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, FixedPartitionedSource, StatefulSourcePartition, StatelessSourcePartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main
from hypothesis import given
from hypothesis import strategies as st

from infra.gated_sink import Record
from infra.late import MOST, late
from operators.drive import StateVersionError, flat

CLOSE = 10  # every tenth frame ends a session
AGES, ZERO = timedelta(hours=1), timedelta(0)  # an epoch per item


class Count(NamedTuple):
    version: int
    seen: int
    total: int


START = Count(1, 0, 0)


def step(state, value):
    """One record for all values, one more for the even ones; each says how far the state is."""
    state = Count(1, state.seen + 1, state.total + value)
    made = Record(f"r{state.seen}", value, b"k", b"%d" % state.total, (("schema", b"s"),))
    return state, {"all": [made], "even": [made] if value % 2 == 0 else [], "none": []}


def expected(values):
    state, found = START, {"all": [], "even": []}
    for value in values:
        state, made = step(state, value)
        for topic in found:
            found[topic] += made[topic]
    return found


def logic(monkeypatch, delay=AGES, resumed=None):
    """The operator's logic, as Bytewax would build it."""
    built = []
    monkeypatch.setattr("bytewax.operators.stateful_batch", lambda step_id, stream, build: built.append(build))
    late("late", None, START, step, lambda value: value % CLOSE == 0, delay)
    return built[0](resumed)


def joined(answers):
    found = {"all": [], "even": []}
    for made in answers:
        assert made, "an answer without records"
        for topic, records in made.items():
            assert records, "a topic without records"
            found[topic] += records
    return found


batch = st.lists(st.integers(1, 30), min_size=1, max_size=5)
acts = st.lists(st.one_of(batch, st.sampled_from(["due", "epoch", "crash"])), max_size=40)


@given(acts)
def test_whatever_is_due_when_and_wherever_it_crashes_the_records_are_the_same(acts):
    """After a crash frames since the snapshot come again, and what was answered since is dropped by the sink."""
    with pytest.MonkeyPatch.context() as patch:
        one, kept = logic(patch), None
        sent, given_out, done = [], [], 0  # answered by the last epoch's end; since then; frames by then
        frames = [value for act in acts if isinstance(act, list) for value in act]
        batches, ahead = [act for act in acts if isinstance(act, list)], 0
        since = 0
        for act in acts:
            if isinstance(act, list):
                answers, discard = one.on_batch(batches[ahead])
                given_out += answers
                ahead += 1
                since += 1
                assert discard is False
            elif act == "due" and one.notify_at() is not None:
                given_out += one.on_notify()[0]
                assert one.notify_at() is None
            elif act == "epoch":
                kept = pickle.dumps(one.snapshot())
                sent, given_out, done, since = sent + given_out, [], ahead, 0
            elif act == "crash":
                one = logic(patch, resumed=None if kept is None else pickle.loads(kept))
                given_out, ahead = [], done
                for batch in batches[done : done + since]:
                    given_out += one.on_batch(batch)[0]
                    ahead += 1
        for batch in batches[ahead:]:
            given_out += one.on_batch(batch)[0]
        given_out += one.on_eof()[0]
        assert joined(sent + given_out) == expected(frames)


def test_a_frame_waits_for_its_time_and_a_close_waits_for_nothing(monkeypatch):
    one = logic(monkeypatch)
    before = datetime.now(UTC)
    assert (one.on_batch([1])[0], one.notify_at() >= before + AGES) == ([], True)
    due = one.notify_at()
    assert (one.on_batch([2, 3])[0], one.notify_at()) == ([], due)  # the time of the first
    (made,) = one.on_batch([CLOSE])[0]
    assert (made, one.notify_at()) == (expected([1, 2, 3, CLOSE]), None)


def test_no_more_frames_wait_than_a_number(monkeypatch):
    one = logic(monkeypatch)
    for _ in range(MOST - 1):
        assert one.on_batch([1])[0] == []
    (made,) = one.on_batch([1])[0]
    assert len(made["all"]) == MOST


def test_what_a_snapshot_holds_is_plain_and_is_due_at_once_when_it_is_resumed(monkeypatch):
    one = logic(monkeypatch)
    one.on_batch([2, 3])
    kept = one.snapshot()
    rows = [(f"r{k}", value, b"k", b"%d" % total, (("schema", b"s"),)) for k, value, total in ((1, 2, 2), (2, 3, 5))]
    assert kept == (2, (1, 2, 5), {"all": rows, "even": rows[:1]})
    assert not any(isinstance(row, Record) for row in kept[2]["all"])
    assert one.on_eof()[0] == [expected([2, 3])]  # the snapshot took nothing away
    again = logic(monkeypatch, resumed=kept)
    assert again.notify_at() <= datetime.now(UTC)
    assert again.on_notify()[0] == [expected([2, 3])]
    assert logic(monkeypatch, resumed=again.snapshot()).notify_at() is None


def test_the_bare_state_of_an_earlier_build_is_taken_up_and_of_another_version_refused(monkeypatch):
    one = logic(monkeypatch, resumed=flat(Count(1, 5, 50)))
    one.on_batch([7])
    (made,) = one.on_eof()[0]
    assert [record.value for record in made["all"]] == [b"57"]
    with pytest.raises(StateVersionError):
        logic(monkeypatch, resumed=(2, (9, 5, 50), {}))


class CrashError(Exception):
    pass


class Part(StatefulSourcePartition):
    """Numbers one by one; before some of them it crashes, once each."""

    def __init__(self, values, crashes, resumed):
        self.values, self.crashes, self.at = values, crashes, resumed or 0

    def next_batch(self):
        if self.at in self.crashes:
            self.crashes.discard(self.at)
            raise CrashError
        if self.at == len(self.values):
            raise StopIteration
        self.at += 1
        return [("a", self.values[self.at - 1])]

    def snapshot(self):
        return self.at


class Source(FixedPartitionedSource):
    def __init__(self, values, crashes):
        self.values, self.crashes = values, crashes

    def list_parts(self):
        return ["one"]

    def build_part(self, step_id, for_part, resumed):
        return Part(self.values, self.crashes, resumed)


@pytest.mark.parametrize("delay", [timedelta(0), timedelta(milliseconds=5), AGES])
def test_in_a_dataflow_all_comes_by_the_end_through_crashes(tmp_path, delay):
    """With an epoch per item; what came after the last snapshot comes again, which the gated sink drops by its id."""
    init_db_dir(tmp_path, 1)
    values, crashes, out = [*range(1, 30), 35], {5, 14, 15, 22, 29}, []
    ended = 0
    while not ended:
        graph = Dataflow("late_flow")
        read = op.input("in", graph, Source(values, crashes))
        op.output("out", late("late", read, START, step, lambda value: value % CLOSE == 0, delay), TestingSink(out))
        left = len(crashes)
        try:
            run_main(graph, epoch_interval=ZERO, recovery_config=RecoveryConfig(tmp_path))
            ended = 1
        except (CrashError, RuntimeError):
            assert len(crashes) == left - 1
    assert crashes == set()
    for topic, wanted in expected(values).items():
        came = [record for _, made in out for record in made.get(topic, [])]
        assert list(dict.fromkeys(came)) == wanted


class Patient(StatelessSourcePartition):
    """Gives its second item when the record of the first is out, and no earlier."""

    def __init__(self, out):
        self.out, self.values, self.deadline = out, [1, 2], time.monotonic() + 60.0

    def next_batch(self):
        if not self.values:
            raise StopIteration
        if len(self.values) == 1 and not self.out:
            assert time.monotonic() < self.deadline, "nothing woke the late lane"
            return []
        return [("a", self.values.pop(0))]

    def next_awake(self):
        return datetime.now(UTC) + timedelta(milliseconds=2)


class PatientSource(DynamicSource):
    def __init__(self, out):
        self.out = out

    def build(self, step_id, worker_index, worker_count):
        return Patient(self.out)


def test_records_come_when_they_are_due_though_nothing_else_happens():
    out = []
    graph = Dataflow("late_flow")
    keyed = op.input("in", graph, PatientSource(out))
    op.output("out", late("late", keyed, START, step, lambda _: False, timedelta(milliseconds=5)), TestingSink(out))
    run_main(graph)
    assert [record.ts for _, made in out for record in made["all"]] == [1, 2]
