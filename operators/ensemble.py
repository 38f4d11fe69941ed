"""Ensemble: the votes on a row -> score, direction and confidence, and the two gates.

score = sum of weight × vote over the sum of the weights of all configured voters, so a silent
voter counts as one who sees nothing. confidence = 0.5 + 0.5 × regime scale × |score| while there is no
forecast. A score beyond ±0.15 has a direction; the publish gate and the decision gate compare confidence.
"""

from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from operators.kernel import kernel
from schemas.events import Direction, Reason, Regime
from schemas.frames import Codes, Floats, Ints, OpinionFrame, SignalFrame

Weight = Annotated[float, Meta(ge=0.0, le=1_000.0)]
Scale = Annotated[float, Meta(ge=0.0, le=1.0)]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights by alpha; gates; how far a regime trusts a direction."""

    weights: dict[str, Weight] = msgspec.field(default_factory=lambda: {"rsi": 0.2, "ema_cross": 0.2, "macd": 0.1})
    require_forecast: bool = False
    threshold: Scale = 0.15
    publish_gate: Scale = 0.55
    decision_gate: Scale = 0.65
    with_trend: Scale = 1.0  # bull × long, bear × short
    against_trend: Scale = 0.5  # bull × short, bear × long
    sideways: Scale = 0.5  # both directions, and an unknown regime

    def __post_init__(self) -> None:
        if self.publish_gate > self.decision_gate:
            raise ValueError(
                f"publish_gate = {self.publish_gate}, decision_gate = {self.decision_gate}: "
                "want publish_gate <= decision_gate"
            )
        best = 0.5 + 0.5 * max(self.with_trend, self.against_trend, self.sideways)
        if self.decision_gate > best:
            raise ValueError(f"decision_gate = {self.decision_gate}: no confidence here exceeds {best}")
        if self.require_forecast:
            raise ValueError("require_forecast = true: there is no forecast yet, so nothing would trade")
        if sum(self.weights.values()) <= 0.0:
            raise ValueError(f"weights = {self.weights}: want at least one above 0")

    @property
    def voters(self) -> list[str]:
        """The alphas that vote, in the one order in which votes are added up and stored."""
        return sorted(self.weights)


class State(NamedTuple):
    """Nothing is remembered."""

    version: int


def start() -> State:
    """Nothing to remember."""
    return State(1)


def step(params: Params, state: State, frame: OpinionFrame) -> tuple[State, SignalFrame]:
    """Weigh the votes of each row; its reason says where the signal stops, NONE if nowhere."""
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
