"""Where two slices, or two states, part first, with what both say: for whoever looks for the cause."""

import math
from typing import Any

import numpy as np

from schemas.frames import SliceFrame
from schemas.scored_columns import pack, unpack


def slices(ours: SliceFrame, theirs: SliceFrame) -> str:
    """The first value of a slice that differs, and which columns differ besides; empty where none does."""
    packed, kept = pack(ours), pack(theirs)
    names = [name for name in sorted(packed.keys() | kept.keys()) if packed.get(name) != kept.get(name)]
    if not names:
        return ""
    one, other = (unpack(columns, theirs.slices) for columns in (packed, kept))
    mine, others = (frame.names[frame.symbol].tolist() for frame in (one, other))
    if mine != others:
        alone = sorted(set(mine) ^ set(others)) or mine
        return f"other bars: {', '.join(name.decode() for name in alone)}"
    for name in names:
        left, right = (getattr(frame, name, None) for frame in (one, other))
        if (
            isinstance(left, np.ndarray)
            and isinstance(right, np.ndarray)
            and left.shape == right.shape == one.symbol.shape
        ):
            at = _first(left, right)
            rest = f"; also other {', '.join(more)}" if (more := [each for each in names if each != name]) else ""
            return f"{name} of {mine[at].decode()}: replayed {left[at]}, recorded {right[at]}{rest}"
    return f"other {', '.join(names)}"


def states(ours: Any, theirs: Any, place: str) -> str:
    """The first part of a state that differs from a kept one, which is plain; empty where none does."""
    if isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray):
        return _arrays(ours, theirs, place)
    if isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        names = getattr(ours, "_fields", range(len(ours)))
        found = (states(one, other, f"{place}.{name}") for name, one, other in zip(names, ours, theirs, strict=True))
        return next((one for one in found if one), "")
    same = ours == theirs or (isinstance(ours, float) and math.isnan(ours) and theirs != theirs)
    return "" if same else _both(place, ours, theirs)


def _arrays(ours: "np.ndarray[Any, Any]", theirs: "np.ndarray[Any, Any]", place: str) -> str:
    if ours.shape != theirs.shape or ours.dtype.names != theirs.dtype.names:
        return f"{place}: replayed {ours.shape} of {ours.dtype}, recorded {theirs.shape} of {theirs.dtype}"
    if ours.tobytes() == theirs.tobytes():
        return ""
    for name in ours.dtype.names or ():
        if found := _arrays(ours[name], theirs[name], f"{place}.{name}"):
            return found
    if ours.dtype.names:  # nothing but the room between its fields
        return ""
    at = _first(ours.reshape(-1), theirs.reshape(-1))
    where = ",".join(str(int(one)) for one in np.unravel_index(at, ours.shape))
    return _both(f"{place}[{where}]", ours.reshape(-1)[at], theirs.reshape(-1)[at])


def _first(ours: "np.ndarray[Any, Any]", theirs: "np.ndarray[Any, Any]") -> int:
    """The first place at which two columns of one length differ, to the bit."""
    return next(k for k, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one.tobytes() != other.tobytes())


def _both(place: str, ours: Any, theirs: Any) -> str:
    return f"{place}: replayed {ours}, recorded {theirs}"
