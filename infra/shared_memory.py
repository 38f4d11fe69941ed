"""Memory that the processes of one host share: pieces of a file without a name, which others open through /proc.

A process writes into a piece of its own and lends it, each time to one process, which gives it back once nothing there
looks at it any more. When nobody does, the piece is used again. A loan has a byte on the piece's first page, which the
lender clears before it lends and only the borrower writes then. So there is no lock between processes, and nothing is
left behind, whichever of them dies.
"""

import ctypes
import mmap
import os
import threading
import weakref
from bisect import bisect
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

LOANS = mmap.ALLOCATIONGRANULARITY  # of a piece at a time: bytes of its first page
NO_FILE = -1
_LENT, _TAKEN, _RETURNED = 0, 1, 2
_STEP = 1 << 16  # sizes are multiples of this
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of mman.h
_SLACK = 4  # times as large as asked for a piece may be: the last chunk is a small one


class Loan(NamedTuple):
    """Where a piece lies, for whom it is lent to."""

    process: int
    file: int  # as its owner calls it
    token: bytes  # of the lender: numbers of processes and files come again
    begin: int  # in the file
    size: int  # bytes behind the first page
    use: int  # which of the piece's uses
    number: int  # of that use's loans


class Use(NamedTuple):
    """One use of a piece, from when its memory was asked for until nobody looks at it any more."""

    begin: int  # of the piece
    number: int


class _Piece:
    """Memory of this process that others may see."""

    def __init__(self, file: int, begin: int, size: int, at_once: bool = True):
        self.begin, self.size = begin, size
        self._memory = _seen(file, begin, size, at_once)
        self.loans: Bytes = np.frombuffer(self._memory, np.uint8, LOANS)
        self.uses = self.lent = 0
        self._used: weakref.ref[Bytes] | None = None  # by this process
        self.address = self.loans.ctypes.data + LOANS

    def use(self, size: int) -> Bytes:
        """The first bytes, until nothing looks at them any more."""
        memory: Bytes = np.frombuffer(self._memory, np.uint8, size, LOANS)
        self.uses, self.lent, self._used = self.uses + 1, 0, weakref.ref(memory)
        return memory

    @property
    def is_free(self) -> bool:
        """True when neither this process nor another one looks at it."""
        if self._used is not None and self._used() is not None:
            return False
        return self._memory[: self.lent].count(_RETURNED) == self.lent


class Lender:
    """The pieces of this process; they stay until it ends, or until nobody knows the lender any more.

    Without `shares` they are used again in the same way, but nobody else sees them: such memory has larger pages.
    """

    def __init__(self, *, shares: bool = True) -> None:
        self._shares = shares
        self._lock = threading.Lock()
        self._file, self._size = NO_FILE, 0
        self._token = os.urandom(16)
        self._pieces: dict[int, _Piece] = {}  # by where they begin
        self._addresses, self._begins = list[int](), list[int]()  # of them all, in order of the addresses

    def room(self, size: int) -> Bytes:
        """So many bytes of a piece; they are free for others when no array looks at them and all loans are returned.

        Where the system has no such memory, or allows no file of that size: of this process alone.
        """
        size = max(size, 1)
        try:
            return self._room(size)
        except OSError:
            return np.empty(size, np.uint8)

    def _room(self, size: int) -> Bytes:
        with self._lock:
            fitting = [
                one for one in self._pieces.values() if size <= one.size <= _SLACK * size + _STEP and one.is_free
            ]
            piece = min(fitting, key=lambda one: one.size) if fitting else self._grown(-(-size // _STEP) * _STEP)
            return piece.use(size)

    def prepare(self, size: int, pieces: int) -> None:
        """Have so many pieces more of a size, whose memory a thread asks the system for, since it takes a while."""
        try:
            with self._lock:
                made = [self._grown(-(-size // _STEP) * _STEP, at_once=False) for _ in range(pieces)]
        except OSError:  # `room` gives memory of another kind
            return
        threading.Thread(target=_fill, args=(made,), name="memory", daemon=True).start()

    def _grown(self, size: int, at_once: bool = True) -> _Piece:
        """One piece more."""
        begin = self._size
        if self._shares:
            self._lengthen(begin + LOANS + size)
        piece = self._pieces[begin] = _Piece(self._file, begin, size, at_once)
        self._size = begin + LOANS + size
        k = bisect(self._addresses, piece.address)
        self._addresses.insert(k, piece.address)
        self._begins.insert(k, begin)
        return piece

    def _lengthen(self, size: int) -> None:
        if self._file == NO_FILE:
            if not hasattr(os, "memfd_create"):
                raise OSError("this system has no files without a name")
            self._file = os.memfd_create("utp")
            weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, size)

    def lend(self, address: int) -> tuple[Loan, int] | None:
        """The piece in which this address lies, lent once more, and where it begins; None where it is in none.

        None, too, where it was lent too often, or nobody else sees it.
        """
        if not self._shares:
            return None
        with self._lock:
            piece = self._piece_at(address)
            if piece is None or piece.lent == LOANS:
                return None
            number = piece.lent
            piece.loans[number], piece.lent = _LENT, number + 1
            loan = Loan(os.getpid(), self._file, self._token, piece.begin, piece.size, piece.uses, number)
            return loan, piece.address

    def use_of(self, memory: npt.NDArray[Any]) -> Use | None:
        """Which use this is of which piece, to ask later whether it has ended; None where it is in none."""
        piece = self._piece_at(memory.ctypes.data)
        return None if piece is None else Use(piece.begin, piece.uses)

    def _piece_at(self, address: int) -> _Piece | None:
        k = bisect(self._addresses, address)
        piece = self._pieces[self._begins[k - 1]] if k else None
        return piece if piece is not None and address < piece.address + piece.size else None

    def is_taken(self, loan: Loan) -> bool:
        """Whether the borrower has seen it, now or before."""
        piece = self._pieces[loan.begin]
        return piece.uses != loan.use or bool(piece.loans[loan.number] != _LENT)

    def is_over(self, use: Use) -> bool:
        """Whether nobody looks at it any more, here or elsewhere."""
        piece = self._pieces[use.begin]
        return piece.uses != use.number or piece.is_free

    @property
    def held(self) -> int:
        """Bytes of all pieces, used or not."""
        return self._size


class _Borrowed:
    """Pieces of others as they are seen here: by lender, and by where they begin."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: dict[bytes, int] = {}
        self.maps: dict[tuple[bytes, int], mmap.mmap] = {}
        self.seen: dict[tuple[bytes, int], weakref.ref[Bytes]] = {}
        self.loans: dict[tuple[bytes, int], list[int]] = {}


_BORROWED = _Borrowed()


def borrow(loan: Loan) -> Bytes:
    """A piece's memory. It is given back when no array looks at it any more.

    Several loans of one piece are one array as long as any of it is looked at, so that columns which lie side by side
    are known to. Raises RuntimeError for a lender that is on another host, or somebody else's.
    """
    key, own = (loan.token, loan.begin), _BORROWED
    with own.lock:
        memory = own.maps.get(key)
        if memory is None:
            memory = own.maps[key] = _mapped(loan)
        memory[loan.number] = _TAKEN
        known = own.seen.get(key)
        found = known() if known is not None else None
        if found is None:
            found = np.frombuffer(memory, np.uint8, loan.size, LOANS)
            own.loans[key] = []
            own.seen[key] = weakref.ref(found, partial(_give_back, memory, own.loans[key]))
        own.loans[key].append(loan.number)
        return found


def has_borrowed() -> bool:
    """Whether other processes have lent this one anything so far."""
    return bool(_BORROWED.maps)


def _mapped(loan: Loan) -> mmap.mmap:
    file = _BORROWED.files.get(loan.token)
    if file is None:
        try:
            file = os.open(f"/proc/{loan.process}/fd/{loan.file}", os.O_RDWR)
        except OSError as error:
            raise RuntimeError(
                f"the memory of process {loan.process} cannot be seen ({error.strerror}): "
                f"all processes of a run work on one host, as one user"
            ) from error
        _BORROWED.files[loan.token] = file
    return _seen(file, loan.begin, loan.size, at_once=False)


def _fill(pieces: list[_Piece]) -> None:
    """Have the system find their pages, where it can be asked to; what is written there meanwhile stays."""
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is None:
        return
    for piece in pieces:
        advise(ctypes.c_void_p(piece.address), ctypes.c_size_t(piece.size), _POPULATE_WRITE)


def _seen(file: int, begin: int, size: int, at_once: bool = True) -> mmap.mmap:
    """A piece with its first page. New pages cost half of one by one when all are asked for at once.

    Those that another process has filled are found several at a time as they are looked at.
    """
    if file == NO_FILE:
        memory = mmap.mmap(-1, LOANS + size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a system without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        return memory
    flags = mmap.MAP_SHARED | (getattr(mmap, "MAP_POPULATE", 0) if at_once else 0)
    return mmap.mmap(file, LOANS + size, flags, offset=begin)


def _give_back(memory: mmap.mmap, loans: list[int], _: Any) -> None:
    for number in loans:
        memory[number] = _RETURNED
