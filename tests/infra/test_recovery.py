import sqlite3
import subprocess
import sys
from pathlib import Path

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSource

from dataflows import backtest, ingest, live
from infra.kafka import Cluster
from infra.recovery import check_store, folder_of, step_ids, stored_step_ids
from infra.settings import Settings, load
from schemas.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BACKTEST = {"backtest.bars", "backtest.decide", "backtest.trade_account", "backtest.trade_barrier", "backtest.results"}


def flow(tmp_path):
    job = backtest.plan("synthetic:symbols=3,days=1,seed=1", load(None), tmp_path / "run")
    return backtest.build(job)[0]


def test_the_steps_of_the_backtest_that_have_state_are_these_for_good(tmp_path):
    """A recovery store is keyed by them: to rename one is to lose its state."""
    assert step_ids(flow(tmp_path)) == BACKTEST


def test_so_are_those_of_the_live_flows():
    graph = Dataflow("live")
    live.signals(graph, Settings(), Cluster())
    live.trading(graph, Settings(), Cluster())
    topics = (
        "account_orders execution_blocked execution_completed exit_signals risk_approved risk_rejected signals_scored"
    )
    own = (
        "account account_log barrier command_letters commands decide heard intake letters log report_letters reports "
        "results slices taps told"
    )
    topics += " alpha_signals predictions_tft"
    assert step_ids(graph) == {f"live.{name}" for name in (topics + " " + own).split()}
    steps = ("arrivals", "feed", "late", "letters", "model_letters", "models", "raw", "raw_models", "slicer", "slices")
    graph = Dataflow("ingest")
    ingest.build(graph, Settings(), Cluster())
    assert step_ids(graph) == {f"ingest.{name}" for name in steps}


def test_so_are_those_of_the_taps():
    topics = ["alpha.signals", "market.engineered", "predictions.tft"]
    plain, tapped = Dataflow("live"), Dataflow("live")
    live.signals(plain, load(None, ["live.taps=[]"], {}), Cluster())
    live.signals(tapped, load(None, [f"live.taps={topics}"], {}), Cluster())
    added = {f"live.{name.replace('.', '_')}" for name in ("taps", *topics)}
    assert step_ids(tapped) - step_ids(plain) == added


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    run = [sys.executable, "-m", "bytewax.recovery", str(folder), "2"]
    subprocess.run(run, cwd=ROOT, check=True)
    call = f"dataflows.backtest:flow('synthetic:symbols=3,days=1,seed=1', out={str(tmp_path / 'run')!r})"
    subprocess.run(
        [sys.executable, "-m", "bytewax.run", call, "-r", str(folder), "-s", "0", "-b", "60"], cwd=ROOT, check=True
    )
    return folder


def test_a_store_of_this_flow_is_accepted_and_another_one_is_not(tmp_path, store):
    assert stored_step_ids(store) == BACKTEST
    check_store(flow(tmp_path), store)
    other = Dataflow("other")
    op.inspect("out", op.input("in", other, TestingSource([])))
    with pytest.raises(UserError, match=r"holds state of backtest\.bars, .* which is no step of other"):
        check_store(other, store)
    check_store(other, store, accept_loss=True)


def test_state_under_the_former_names_of_shards_is_not_left_behind_unsaid(tmp_path, store):
    """Nor a bar file's parts, of which there was one for each shard."""
    paths = sorted(store.glob("part-*.sqlite3"))
    for path in paths:
        with sqlite3.connect(path) as part:
            part.execute("UPDATE snaps SET state_key = substr(state_key, 1, 2) WHERE step_id = 'backtest.decide'")
            part.execute("UPDATE snaps SET state_key = '00' WHERE step_id = 'backtest.bars'")
        part.close()
    with pytest.raises(
        UserError, match=r"holds state of backtest\.bars, backtest\.decide under the shards' former names"
    ):
        check_store(flow(tmp_path), store)
    check_store(flow(tmp_path), store, accept_loss=True)


def test_a_new_or_empty_store_holds_nothing(tmp_path):
    check_store(flow(tmp_path), None)
    check_store(flow(tmp_path), tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    sqlite3.connect(tmp_path / "empty" / "part-0.sqlite3").close()
    assert stored_step_ids(tmp_path / "empty") == set()


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        (["run", "flow", "-r", "here"], {}, "here"),
        (["run", "--recovery-directory=here"], {"BYTEWAX_RECOVERY_DIRECTORY": "there"}, "here"),
        (["run"], {"BYTEWAX_RECOVERY_DIRECTORY": "there"}, "there"),
        (["run", "-r"], {}, None),
    ],
)
def test_finds_the_store_that_bytewax_was_given(arguments, environ, expected):
    assert folder_of(arguments, environ) == (Path(expected) if expected else None)
