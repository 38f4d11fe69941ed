"""Numbers, words and lists against the examples of the protocol's description, worked out by hand."""

import pytest

from infra.thrift import Long, encoded, varint


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (50_399, "df8903"), (2**63, "80" * 9 + "01")],
)
def test_varints(number, text):
    assert varint(number) == bytes.fromhex(text)


@pytest.mark.parametrize(
    ("struct", "text"),
    [
        ({}, "00"),
        ({1: 0}, "150000"),  # step 1, an i32, zigzag 0
        ({1: -1, 3: 150}, "150125ac0200"),
        ({2: Long(2**40)}, "26" + "80" * 5 + "4000"),
        ({1: True, 2: False}, "111200"),
        ({4: "ab"}, "48026162" + "00"),
        ({4: b""}, "480000"),
        ({5: {1: {}}}, "5c1c00" + "00" + "00"),
        ({3: [1, 2, 3]}, "39" + "35" + "020406" + "00"),
        ({3: ["a"] * 15}, "39" + "f8" + "0f" + "0161" * 15 + "00"),
        ({7: [{1: {}}] * 2}, "79" + "2c" + "1c0000" * 2 + "00"),
    ],
)
def test_structs(struct, text):
    assert encoded(struct) == bytes.fromhex(text)
