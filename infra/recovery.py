"""Bytewax's recovery store: does it belong to this flow? Step ids are its keys, and it ignores those it does not know.

So a renamed step would silently begin anew, Kafka offsets included. Whoever starts a flow on a store asks first.
"""

import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import UserError

if TYPE_CHECKING:
    from bytewax.dataflow import Dataflow

ACCEPT = "UTP_ACCEPT_STATE_LOSS"
_KEPT = ("input", "stateful_batch", "output")  # operators that have state


def step_ids(flow: "Dataflow") -> set[str]:
    """The steps of a flow that have state."""
    from bytewax.visualize import to_rendered

    found: set[str] = set()
    ahead: list[Any] = list(to_rendered(flow).substeps)
    while ahead:
        step = ahead.pop()
        ahead += step.substeps
        if not step.substeps and step.op_type in _KEPT:
            found.add(step.step_id)
    return found


def stored_step_ids(folder: Path) -> set[str]:
    """The steps that have a snapshot in a recovery store."""
    return {name for (name,) in stored(folder, "SELECT DISTINCT step_id FROM snaps")}


def _keyed_by_number(folder: Path) -> set[str]:
    """Those whose keys are two digits: parts of a bar file's source and states by shard, in the versions before."""
    question = "SELECT DISTINCT step_id FROM snaps WHERE state_key GLOB '[0-9][0-9]'"
    return {name for (name,) in stored(folder, question)}


def stored(folder: Path, question: str) -> Iterator[tuple[Any, ...]]:
    """What all parts of a recovery store answer to a question about their snapshots; a part may have none yet."""
    for part in sorted(folder.glob("part-*.sqlite3")):
        with closing(sqlite3.connect(f"file:{part}?mode=ro", uri=True)) as store:
            if store.execute("SELECT 1 FROM sqlite_master WHERE name = 'snaps'").fetchone():
                yield from store.execute(question)


def check_store(flow: "Dataflow", folder: Path | None, accept_loss: bool = False) -> None:
    """Raise UserError where the store holds state that this flow would leave behind."""
    if folder is None or not folder.is_dir():
        return
    lost = sorted(stored_step_ids(folder) - step_ids(flow))
    if lost and not accept_loss:
        raise UserError(
            f"{folder}: holds state of {', '.join(lost)}, which is no step of {flow.flow_id}: it would be lost. "
            f"Run the version that wrote it, name another store, or set {ACCEPT}=1 (infra.run: --accept-state-loss)"
        )
    renamed = sorted(_keyed_by_number(folder))
    if renamed and not accept_loss:
        raise UserError(
            f"{folder}: holds state of {', '.join(renamed)} under the shards' former names, which nothing reads: "
            f"begin a new store (what is in the log is known there), or set {ACCEPT}=1 (infra.run: --accept-state-loss)"
        )


def folder_of(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Path | None:
    """The recovery store that `python -m bytewax.run` was given, by `-r` or by the environment."""
    given = sys.argv if arguments is None else arguments
    for k, word in enumerate(given):
        if word in ("-r", "--recovery-directory") and k + 1 < len(given):
            return Path(given[k + 1])
        if word.startswith("--recovery-directory="):
            return Path(word.partition("=")[2])
    named = (os.environ if environ is None else environ).get("BYTEWAX_RECOVERY_DIRECTORY")
    return Path(named) if named else None


def accepts_loss(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the user said that state may be left behind."""
    return (os.environ if environ is None else environ).get(ACCEPT, "") == "1"
