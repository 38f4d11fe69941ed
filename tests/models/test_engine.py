"""The engine: same bits whoever comes along, and a bundle that is not what it says is refused."""

import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import GRAPH, MANIFEST, SAMPLE, BundleError, Flaw, Refusal, publish, read
from models.engine import Engine, Holder, opened
from operators import features
from tests.models import bundles

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return bundles.make(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def engine(path):
    return Engine.open(path)


def test_a_forecast_is_the_graph_s(engine, path):
    windows, future, symbol = bundles.examples(3)
    weights = bundles.graph()  # the same seed, so the same numbers
    expected = bundles.session(weights).run(None, {"features": windows, "future": future, "symbol": symbol})[0]
    np.testing.assert_allclose(engine.forecast(windows, future, symbol), expected, atol=1e-7)
    assert engine.manifest.id == path.name
    assert engine.numbers(["BB", "ZZZ", "AAA"]).tolist() == [2, 0, 1]


@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_the_bits_of_a_row_depend_on_that_row_alone(engine, rows, seed):
    windows, future, symbol = bundles.examples(rows, seed=seed)
    together = engine.forecast(windows, future, symbol)
    order = np.random.default_rng(seed).permutation(rows)
    assert np.array_equal(engine.forecast(windows[order], future[order], symbol[order]), together[order])
    one = slice(rows // 2, rows // 2 + 1)
    assert np.array_equal(engine.forecast(windows[one], future[one], symbol[one]), together[one])


def test_what_is_not_finite_has_no_forecast(engine):
    windows, future, symbol = bundles.examples(4)
    clean = engine.forecast(windows, future, symbol)
    windows[1, 2, 0] = np.nan
    future[3, 0, 1] = np.inf
    found = engine.forecast(windows, future, symbol)
    assert np.isnan(found[[1, 3]]).all()
    assert np.array_equal(found[[0, 2]], clean[[0, 2]])
    assert engine.forecast(windows[:0], future[:0]).shape == (0, 3, 3)


def test_the_wrong_shape_is_said(engine):
    windows, future, _ = bundles.examples(2)
    with pytest.raises(ValueError, match="windows"):
        engine.forecast(windows[:, 1:], future)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def rename(path):
    manifest = msgspec.json.decode((path / MANIFEST).read_bytes())
    (path / MANIFEST).write_bytes(msgspec.json.encode({**manifest, "decision_horizon": 45}))


DAMAGE = {
    "no manifest": (lambda path: (path / MANIFEST).unlink(), Flaw.MISSING),
    "no graph": (lambda path: (path / GRAPH).unlink(), Flaw.MISSING),
    "a bit of the graph": (lambda path: flip(path / GRAPH), Flaw.HASH),
    "a bit of the sample": (lambda path: flip(path / SAMPLE), Flaw.HASH),
    "a truncated graph": (lambda path: (path / GRAPH).write_bytes((path / GRAPH).read_bytes()[:-9]), Flaw.HASH),
    "no JSON": (lambda path: (path / MANIFEST).write_text("{"), Flaw.MANIFEST),
    "another manifest": (rename, Flaw.MANIFEST),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_bundle_is_refused_and_the_old_one_stays(engine, tmp_path, name):
    damage, flaw = DAMAGE[name]
    path = bundles.make(tmp_path, seed=3)
    damage(path)
    holder = Holder(engine)
    refusal = holder.take(path)
    assert refusal is not None
    assert (refusal.flaw, refusal.path, bool(refusal.detail)) == (flaw, str(path), True)
    assert holder.engine is engine
    with pytest.raises(BundleError, match=flaw.name.lower()) as caught:
        Engine.open(path)
    assert caught.value.refusal == refusal


def published(tmp_path, blob, answer=None, **changes):
    made = bundles.files(bundles.graph())
    return publish(tmp_path, bundles.manifest(**changes), {**made, GRAPH: blob, **(answer or {})})


@pytest.mark.parametrize(
    ("blob", "changes", "flaw", "detail"),
    [
        (b"no graph", {}, Flaw.GRAPH, ""),
        (bundles.graph(lookback=7), {}, Flaw.GRAPH, "features is tensor"),
        (bundles.graph(seed=1), {}, Flaw.SELF_TEST, "off by"),
        (bundles.graph(crossing=True), {}, Flaw.SELF_TEST, "quantiles cross"),
        (bundles.graph(), {"quantiles": (0.5,)}, Flaw.GRAPH, "quantiles is tensor"),
    ],
)
def test_a_bundle_whose_graph_is_another_is_refused(tmp_path, blob, changes, flaw, detail):
    refusal = opened(published(tmp_path, blob, **changes))
    assert isinstance(refusal, Refusal)
    assert refusal.flaw == flaw
    assert detail in refusal.detail


def test_another_feature_set_is_refused(path):
    refusal = opened(path, "fedcba9876543210")
    assert isinstance(refusal, Refusal)
    assert refusal.flaw == Flaw.FEATURE_SET
    assert isinstance(opened(path, "0123456789abcdef"), Engine)


def test_a_good_bundle_is_taken_and_the_one_before_is_kept(engine, tmp_path):
    holder = Holder(engine)
    assert holder.take(bundles.make(tmp_path, seed=4)) is None
    assert holder.previous is engine
    assert holder.engine.id != engine.id


def test_calls_go_on_while_bundles_come_and_go(engine, tmp_path):
    windows, future, symbol = bundles.examples(4)
    good = [bundles.make(tmp_path, seed=seed) for seed in (5, 6)]
    broken = bundles.make(tmp_path, seed=7)
    flip(broken / GRAPH)
    expected = {path.name: Engine.open(path).forecast(windows, future, symbol) for path in good}
    expected[engine.id] = engine.forecast(windows, future, symbol)
    holder, stop, found = Holder(engine), threading.Event(), []

    def serve():
        while not stop.is_set() or len(found) < 2_000:
            now = holder.engine  # once per batch, so that one model makes all of it
            found.append((now.id, np.array_equal(now.forecast(windows, future, symbol), expected[now.id])))

    thread = threading.Thread(target=serve)
    thread.start()
    refused = [holder.take(path) for path in (good[0], broken, good[1], broken)]
    stop.set()
    thread.join()
    assert [refusal is None for refusal in refused] == [True, False, True, False]
    assert len(found) >= 2_000
    assert all(right for _, right in found)
    assert found[-1][0] == holder.engine.id == good[1].name


def test_equal_content_has_one_id_and_is_written_once(tmp_path):
    first = bundles.make(tmp_path)
    stamp = (first / MANIFEST).stat().st_mtime_ns
    assert bundles.make(tmp_path) == first
    assert (first / MANIFEST).stat().st_mtime_ns == stamp
    assert [entry.name for entry in tmp_path.iterdir()] == [first.name]
    assert bundles.make(tmp_path, data="other bars") != first
    manifest = read(first)
    assert not isinstance(manifest, Refusal)
    assert manifest.id == first.name


def test_the_demonstration_s_model_can_be_served_here_and_says_what_it_is():
    engine = Engine.open(ROOT / "demo" / "model", features.set_hash(features.Params(set="all")))
    assert engine.manifest.synthetic
    assert engine.manifest.promotable
    assert engine.numbers(["SYN000"]).tolist() == [0]  # trained without symbols


def test_serving_needs_neither_torch_nor_mlflow(path):
    code = f"""
import sys
from models.engine import Engine
Engine.open({str(path)!r})
trained = {{"torch", "mlflow", "lightning", "pytorch_forecasting", "onnx", "pandas", "sklearn", "numba", "bytewax"}}
print(sorted(trained & {{name.split(".")[0] for name in sys.modules}}))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr
