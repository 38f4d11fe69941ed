from dataclasses import replace

from infra import slice_log
from infra.bars import open_bars
from infra.topics import create_topics
from schemas.records import InForce
from tests.infra.logkit import fill


def test_a_record_that_nobody_can_use_hides_no_model(kafka):
    """It is a dead letter by the time a session is recorded, which must not end at it."""
    create_topics(kafka)
    one, two = (InForce(since=since, model=f"m{since}") for since in (5, 9))
    (frame,) = (frame for chunk in open_bars("synthetic:symbols=4,days=1,seed=3", frame_slices=1).frames()
                for frame in chunk[:1] if frame.slices.closes)  # fmt: skip
    told = slice_log.record(replace(frame, shard=0), 1, [one, two])
    fill(kafka, slice_log.TOPIC, 0, [b"junk", told.value, b"", b"\xff" * 40], headers=told.headers)
    assert slice_log.models_upto(kafka, 7) == [one]
    assert slice_log.models_upto(kafka, 9) == [one, two]
