"""What the live pipeline decides on a model's forecasts, by its own steps, where the forecast is the only voter.

The alphas are left out, for their votes are no merit of the model; all else is what serves: direction, strength,
probability and drift of `operators.forecast`, score and gates of `operators.ensemble`, the regime, the filters, the
round trip's cost with the quoted spread. What does not depend on the model is taken from the bars once.
"""

from typing import Any, NamedTuple

import msgspec
import numpy as np

from models.bundle import Calibration
from operators import ensemble, filters, forecast, regime
from operators.ensemble import FREE, Toll
from operators.ensemble import Params as Ensemble
from operators.filters import Params as Filters
from operators.forecast import Params as Forecast
from operators.regime import Params as Regime
from schemas.events import Absence, Reason
from schemas.frames import NO_CODES, NO_FLOATS, SHARDS, BarFrame, Bools, Codes, Floats, Ints, Longs
from schemas.universe import shard_of


class Policy(NamedTuple):
    """The share of the live settings that decides on a forecast."""

    forecast: Forecast = Forecast()
    regime: Regime = Regime()
    ensemble: Ensemble = Ensemble()
    filters: Filters = Filters()
    end_of_day: bool = True  # all lots are sold by the close
    toll: Toll = FREE
    shorts: bool = False  # whether the book may be short


class Circumstances(NamedTuple):
    """What a decision depends on beside the forecast, one entry per row."""

    regime: Codes = NO_CODES
    objection: Codes = NO_CODES  # of the filters, to whatever would be entered there
    cost: Floats = NO_FLOATS  # of the round trip, a fraction

    def at(self, which: Ints | Longs) -> "Circumstances":
        """Those of some rows."""
        return Circumstances(self.regime[which], self.objection[which], self.cost[which])


class Observer:
    """Takes in bars and tells their circumstances; a state for each shard."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self._states = [(regime.start(), filters.start()) for _ in range(SHARDS)]

    def see(self, bars: BarFrame) -> Circumstances:
        """The circumstances of a frame's rows."""
        policy, (trend_state, filters_state) = self._policy, self._states[bars.shard]
        trend_state, trend = regime.step(policy.regime, trend_state, bars)
        every: Codes = np.full(bars.at.size, Reason.NONE, np.int8)
        filters_state, objection = filters.judge(policy.filters, policy.end_of_day, filters_state, bars, every)
        self._states[bars.shard] = trend_state, filters_state
        return Circumstances(trend.regime, objection, ensemble.costs(policy.toll, bars))


class Decisions(NamedTuple):
    """One for each row, in order of `(slice, symbol)`."""

    direction: Codes
    score: Floats
    confidence: Floats
    reason: Codes  # where the signal ends; NONE: a candidate for an order
    absence: Codes  # why there is no forecast; the model may have been stopped

    def tally(self) -> dict[str, int]:
        """How many rows ended where; what has no forecast, by the cause of that."""
        words: dict[str, int] = {}
        for absence in Absence:
            own = self.reason[self.absence == absence]
            if absence != Absence.NONE and own.size:
                words[absence.name.lower()] = int(own.size)
            elif absence == Absence.NONE:
                for code, count in zip(*np.unique(own, return_counts=True), strict=True):
                    words[Reason(code).name.lower()] = int(count)
        return words


def decide(
    policy: Policy, names: tuple[str, ...], symbol: Ints, at: Ints, around: Circumstances, quantiles: Floats,
    decision: int, calibration: Calibration, edge: float,
) -> Decisions:  # fmt: skip
    """Decide on the forecasts of a model that comes with the first row and answers every one of them.

    `quantiles` [rows, horizons, quantiles] are of the log return, `symbol` counts `names` from 1, `at` are slices,
    `decision` is the place of the horizon that trades and `edge` the model's median one in validation, against which
    each shard watches it.
    """
    model = forecast.Model("", (), 0, 0, calibration.a, calibration.b, calibration.kept, edge)
    outlook = forecast.columns(at.size, quantiles.shape[1])
    columns: tuple[Any, ...] = tuple(outlook)
    shard = np.array([shard_of(name) for name in names], np.int32)[symbol - 1]
    for number in np.unique(shard).tolist():
        own = np.flatnonzero(shard == number)
        told = forecast.answered(policy.forecast, model, decision, at[own], symbol[own], quantiles[own])
        for column, part in zip(columns, told, strict=True):
            column[own] = part
    median = np.ascontiguousarray(outlook.quantiles[:, decision, 1])
    params = msgspec.structs.replace(policy.ensemble, weights={}, forecast_weight=1.0)
    scores = ensemble.blank(at.size)
    is_calibrated: Bools = np.full(at.size, calibration.kept)
    ensemble.advance_forecasts(
        ensemble.weights_of(params, True), ensemble.gates_of(params, policy.toll), np.zeros((0, at.size)),
        around.regime, outlook.absence, outlook.direction, outlook.strength, median, outlook.probability,
        is_calibrated, around.cost, *scores,
    )  # fmt: skip
    reason = np.where(scores.reason == Reason.NONE, around.objection, scores.reason)
    return Decisions(scores.direction, scores.score, scores.confidence, reason, outlook.absence)
