"""Forecast: the last bars of each symbol -> quantiles of what comes, asked of a model every few bars.

A window is whole or there is none: one symbol, a bar in every slice, no pause longer than the model allows,
nothing that is not a number; the same rule as in training. The model's answer holds until the next one, at most
`max_age_bars`; where there is no answer the row says why. Which model is in force is told by the frames, so
every worker and every replay changes at the same slice. The model itself is a function that is handed in: it
must give a window the same bits whatever else it is asked.
"""

import math
from typing import Annotated, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from operators import drift
from operators.drift import Params as Drift
from operators.drift import note
from operators.kernel import grown, kernel, table
from schemas.events import Absence, Direction
from schemas.frames import (
    Alarm,
    BarFrame,
    Codes,
    FeatureFrame,
    Floats,
    ForecastFrame,
    Ints,
    Longs,
    Names,
    Table,
)
from schemas.universe import MAX_NAME

A = TypeVar("A", bound=np.generic)
Singles = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]

MAX_ID = 64  # bytes of a model's id
BLOCK = 1024  # windows that are gathered at a time
RETURNS = "returns_1"
WIDTH = 2.5631031310892007  # of [q10, q90] in deviations of a normal distribution
SURE = 0.2  # an edge from which a forecast has its full strength
STEEP = 700.0  # bound of an exponent
LEAST_VOLATILITY = 1e-5  # of one bar; datasets and graphs use the same


class Model(NamedTuple):
    """What the step has to know of a model."""

    id: str
    features: tuple[str, ...]
    lookback: int  # bars
    gap_days: int  # longest pause within a window, calendar days
    a: float  # P(correct | p) = 1 / (1 + exp(a p + b))
    b: float
    is_calibrated: bool
    edge: float  # median edge in validation; 0: not known
    # by horizon: the quantiles of its training labels in volatility units; empty: it does not say
    usual: tuple[tuple[float, ...], ...] = ()


class Forecaster(Protocol):
    """The models of a run; all have the same horizons."""

    @property
    def horizons(self) -> tuple[int, ...]:
        """Bars ahead; none before the first model."""

    @property
    def decision(self) -> int:
        """Place of the horizon that trades."""

    def model(self, id: str) -> Model:  # noqa: A002
        """What this model is; raises where it is not here."""

    def forecast(self, id: str, names: Names, ts: Longs, windows: Singles) -> Floats:  # noqa: A002
        """[rows, horizons, 3] quantiles of the log return; NaN where there is no answer.

        `windows` [rows, lookback, features] end with the bar that ends at `ts`. The bits of a row depend on
        that row alone.
        """


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model, how often it is asked, and how long its answer holds. Lengths are bars."""

    # none; an id in the store; a path to a bundle; or champion: whichever was in force at each time
    model: str = "none"
    store: str = "models_store"  # folder of bundles and of the history of activations
    forecast_every: Annotated[int, Meta(ge=1, le=10_000)] = 5
    max_age_bars: Annotated[int, Meta(ge=0, le=10_000)] = 10
    min_return: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.001  # mean of the medians from which there is a direction
    drift: Drift = Drift()

    def __post_init__(self) -> None:
        if self.forecast_every > self.max_age_bars + 1:
            raise ValueError(
                f"forecast_every = {self.forecast_every}, max_age_bars = {self.max_age_bars}: an answer would be "
                "stale before the next one; want forecast_every <= max_age_bars + 1"
            )


class Row(Protocol):
    """What is remembered of one symbol beside its window. Places are slices since the start of the log."""

    place: int  # of the last bar
    session: int
    run: int  # bars of the whole window that ends there
    asked: int  # place at which the model was last asked, plus one; 0: never
    made: int  # place of the last answer
    status: int  # what it was: NOTHING, HELD or FAILED
    direction: int
    strength: float
    probability: float


NOTHING, HELD, FAILED = range(3)


class State(NamedTuple):
    """One row, one window and one answer per slot."""

    version: int
    slices: int  # so far
    active: int  # number of the model in force; 0: none
    models: Names  # ids, in the order in which they came
    names: Names  # by slot
    rows: Table
    ring: Singles  # [slots, bars, features]; the bar of place k stands at k modulo bars
    answers: Floats  # [slots, horizons, 3]
    drift: drift.State


class Rule(NamedTuple):
    """Model and Params as the kernels read them."""

    lookback: int
    gap_days: int
    every: int
    max_age: int
    decision: int
    min_return: float
    a: float
    b: float
    is_calibrated: bool
    least: int  # of the drift
    bound: float


class Given(NamedTuple):
    """What the kernels read of a frame."""

    before: int  # slices before it
    at: Ints
    slot: Ints
    session: Ints  # by slice
    values: Floats


class Columns(NamedTuple):
    """The columns of the answer."""

    quantiles: Floats
    age: Ints
    direction: Codes
    strength: Floats
    probability: Floats
    absence: Codes
    volatility: Floats


def start() -> State:
    """No model, no bar."""
    return State(1, 0, 0, np.zeros(0, f"S{MAX_ID}"), np.zeros(0, f"S{MAX_NAME}"), table(Row, 0),
                 np.zeros((0, 0, 0), np.float32), np.zeros((0, 0, 3)), drift.start())  # fmt: skip


def step(params: Params, forecaster: Forecaster, state: State, frame: FeatureFrame) -> tuple[State, ForecastFrame]:
    """Move the windows on, ask the model where it is time, and say what is in force at each row.

    Raises what `forecaster.model` raises when an event names a model that is not here.
    """
    bars = frame.bars
    size = bars.at.size
    state = _widened(params, state, bars)
    model = forecaster.model(state.models[state.active - 1].decode()) if state.active else None
    coming = [forecaster.model(event.model) if event.model else None for event in bars.models]
    horizons = forecaster.horizons
    out = columns(size, len(horizons))
    number, is_calibrated = np.zeros(size, np.int8), np.zeros(size, np.bool_)
    alarms: list[Alarm] = []
    first = 0
    for event, following in zip((*bars.models, None), (*coming, None), strict=True):
        last = size if event is None else int(np.searchsorted(bars.at, event.at))
        if model is not None:
            alarms += _advance(params, forecaster, model, state, frame, first, last, out)
            number[first:last] = state.active
            is_calibrated[first:last] = model.is_calibrated
        if event is not None:
            state, model = _activated(params, state, model, following, len(horizons)), following
        first = last
    number[out.absence != Absence.NONE] = 0
    return state._replace(slices=state.slices + bars.slices.size), ForecastFrame(
        frame, horizons, forecaster.decision, out.quantiles, out.age, out.direction, out.strength, out.probability,
        number, is_calibrated, out.absence, tuple(alarms), out.volatility,
        tuple(forecaster.model(one.decode()).usual for one in state.models.tolist()), state.models,
    )  # fmt: skip


def columns(rows: int, horizons: int) -> Columns:
    """Of rows for which there is no model."""
    return Columns(np.full((rows, horizons, 3), np.nan), np.full(rows, -1, np.int32), np.zeros(rows, np.int8),
                   np.zeros(rows), np.full(rows, np.nan), np.full(rows, Absence.NO_MODEL, np.int8),
                   np.full(rows, np.nan))  # fmt: skip


def answered(params: Params, model: Model, decision: int, at: Ints, slot: Ints, quantiles: Floats) -> Columns:
    """What is in force at a shard's rows when a model that has just come answers every one of them.

    `quantiles` [rows, horizons, 3] are its answers, `at` the rows' slices, `decision` the place of the horizon that
    trades.
    """
    rows, horizons = quantiles.shape[:2]
    out, slots = columns(rows, horizons), int(slot.max()) + 1 if rows else 0
    watch = drift.opened(drift.start(), params.drift.window)
    given = Given(0, at, slot, np.zeros(0, np.int32), np.zeros((0, 0)))
    advance_answers(_rule(params, model, decision), table(Row, slots), np.zeros((slots, horizons, 3)), watch.rows,
                    watch.edges, given, 0, rows, np.arange(rows), np.sort(quantiles, axis=-1), out)  # fmt: skip
    return out


def _rule(params: Params, model: Model, decision: int) -> Rule:
    """As the kernels read them."""
    bound = params.drift.share * model.edge if model.edge > 0.0 else -1.0
    return Rule(model.lookback, model.gap_days, params.forecast_every, params.max_age_bars, decision,
                params.min_return, model.a, model.b, model.is_calibrated, params.drift.least, bound)  # fmt: skip


def _widened(params: Params, state: State, bars: BarFrame) -> State:
    """A copy to write into, with room for every slot."""
    slots = max(bars.slots, state.rows.size, *(entry.slot + 1 for entry in bars.listed), 0)
    names = np.zeros(slots, state.names.dtype)
    names[: state.names.size] = state.names
    for entry in bars.listed:
        names[entry.slot] = entry.name.encode()
    return state._replace(names=names, rows=grown(state.rows, slots), ring=_longer(state.ring, slots),
                          answers=_longer(state.answers, slots),
                          drift=drift.opened(state.drift, params.drift.window if state.active else 0))  # fmt: skip


def _longer(array: npt.NDArray[A], size: int) -> npt.NDArray[A]:
    """A copy with so many entries; new ones are zero."""
    more = np.zeros((size, *array.shape[1:]), array.dtype)
    more[: array.shape[0]] = array
    return more


def _activated(params: Params, state: State, before: Model | None, model: Model | None, horizons: int) -> State:
    """Another model is in force, or none: its answers and its record begin anew.

    A window stays where the features are the same; a longer one has to fill up.
    """
    rows = grown(state.rows, 0)
    for name in ("asked", "made", "status", "direction", "strength", "probability"):
        rows[name] = 0
    models, active, slots = state.models, 0, rows.size
    if model is not None:
        places = np.flatnonzero(models == model.id.encode())
        if not places.size:
            models = np.append(models, np.array([model.id.encode()], models.dtype))
        active = int(places[0]) + 1 if places.size else models.size
    if before is None or model is None or before.features != model.features:
        rows["run"] = 0
        bars, columns = (0, 0) if model is None else (model.lookback, len(model.features))
        ring = np.zeros((slots, bars, columns), np.float32)
    else:
        ring = _moved(rows, state.ring, model.lookback)
    answers = np.zeros((slots, horizons, 3))
    watch = drift.opened(drift.start(), 0 if model is None else params.drift.window)
    return state._replace(active=active, models=models, rows=rows, ring=ring, answers=answers, drift=watch)


def _moved(rows: Table, ring: Singles, bars: int) -> Singles:
    """A ring of at least so many bars with the same windows; cuts runs to what was kept."""
    kept = ring.shape[1]
    if bars <= kept:
        return ring
    longer = np.zeros((ring.shape[0], bars, ring.shape[2]), np.float32)
    rows["run"] = np.minimum(rows["run"], kept)
    for slot, row in enumerate(rows):
        places = np.arange(row.place - row.run + 1, row.place + 1)
        longer[slot, places % bars] = ring[slot, places % kept]
    return longer


def _advance(
    params: Params, forecaster: Forecaster, model: Model, state: State, frame: FeatureFrame,
    first: int, last: int, out: Columns,
) -> list[Alarm]:  # fmt: skip
    """The rows `first <= i < last` under one model; writes into the state's own arrays."""
    bars, watch = frame.bars, state.drift.rows[0]
    rule = _rule(params, model, forecaster.decision)
    take = np.array([frame.names.index(name) for name in model.features], np.int64)
    returns = model.features.index(RETURNS) if RETURNS in model.features else -1
    given = Given(state.slices, bars.at, bars.slot, bars.slices.session, frame.values)
    is_asked = not watch.is_stopped  # a model that is stopped is not asked; its windows move on
    rows, answers = [np.zeros(0, np.int64)], [np.zeros((0, *state.answers.shape[1:]))]
    i = first
    while i < last:
        windows = np.empty((min(BLOCK, last - i), model.lookback, take.size), np.float32)
        due = np.empty(len(windows), np.int64)
        i, count = advance_windows(rule, state.rows, state.ring, given, i, last, take, returns, windows, due,
                                   out.volatility)  # fmt: skip
        if count and is_asked:
            due = due[:count]
            ts = bars.slices.ts[bars.at[due]]
            rows.append(due)
            answers.append(forecaster.forecast(model.id, state.names[bars.slot[due]], ts, windows[:count]))
    if first == last:
        return []
    given_answers = np.sort(np.concatenate(answers), axis=-1)
    stopped = advance_answers(rule, state.rows, state.answers, state.drift.rows, state.drift.edges, given,
                              first, last, np.concatenate(rows), given_answers, out)  # fmt: skip
    if stopped < 0:
        return []
    when = int(bars.slices.ts[bars.at[stopped]])
    return [Alarm(when, bars.shard, state.active, drift.median(state.drift), model.edge)]


@kernel
def advance_windows(
    rule: Rule, rows: Table, ring: Singles, given: Given, first: int, last: int, take: Longs, returns: int,
    windows: Singles, due: Longs, volatility: Floats,
) -> tuple[int, int]:  # fmt: skip
    """Take in bars; copy the windows of those that are due, until `windows` is full; the next row, and how many.

    `returns` is the column of one-bar returns, -1 where there is none.
    """
    count, bars = 0, ring.shape[1]
    for i in range(first, last):
        if count == due.size:
            return i, count
        slot, place, session = given.slot[i], given.before + given.at[i], given.session[given.at[i]]
        row = rows[slot]
        if place != row.place + 1 or session - row.session > rule.gap_days:
            row.run = 0
        row.place, row.session = place, session
        to = ring[slot, place % bars]
        finite = True
        for k in range(take.size):
            to[k] = given.values[i, take[k]]
            finite = finite and np.isfinite(to[k])
        row.run = row.run + 1 if finite else 0
        if row.run < rule.lookback or (row.asked > 0 and place - row.asked + 1 < rule.every):
            continue
        row.asked = place + 1
        for j in range(rule.lookback):
            since = ring[slot, (place - rule.lookback + 1 + j) % bars]
            for k in range(take.size):
                windows[count, j, k] = since[k]
        if returns >= 0:
            volatility[i] = spread(windows[count], returns)
        due[count] = i
        count += 1
    return last, count


@kernel
def spread(window: Singles, returns: int) -> float:
    """Root mean square of a window's one-bar returns."""
    total = 0.0
    for j in range(window.shape[0]):
        move = np.float64(window[j, returns])
        total += move * move
    return max(math.sqrt(total / window.shape[0]), LEAST_VOLATILITY)


@kernel
def advance_answers(
    rule: Rule, rows: Table, answers: Floats, watch: Table, edges: Floats, given: Given,
    first: int, last: int, due: Longs, fresh: Floats, out: Columns,
) -> int:  # fmt: skip
    """Hold the fresh answers from their rows on, and write what is held; the row that stopped the model, or -1."""
    count, stopped = 0, -1
    for i in range(first, last):
        slot, place = given.slot[i], given.before + given.at[i]
        row = rows[slot]
        if count < due.size and due[count] == i:
            if not watch[0].is_stopped:
                row.made, row.status = place, hold(rule, row, answers[slot], fresh[count])
                if row.status == HELD:
                    edge = 2.0 * chance(fresh[count, rule.decision]) - 1.0
                    if note(watch[0], edges, edge, rule.least, rule.bound):
                        stopped = i
            count += 1
        if watch[0].is_stopped:
            out.absence[i] = Absence.DRIFTED
        elif row.status == NOTHING:
            out.absence[i] = Absence.NOT_WARM
        elif row.status == FAILED:
            out.absence[i] = Absence.ERROR
        elif place - row.made > rule.max_age:
            out.absence[i] = Absence.STALE
        else:
            out.absence[i], out.age[i] = Absence.NONE, place - row.made
            out.direction[i], out.strength[i] = row.direction, row.strength
            out.probability[i] = row.probability
            copy(answers[slot], out.quantiles[i])
    return stopped


@kernel
def copy(quantiles: Floats, to: Floats) -> None:
    """Of each horizon, three."""
    for h in range(quantiles.shape[0]):
        for q in range(3):
            to[h, q] = quantiles[h, q]


@kernel
def hold(rule: Rule, row: Row, answer: Floats, fresh: Floats) -> int:
    """Keep an answer and what follows from it; FAILED where it is none."""
    centre = 0.0
    for h in range(fresh.shape[0]):
        for q in range(3):
            if not np.isfinite(fresh[h, q]):
                return FAILED
        centre += fresh[h, 1]
    copy(fresh, answer)
    p = chance(fresh[rule.decision])
    row.strength = min((2.0 * p - 1.0) / SURE, 1.0)
    row.direction = points(centre / fresh.shape[0], rule.min_return)
    row.probability = p
    if rule.is_calibrated:
        row.probability = 1.0 / (1.0 + math.exp(min(max(rule.a * p + rule.b, -STEEP), STEEP)))
    return HELD


@kernel
def chance(quantiles: Floats) -> float:
    """How probable it is that the median's direction comes true, if these are a normal distribution's quantiles.

    One half where they have no width, as in calibration.
    """
    deviation = (quantiles[2] - quantiles[0]) / WIDTH
    if not deviation > 0.0:
        return 0.5
    return 0.5 * (1.0 + math.erf(abs(quantiles[1]) / deviation / math.sqrt(2.0)))


@kernel
def points(median: float, least: float) -> Direction:
    """The direction of a forecast."""
    if median > least:
        return Direction.LONG
    if median < -least:
        return Direction.SHORT
    return Direction.FLAT


@kernel
def fingerprint(words: Words, out: Words) -> None:
    """128 bits of each row, by which an answer that was kept is known to be the answer to these numbers."""
    for i in range(words.shape[0]):
        one, two = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
        for k in range(words.shape[1]):
            one = (one ^ words[i, k]) * np.uint64(0xBF58476D1CE4E5B9)
            one ^= one >> np.uint64(29)
            two = (two + words[i, k]) * np.uint64(0x94D049BB133111EB)
            two ^= two >> np.uint64(32)
        out[i, 0], out[i, 1] = one, two
