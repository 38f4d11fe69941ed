"""Thrift's compact protocol, as much of it as the headers of a Parquet file need.

A struct is a dict of its values by field number, ascending. The specification:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from typing import Any, TypeAlias

Struct: TypeAlias = dict[int, Any]  # of what _KINDS names


class Long(int):
    """An integer of 64 bits; a plain one has 32."""


_FLAG, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 5, 6, 8, 9, 12
_KINDS = {bool: _FLAG, int: _I32, Long: _I64, bytes: _BINARY, str: _BINARY, list: _LIST, dict: _STRUCT}


def encoded(struct: Struct) -> bytes:
    """A struct's bytes."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


def varint(number: int) -> bytes:
    """A number that is not negative, seven bits in a byte, the lowest first."""
    if number <= 0x7F:
        return bytes((number,))
    return bytes((number & 0x7F | 0x80,)) + varint(number >> 7)


def _write_struct(out: bytearray, struct: Struct) -> None:
    before = 0
    for field, value in struct.items():
        kind = _KINDS[type(value)]
        step = field - before << 4  # fields are few: none lies more than 15 behind the one before
        before = field
        if kind == _FLAG:  # all in its kind: 1 is true, 2 false
            out.append(step | 2 - value)
            continue
        out.append(step | kind)
        if kind < _BINARY:  # most are numbers, so without a call
            number = value << 1 ^ value >> 63
            while number > 0x7F:
                out.append(number & 0x7F | 0x80)
                number >>= 7
            out.append(number)
        else:
            _write(out, kind, value)
    out.append(0)


def _write(out: bytearray, kind: int, value: Any) -> None:
    if kind < _BINARY:
        out += varint(value << 1 ^ value >> 63)
    elif kind == _STRUCT:
        _write_struct(out, value)
    elif kind == _BINARY:
        text = value.encode() if isinstance(value, str) else value
        out += varint(len(text)) + text
    else:  # a list of values of one kind
        inner = _KINDS[type(value[0])] if value else _STRUCT
        out.append(min(len(value), 15) << 4 | inner)
        if len(value) >= 15:
            out += varint(len(value))
        for each in value:
            _write(out, inner, each)
