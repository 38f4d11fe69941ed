"""docs/tutorial.md, followed word by word in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MEANT = {"utp": [sys.executable, "-m", "dataflows.cli"], "python": [sys.executable],
         "pytest": [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]}  # fmt: skip


def change(path, lines):
    """Replace each line with `-` by the one with `+` below it."""
    text = path.read_text()
    for old, new in zip(lines[::2], lines[1::2], strict=True):
        assert (old[0], new[0]) == ("-", "+")
        assert text.count(old[1:]) == 1, old
        text = text.replace(old[1:], new[1:])
    path.write_text(text)


def run(folder, command, environ):
    word, *rest = command.split()
    return subprocess.run([*MEANT[word], *rest], cwd=folder, env=environ, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def follow(folder, kind, about, text):
    """Do what one block says."""
    lines = text.splitlines()
    environ = os.environ | {"UTP_CACHE_DIR": str(folder.parent / "cache")}  # few versions of kernels are kept in one
    if kind == "diff":
        change(folder / about, lines)
    elif kind == "python" and about:
        (folder / about).write_text(text)
    elif kind == "python":
        subprocess.run([sys.executable, "-c", text], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    else:
        command = lines[0].removeprefix("$ ")
        # backtests uncompiled: kernels would be compiled anew for a change of one file, which takes a minute
        done = run(folder, command, environ | ({"NUMBA_DISABLE_JIT": "1"} if command.startswith("utp") else {}))
        assert (done.returncode != 0) == (about == "fails"), f"{command}\n{done.stdout}"
        told = [line.rstrip() for line in done.stdout.splitlines()]
        for line in lines[1:]:  # where there is room pytest adds why a test failed
            at = next((k for k, said in enumerate(told) if said.startswith(line)), None)
            assert at is not None, f"{command}: {line!r} is not in\n{done.stdout}"
            told = told[at + 1 :]


def test_the_tutorial_is_true(tmp_path):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    folder = tmp_path / "copy"
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    blocks = BLOCK.findall((folder / "docs" / "tutorial.md").read_text())
    assert len(blocks) > 10
    for kind, about, text in blocks:
        follow(folder, kind, about, text)
