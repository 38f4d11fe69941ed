from dataclasses import replace

import pytest

from infra import slice_log
from infra.bars import open_bars
from infra.kafka import records
from infra.topics import create_topics
from schemas.calendar import Calendar
from schemas.records import InForce
from tests.infra.logkit import fill

CALENDAR = Calendar.whole(1)


def frames(days):
    """The slices of a shard, one frame each, session by session."""
    chunks = open_bars(f"synthetic:symbols=4,days={days},seed=3", frame_slices=1).frames()
    found = [[]]
    for chunk in chunks:
        found[-1].append(replace(chunk[0], shard=0))
        if chunk[0].slices.closes:
            found.append([])
    return found[:-1]


def test_a_record_that_nobody_can_use_hides_no_model(kafka):
    """It is a dead letter by the time a session is recorded, which must not end at it."""
    create_topics(kafka)
    one, two = (InForce(since=since, model=f"m{since}") for since in (5, 9))
    ((*_, frame),) = frames(1)
    told = slice_log.record(frame, 1, [one, two])
    fill(kafka, slice_log.TOPIC, 0, [b"junk", told.value, b"", b"\xff" * 40], headers=told.headers)
    assert slice_log.models_upto(kafka, CALENDAR, 7) == [one]
    assert slice_log.models_upto(kafka, CALENDAR, 9) == [one, two]


@pytest.mark.parametrize("again", ["the day", "the day before", "both, in pieces", "nothing"])
def test_no_number_of_records_that_were_written_again_hides_a_model(kafka, monkeypatch, again):
    create_topics(kafka)
    days, models, log = frames(3), [], []
    for day, session in enumerate(days):
        for k, frame in enumerate(session):
            acts = [InForce(since=frame.slices.upto, model=f"m{day}")] if k == 7 else []
            models += acts
            log.append(slice_log.record(frame, 1, models if k == 0 else acts))
    first, second, third = (log[390 * k : 390 * (k + 1)] for k in range(3))
    more = {"the day": third[10:] + third[20:], "the day before": second + second[:200],
            "both, in pieces": second[-300:] + third[-300:] + second + first, "nothing": []}[again]  # fmt: skip
    told, read = [*log, *more], []
    fill(kafka, slice_log.TOPIC, 0, [one.value for one in told], [one.ts for one in told], told[0].headers)

    def counted(*span):
        read.append(span)
        return records(*span)

    with monkeypatch.context() as patch:
        patch.setattr(slice_log, "records", counted)
        for day, session in reversed(list(enumerate(days))):
            assert slice_log.models_upto(kafka, CALENDAR, session[-1].slices.upto) == models[: day + 1]
            assert slice_log.models_upto(kafka, CALENDAR, session[3].slices.upto) == models[:day]
    assert again != "nothing" or len(read) == 6  # a block each
