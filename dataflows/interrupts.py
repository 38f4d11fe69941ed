"""Ctrl-C ends the program within seconds, whatever is going on."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

PATIENCE = 5.0  # seconds between Ctrl-C and leaving whatever is going on
_SOON = 0.01  # seconds until an interrupt that was lost comes once more: by then its finaliser is through


@contextmanager
def heeding_interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C ends the program within seconds, even where no exception can pass; gives whether it was pressed.

    Compiled code and compilers do not look for signals, Bytewax waits for its workers without doing so, and
    an exception in a finaliser is lost, or makes another one of what it left undone. A run's folder appears in one
    rename, so that leaving at any moment leaves nothing half-written.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as after `nohup`
        yield lambda: False
        return
    hook = sys.unraisablehook
    timers: list[threading.Timer] = []
    lost = False  # the interrupt, which comes once more

    def start(seconds: float, what: Callable[[], None]) -> None:
        timers.append(threading.Timer(seconds, what))
        timers[-1].daemon = True
        timers[-1].start()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal lost
        if lost:
            lost = False
        elif timers:  # pressed again
            _leave()
        else:
            start(PATIENCE, _leave)
        signal.default_int_handler(number, frame)

    def note(what: "sys.UnraisableHookArgs") -> None:
        nonlocal lost
        if what.exc_type is not KeyboardInterrupt:
            hook(what)
            return
        lost = True  # and would be again, raised here
        start(_SOON, partial(signal.pthread_kill, threading.get_ident(), signal.SIGINT))

    signal.signal(signal.SIGINT, handle)
    sys.unraisablehook = note
    try:
        yield lambda: bool(timers)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = hook
        for timer in timers:
            timer.cancel()


def _leave() -> None:
    os.write(2, b"utp: interrupted\n")
    os._exit(130)
