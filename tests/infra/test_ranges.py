import pickle
import time

import pytest

from infra.ranges import AHEAD, Messages, RangeSource, part_name
from infra.tail import TailSource, reading
from infra.topics import Topic, create_topics
from schemas.errors import UserError
from tests.infra.logkit import drain, fill, trim


@pytest.fixture
def log(kafka):
    create_topics(kafka, [Topic("a", 2)])
    fill(kafka, "a", 0, [b"%d" % i for i in range(10)])
    fill(kafka, "a", 1, [b"%d" % i for i in range(100, 105)])
    return kafka


def read(source, part, resume=None):
    built = source.build_part("step", part, resume)
    items = drain(built)
    end = built.snapshot()
    built.close()
    return [int(value) for item in items for value in item.values], end


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (3, 7), (9, 10), (4, 4), (10, 10)])
def test_a_range_is_read_to_its_end_and_no_further(log, start, stop):
    source = RangeSource(log, {("a", 0): (start, stop)}, batch=3)
    assert source.list_parts() == ["a:000"]
    assert read(source, "a:000") == (list(range(start, stop)), stop)


def test_a_range_comes_in_whole_batches_and_its_snapshot_is_the_first_record_that_was_not_given(log, monkeypatch):
    monkeypatch.setattr("infra.reader.AT_ONCE", 2)  # as if it came slowly
    part = RangeSource(log, {("a", 0): (0, 10)}, batch=4).build_part("step", "a:000", None)
    seen = []
    for item in drain(part):
        seen.append(item.offsets)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    part.close()
    part = RangeSource(log, {("a", 0): (0, 10)}, batch=4).build_part("step", "a:000", None)
    while not (given := part.next_batch()):
        time.sleep(0.01)
    assert (given[0].offsets, part.snapshot()) == ([0, 1, 2, 3], 4)
    part.close()


@pytest.mark.parametrize("resume", [2, 3, 8, 10])
def test_a_range_goes_on_where_the_snapshot_says(log, resume):
    assert read(RangeSource(log, {("a", 0): (1, 10)}), "a:000", resume) == (list(range(resume, 10)), 10)


def test_an_item_says_where_each_record_stands(log):
    (item,) = drain(RangeSource(log, {("a", 1): (1, 3)}).build_part("step", "a:001", None))
    assert item[:5] == ("a", 1, [1, 2], [b"k", b"k"], [b"101", b"102"])
    assert [dict(one) for one in item.headers] == [{"ts": b"2"}, {"ts": b"3"}]
    assert pickle.loads(pickle.dumps(item)) == item
    assert isinstance(item, Messages)


def test_headers_can_be_left_where_they_are_while_the_schema_stays(kafka):
    create_topics(kafka, [Topic("a", 1)])
    for schema in (b"1", b"1", b"2", b"2"):
        fill(kafka, "a", 0, [b"v"], headers=[("schema", schema)])

    def item(first, last):
        source = RangeSource(kafka, {("a", 0): (first, last)}, headers=False)
        (found,) = drain(source.build_part("step", "a:000", None))
        return found

    assert (item(0, 2).headers, item(0, 2).schema) == ([], b"1")
    assert (item(2, 4).headers, item(2, 4).schema) == ([], b"2")
    assert [dict(one)["schema"] for one in item(0, 4).headers] == [b"1", b"1", b"2", b"2"]


def test_a_tail_begins_with_the_oldest_record_and_waits_for_more(log):
    source = TailSource(log, "a")
    assert source.list_parts() == ["a:000", "a:001"]
    part = source.build_part("step", "a:001", None)
    assert part.snapshot() == 0  # a number from the start on
    assert [value for item in drain(part) for value in item.values] == [b"100", b"101", b"102", b"103", b"104"]
    assert part.next_batch() == []
    assert part.next_awake() is not None
    fill(log, "a", 1, [b"105"])
    assert [value for item in drain(part) for value in item.values] == [b"105"]
    assert part.snapshot() == 6
    part.close()


def test_a_tails_parts_are_built_without_asking_the_broker(log, monkeypatch):
    """Each source's parts count their epochs from when they are built, and all wait for the last at each of them."""
    source = TailSource(log, "a", {1: 2})
    names = source.list_parts()
    monkeypatch.setattr("infra.ranges.bounds", None)
    parts = [source.build_part("step", name, None) for name in names]
    assert [part.snapshot() for part in parts] == [0, 2]
    for part in parts:
        part.close()


def test_a_tail_begins_where_it_is_told(log):
    assert read(TailSource(log, "a", {0: 8}), "a:000") == ([8, 9], 10)
    assert read(TailSource(log, "a", {0: 8}), "a:000", 5) == ([5, 6, 7, 8, 9], 10)


def test_how_far_each_part_is_can_be_asked(log):
    part = TailSource(log, "a").build_part("step", "a:000", None)
    drain(part)
    assert reading()["a", 0] == (10, 10)
    part.close()
    assert ("a", 0) not in reading()


def test_what_retention_has_eaten_is_an_error_and_no_silent_step(log):
    trim(log, "a", 0, 4)
    for source in (RangeSource(log, {("a", 0): (3, 10)}), TailSource(log, "a", {0: 3})):
        with pytest.raises(UserError, match=r"offset 3 is no longer in the log, which begins at 4"):
            source.build_part("step", "a:000", None)
    assert read(RangeSource(log, {("a", 0): (4, 10)}), "a:000") == (list(range(4, 10)), 10)
    assert read(TailSource(log, "a"), "a:000")[0] == list(range(4, 10))


def test_retention_that_overtakes_a_reader_is_an_error(log, monkeypatch):
    trim(log, "a", 0, 4)
    monkeypatch.setattr("infra.ranges.check_place", lambda *place: 10)  # as if the place had gone after it
    part = RangeSource(log, {("a", 0): (3, 10)}).build_part("step", "a:000", None)
    with pytest.raises(UserError, match="no longer in the log"):
        drain(part)
    part.close()


def test_another_log_than_the_stores_is_refused(log):
    with pytest.raises(UserError, match=r"the log ends at 10, before offset 11: this is not the log"):
        TailSource(log, "a").build_part("step", "a:000", 11)
    with pytest.raises(UserError, match=r"the log ends at 10, before offset 11"):
        RangeSource(log, {("a", 0): (2, 11)}).build_part("step", "a:000", None)


def test_no_part_of_a_range_runs_away_from_one_that_nobody_asks(kafka):
    create_topics(kafka, [Topic("a", 2)])
    for number, count in enumerate((60, 120)):
        fill(kafka, "a", number, [b"v"] * count)
    source = RangeSource(kafka, {("a", 0): (0, 60), ("a", 1): (0, 120)}, batch=5)
    slow, fast = (source.build_part("step", part_name("a", number), None) for number in (0, 1))
    assert (len(drain(fast)), fast.snapshot()) == (AHEAD, AHEAD * 5)
    while not slow.next_batch():
        time.sleep(0.01)
    assert (len(drain(fast)), fast.snapshot()) == (2, AHEAD * 5 + 10)  # 5 of 60 are as 10 of 120
    assert (len(drain(slow)), slow.snapshot()) == (AHEAD + 2, 5 + (AHEAD + 2) * 5)  # now it waits for the other
    slow.close()
    assert len(drain(fast)) == 18  # nobody else is left
    fast.close()


def test_two_sources_read_the_same_place_each_for_itself(log):
    one, two = (RangeSource(log, {("a", 0): (0, 10)}, batch=4).build_part("step", "a:000", None) for _ in range(2))
    assert [item.offsets for item in drain(one)] == [item.offsets for item in drain(two)] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]  # fmt: skip
    one.close()
    two.close()


@pytest.mark.parametrize("span", [(-1, 3), (4, 3)])
def test_an_impossible_range_is_refused(kafka, span):
    with pytest.raises(ValueError, match="is no range of offsets"):
        RangeSource(kafka, {("a", 0): span})


def test_parts_sort_as_their_numbers():
    assert sorted(part_name("a", n) for n in range(120)) == [part_name("a", n) for n in range(120)]
