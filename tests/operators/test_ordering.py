"""Order by (ts, symbol name), beside numpy's sort."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators import ordering
from operators.ordering import FEW, order_of

rows = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=6 * FEW)


@given(rows=rows, rank=st.permutations(range(5)), sort=st.booleans())
def test_agrees_with_a_stable_sort(rows, rank, sort):
    rows = sorted(rows, key=lambda row: row[0]) if sort else rows
    ts = np.array([row[0] for row in rows], np.int64) * 60_000_000_000
    symbol = np.array([row[1] for row in rows], np.int32)
    rank = np.array(rank, np.int32)
    wanted = np.lexsort((rank[symbol], ts))
    found = order_of(ts, symbol, rank)
    if (wanted == np.arange(len(rows))).all():
        assert found is None
    else:
        assert found.tolist() == wanted.tolist()


@given(size=st.integers(FEW + 1, 9 * FEW), seed=st.integers(0, 99))
def test_a_slice_with_many_rows_is_ordered_too(size, seed):
    rng = np.random.default_rng(seed)
    symbol, rank = rng.integers(0, 300, size).astype(np.int32), rng.permutation(300).astype(np.int32)
    found = order_of(np.zeros(size, np.int64), symbol, rank)
    assert found.tolist() == np.argsort(rank[symbol], kind="stable").tolist()


def test_columns_of_a_table_of_rows_will_do():
    table = np.zeros(3, [("ts", "i8"), ("symbol", "i8")])
    table["symbol"] = [2, 0, 1]
    assert ordering.order_of(table["ts"], table["symbol"], np.arange(3, dtype=np.int32)).tolist() == [1, 2, 0]
