"""How far a recovery store has read each log: the offsets that its sources begin with."""

import io
import pickle
import re
from pathlib import Path
from typing import Any

from infra.recovery import stored

_PART = re.compile(r"(.+):(\d{3})")  # as infra.ranges.part_name writes it


def stored_places(folder: Path) -> dict[tuple[str, int], int]:
    """By topic (without prefix) and partition: the next offset, as the newest snapshot has it."""
    newest: dict[tuple[str, int], tuple[int, int]] = {}
    snaps = stored(folder, "SELECT state_key, snap_epoch, ser_change FROM snaps WHERE ser_change IS NOT NULL")
    for key, epoch, blob in snaps:
        part = _PART.fullmatch(key)
        offset = _offset(blob) if part else None
        if part is not None and offset is not None:
            place = part[1], int(part[2])
            newest[place] = max(newest.get(place, (-1, 0)), (epoch, offset))
    return {place: offset for place, (_, offset) in sorted(newest.items())}


def _offset(blob: bytes) -> int | None:
    """A source's snapshot is a number; a sink's, under the same kind of key, is not."""
    try:
        state = _Plain(io.BytesIO(blob)).load()
    except pickle.UnpicklingError:
        return None
    return state if isinstance(state, int) else None


class _Plain(pickle.Unpickler):
    """Reads plain values only: whoever looks at a store runs nothing that lies in it."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError(f"{module}.{name}: no plain value")
