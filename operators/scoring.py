"""Scoring: bars -> scored and filtered signals in one call, where no model is configured.

The same steps as one by one (features, alphas, regime, ensemble, filters), to the same bits. A call of a compiled
function costs more than the work on a few rows, and live there are few in a frame: one call instead of seven.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from operators import ema_cross, ensemble, features, filters, macd, regime, rsi
from operators.kernel import grown, kernel
from schemas.frames import NO_CODES, NO_FLOATS, NO_INTS, BarFrame, Codes, Floats, Ints, SignalFrame, Table

ALPHAS = {"ema_cross": ema_cross, "macd": macd, "rsi": rsi}  # known here, in the order in which they vote
SILENT: dict[str, Any] = {name: module.Params() for name, module in ALPHAS.items()}


class Periods(NamedTuple):
    """The alphas' and the regime's Params as the kernel reads them; who does not vote is skipped."""

    cross: bool
    cross_fast: int
    cross_slow: int
    cross_life: int
    macd: bool
    macd_fast: int
    macd_slow: int
    macd_signal: int
    macd_life: int
    macd_by_signal: bool
    macd_bounce: float
    rsi: bool
    rsi_period: int
    rsi_life: int
    regime_fast: int
    regime_slow: int
    regime_bars: int


class Rule(NamedTuple):
    """All Params as the kernel reads them."""

    periods: Periods
    gates: ensemble.Gates
    bounds: filters.Bounds
    weights: Floats


class State(NamedTuple):
    """The states of the steps; alphas in the order of their votes."""

    features: features.State
    alphas: tuple[Any, ...]
    regime: regime.State
    filters: filters.State


def knows(alphas: Sequence[str]) -> bool:
    """Whether all of these can be computed here."""
    return set(alphas) <= set(ALPHAS)


@lru_cache(maxsize=8)
def rule_of(
    alphas: tuple[tuple[str, Any], ...], trend: regime.Params, weighing: ensemble.Params, sieve: filters.Params,
    end_of_day: bool,
) -> Rule:  # fmt: skip
    """As the kernel reads them; made once for the same Params."""
    own = dict(alphas)
    cross, convergence, strength = (own.get(name, SILENT[name]) for name in ALPHAS)
    periods = Periods(
        "ema_cross" in own, cross.fast, cross.slow, cross.life,
        "macd" in own, convergence.fast, convergence.slow, convergence.signal, convergence.life,
        convergence.form == "signal", convergence.bounce,
        "rsi" in own, strength.period, strength.life, trend.fast, trend.slow, trend.hysteresis,
    )  # fmt: skip
    bounds = filters.bounds_of(sieve, end_of_day)
    return Rule(periods, ensemble.gates_of(weighing), bounds, ensemble.weights_of(weighing))


def step(rule: Rule, names: Sequence[str], state: State, bars: BarFrame) -> tuple[State, SignalFrame]:
    """Score the bars; `names` are those of the alphas, in the order of their states."""
    size, slots, slices = bars.at.size, bars.slots, bars.slices
    if not size:
        return state, SignalFrame(bars, NO_FLOATS, NO_CODES, NO_FLOATS, NO_FLOATS, NO_CODES, NO_INTS, NO_CODES)
    risk, trend = grown(state.features.risk, slots), grown(state.regime.rows, slots)
    kept = grown(state.filters.rows, slots)
    voters = [grown(one.rows, slots) for one in state.alphas]
    own = dict(zip(names, voters, strict=True))
    cross, convergence, strength = (own.get(name, NOBODY[name]) for name in ALPHAS)
    told, votes, trends = np.full((size, 2), np.nan), np.zeros((len(voters), size)), np.zeros(size, np.int8)
    score, confidence, direction, views, reason = ensemble.blank(size)
    advance(rule.periods, rule.gates, rule.bounds, rule.weights, risk, cross, convergence, strength, trend, kept,
            slices.to_close, slices.phase, slices.session, bars.at, bars.slot, bars.steady, bars.marks, bars.volume,
            bars.scale, bars.average_volume, bars.bid, bars.ask, bars.earnings_days,
            told, votes, trends, score, confidence, direction, views, reason)  # fmt: skip
    after = State(
        state.features._replace(risk=risk),
        tuple(one._replace(rows=rows) for one, rows in zip(state.alphas, voters, strict=True)),
        state.regime._replace(rows=trend), state.filters._replace(rows=kept),
    )  # fmt: skip
    return after, SignalFrame(bars, told[:, 1].copy(), direction, score, confidence, trends, views, reason)


NOBODY = {name: module.start().rows for name, module in ALPHAS.items()}


@kernel
def advance(
    periods: Periods, gates: ensemble.Gates, bounds: filters.Bounds, weights: Floats,
    risk: Table, cross: Table, convergence: Table, strength: Table, trend: Table, kept: Table,
    to_close: Ints, phase: Codes, session: Ints, at: Ints, slot: Ints, close: Floats, marks: Codes, volume: Floats,
    scale: Floats, average_volume: Floats, bid: Floats, ask: Floats, earnings_days: Ints,
    told: Floats, votes: Floats, trends: Codes, score: Floats, confidence: Floats, direction: Codes, views: Ints,
    reason: Codes,
) -> None:  # fmt: skip
    """Each operator's loop over rows, one after the other; the rows of one frame stay in the cache.

    The features, votes and trends begin as those of a row of which nothing is known.
    """
    features.advance_risk(risk, slot, close, told)
    k = 0
    if periods.cross:
        ema_cross.advance(periods.cross_fast, periods.cross_slow, periods.cross_life, cross, slot, close, votes[k])
        k += 1
    if periods.macd:
        macd.advance(periods.macd_fast, periods.macd_slow, periods.macd_signal, periods.macd_life,
                     periods.macd_by_signal, periods.macd_bounce, convergence, slot, close, votes[k])  # fmt: skip
        k += 1
    if periods.rsi:
        rsi.advance(periods.rsi_period, periods.rsi_life, strength, slot, close, votes[k])
    regime.advance(periods.regime_fast, periods.regime_slow, periods.regime_bars, trend, slot, close, trends)
    ensemble.advance(weights, gates, votes, trends, score, confidence, direction, views, reason)
    filters.advance(bounds, kept, at, slot, to_close, phase, session, marks, volume, scale, average_volume, bid, ask,
                    earnings_days, reason)  # fmt: skip
