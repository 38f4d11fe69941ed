"""The C library's heap: one for all threads of a process, which keeps what was freed until it is given back.

The C library gives each thread a heap of its own, and what one has freed no other gets: the worker reads bars, the
writers of results make columns, and each keeps its gaps. With Arrow's buffers on the same heap, which
`dataflows/__init__.py` sees to, a backtest's peak is a tenth lower and hardly grows with its days. It costs no CPU
that could be measured.

What is freed at a heap's end goes back to the system, which zeroes it anew, page by page, when it is next asked for.
Who reads a log frees and asks for the same megabytes again and again: a quarter of a replay's CPU went there. So does
a backtest of files, chunk by chunk. When its last chunk is read, what that took is of no more use: a large run gives
it back before it maps its parts.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_... of malloc.h
_KEPT, _LARGE = 256 << 20, 32 << 20  # bytes free at the end before any go back; from which a piece is no part of a heap


def share_heap() -> None:
    """One heap from now on; a second one that is there already would go on being used in turn."""
    _set({_ARENA_MAX: 1})


def keep_freed() -> None:
    """Do not hand memory back to the system before much of it is free."""
    _set({_TRIM_THRESHOLD: _KEPT, _MMAP_THRESHOLD: _LARGE})


def give_back() -> None:
    """Hand whole pages that are free back to the system; asked for again, they cost as much as new ones."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _set(limits: dict[int, int]) -> None:
    """Tell the C library; does nothing where that is not glibc."""
    limit = getattr(ctypes.CDLL(None), "mallopt", None)
    if limit is not None:
        for option, value in limits.items():
            limit(option, value)
