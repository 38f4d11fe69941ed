"""What is true of merging alone: parts that lie side by side are not copied, and both ways of ordering agree."""

from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import merging

ROOM = np.arange(4_000, dtype=np.int64)
SEALED = np.arange(4_000, dtype=np.int64)
SEALED.flags.writeable = False


@pytest.mark.parametrize(
    ("parts", "is_shared"),
    [
        ([ROOM[100:900], ROOM[900:1_000], ROOM[1_000:2_000]], True),
        ([ROOM[:2_000], ROOM[2_000:]], True),
        ([ROOM[100:900], ROOM[901:2_000]], False),  # a row between them
        ([ROOM[900:2_000], ROOM[100:900]], False),  # the wrong way round
        ([ROOM[100:900], ROOM.copy()[900:2_000]], False),  # of another room
        ([ROOM[:100], ROOM[100:]], False),  # too little to ask
        ([ROOM[0:2_000:2], ROOM[2_000::2]], False),
        ([ROOM[0:2_000:2], ROOM[1_000:2_000]], False),
        ([SEALED[:2_000], SEALED[2_000:]], True),  # nobody may write there
        ([np.arange(2_000), np.arange(2_000)], False),
    ],
)
def test_parts_that_lie_side_by_side_are_not_copied(parts: list[npt.NDArray[np.int64]], is_shared: bool) -> None:
    whole = merging.joined(parts)
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert np.shares_memory(whole, parts[0]) == is_shared


def test_columns_of_other_types_in_the_same_room() -> None:
    room = ROOM.copy()
    narrow, wide = room[:2_000].view(np.int32), room[2_000:].view(np.float64)
    for column in (narrow, wide):
        whole = merging.joined([column[:1_500], column[1_500:]])
        assert np.shares_memory(whole, room)
        assert whole.tobytes() == column.tobytes()


def slow_order(at: list[int], symbol: list[int], rank: list[int]) -> list[int]:
    return sorted(range(len(at)), key=lambda i: (at[i], rank[symbol[i]]))


@given(st.data())
def test_rows_come_by_slice_and_name(data: st.DataObject) -> None:
    """Few rows in many places, many in few, and two in one."""
    symbols, slices = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 12))
    rank = data.draw(st.permutations(range(symbols)))
    rows = data.draw(st.lists(st.tuples(st.integers(0, slices - 1), st.integers(0, symbols - 1)), max_size=40))
    at, symbol = [row[0] for row in rows], [row[1] for row in rows]
    columns = [np.array(column, np.int32) for column in (at, symbol, rank)]
    starts, order = merging.order_of(*columns, slices)
    assert order.tolist() == slow_order(at, symbol, rank)
    assert starts.tolist() == [sum(place < k for place in at) for k in range(slices + 1)]


@pytest.mark.parametrize(
    ("shards", "told"),
    [
        ([(b"a b", [1, 2, 2]), (b"a b", [0, 2])], [b"a", b"b"]),
        ([(b"a b", [0, 2]), (b"a b c", [2])], [b"", b"b"]),  # what no row here is of is not told
        ([(b"a b", [2]), (b"b", [1])], [b"b", b"b"]),  # a shard missed the first one's record
        ([(b"a b c", [1, 2]), (b"a c", [2]), (b"a b c", [2])], [b"a", b""]),  # and here 2 means two models
        ([(b"a", [0, 0]), (b"a", [])], []),
        ([(b"", [1]), (b"a", [1])], [b"a"]),  # a frame of the time before they were named
    ],
)
def test_a_number_is_told_by_the_name_that_all_shards_have_for_it(
    shards: list[tuple[bytes, list[int]]], told: list[bytes]
) -> None:
    frames = [SimpleNamespace(models=np.array(names.split(), np.bytes_), model=np.array(numbers, np.int8))
              for names, numbers in shards]  # fmt: skip
    assert merging._models(frames).tolist() == told  # type: ignore[arg-type]
