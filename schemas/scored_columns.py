"""A slice of scored signals <-> named columns of bytes: how it travels in the account log.

Rows stand in order of the symbols' names, little-endian, so that the bytes are a function of the slice alone and
not of how its shards arrived. A column that a reader does not know is left; one that it misses is empty, as in
a frame that never had it.
"""

from functools import lru_cache
from typing import Any, get_args

import numpy as np

from schemas.frames import NO_NAMES, NO_OUTCOMES, Actions, Alarm, Ints, Names, Outcomes, Refused, SliceFrame, Slices
from schemas.universe import MAX_NAME

Columns = dict[str, bytes]
Kinds = dict[str, "np.dtype[Any]"]

_NOT_ROWS = ("slices", "starts", "order", "names", "rank", "refused", "rows", "stopped", "actions", "quality",
             "absent", "made", "alarms", "outcomes", "models")  # fmt: skip


def _kinds(frame: Any, leave: tuple[str, ...] = (), prefix: str = "") -> Kinds:
    """Columns of a frame with their types, as its class declares them."""
    fields = frame.__dataclass_fields__
    names = (name for name in fields if name not in leave)
    return {f"{prefix}{name}": np.dtype(get_args(get_args(fields[name].type)[1])[0]) for name in names}


_LONG = np.dtype(np.int64)
_ROWS = _kinds(SliceFrame, _NOT_ROWS)
_REFUSED = _kinds(Refused, prefix="refused.")
_ACTIONS = _kinds(Actions, prefix="actions.")
_ALARMS = {
    f"alarms.{name}": np.dtype(np.float64 if name in ("edge", "reference") else np.int64) for name in Alarm._fields
}
_OUTCOMES = {f"outcomes.{name}": column.dtype for name, column in NO_OUTCOMES._asdict().items()}
_COUNTS: Kinds = {"stopped": _LONG, "quality": _LONG, "absent": _LONG, "made": _LONG}
_ALL = _ROWS | _REFUSED | _ACTIONS | _ALARMS | _OUTCOMES | _COUNTS


def pack(frame: SliceFrame) -> Columns:
    """The columns of a frame that holds one slice."""
    if frame.slices.size != 1:
        raise ValueError(f"a frame of {frame.slices.size} slices: want one")
    columns: dict[str, Any] = {name: column[frame.order] if (column := getattr(frame, name)).size else column
                               for name in _ROWS}  # fmt: skip
    columns |= {name: getattr(frame.refused, name.partition(".")[2]) for name in _REFUSED}
    columns |= {name: getattr(frame.actions, name.partition(".")[2]) for name in _ACTIONS}
    alarms = sorted(frame.alarms)
    columns |= {name: [getattr(alarm, name.partition(".")[2]) for alarm in alarms] for name in _ALARMS}
    columns |= {f"outcomes.{name}": column for name, column in frame.outcomes._asdict().items()}
    columns |= {"stopped": frame.stopped, "quality": frame.quality, "absent": frame.absent}
    columns["made"] = [frame.made] if frame.made else []
    packed = {name: np.ascontiguousarray(column, _ALL[name].newbyteorder("<")).tobytes()
              for name, column in columns.items() if len(column)}  # fmt: skip
    packed["names"] = b"\n".join(frame.names.tolist())
    if frame.models.size:
        packed["models"] = b"\n".join(frame.models.tolist())
    return packed


def unpack(columns: Columns, slices: Slices) -> SliceFrame:
    """The frame of a slice; its arrays may be written into, as those of other frames: kernels are compiled for that."""
    names, rank = _ranked(columns.get("names", b""))
    rows = _read(columns, _ROWS)
    counts = _read(columns, _COUNTS)
    columns_of = (column.tolist() for column in _read(columns, _ALARMS).values())
    alarms = tuple(Alarm(*alarm) for alarm in zip(*columns_of, strict=True))
    size = rows["symbol"].size
    return SliceFrame(
        slices=slices, starts=np.array([0, size], np.int64), order=np.arange(size, dtype=np.int32), names=names,
        rank=rank, refused=Refused(*_read(columns, _REFUSED).values()), rows=size, stopped=counts["stopped"],
        actions=Actions(*_read(columns, _ACTIONS).values()), quality=counts["quality"].reshape(-1, 4),
        absent=counts["absent"], made=int(counts["made"].sum()), alarms=alarms,
        outcomes=Outcomes(*_read(columns, _OUTCOMES).values()), models=_models(columns), **rows,
    )  # fmt: skip


def _read(columns: Columns, kinds: Kinds) -> dict[str, Any]:
    return {name: np.frombuffer(columns.get(name, b""), kind).copy() for name, kind in kinds.items()}


def _models(columns: Columns) -> Names:
    """Ids by number; logs of the time before they were told have none."""
    joined = columns.get("models", b"")
    return np.array(joined.split(b"\n"), np.bytes_) if joined else NO_NAMES


@lru_cache(maxsize=4)
def _ranked(joined: bytes) -> tuple[Names, Ints]:
    """Names by symbol id, and each one's place in alphabetical order; the same from slice to slice."""
    names = np.array(joined.split(b"\n") if joined else [], f"S{MAX_NAME}")
    rank = np.empty(names.size, np.int32)
    rank[np.argsort(names, kind="stable")] = np.arange(names.size, dtype=np.int32)
    return names, rank
