"""The account as plain Python on plain Python objects: fast enough for a few thousand broken ones.

Import this before anything with a kernel. `@kernel` then gives back what it is given, and the loop over
slices gets lists and simple objects for arrays and records, five times as fast to read one by one.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

import operators.kernel

operators.kernel.kernel = lambda function: function

from risk import account  # noqa: E402  (with kernels that are plain)

loop = account.advance


class Column(list):
    """An array that is read and written one by one."""

    @property
    def size(self) -> int:
        return len(self)


class Rows:
    """A table of records; each becomes an object when it is first touched, and is written back at the end."""

    def __init__(self, table: Any) -> None:
        self.table, self.size, self.touched = table, table.size, {}

    def __getitem__(self, k: Any) -> Any:
        if isinstance(k, slice):
            return Column(self[one] for one in range(*k.indices(self.size)))
        if k not in self.touched:
            self.touched[k] = SimpleNamespace(**dict(zip(self.table.dtype.names, self.table[k].tolist(), strict=True)))
        return self.touched[k]

    def close(self) -> None:
        names = self.table.dtype.names
        for k, row in self.touched.items():
            values = [vars(row)[name] for name in names]
            try:
                self.table[k] = tuple(values)
            except OverflowError:
                self.table[k] = tuple(map(wrapped, values))


def wrapped(value: Any) -> Any:
    """What is left of a number in the 64 bits of a record."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return (value + 2**63) % 2**64 - 2**63
    return value


def advance(limits: Any, sheet: Any, market: Any, book: Any, tape: Any, room: Any, first: int) -> int:
    """The loop over slices, on lists and objects."""
    fast = market._replace(**{k: Column(v.tolist()) for k, v in market._asdict().items()})
    pages = [Rows(table) for table in tape[:-1]]
    funds, rows = Rows(book.funds), Rows(book.rows)
    written = Column(tape.written.tolist())
    own = type(sheet)(*(Column(a.tolist()) for a in sheet[:-1]), sheet.sectors)
    quick = book._replace(funds=funds, rows=rows)  # parts of the busy list are written by themselves
    done = loop(limits, own, fast, quick, type(tape)(*pages, written), room, first)
    for page in (*pages, funds, rows):
        page.close()
    tape.written[:] = np.array(written, tape.written.dtype)
    return done


account.advance = advance
account.EVENTS = 16  # tables that must be lengthened again and again
