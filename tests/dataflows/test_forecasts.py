"""A backtest with a model: one order log however it is run, whether its forecasts are made or read."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataflows import backtest
from dataflows.cli import main
from infra.settings import load
from operators import features
from tests.dataflows.test_one_order_log import ROOT, digest
from tests.models import bundles
from tests.test_layers import asked_for

SPEC = "synthetic:symbols=6,days=3,seed=11"
SETS = ["run.frame_slices=25", "rules.max_orders_per_minute=1000", "rules.cooldown_seconds=60",
        "ensemble.cost_multiple=0.1"]  # fmt: skip
ABOUT = {"feature_set": features.set_hash(features.Params(set="all")), "timeframe": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two bundles and a history: one from the start, the other in the second session, none in the third's afternoon."""
    folder = tmp_path_factory.mktemp("models") / "store"
    kept = bundles.Calibration(a=-4.0, b=2.0, fitted=True, kept=True)
    wide = ("returns_1", "returns_5", "rsi_14")
    one = bundles.make(folder, 12, wide, **ABOUT).name
    two = bundles.make(folder, 20, wide, seed=1, calibration=kept, **ABOUT).name
    lines = (("2023-12-01T00:00:00Z", one), ("2024-01-03T16:00:00Z", two), ("2024-01-04T18:00:00Z", "none"))
    (folder / "history.jsonl").write_text("\n".join(json.dumps({"from": ts, "model": id_}) for ts, id_ in lines))
    return folder


def run(store, out, kept, *sets, loop=False, workers=1, spec=SPEC):
    settings = load(None, [*SETS, f"forecast.store={store}", "forecast.model=champion", *sets])
    job = backtest.plan(spec, settings, out, forecasts=kept)
    return job, backtest.run(job, loop=loop, workers=workers)


@pytest.fixture(scope="module")
def expected(store, tmp_path_factory):
    """The run by a plain loop that makes its forecasts."""
    folder = tmp_path_factory.mktemp("runs")
    job, summary = run(store, folder / "loop", folder / "kept", loop=True)
    assert summary["counts"]["trades"] > 20
    assert job.forecaster.computed > 300
    return folder


def same(one, two, summary=False):
    assert digest(one, summary) == digest(two, summary)


def test_the_summary_says_who_forecast_and_why_the_others_had_none(expected, store):
    summary = json.loads((expected / "loop" / "summary.json").read_bytes())
    told = summary["forecasts"]
    one, two = told["models"]
    assert (one["lookback"], one["calibrated"]) == (12, False)
    assert (two["lookback"], two["calibrated"]) == (20, True)
    assert set(told["missing"]) == {"no_model", "not_warm", "stale"}
    assert told["rows"] + sum(told["missing"].values()) == summary["counts"]["bars"]
    assert told["made"] == json.loads((expected / "loop" / "timing.json").read_bytes())["forecasts"]["computed"]
    assert "forecast" not in summary["off"]
    assert summary["alphas"][-1] == "forecast"
    judged = told["judged"]
    assert [each["id"] for each in judged] == [one["id"], two["id"]]
    assert all(0 < own["forecasts"] < told["made"] for each in judged for own in each["horizons"])
    assert sum(each["horizons"][0]["forecasts"] for each in judged) > 0.7 * told["made"]
    signals = pq.read_table(expected / "loop" / "signals.parquet").to_pydict()
    assert set(signals["model"]) == {"", one["id"], two["id"]}
    there = np.array(signals["model"]) != ""
    assert (np.isfinite(signals["q50"]) == there).all()
    assert (np.array(signals["q10"])[there] < np.array(signals["q90"])[there]).all()
    assert ((np.array(signals["age"]) >= 0) == there).all()
    assert any("forecast+" in votes for votes in signals["votes"])


def test_a_verdict_says_where_no_calibrated_probability_stands_behind_it(expected, store):
    """The first model has no calibrator, the second has; rows without a forecast have nothing to calibrate."""
    one, two = json.loads((expected / "loop" / "summary.json").read_bytes())["forecasts"]["models"]
    signals = pq.read_table(expected / "loop" / "signals.parquet").to_pylist()
    model = {(row["ts"], row["symbol"]): row["model"] for row in signals}
    verdicts = pq.read_table(expected / "loop" / "verdicts.parquet").to_pylist()
    found = {(model[row["ts"], row["symbol"]], row["uncalibrated"]) for row in verdicts}
    assert {(one["id"], True), (two["id"], False)} <= found <= {(one["id"], True), (two["id"], False), ("", True)}
    assert any(row["approved"] for row in verdicts if row["uncalibrated"])  # it blocks nothing


def test_a_forecast_that_does_not_pay_is_no_entry(expected, store, tmp_path):
    """No model promises a half; rows without a forecast are not asked."""
    run(store, tmp_path / "run", expected / "kept", "ensemble.return_floors.1m=0.5", loop=True)
    signals = pq.read_table(tmp_path / "run" / "signals.parquet").to_pydict()
    ends = {bool(model): set() for model in ("", "x")}
    for reason, model in zip(signals["reason"], signals["model"], strict=True):
        ends[bool(model)].add(reason)
    assert "none" not in ends[True]
    assert "expected_return" in ends[True]
    assert "expected_return" not in ends[False]


def test_kept_forecasts_give_the_same_run_and_cost_no_model(expected, store, tmp_path):
    job, _ = run(store, tmp_path / "run", expected / "kept", loop=True)
    same(tmp_path / "run", expected / "loop", summary=True)
    assert job.forecaster.computed == 0
    assert job.forecaster.reused > 300


@pytest.mark.parametrize("slices", [1, 1000])
def test_the_size_of_frames_does_not_matter(expected, store, tmp_path, slices):
    run(store, tmp_path / "run", tmp_path / "kept", f"run.frame_slices={slices}", loop=slices == 1)
    same(tmp_path / "run", expected / "loop")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("run", ["-w", "2"]), ("testing", ["-p", "2"])],
    ids=["two threads", "two processes"],
)
def test_workers_and_processes_do_not_matter(expected, store, tmp_path, module, arguments):
    sets = [*SETS, f"forecast.store={store}", "forecast.model=champion"]
    call = (f"dataflows.backtest:flow({SPEC!r}, out={str(tmp_path / 'run')!r}, sets={sets!r}, "
            f"forecasts={str(tmp_path / 'kept')!r})")  # fmt: skip
    subprocess.run([sys.executable, "-m", f"bytewax.{module}", call, *arguments], cwd=ROOT, check=True, timeout=300)
    same(tmp_path / "run", expected / "loop", summary=True)


def test_a_run_that_was_interrupted_resumes_with_its_models(expected, store, tmp_path):
    """Stopped after some epochs by a step that raises; resumed from the store to the same files."""
    (tmp_path / "recovery").mkdir()
    subprocess.run([sys.executable, "-m", "bytewax.recovery", str(tmp_path / "recovery"), "1"], cwd=ROOT, check=True)
    script = f"""
import sys
from pathlib import Path
from datetime import timedelta
from bytewax.recovery import RecoveryConfig
from bytewax.testing import cluster_main
from dataflows import backtest
from infra.settings import load
from infra import forecaster
store, out, kept, recovery, last = sys.argv[1:]
sets = {SETS!r} + [f"forecast.store={{store}}", "forecast.model=champion"]
job = backtest.plan({SPEC!r}, load(None, sets), Path(out), forecasts=Path(kept))
graph, sink = backtest.build(job)
if int(last):
    whole = forecaster.Forecaster.forecast
    def some(self, *given):
        if self.computed > int(last):
            raise SystemError("pulled the plug")
        return whole(self, *given)
    forecaster.Forecaster.forecast = some
cluster_main(graph, [], 0, recovery_config=RecoveryConfig(recovery, backup_interval=timedelta(0)),
             epoch_interval=timedelta(0), worker_count_per_proc=1)
"""
    given = [str(store), str(tmp_path / "run"), str(tmp_path / "kept"), str(tmp_path / "recovery")]
    for last, ends in (("300", "pulled the plug"), ("0", "")):
        done = subprocess.run([sys.executable, "-c", script, *given, last], cwd=ROOT, capture_output=True, text=True,
                              timeout=300)  # fmt: skip
        assert ends in done.stderr, done.stderr
        assert (done.returncode == 0) == (last == "0"), done.stderr
    same(tmp_path / "run", expected / "loop", summary=True)


def test_the_future_changes_no_forecast(expected, store, tmp_path):
    """The run up to a day has the very signals that the longer run had by then."""
    run(store, tmp_path / "short", tmp_path / "kept", loop=True, spec="synthetic:symbols=6,days=2,seed=11")
    whole, part = (pq.read_table(folder / "signals.parquet").to_pylist()
                   for folder in (expected / "loop", tmp_path / "short"))  # fmt: skip
    assert len(part) > 100
    assert json.dumps(whole[: len(part)], default=str) == json.dumps(part, default=str)


def test_a_model_by_its_path_and_a_history_by_its_file(store, tmp_path, capsys):
    id_ = json.loads((store / "history.jsonl").read_text().splitlines()[0])["model"]
    arguments = ["backtest", SPEC, "--to", "2024-01-02", "--forecasts", str(tmp_path / "kept")]
    with pytest.raises(SystemExit) as done:
        main([*arguments, "--out", str(tmp_path / "one"), "--set", f"forecast.model={store / id_}"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert f"model {id_}, trained up to 2024-03-01 made-up training data, uncalibrated" in shown
    assert "computed, 0 kept from before" in shown
    with pytest.raises(SystemExit) as done:
        main([*arguments, "--out", str(tmp_path / "two"), "--models", str(store / "history.jsonl")])
    assert done.value.code == 0
    assert "forecasts: 0 computed" in capsys.readouterr().out
    assert digest(tmp_path / "one", False) == digest(tmp_path / "two", False)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["forecast.model=tft_x"], "forecast.model = tft_x: no such bundle; the nearest in"),
        (["forecast.model=champion", "forecast.store=nowhere"], "history of models nowhere/history.jsonl"),
        (["ensemble.require_forecast=true"], "forecast.model = none: nothing would trade"),
        ([f"ensemble.weights.{name}=0" for name in ("rsi", "ema_cross", "macd")], "nobody would vote"),
        (["ensemble.return_floors.7m=0.1"], "ensemble.return_floors.7m: want one of 1m"),
        (["forecast.forecast_every=20"], "forecast_every = 20, max_age_bars = 10"),
    ],
)
def test_a_mistake_about_models_is_one_line(store, tmp_path, capsys, sets, message):
    given = [f"forecast.store={store}", *sets]
    with pytest.raises(SystemExit) as done:
        main(["backtest", SPEC, "--out", str(tmp_path / "run"), *(part for one in given for part in ("--set", one))])
    assert done.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_required_forecast_that_never_comes_trades_nothing(store, tmp_path):
    _, summary = run(store, tmp_path / "run", tmp_path / "kept", "ensemble.require_forecast=true",
                     loop=True, spec="synthetic:symbols=6,days=2,seed=11")  # fmt: skip
    assert summary["funnel"][4]["stage"] == "decided"
    signals = pq.read_table(tmp_path / "run" / "signals.parquet").to_pydict()
    missing = [reason for reason, model in zip(signals["reason"], signals["model"], strict=True) if not model]
    assert set(missing) == {"no_forecast"}


def test_a_model_that_drifts_is_stopped_and_reported(store, tmp_path):
    doubted = bundles.make(store, 12, ("returns_1",), reference=bundles.Reference(edge=5.0), **ABOUT).name
    _, summary = run(store, tmp_path / "run", tmp_path / "kept", f"forecast.model={doubted}",
                     "forecast.drift.least=10", "forecast.drift.window=10", loop=True)  # fmt: skip
    told = summary["forecasts"]
    assert told["drift_alarms"] > 1  # every shard that has a symbol, once
    assert told["first_drift_alarm"]["model"] == doubted
    assert told["missing"]["drifted"] > told["rows"]


def test_without_a_model_no_forecast_column_is_made(tmp_path):
    job = backtest.plan(SPEC, load(None, SETS), tmp_path / "run")
    assert job.forecaster is None
    summary = backtest.run(job, loop=True)
    assert "forecasts" not in summary
    assert summary["off"][0] == "forecast"
    assert pq.read_schema(tmp_path / "run" / "signals.parquet").names[-1] == "reason"
    assert all(pq.read_table(tmp_path / "run" / "verdicts.parquet")["uncalibrated"].to_pylist())
    params = backtest.pipeline.decide_params(job.settings, 1)
    for signals in backtest.pipeline.signals(job.bars.frames(), params):
        assert signals.q50.size == signals.model.size == signals.absence.size == 0


def test_serving_imports_neither_what_trains_nor_what_registers(store):
    names = {"torch", "mlflow", "lightning", "pytorch_forecasting", "onnx", "sklearn", "onnxruntime"}
    code = f"""
from pathlib import Path
from dataflows import backtest
from infra.settings import load
sets = ["forecast.store={store}", "forecast.model=champion"]
job = backtest.plan({SPEC!r}, load(None, sets), Path({str(store.parent / "never")!r}))
assert job.forecaster.horizons
"""
    assert asked_for(code, names) == "['onnxruntime']"
