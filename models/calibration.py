"""Is a probability what it says? Platt's scaling, the conformal correction, coverage, reliability, Brier.

Nothing is kept that does not help on samples it has not seen.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.bundle import Calibration
from models.training import QUANTILES
from schemas.frames import Bools, Floats

DEVIATIONS = 2.5631031310892007  # of a normal distribution between its 10 % and its 90 % quantile
_RIDGE, _STEP, _MOST = 1e-12, 1e-10, 100


def probability_up(q: Floats) -> Floats:
    """Phi(q50 / s) with s = (q90 - q10) / 2.563 from [..., quantiles]; one half where there is no width."""
    ordered = np.sort(q, axis=-1)
    spread = (ordered[..., 2] - ordered[..., 0]) / DEVIATIONS
    ratio = np.divide(ordered[..., 1], spread, out=np.zeros_like(spread), where=spread > 0.0)
    return _normal(ratio)


def certainty(q: Floats) -> Floats:
    """max(p, 1 - p): how sure the forecast is of its direction, 0.5 to 1."""
    up = probability_up(q)
    sure: Floats = np.maximum(up, 1.0 - up)
    return sure


def _normal(x: Floats) -> Floats:
    """The normal distribution function, elementwise."""
    from math import erf, sqrt

    flat = np.array([0.5 * (1.0 + erf(value / sqrt(2.0))) for value in np.ravel(x).tolist()])
    return flat.reshape(np.shape(x))


# Platt: P(correct | s) = 1 / (1 + exp(a s + b)).


def platt(score: Floats, correct: Bools, least: int = 200) -> Calibration:
    """Fit by Newton with a line search; not fitted where data are few or all of one kind.

    Source: contracts 8.4. Targets (n+ + 1) / (n+ + 2) and 1 / (n- + 2) keep it from certainty.
    """
    wins = int(np.count_nonzero(correct))
    losses = correct.size - wins
    if correct.size < least or not wins or not losses:
        return Calibration()
    target = np.where(correct, (wins + 1.0) / (wins + 2.0), 1.0 / (losses + 2.0))
    point = np.array([0.0, np.log((losses + 1.0) / (wins + 1.0))])
    x = np.stack([score, np.ones(score.size)], axis=1)
    value = _likelihood(x @ point, target)
    for _ in range(_MOST):
        p = _sigmoid(-(x @ point))
        slope = x.T @ (target - p)
        curve = (x * (p * (1.0 - p))[:, None]).T @ x + _RIDGE * np.eye(2)
        step = -np.linalg.solve(curve, slope)
        length = 1.0
        while length >= _STEP:
            trial = _likelihood(x @ (point + length * step), target)
            if trial < value + 1e-4 * length * float(slope @ step):
                break
            length /= 2.0
        else:
            break
        point, value = point + length * step, trial
        if np.abs(length * step).max() < _STEP:
            break
    return Calibration(a=float(point[0]), b=float(point[1]), fitted=True)


def calibrated(found: Calibration, score: Floats) -> Floats:
    """The calibrated probability; the score itself while nothing is fitted."""
    return _sigmoid(-(found.a * score + found.b)) if found.fitted else score


def _sigmoid(x: Floats) -> Floats:
    small = np.exp(-np.abs(x))
    answer: Floats = np.where(x >= 0.0, 1.0, small) / (1.0 + small)
    return answer


def _likelihood(f: Floats, target: Floats) -> float:
    """Negative log likelihood where p = 1 / (1 + exp(f)), without overflow."""
    return float(np.sum(target * f + np.logaddexp(0.0, -f)))


def brier(probability: Floats, correct: Bools) -> float:
    """Mean squared distance from what came; NaN of nothing."""
    return float(np.mean((probability - correct) ** 2)) if correct.size else float("nan")


class Rolled(NamedTuple):
    """A calibrator tried on every fold with what the folds before had taught."""

    calibration: Calibration  # fitted on all folds; `kept` if it helped on those it had not seen
    before: float  # Brier score of the raw probability, over the folds that could be tried
    after: float
    samples: int


def rolled(scores: Sequence[Floats], correct: Sequence[Bools], least: int = 200) -> Rolled:
    """Fit on the folds before each fold, judge on that fold; keep what lowers the Brier score."""
    raw, scaled, came = [], [], []
    for k in range(1, len(scores)):
        found = platt(np.concatenate(scores[:k]), np.concatenate(correct[:k]), least)
        if found.fitted and scores[k].size:
            raw.append(scores[k])
            scaled.append(calibrated(found, scores[k]))
            came.append(correct[k])
    if not raw:
        return Rolled(Calibration(), float("nan"), float("nan"), 0)
    outcome = np.concatenate(came)
    before, after = brier(np.concatenate(raw), outcome), brier(np.concatenate(scaled), outcome)
    last = platt(np.concatenate(scores), np.concatenate(correct), least)
    # a >= 0 ranks backwards: the surer, the more often wrong
    kept = last.fitted and after < before and last.a < 0.0
    return Rolled(Calibration(last.a, last.b, last.fitted, kept), before, after, int(outcome.size))


# Conformal: how much wider an interval has to be.


def conformal(q: Floats, y: Floats, miss: float = 1.0 - (QUANTILES[2] - QUANTILES[0])) -> Floats:
    """By horizon, what to add at both ends of [q10, q90] so that a share `miss` of `y` lies outside.

    Conformalised quantile regression; `q` [n, horizons, quantiles], `y` [n, horizons]. Overlapping labels are not
    exchangeable: it is a correction, no guarantee. Zeros of nothing.
    """
    if not len(y):
        return np.zeros(q.shape[1])
    beyond = np.maximum(q[..., 0] - y, y - q[..., 2])
    level = min(1.0, (1.0 - miss) * (1.0 + 1.0 / len(y)))
    widening: Floats = np.quantile(beyond, level, axis=0)
    return widening


def widened(q: Floats, offsets: Floats) -> Floats:
    """Quantiles after the correction; the middle stays between."""
    middle = q[..., 1]
    low = np.minimum(q[..., 0] - offsets, middle)
    high = np.maximum(q[..., 2] + offsets, middle)
    return np.stack([low, middle, high], axis=-1)


def coverage(q: Floats, y: Floats) -> Floats:
    """By horizon, the share of `y` within [q10, q90]; NaN of nothing."""
    if not len(y):
        return np.full(q.shape[1], np.nan)
    share: Floats = ((y >= q[..., 0]) & (y <= q[..., 2])).mean(axis=0)
    return share


class Bin(NamedTuple):
    """Decisions that were about as sure."""

    decisions: int
    said: float  # mean probability
    came: float  # share that was right


def reliability(probability: Floats, correct: Bools, bins: int = 10) -> list[Bin]:
    """Bins of equal width over [0.5, 1] that hold anything."""
    place = np.clip(((probability - 0.5) * 2.0 * bins).astype(int), 0, bins - 1)
    return [
        Bin(int(own.sum()), float(probability[own].mean()), float(correct[own].mean()))
        for own in (place == k for k in range(bins))
        if own.any()
    ]
