"""One green model, whatever happens; every change recorded; and nothing of MLflow needed for it."""

import json
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows import cli
from models.bundle import GRAPH, Refusal
from models.registry import Registry
from schemas.errors import UserError
from tests.models import bundles


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "store")


def enter(registry, seed, **changes):
    """A bundle of its own, as candidate; its id."""
    path = bundles.make(registry.bundles, seed=seed, **{"data": f"bars {seed}", **changes})
    registry.add(path.name, f"2024-01-0{seed}T00:00:00Z", "", "bars", f"params {seed}")
    return path.name


def states(registry):
    return {entry.id: entry.state for entry in registry.models()}


def test_from_candidate_to_green_to_deprecated_and_back(registry):
    a, b = enter(registry, 1), enter(registry, 2)
    assert registry.challenger().id == b
    assert registry.champion() is None
    registry.promote(a, "t1")
    assert states(registry) == {a: "green", b: "candidate"}
    registry.promote(b, "t2")
    assert states(registry) == {a: "deprecated", b: "green"}
    assert registry.challenger() is None
    registry.rollback("t3")
    assert states(registry) == {a: "green", b: "deprecated"}
    assert [(change.at, change.action, change.id, change.before) for change in registry.history()] == [
        ("t1", "promote", a, None), ("t2", "promote", b, a), ("t3", "rollback", a, b),
    ]  # fmt: skip
    with pytest.raises(UserError, match="is the first champion"):
        registry.rollback("t4")
    with pytest.raises(UserError, match="rollback"):
        registry.promote(b, "t4")
    with pytest.raises(UserError, match="already"):
        registry.promote(a, "t4")


def test_what_did_not_pass_or_is_damaged_is_not_promoted(registry):
    good = enter(registry, 1)
    registry.promote(good, "t1")
    refused = enter(registry, 2, promotable=False, reasons=("fold 3: Sharpe -0.20 under 0",))
    with pytest.raises(UserError, match="fold 3: Sharpe"):
        registry.promote(refused, "t2")
    damaged = enter(registry, 3)
    (registry.bundles / damaged / GRAPH).write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be promoted.*hash"):
        registry.promote(damaged, "t2")
    with pytest.raises(UserError, match="no model nobody"):
        registry.promote("nobody", "t2")
    assert registry.champion().id == good
    assert len(registry.history()) == 1
    assert isinstance(next(e for e in registry.models() if e.id == damaged).manifest, Refusal)


def test_a_change_that_fails_halfway_changes_nothing(registry, monkeypatch):
    a, b = enter(registry, 1), enter(registry, 2)
    registry.promote(a, "t1")

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(Registry, "_note", staticmethod(fail))
    with pytest.raises(OSError, match="full"):
        registry.promote(b, "t2")
    with pytest.raises(OSError, match="full"):
        registry.promote(b, "t2")
    assert states(registry) == {a: "green", b: "candidate"}


@settings(max_examples=15)
@given(st.lists(st.integers(0, 3), max_size=12))
def test_there_is_never_more_than_one_champion(tmp_path_factory, moves):
    registry = Registry(tmp_path_factory.mktemp("store"))
    ids = [enter(registry, seed) for seed in (1, 2, 3)]
    for k, move in enumerate(moves):
        try:
            registry.rollback(f"t{k}") if move == 3 else registry.promote(ids[move], f"t{k}")
        except UserError:
            continue
        assert list(states(registry).values()).count("green") == 1
        assert registry.history()[-1].id == registry.champion().id
    with sqlite3.connect(registry.store / "registry.db") as db:
        if registry.champion() is not None:
            with pytest.raises(sqlite3.IntegrityError):
                db.execute("UPDATE models_registry SET status = 'green'")
    db.close()


def test_the_same_model_is_entered_once_and_configurations_are_counted(registry):
    a = enter(registry, 1)
    assert not registry.add(a, "t9", "", "bars", "params 1")
    assert registry.knows(a)
    assert not registry.knows("nobody")
    assert registry.trials("bars", "params 1") == 1
    assert registry.trials("bars", "params 2") == 2
    assert registry.trials("other bars", "params 1") == 1
    assert Registry(registry.store / "none").trials("bars", "params 1") == 1


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["models", *arguments])
    return stopped.value.code, *capsys.readouterr()


def test_the_commands(registry, capsys, monkeypatch):
    monkeypatch.setattr("dataflows.train.find_spec", lambda _: None)  # no MLflow
    store = ("--store", str(registry.store))
    code, _, error = run(capsys, *store)
    assert (code, error.count("\n")) == (2, 1)
    assert "no models here; utp train BARS" in error
    a = enter(registry, 1)
    refused = enter(registry, 2, promotable=False, reasons=("median sharpe 0.10 under 0.5",))
    code, out, _ = run(capsys, *store, "promote", a[:-2])
    assert code == 0
    assert f"{a} is the champion" in out
    assert "MLflow is not installed" in out
    code, out, _ = run(capsys, *store)
    assert code == 0
    assert "green (champion)" in out
    assert "median sharpe 0.10 under 0.5" in out
    code, out, _ = run(capsys, *store, "--json")
    found = json.loads(out)
    assert [(row["id"], row["alias"], row["promotable"]) for row in found["models"]] == [
        (refused, None, False), (a, "champion", True),
    ]  # fmt: skip
    assert [change["id"] for change in found["history"]] == [a]
    code, _, error = run(capsys, *store, "rollback")
    assert code == 2
    assert "first champion" in error


def test_training_without_its_libraries_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("dataflows.train.find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "synthetic:days=2", "--out", str(tmp_path / "store")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "torch not installed): make setup-train" in error
    assert not (tmp_path / "store").exists()
