"""What a worker's thread keeps between two calls from Bytewax.

Bytewax's workers are threads that Python did not start. Whenever one takes the interpreter's lock it is given a
thread state, with memory for its frames, and loses both when it lets go: some 13 µs for each call of ours, more than
most of them take. A thread that holds on to its state once, which Python's C interface allows, is spared that.
"""

import ctypes
import threading

_KEPT = threading.local()


def keep_state() -> None:
    """Hold on to this thread's state until the process ends; doing it twice is harmless."""
    if not hasattr(_KEPT, "ensured"):
        _KEPT.ensured = ctypes.pythonapi.PyGILState_Ensure()  # never released: its users stay above 0
