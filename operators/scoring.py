"""Scoring: raw bars -> scored and filtered signals in one call, where no model is configured.

The same steps as one by one (clean, features, alphas, regime, ensemble, filters), to the same bits, but one loop over
rows: a symbol's states are at hand, and what one step tells the next is never stored. A call of a compiled function
costs more than the work on a few rows, and live there are few in a frame: one call instead of eight.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from operators import clean, ema_cross, ensemble, features, filters, macd, regime, rsi
from operators.ensemble import Scores
from operators.kernel import grown_together, kernel, table
from schemas.events import Reason
from schemas.frames import NO_CODES, NO_FLOATS, NO_INTS, Codes, Floats, Ints, Longs, RawFrame, SignalFrame, Table

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
    """All Params as the kernel reads them: tables of one row, which cost less to hand over than so many numbers."""

    clean: clean.Params
    places: tuple[int, ...]  # of the known alphas among those that vote; -1: it does not
    periods: Table
    gates: Table
    bounds: Table
    weights: Floats


class State(NamedTuple):
    """The states of the steps; alphas in the order of their votes."""

    clean: clean.State
    features: features.State
    alphas: tuple[Any, ...]
    regime: regime.State
    filters: filters.State


@lru_cache(maxsize=8)
def rule_of(
    quality: clean.Params, alphas: tuple[tuple[str, Any], ...], trend: regime.Params, weighing: ensemble.Params,
    sieve: filters.Params, end_of_day: bool,
) -> Rule | None:  # fmt: skip
    """As the kernel reads them, made once for the same Params; None where it does not know an alpha."""
    own, names = dict(alphas), [name for name, _ in alphas]
    if not own.keys() <= ALPHAS.keys():
        return None
    cross, convergence, strength = (own.get(name, SILENT[name]) for name in ALPHAS)
    periods = Periods(
        "ema_cross" in own, cross.fast, cross.slow, cross.life,
        "macd" in own, convergence.fast, convergence.slow, convergence.signal, convergence.life,
        convergence.form == "signal", convergence.bounce,
        "rsi" in own, strength.period, strength.life, trend.fast, trend.slow, trend.hysteresis,
    )  # fmt: skip
    places = tuple(names.index(name) if name in own else -1 for name in ALPHAS)
    gates, bounds = ensemble.gates_of(weighing), filters.bounds_of(sieve, end_of_day)
    return Rule(quality, places, _row(periods), _row(gates), _row(bounds), ensemble.weights_of(weighing))


def _row(numbers: Any) -> Table:
    """A table of one row with the fields of a NamedTuple."""
    only = table(type(numbers), 1)
    only[0] = tuple(numbers)
    return only


def step(rule: Rule, state: State, frame: RawFrame) -> tuple[State, SignalFrame]:
    """Let good bars in and score them."""
    size = frame.ts.size
    if not size:
        quality, bars = clean.step(rule.clean, state.clean, frame)
        empty = SignalFrame(bars, NO_FLOATS, NO_CODES, NO_FLOATS, NO_FLOATS, NO_CODES, NO_INTS, NO_CODES)
        return State(quality, *state[1:]), empty
    columns = [np.empty(size, kind) for kind in COLUMNS] if frame.space is None else frame.space.columns(size, COLUMNS)
    volatility, score, confidence, at, missing, views, direction, trends, reason, marks = columns
    slices, actions, told = frame.slices, frame.actions, Scores(score, confidence, direction, views, reason)
    room = clean.prepare(state.clean, frame, at, marks, missing)
    own = (state.clean.rows, state.features.risk, state.regime.rows, state.filters.rows)
    rows, risk, trend, kept, *voters = grown_together((*own, *[one.rows for one in state.alphas]), room.needed)
    cross, convergence, strength = (NOBODY[k] if place < 0 else voters[place] for k, place in enumerate(rule.places))
    refused = advance(
        rule.clean.stale_bars, rule.clean.max_jump, rule.periods, rule.gates, rule.bounds, rule.weights,
        rows, risk, cross, convergence, strength, trend, kept, state.clean.slices,
        slices.ts, slices.session, slices.to_close, slices.phase, frame.ts, frame.slot, frame.open, frame.high,
        frame.low, frame.close, frame.volume, frame.bid, frame.ask, frame.average_volume, frame.earnings_days,
        actions.at, frame.acted, room.shares, room.dividend, *room.told, volatility, trends, *told,
    )  # fmt: skip
    quality, bars = clean.settle(state.clean, frame, room, rows)
    after = State(
        quality, features.State(state.features.version, risk, *state.features[2:]),
        tuple([type(one)(one.version, rows) for one, rows in zip(state.alphas, voters, strict=True)]),
        regime.State(state.regime.version, trend), filters.State(state.filters.version, kept),
    )  # fmt: skip
    scored: list[Any] = [volatility, direction, score, confidence, trends, views, reason]
    if refused:
        let_in = room.told.reason == Reason.NONE
        bars, scored = clean.without(bars, frame.ts, room.told.reason), [one[let_in] for one in scored]
    return after, SignalFrame(bars, *scored)


COLUMNS = (*[np.float64] * 3, *[np.int32] * 3, *[np.int8] * 4)
WIDTH = sum(np.dtype(kind).itemsize for kind in COLUMNS)  # bytes of a row in them
NOBODY = [module.start().rows for module in ALPHAS.values()]


@kernel
def advance(
    stale_bars: int, max_jump: float, periods: Table, gates: Table, bounds: Table, weights: Floats,
    rows: Table, risk: Table, cross: Table, convergence: Table, strength: Table, trend: Table, kept: Table, before: int,
    slices: Longs, session: Ints, to_close: Ints, phase: Codes, ts: Longs, slot: Ints, open: Floats,  # noqa: A002
    high: Floats, low: Floats, close: Floats, volume: Floats, bid: Floats, ask: Floats, average_volume: Floats,
    earnings_days: Ints, acted_at: Ints, acted: Ints, shares: Floats, dividend: Floats,
    at: Ints, flaw: Codes, marks: Codes, missing: Ints, scale: Floats,
    volatility: Floats, trends: Codes, score: Floats, confidence: Floats, direction: Codes, views: Ints, reason: Codes,
) -> int:  # fmt: skip
    """The loop over rows: each goes through all operators; returns how many are refused, of which nothing is said."""
    refused, k, first = 0, 0, 0
    actions, quality = clean.Acts(acted_at, acted, shares, dividend), clean.Told(at, flaw, marks, missing, scale)
    given = clean.Given(stale_bars, max_jump, before, slices, session, ts, open, high, low, close, volume)
    sieve = filters.Given(at, slot, to_close, phase, session, marks, volume, scale, average_volume, bid, ask,
                          earnings_days)  # fmt: skip
    told, silence = ensemble.Scores(score, confidence, direction, views, reason), ensemble.silent(weights.size)
    own, gate, bound = periods[0], gates[0], bounds[0]
    by_cross, cross_fast, cross_slow, cross_life = own.cross, own.cross_fast, own.cross_slow, own.cross_life
    by_macd, macd_fast, macd_slow, macd_signal = own.macd, own.macd_fast, own.macd_slow, own.macd_signal
    macd_life, macd_by_signal, macd_bounce = own.macd_life, own.macd_by_signal, own.macd_bounce
    by_rsi, rsi_period, rsi_life = own.rsi, own.rsi_period, own.rsi_life
    regime_fast, regime_slow, regime_bars = own.regime_fast, own.regime_slow, own.regime_bars
    second, third = int(by_cross), int(by_cross) + int(by_macd)
    second_power, third_power = 3**second, 3**third
    for i in range(ts.size):
        s = np.uint64(slot[i])  # which is never taken for one from the end
        k = clean.reach(slices, k, ts[i])
        if first < acted_at.size and acted_at[first] <= k:
            first = clean.act(rows, actions, first, k)
        if not clean.admit(given, rows[s], i, k, quality):
            refused += 1
            continue
        price = rows[s].steady
        features.follow_risk(risk[s], price)
        ballot = ensemble.Ballot(0.0, 0)
        if by_cross:
            vote = ema_cross.follow(cross[s], price, cross_fast, cross_slow, cross_life)
            ballot = ensemble.count(ballot, weights[0], 1, vote)
        if by_macd:
            vote = macd.follow(convergence[s], price, macd_fast, macd_slow, macd_signal, macd_life, macd_by_signal,
                               macd_bounce)  # fmt: skip
            ballot = ensemble.count(ballot, weights[second], second_power, vote)
        if by_rsi:
            vote = rsi.follow(strength[s], price, rsi_period, rsi_life)
            ballot = ensemble.count(ballot, weights[third], third_power, vote)
        way = regime.follow(trend[s], price, regime_fast, regime_slow, regime_bars)
        trends[i] = way
        ensemble.conclude(gate, told, i, way, ballot.total, ballot.digits, silence)
        filters.sift(bound, kept[s], sieve, i, k, reason)
        volatility[i] = features.volatility(risk[s]) if reason[i] == Reason.NONE else np.nan
    clean.act(rows, actions, first, slices.size)
    return refused
