"""Frames: made quickly, and frozen all the same."""

import pickle
from dataclasses import MISSING, FrozenInstanceError, fields, replace

import numpy as np
import pytest

from schemas.frames import NO_ACTIONS, NO_FLOATS, BarFrame, RawFrame, SignalFrame, SliceFrame, Space

KINDS = (RawFrame, BarFrame, SignalFrame, SliceFrame)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def needed(kind):
    """The fields without a default."""
    return [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]


def values(kind):
    """One of its own for each field that is needed."""
    return {name: np.full(1, k) for k, name in enumerate(needed(kind))}


@each_kind
def test_every_field_is_what_was_given_or_its_default(kind):
    given = values(kind)
    frame = kind(**given)
    assert type(frame) is kind
    assert all(getattr(frame, name) is value for name, value in given.items())
    assert kind(*given.values()).__reduce_ex__(2)[2] == frame.__reduce_ex__(2)[2]
    if kind is not SignalFrame:
        assert frame.actions is NO_ACTIONS
    if kind in (RawFrame, BarFrame):
        assert frame.market is NO_FLOATS


@each_kind
def test_no_field_of_a_frame_that_is_made_can_be_changed(kind):
    frame = kind(**values(kind))
    for name in (needed(kind)[0], "other", "__class__"):
        with pytest.raises((FrozenInstanceError, TypeError)):
            setattr(frame, name, 3)
    with pytest.raises(FrozenInstanceError):
        delattr(frame, needed(kind)[0])


@each_kind
def test_a_frame_may_be_replaced_and_pickled(kind):
    frame, first = kind(**values(kind)), needed(kind)[0]
    other = replace(frame, **{first: 8})
    assert (type(other), getattr(other, first)) == (kind, 8)
    again = pickle.loads(pickle.dumps(frame))
    assert type(again) is kind
    assert all(getattr(again, name) == value for name, value in values(kind).items())
    with pytest.raises(FrozenInstanceError):
        setattr(again, first, 3)


@each_kind
def test_a_field_that_is_missing_is_named(kind):
    *some, last = values(kind).items()
    with pytest.raises(TypeError, match=last[0]):
        kind(**dict(some))


WIDE_FIRST = (np.float64, np.int32, np.int8)


def test_columns_in_a_space_lie_shard_after_shard_and_no_byte_is_given_twice():
    sizes, memory = [5, 0, 7, 1], np.zeros(13 * (8 + 4 + 1), np.uint8)
    firsts = np.cumsum([0, *sizes[:-1]]).tolist()
    frames = [Space(memory, 13, first).columns(rows, WIDE_FIRST) for first, rows in zip(firsts, sizes, strict=True)]
    for number, columns in enumerate(frames):
        assert [(column.dtype, column.size) for column in columns] == [(kind, sizes[number]) for kind in WIDE_FIRST]
        for column in columns:
            column[:] = number + 1
    wanted = [number + 1 for number, rows in enumerate(sizes) for _ in range(rows)]
    assert [memory[: 13 * 8].view(np.float64).tolist(), memory[13 * 8 : 13 * 12].view(np.int32).tolist(),
            memory[13 * 12 :].tolist()] == [wanted] * 3  # fmt: skip


def test_who_asks_for_a_frames_space_again_does_not_write_over_the_first_answer():
    space = Space(np.zeros(13 * 4, np.uint8), 4, 0)
    (first, *_), (second, *_) = space.columns(4, WIDE_FIRST), space.columns(4, WIDE_FIRST)
    first[:], second[:] = 1.0, 2.0
    assert first.tolist() == [1.0] * 4
    assert not np.shares_memory(second, space.memory)
