"""What needs torch: the network is the library's, the graph is the network, a signal passes and noise does not.

Run by `make test-train`; skipped where the extra `train` is not installed.
"""

import io
import warnings
from dataclasses import replace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")

from dataflows import backtest  # noqa: E402  (the libraries that train must be there)
from dataflows import train as command  # noqa: E402
from infra.bars import open_bars  # noqa: E402
from infra.settings import load  # noqa: E402
from models import baselines, calibration, dataset, export, inputs, tft, walk_forward  # noqa: E402
from models.decision import decide  # noqa: E402
from models.engine import Engine, opened  # noqa: E402
from models.registry import NAME, Registry  # noqa: E402
from models.training import Data, Folds, Gates, Network, Params  # noqa: E402
from operators import features  # noqa: E402
from schemas.events import Direction, Reason, word  # noqa: E402

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore:::(torch|mlflow|lightning|sklearn|alembic).*")]

MARKET = "synthetic:symbols=8,days=150,timeframe=30m,seed=7,signal={}"
PARAMS = Params(
    data=Data(lookback=16, horizons=(6, 9, 12), decision_horizon=6, every=3),
    network=Network(hidden=12, epochs=3, batch=64, learning_rate=0.006),
    folds=Folds(count=3, train=60, validation=20, test=20, processes=1),
    gates=Gates(folds=3),
    baselines=("empirical", "linear"),
    calibration_least=100,
)
# trends go both ways; a book of longs alone may find none in a short block
SETTINGS = msgspec.structs.replace(load(None, ["rules.allow_short=true"]), training=PARAMS)
POLICY = command.policy_of(SETTINGS, 30)
NAMES = ("a", "b", "c")


def bars(signal):
    return open_bars(MARKET.format(signal))


def built(signal, params=PARAMS):
    market = bars(signal)
    return dataset.build(params.data, market.calendar, market.frames(), market.rows, policy=POLICY)


@pytest.fixture(scope="module")
def planted():
    return built(70)


@pytest.fixture(scope="module")
def small(planted):
    """A network that was hardly trained: enough to be exported."""
    every = np.arange(len(planted))
    return tft.fit(planted, every[:400], every[600:700], Network(hidden=12, epochs=1))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


# The network.


def test_the_forward_on_whole_windows_is_the_library_s_own():
    torch.manual_seed(0)
    params = Network(hidden=16, heads=2)
    stock = tft.network(NAMES, 4, 12, params, cls=tft.TemporalFusionTransformer, ordered=False).eval()
    fixed = tft.network(NAMES, 4, 12, params, ordered=False).eval()
    fixed.load_state_dict(stock.state_dict())
    rows, reals = 5, len(tft.KNOWN) + len(NAMES)
    cat = torch.randint(0, 4, (rows, 1))
    x = {
        "encoder_cont": torch.randn(rows, 12, reals),
        "decoder_cont": torch.randn(rows, 3, reals),
        "static_cat": cat,
        "encoder_cat": cat[:, None].expand(-1, 12, -1),
        "decoder_cat": cat[:, None].expand(-1, 3, -1),
        "encoder_lengths": torch.full((rows,), 12),
        "decoder_lengths": torch.full((rows,), 3),
        "target_scale": torch.zeros(rows, 2),
    }
    with torch.no_grad():
        assert torch.equal(stock(x).prediction, fixed(x).prediction)


def test_the_stacked_selection_is_the_selection(small):
    chosen = small.model.tft.encoder_variable_selection
    count = len(chosen.input_sizes)
    x, context = torch.randn(3, 7, count), torch.randn(3, 7, 12)
    with torch.no_grad():
        expected, _ = chosen({name: x[..., k : k + 1] for k, name in enumerate(chosen.input_sizes)}, context)
        found = tft.StackedSelection(chosen).eval()(x, context)
    assert (found - expected).abs().max() < 1e-5


def test_quantiles_never_cross_whatever_goes_in(small):
    windows = torch.randn(64, 16, 15) * 1000.0
    with torch.no_grad():
        found = small.model(windows.abs() + 1e-3, torch.rand(64, 3, 3) * 1000.0, torch.zeros(64, dtype=torch.int64))
    assert torch.isfinite(found).all()
    assert (found.diff(dim=-1) >= 0).all()


def test_the_graph_s_scaling_is_the_dataset_s(planted, small):
    which = np.arange(0, len(planted), 37)
    volatility = small.model.volatility(torch.from_numpy(planted.windows(which))).numpy()[:, 0]
    np.testing.assert_allclose(volatility, planted.volatility[which], rtol=1e-5)
    last = planted.windows(which)[:, -1].astype(np.float64)
    own = np.stack(
        inputs.scale_free(planted.data.features, last, planted.volatility[which].astype(np.float64), np.log1p), 1
    )
    np.testing.assert_allclose(own, baselines.table(planted, which)[0], rtol=1e-6)


def test_the_same_arguments_give_the_same_bits_and_the_best_weights_are_kept(planted):
    every, params = np.arange(len(planted)), Network(hidden=12, epochs=3, learning_rate=0.05, seed=3)
    losses = []
    one = tft.fit(planted, every[:300], every[500:600], params, lambda *found: losses.append(found[2]))
    other = tft.fit(planted, every[:300], every[500:600], params)
    assert one.validation_loss == min(losses) == losses[one.best - 1]
    for name, weights in one.model.state_dict().items():
        assert torch.equal(weights, other.model.state_dict()[name])
    q = tft.quantiles(one.model, planted, every[500:600])
    again = walk_forward.pinball(planted.label[500:600].astype(np.float64), q.astype(np.float64)).mean()
    assert again == pytest.approx(one.validation_loss, rel=1e-5)


# The graph.


@pytest.fixture(scope="module")
def exported(planted, small):
    """The files of its bundle; with a correction that widens, one that narrows, and none."""
    export.widen(small.model, np.array([0.1, -0.05, 0.0]))
    return export.files(small.model, planted, np.arange(0, len(planted), 11)[:64])  # refuses over 1e-4


def test_the_graph_is_the_network_for_every_size_of_batch(planted, small, exported):
    which = np.arange(0, len(planted), 13)[:64]
    sample = [part.numpy() for part in tft.batch(planted, which)[:3]]
    assert export.difference(small.model, exported["model.onnx"], sample, (1, 8, 16, 64)) < 1e-6
    q = tft.quantiles(small.model, planted, which)
    with torch.no_grad():
        found = small.model(*tft.batch(planted, which)[:3]).numpy()
    scale = planted.volatility[which, None] * np.sqrt(np.array(planted.data.horizons))
    np.testing.assert_allclose(found[..., 0], np.minimum(q[..., 0] - [0.1, -0.05, 0.0], q[..., 1]) * scale, atol=1e-6)
    np.testing.assert_allclose(found[..., 1], q[..., 1] * scale, atol=1e-6)


def test_a_graph_that_is_another_is_refused(planted, small, exported, monkeypatch):
    monkeypatch.setattr(export, "graph", lambda *_: exported["model.onnx"])
    monkeypatch.setattr(small.model, "mean", small.model.mean + 1.0)
    with pytest.raises(export.ExportError, match="differs from the network by"):
        export.files(small.model, planted, np.arange(64))


def test_what_is_rebuilt_from_a_fold_s_weights_forecasts_what_the_fold_did_and_nothing_else_is_exported(planted):
    """Once its mean and deviation shared their memory: what was served was not what had been judged."""
    every, which = np.arange(len(planted)), np.arange(0, len(planted), 13)[:64]
    model, kept = tft.fit(planted, every[:400], every[600:700], Network(hidden=12, epochs=1)).model, io.BytesIO()
    torch.save(model.state_dict(), kept)
    again = export.rebuilt(planted, Network(hidden=12), kept.getvalue())
    offsets = np.array([0.1, -0.05, 0.0])
    export.widen(again, offsets)
    q = tft.quantiles(model, planted, which)
    assert np.array_equal(tft.quantiles(again, planted, which), q)
    judged = calibration.widened(q.astype(np.float64), offsets) * planted.scale(which)[..., None]
    blob = export.files(again, planted, which)["model.onnx"]
    export.confirm(again, blob, planted, which, judged)
    with pytest.raises(export.ExportError, match="from what the fold was judged by"):
        export.confirm(again, blob, planted, which, judged + 2e-4)


def test_symbols_without_embeddings_that_learned_are_judged_as_they_are_served(planted):
    """As the one that nobody knows."""
    every, which = np.arange(len(planted)), np.arange(0, len(planted), 13)[:64]
    model = tft.fit(planted, every[:400], every[600:700], Network(hidden=12, epochs=1, unknown=1.0)).model
    windows, future, symbol, volatility, _ = tft.batch(planted, which)
    with torch.no_grad():
        served = model.scaled(windows, future, torch.zeros_like(symbol), volatility).numpy()
        otherwise = model.scaled(windows, future, symbol, volatility).numpy()
    assert np.array_equal(tft.quantiles(model, planted, which), served)
    assert not np.array_equal(served, otherwise)


# The folds.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The command, on bars with a planted signal."""
    store = tmp_path_factory.mktemp("store")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return store, command.run(MARKET.format(70), SETTINGS, store, promote=True)


def test_a_planted_signal_passes_the_gates(trained):
    _, summary = trained
    assert summary["promotable"], summary["reasons"]
    assert summary["skill"].startswith("The TFT beats the empirical quantiles")
    assert summary["champion"] == summary["id"]


def test_its_bundle_is_served_and_its_report_says_what_it_is(trained):
    store, summary = trained
    engine = Engine.open(summary["bundle"], features.set_hash(features.Params(set="all")))
    ds = built(70)
    which = np.arange(len(ds) - 20, len(ds))
    found = engine.forecast(
        ds.windows(which), ds.future(which), engine.numbers([ds.symbols[k - 1] for k in ds.symbol[which]])
    )
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=-1) >= 0).all()
    m = engine.manifest
    assert (m.lookback, m.horizons, m.symbols, m.synthetic) == (16, (6, 9, 12), ds.symbols, True)
    assert set(m.reference.bins) == set(m.features)
    assert np.array(m.reference.usual).shape == (3, 3)
    assert (np.diff(m.reference.usual, axis=1) > 0.0).all()
    assert m.trained_from < m.trained_upto < "2024-08-08"
    text = (store / "reports" / f"{m.id}.md").read_text()
    assert "SYNTHETIC" in text
    assert "Promotable" in text


def test_a_backtest_with_its_bundle_decides_as_the_walk_forward_did(trained, tmp_path):
    """Candidates, refusals and directions out of sample; the forecast is the only voter, asked at every bar."""
    _, summary = trained
    live = load(None, [f"forecast.model={summary['bundle']}", "forecast.forecast_every=1", "forecast.drift.share=0"])
    live = msgspec.structs.replace(live, ensemble=msgspec.structs.replace(live.ensemble, weights={}))
    backtest.run(backtest.plan(MARKET.format(70), live, tmp_path / "run", forecasts=tmp_path / "kept"), loop=True)
    signals = pq.read_table(tmp_path / "run" / "signals.parquet")
    stamps = signals["ts"].cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_pylist()
    columns = (signals[name].to_pylist() for name in ("symbol", "direction", "reason"))
    published = {(ts, symbol): told for ts, symbol, *told in zip(stamps, *columns, strict=True)}

    ds = built(70)
    learned = walk_forward.attempt(PARAMS, 3, ds, walk_forward.plan(ds, PARAMS.folds)[-1])  # the same bits once more
    manifest = Engine.open(summary["bundle"]).manifest
    assert manifest.conformal == tuple(learned.offsets["tft"].tolist())
    test = walk_forward.split(ds, learned.fold)[2]
    quantiles = calibration.widened(learned.quantiles["tft"], learned.offsets["tft"]) * ds.scale(test)[..., None]
    told = decide(command.policy_of(live, 30), ds.symbols, ds.symbol[test], ds.at[test], ds.around.at(test), quantiles,
                  ds.data.decision, manifest.calibration, 0.0)  # fmt: skip
    silent = {Reason.NOT_WARM, Reason.NO_INSIGHT, Reason.NEUTRAL, Reason.BELOW_PUBLISH_GATE}
    ends = set()
    for k, ts in enumerate(ds.ts(test).tolist()):
        found = published.get((ts, ds.symbols[ds.symbol[test[k]] - 1]))
        if told.reason[k] in silent:
            assert found is None
        else:
            assert found == [word(Direction(told.direction[k])), word(Reason(told.reason[k]))]
            ends.add(tuple(found))
    assert {("long", "none"), ("short", "none"), ("long", "below_decision_gate")} <= ends


def test_the_registry_and_mlflow_agree(trained):
    from mlflow import MlflowClient

    store, summary = trained
    assert Registry(store).champion().id == summary["id"]
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    version = client.get_model_version_by_alias(NAME, "champion")
    assert version.tags == {"model_id": summary["id"], "status": "green"}
    experiment = client.get_experiment_by_name(NAME).experiment_id
    runs = client.search_runs([experiment])
    folds = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == version.run_id]
    assert sorted(run.info.run_name for run in folds) == ["fold_1", "fold_2", "fold_3"]
    fitted = {"sharpe", "win_rate", "trades", "train_loss", "validation_loss", "epochs", "train_samples", "oos_samples"}
    assert all(fitted <= set(run.data.metrics) for run in folds)
    parent = client.get_run(version.run_id).data
    durations = [run.data.metrics["duration_seconds"] for run in folds]
    assert 0.0 < sum(durations) < parent.metrics["duration_seconds"]  # one at a time here
    assert parent.tags["data_fingerprint"] == bars(70).fingerprint
    assert parent.tags["model_id"] == summary["id"]
    assert parent.metrics["samples"] == len(built(70))
    assert parent.params["training.folds.count"] == "3"
    assert (parent.params["ensemble.decision_gate"], parent.params["rules.allow_short"]) == ("0.65", "True")
    assert {file.path for file in client.list_artifacts(version.run_id, "bundle")} == {
        "bundle/manifest.json", "bundle/model.onnx", "bundle/sample.npz",
    }  # fmt: skip


def test_pure_noise_is_refused():
    tried = walk_forward.run(built(0), PARAMS, POLICY)
    verdict = walk_forward.verdict(tried, PARAMS.gates, command.measure)
    assert verdict.reasons
    assert verdict.skill[walk_forward.MODEL][0] < 0.02


def test_a_label_that_leaks_into_a_feature_is_caught(planted):
    matrix = planted.matrix.copy()
    column = planted.data.features.index("rsi_14")
    matrix[:, column] = 0.0
    k = planted.data.horizons.index(planted.data.decision_horizon)
    matrix[planted.end, column] = planted.label[:, k]  # tomorrow's return among today's features
    leaky = replace(planted, matrix=matrix)
    one = msgspec.structs.replace(
        PARAMS, network=Network(hidden=12, epochs=6, batch=64, learning_rate=0.01), baselines=("empirical",),
        folds=msgspec.structs.replace(PARAMS.folds, count=1),
    )  # fmt: skip
    tried = walk_forward.run(leaky, one, POLICY)
    verdict = walk_forward.verdict(tried, Gates(folds=1), command.measure)
    assert any("look for a leak" in why for why in verdict.reasons), verdict


def test_folds_do_not_depend_on_how_many_run_at_a_time(planted):
    quick = msgspec.structs.replace(
        PARAMS, network=Network(hidden=12, epochs=1), baselines=("empirical",),
        folds=msgspec.structs.replace(PARAMS.folds, count=2),
    )  # fmt: skip
    two = msgspec.structs.replace(quick, folds=msgspec.structs.replace(quick.folds, processes=2))
    for one, other in zip(
        walk_forward.run(planted, quick, POLICY), walk_forward.run(planted, two, POLICY), strict=True
    ):
        assert np.array_equal(one.outcomes["tft"].score, other.outcomes["tft"].score)
        assert one.learned.validation_loss == other.learned.validation_loss
        assert one.outcomes["tft"].daily.tobytes() == other.outcomes["tft"].daily.tobytes()


def test_a_bundle_of_another_feature_set_is_not_served(trained):
    refusal = opened(trained[0] / "bundles" / trained[1]["id"], "0" * 16)
    assert not isinstance(refusal, Engine)
