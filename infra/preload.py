"""What steps would import when they first need it, imported by the thread that starts their workers.

Where two threads import parts of a package at once and each waits for the other, Python gives one of them half a
module rather than let both wait for ever: a flow of two workers ended so at its first record, once in some hundred
starts. (Numba imports with a lock of its own.)
"""


def load_all() -> None:
    """Avro and the report: a tenth of a second that the first records and the first close would take otherwise."""
    import cmath  # noqa: F401

    import fastavro.schema  # noqa: F401
    import numpy.ma  # noqa: F401  (for `np.unique`)

    import risk.report  # noqa: F401
