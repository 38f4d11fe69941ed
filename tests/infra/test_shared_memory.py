"""Memory between processes: what one lends the other sees, and nothing is used again while somebody looks at it."""

import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import shared_memory
from infra.shared_memory import LOANS, NO_FILE, Lender, Use, borrow

ROOT = Path(__file__).resolve().parents[2]


def lend(lender, array):
    """A loan of the piece that an array lies in."""
    loan, begin = lender.lend(array.ctypes.data)
    assert begin <= array.ctypes.data
    return loan


def test_an_address_outside_is_in_no_piece():
    lender = Lender()
    room = lender.room(10)
    piece = next(iter(lender._pieces.values()))
    assert lender.lend(room.ctypes.data - LOANS - 1) is None
    assert lender.lend(piece.address - 1) is None
    assert lender.lend(piece.address + piece.size - 1) is not None
    assert lender.lend(piece.address + piece.size) is None


def test_it_is_used_again_when_nobody_looks_at_it():
    lender = Lender()
    room = lender.room(1 << 20)
    loan = lend(lender, room)
    assert not lender.is_taken(loan)
    del room
    held = lender.held
    seen = borrow(loan)[5:10]  # a view holds it
    assert lender.is_taken(loan)
    assert not lender.is_over(Use(loan.begin, loan.use))
    other = lender.room(1 << 20)
    assert lender.held == 2 * held
    del seen
    assert lender.is_over(Use(loan.begin, loan.use))
    again = lender.room(1 << 20)
    assert lender.held == 2 * held
    assert other.ctypes.data != again.ctypes.data
    assert lender.is_taken(loan)  # and stays so, though the piece is lent anew
    assert not lender.is_taken(lend(lender, again))
    assert lender.is_over(Use(loan.begin, loan.use))


def test_memory_of_this_process_alone_is_used_again_and_never_lent():
    lender = Lender(shares=False)
    room = lender.room(4 << 20)
    room[:] = 7
    use, address = lender.use_of(room[100:]), room.ctypes.data
    assert use is not None
    assert lender.lend(address) is None
    assert not lender.is_over(use)
    assert lender.room(4 << 20).ctypes.data != address
    view = room[1_000:]
    del room
    assert not lender.is_over(use)
    del view
    assert lender.is_over(use)
    again = [lender.room(4 << 20), lender.room(4 << 20)]
    assert address in {one.ctypes.data for one in again}
    assert lender._file == NO_FILE


def test_pieces_that_were_prepared_are_used_and_what_is_written_meanwhile_stays():
    lender = Lender()
    lender.prepare(8 << 20, 3)
    held, rooms = lender.held, []
    for k in range(3):
        rooms.append(lender.room(7 << 20))  # while the system still finds the pages of some
        rooms[-1][:] = k
    for thread in threading.enumerate():
        if thread.name == "memory":
            thread.join(10)
    assert [set(np.unique(room)) for room in rooms] == [{0}, {1}, {2}]
    assert lender.held == held
    assert all(lender.lend(room.ctypes.data) is not None for room in rooms)


def test_where_there_is_no_such_memory_nothing_is_prepared(monkeypatch):
    monkeypatch.delattr(shared_memory.os, "memfd_create")
    lender = Lender()
    lender.prepare(1 << 20, 2)
    assert not lender.held
    room = lender.room(100)
    assert lender.lend(room.ctypes.data) is None


def test_a_large_piece_is_not_spent_on_a_little():
    lender = Lender()
    lender.room(8 << 20)
    held = lender.held
    some = lender.room(1_000)
    assert lender.held > held
    fourth = lender.room(2 << 20)
    assert lender.held < held + (1 << 20)
    del some, fourth


def test_loans_of_one_piece_are_one_array():
    lender = Lender()
    room = lender.room(100)
    loans = [lend(lender, room) for _ in range(3)]
    one, two = borrow(loans[0]), borrow(loans[1])
    assert one is two
    del one, two, room
    assert not any(lender.is_over(Use(loan.begin, loan.use)) for loan in loans)  # one of them is still under way
    borrow(loans[2])
    assert all(lender.is_over(Use(loan.begin, loan.use)) for loan in loans)


def test_a_piece_is_in_use_while_its_owner_looks_at_it():
    lender = Lender()
    room = lender.room(100)
    loan = lend(lender, room)
    assert lender.use_of(room) == Use(loan.begin, loan.use)
    borrow(loan)
    assert not lender.is_over(Use(loan.begin, loan.use))
    del room
    assert lender.is_over(Use(loan.begin, loan.use))


def test_a_piece_that_was_lent_too_often_is_lent_no_more():
    lender = Lender()
    room = lender.room(100)
    assert all(lender.lend(room.ctypes.data) for _ in range(LOANS))
    assert lender.lend(room.ctypes.data) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["room", "drop", "lend", "borrow", "return"]), st.integers(0, 7)),
                max_size=60))  # fmt: skip
def test_nobody_ever_sees_memory_change(steps):
    """Every piece of memory, ours and borrowed, is stamped when it is taken and still has its stamp at each step."""
    lender, own, loans, seen, stamp = Lender(), {}, {}, {}, 0
    for what, k in steps:
        if what == "room":
            stamp += 1
            own[k] = (lender.room(64 << (k % 3)), stamp % 251)
            own[k][0][:] = stamp % 251
        elif what == "drop":
            own.pop(k, None)
        elif what == "lend" and k in own:
            loans.setdefault(k, []).append((lend(lender, own[k][0]), own[k][0].size, own[k][1]))
        elif what == "borrow" and loans.get(k):
            loan, size, mark = loans[k].pop()
            seen[k] = (borrow(loan)[:size], mark)
        elif what == "return":
            seen.pop(k, None)
        for memory, mark in (*own.values(), *seen.values()):
            assert (memory == mark).all()


OTHER = """
import pickle, sys
import numpy as np
from infra.shared_memory import borrow
loan = pickle.loads(bytes.fromhex(sys.stdin.readline()))
seen = borrow(loan)
print(int(seen[:1000].view(np.int32).sum()), flush=True)
sys.stdin.readline()
print(int(seen[:1000].view(np.int32).sum()), flush=True)
del seen
print("gone", flush=True)
sys.stdin.readline()
"""


def other():
    return subprocess.Popen(
        [sys.executable, "-c", OTHER], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def tell(process, text):
    process.stdin.write(text + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_another_process_sees_it_and_gives_it_back():
    lender = Lender()
    room = lender.room(1000)
    room.view(np.int32)[:] = np.arange(250)
    loan = lend(lender, room)
    address = room.ctypes.data
    del room
    with other() as process:
        assert tell(process, pickle.dumps(loan).hex()) == "31125"
        assert not lender.is_over(Use(loan.begin, loan.use))
        assert lender.room(1000).ctypes.data != address
        assert tell(process, "") == "31125"
        assert process.stdout.readline() == "gone\n"
        assert lender.is_over(Use(loan.begin, loan.use))
        assert address in {lender.room(1000).ctypes.data for _ in range(2)}
        process.kill()


LENDER = """
import pickle, sys
import numpy as np
from infra.shared_memory import Lender
lender = Lender()
room = lender.room(1000)
room.view(np.int32)[:] = np.arange(250)
print(pickle.dumps(lender.lend(room.ctypes.data)[0]).hex(), flush=True)
sys.stdin.readline()
"""


def test_what_is_seen_outlives_its_lender_and_nothing_is_left_behind():
    shown = Path("/dev/shm")  # noqa: S108
    before = set(shown.iterdir())
    with subprocess.Popen(
        [sys.executable, "-c", LENDER], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        loan = pickle.loads(bytes.fromhex(process.stdout.readline()))
        seen = borrow(loan)
        process.kill()
    assert seen[:1000].view(np.int32).sum() == 31125
    assert set(shown.iterdir()) == before


def test_a_lender_that_cannot_be_seen_is_named():
    lender = Lender()
    loan = lend(lender, lender.room(10))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    far = loan._replace(process=gone.pid, token=b"elsewhere")
    with pytest.raises(RuntimeError, match="all processes of a run work on one host, as one user"):
        borrow(far)
    assert b"elsewhere" not in shared_memory._BORROWED.files


def test_without_such_memory_it_is_the_processs_own(monkeypatch):
    lender = Lender()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared_memory.os, "ftruncate", full)
    room = lender.room(1000)
    room[:] = 7
    assert (lender.use_of(room), lender.lend(room.ctypes.data), lender.held) == (None, None, 0)
    monkeypatch.undo()
    assert lender.use_of(lender.room(1000)) is not None
