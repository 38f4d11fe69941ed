"""A slice of scored signals <-> named columns of bytes: how it travels in the account log.

Rows stand in order of the symbols' names, little-endian, so that the bytes are a function of the slice alone and
not of how its shards arrived. A column that a reader does not know is left; one that it misses is empty, as in
a frame that never had it.
"""

from functools import lru_cache
from typing import Any, get_args

import numpy as np

from schemas.frames import Actions, Ints, Names, Refused, SliceFrame, Slices
from schemas.universe import MAX_NAME

Columns = dict[str, bytes]

_APART = ("slices", "starts", "order", "names", "rank", "refused", "rows", "stopped", "actions", "quality")


def _kinds(frame: Any, leave: tuple[str, ...] = ()) -> "dict[str, np.dtype[Any]]":
    """Columns of a frame with their types, as its class declares them."""
    fields = frame.__dataclass_fields__
    return {name: np.dtype(get_args(get_args(fields[name].type)[1])[0]) for name in fields if name not in leave}


_ROWS = _kinds(SliceFrame, _APART)
_REFUSED = {f"refused.{name}": kind for name, kind in _kinds(Refused).items()}
_ACTIONS = {f"actions.{name}": kind for name, kind in _kinds(Actions).items()}


def pack(frame: SliceFrame) -> Columns:
    """The columns of a frame that holds one slice."""
    if frame.slices.size != 1:
        raise ValueError(f"a frame of {frame.slices.size} slices: want one")
    columns = {name: getattr(frame, name)[frame.order] if getattr(frame, name).size else getattr(frame, name)
               for name in _ROWS}  # fmt: skip
    columns |= {f"refused.{name}": getattr(frame.refused, name) for name in Refused.__dataclass_fields__}
    columns |= {f"actions.{name}": getattr(frame.actions, name) for name in Actions.__dataclass_fields__}
    columns |= {"stopped": frame.stopped, "quality": frame.quality}
    kinds = {**_ROWS, **_REFUSED, **_ACTIONS, "stopped": np.dtype(np.int64), "quality": np.dtype(np.int64)}
    packed = {name: np.ascontiguousarray(column, kinds[name].newbyteorder("<")).tobytes()
              for name, column in columns.items() if column.size}  # fmt: skip
    packed["names"] = b"\n".join(frame.names.tolist())
    return packed


def unpack(columns: Columns, slices: Slices) -> SliceFrame:
    """The frame of a slice; its arrays are read-only views where that is possible."""
    names, rank = _ranked(columns.get("names", b""))
    rows = _read(columns, _ROWS)
    refused = Refused(*_read(columns, _REFUSED).values())
    actions = Actions(*_read(columns, _ACTIONS).values())
    stopped = np.frombuffer(columns.get("stopped", b""), np.int64)
    quality = np.frombuffer(columns.get("quality", b""), np.int64).reshape(-1, 4)
    size = rows["symbol"].size
    return SliceFrame(
        slices=slices, starts=np.array([0, size], np.int64), order=np.arange(size, dtype=np.int32), names=names,
        rank=rank, refused=refused, rows=size, stopped=stopped, actions=actions, quality=quality, **rows,
    )  # fmt: skip


def _read(columns: Columns, kinds: "dict[str, np.dtype[Any]]") -> dict[str, Any]:
    return {name: np.frombuffer(columns.get(name, b""), kind) for name, kind in kinds.items()}


@lru_cache(maxsize=4)
def _ranked(joined: bytes) -> tuple[Names, Ints]:
    """Names by symbol id, and each one's place in alphabetical order; the same from slice to slice."""
    names = np.array(joined.split(b"\n") if joined else [], f"S{MAX_NAME}")
    rank = np.empty(names.size, np.int32)
    rank[np.argsort(names, kind="stable")] = np.arange(names.size, dtype=np.int32)
    return names, rank
