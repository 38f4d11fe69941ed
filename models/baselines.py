"""What a network must beat: quantiles that cost nothing, or a second.

Each is fitted on training samples and gives quantiles in volatility units, [samples, horizons, quantiles],
ascending. They see the last bar of the window only.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from models import inputs
from models.dataset import Dataset
from models.training import QUANTILES
from schemas.frames import Floats, Longs

LINEAR_ROWS = 3_000  # a linear programme grows fast


def empirical(ds: Dataset, train: Longs, test: Longs) -> Floats:
    """The quantiles of the training labels, the same for every sample: volatility alone forecasts."""
    fixed = np.quantile(ds.label[train].astype(np.float64), QUANTILES, axis=0).T
    return np.broadcast_to(fixed, (test.size, *fixed.shape)).copy()


def linear(ds: Dataset, train: Longs, test: Longs) -> Floats:
    """Linear quantile regression, one for each horizon and quantile."""
    from sklearn.linear_model import QuantileRegressor

    some = train[:: -(-train.size // LINEAR_ROWS)]
    return _each(ds, some, test, lambda q: QuantileRegressor(quantile=q, alpha=1e-3, solver="highs"))


def lightgbm(ds: Dataset, train: Longs, test: Longs) -> Floats:
    """Boosted trees, one model for each horizon and quantile."""
    from lightgbm import LGBMRegressor

    def made(q: float) -> Any:
        return LGBMRegressor(objective="quantile", alpha=q, n_estimators=100, learning_rate=0.05, num_leaves=15,
                             min_child_samples=50, subsample=0.8, subsample_freq=1, colsample_bytree=0.8, n_jobs=1,
                             random_state=1, deterministic=True, force_col_wise=True, verbose=-1)  # fmt: skip

    return _each(ds, train, test, made)


BASELINES: dict[str, Callable[[Dataset, Longs, Longs], Floats]] = {
    "empirical": empirical, "linear": linear, "lightgbm": lightgbm,
}  # fmt: skip


def installed(names: tuple[str, ...]) -> list[str]:
    """Those that can be had here: lightgbm is an extra of its own."""
    return [name for name in names if name != "lightgbm" or importlib.util.find_spec("lightgbm") is not None]


def _each(ds: Dataset, train: Longs, test: Longs, made: Callable[[float], Any]) -> Floats:
    answer = np.empty((test.size, len(ds.data.horizons), len(QUANTILES)))
    own, own_ahead = table(ds, train)
    asked, asked_ahead = table(ds, test)
    for h in range(len(ds.data.horizons)):
        x, z = np.hstack([own, own_ahead[:, h]]), np.hstack([asked, asked_ahead[:, h]])
        mean, std = x.mean(axis=0), x.std(axis=0)
        std[std < 1e-8] = 1.0
        x, z = (np.clip((rows - mean) / std, -8.0, 8.0) for rows in (x, z))
        for k, q in enumerate(QUANTILES):
            answer[:, h, k] = made(q).fit(x, ds.label[train, h]).predict(z)
    answer.sort(axis=-1)  # separate models may cross
    return answer


def table(ds: Dataset, which: Longs) -> tuple[Floats, Floats]:
    """The last bar's observed inputs [samples, inputs], and the calendar ahead [samples, horizons, 5]."""
    last = ds.matrix[ds.end[which]].astype(np.float64)
    x = np.stack(inputs.scale_free(ds.data.features, last, ds.volatility[which].astype(np.float64), np.log1p), axis=1)
    future = ds.future(which).astype(np.float64)
    minute, day = future[..., 0] * (2 * np.pi / 1440), future[..., 1] * (2 * np.pi / 5)
    ahead = np.stack([np.sin(minute), np.cos(minute), np.sin(day), np.cos(day), future[..., 2]], axis=-1)
    return x, ahead
