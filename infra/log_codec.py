"""Records of the log <-> what operators take and give."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import fastavro
import numpy as np

from operators.slicer import Arrival, Closed
from schemas.frames import Listing

RAW = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Raw",
        "fields": [
            {"name": "ts", "type": "long"},
            {"name": "symbol", "type": "string"},
            *({"name": name, "type": "double"} for name in ("open", "high", "low", "close", "volume")),
            *({"name": name, "type": "double"} for name in ("bid", "ask")),
        ],
    }
)
SLICE = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Slice",
        "fields": [
            {"name": "shard", "type": "int"},
            {"name": "after", "type": "long"},
            {"name": "ts", "type": "long"},
            {
                "name": "listed",
                "type": {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "Listing",
                        "fields": [
                            {"name": "symbol", "type": "int"},
                            {"name": "slot", "type": "int"},
                            {"name": "name", "type": "string"},
                        ],
                    },
                },
            },
            *(
                {"name": name, "type": "bytes"}
                for name in ("symbol", "slot", "open", "high", "low", "close", "volume", "bid", "ask")
            ),
        ],
    }
)
LOGGED = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Logged",
        "fields": [
            {"name": "account", "type": "string"},
            {"name": "kind", "type": "string"},
            {"name": "after", "type": "long"},
            {"name": "ts", "type": "long"},
            {"name": "columns", "type": {"type": "map", "values": "bytes"}},
            {"name": "command", "type": ["null", "bytes"], "default": None},
        ],
    }
)


def _write(schema: Any, value: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    return out.getvalue()


def encode_arrival(arrival: Arrival) -> bytes:
    fields = arrival._asdict()
    del fields["offset"]
    return _write(RAW, fields)


def decode_arrival(offset: int, value: bytes) -> Arrival:
    return Arrival(offset, **fastavro.schemaless_reader(io.BytesIO(value), RAW))


class SliceRecord(NamedTuple):
    shard: int
    after: int
    ts: int
    listed: tuple[Listing, ...]
    columns: dict[str, np.ndarray[Any, Any]]


_KINDS = {
    "symbol": "<i4",
    "slot": "<i4",
    **dict.fromkeys(("open", "high", "low", "close", "volume", "bid", "ask"), "<f8"),
}


NO_ROWS = {name: np.zeros(0, kind) for name, kind in _KINDS.items()}


def encode_slice(closed: Closed) -> bytes:
    rows = {"symbol": closed.symbols, "slot": closed.slots}
    rows |= {name: [getattr(bar, name) for bar in closed.bars] for name in list(_KINDS)[2:]}
    columns = {name: np.array(rows[name], kind).tobytes() for name, kind in _KINDS.items()}
    listed = [entry._asdict() for entry in closed.listed]
    return _write(SLICE, {"shard": closed.shard, "after": closed.after, "ts": closed.ts, "listed": listed, **columns})


def decode_slice(value: bytes) -> SliceRecord:
    record = fastavro.schemaless_reader(io.BytesIO(value), SLICE)
    columns = {name: np.frombuffer(record[name], kind) for name, kind in _KINDS.items()}
    listed = tuple(Listing(**entry) for entry in record["listed"])
    return SliceRecord(record["shard"], record["after"], record["ts"], listed, columns)


def encode_logged(
    account: str, kind: str, after: int, ts: int, columns: dict[str, bytes], command: bytes | None
) -> bytes:
    return _write(
        LOGGED, {"account": account, "kind": kind, "after": after, "ts": ts, "columns": columns, "command": command}
    )


def decode_logged(value: bytes) -> dict[str, Any]:
    return fastavro.schemaless_reader(io.BytesIO(value), LOGGED)
