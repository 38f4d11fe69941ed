"""Which model is in force: one SQLite table is the truth, MLflow shows it.

A model is a `candidate`, `green` (the champion, at most one) or `deprecated`; every change of green is one
transaction and one row of the history, which a backtest reads to use the model of the day. Only
`mirror` and `record` import MLflow.
"""

import logging
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from models.bundle import Manifest, Refusal, read
from schemas.errors import UserError

State = Literal["candidate", "green", "deprecated"]
NAME = "tft-quantile"  # of the registered model in MLflow
_SCHEMA = """
CREATE TABLE IF NOT EXISTS models_registry (
    model_id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,               -- in the order in which they came
    status TEXT NOT NULL CHECK (status IN ('candidate', 'green', 'deprecated')),
    created_at TEXT NOT NULL,
    promoted_at TEXT,
    deprecated_at TEXT,
    replaced TEXT REFERENCES models_registry,     -- what was green when this was promoted
    run TEXT NOT NULL,                            -- the run in MLflow, or nothing
    data TEXT NOT NULL,                           -- fingerprint of the bars
    params TEXT NOT NULL                          -- the settings of the training
);
CREATE UNIQUE INDEX IF NOT EXISTS one_green ON models_registry (status) WHERE status = 'green';
CREATE TABLE IF NOT EXISTS history (
    number INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('promote', 'rollback')),
    model_id TEXT REFERENCES models_registry,     -- green from then on
    before TEXT REFERENCES models_registry
);
"""


class Entry(NamedTuple):
    """A model and what became of it."""

    id: str
    number: int
    state: State
    created_at: str  # ISO, UTC
    promoted_at: str | None
    deprecated_at: str | None
    replaced: str | None
    run: str
    path: Path
    manifest: Manifest | Refusal  # what its bundle says now


class Run(NamedTuple):
    """What MLflow is told of a training; numbers that are none are left out."""

    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    folds: Sequence[Mapping[str, float]]  # metrics, one by one


class Change(NamedTuple):
    """The green model from this instant on."""

    at: str
    action: str
    id: str
    before: str | None


class Registry:
    """The models of one store: a folder with `registry.db`, `bundles/`, `reports/` and MLflow's files."""

    def __init__(self, store: Path):
        self.store = store
        self.bundles = store / "bundles"

    def add(self, model: str, at: str, run: str, data: str, params: str) -> bool:
        """Enter a published bundle as candidate; False where it is known already."""
        self.store.mkdir(parents=True, exist_ok=True)
        with self._transaction(create=True) as db:
            known = db.execute("SELECT 1 FROM models_registry WHERE model_id = ?", (model,)).fetchone()
            if known:
                return False
            db.execute(
                "INSERT INTO models_registry (model_id, number, status, created_at, run, data, params)"
                " SELECT ?, coalesce(max(number), 0) + 1, 'candidate', ?, ?, ?, ? FROM models_registry",
                (model, at, run, data, params),
            )
        return True

    def models(self) -> list[Entry]:
        """All of them, the latest first."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT model_id, number, status, created_at, promoted_at, deprecated_at, replaced, run"
                " FROM models_registry ORDER BY number DESC"
            ).fetchall()
        return [Entry._make((*row, self.bundles / row[0], read(self.bundles / row[0]))) for row in rows]

    def champion(self) -> Entry | None:
        """The green one."""
        return next((entry for entry in self.models() if entry.state == "green"), None)

    def challenger(self) -> Entry | None:
        """The latest candidate that may be promoted."""
        for entry in self.models():
            if entry.state == "candidate" and isinstance(entry.manifest, Manifest) and entry.manifest.promotable:
                return entry
        return None

    def history(self) -> list[Change]:
        """Every change of the green model, the first one first."""
        with self._transaction() as db:
            rows = db.execute("SELECT at, action, model_id, before FROM history ORDER BY number").fetchall()
        return [Change(*row) for row in rows]

    def trials(self, data: str, params: str) -> int:
        """How many configurations were tried on these bars, this one included."""
        if not (self.store / "registry.db").exists():
            return 1
        with self._transaction() as db:
            rows = db.execute("SELECT DISTINCT params FROM models_registry WHERE data = ?", (data,)).fetchall()
        return len({params, *(row[0] for row in rows)})

    def promote(self, model: str, at: str) -> Change:
        """Make a candidate green and the green one deprecated, in one step. Raises UserError, one line."""
        from models.engine import opened

        entry = self._entry(model)
        if entry.state == "green":
            raise UserError(f"{model} is the champion already")
        if entry.state == "deprecated":
            raise UserError(f"{model} is deprecated; to go back to the champion before: utp models rollback")
        engine = opened(entry.path)
        if isinstance(engine, Refusal):
            raise UserError(f"{model} cannot be promoted: {engine}")
        if not engine.manifest.promotable:
            raise UserError(f"{model} did not pass the gates: {'; '.join(engine.manifest.reasons)}")
        with self._transaction() as db:
            before = self._retire(db, at)
            db.execute(
                "UPDATE models_registry SET status = 'green', promoted_at = ?, deprecated_at = NULL, replaced = ?"
                " WHERE model_id = ?",
                (at, before, model),
            )
            return self._note(db, at, "promote", model, before)

    def rollback(self, at: str) -> Change:
        """Make the champion before the present one green again. Raises UserError where there is none."""
        from models.engine import opened

        green = self.champion()
        if green is None:
            raise UserError("there is no champion to roll back")
        if green.replaced is None:
            raise UserError(f"{green.id} is the first champion: there is none before it")
        engine = opened(self.bundles / green.replaced)
        if isinstance(engine, Refusal):
            raise UserError(f"{green.replaced} cannot be green again: {engine}")
        with self._transaction() as db:
            before = self._retire(db, at)
            db.execute(
                "UPDATE models_registry SET status = 'green', promoted_at = ?, deprecated_at = NULL WHERE model_id = ?",
                (at, green.replaced),
            )
            return self._note(db, at, "rollback", green.replaced, before)

    def knows(self, model: str) -> bool:
        """Whether it was entered."""
        if not (self.store / "registry.db").exists():
            return False
        return any(entry.id == model for entry in self.models())

    def is_green(self, model: str) -> bool:
        """Whether it is the champion."""
        green = self.champion()
        return green is not None and green.id == model

    def _entry(self, model: str) -> Entry:
        found = {entry.id: entry for entry in self.models()}
        matching = [name for name in found if name.startswith(model)] if model not in found else [model]
        if len(matching) != 1:
            there = ", ".join(found) or "none"
            raise UserError(f"{'several models begin with' if matching else 'no model'} {model}; there is {there}")
        return found[matching[0]]

    def full_id(self, model: str) -> str:
        """The id that begins with this; exactly one must."""
        return self._entry(model).id

    @staticmethod
    def _retire(db: sqlite3.Connection, at: str) -> str | None:
        row = db.execute("SELECT model_id FROM models_registry WHERE status = 'green'").fetchone()
        db.execute("UPDATE models_registry SET status = 'deprecated', deprecated_at = ? WHERE status = 'green'", (at,))
        return None if row is None else str(row[0])

    @staticmethod
    def _note(db: sqlite3.Connection, at: str, action: str, model: str, before: str | None) -> Change:
        db.execute(
            "INSERT INTO history (at, action, model_id, before) VALUES (?, ?, ?, ?)", (at, action, model, before)
        )
        return Change(at, action, model, before)

    @contextmanager
    def _transaction(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """All of it or nothing; writers wait for each other."""
        path = self.store / "registry.db"
        if not create and not path.exists():
            raise UserError(f"{self.store}: no models here; utp train BARS --out {self.store} makes one")
        with closing(sqlite3.connect(path, timeout=30.0, isolation_level=None)) as db:
            if create:
                db.executescript(_SCHEMA)
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


# MLflow: what was tried, and the same states for those who look there.


def record(store: Path, tracking: str, model: str, told: Run, bundle: Path, report: Path) -> str:
    """A parent run with one run per fold, the bundle as artifact and a version of the model; the run's id."""
    client, mlflow = _mlflow(store, tracking)
    mlflow.set_experiment(NAME)
    with mlflow.start_run(run_name=f"walk_forward_{model}", tags=_short(told.tags)) as parent:
        mlflow.log_params(_short(told.params))
        mlflow.log_metrics(_finite(told.metrics))
        for number, fold in enumerate(told.folds, 1):
            with mlflow.start_run(run_name=f"fold_{number}", nested=True):
                mlflow.log_metrics(_finite(fold))
        mlflow.log_artifacts(str(bundle), "bundle")
        mlflow.log_artifact(str(report))
        run: str = parent.info.run_id
        source = mlflow.get_artifact_uri("bundle")
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME)
    client.create_model_version(NAME, source, run, tags={"model_id": model})
    return run


def mirror(registry: Registry, tracking: str) -> None:
    """Give MLflow's versions the states of the table, and the aliases champion and challenger; may be repeated."""
    client, _ = _mlflow(registry.store, tracking)
    versions = {
        version.tags.get("model_id"): version.version for version in client.search_model_versions(f"name = '{NAME}'")
    }
    for entry in registry.models():
        if entry.id in versions:
            client.set_model_version_tag(NAME, versions[entry.id], "status", entry.state)
    for alias, who in (("champion", registry.champion()), ("challenger", registry.challenger())):
        if who is not None and who.id in versions:
            client.set_registered_model_alias(NAME, alias, versions[who.id])
        elif versions:
            client.delete_registered_model_alias(NAME, alias)


def _short(values: Mapping[str, str]) -> dict[str, str]:
    """As much of each as MLflow takes."""
    return {key: value[:500] for key, value in values.items()}


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if abs(value) < float("inf")}


def _mlflow(store: Path, tracking: str) -> tuple[Any, Any]:
    """A client and the module, both at the store's SQLite file unless an address is given."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, on import
        import mlflow
        from mlflow import MlflowClient
    for name in ("mlflow", "alembic"):  # they tell of every table
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = tracking or f"sqlite:///{(store / 'mlflow.db').resolve()}"
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    if client.get_experiment_by_name(NAME) is None:
        place = {} if tracking else {"artifact_location": (store / "artifacts").resolve().as_uri()}
        client.create_experiment(NAME, **place)
    return client, mlflow
