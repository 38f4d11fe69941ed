"""The compiler's cache: never stale, never needed, never piled up. And tables of rows."""

import ast
import importlib
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import pytest
from numba.core.errors import NumbaError

from operators import kernel as kernels
from operators.kernel import dtype_of, grown, grown_together, kernel, table
from schemas.frames import Floats

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "operators", "models", "risk", "broker")


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """These tests name folders as a run without bounds checks does."""
    monkeypatch.delenv("NUMBA_BOUNDSCHECK", raising=False)


@pytest.fixture
def tree(tmp_path):
    """A copy of the packages, to be edited."""
    root = tmp_path / "tree"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def edit(tree, path, old, new):
    text = (tree / path).read_text()
    assert text.count(old) == 1
    (tree / path).write_text(text.replace(old, new))


def run(tree, code, **environment):
    """What a script prints in a process of its own that imports the copy."""
    inherited = {k: v for k, v in os.environ.items() if k not in {"NUMBA_CACHE_DIR", "UTP_CACHE_DIR"}}
    # Python's own cache of bytecode would miss an edit of equal length within a second.
    known = inherited | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    known |= {name: str(value) for name, value in environment.items()}
    done = subprocess.run(
        [sys.executable, "-c", code], env=known, cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# a kernel, the file of something that it uses, an edit there, and its answer before and after
TREND = (
    "import numpy as np\nfrom operators.kernel import table\nfrom operators.regime import Row, advance\n"
    "regime = np.zeros(2, np.int8)\nadvance(1, 2, 1, table(Row, 1), np.zeros(2, np.int32), np.ones(2), regime)\n"
    "print(regime[1])"
)
BANDS = (
    "import numpy as np\nfrom operators.features import bands\n"
    "out = np.zeros(44)\nbands(np.array([4.0, 8.0] * 32), 64, 8.0, 6.0, out)\nprint(out[21])"
)
FLAW = "from operators.clean import flaw\nprint(int(flaw(10.0, 12.0, 9.0, 11.0, 100.0)))"
EDITS = {
    "an enum": (TREND, "schemas/events.py", "SIDEWAYS = 3", "SIDEWAYS = 5", "3", "5"),
    "a kernel": (BANDS, "operators/indicators.py", "return part / whole if",
                 "return 2.0 * part / whole if", "0.75", "1.5"),
    "a constant": (FLAW, "schemas/units.py", "MAX_PRICE_USD = 10_000_000.0", "MAX_PRICE_USD = 11.0", "0", "85"),
}  # fmt: skip
each_edit = pytest.mark.parametrize(("code", "path", "old", "new", "before", "after"), EDITS.values(), ids=EDITS)


@each_edit
def test_a_change_in_another_file_is_never_missed(tree, tmp_path, code, path, old, new, before, after):
    cache = tmp_path / "cache"
    assert run(tree, code, UTP_CACHE_DIR=cache) == before
    edit(tree, path, old, new)
    assert run(tree, code, UTP_CACHE_DIR=cache) == after
    assert len(list((cache / "kernels").iterdir())) == 2


def test_numba_alone_would_miss_it(tree, tmp_path):
    """Why the folder has the sources' name: one folder for both versions runs old code."""
    code, path, old, new, before, _ = EDITS["an enum"]
    assert run(tree, code, NUMBA_CACHE_DIR=tmp_path / "one") == before
    edit(tree, path, old, new)
    assert run(tree, code, NUMBA_CACHE_DIR=tmp_path / "one") == before


def test_sources_seen_before_are_not_compiled_again(tree, tmp_path):
    code, path, old, new, *_ = EDITS["an enum"]
    code += "\nprint(sum(advance.stats.cache_hits.values()), sum(advance.stats.cache_misses.values()))"
    answers = [run(tree, code, UTP_CACHE_DIR=tmp_path)]
    edit(tree, path, old, new)
    answers.append(run(tree, code, UTP_CACHE_DIR=tmp_path))
    edit(tree, path, new, old)
    answers.append(run(tree, code, UTP_CACHE_DIR=tmp_path))
    assert [answer.split() for answer in answers] == [["3", "0", "1"], ["5", "0", "1"], ["3", "1", "0"]]


@pytest.fixture
def nowhere(tmp_path):
    """A place where no folder can be made, whoever asks."""
    file = tmp_path / "file"
    file.write_text("in the way")
    return file / "cache"


def test_without_a_cache_folder_nothing_is_stale(tree, nowhere):
    """Then every process compiles for itself; numba must not fall back on a folder beside the sources."""
    code, path, old, new, before, after = EDITS["an enum"]
    assert run(tree, code, UTP_CACHE_DIR=nowhere) == before
    edit(tree, path, old, new)
    assert run(tree, code, UTP_CACHE_DIR=nowhere) == after


def test_without_any_place_to_write_kernels_still_run(tree, nowhere):
    """A read-only home and read-only sources, as in a locked-down container."""
    for package in PACKAGES:
        (tree / package / "__pycache__").write_text("in the way")
    code, *_, before, _ = EDITS["an enum"]
    assert run(tree, code, UTP_CACHE_DIR=nowhere, HOME=nowhere, XDG_CACHE_HOME=nowhere) == before


def test_old_folders_are_dropped(tmp_path, monkeypatch):
    monkeypatch.setenv("UTP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "source_hash", lambda: "current")
    for age in range(1, 8):
        folder = tmp_path / "kernels" / f"old_{age}"
        folder.mkdir(parents=True)
        (folder / "code.nbi").write_text("compiled")
        os.utime(folder, (1e9 - age, 1e9 - age))
    assert kernels._open_cache() == str(tmp_path / "kernels" / "current")
    kept = {path.name for path in (tmp_path / "kernels").iterdir()}
    assert kept == {"current", "old_1", "old_2", "old_3"}


def test_a_folder_in_use_is_young_again(tmp_path, monkeypatch):
    monkeypatch.setenv("UTP_CACHE_DIR", str(tmp_path))
    for name in ("a", "b", "a", "c", "d", "a", "e"):
        for path in (tmp_path / "kernels").glob("*"):
            os.utime(path, (path.stat().st_mtime - 100,) * 2)
        monkeypatch.setattr(kernels, "source_hash", lambda name=name: name)
        kernels._open_cache()
    assert {path.name for path in (tmp_path / "kernels").iterdir()} == {"a", "c", "d", "e"}


def test_where_the_cache_lives(monkeypatch):
    monkeypatch.setenv("UTP_CACHE_DIR", "/chosen")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/someone")
    assert kernels.cache_root() == Path("/chosen")
    monkeypatch.delenv("UTP_CACHE_DIR")
    assert kernels.cache_root() == Path("/xdg/utp")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert kernels.cache_root() == Path("/home/someone/.cache/utp")


def test_the_hash_follows_every_source_that_kernels_read(tree, monkeypatch):
    monkeypatch.setattr(kernels, "_ROOT", tree)
    seen = {kernels.source_hash()}
    for package in PACKAGES:
        (tree / package / "fresh.py").write_text("X = 1\n")
        seen.add(kernels.source_hash())
        (tree / package / "fresh.py").write_text("X = 2\n")
        seen.add(kernels.source_hash())
        (tree / package / "fresh.py").rename(tree / package / "renamed.py")
        seen.add(kernels.source_hash())
    assert len(seen) == 1 + 3 * len(PACKAGES)
    known = kernels.source_hash()
    (tree / "operators" / "notes.txt").write_text("no source")
    assert kernels.source_hash() == known


def test_no_kernel_stands_where_the_hash_does_not_look():
    found = []
    for path in ROOT.glob("*/**/*.py"):
        where = path.relative_to(ROOT)
        if where.parts[0] in {"tests", "docs"} or where.parts[0].startswith("."):
            continue
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {alias.name for node in imports if node.module == "operators.kernel" for alias in node.names}
        if "kernel" in names:
            found.append(where)
    assert len(found) > 10
    assert [where for where in found if where.parts[0] not in kernels._PACKAGES or len(where.parts) != 2] == []


# --- kernels and tables


@kernel
def quotient(a, b):
    return a / b


def test_division_by_zero_is_as_in_numpy():
    assert quotient(1.0, 0.0) == math.inf
    assert math.isnan(quotient(0.0, 0.0))


@kernel
def first_doubled(values):
    return (values + values)[0]


def test_a_kernel_has_no_memory_of_its_own():
    """No references are counted in it, so whatever it made would never be given back."""
    with pytest.raises(NumbaError, match="NRT required but not enabled"):
        first_doubled(np.ones(3))


class Row(Protocol):
    """Something to remember."""

    seen: int
    price: float
    over: bool
    ring: Annotated[Floats, 4]


@kernel
def remember(row, value):
    row.seen += 1
    row.price = value
    row.over = value > 2.0
    row.ring[row.seen & 3] = value


def test_a_table_has_the_fields_of_its_row():
    rows = table(Row, 3)
    assert rows.dtype.names == ("seen", "price", "over", "ring")
    assert [rows.dtype[name].base for name in ("seen", "price", "ring")] == [np.int64, np.float64, np.float64]
    assert (rows.size, rows["ring"].shape, rows.dtype.isalignedstruct) == (3, (3, 4), True)
    assert not any(rows[name].any() for name in rows.dtype.names)
    assert table(Row, 0).size == 0


def test_kernels_and_python_see_the_same_row():
    rows = table(Row, 2)
    remember(rows[1], 2.5)
    assert (rows[1].seen, rows[1].price, rows[1].over, rows[1].ring.tolist()) == (1, 2.5, True, [0, 2.5, 0, 0])
    assert rows[0].seen == 0
    assert not rows[0].ring.any()


@pytest.mark.parametrize("size", [0, 2, 3, 5])
def test_growing_is_always_a_copy(size):
    rows = table(Row, 3)
    remember(rows[1], 2.5)
    before = rows.tolist()
    more = grown(rows, size)
    assert more.size == max(size, 3)
    assert more.dtype == rows.dtype
    assert repr(more[:3].tolist()) == repr(before)
    assert not any(more[name][3:].any() for name in more.dtype.names)
    assert not np.shares_memory(more, rows)
    remember(more[1], 9.0)
    assert more[1].seen == 2  # still readable by attribute
    assert repr(rows.tolist()) == repr(before)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_equal_rows_have_equal_bytes(size):
    """Snapshots of states are hashed: what lay in memory before must not show between the fields."""
    rows = table(Row, 3)
    remember(rows[1], 2.5)
    copies = []
    for rubbish in (0, 255):
        np.full((8, max(size, 3) * rows.itemsize), rubbish, np.uint8)
        one = np.full(max(size, 3) * rows.itemsize, rubbish, np.uint8)
        del one  # the next array of this size lies here
        copies.append(grown(rows, size).tobytes())
    assert copies[0] == copies[1]


@pytest.mark.parametrize("sizes", [(3, 3), (3, 0), (5, 3)])
def test_tables_that_are_copied_together_stay_apart(sizes):
    tables = [table(Row, size) for size in sizes]
    remember(tables[0][1], 2.5)
    for wanted in (2, 2, 4, 4, 9):  # at once where the last call has put them together and they are large enough
        before = [rows.tobytes() for rows in tables]
        more = grown_together(tables, wanted)
        for old, new, bytes_ in zip(tables, more, before, strict=True):
            assert new.size == max(old.size, wanted)
            assert new.dtype == old.dtype
            assert new.tobytes() == bytes_ + bytes((new.size - old.size) * old.itemsize)
            assert new.flags.aligned
            assert new.flags.writeable
            assert not np.shares_memory(new, old)
            remember(new[0], 9.0)
            assert old.tobytes() == bytes_
        assert not np.shares_memory(*more)
        tables = more


def test_tables_of_which_one_was_replaced_are_copied_as_they_are():
    one, two = grown_together([table(Row, 2), table(Row, 2)], 2)
    other = table(Row, 2)
    remember(other[1], 4.0)
    assert [rows.tobytes() for rows in grown_together([one, other], 2)] == [one.tobytes(), other.tobytes()]
    assert [rows.tobytes() for rows in grown_together([two], 2)] == [two.tobytes()]


def test_rings_hold_a_power_of_two():
    """`ago` and `put` find a place by a mask."""
    rings = []
    for path in sorted((ROOT / "operators").glob("*.py")) + sorted((ROOT / "risk").glob("*.py")):
        module = importlib.import_module(f"{path.parent.name}.{path.stem}")
        for name, row in vars(module).items():
            if name.endswith("Row") and isinstance(row, type) and row.__module__ == module.__name__:
                dtype = dtype_of(row)
                rings += [(name, field, dtype[field].shape[0]) for field in dtype.names if dtype[field].shape]
    assert ("PriceRow", "closes", 64) in rings
    assert [ring for ring in rings if ring[2] & (ring[2] - 1)] == []


def test_bounds_are_checked_when_asked_for_though_unchecked_code_is_cached(tmp_path):
    script = tmp_path / "pick.py"
    script.write_text(
        "import sys\nimport numpy as np\nfrom operators.kernel import kernel\n\n\n"
        "@kernel\ndef pick(values, i):\n    return values[i]\n\n\n"
        "print(pick(np.arange(3.0), int(sys.argv[1])))\n"
    )
    environ = {**os.environ, "UTP_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    environ.pop("NUMBA_CACHE_DIR", None)
    environ.pop("NUMBA_BOUNDSCHECK", None)
    command = [sys.executable, str(script)]
    plain = subprocess.run([*command, "2"], env=environ, capture_output=True, text=True, check=True)
    assert plain.stdout == "2.0\n"
    checked = subprocess.run([*command, "3"], env={**environ, "NUMBA_BOUNDSCHECK": "1"}, capture_output=True, text=True)
    assert "IndexError" in checked.stderr
