"""Where in a topic an instant is."""

import random

import pytest

from infra.offsets import WINDOW, offsets_at
from infra.topics import Topic, create_topics
from tests.infra.logkit import fill, trim


def test_offsets_by_event_time(kafka):
    create_topics(kafka, [Topic("a", 3)])
    times = [10, 20, 20, 20, 30, 45]
    fill(kafka, "a", 0, [b"x"] * 6, times)
    fill(kafka, "a", 1, [b"x"] * 2, [25, 26])
    for ts in (0, 10, 11, 20, 21, 29, 30, 44, 45, 46):
        first = sum(time < ts for time in times)
        assert offsets_at(kafka, "a", ts) == {0: first, 1: sum(time < ts for time in (25, 26)), 2: 0}


@pytest.mark.parametrize("seed", range(4))
def test_records_that_were_written_again_hide_no_place(kafka, seed):
    """Up to WINDOW - 1 old records in a row, anywhere; the answer is where the newer ones begin."""
    rng = random.Random(seed)
    times = []
    for k in range(150):
        times.append(100 + 10 * k)
        if rng.random() < 0.15:
            for _ in range(rng.randrange(1, WINDOW)):
                times.append(rng.choice(times[: -1 - WINDOW] or [1]))
    create_topics(kafka, [Topic("a", 1)])
    fill(kafka, "a", 0, [b"x"] * len(times), times)
    for k in rng.sample(range(150), 12):
        wanted = times.index(100 + 10 * k)
        for ts in (100 + 10 * k, 100 + 10 * k - 3):
            assert offsets_at(kafka, "a", ts) == {0: wanted}
    assert offsets_at(kafka, "a", 10_000) == {0: len(times)}


def test_what_retention_has_eaten_is_not_looked_for(kafka):
    create_topics(kafka, [Topic("a", 1)])
    fill(kafka, "a", 0, [b"x"] * 60, list(range(60)))
    trim(kafka, "a", 0, 40)
    assert [offsets_at(kafka, "a", ts)[0] for ts in (3, 40, 41, 59, 60)] == [40, 40, 41, 59, 60]
