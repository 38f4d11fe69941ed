"""Ctrl-C ends the program within seconds, whatever is going on."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

PATIENCE = 5.0  # seconds between Ctrl-C and leaving whatever is going on


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """Ctrl-C ends the program within seconds, even where no exception can pass.

    Compiled code and compilers do not look for signals, Bytewax waits for its workers without doing so, and
    an exception in a finaliser is lost. A run's folder appears in one rename, so that leaving at any moment
    leaves nothing half-written.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as after `nohup`
        yield
        return
    hook = sys.unraisablehook
    timers: list[threading.Timer] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if timers:  # pressed again
            _leave()
        timers.append(threading.Timer(PATIENCE, _leave))
        timers[0].daemon = True
        timers[0].start()
        signal.default_int_handler(number, frame)

    def lost(what: "sys.UnraisableHookArgs") -> None:
        if what.exc_type is not KeyboardInterrupt:
            hook(what)
            return
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, handle)
    sys.unraisablehook = lost
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = hook
        for timer in timers:
            timer.cancel()


def _leave() -> None:
    os.write(2, b"utp: interrupted\n")
    os._exit(130)
