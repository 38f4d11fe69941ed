from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from risk.order_ids import order_ids

HEADS = ["main|A|", "main|BRK.B|", "main|LONGEST_OF_ALL|"]
TAILS = ["Z|entry", "Z|take_profit", "Z|exit"]
seconds = st.integers(0, 4_102_444_799)  # to 2099
orders = st.tuples(st.integers(0, 2), seconds, st.integers(0, 2))


@given(rows=st.lists(orders, max_size=30))
def test_ids_are_what_strftime_says(rows):
    symbol, second, leg = np.array(rows, np.int64).reshape(-1, 3).T
    starts, text = order_ids(HEADS, TAILS, symbol.astype(np.int32), second * 10**9, leg.astype(np.int8))
    ids = [text[a:b].tobytes().decode() for a, b in pairwise(starts)]
    stamps = [datetime.fromtimestamp(s, UTC).strftime("%Y%m%dT%H%M%S") for _, s, _ in rows]
    assert ids == [HEADS[k] + stamp + TAILS[n] for (k, _, n), stamp in zip(rows, stamps, strict=True)]


def test_no_symbols_no_ids():
    starts, _ = order_ids([], TAILS, np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int8))
    assert starts.tolist() == [0]
