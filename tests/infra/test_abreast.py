import time
from datetime import date
from types import SimpleNamespace

import pytest
from confluent_kafka import Producer
from hypothesis import example, given
from hypothesis import strategies as st

from infra import reader, tail
from infra.abreast import AbreastPart, AbreastSource, Place
from infra.gated_sink import BY
from infra.kafka import ID, TS, admin, bounds
from infra.ranges import Messages
from infra.reader import ENVELOPE
from infra.topics import BY_NAME, create_topics
from schemas.calendar import Calendar
from schemas.frames import SHARDS
from tests.infra.logkit import fill, trim

CALENDAR = Calendar(1, date(2024, 1, 2), date(2024, 1, 31))
FIRST = CALENDAR.index_after(int(CALENDAR.opens[CALENDAR.sessions.searchsorted(19_724)]))
DAY = [CALENDAR.ts_at(FIRST + k) for k in range(390)]
AHEAD, SLOW = 20, 5


@pytest.fixture
def log(kafka, monkeypatch):
    """A day of slices in all partitions but one; queues so small that a day does not fit."""
    monkeypatch.setattr(tail, "BATCH", 30)
    monkeypatch.setattr(reader, "AT_ONCE", 30)
    for name, records in (("FULL", 60), ("DRAINED", 20)):
        monkeypatch.setattr(reader, name, records * (ENVELOPE + 1))
    create_topics(kafka, [BY_NAME[name] for name in ("market.slices", "account.log")])
    for number in range(SHARDS):
        if number != SLOW:
            fill(kafka, "market.slices", number, [b"x"] * len(DAY), ts=DAY)
    return kafka


def barrier_at(where, k):
    """The slice of the account log, as the recorder writes it, and a command after it."""
    client = Producer({**where.client, "linger.ms": 0})
    for name, ts in ((f"slice:{DAY[k]}", DAY[k]), ("command:7", DAY[-1] + 1)):
        client.produce(where.topic("account.log"), b"", b"account", 0,
                       headers=[(ID, name.encode()), (TS, b"%d" % ts), (BY, b"recorder")])  # fmt: skip
    assert client.flush(30) == 0


def give(parts, counts, wanted, seconds=30.0):
    """Ask all parts in turn until so many records came, and a little longer; the longest queue meanwhile."""
    deadline, longest, quiet = time.monotonic() + seconds, 0, 0
    while time.monotonic() < deadline and quiet < 60:
        for k, part in enumerate(parts):
            for messages in part.next_batch():
                counts[k] += len(messages.offsets)
            longest = max(longest, sum(len(run) for run, _ in part._inner._queue.runs))
        quiet = quiet + 1 if sum(counts) >= wanted else 0
        time.sleep(0.005)
    return longest


def test_no_partition_runs_away_from_one_that_is_held_back_for_a_day(log):
    source = AbreastSource(log, "market.slices", CALENDAR, AHEAD)
    parts = [source.build_part("s", f"market.slices:{number:03}", None) for number in range(SHARDS)]
    counts, fast = [0] * SHARDS, SHARDS - 1
    try:
        longest = give(parts, counts, fast * (AHEAD + 1))
        assert counts == [0 if k == SLOW else AHEAD + 1 for k in range(SHARDS)]  # nothing has come of the slow one
        assert [part.snapshot() for part in parts] == counts
        barrier_at(log, 200)
        longest = max(longest, give(parts, counts, fast * (200 + AHEAD + 1)))
        assert counts == [0 if k == SLOW else 200 + AHEAD + 1 for k in range(SHARDS)]
        fill(log, "market.slices", SLOW, [b"x"] * len(DAY), ts=DAY)
        barrier_at(log, 389)
        longest = max(longest, give(parts, counts, SHARDS * len(DAY)))
        assert counts == [len(DAY)] * SHARDS
        # what waits in this process: the item in hand, the queue, and what the client handed over at once
        assert longest <= 60 + 2 * (30 + 1)
    finally:
        for part in parts:
            part.close()


def test_a_part_goes_on_with_the_first_record_that_it_has_not_given(log):
    source = AbreastSource(log, "market.slices", CALENDAR, AHEAD)
    part, counts = source.build_part("s", "market.slices:003", None), [0]
    give([part], counts, AHEAD + 1)
    part.close()
    part = source.build_part("s", "market.slices:003", part.snapshot())
    barrier_at(log, 30)
    give([part], counts, 30 + AHEAD + 1)
    part.close()
    assert counts == [30 + AHEAD + 1]


def test_an_account_log_that_has_lost_its_beginning_is_read_from_where_it_begins(log):
    for k in (10, 50):
        barrier_at(log, k)
    trim(log, "account.log", 0, 2)
    part, counts = AbreastSource(log, "market.slices", CALENDAR, AHEAD).build_part("s", "market.slices:003", None), [0]
    give([part], counts, 50 + AHEAD + 1)
    part.close()
    assert counts == [50 + AHEAD + 1]
    assert bounds(log, "account.log")[0] == (2, 4)


def test_an_account_log_that_was_made_anew_and_is_shorter_is_followed_from_its_beginning(log):
    """What the one before said of the barrier would let the parts run away, or hold them for ever."""
    for k in (10, 50):
        barrier_at(log, k)
    source, counts = AbreastSource(log, "market.slices", CALENDAR, AHEAD), [0]
    part = source.build_part("s", "market.slices:003", None)
    give([part], counts, 50 + AHEAD + 1)
    client = admin(log)  # kept until the answer is here
    (answer,) = client.delete_topics([log.topic("account.log")]).values()
    answer.result(30.0)
    create_topics(log, [BY_NAME["account.log"]])
    barrier_at(log, 60)
    give([part], counts, 60 + AHEAD + 1)
    part.close()
    assert counts == [60 + AHEAD + 1]


class Inner:
    """A source part that gives what it is told."""

    def __init__(self, times, size):
        headers = [() if ts is None else ((TS, b"%d" % ts),) for ts in times]
        whole = Messages("market.slices", 0, list(range(len(times))), [None] * len(times), [b""] * len(times), headers)
        self.rest, self.size = whole, size

    def next_batch(self):
        if not self.rest.offsets:
            return []
        given, self.rest = self.rest.cut(self.size)
        return [given]

    def snapshot(self):
        return self.rest.offsets[0] if self.rest.offsets else -1


strange = st.one_of(st.none(), st.sampled_from([0, 1, 2**62, DAY[0], DAY[-1], int(CALENDAR.closes[-1])]),
                    st.integers(DAY[0], int(CALENDAR.closes[-2]) + 10**15), st.integers(0, 2**63 - 1))  # fmt: skip
holes = st.sets(st.integers(0, 119), max_size=100)


@given(st.lists(st.tuples(st.integers(0, 120), strange), max_size=12, unique_by=lambda one: one[0]), holes,
       st.integers(1, 40), st.booleans())  # fmt: skip
@example([(0, DAY[300]), (50, 2**62)], set(), 7, False)
@example([(0, DAY[20] + 1)], set(), 1, True)  # at first further ahead of the barrier than any may be
@example([(0, 1), (2, int(CALENDAR.opens[1]) + 1)], set(range(60)), 1, False)
def test_whatever_times_strange_records_state_all_come_through_and_the_good_ones_not_far_ahead(
    poison, holes, size, began
):
    """One strange record in a place; the barrier is as far as the good records that were given."""
    places, records = dict(poison), []
    for k in range(120):
        records += [(None, places[k])] if k in places else []
        records += [(k, DAY[k])] if k not in holes else []
    shared = SimpleNamespace(frontier=SimpleNamespace(upto=DAY[0] if began else None))
    part = AbreastPart(Inner([ts for _, ts in records], size), shared, CALENDAR, AHEAD)
    given_out, idle = [], 0
    while idle < 2 + len(records):
        before = len(given_out)
        for messages in part.next_batch():
            given_out += messages.offsets
        good = [records[k][0] for k in given_out if records[k][0] is not None]
        if good:
            shared.frontier.upto = max(shared.frontier.upto or 0, DAY[good[-1]])
        idle = idle + 1 if len(given_out) == before else 0
    assert given_out == list(range(len(records)))


def test_a_hole_is_passed_by_one_record_and_believed_with_the_next():
    place = Place(CALENDAR)
    assert [place.believes(DAY[k]) for k in (0, 1, 2)] == [False, True, True]
    assert [place.believes(DAY[k]) for k in (9, 10, 11, 3)] == [False, True, True, True]
    assert place.after(DAY[0], 5) == DAY[5]
    assert place.after(DAY[389], 1) == CALENDAR.ts_at(FIRST + 390)
