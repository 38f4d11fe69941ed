"""Coverage and stability, by hand and over a run."""

import numpy as np
import pytest

from dataflows import drift
from infra.settings import load
from operators import features
from schemas.errors import UserError
from tests.models import bundles

SPEC = "synthetic:symbols=3,days=2,seed=4"
ABOUT = {"feature_set": features.set_hash(features.Params(set="all")), "timeframe": 1}


def test_coverage_counts_what_is_known_by_month():
    ts = np.array(["2024-01-03", "2024-01-04", "2024-02-01", "2024-02-02"], "datetime64[ns]").astype(np.int64)
    quantiles = np.tile([-0.1, 0.0, 0.1], (4, 2, 1))
    later = np.array([[0.05, 0.5], [0.2, np.nan], [-0.1, np.nan], [np.nan, np.nan]])
    assert drift.coverage(ts, later, quantiles) == {
        "all": [2 / 3, 0.0], "2024-01": [0.5, 0.0], "2024-02": [1.0, None],
    }  # fmt: skip


def test_the_same_population_is_stable_and_a_moved_one_is_not():
    draw = np.random.default_rng(1)
    sample = draw.normal(size=20_000)
    deciles = np.quantile(sample, np.arange(1, 10) / 10)
    assert drift.stability(draw.normal(size=20_000), deciles) < 0.005
    # one deviation up: the index of two normal distributions is near the squared shift
    assert drift.stability(draw.normal(1.0, size=20_000), deciles) == pytest.approx(1.0, abs=0.15)
    assert drift.stability(np.array([np.nan]), deciles) is None
    assert drift.stability(sample, ()) is None


def test_equal_deciles_are_one_edge():
    """A feature that is mostly zero has no ten equal bins."""
    sample = np.concatenate([np.zeros(70), np.arange(1.0, 31.0)])
    deciles = np.quantile(sample, np.arange(1, 10) / 10)
    assert drift.stability(sample, deciles) < 0.01


def test_a_run_reports_each_model(tmp_path):
    reference = bundles.Reference(
        edge=0.5, coverage=(0.8, 0.8, 0.8), bins={"returns_1": tuple(np.linspace(-1, 1, 9).tolist())}
    )
    id_ = bundles.make(tmp_path, 12, ("returns_1", "rsi_14"), reference=reference, **ABOUT).name
    settings = load(None, [f"forecast.store={tmp_path}", f"forecast.model={id_}"])
    (told,) = drift.run(SPEC, settings, forecasts=tmp_path / "kept")["models"]
    assert told["id"] == id_
    assert told["forecasts"] > 100
    assert list(told["coverage"]) == ["all", "2024-01"]
    assert all(0.0 <= share <= 1.0 for share in told["coverage"]["all"])
    assert told["stability"]["returns_1"] > 1.0  # all of it in the middle bins
    with pytest.raises(UserError, match="name the model"):
        drift.run(SPEC, load(None, []))
