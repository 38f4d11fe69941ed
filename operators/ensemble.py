"""Ensemble: the votes on a row -> score, direction and confidence, and the gates.

score = sum of weight × vote over the sum of the weights of all configured voters, so a silent
voter counts as one who sees nothing. A forecast votes by direction × strength; its weight counts where a model is
configured. confidence = 0.5 + 0.5 × regime scale × m, with m = |score| where there is no forecast, else
0.7 × |score| + 0.3 × strength of a forecast that agrees. A score beyond ±0.15 has a direction; the publish gate
and the decision gate compare confidence. A forecast must also pay for the round trip, and its calibrated
probability, if it has one, must be high enough.
"""

from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from operators.kernel import kernel
from schemas.events import Absence, Direction, Reason, Regime
from schemas.frames import BarFrame, Bools, Codes, Floats, ForecastFrame, Ints, OpinionFrame, SignalFrame

FLAT, NEUTRAL, NONE = int(Direction.FLAT), int(Reason.NEUTRAL), int(Reason.NONE)
UNPUBLISHED, UNDECIDED = int(Reason.BELOW_PUBLISH_GATE), int(Reason.BELOW_DECISION_GATE)
Weight = Annotated[float, Meta(ge=0.0, le=1_000.0)]
Scale = Annotated[float, Meta(ge=0.0, le=1.0)]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights by alpha; gates; how far a regime trusts a direction."""

    weights: dict[str, Weight] = msgspec.field(default_factory=lambda: {"rsi": 0.2, "ema_cross": 0.2, "macd": 0.1})
    forecast_weight: Weight = 0.5  # counts where a model is configured; with all others 0 it is the only voter
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
        if sum(self.weights.values()) + self.forecast_weight <= 0.0:
            raise ValueError(f"weights = {self.weights}, forecast_weight = 0: want at least one above 0")

    def __hash__(self) -> int:
        """Equal ones have equal hashes, though tables of weights have none."""
        return hash((self.threshold, self.publish_gate, self.decision_gate, *sorted(self.weights.items())))

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
    """Params as the kernels read them."""

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


class Scores(NamedTuple):
    """What is said of each row."""

    score: Floats
    confidence: Floats
    direction: Codes
    views: Ints
    reason: Codes


class Ballot(NamedTuple):
    """The votes on a row that were counted so far."""

    total: float  # weighted
    digits: int  # who votes which way


class State(NamedTuple):
    """Nothing is remembered."""

    version: int


def start() -> State:
    """Nothing to remember."""
    return State(1)


def step(params: Params, state: State, frame: OpinionFrame, toll: Toll = FREE) -> tuple[State, SignalFrame]:
    """Weigh the votes of each row; its reason says where the signal stops, NONE if nowhere."""
    size = frame.regime.size
    bars, volatility, told = frame.features.bars, frame.features.column("volatility_5"), blank(size)
    gates, weights = gates_of(params, toll), weights_of(params, frame.forecast is not None)
    if frame.forecast is not None:
        outlook = _weigh(gates, toll, weights, frame, frame.forecast, told)
        return state, SignalFrame(bars, volatility, told.direction, told.score, told.confidence, frame.regime,
                                  told.views, told.reason, *outlook)  # fmt: skip
    if size:
        advance(weights, gates, frame.votes, frame.regime, *told)
    return state, SignalFrame(bars, volatility, told.direction, told.score, told.confidence, frame.regime, told.views,
                              told.reason)  # fmt: skip


def blank(rows: int) -> Scores:
    """Room for so many rows."""
    return Scores(np.empty(rows), np.empty(rows), np.empty(rows, np.int8), np.empty(rows, np.int32),
                  np.empty(rows, np.int8))  # fmt: skip


def gates_of(params: Params, toll: Toll = FREE) -> Gates:
    """As the kernels read them."""
    return Gates(params.threshold, params.publish_gate, params.decision_gate, params.with_trend, params.against_trend,
                 params.sideways, params.require_forecast, params.cost_multiple, toll.floor,
                 params.min_probability)  # fmt: skip


def weights_of(params: Params, with_forecast: bool = False) -> Floats:
    """Of all voters, in their order, the forecast last; they add up to 1."""
    own = [params.weights[name] for name in params.voters]
    weights = np.array([*own, params.forecast_weight] if with_forecast else own)
    shares: Floats = weights / weights.sum()
    return shares


def _weigh(
    gates: Gates, toll: Toll, weights: Floats, frame: OpinionFrame, forecast: ForecastFrame, told: Scores
) -> tuple[Any, ...]:
    """Score rows with a forecast; answers the forecast's columns at the decision horizon."""
    quantiles = np.full((told.score.size, 3), np.nan)
    if forecast.horizons:
        quantiles = forecast.quantiles[:, forecast.decision]
    if told.score.size:
        advance_forecasts(weights, gates, frame.votes, frame.regime, forecast.absence, forecast.direction,
                          forecast.strength, quantiles[:, 1], forecast.probability, forecast.is_calibrated,
                          costs(toll, frame.features.bars), *told)  # fmt: skip
    low, middle, high = np.ascontiguousarray(quantiles.T)
    return (low, middle, high, forecast.probability, forecast.age, forecast.model, forecast.is_calibrated,
            forecast.absence, forecast.alarms, frame.outcomes, forecast.models)  # fmt: skip


def costs(toll: Toll, bars: BarFrame) -> Floats:
    """Of each row's round trip, a fraction of the price; the spread is paid half on each side."""
    costs = np.full(bars.at.size, toll.cost)
    if bars.bid.size:
        spread = (bars.ask - bars.bid) / bars.close
        costs += np.where((bars.bid > 0.0) & (spread >= 0.0), spread, 0.0)
    return costs


@kernel
def advance(
    weights: Floats, gates: Gates, votes: Floats, regime: Codes,
    score: Floats, confidence: Floats, direction: Codes, views: Ints, reason: Codes,
) -> None:  # fmt: skip
    """The loop over rows; no row depends on another."""
    told, silence = Scores(score, confidence, direction, views, reason), silent(weights.size)
    for i in range(regime.size):
        total, digits = tally(weights, votes, i)
        conclude(gates, told, i, regime[i], total, digits, silence)


@kernel
def conclude(gates: Gates, told: Scores, i: int, regime: int, total: float, digits: int, silence: int) -> None:
    """What is said of a row by the alphas alone; where nobody has a view the score is 0."""
    score = bounded(total)
    way = points(score, gates.threshold)
    trust = confide(gates, way, regime, abs(score))
    told.score[i], told.confidence[i], told.direction[i], told.views[i] = score, trust, way, digits
    why = stop(way, trust, gates.publish, gates.decide)
    told.reason[i] = mute(regime) if digits == silence else why


@kernel
def advance_forecasts(
    weights: Floats, gates: Gates, votes: Floats, regime: Codes, absence: Codes, forecast: Codes, strength: Floats,
    median: Floats, probability: Floats, is_calibrated: Bools, cost: Floats,
    score: Floats, confidence: Floats, direction: Codes, views: Ints, reason: Codes,
) -> None:  # fmt: skip
    """The loop over rows where the forecast is one of the voters, the last."""
    told, silence = Scores(score, confidence, direction, views, reason), silent(weights.size)
    power = 2 * silent(weights.size - 1) + 1  # of the forecast's digit
    for i in range(regime.size):
        is_there = absence[i] == Absence.NONE
        total, digits = tally(weights, votes, i)
        vote = forecast[i] * strength[i]
        total = bounded(total + weights[-1] * vote)
        digits += power * sign(vote)
        if digits == silence:
            hush(told, i, regime[i], digits)
            continue
        way = points(total, gates.threshold)
        sure = abs(total)
        if is_there:
            sure = 0.7 * sure + (0.3 * strength[i] if forecast[i] == way else 0.0)
        trust = confide(gates, way, regime[i], sure)
        score[i], confidence[i], direction[i], views[i] = total, trust, way, digits
        why = stop(way, trust, gates.publish, gates.decide)
        if gates.is_required and not is_there and (why == Reason.NONE or why == Reason.BELOW_DECISION_GATE):
            why = Reason.NO_FORECAST
        if why == Reason.NONE and is_there:
            why = doubt(gates, median[i], probability[i], is_calibrated[i], cost[i])
        reason[i] = why


@kernel
def tally(weights: Floats, votes: Floats, i: int) -> tuple[float, int]:
    """The weighted sum of the alphas' votes on a row, not yet bounded, and who votes which way."""
    ballot, power = Ballot(0.0, 0), 1
    for k in range(votes.shape[0]):
        ballot = count(ballot, weights[k], power, votes[k, i])
        power *= 3
    return ballot.total, ballot.digits


@kernel
def count(ballot: Ballot, weight: float, power: int, vote: float) -> Ballot:
    """Add a vote; voters in their order, each with the next power of 3."""
    return Ballot(ballot.total + weight * vote, ballot.digits + power * sign(vote))


@kernel
def sign(vote: float) -> int:
    """A digit of `views`: 0 down, 1 none, 2 up."""
    return 1 + int(vote > 0.0) - int(vote < 0.0)


@kernel
def silent(voters: int) -> int:
    """The `views` of a row on which nobody has one: every digit is 1."""
    digits = 0
    for _ in range(voters):
        digits = 3 * digits + 1
    return digits


@kernel
def bounded(total: float) -> float:
    """Between -1 and 1, whatever rounding did."""
    return min(max(total, -1.0), 1.0)


@kernel
def hush(told: Scores, i: int, regime: int, digits: int) -> None:
    """What is said of a row on which nobody has a view."""
    told.score[i], told.confidence[i], told.direction[i], told.views[i] = 0.0, 0.5, Direction.FLAT, digits
    told.reason[i] = mute(regime)


@kernel
def mute(regime: int) -> Reason:
    """Why nobody has a view."""
    return Reason.NOT_WARM if regime == Regime.UNKNOWN else Reason.NO_INSIGHT


@kernel
def doubt(gates: Gates, median: float, probability: float, is_calibrated: bool, cost: float) -> Reason:
    """What a forecast itself has against an entry, or NONE; one without a calibrator is not asked how probable."""
    if abs(median) < max(gates.cost_multiple * cost, gates.floor):
        return Reason.EXPECTED_RETURN
    if is_calibrated and probability < gates.min_probability:
        return Reason.LOW_PROBABILITY
    return Reason.NONE


@kernel
def points(score: float, threshold: float) -> Direction:
    """The direction of a score."""
    if score > threshold:
        return Direction.LONG
    if score < -threshold:
        return Direction.SHORT
    return Direction.FLAT


@kernel
def confide(gates: Gates, direction: int, regime: int, sure: float) -> float:
    """Confidence in a direction within its regime."""
    along, against, sideways = gates.with_trend, gates.against_trend, gates.sideways
    trending = along if (regime == Regime.BULL) == (direction == Direction.LONG) else against
    return 0.5 + 0.5 * (trending if regime == Regime.BULL or regime == Regime.BEAR else sideways) * sure


@kernel
def stop(direction: int, confidence: float, publish: float, decide: float) -> int:
    """Where a signal ends that somebody voted for, or NONE; a sum, as branches would be guessed wrongly.

    What is below the publish gate is below the decision gate, too.
    """
    has_way, unpublished, undecided = int(direction != FLAT), int(confidence < publish), int(confidence < decide)
    return NEUTRAL - has_way * (NEUTRAL - undecided * UNDECIDED - unpublished * (UNPUBLISHED - UNDECIDED))
