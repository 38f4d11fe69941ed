"""Bars into a dataflow: one part per shard, decoded once per process, none far ahead of the slowest."""

import fcntl
import mmap
import os
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from infra.worker_thread import keep_state
from schemas.frames import SHARDS, Longs, RawFrame

WAIT = timedelta(milliseconds=3)  # before a part that is ahead looks again


class Framed(Protocol):
    """What can be read as frames; `infra.bars.Bars` is."""

    chunks: int

    def frames(self, shards: list[int], first: int) -> Iterator[list[RawFrame]]:
        """One list per chunk from `first` on, frames in the order of ascending shards."""


class BarInput(FixedPartitionedSource[RawFrame, int]):
    """Parts "00" .. "15", each the frames of its shard in order; the snapshot is the next chunk.

    No part gives out chunk k before the slowest of all 16 has given out chunk `k - ahead`, and
    none gives out anything before all are built. `board` is a folder through which the processes
    of one host tell each other how far they are; without it all parts must be in this process.
    """

    def __init__(self, bars: Framed, ahead: int = 4, board: Path | None = None):
        if ahead < 1:
            raise ValueError(f"ahead {ahead}: want at least 1 chunk")
        self._bars, self._ahead, self._board = bars, ahead, board
        self._token = uuid.uuid4().hex  # of this flow in this process

    def list_parts(self) -> list[str]:
        """All of them, whichever worker asks."""
        return [f"{shard:02}" for shard in range(SHARDS)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "Part":
        """Join the reader of this process, or start it."""
        keep_state()
        shard = int(for_part)
        with _LOCK:
            reader = _READERS.get(self._token)
            if reader is None:
                reader = _READERS[self._token] = Reader(self._token, self._bars, self._ahead, self._board)
        reader.join(shard, resume_state or 0)
        return Part(reader, shard)


class Part(StatefulSourcePartition[RawFrame, int]):
    """One shard's frames."""

    def __init__(self, reader: "Reader", shard: int):
        self._reader, self._shard = reader, shard
        self._waits = False

    def next_batch(self) -> list[RawFrame]:
        """At most one frame; none when this part has to wait."""
        frame = self._reader.next(self._shard)
        self._waits = frame is None
        return [] if frame is None else [frame]

    def next_awake(self) -> datetime | None:
        """Soon, while waiting."""
        return datetime.now(UTC) + WAIT if self._waits else None

    def snapshot(self) -> int:
        """The chunk that comes next."""
        return self._reader.place(self._shard)

    def close(self) -> None:
        """Leave the reader; the last to leave closes it."""
        self._reader.leave(self._shard)


class Reader:
    """Decodes chunks for the parts of one process and keeps each frame until its part takes it."""

    def __init__(self, token: str, bars: Framed, ahead: int, board: Path | None):
        self._token, self._bars, self._ahead = token, bars, ahead
        self._board = Board(board)
        self._lock = threading.Lock()
        self._next: dict[int, int] = {}  # chunk by shard
        self._streams: dict[int, Stream] = {}  # by shard; shards that began together share one

    def join(self, shard: int, first: int) -> None:
        """A part is built, to go on at chunk `first`."""
        with self._lock:
            self._next[shard] = first
            self._board.put(shard, first)

    def leave(self, shard: int) -> None:
        """A part needs nothing more."""
        with self._lock:
            self._next.pop(shard, None)
            stream = self._streams.pop(shard, None)
            if stream and stream not in self._streams.values():
                stream.close()
        if not self._next:
            self._board.close()
            with _LOCK:
                _READERS.pop(self._token, None)

    def place(self, shard: int) -> int:
        """The chunk that this shard's part gives out next."""
        return self._next[shard]

    def next(self, shard: int) -> RawFrame | None:
        """The next frame, or None while the part is too far ahead; StopIteration after the last."""
        with self._lock:
            chunk = self._next[shard]
            if chunk >= self._bars.chunks:
                raise StopIteration
            slowest = self._board.slowest()
            if slowest is None or chunk >= slowest + self._ahead:
                return None
            if shard not in self._streams:
                self._begin()
            frame = self._streams[shard].take(shard, chunk)
            self._next[shard] = chunk + 1
            self._board.put(shard, chunk + 1)
            return frame

    def _begin(self) -> None:
        """One stream for all parts that have none yet: normally all of this process."""
        fresh = {shard: first for shard, first in self._next.items() if shard not in self._streams}
        stream = Stream(self._bars, fresh)
        self._streams.update(dict.fromkeys(fresh, stream))

    @property
    def held(self) -> int:
        """How many frames are decoded and not taken yet."""
        return sum(stream.held for stream in set(self._streams.values()))


class Stream:
    """One pass over the bars for some shards, which may begin at different chunks."""

    def __init__(self, bars: Framed, first: dict[int, int]):
        self._first = first
        self._shards = sorted(first)
        self._chunk = min(first.values())
        self._frames = bars.frames(self._shards, self._chunk)
        self._kept: dict[tuple[int, int], RawFrame] = {}  # by shard and chunk

    def take(self, shard: int, chunk: int) -> RawFrame:
        """The frame of a shard, which is handed out once."""
        while self._chunk <= chunk:
            frames = next(self._frames, None)
            if frames is None:  # not StopIteration, which would pass for the end of the part
                raise RuntimeError(f"the bars end before chunk {self._chunk}")
            for one, frame in zip(self._shards, frames, strict=True):
                if self._chunk >= self._first[one]:
                    self._kept[one, self._chunk] = frame
            self._chunk += 1
        return self._kept.pop((shard, chunk))

    def close(self) -> None:
        """Let go of frames, and with the iterator of files."""
        self._kept.clear()
        self._frames = iter(())

    @property
    def held(self) -> int:
        """How many frames wait for their part."""
        return len(self._kept)


class Board:
    """How far each shard is: a line of 16 numbers that the processes of a host share.

    Whoever opens it while nobody else has it open begins with a clean one, so a run that was
    killed leaves nothing behind; the lock goes with the process that holds it.
    """

    def __init__(self, folder: Path | None):
        self._done: Longs = np.zeros(SHARDS, np.int64)  # next chunk + 1; 0: not built yet
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(folder / "board", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._handle, 0)
        except BlockingIOError:
            pass  # another process of this run is there already
        os.ftruncate(self._handle, self._done.nbytes)  # new bytes are zero
        fcntl.flock(self._handle, fcntl.LOCK_SH)
        # Aligned 8-byte stores: another process sees the old number or the new one.
        self._done = np.frombuffer(mmap.mmap(self._handle, self._done.nbytes), np.int64)

    def close(self) -> None:
        """Let others begin with a clean one."""
        if hasattr(self, "_handle"):
            os.close(self._handle)
            del self._handle

    def put(self, shard: int, chunk: int) -> None:
        """The shard gives out `chunk` next."""
        self._done[shard] = chunk + 1

    def slowest(self) -> int | None:
        """The chunk that the slowest of all shards gives out next; None before all are built."""
        least = int(self._done.min())
        return least - 1 if least else None


_LOCK = threading.Lock()
_READERS: dict[str, Reader] = {}  # workers are threads that get the same source: one reader for all
