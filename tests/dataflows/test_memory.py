"""Memory does not grow with the log, nor with a partition that is held back.

`HYPOTHESIS_PROFILE=long` replays ten million bars; the default does a sixteenth of that.
"""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from dataflows import account_log, bench_log, pipeline
from dataflows.flows import grid
from infra import intake, slice_log
from infra.abreast import AbreastSource
from infra.bars import open_bars
from infra.gated_sink import BY
from infra.kafka import ID, TS
from infra.settings import load, of_log
from infra.topics import BY_NAME, create_topics
from operators import barrier
from operators.drive import flat
from schemas.frames import SHARDS
from schemas.scored_columns import pack

ROOT = Path(__file__).resolve().parents[2]
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SYMBOLS, DAYS = bench_log.LONG if LONG else (400, 4)
SESSION = 390
BOUND = 10.0  # MB; all frames of four days take forty


@pytest.fixture
def log(kafka, monkeypatch):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.servers)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", kafka.prefix)
    return kafka


def held(days, leaks=False):
    """MB that a replay of so many days holds at its last slice, in a process of its own."""
    command = [sys.executable, "-m", "tests.dataflows.growing", json.dumps([leaks, days * SESSION])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["slices"] == days * SESSION
    print(f"{days} days{', all kept' if leaks else ''}: {answer}")
    return answer["held_mb"]


def test_what_a_replay_holds_does_not_grow_with_the_log(log):
    """A day of bars against four of them (long: six against sixty-seven, ten million bars)."""
    rows = bench_log.fill([SYMBOLS, DAYS])["rows"]
    assert rows >= (10_000_000 if LONG else 600_000)
    few = DAYS // 11 or 1
    held(1)  # compiles what is not compiled yet, which takes memory of its own
    less, more = held(few), held(DAYS)
    assert more - less < BOUND
    assert held(DAYS, leaks=True) - less > 2 * BOUND  # so the bound tells a step that lets nothing go


AHEAD, SLOW, PIECE = 20, 5, 65  # slices beyond the barrier; the shard that is slow, and how many of its come at once
SETTINGS = of_log(load(None, [f"live.ahead_slices={AHEAD}", "live.missing_data=off"], environ={}, profile="research"))
CALENDAR = grid(SETTINGS)
PARAMS = pipeline.decide_params(SETTINGS, CALENDAR.timeframe)


@pytest.fixture
def chunks():
    """A day slice by slice, all shards."""
    return list(open_bars("synthetic:symbols=64,days=1,seed=7", frame_slices=1).frames())


class Signals:
    """The half of the signals by hand: what the barrier releases goes to the account log, as the recorder writes it."""

    def __init__(self, where):
        self.client = Producer({**where.client, "linger.ms": 0})
        self.where, self.gate, self.released = where, barrier.start(), []
        self.intakes, self.states = [intake.start()] * SHARDS, [pipeline.start(PARAMS)] * SHARDS
        self.most_slices, self.fullest = 0, self.gate  # how many have waited at once, and the barrier then

    def append(self, topic, number, record, by):
        headers = [(ID, record.id.encode()), (TS, b"%d" % record.ts), (BY, by), *record.headers]
        self.client.produce(self.where.topic(topic), record.value, record.key, number, headers=headers)
        self.client.poll(0)

    def fill(self, shards, chunks):
        for chunk in chunks:
            for frame in chunk:
                if frame.shard in shards:
                    self.append("market.slices", frame.shard, slice_log.record(frame, 1), b"test")
        assert self.client.flush(60) == 0

    def take(self, shard, frame):
        self.states[shard], scored = pipeline.step(PARAMS, self.states[shard], frame)
        self.gate, answers = barrier.step_singly(self.gate, scored)
        for one in answers or ():
            self.released.append(pack(one))
            for record in account_log.records("paper", (one,))[1]:
                self.append("account.log", 0, record, b"recorder")
        waiting = sum(one.bars.slices.size for one in self.gate.waiting)
        if waiting > self.most_slices:
            self.most_slices, self.fullest = waiting, self.gate

    def give(self, parts, wanted, waiting=0, seconds=60.0):
        """Ask the parts in turn until so many slices are released and waited, and on until nothing comes any more."""
        deadline, quiet = time.monotonic() + seconds, 0
        while quiet < 100 and time.monotonic() < deadline:
            quiet += len(self.released) >= wanted and self.most_slices >= waiting
            for shard, part in enumerate(parts):
                for messages in part.next_batch():
                    quiet = 0
                    self.intakes[shard], answer = intake.step(CALENDAR, self.intakes[shard], messages)
                    for frame in answer.frames:
                        self.take(shard, frame)
            time.sleep(0.002)
        assert len(self.released) == wanted


def size(signals):
    """Bytes that waited at most, as a snapshot has them."""
    return len(pickle.dumps(flat(signals.fullest)))


def test_what_waits_at_the_barrier_for_a_partition_that_is_held_back_for_a_day_is_bounded(kafka, chunks):
    """The slow one comes piece by piece after all others; in the end all is as if it had never been away."""
    create_topics(kafka, [BY_NAME[name] for name in ("market.slices", "account.log")])
    others = set(range(SHARDS)) - {SLOW}
    one, straight, unbounded = Signals(kafka), Signals(kafka), Signals(kafka)
    straight.append = unbounded.append = _nowhere
    for chunk in chunks:
        for frame in chunk:
            straight.take(frame.shard, frame)
    for frame in (frame for chunk in chunks[:130] for frame in chunk if frame.shard != SLOW):
        unbounded.take(frame.shard, frame)  # a third of the day, without the source that holds back
    source = AbreastSource(kafka, "market.slices", CALENDAR, SETTINGS.live.ahead_slices)
    parts = [source.build_part("s", f"market.slices:{number:03}", None) for number in range(SHARDS)]
    try:
        one.fill(others, chunks)
        one.give(parts, 0, len(others) * (AHEAD + 1))
        assert one.most_slices == len(others) * (AHEAD + 1)
        for first in range(0, len(chunks), PIECE):
            one.fill({SLOW}, chunks[first : first + PIECE])
            one.give(parts, min(first + PIECE, len(chunks)))
    finally:
        for part in parts:
            part.close()
    assert one.released == straight.released
    assert one.most_slices <= len(others) * (AHEAD + 1) + PIECE  # and those of the slow one, which come in one item
    assert unbounded.most_slices == len(others) * 130
    assert size(one) < size(unbounded) / 3


def _nowhere(*_):
    """Nothing is written."""
