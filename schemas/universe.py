"""Symbols and their numbers: an id for good, a shard for good, a row in the shard's state."""

import zlib
from collections.abc import Iterable

import numpy as np

from schemas.frames import SHARDS, Codes, Ints, Listing

MAX_NAME = 24  # bytes; names travel as fixed-width columns


def shard_of(name: str) -> int:
    """The shard of a symbol; never changes."""
    return zlib.crc32(name.encode()) % SHARDS


class Universe:
    """Names <-> ids, only ever appended to."""

    def __init__(self, names: Iterable[str] = ()):
        self.names: list[str] = []
        self.ids: dict[str, int] = {}
        self._taken = [0] * SHARDS
        self.shards: Codes = np.zeros(0, np.int8)  # by id
        self.slots: Ints = np.zeros(0, np.int32)  # by id
        self.admit(names)

    def admit(self, names: Iterable[str]) -> list[Listing]:
        """Give each unknown name the next id; known ones are left as they are.

        Raises ValueError for a name that cannot be a symbol, and then admits none of them.
        """
        fresh = [name for name in dict.fromkeys(names) if name not in self.ids]
        for name in fresh:
            if not name or len(name.encode()) > MAX_NAME or not name.isascii() or name != name.upper():
                raise ValueError(f"symbol {name!r}: want 1 to {MAX_NAME} upper-case ASCII characters")
        listed = []
        for name in fresh:
            shard = shard_of(name)
            listed.append(Listing(len(self.names), self._taken[shard], name))
            self._taken[shard] += 1
            self.ids[name] = len(self.names)
            self.names.append(name)
        self.shards = np.concatenate([self.shards, np.array([shard_of(name) for name in fresh], np.int8)])
        self.slots = np.concatenate([self.slots, np.array([entry.slot for entry in listed], np.int32)])
        return listed

    def __len__(self) -> int:
        return len(self.names)
