"""Outcome: forecasts that were made -> how right they were, once the bars they spoke of are there.

A forecast is judged at the bar `h` slices after its own, for each horizon; where that bar is missing nobody knows,
and it is not judged at that horizon. Returns and losses are in volatility units, volatility being that of the window
that the model was given, as in training; losses and probabilities are whole billionths, so that their sums do not
depend on the order in which they are added.
"""

import math
from typing import NamedTuple

import numpy as np

from operators.forecast import copy
from operators.kernel import kernel
from schemas.events import Absence
from schemas.frames import NO_OUTCOMES, Bools, Codes, Floats, ForecastFrame, Ints, Longs, Outcomes

UNIT = 1_000_000_000  # of a loss and of a probability


class State(NamedTuple):
    """By slot and place modulo their number: the last forecasts, as many as may still be judged."""

    version: int
    slices: int  # so far
    made: Ints  # [slots, span] place of the forecast, plus one; 0: none
    model: Codes  # [slots, span] number
    close: Floats  # [slots, span] the bar's, without a step at a split
    volatility: Floats  # [slots, span] of one bar
    probability: Floats  # [slots, span]
    quantiles: Floats  # [slots, span, horizons, 3] of the log return


class Given(NamedTuple):
    """What the kernel reads of a frame."""

    before: int  # slices before it
    ts: Longs  # by slice
    at: Ints
    symbol: Ints
    slot: Ints
    close: Floats
    made: Bools
    model: Codes
    volatility: Floats
    probability: Floats
    quantiles: Floats


def start() -> State:
    """Nothing was forecast."""
    whole = np.zeros((0, 0))
    return State(1, 0, np.zeros((0, 0), np.int32), np.zeros((0, 0), np.int8), whole, whole, whole,
                 np.zeros((0, 0, 0, 3)))  # fmt: skip


def step(state: State, frame: ForecastFrame) -> tuple[State, Outcomes]:
    """Judge the forecasts whose time has come, and remember the new ones."""
    bars, horizons = frame.features.bars, np.array(frame.horizons, np.int64)
    if not horizons.size:
        return state._replace(slices=state.slices + bars.slices.size), NO_OUTCOMES
    state = _widened(state, max(bars.slots, state.made.shape[0]), horizons)
    made = (frame.age == 0) & (frame.absence == Absence.NONE)
    given = Given(state.slices, bars.slices.ts, bars.at, bars.symbol, bars.slot, bars.steady, made, frame.model,
                  frame.volatility, frame.probability, frame.quantiles)  # fmt: skip
    out = _blank(bars.at.size * horizons.size)
    usual = _usual(frame)
    count = advance(state, given, horizons, frame.decision, usual, out) if bars.at.size else 0
    judged = Outcomes._make(column[:count] for column in out)
    return state._replace(slices=state.slices + bars.slices.size), judged


def _widened(state: State, slots: int, horizons: Longs) -> State:
    """A copy to write into, with room for every slot."""
    span = int(horizons.max()) + 1
    shape = (slots, span)
    fresh = State(state.version, state.slices, np.zeros(shape, np.int32), np.zeros(shape, np.int8), np.zeros(shape),
                  np.zeros(shape), np.zeros(shape), np.zeros((*shape, horizons.size, 3)))  # fmt: skip
    for name in State._fields[2:]:
        old = getattr(state, name)
        if old.shape[1]:
            getattr(fresh, name)[: old.shape[0]] = old
    return fresh


def _blank(size: int) -> Outcomes:
    return Outcomes(
        np.empty(size, np.int64), np.empty(size, np.int32), np.empty(size, np.int8), np.empty(size, np.int8),
        np.empty(size, np.bool_), np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64),
        np.empty(size, np.bool_),
    )  # fmt: skip


def _usual(frame: ForecastFrame) -> Floats:
    """[models + 1, horizons, 3] by number: the quantiles of each one's training labels; NaN where it does not say."""
    usual = np.full((len(frame.usual) + 1, len(frame.horizons), 3), np.nan)
    for number, told in enumerate(frame.usual, 1):
        if told:
            usual[number] = told
    return usual


@kernel
def advance(state: State, given: Given, horizons: Longs, decision: int, usual: Floats, out: Outcomes) -> int:
    """The loop over rows; how many outcomes were written."""
    count, span = 0, state.made.shape[1]
    for i in range(given.at.size):
        slot, place = given.slot[i], given.before + given.at[i]
        for h in range(horizons.size):
            then = place - horizons[h]
            j = then % span
            if then < 0 or state.made[slot, j] != then + 1:
                continue
            unit = state.volatility[slot, j] * math.sqrt(horizons[h])
            moved = math.log(given.close[i] / state.close[slot, j])
            own = state.quantiles[slot, j, h]
            out.ts[count], out.symbol[count] = given.ts[given.at[i]], given.symbol[i]
            out.model[count], out.horizon[count] = state.model[slot, j], h
            out.inside[count] = own[0] <= moved <= own[2]
            out.loss[count] = out.usual[count] = -1
            if unit > 0.0:  # false of a model whose windows hold no returns
                out.loss[count] = billionths(pinball(moved / unit, own, unit))
                plain = usual[state.model[slot, j], h]
                if np.isfinite(plain[0]):
                    out.usual[count] = billionths(pinball(moved / unit, plain, 1.0))
            out.said[count], out.right[count] = -1, False
            if h == decision and moved != 0.0:
                out.said[count] = billionths(state.probability[slot, j])
                out.right[count] = (own[1] > 0.0) == (moved > 0.0)
            count += 1
        if given.made[i]:
            j = place % span
            state.made[slot, j], state.model[slot, j] = place + 1, given.model[i]
            state.close[slot, j], state.volatility[slot, j] = given.close[i], given.volatility[i]
            state.probability[slot, j] = given.probability[i]
            copy(given.quantiles[i], state.quantiles[slot, j])
    return count


@kernel
def pinball(moved: float, quantiles: Floats, unit: float) -> float:
    """Mean over the quantiles 0.1, 0.5 and 0.9 of max(q e, (q - 1) e); the quantiles in terms of a unit."""
    low, middle, high = moved - quantiles[0] / unit, moved - quantiles[1] / unit, moved - quantiles[2] / unit
    loss: float = max(0.1 * low, -0.9 * low) + max(0.5 * middle, -0.5 * middle) + max(0.9 * high, -0.1 * high)
    return loss / 3.0


@kernel
def billionths(value: float) -> int:
    """Whole billionths, rounded half up."""
    return math.floor(value * UNIT + 0.5)
