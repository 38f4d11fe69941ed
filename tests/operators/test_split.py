import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.split import Columns, joined, places, split
from operators.tally import Tally
from schemas.frames import SHARDS, Listing, Slices
from schemas.units import NS_PER_MINUTE
from schemas.universe import Universe, shard_of

NAMES = ["SPY", "AAPL", "IBM", "BAC", "AIG", "QQQ", "F", "GE", "T"]
EMPTY = Slices(0, 10, *(np.zeros(0, kind) for kind in (np.int64, np.int32, np.int32, np.int32, np.int8)))


def columns(rows, quotes=False):
    """(ts, symbol id) -> a table whose numbers tell the rows apart."""
    ts = np.array([row[0] for row in rows], np.int64)
    symbol = np.array([row[1] for row in rows], np.int32)
    numbers = [np.arange(len(rows)) + 1000.0 * k for k in range(7)]
    return Columns(ts, symbol, *numbers[:5], *(numbers[5:] if quotes else [np.zeros(0)] * 2))


def reference(rows, universe, shard):
    """Row numbers of a shard, the slow way."""
    own = [i for i, (_, who) in enumerate(rows) if who >= 0 and shard_of(universe.names[who]) == shard]
    return sorted(own, key=lambda i: (rows[i][0], universe.names[rows[i][1]]))


tables = st.lists(st.tuples(st.integers(0, 5), st.integers(-1, len(NAMES) - 1)), max_size=60)


@given(
    rows=tables,
    ordered=st.booleans(),
    quotes=st.booleans(),
    shards=st.sets(st.integers(0, SHARDS - 1), min_size=1).map(sorted),
    cuts=st.lists(st.integers(0, 60), max_size=3).map(sorted),
)
def test_agrees_with_sorting_row_by_row(rows, ordered, quotes, shards, cuts):
    universe = Universe(NAMES)  # not in alphabetical order: names decide, ids do not
    if ordered:
        rows.sort(key=lambda row: (row[0], universe.names[row[1]] if row[1] >= 0 else ""))
    whole = columns(rows, quotes)
    edges = [0, *cuts, max(len(rows), *cuts, 0)]
    parts = [whole.rows(a, b) for a, b in itertools.pairwise(edges)]
    frames = split(parts, places(universe), shards, EMPTY, {})
    assert [frame.shard for frame in frames] == shards
    for frame in frames:
        expected = reference(rows, universe, frame.shard)
        assert frame.open.tolist() == [float(i) for i in expected]
        assert frame.volume.tolist() == [4000.0 + i for i in expected]
        assert frame.ask.tolist() == [6000.0 + i for i in expected if quotes]
        assert frame.ts.tolist() == [rows[i][0] for i in expected]
        assert frame.symbol.tolist() == [rows[i][1] for i in expected]
        assert frame.slot.tolist() == [universe.slots[rows[i][1]] for i in expected]


def test_without_parts_every_shard_gets_its_empty_frame():
    listed = {shard_of("SPY"): (Listing(0, 0, "SPY"),)}
    frames = split([], places(Universe(["SPY"])), range(SHARDS), EMPTY, listed)
    assert [frame.ts.size for frame in frames] == [0] * SHARDS
    assert [frame.listed for frame in frames if frame.listed] == [listed[shard_of("SPY")]]


def test_frames_have_the_types_that_steps_expect():
    frame = split([columns([(1, 0)], quotes=True)], places(Universe(["SPY"])), [shard_of("SPY")], EMPTY, {})[0]
    assert [frame.ts.dtype, frame.symbol.dtype, frame.slot.dtype] == [np.int64, np.int32, np.int32]
    assert {each.dtype for each in (frame.open, frame.high, frame.low, frame.close, frame.volume, frame.bid)} == {
        np.dtype(np.float64)
    }
    assert all(each.flags.writeable and each.flags.c_contiguous for each in (frame.ts, frame.slot, frame.close))


def test_what_it_was_given_is_left_alone():
    table = columns([(2, 0), (1, 1)])
    before = [column.copy() for column in table]
    frames = split([table], places(Universe(NAMES)), range(SHARDS), EMPTY, {})
    for frame in frames:
        frame.close[:] = -1.0
    assert all(np.array_equal(a, b) for a, b in zip(table, before, strict=True))


def test_joining_one_table_copies_nothing():
    table = columns([(1, 0)])
    assert joined([table]) is table
    assert joined([table, table]).ts.tolist() == [1, 1]


@given(
    rows=st.lists(st.tuples(st.integers(0, 400_000), st.integers(0, 3)), max_size=40),
    cut=st.integers(0, 40),
)
def test_a_tally_agrees_with_counting_by_hand(rows, cut):
    rows.sort(key=lambda row: row[0])
    table = columns([(second * 1_000_000_000, who) for second, who in rows])
    tally = Tally()
    for part in (table.rows(0, cut), table.rows(cut, len(rows))):
        assert tally.add(part.ts, part.symbol, 4)
    gaps: dict[int, int] = {}
    for who in range(4):
        own = [second * 1_000_000_000 for second, each in rows if each == who]
        assert tally.rows[who] == len(own)
        if own:
            assert (tally.first[who], tally.last[who]) == (own[0], own[-1])
        for a, b in itertools.pairwise(own):
            if b > a:
                minutes = min((b - a) // NS_PER_MINUTE, 1441)
                gaps[minutes] = gaps.get(minutes, 0) + 1
    assert tally.gap == (min(gaps, key=lambda gap: (-gaps[gap], gap)) if gaps else -1)


@pytest.mark.parametrize("stamps", [[2, 1], [1, 3, 2]])
def test_a_tally_tells_when_time_runs_backwards(stamps):
    assert not Tally().add(np.array(stamps, np.int64), np.zeros(len(stamps), np.int32), 1)
    tally = Tally()
    answers = [tally.add(np.array([ts], np.int64), np.zeros(1, np.int32), 1) for ts in stamps]
    assert answers[-1] is False


def test_what_is_all_of_one_shard_stays_as_it_lies():
    universe = Universe(NAMES)
    parts = [columns([(1, 3), (2, 3)], quotes=True), columns([(3, 3)], quotes=True)]
    shard = shard_of(NAMES[3])
    frames = split(parts, places(universe), range(SHARDS), EMPTY, {})
    assert [frame.ts.tolist() for frame in frames] == [[1, 2, 3] if k == shard else [] for k in range(SHARDS)]
    assert frames[shard].ask.tolist() == [6000.0, 6001.0, 6000.0]
    assert frames[shard].slot.tolist() == [universe.slots[3]] * 3
