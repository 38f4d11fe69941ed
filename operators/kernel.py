"""Compiled loops: the only module that imports numba.

Numba caches compiled code per file and does not notice a change in a callee, constant or enum of
another file. The cache folder is therefore named by a hash of every source file a kernel could
reach: change one and all kernels are compiled anew, keep them and no run ever compiles twice.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np

from schemas.frames import Table

F = TypeVar("F", bound=Callable[..., Any])

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("schemas", "operators", "models", "risk", "broker")
_KEPT = 4  # cache folders of recent versions, so that switching branches stays cheap
_TYPES: dict[Any, str] = {int: "i8", float: "f8", bool: "?"}


def cache_root() -> Path:
    """Where compiled kernels and sorted copies of bar files live; `UTP_CACHE_DIR` moves it."""
    chosen = os.environ.get("UTP_CACHE_DIR")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "utp"


def source_hash() -> str:
    """Hash of the source of every package that holds kernels or what kernels read."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).glob("*.py")):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _open_cache() -> str:
    """The folder of this version of the sources; the oldest others are dropped."""
    checked = "-checked" if os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0") else ""
    folder = cache_root() / "kernels" / (source_hash() + checked)  # numba would mix the two
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        os.utime(folder)
        others = sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in others[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError:  # a read-only home: kernels are then compiled in each process
        return ""
    return str(folder)


if "NUMBA_CACHE_DIR" not in os.environ and (_folder := _open_cache()):
    os.environ["NUMBA_CACHE_DIR"] = _folder
_CACHED = "NUMBA_CACHE_DIR" in os.environ  # else numba would cache beside the sources, where it misses edits

from llvmlite import ir  # noqa: E402
from numba import njit, types  # noqa: E402  (numba reads the variable when it is imported)
from numba.core import cgutils  # noqa: E402
from numba.extending import intrinsic, overload  # noqa: E402

_OPTIONS: dict[str, Any] = {
    "cache": _CACHED,
    "nogil": True,
    "error_model": "numpy",
    "forceinline": True,
    "_nrt": False,  # no memory, so no references to count
}


def kernel(function: F) -> F:
    """Compile a function without the GIL, keeping IEEE order: the same bits as plain Python.

    Callees are inlined, and no references to arrays are counted: in a loop over rows that costs more than the work, and
    whoever calls holds the arrays anyway. So a kernel has no memory of its own; what it needs beside its arguments, its
    caller lends it, and Numba refuses to compile one that makes an array. An index out of range is not caught (run the
    tests with `NUMBA_BOUNDSCHECK=1`) and a division by zero gives inf or nan, as numpy does.
    """
    return cast(F, njit(**_OPTIONS)(function))


@cache
def dtype_of(row: type) -> np.dtype[Any]:
    """The record dtype of a Row protocol; `Annotated[Floats, n]` is a ring of n values."""
    fields: list[tuple[Any, ...]] = []
    for name, hint in get_type_hints(row, include_extras=True).items():
        if get_origin(hint) is not None and len(get_args(hint)) == 2 and isinstance(get_args(hint)[1], int):
            fields.append((name, "f8", (get_args(hint)[1],)))
        else:
            fields.append((name, _TYPES[hint]))
    return np.dtype((np.record, np.dtype(fields, align=True)))


def table(row: type, rows: int) -> Table:
    """Zeroed rows with the fields of a Row protocol; a row is readable by attribute in Python and in kernels.

    No recarray, which would give columns by attribute, too: to hand one to a kernel takes eight times as long.
    """
    return np.zeros(rows, dtype_of(row))


def grown(rows: Table, size: int) -> Table:
    """A copy with at least `size` rows; new ones are zero. Steps call it before they write.

    Byte for byte, what lies between the fields too, which is zero as `table` made it: snapshots are hashed.
    """
    return grown_together((rows,), size)[0]


def grown_together(tables: Sequence[Table], size: int) -> list[Table]:
    """The same of several tables, in one piece of memory: what one call has put together the next one copies at once.

    Whoever calls names the same tables in the same order each time.
    """
    memory: Any = tables[0].base
    together = type(memory) is bytearray and all(rows.base is memory and rows.size >= size for rows in tables)
    if together and sum([rows.nbytes for rows in tables]) == len(memory):
        copy, sizes = bytearray(memory), [rows.size for rows in tables]
    else:
        copy, sizes = bytearray(), [max(rows.size, size) for rows in tables]
        for rows, wanted in zip(tables, sizes, strict=True):
            copy += rows.tobytes()
            copy.extend(bytes((wanted - rows.size) * rows.itemsize))
    found, at = [], 0
    for rows, wanted in zip(tables, sizes, strict=True):
        found.append(np.ndarray(wanted, rows.dtype, copy, at))
        at += wanted * rows.itemsize
    return found


def ahead(column: Any, i: int) -> None:
    """In a kernel: have a value brought near that is read soon; none is read now, so `i` may lie behind the end."""


def _fetch(typing: Any, column: Any, i: Any) -> Any:
    """The machine's instruction for it, as Numba wants it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        place = builder.bitcast(builder.gep(array.data, [args[1]]), cgutils.voidptr_t)
        number, to_read, near, data = cgutils.int32_t, 0, 2, 1
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
        builder.call(prefetch, [place, number(to_read), number(near), number(data)])
        return context.get_dummy_value()

    return types.void(column, types.intp), generate


_fetched: Any = intrinsic(_fetch)


@overload(ahead, strict=False, inline="always")
def _ahead(column: Any, i: Any) -> Any:
    """What a kernel makes of it."""
    return lambda column, i: _fetched(column, i)
