"""Bars into a dataflow: read by one worker for all, chunk by chunk, not far ahead of the steps that take them."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, Protocol

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from infra.parcels import LENDER, Parcel
from infra.shared_memory import Bytes, Lender
from infra.worker_thread import keep_state
from operators.split import Memory
from schemas.frames import SHARDS, Longs, RawFrame

OWN = Lender(shares=False)  # memory of this process alone
PART, NOTHING = "read", "none"  # in order of their names worker i mod n has part i
# Seconds after which a chunk that all steps have taken counts as done, though something still looks at its memory: one
# that a state or a cycle of references holds would otherwise stop the run for good.
PATIENCE = 1.0
WAIT = timedelta(milliseconds=1)  # before it looks again whether it may go on
# In which all workers become ready. Who has a part that wants to be asked at once does not rest until then, and where
# two of them share a core, each waits for the other one's slices of it: 18 ms on two cores, up to 50, instead of 5.
START = timedelta(milliseconds=1)


class Framed(Protocol):
    """What can be read as frames; `infra.bars.Bars` is."""

    chunks: int

    @property
    def bytes_per_chunk(self) -> int:
        """How much memory of `frames` a full chunk takes, about; 0 where they take none."""

    def frames(self, shards: Iterable[int], first: int, memory: Memory) -> Iterator[list[RawFrame]]:
        """One list per chunk from `first` on, frames in the order of ascending shards."""


class BarInput(FixedPartitionedSource[Any, int]):
    """One part, whose worker decodes the bars for all; the snapshot is the next chunk.

    It is worker 1, or the only one: worker 0 has the results and the account, and a part before this one, of nothing.
    A chunk is 16 parcels, one for each shard, for steps on any worker of any process. While steps still have to do
    with `ahead` chunks, nothing more is read. Where there are other processes, frames lie in the memory of `lender`,
    which they see.
    Behind those of the last chunk comes what `beside` gives: something that whoever reads all bars has seen of them.
    """

    def __init__(self, bars: Framed, ahead: int = 2, lender: Lender = LENDER, beside: Callable[[], Any] | None = None):
        if ahead < 1:
            raise ValueError(f"ahead {ahead}: want at least 1 chunk")
        self._bars, self._ahead, self._lender, self._beside = bars, ahead, lender, beside
        self._is_alone = True  # the part of all: worker 0 is in another process

    def list_parts(self) -> list[str]:
        """The one of nothing, and the one of all."""
        return [NOTHING, PART]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "Part | Nothing":
        """Begin with a chunk."""
        keep_state()
        if for_part == NOTHING:
            self._is_alone = False
            return Nothing()
        first = resume_state or 0
        return Part(self._bars.chunks, first, self._read(first), self._ahead, self._lender, self._beside)

    def _read(self, first: int) -> Iterator[list[RawFrame]]:
        """The bars from a chunk on. All workers are ready when the first one is asked for.

        Before that they are never at rest, by Bytewax, and a thread that prepares memory would hold them up.
        """
        if self._is_alone and self._bars.bytes_per_chunk:  # several chunks will be under way to other processes
            self._lender.prepare(self._bars.bytes_per_chunk, self._ahead)
        yield from self._bars.frames(range(SHARDS), first, self._room)

    def _room(self, size: int) -> Bytes:
        """Memory for a chunk. That of one process has larger pages: 3 to 6 % of a backtest's CPU.

        Where all workers of this process are some of several processes', the first chunk is still copied to be lent.
        """
        return (self._lender if self._is_alone or self._lender.held else OWN).room(size)


class Nothing(StatefulSourcePartition[Any, int]):
    """No frames, ever."""

    def __init__(self) -> None:
        self._start = datetime.now(UTC) + START

    def next_awake(self) -> datetime | None:
        """When all are ready."""
        return self._start

    def next_batch(self) -> list[Any]:
        """The end."""
        raise StopIteration

    def snapshot(self) -> int:
        """There is nothing to go on from."""
        return 0


class _Given(NamedTuple):
    """A chunk that steps have to do with, and whether the memory of its rows is free again."""

    parcels: list[Parcel[RawFrame]]
    is_free: Callable[[], bool]


def _always() -> bool:
    """Of a chunk without rows, say."""
    return True


class Part(StatefulSourcePartition[Any, int]):
    """All frames, and what comes behind them."""

    def __init__(
        self, chunks: int, first: int, frames: Iterator[list[RawFrame]],
        ahead: int, lender: Lender, beside: Callable[[], Any] | None,
    ):  # fmt: skip
        self._chunks, self._next, self._ahead, self._lender, self._beside = chunks, first, ahead, lender, beside
        self._frames = frames
        self._start: datetime | None = datetime.now(UTC) + START
        self._given: deque[_Given] = deque()
        self._waits = False
        self._since: float | None = None  # when it began to wait
        self.overdue = 0  # chunks that it did not wait for any longer

    def next_batch(self) -> list[Any]:
        """The frames of one chunk in their parcels, or none when it has to wait."""
        self._start = None
        if self._next >= self._chunks:
            raise StopIteration
        self._waits = self._is_far_ahead()
        if self._waits:
            return []
        frames = next(self._frames, None)
        if frames is None:  # not StopIteration, which would pass for the end of the part
            raise RuntimeError(f"the bars end before chunk {self._next}")
        self._next += 1
        parcels = [Parcel(self._lender, frame) for frame in frames]
        # of its rows, which lie in one piece: its slices lie in another one, which the ledger has until it is written
        rows = next((frame.ts for frame in frames if frame.ts.size), None)
        self._given.append(_Given(parcels, _always if rows is None else self._end_of(rows)))
        if self._beside is None or self._next < self._chunks:
            return parcels
        return [*parcels, self._beside()]  # of the same epoch: who has all frames of a snapshot has this, too

    def _is_far_ahead(self) -> bool:
        """Whether steps have enough to do: their frames are under way, or something looks at what was made of them."""
        while self._given and self._is_over(self._given[0]):
            self._given.popleft()
        if len(self._given) < self._ahead:
            self._since = None
            return False
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since < PATIENCE or not self._is_taken(self._given[0]):
            return True
        self._given.popleft()
        self._since, self.overdue = None, self.overdue + 1
        return False

    def _is_taken(self, given: _Given) -> bool:
        return all(parcel.is_taken for parcel in given.parcels)

    def _is_over(self, given: _Given) -> bool:
        return self._is_taken(given) and given.is_free()

    def _end_of(self, rows: Longs) -> Callable[[], bool]:
        """Whether nobody looks at the memory of these rows any more."""
        for lender in (OWN, self._lender):
            use = lender.use_of(rows)
            if use is not None:
                return partial(lender.is_over, use)
        return _always  # where the system has no such memory

    def next_awake(self) -> datetime | None:
        """When all workers are ready, and soon, while waiting."""
        return datetime.now(UTC) + WAIT if self._waits else self._start

    def snapshot(self) -> int:
        """The chunk that comes next."""
        return self._next

    def close(self) -> None:
        """Let go of frames, and with the iterator of files."""
        self._given.clear()
        self._frames = iter(())
