from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from risk.order_ids import forms, packed_ids

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


def unpacked(*rows, of=FORMS, before=b""):
    """The ids of symbols, seconds and legs, as a reader has them."""
    symbol, second, leg = np.array(rows, np.int64).reshape(-1, 3).T
    size, ids = packed_ids(of, symbol.astype(np.int32), second * 10**9, leg.astype(np.int8), before)
    text = pa.Codec("lz4_raw").decompress(pa.py_buffer(ids.tobytes()), size).to_pybytes()
    assert text.startswith(before)
    return list(texts(text[len(before) :])), ids


def said(symbol, second, leg):
    return HEADS[symbol] + datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%SZ") + TAILS[leg]


@given(rows=st.lists(orders, max_size=30), before=st.binary(max_size=20))
def test_ids_are_what_strftime_says(rows, before):
    assert unpacked(*rows, before=before)[0] == [said(*row) for row in rows]


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(86_000, 87_000), st.integers(0, 2)), min_size=1))
def test_ids_of_two_days_one_after_the_other(rows):
    assert unpacked(*rows)[0] == [said(*row) for row in rows]


def test_an_id_whose_form_was_near_takes_few_bytes_and_one_too_far_back_is_written_out():
    near = [(0, 86_400 + 60 * k, 0) for k in range(1_000)]
    found, ids = unpacked(*near)
    assert found == [said(*row) for row in near]
    assert ids.size < 14 * len(near)
    far = [(0, 86_400, 0), *[(2, 86_400 + k, 1) for k in range(1_000)], (0, 90_000, 0), (1, 90_000, 0)]
    assert unpacked(*far)[0] == [said(*row) for row in far]


def test_no_symbols_no_ids():
    assert unpacked(of=forms([], TAILS))[0] == []
