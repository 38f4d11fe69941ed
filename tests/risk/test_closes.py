"""Closes of the last slices: by slice while their block fills, by symbol afterwards."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk import account
from risk.account import fills_block, widened
from risk.limits import Params, Rules, limits
from risk.portfolio import BLOCK, put_away, start
from risk.returns import last_closes
from tests.reference.histories import history
from tests.risk.test_account_agrees import frames

CLOSES = st.one_of(st.floats(1.0, 2.0), st.just(math.nan))


@given(data=st.data(), window=st.integers(2, 3 * BLOCK), slices=st.integers(1, 8 * BLOCK))
def test_they_are_those_that_were_seen(data: st.DataObject, window: int, slices: int) -> None:
    """Whatever the window and whenever somebody asks; who joins later has none of before."""
    book = start(limits(Params(rules=Rules(returns_window=window, min_returns=2))))
    seen = [np.full(3, math.nan)] * (window + 1)
    for k in range(slices):
        width, is_past = min(1 + k // BLOCK, 3), fills_block(book, 1)
        before, book = book, widened(book, width, is_past)
        assert (book.closes is before.closes) == (not is_past and width == before.rows.size)
        funds, bars = book.funds[0], np.full(3, math.nan)
        bars[:width] = data.draw(st.lists(CLOSES, min_size=width, max_size=width))
        funds.slices += 1
        book.recent[funds.slices % BLOCK] = bars[:width]
        if is_past:
            put_away(book)
        seen.append(bars)
        for symbol in range(width):
            found = np.zeros(window + 1)
            last_closes(book, symbol, found)
            assert np.array_equal(found, np.array(seen)[-window - 1 :, symbol], equal_nan=True)


@pytest.mark.parametrize("seed", range(12))
def test_a_step_leaves_the_closes_that_it_was_given_alone(seed: int) -> None:
    params, told = history(seed)
    state, changed = account.start(params), 0
    for one in frames(told, list(range(len(told)))):
        closes, recent = state.book.closes.copy(), state.book.recent.copy()
        after, _ = account.step(params, state, one)
        assert np.array_equal(state.book.closes, closes, equal_nan=True)
        assert np.array_equal(state.book.recent, recent, equal_nan=True)
        changed += after.book.closes is not state.book.closes
        state = after
    assert changed >= len(told) // BLOCK  # as often as a block was full


@pytest.mark.parametrize(("before", "more", "is_full"), [(0, 6, False), (0, 7, True), (7, 7, False), (7, 8, True)])
def test_a_block_is_full_with_the_eighth_slice_counted_from_zero(before: int, more: int, is_full: bool) -> None:
    book = start(limits(Params()))
    book.funds["slices"] = before
    assert fills_block(book, more) == is_full
