"""The diagram itself: `decide` (bars -> scored signals, by shard) and `trade` (signals -> ledger, one account).

raw bars ─ clean ─ features ─ forecast ─ alphas ─ regime ─ ensemble ─ filters ─┐ 16 shards
                                                                            barrier ─ account ─► ledger

The forecast is there where a model is configured; without one nothing of it is computed.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
import numpy as np

from infra.parcels import Parcel, opened
from infra.settings import Settings
from operators import barrier, clean, ensemble, features, filters, forecast, outcome, regime, scoring
from operators.alphas import ALPHAS
from operators.drive import replay, scan
from operators.ensemble import FREE, Toll
from operators.forecast import Forecaster
from operators.forecast import Params as Forecast
from risk import account
from risk.ledger import LedgerFrame
from risk.limits import Params as Account
from schemas.calendar import DAY, timeframe_name
from schemas.frames import NO_OUTCOMES, SHARDS, BarFrame, Names, OpinionFrame, RawFrame, SignalFrame

if TYPE_CHECKING:
    from bytewax.operators import KeyedStream

# Of the symbol side, by shard. Bytewax reads part i of a source on worker i mod n and keeps a key's state on worker
# hash(key) mod n: each of these names begins with its shard and has a hash of it mod 16, so for any n that divides 16
# a partition of the log is decided where it is read, and every worker has as many shards.
# tests/dataflows/test_shard_keys.py holds that.
KEYS = ("00z", "01ai", "02aw", "03s", "04g", "05v", "06i", "07o",
        "08j", "09b", "10c", "11b", "12d", "13v", "14ab", "15j")  # fmt: skip
# The same of a backtest without a model: none on an even worker. The account, which is on worker 0 with what it writes,
# takes longer than all decisions; and nothing of the bars, which worker 1 reads, need go there but what was decided.
ASIDE = ("00s", "01e", "02g", "03af", "04z", "05g", "06o", "07a",
         "08i", "09t", "10d", "11t", "12ae", "13t", "14ao", "15r")  # fmt: skip
ACCOUNT = "account"  # the one key of the trading side
WRITER = "accountb"  # the same in a backtest: on worker 0, where Bytewax has a sink's only part


def partition_of(key: str) -> int:
    """The shard, and with that the partition, of a key of the symbol side."""
    return int(key[:2])


class Decide(NamedTuple):
    """What the symbol side is told; every operator's Params, the alphas' in order of their weights."""

    clean: clean.Params
    features: features.Params
    alphas: tuple[tuple[str, Any], ...]
    regime: regime.Params
    ensemble: ensemble.Params
    filters: filters.Params
    end_of_day: bool
    forecast: Forecast = Forecast()
    forecaster: Forecaster | None = None  # None: no model is configured
    toll: Toll = FREE


class Decided(NamedTuple):
    """Signals, and what they were made of."""

    opinions: OpinionFrame
    signals: SignalFrame
    models: Names  # by number


class State(NamedTuple):
    """The states of the symbol side's operators, for one shard."""

    version: int
    clean: clean.State
    features: features.State
    alphas: tuple[Any, ...]
    regime: regime.State
    ensemble: ensemble.State
    filters: filters.State
    forecast: forecast.State
    outcome: outcome.State


def decide_params(settings: Settings, timeframe: int, forecaster: Forecaster | None = None) -> Decide:
    """The symbol side's share of the settings, for bars of so many minutes; `forecaster`: the models, if any."""
    chosen = []
    for name in settings.ensemble.voters:
        params = getattr(settings.alphas, name)
        if name == "macd" and params.form == "auto":
            params = msgspec.structs.replace(params, form="signal" if timeframe == DAY else "histogram")
        chosen.append((name, params))
    wanted = settings.features if forecaster is None else features.Params(set="all")
    return Decide(settings.clean, wanted, tuple(chosen), settings.regime, settings.ensemble, settings.filters,
                  settings.exits.end_of_day, settings.forecast, forecaster, _toll(settings, timeframe))  # fmt: skip


def _toll(settings: Settings, timeframe: int) -> Toll:
    """What a round trip costs on both sides, as a share of what an order is worth at most."""
    venue, worth = settings.venue, settings.rules.max_notional_usd
    commission = venue.commission_usd / worth if worth > 0.0 else 0.0
    floor = settings.ensemble.return_floors.get(timeframe_name(timeframe), 0.0)
    return Toll(2.0 * (venue.slippage_bps / 10_000 + commission), floor)


def start(params: Decide) -> State:
    """Nothing seen yet."""
    alphas = tuple(ALPHAS[name].start() for name, _ in params.alphas)
    return State(3, clean.start(), features.start(), alphas, regime.start(), ensemble.start(), filters.start(),
                 forecast.start(), outcome.start())  # fmt: skip


def opine(params: Decide, state: State, frame: RawFrame) -> tuple[State, OpinionFrame]:
    """Bars -> all that the ensemble weighs."""
    clean_state, bars = clean.step(params.clean, state.clean, frame)
    features_state, featured = features.step(params.features, state.features, bars)
    alpha_states, votes = _vote(params, state, bars)
    regime_state, trend = regime.step(params.regime, state.regime, bars)
    forecast_state, outlook = state.forecast, None
    outcome_state, judged = state.outcome, NO_OUTCOMES
    if params.forecaster is not None:
        forecast_state, outlook = forecast.step(params.forecast, params.forecaster, state.forecast, featured)
        outcome_state, judged = outcome.step(state.outcome, outlook)
    opinions = OpinionFrame(featured, votes, trend.regime, outlook, judged)
    return state._replace(clean=clean_state, features=features_state, alphas=alpha_states, regime=regime_state,
                          forecast=forecast_state, outcome=outcome_state), opinions  # fmt: skip


def _vote(params: Decide, state: State, bars: BarFrame) -> tuple[tuple[Any, ...], Any]:
    votes = np.empty((len(params.alphas), bars.at.size))
    states = []
    for k, (name, alpha) in enumerate(params.alphas):
        after, view = ALPHAS[name].step(alpha, state.alphas[k], bars)
        states.append(after)
        votes[k] = view.vote
    return tuple(states), votes


def step(params: Decide, state: State, frame: RawFrame) -> tuple[State, SignalFrame]:
    """The symbol side of one shard, fused into one hop."""
    rule = None
    if params.forecaster is None and params.features.set == "risk":
        rule = scoring.rule_of(params.clean, params.alphas, params.regime, params.ensemble, params.filters,
                               params.end_of_day)  # fmt: skip
    if rule is None:
        return score(params, *opine(params, state, frame))
    before = scoring.State(state.clean, state.features, state.alphas, state.regime, state.filters)
    after, signals = scoring.step(rule, before, frame)
    return State(state.version, after.clean, after.features, after.alphas, after.regime, state.ensemble, after.filters,
                 state.forecast, state.outcome), signals  # fmt: skip


def step_openly(params: Decide, state: State, frame: RawFrame) -> tuple[State, Decided]:
    """The same, and what is otherwise let go."""
    state, opinions = opine(params, state, frame)
    state, signals = score(params, state, opinions)
    return state, Decided(opinions, signals, state.forecast.models)


def score(params: Decide, state: State, opinions: OpinionFrame) -> tuple[State, SignalFrame]:
    """Opinions -> scored and filtered signals."""
    ensemble_state, scored = ensemble.step(params.ensemble, state.ensemble, opinions, params.toll)
    filters_state, signals = filters.step(params.filters, params.end_of_day, state.filters, scored)
    return state._replace(ensemble=ensemble_state, filters=filters_state), signals


def decide(
    step_id: str,
    frames: "KeyedStream[RawFrame] | KeyedStream[Parcel[RawFrame]]",
    params: Decide,
    keep: Callable[[RawFrame, State], None] | None = None,
) -> "KeyedStream[SignalFrame]":
    """One state per shard, so it scales with the workers; frames may come in parcels."""
    return scan(step_id, cast(Any, frames), start(params), partial(step, params), keep=keep, opened=opened)


def trade(
    step_id: str,
    signals: "KeyedStream[SignalFrame]",
    params: Account,
    after: int,
    key: str = ACCOUNT,
    pack: Callable[[list[SignalFrame]], Parcel[list[SignalFrame]]] | None = None,
) -> "KeyedStream[LedgerFrame]":
    """One key, so one writer of cash and positions; `after` is where the log begins, UTC ns."""
    import bytewax.operators as op

    def keyed(items: list[tuple[str, SignalFrame]]) -> list[tuple[str, Any]]:
        frames = [frame for _, frame in items]  # in one parcel: they have slices and memory in common
        return [(key, frame) for frame in frames] if pack is None else [(key, pack(frames))]

    one = op.flat_map_batch(f"{step_id}_key", signals, keyed)
    slices = scan(f"{step_id}_barrier", one, barrier.start(after), barrier.step, barrier.restore, opened=opened)
    return scan(f"{step_id}_account", slices, account.start(params), partial(account.step, params))


def run(chunks: Iterable[list[RawFrame]], decide: Decide, params: Account, after: int) -> Iterator[LedgerFrame]:
    """The same diagram driven by a plain loop, without Bytewax."""
    slices = replay(barrier.start(after), barrier.step, signals(chunks, decide))
    return replay(account.start(params), partial(account.step, params), slices)


def signals(chunks: Iterable[list[RawFrame]], params: Decide) -> Iterator[SignalFrame]:
    """The symbol side by a plain loop: each shard with its own state."""
    states = {shard: start(params) for shard in range(SHARDS)}
    for chunk in chunks:
        for frame in chunk:
            states[frame.shard], answer = step(params, states[frame.shard], frame)
            yield answer
