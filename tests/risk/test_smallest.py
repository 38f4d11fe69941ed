"""The edge of a tail, against sorting."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk.returns import rough_edge, smallest, up_to

VALUES = st.one_of(
    st.floats(-0.1, 0.1), st.sampled_from([0.0, -0.0, -0.01, 0.01, math.nan, math.inf, -math.inf, -5e-324])
)


@given(st.lists(VALUES, min_size=1, max_size=60), st.integers(1, 20))
def test_the_last_of_the_smallest_values(drawn: list[float], wanted: int) -> None:
    values = np.array(drawn)
    known = np.sort(values[values == values])
    answer = smallest(values, np.arange(values.size), np.empty(wanted))
    assert answer == (known[wanted - 1] if wanted <= known.size else math.inf)


@given(st.lists(VALUES, min_size=1, max_size=60), st.integers(1, 20))
def test_enough_values_lie_below_the_rough_edge(drawn: list[float], wanted: int) -> None:
    values = np.array(drawn)
    edge = rough_edge(values, wanted)
    assert up_to(values, edge) >= min(wanted, np.count_nonzero(values == values))


@pytest.mark.parametrize("seed", range(5))
def test_no_more_lie_below_the_rough_edge_of_returns(seed: int) -> None:
    values = 1e-3 * np.random.default_rng(seed).standard_t(4, 250)
    assert up_to(values, rough_edge(values, 13)) == 13
