"""Frames: made quickly, and frozen all the same."""

import pickle
from dataclasses import MISSING, FrozenInstanceError, fields, replace

import numpy as np
import pytest

from schemas.frames import NO_ACTIONS, NO_FLOATS, BarFrame, RawFrame, SignalFrame, SliceFrame

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
