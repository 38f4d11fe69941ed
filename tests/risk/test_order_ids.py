from datetime import UTC, datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from risk.order_ids import forms, order_ids

HEADS = ["main|A|", "main|BRK.B|", "main|LONGEST_OF_ALL_THAT_ARE_HERE|", "main|Ä|"]
TAILS = ["|entry", "|take_profit", "|exit"]
FORMS = forms(HEADS, TAILS)
seconds = st.integers(0, 4_102_444_799)  # to 2099
orders = st.tuples(st.integers(0, 3), seconds, st.integers(0, 2))


def texts(data):
    """The ids that lie one after the other, each behind its length."""
    while data:
        size = int.from_bytes(data[:4], "little")
        yield data[4 : 4 + size].decode()
        data = data[4 + size :]


@given(rows=st.lists(orders, max_size=30))
def test_ids_are_what_strftime_says(rows):
    symbol, second, leg = np.array(rows, np.int64).reshape(-1, 3).T
    data = order_ids(FORMS, symbol.astype(np.int32), second * 10**9, leg.astype(np.int8)).tobytes()
    stamps = [datetime.fromtimestamp(s, UTC).strftime("%Y%m%dT%H%M%SZ") for _, s, _ in rows]
    assert list(texts(data)) == [HEADS[k] + stamp + TAILS[n] for (k, _, n), stamp in zip(rows, stamps, strict=True)]


def test_no_symbols_no_ids():
    nothing = order_ids(forms([], TAILS), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int8))
    assert nothing.size == 0
