"""Frames between the workers of one run: as they are within a process, through shared memory to another one.

Bytewax pickles what goes to another process, twice, and sends it through a socket: 5 bytes are moved for each one that
is meant. A parcel has its large columns in memory that both see, and only says where. Columns that lie there already,
as those of bars do that were read for all processes, are not even copied.
"""

import io
import pickle
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, Generic, TypeVar

import numpy as np

from infra.shared_memory import Bytes, Lender, Loan, borrow
from infra.worker_thread import keep_state
from operators.merging import address
from schemas.frames import Actions, BarFrame, RawFrame, Refused, SignalFrame, Slices, Space

LENDER = Lender()  # of this process: what one run has had of it the next one uses again
LEAST = 1_024  # bytes of an array that is worth the way
_ALIGNED = 64  # bytes: columns begin at multiples of it

F = TypeVar("F")
_Sent = tuple[bytes, tuple[Loan, ...]]


class Parcel(Generic[F]):
    """A frame or some under way; whoever gets it asks `opened`, which knows frames that came from elsewhere, too."""

    __slots__ = ("_lender", "_sent", "frame")

    def __init__(self, lender: Lender, frame: F):
        self.frame: F | None = frame
        self._lender = lender
        self._sent: _Sent | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process; the same answer whenever it is asked, since one answer is one loan."""
        if self._sent is None:
            self._sent, self.frame = _packed(self._lender, self.frame), None
        return _arrived, self._sent

    def open(self) -> F:
        """The frame, once."""
        keep_state()
        frame, self.frame = self.frame, None
        if frame is None:
            raise RuntimeError("a parcel was opened twice")
        return frame

    @property
    def is_taken(self) -> bool:
        """Whether the step that it went to has it."""
        loans = self._sent[1] if self._sent is not None else ()
        return self.frame is None and all(self._lender.is_taken(loan) for loan in loans)


def opened(given: Any) -> list[Any]:
    """The frames of a parcel, or those that a parcel from another process became."""
    frames = given.open() if isinstance(given, Parcel) else given
    return frames if isinstance(frames, list) else [frames]


# How a frame is taken apart: large arrays by number, small ones and frames by what they are made of. Pickle's own way
# asks a dataclass for its fields each time, and an array for a state that is put into an empty one: 5 µs each.


def _fields_of(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    values = attrgetter(*kind.__dataclass_fields__)  # type: ignore[attr-defined]
    return lambda frame: (kind, values(frame))


_KINDS = (RawFrame, BarFrame, SignalFrame, Slices, Refused, Actions)
_FRAMES: dict[type, Any] = {kind: _fields_of(kind) for kind in _KINDS}


def _small(data: bytearray, dtype: Any, shape: tuple[int, ...], kind: type) -> Any:
    """An array of so few bytes that they were sent."""
    array = np.ndarray(shape, dtype, data)
    return array if kind is np.ndarray else array.view(kind)


def _large(which: int, begin: int, dtype: Any, shape: tuple[int, ...], kind: type) -> Any:
    """Stands for `_laid`, which has the memory."""
    raise RuntimeError(f"a column at byte {begin} of loan {which} was unpacked without its memory")


class _Packing:
    """What one frame lends: pieces that its columns lie in already, and columns for which there is none yet."""

    def __init__(self, lender: Lender):
        self._lender = lender
        self.loans: list[Loan] = []
        self._spans: list[tuple[int, int]] = []  # the addresses of those pieces
        self._left: list[tuple[int, Any]] = []  # bytes of the last piece, and what will be there
        self._size = 0  # of that piece
        self._which, self._begin, self._end = -1, 0, 0  # the piece in which the last one was

    def __call__(self, array: Any) -> Any:
        """How an array is sent."""
        size, kind = array.nbytes, array.dtype
        begin = -1 if kind.hasobject or not size else address(array)
        if size < LEAST and not kind.hasobject:
            return _small, (bytearray(array.tobytes()), kind, array.shape, type(array))
        if begin < 0:
            return array.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if self._begin <= begin < self._end:
            return _large, (self._which, begin - self._begin, kind, array.shape, type(array))
        which, begin = self._place(begin)
        if which < 0:
            begin = self._leave(array)
        return _large, (which, begin, kind, array.shape, type(array))

    def _leave(self, array: Any) -> int:
        """Where in the piece to come an array will be."""
        begin = self._size
        self._size += -(-array.nbytes // _ALIGNED) * _ALIGNED
        self._left.append((begin, array))
        return begin

    def space(self, space: Space) -> Any:
        """How space is sent: where it is none that both see, the other process has its own."""
        if self._place(address(space.memory))[0] < 0:
            return type(None), ()
        return Space, (space.memory, space.rows, space.first)

    def _place(self, begin: int) -> tuple[int, int]:
        """The loan in which an address is, and the byte of it; -1 where it is in none, for the piece to come."""
        for which, (first, end) in enumerate(self._spans):
            if first <= begin < end:
                self._which, self._begin, self._end = which, first, end  # the next one is likely to lie there, too
                return which, begin - first
        found = self._lender.lend(begin)
        if found is None:
            return -1, 0
        loan, first = found
        self.loans.append(loan)
        self._spans.append((first, first + loan.size))
        return self._place(begin)

    def copy(self) -> tuple[Loan, ...]:
        """Put the columns that are left into a piece, the last one; there is always one, to tell who has the frame."""
        if self._left or not self.loans:
            room = self._lender.room(self._size)
            for begin, array in self._left:
                room[begin : begin + array.nbytes] = array.view(np.ndarray).reshape(-1).view(np.uint8)
            if self._place(address(room))[0] < 0:
                raise RuntimeError("there is no memory that several processes could share: run one")
        return tuple(self.loans)


class _Unpacker(pickle.Unpickler):
    """Puts them in again where they lie."""

    def __init__(self, head: bytes, pieces: list[Bytes]):
        super().__init__(io.BytesIO(head))
        self._large = partial(_laid, pieces)  # no method: an unpickler that knows itself outlives its work

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for."""
        return self._large if name == _large.__name__ else super().find_class(module, name)


def _laid(pieces: list[Bytes], which: int, begin: int, dtype: Any, shape: Any, kind: type) -> Any:
    """The array that lies there."""
    array = np.ndarray(shape, dtype, pieces[which], begin)
    return array if kind is np.ndarray else array.view(kind)


def _packed(lender: Lender, frame: Any) -> _Sent:
    """A frame without its large columns, and the pieces that these are in."""
    stream, packing = io.BytesIO(), _Packing(lender)
    packer = pickle.Pickler(stream, pickle.HIGHEST_PROTOCOL)
    packer.dispatch_table = {
        **_FRAMES,
        Space: packing.space,
        np.ndarray: packing,
        np.recarray: packing,
    }
    packer.dump(frame)
    return stream.getvalue(), packing.copy()


def _arrived(head: bytes, loans: tuple[Loan, ...]) -> Any:
    """What was sent, looking at the other process's memory."""
    return _Unpacker(head, [borrow(loan) for loan in loans]).load()
