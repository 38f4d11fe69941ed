"""Hashed snapshots: all operator state at a session's close, from which the next day can be replayed.

Beside Bytewax's recovery store, which serves a restart. One file per flow, session and key:

    <folder>/2026-03-04/decide.07.state      a line of JSON (what, of which settings, SHA-256), then MessagePack

The state is its plain form (`operators.drive.flat`): tuples, numbers, texts and arrays; a file can hold nothing
that runs. A state that is written again must be the same to the bit: after a crash it is, and if it ever is not,
the worker stops.
"""

import hashlib
import json
import os
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from schemas.errors import UserError

FORMAT = 1
_ARRAY = 1  # MessagePack extension


class SnapshotError(RuntimeError):
    """A state came out different from the one that is on disk under the same name: the run is not repeatable."""


class Snapshot(NamedTuple):
    """A state and where it belongs."""

    upto: int  # end of the last slice it has seen, UTC ns
    identity: str  # of the settings that made it
    state: Any  # flattened


def session_name(session: int) -> str:
    """A session's date; `session` counts days since 1970-01-01."""
    return (date(1970, 1, 1) + timedelta(days=session)).isoformat()


def path_of(folder: Path, session: int, key: str) -> Path:
    """Where a key's snapshot of a session stands."""
    return folder / session_name(session) / f"{key}.state"


def write(folder: Path, session: int, key: str, snapshot: Snapshot) -> Path:
    """Write it in one step. Raises SnapshotError if another state stands there already."""
    body = _ENCODER.encode(snapshot.state)
    head = {"format": FORMAT, "key": key, "session": session_name(session), "upto": snapshot.upto,
            "identity": snapshot.identity, "sha256": hashlib.sha256(body).hexdigest()}  # fmt: skip
    data = json.dumps(head, sort_keys=True).encode() + b"\n" + body
    path = path_of(folder, session, key)
    if path.exists():
        if path.read_bytes() != data:
            raise SnapshotError(
                f"{path}: the state at this close differs from the one that was kept; nothing was written"
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def read(folder: Path, session: int, key: str) -> Snapshot:
    """A snapshot, its hash checked. Raises UserError where there is none or it is damaged."""
    path = path_of(folder, session, key)
    try:
        first, _, body = path.read_bytes().partition(b"\n")
        head = json.loads(first)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; replay from a session whose snapshot is there") from error
    except ValueError as error:
        raise UserError(f"{path}: no snapshot (its first line is no JSON)") from error
    if head.get("format") != FORMAT or head.get("key") != key:
        raise UserError(
            f"{path}: a snapshot of format {head.get('format')!r} for {head.get('key')!r}, want {FORMAT} for {key}"
        )
    if hashlib.sha256(body).hexdigest() != head["sha256"]:
        raise UserError(f"{path}: damaged (its SHA-256 is not the one in its first line)")
    return Snapshot(head["upto"], head["identity"], _tupled(_DECODER.decode(body)))


def sessions(folder: Path, key: str) -> list[int]:
    """The sessions of which there is a snapshot of this key, in order."""
    found = []
    for path in folder.glob(f"*/{key}.state"):
        found.append((date.fromisoformat(path.parent.name) - date(1970, 1, 1)).days)
    return sorted(found)


def _plain(value: Any) -> Any:
    """What MessagePack does not know: arrays, also of records, and numpy's numbers."""
    if isinstance(value, np.ndarray):
        kind = json.dumps([_kind(value.dtype), value.shape]).encode()
        return msgspec.msgpack.Ext(_ARRAY, len(kind).to_bytes(4, "little") + kind + value.tobytes())
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a state may not hold a {type(value).__name__}")


def _array(code: int, data: memoryview) -> Any:
    size = int.from_bytes(data[:4], "little")
    kind, shape = json.loads(bytes(data[4 : 4 + size]))
    dtype = _dtype(kind)
    if dtype.names:  # rows that give their fields by attribute, as `operators.kernel.table` makes them
        dtype = np.dtype((np.record, dtype))
    return np.frombuffer(bytearray(data[4 + size :]), dtype).reshape(shape)


def _kind(dtype: "np.dtype[Any]") -> Any:
    """A dtype in JSON; of records also where each field lies, for kernels are compiled for that."""
    if dtype.names is None:
        return dtype.str if dtype.subdtype is None else [dtype.subdtype[0].str, list(dtype.shape)]
    assert dtype.fields is not None  # noqa: S101  (it has names)
    fields = [dtype.fields[name] for name in dtype.names]
    return {"names": dtype.names, "formats": [_kind(field[0]) for field in fields],
            "offsets": [field[1] for field in fields], "itemsize": dtype.itemsize,
            "aligned": dtype.isalignedstruct}  # fmt: skip


def _dtype(kind: Any) -> "np.dtype[Any]":
    if isinstance(kind, str):
        return np.dtype(kind)
    if isinstance(kind, list):
        return np.dtype((kind[0], tuple(kind[1])))
    layout: Any = {name: kind[name] for name in ("names", "offsets", "itemsize")}
    layout["formats"] = [_dtype(one) for one in kind["formats"]]
    made: np.dtype[Any] = np.dtype(layout, align=kind["aligned"])
    return made


def _tupled(value: Any) -> Any:
    return tuple(_tupled(part) for part in value) if isinstance(value, list) else value


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_DECODER = msgspec.msgpack.Decoder(ext_hook=_array)
