import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from risk.packing import packed, unpacked

MINUTE = 60 * 10**9
groups = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(1, 300)), max_size=9)


@given(groups=groups)
def test_numbers_are_read_as_they_were(groups):
    values = np.array([value for value, times in groups for _ in range(times)], np.int64)
    assert unpacked(packed(values), values.size).tolist() == values.tolist()


def test_instants_that_stand_together_take_their_low_bytes_once():
    slices = 1_704_207_600 * 10**9 + MINUTE * np.arange(2_000)
    values = np.repeat(slices, np.arange(2_000) % 40 + 1)
    block = packed(values)
    assert block.size < 10 * slices.size
    assert (unpacked(block, values.size) == values).all()


def test_what_does_not_repeat_hardly_grows():
    values = np.arange(5_000) * MINUTE
    assert packed(values).size <= values.nbytes * 256 // 255 + 16
    assert (unpacked(packed(values), values.size) == values).all()


def test_columns_that_are_not_contiguous_or_not_writable():
    values = np.repeat(np.arange(90), 2)
    values.flags.writeable = False
    assert (unpacked(packed(values), values.size) == values).all()
    assert (unpacked(packed(values[::2]), values.size // 2) == values[::2]).all()
