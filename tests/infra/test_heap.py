import subprocess
import sys

import pytest

MALLOC = """
import ctypes, re, sys, threading
from pathlib import Path
from infra.heap import share_heap

if sys.argv[1] == "shared":
    share_heap()
malloc = ctypes.CDLL(None).malloc
malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
found = []
thread = threading.Thread(target=lambda: found.append(malloc(10_000)))
thread.start()
thread.join()
first, last = re.search(r"(\\w+)-(\\w+) .*\\[heap\\]", Path("/proc/self/maps").read_text()).groups()
print(int(first, 16) <= found[0] < int(last, 16))
"""


def told(code, *arguments, **environ):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heaps")
@pytest.mark.parametrize(("how", "one"), [("shared", "True"), ("not", "False")])
def test_a_thread_allocates_from_the_heap_of_the_process(how, one):
    assert told(MALLOC, how) == one


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heaps")
def test_whatever_a_flow_imports_leaves_one_heap():
    """Libraries start threads while they are imported: a heap that one of them got would be used in turn."""
    count = "import dataflows.backtest, dataflows.live, ctypes; ctypes.CDLL(None).malloc_stats()"
    run = subprocess.run([sys.executable, "-c", count], env={}, check=True, capture_output=True, text=True)
    assert run.stderr.count("Arena ") == 1


FREED = """
import ctypes, re, sys
from pathlib import Path
from infra.heap import keep_freed

def size():
    first, last = re.search(r"(\\w+)-(\\w+) .*\\[heap\\]", Path("/proc/self/maps").read_text()).groups()
    return int(last, 16) - int(first, 16)

if sys.argv[1] == "kept":
    keep_freed()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
before = size()
pieces = [library.malloc(100_000) for _ in range(200)]
for piece in reversed(pieces):
    library.free(piece)
print(size() - before > 15_000_000)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heaps")
@pytest.mark.parametrize(("how", "kept"), [("kept", "True"), ("not", "False")])
def test_what_is_freed_stays_for_who_wants_it_to(how, kept):
    assert told(FREED, how) == kept


@pytest.mark.parametrize("entry", ["dataflows.cli", "dataflows.backtest", "dataflows.bench_measures", "dataflows.live"])
def test_arrow_allocates_there_too_unless_the_environment_says_otherwise(entry):
    ask = f"import {entry}, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    assert told(ask) == "system"
    assert told(ask, ARROW_DEFAULT_MEMORY_POOL="mimalloc") == "mimalloc"


GIVEN = """
import ctypes
from pathlib import Path
from infra.heap import give_back, keep_freed

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

keep_freed()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
pieces = [library.malloc(100_000) for _ in range(201)]
for piece in pieces:
    ctypes.memset(piece, 1, 100_000)
for piece in pieces[:-1]:
    library.free(piece)
before = resident()
give_back()
print(before - resident() > 15_000_000)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heaps")
def test_what_is_kept_can_be_given_back_though_something_lies_behind_it():
    assert told(GIVEN) == "True"
