"""Ensemble: the votes on a row -> score, direction and confidence, and the gates.

score = sum of weight × vote over the sum of the weights of all configured voters, so a silent
voter counts as one who sees nothing. A forecast votes by direction × strength; its weight counts where a model is
configured. confidence = 0.5 + 0.5 × regime scale × m, with m = |score| where there is no forecast, else
0.7 × |score| + 0.3 × strength of a forecast that agrees. A score beyond ±0.15 has a direction; the publish gate
and the decision gate compare confidence. A forecast must also pay for the round trip, and its calibrated
probability, if it has one, must be high enough.
"""

from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from operators.kernel import kernel
from schemas.events import Absence, Direction, Reason, Regime
from schemas.frames import BarFrame, Bools, Codes, Floats, ForecastFrame, Ints, OpinionFrame, SignalFrame

Weight = Annotated[float, Meta(ge=0.0, le=1_000.0)]
Scale = Annotated[float, Meta(ge=0.0, le=1.0)]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights by alpha; gates; how far a regime trusts a direction."""

    weights: dict[str, Weight] = msgspec.field(default_factory=lambda: {"rsi": 0.2, "ema_cross": 0.2, "macd": 0.1})
    forecast_weight: Weight = 0.5  # counts where a model is configured
    require_forecast: bool = False  # without one in force nothing is entered
    threshold: Scale = 0.15
    publish_gate: Scale = 0.55
    decision_gate: Scale = 0.65
    with_trend: Scale = 1.0  # bull × long, bear × short
    against_trend: Scale = 0.5  # bull × short, bear × long
    sideways: Scale = 0.5  # both directions, and an unknown regime
    # a forecast's median, up or down, must reach so many round trips' costs, and the floor of the timeframe
    cost_multiple: Annotated[float, Meta(ge=0.0, le=1_000.0)] = 2.0
    min_probability: Scale = 0.50  # of a calibrated forecast
    return_floors: dict[str, Scale] = msgspec.field(default_factory=lambda: {"1d": 0.005})

    def __post_init__(self) -> None:
        if self.publish_gate > self.decision_gate:
            raise ValueError(
                f"publish_gate = {self.publish_gate}, decision_gate = {self.decision_gate}: "
                "want publish_gate <= decision_gate"
            )
        best = 0.5 + 0.5 * max(self.with_trend, self.against_trend, self.sideways)
        if self.decision_gate > best:
            raise ValueError(f"decision_gate = {self.decision_gate}: no confidence here exceeds {best}")
        if sum(self.weights.values()) <= 0.0:
            raise ValueError(f"weights = {self.weights}: want at least one above 0")

    @property
    def voters(self) -> list[str]:
        """The alphas that vote, in the one order in which votes are added up and stored."""
        return sorted(self.weights)


class Toll(NamedTuple):
    """What a round trip costs beside the quoted spread, and the least a forecast must promise; fractions."""

    cost: float = 0.0
    floor: float = 0.0


FREE = Toll()


class Gates(NamedTuple):
    """Params as the kernel reads them."""

    threshold: float
    publish: float
    decide: float
    with_trend: float
    against_trend: float
    sideways: float
    is_required: bool
    cost_multiple: float
    floor: float
    min_probability: float


class State(NamedTuple):
    """Nothing is remembered."""

    version: int


def start() -> State:
    """Nothing to remember."""
    return State(1)


def step(params: Params, state: State, frame: OpinionFrame, toll: Toll = FREE) -> tuple[State, SignalFrame]:
    """Weigh the votes of each row; its reason says where the signal stops, NONE if nowhere."""
    if frame.forecast is not None:
        return state, _with_forecast(params, toll, frame, frame.forecast)
    size = frame.regime.size
    weights = np.array([params.weights[name] for name in params.voters])
    score, confidence = np.empty(size), np.empty(size)
    direction, reason = np.empty(size, np.int8), np.empty(size, np.int8)
    views = np.empty(size, np.int32)
    if size:
        advance(weights / weights.sum(), params.threshold, params.publish_gate, params.decision_gate,
                params.with_trend, params.against_trend, params.sideways, frame.votes, frame.regime,
                score, confidence, direction, views, reason)  # fmt: skip
    bars, volatility = frame.features.bars, frame.features.column("volatility_5")
    return state, SignalFrame(bars, volatility, direction, score, confidence, frame.regime, views, reason)


def _with_forecast(params: Params, toll: Toll, frame: OpinionFrame, forecast: ForecastFrame) -> SignalFrame:
    size = frame.regime.size
    weights = np.array([*(params.weights[name] for name in params.voters), params.forecast_weight])
    weights /= weights.sum()
    gates = Gates(params.threshold, params.publish_gate, params.decision_gate, params.with_trend, params.against_trend,
                  params.sideways, params.require_forecast, params.cost_multiple, toll.floor,
                  params.min_probability)  # fmt: skip
    score, confidence = np.empty(size), np.empty(size)
    direction, reason = np.empty(size, np.int8), np.empty(size, np.int8)
    views = np.empty(size, np.int32)
    bars, volatility = frame.features.bars, frame.features.column("volatility_5")
    quantiles = np.full((size, 3), np.nan)
    if forecast.horizons:
        quantiles = forecast.quantiles[:, forecast.decision]
    if size:
        advance_forecasts(weights, gates, frame.votes, frame.regime, forecast.absence, forecast.direction,
                          forecast.strength, quantiles[:, 1], forecast.probability, forecast.is_calibrated,
                          _costs(toll, bars), score, confidence, direction, views, reason)  # fmt: skip
    low, middle, high = np.ascontiguousarray(quantiles.T)
    return SignalFrame(bars, volatility, direction, score, confidence, frame.regime, views, reason, low, middle, high,
                       forecast.probability, forecast.age, forecast.model, forecast.is_calibrated, forecast.absence,
                       forecast.alarms, frame.outcomes)  # fmt: skip


def _costs(toll: Toll, bars: BarFrame) -> Floats:
    """Of each row's round trip, a fraction of the price; the spread is paid half on each side."""
    costs = np.full(bars.at.size, toll.cost)
    if bars.bid.size:
        spread = (bars.ask - bars.bid) / bars.close
        costs += np.where((bars.bid > 0.0) & (spread >= 0.0), spread, 0.0)
    return costs


@kernel
def advance_forecasts(
    weights: Floats, gates: Gates, votes: Floats, regime: Codes, absence: Codes, forecast: Codes, strength: Floats,
    median: Floats, probability: Floats, is_calibrated: Bools, cost: Floats,
    score: Floats, confidence: Floats, direction: Codes, views: Ints, reason: Codes,
) -> None:  # fmt: skip
    """The loop over rows where the forecast is one of the voters, the last."""
    for i in range(regime.size):
        is_there = absence[i] == Absence.NONE
        total, digits, power = 0.0, 0, 1
        for k in range(weights.size):
            vote = forecast[i] * strength[i]
            if k < weights.size - 1:
                vote = votes[k, i]
            total += weights[k] * vote
            digits += power * (1 + int(vote > 0.0) - int(vote < 0.0))
            power *= 3
        if digits * 2 == power - 1:  # every digit is 1: nobody has a view
            score[i], confidence[i], direction[i], views[i] = 0.0, 0.5, Direction.FLAT, digits
            reason[i] = Reason.NOT_WARM if regime[i] == Regime.UNKNOWN else Reason.NO_INSIGHT
            continue
        total = min(max(total, -1.0), 1.0)
        way = points(total, gates.threshold)
        sure = abs(total)
        if is_there:
            sure = 0.7 * sure + (0.3 * strength[i] if forecast[i] == way else 0.0)
        trust = confide(way, regime[i], sure, gates.with_trend, gates.against_trend, gates.sideways)
        score[i], confidence[i], direction[i], views[i] = total, trust, way, digits
        why = stop(way, trust, gates.publish, gates.decide)
        if gates.is_required and not is_there and (why == Reason.NONE or why == Reason.BELOW_DECISION_GATE):
            why = Reason.NO_FORECAST
        if why == Reason.NONE and is_there:
            why = doubt(gates, median[i], probability[i], is_calibrated[i], cost[i])
        reason[i] = why


@kernel
def doubt(gates: Gates, median: float, probability: float, is_calibrated: bool, cost: float) -> Reason:
    """What a forecast itself has against an entry, or NONE; one without a calibrator is not asked how probable."""
    if abs(median) < max(gates.cost_multiple * cost, gates.floor):
        return Reason.EXPECTED_RETURN
    if is_calibrated and probability < gates.min_probability:
        return Reason.LOW_PROBABILITY
    return Reason.NONE


@kernel
def advance(
    weights: Floats, threshold: float, publish: float, decide: float,
    with_trend: float, against_trend: float, sideways: float, votes: Floats, regime: Codes,
    score: Floats, confidence: Floats, direction: Codes, views: Ints, reason: Codes,
) -> None:  # fmt: skip
    """The loop over rows; no row depends on another."""
    for i in range(regime.size):
        total, digits, power = 0.0, 0, 1
        for k in range(weights.size):
            vote = votes[k, i]
            total += weights[k] * vote
            digits += power * (1 + int(vote > 0.0) - int(vote < 0.0))
            power *= 3
        if digits * 2 == power - 1:  # every digit is 1: nobody has a view
            score[i], confidence[i], direction[i], views[i] = 0.0, 0.5, Direction.FLAT, digits
            reason[i] = Reason.NOT_WARM if regime[i] == Regime.UNKNOWN else Reason.NO_INSIGHT
            continue
        total = min(max(total, -1.0), 1.0)
        way = points(total, threshold)
        trust = confide(way, regime[i], total, with_trend, against_trend, sideways)
        score[i], confidence[i], direction[i], views[i] = total, trust, way, digits
        reason[i] = stop(way, trust, publish, decide)


@kernel
def points(score: float, threshold: float) -> Direction:
    """The direction of a score."""
    if score > threshold:
        return Direction.LONG
    if score < -threshold:
        return Direction.SHORT
    return Direction.FLAT


@kernel
def confide(
    direction: int, regime: int, score: float, with_trend: float, against_trend: float, sideways: float
) -> float:
    """Confidence in a direction within its regime."""
    scale = sideways
    if regime == Regime.BULL or regime == Regime.BEAR:
        along = (regime == Regime.BULL) == (direction == Direction.LONG)
        scale = with_trend if along else against_trend
    return 0.5 + 0.5 * scale * abs(score)


@kernel
def stop(direction: int, confidence: float, publish: float, decide: float) -> Reason:
    """Where a signal ends that somebody voted for, or NONE."""
    if direction == Direction.FLAT:
        return Reason.NEUTRAL
    if confidence < publish:
        return Reason.BELOW_PUBLISH_GATE
    if confidence < decide:
        return Reason.BELOW_DECISION_GATE
    return Reason.NONE
