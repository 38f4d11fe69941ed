import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.frames import SHARDS, Listing
from schemas.universe import MAX_NAME, Universe, shard_of

names = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-", min_size=1, max_size=MAX_NAME)


@pytest.mark.parametrize(("name", "shard"), [("SPY", 15), ("AAPL", 12), ("IBM", 7), ("BRK.B", 12), ("A", 11)])
def test_a_symbols_shard_never_changes(name, shard):
    """State, topics and archives are laid out by it: these numbers are for good."""
    assert shard_of(name) == shard


def test_shards_are_evenly_used():
    counts = np.bincount([shard_of(f"SYM{k}") for k in range(1600)], minlength=SHARDS)
    assert counts.size == SHARDS
    assert counts.min() > 60


@given(batches=st.lists(st.lists(names, max_size=8), max_size=6))
def test_ids_and_slots_are_given_once_and_in_order(batches):
    universe = Universe()
    known: list[str] = []
    for batch in batches:
        before = (list(universe.names), universe.shards.tolist(), universe.slots.tolist())
        fresh = list(dict.fromkeys(name for name in batch if name not in known))
        listed = universe.admit(batch)
        assert [(one.symbol, one.name) for one in listed] == list(enumerate(fresh, len(known)))
        known += fresh
        size = len(before[0])
        after = (universe.names[:size], universe.shards[:size].tolist(), universe.slots[:size].tolist())
        assert after == before
    assert universe.names == known
    assert len(universe) == len(known)
    assert universe.ids == {name: k for k, name in enumerate(known)}
    assert universe.shards.tolist() == [shard_of(name) for name in known]
    for shard in range(SHARDS):
        own = universe.slots[universe.shards == shard]
        assert own.tolist() == list(range(own.size))


def test_a_listing_has_the_place_in_its_shard():
    twins = [name for name in (f"S{k}" for k in range(200)) if shard_of(name) == 5][:3]
    assert Universe().admit(twins) == [Listing(k, k, name) for k, name in enumerate(twins)]


def test_columns_have_the_types_of_frames():
    for universe in (Universe(), Universe(["SPY"])):
        assert (universe.shards.dtype, universe.slots.dtype) == (np.int8, np.int32)


@pytest.mark.parametrize("name", ["", "spy", "Spy", "ÄÖ", "X" * (MAX_NAME + 1)])
def test_names_that_do_not_fit_a_column_are_refused(name):
    with pytest.raises(ValueError, match="want 1 to 24 upper-case ASCII characters"):
        Universe([name])


def test_the_longest_name_fits():
    assert Universe(["X" * MAX_NAME]).names == ["X" * MAX_NAME]


def test_a_refused_name_admits_nobody():
    universe = Universe(["SPY"])
    with pytest.raises(ValueError, match="bad"):
        universe.admit(["AAPL", "bad"])
    assert universe.names == ["SPY"]
    assert universe.admit(["AAPL"]) == [Listing(1, 0, "AAPL")]
    assert universe.shards.tolist() == [shard_of("SPY"), shard_of("AAPL")]
