"""Bytewax's threads: what a worker's keeps between two calls, and how often the one that waits for workers looks up.

Bytewax's workers are threads that Python did not start. Whenever one takes the interpreter's lock it is given a
thread state, with memory for its frames, and loses both when it lets go: some 13 µs for each call of ours, more than
most of them take. A thread that holds on to its state once, which Python's C interface allows, is spared that.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_KEPT = threading.local()
_TIMER_SLACK = 29  # PR_SET_TIMERSLACK of prctl.h
_LATE, _PROMPT = 5_000_000, 50_000  # ns; the second is what a thread has on Linux


def keep_state() -> None:
    """Hold on to this worker thread's state until the process ends, and let it rest no longer than it wants to.

    Doing it twice is harmless.
    """
    if not hasattr(_KEPT, "ensured"):
        _KEPT.ensured = ctypes.pythonapi.PyGILState_Ensure()  # never released: its users stay above 0
        _rest(_PROMPT)  # whatever it has from the thread that started it


def wake_seldom() -> None:
    """Let this thread's rests last up to 5 ms longer, and those of the threads that it starts; on Linux.

    Who waits for a flow asks each millisecond whether Ctrl-C was pressed, and takes the interpreter's lock for that
    from the worker that needs it: some 1,000 times a second both change places.
    """
    _rest(_LATE)


@contextmanager
def waking_seldom() -> Iterator[None]:
    """The same for a while."""
    wake_seldom()
    try:
        yield
    finally:
        _rest(_PROMPT)


def _rest(late: int) -> None:
    """How late this thread may wake, ns."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_TIMER_SLACK, ctypes.c_ulong(late))
