"""Taps: what decide makes on its way, for others: features, forecasts, and the alphas' views when they change.

Written by shard, each with an id that is a function of what happened. Nothing reads them to decide, so they take
the late lane; `live.taps` says which there are. Where no model is configured what they tell is opined a second time
there: decide is then one compiled call that keeps nothing of it, on whose answer orders wait.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from dataflows import pipeline
from dataflows.account_events import DIRECTIONS
from dataflows.flows import of_topic
from dataflows.pipeline import Decide, Decided, partition_of
from infra.gated_sink import GatedSink, Record, event_record
from infra.kafka import Cluster
from infra.late import late
from infra.settings import Settings
from operators import features
from schemas.frames import Floats, ForecastFrame, Names, OpinionFrame, RawFrame
from schemas.identity import correlation_id, envelope, moment_key
from schemas.records import AlphaSignal, MarketEngineered, Prediction
from schemas.universe import MAX_NAME

if TYPE_CHECKING:
    from bytewax.operators import KeyedStream

FEATURES, FORECASTS, VIEWS = "market.engineered", "predictions.tft", "alpha.signals"
NAMED = tuple(name for name in features.ORDER if name in MarketEngineered.__struct_fields__)
WHOLE = ("minute_of_day", "day_of_week")  # of these, those that are whole numbers
NEVER = -1  # no instant

Item: TypeAlias = RawFrame | Decided  # what decide was given, or what it kept


class Alpha(NamedTuple):
    """What is told of an alpha."""

    indicator: str
    weight: float
    life: int  # bars


class Params(NamedTuple):
    """Which taps, and what their records say of the settings."""

    topics: frozenset[str]
    timeframe: str
    minutes: int
    alphas: tuple[Alpha, ...]  # in the order of their votes
    decide: Decide


class State(NamedTuple):
    """Of one shard: names by slot, the last votes, and how far the frames went that were opined here."""

    version: int
    names: Names  # empty: not told yet, as a tap that is new begins with the next session
    votes: Floats  # [alphas, slots]
    upto: int  # UTC ns
    decide: pipeline.State


def start(params: Params) -> State:
    """Nothing seen."""
    votes = np.zeros((len(params.alphas), 0))
    return State(2, np.zeros(0, f"S{MAX_NAME}"), votes, NEVER, pipeline.start(params.decide))


def params_of(settings: Settings, minutes: int) -> Params:
    """The taps that are set; all features are computed where one tells them."""
    total = sum(settings.ensemble.weights.values()) or 1.0  # the forecast may be the only voter
    alphas = tuple(
        Alpha(_indicator(name, getattr(settings.alphas, name)), settings.ensemble.weights[name] / total,
              getattr(settings.alphas, name).life) for name in settings.ensemble.voters)  # fmt: skip
    wanted = features.Params(set="all" if FEATURES in settings.live.taps else "risk")
    decide = pipeline.decide_params(msgspec.structs.replace(settings, features=wanted), minutes)
    return Params(frozenset(settings.live.taps), settings.live.timeframe, minutes, alphas, decide)


def _indicator(name: str, params: Any) -> str:
    """The alpha with its lengths, as `macd_12_26_9`."""
    lengths = [getattr(params, one) for one in ("period", "fast", "slow", "signal") if hasattr(params, one)]
    return "_".join(map(str, (name, *lengths)))


def draw(stream: "KeyedStream[Item]", settings: Settings, where: Cluster, minutes: int) -> None:
    """Add the taps to a flow."""
    import bytewax.operators as op

    params = params_of(settings, minutes)
    if not params.topics:
        return
    tapped = late("taps", stream, start(params), partial(step, params), _closes)
    for topic in sorted(params.topics):
        own = op.flat_map(f"{topic}_tap".replace(".", "_"), tapped, partial(of_topic, topic))
        op.output(topic.replace(".", "_"), own, GatedSink(where, topic, "decide", partition_of))


def _closes(item: Item) -> bool:
    slices = item.slices if isinstance(item, RawFrame) else item.signals.bars.slices
    return slices.closes


def step(params: Params, state: State, item: Item) -> tuple[State, dict[str, list[Record]]]:
    """The records of one frame, by topic."""
    if isinstance(item, RawFrame):
        state, opinions = _opined(params, state, item)
        models = state.decide.forecast.models
    else:
        opinions, models = item.opinions, item.models
    state = _widened(state, opinions)
    made: dict[str, Callable[[], Iterator[Record]]] = {
        FEATURES: lambda: _features(params, state, opinions),
        FORECASTS: lambda: _forecasts(params, state, opinions.forecast, models),
    }
    records = {topic: list(make()) for topic, make in made.items() if topic in params.topics}
    if VIEWS in params.topics:
        votes, records[VIEWS] = _views(params, state, opinions)
        state = state._replace(votes=votes)
    return state, records


def _opined(params: Params, state: State, frame: RawFrame) -> tuple[State, OpinionFrame]:
    """What decide weighed; anew from nothing where frames went by without it, while a model was configured."""
    slices = frame.slices
    before = state.decide if slices.after == state.upto else pipeline.start(params.decide)
    after, opinions = pipeline.opine(params.decide, before, frame)
    if FEATURES not in params.topics:  # should they be wanted later, windows must not go on from before the gap
        after = after._replace(features=features.start()._replace(risk=after.features.risk))
    return state._replace(upto=slices.upto, decide=after), opinions


def _widened(state: State, opinions: OpinionFrame) -> State:
    """With the symbols that are new."""
    bars, names, votes = opinions.features.bars, state.names, state.votes
    slots = max(bars.slots, names.size, *(entry.slot + 1 for entry in bars.listed), 0)
    if slots > names.size or bars.listed:
        names = np.zeros(slots, names.dtype)
        names[: state.names.size] = state.names
        for entry in bars.listed:
            names[entry.slot] = entry.name.encode()
    if slots > votes.shape[1]:
        votes = np.pad(votes, ((0, 0), (0, slots - votes.shape[1])))
    return state._replace(names=names, votes=votes)


def _features(params: Params, state: State, opinions: OpinionFrame) -> Iterator[Record]:
    """One record per bar; NaN before warm."""
    frame = opinions.features
    bars = frame.bars
    columns = {name: frame.column(name).tolist() for name in NAMED}
    for name in WHOLE:
        columns[name] = frame.column(name).astype(int).tolist()
    for k, (ts, slot) in enumerate(zip(bars.slices.ts[bars.at].tolist(), bars.slot.tolist(), strict=True)):
        name = state.names[slot].decode()
        if not name:
            continue
        key = moment_key("features", name, ts)
        event = MarketEngineered(**_envelope(params, FEATURES, key, name, ts),
                                 **{column: values[k] for column, values in columns.items()})  # fmt: skip
        yield _record(key, ts, name, event)


def _forecasts(params: Params, state: State, frame: ForecastFrame | None, models: Names) -> Iterator[Record]:
    """One record per forecast that was made."""
    if frame is None:
        return
    bars = frame.features.bars
    for k in np.flatnonzero(frame.age == 0).tolist():
        name, ts = state.names[bars.slot[k]].decode(), int(bars.slices.ts[bars.at[k]])
        if not name:
            continue
        model = models[frame.model[k] - 1].decode()
        quantiles = frame.quantiles[k]
        key = f"{moment_key('forecast', name, ts)}:{model}"
        by_horizon = {f"horizon_{bars_ahead}_{q}": value
                      for bars_ahead, values in zip(frame.horizons, quantiles.tolist(), strict=True)
                      for q, value in zip(("q10", "q50", "q90"), values, strict=True)
                      if f"horizon_{bars_ahead}_{q}" in Prediction.__struct_fields__}  # fmt: skip
        event = Prediction(
            **_envelope(params, FORECASTS, key, name, ts),
            prediction=float(bars.close[k]) * math.exp(quantiles[frame.decision, 1]),
            confidence=float(frame.probability[k]), horizon_minutes=frame.horizons[frame.decision] * params.minutes,
            model_version=model, direction=DIRECTIONS[frame.direction[k]], horizon_bars=list(frame.horizons),
            quantiles=quantiles.ravel().tolist(), **by_horizon,
        )  # fmt: skip
        yield _record(key, ts, name, event)


def _views(params: Params, state: State, opinions: OpinionFrame) -> tuple[Floats, list[Record]]:
    """One record per view that begins, ends or begins anew; and the last votes."""
    bars, votes = opinions.features.bars, opinions.votes
    last, records = state.votes.copy(), []
    edges = np.searchsorted(bars.at, np.arange(bars.slices.size + 1)).tolist()  # a slice has one bar of a symbol
    for first, end, ts in zip(edges, edges[1:], bars.slices.ts.tolist(), strict=False):
        slots, own = bars.slot[first:end], votes[:, first:end]
        before = last[:, slots]
        changed = (np.sign(own) != np.sign(before)) | (np.abs(own) > np.abs(before))
        last[:, slots] = own
        for row, alpha in zip(*np.nonzero(changed.T), strict=True):
            name = state.names[slots[row]].decode()
            if not name:
                continue
            records.append(_view(params, params.alphas[alpha], name, ts, float(own[alpha, row])))
    return last, records


def _view(params: Params, alpha: Alpha, name: str, ts: int, vote: float) -> Record:
    key = f"{moment_key('view', name, ts)}:{alpha.indicator}"
    direction = "UP" if vote > 0.0 else "DOWN" if vote < 0.0 else "FLAT"
    told = _envelope(params, VIEWS, key, name, ts, f"lean_alpha:{alpha.indicator}")
    event = AlphaSignal(**told, indicator=alpha.indicator, direction=direction,
                        weight=alpha.weight, bars_left=round(abs(vote) * alpha.life))  # fmt: skip
    return _record(key, ts, name, event)


def _envelope(params: Params, topic: str, key: str, name: str, ts: int, source: str = "decide") -> dict[str, Any]:
    return envelope(topic, key, name, ts, source, correlation_id(name, ts, params.timeframe))


def _record(key: str, ts: int, name: str, event: msgspec.Struct) -> Record:
    return event_record(key, ts, name.encode(), event)
