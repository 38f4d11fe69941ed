"""The promises that every operator makes, written once and applied to all.

An operator is fed by those before it, so each case runs the pipeline up to and including one operator and
compares that operator's answers, row by row and bit by bit. A new operator adds one line to OPERATORS.
"""

import atexit
import copy
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows import pipeline
from infra.forecaster import Event, Forecaster
from infra.settings import load
from operators import alphas, barrier, clean, drive, ensemble, features, filters, forecast, outcome, regime
from risk import account
from schemas.frames import BarFrame, FeatureFrame, ForecastFrame, OpinionFrame, Outcomes, RawFrame, SliceFrame
from tests.markets import Market, altered_after, calendar_of, cuts, make, markets, shuffled
from tests.models import bundles
from tests.plain import plain

SETTINGS = load(None, ["filters.min_average_volume=20000", "clean.max_jump=0.04", "clean.stale_bars=1"], environ={})
DECIDE = pipeline.decide_params(SETTINGS, 30)
ACCOUNT = SETTINGS.account
AT_BROKER = load(None, ["venue.kind=broker"], environ={}).account


@cache
def models() -> Forecaster:
    """Two small models: one from the start, another in the second session, none in the fourth, then one again."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    about = {"feature_set": features.set_hash(features.Params(set="all")), "timeframe": 30}
    sure = bundles.Calibration(a=-4.0, b=2.0, fitted=True, kept=True)
    one = bundles.make(folder, 6, reference=bundles.Reference(edge=2.0), **about).name
    two = bundles.make(folder, 9, seed=1, calibration=sure, **about).name
    calendar = calendar_of(30)
    market = make(1)
    opens = calendar.opens[calendar.opens > market.after]
    events = [Event(int(ts), id_) for ts, id_ in zip(opens[[0, 1, 3, 4]] + 1, (one, two, "", one), strict=True)]
    return Forecaster(events, {}, folder, calendar, market.after).open(2**62)


FORECAST = forecast.Params(forecast_every=2, max_age_bars=3, drift=forecast.Drift(share=0.0))
DRIFTS = forecast.Params(forecast_every=1, max_age_bars=3, drift=forecast.Drift(window=8, least=4))
OUTLOOK = pipeline.decide_params(SETTINGS, 30, models())._replace(forecast=FORECAST)


def told(_: Market, chunks: list) -> Iterator[Any]:
    """Raw frames with the models' events."""
    return (models().told(frame) for chunk in chunks for frame in chunk)


def featured(market: Market, chunks: list) -> Iterator[FeatureFrame]:
    states: dict[int, Any] = {}
    for frame in bars(market, [list(told(market, chunks))]):
        before = states.get(frame.shard, features.start())
        states[frame.shard], answer = features.step(features.Params(set="all"), before, frame)
        yield answer


def forecasts(market: Market, chunks: list) -> Iterator[ForecastFrame]:
    states: dict[int, Any] = {}
    for frame in featured(market, chunks):
        before = states.get(shard(frame), forecast.start())
        states[shard(frame)], answer = forecast.step(FORECAST, models(), before, frame)
        yield answer


def outlooks(market: Market, chunks: list) -> Iterator[OpinionFrame]:
    states: dict[int, Any] = {}
    for frame in told(market, chunks):
        before = states.get(frame.shard, pipeline.start(OUTLOOK))
        states[frame.shard], answer = pipeline.opine(OUTLOOK, before, frame)
        yield answer


def bars(market: Market, chunks: list) -> Iterator[BarFrame]:
    """What `clean` lets through, frame by frame; every shard has its own state."""
    states: dict[int, Any] = {}
    for frame in (frame for chunk in chunks for frame in chunk):
        before = states.get(frame.shard, clean.start())
        states[frame.shard], answer = clean.step(DECIDE.clean, before, frame)
        yield answer


def opinions(market: Market, chunks: list) -> Iterator[OpinionFrame]:
    states: dict[int, Any] = {}
    for frame in (frame for chunk in chunks for frame in chunk):
        before = states.get(frame.shard, pipeline.start(DECIDE))
        states[frame.shard], answer = pipeline.opine(DECIDE, before, frame)
        yield answer


def scored(market: Market, chunks: list) -> Iterator[Any]:
    for frame in opinions(market, chunks):
        yield ensemble.step(DECIDE.ensemble, ensemble.start(), frame)[1]


def slices(market: Market, chunks: list) -> Iterator[SliceFrame]:
    signals = pipeline.signals(chunks, DECIDE)
    return drive.replay(barrier.start(market.after), barrier.step, signals)


@dataclass(frozen=True)
class Operator:
    """An operator under test: what feeds it, its step, and whether each shard has its own state."""

    name: str
    module: Any
    feed: Callable[[Market, list], Iterator[Any]]
    start: Callable[[Market], Any]
    step: Callable[[Any, Any], tuple[Any, Any]]
    restore: Callable[[Any, Any], Any] = drive.unflat
    by_shard: bool = True


ALPHAS = [
    Operator(name, module, bars, lambda _, m=module: m.start(), partial(module.step, module.Params()))
    for name, module in alphas.ALPHAS.items()
]
OPERATORS = [
    Operator("clean", clean, lambda _, chunks: (f for c in chunks for f in c), lambda _: clean.start(),
             partial(clean.step, DECIDE.clean)),
    Operator("features", features, bars, lambda _: features.start(), partial(features.step, features.Params())),
    Operator("all features", features, bars, lambda _: features.start(),
             partial(features.step, features.Params(set="all"))),
    *ALPHAS,
    Operator("macd by signal", alphas.ALPHAS["macd"], bars, lambda _: alphas.ALPHAS["macd"].start(),
             partial(alphas.ALPHAS["macd"].step, alphas.ALPHAS["macd"].Params(form="signal", bounce=0.001))),
    Operator("regime", regime, bars, lambda _: regime.start(), partial(regime.step, regime.Params())),
    Operator("ensemble", ensemble, opinions, lambda _: ensemble.start(), partial(ensemble.step, DECIDE.ensemble)),
    Operator("filters", filters, scored, lambda _: filters.start(), partial(filters.step, DECIDE.filters, True)),
    *(Operator(name, forecast, featured, lambda _: forecast.start(), partial(forecast.step, params, models()))
      for name, params in (("forecast", FORECAST), ("forecast that drifts", DRIFTS))),
    Operator("outcome", outcome, forecasts, lambda _: outcome.start(), outcome.step),
    Operator("ensemble with a forecast", ensemble, outlooks, lambda _: ensemble.start(),
             lambda state, frame: ensemble.step(OUTLOOK.ensemble, state, frame, OUTLOOK.toll)),
    Operator("decide with a model", pipeline, told, lambda _: pipeline.start(OUTLOOK), partial(pipeline.step, OUTLOOK)),
    Operator("barrier with a model", barrier,
             lambda market, chunks: pipeline.signals([list(told(market, chunks))], OUTLOOK),
             lambda market: barrier.start(market.after), barrier.step, barrier.restore, by_shard=False),
    Operator("strict filters", filters, scored, lambda _: filters.start(),
             partial(filters.step, filters.Params(missing_data="refuse"), False)),
    Operator("decide", pipeline, lambda _, chunks: (f for c in chunks for f in c),
             lambda _: pipeline.start(DECIDE), partial(pipeline.step, DECIDE)),
    Operator("barrier", barrier, lambda _, chunks: pipeline.signals(chunks, DECIDE),
             lambda market: barrier.start(market.after), barrier.step, barrier.restore, by_shard=False),
    *(Operator(name, account, slices, lambda _, one=params: account.start(one), partial(account.step, params),
               by_shard=False)
      for name, params in (("account", ACCOUNT), ("account at a silent broker", AT_BROKER))),
]  # fmt: skip
each = pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)


def answers(op: Operator, market: Market, chunks: list, stop_at: int | None = None) -> list[Any]:
    """All answers; with `stop_at`, every state is pickled and restored after so many frames."""
    states: dict[int, Any] = {}
    given_answers = []
    for n, frame in enumerate(op.feed(market, chunks)):
        key = shard(frame) if op.by_shard else 0
        if n == stop_at:
            states = {k: revive(op, market, state) for k, state in states.items()}
        states[key], answer = op.step(states.get(key, op.start(market)), frame)
        if answer is not None:
            given_answers.append(answer)
    return given_answers


def revive(op: Operator, market: Market, state: Any) -> Any:
    """A state as it comes back from a recovery store."""
    first = op.start(market)
    stored = pickle.dumps(drive.Snapshot(state, first))
    assert b"operators" not in stored  # it knows nothing of ours
    return op.restore(first, pickle.loads(stored))


def shard(frame: Any) -> int:
    """The shard of any symbol-side frame."""
    while not hasattr(frame, "shard"):
        frame = getattr(frame, "bars", None) or frame.features
    return frame.shard


def table(given_answers: list[Any]) -> dict[str, np.ndarray]:
    """Every array of the answers, by path, in one order of rows that no cutting can change."""
    parts: dict[str, list[np.ndarray]] = {}
    for answer in given_answers:
        for path, column in columns(answer):
            parts.setdefault(path, []).append(column)
    return {path: np.concatenate(columns_) for path, columns_ in parts.items()}


# of bars beside them: what is there only once some symbol had a split, by slice, or a sum over the frame
SKIPPED = {"shard", "listed", "starts", "rank", "names", "slot", "after", "upto", "waiting", "bars.at", "scale",
           "market", "actions", "quality", "models"}  # fmt: skip


ROWS = ("symbol", "open", "high", "low", "close", "volume", "half_spread", "volatility", "direction", "score",
        "confidence", "regime", "views", "reason", "q10", "q50", "q90", "probability", "age", "model",
        "is_calibrated")  # fmt: skip


def columns(value: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a frame; places become times, totals and symbol tables are left out."""
    name = path.rsplit(".", 1)[-1]
    if name in SKIPPED or (name in {"rows", "stopped", "funds"} and not hasattr(value, "shape")):
        return
    if isinstance(value, BarFrame):
        yield f"{path}.ts", value.slices.ts[value.at]
        yield f"{path}.scale", value.scale if value.scale.size else np.ones(value.at.size)
    if isinstance(value, Outcomes):
        yield from ((f"{path}.{field}", column) for field, column in value._asdict().items())
    if isinstance(value, SliceFrame):
        yield f"{path}.acted.ts", value.slices.ts[value.actions.at]
        yield from columns(value.actions, f"{path}.acted")
        yield f"{path}.row.ts", np.repeat(value.slices.ts, np.diff(value.starts))
        yield from columns(value.slices, f"{path}.slices")
        yield from columns(value.refused, f"{path}.refused")
        yield from columns(value.outcomes, f"{path}.outcomes")
        for field in ROWS:
            column = getattr(value, field)
            yield f"{path}.row.{field}", column[value.order] if column.size else column
    elif hasattr(value, "__dataclass_fields__"):
        for field in value.__dataclass_fields__:
            yield from columns(getattr(value, field), f"{path}.{field}")
    elif isinstance(value, np.ndarray) and value.dtype.names:
        for field in value.dtype.names if name != "funds" else ():  # not whole rows: they have padding
            yield f"{path}.{field}", value[field]
    elif isinstance(value, np.ndarray) and name not in {"at", "stopped", "funds"}:
        yield path, value.T if name == "votes" else value


def by_symbol(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same rows in order of symbol, then time: the shards' frames interleave differently when cut."""
    ts = next((v for k, v in found.items() if k.endswith(".ts") and "slices" not in k and "refused" not in k), None)
    who = next((v for k, v in found.items() if k.endswith(".symbol") and "refused" not in k), None)
    if ts is None or who is None:
        return found
    order = np.lexsort((ts, who))
    judged = {k: v for k, v in found.items() if ".outcomes." in k}
    if judged:  # rows of their own
        parts = [next(v for k, v in judged.items() if k.endswith(name)) for name in (".horizon", ".ts", ".symbol")]
        judged = {k: v[np.lexsort(parts)] for k, v in judged.items()}
    return judged | {k: v[order] if v.shape[:1] == ts.shape and "slices" not in k and "refused" not in k else v
                     for k, v in found.items()
                     if "slices" not in k and "refused" not in k and k not in judged}  # fmt: skip


def bits(op: Operator, given_answers: list[Any]) -> dict[str, bytes]:
    """What two runs must agree on."""
    found = table(given_answers)
    return {path: np.ascontiguousarray(v).tobytes() for path, v in (by_symbol(found) if op.by_shard else found).items()}


@each
@given(market=markets, where=cuts)
def test_the_size_of_a_frame_is_only_a_matter_of_speed(op: Operator, market: Market, where: list[int]) -> None:
    whole = bits(op, answers(op, market, market.chunks()))
    assert bits(op, answers(op, market, market.chunks(where))) == whole


@each
@given(market=markets)
def test_a_slice_a_frame_gives_the_same_bits(op: Operator, market: Market) -> None:
    whole = bits(op, answers(op, market, market.chunks()))
    assert bits(op, answers(op, market, market.chunks(list(range(200))))) == whole


@each
@given(market=markets, where=cuts, stop=st.integers(0, 120))
def test_resumes_as_if_never_stopped(op: Operator, market: Market, where: list[int], stop: int) -> None:
    chunks = market.chunks(where)
    assert bits(op, answers(op, market, chunks, stop)) == bits(op, answers(op, market, chunks))


@each
@given(market=markets, share=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_the_future_changes_nothing(op: Operator, market: Market, share: float, seed: int) -> None:
    last = int(share * (market.last - market.first - 1))
    other = altered_after(market, last, seed)
    head = [last + 1]
    known = answers(op, market, market.chunks(head)[:1])
    told = answers(op, other, other.chunks(head)[:1])
    assert bits(op, known) == bits(op, told)
    ts = market.calendar.ts_at(market.first + last)
    assert until(ts, op, answers(op, market, market.chunks())) == until(ts, op, answers(op, other, other.chunks()))


def until(ts: int, op: Operator, given_answers: list[Any]) -> dict[str, bytes]:
    """The rows up to an instant, of answers that saw all of time at once."""
    found = by_symbol(table(given_answers)) if op.by_shard else table(given_answers)
    times = {path: v for path, v in found.items() if path.endswith(".ts")}
    rows = {}
    for path, values in found.items():
        table_ = path.rsplit(".", 1)[0]
        times_ = [found.get(f"{table_}.{name}") for name in ("exit_ts", "ts")]
        group = [v for v in times_ if v is not None and v.size == len(values)]
        group = group or [v for v in times.values() if v.size == len(values)]
        if group:
            rows[path] = values[group[0] <= ts]
    return {path: np.ascontiguousarray(v).tobytes() for path, v in rows.items()}


@each
@given(market=markets, seed=st.integers(0, 99))
def test_the_order_of_rows_and_shards_does_not_matter(op: Operator, market: Market, seed: int) -> None:
    other = shuffled(market, seed)
    rng = np.random.default_rng(seed)
    mixed = [[chunk[k] for k in rng.permutation(len(chunk))] for chunk in other.chunks([20])]
    assert bits(op, answers(op, market, market.chunks([20]))) == bits(op, answers(op, other, mixed))


@each
@given(market=markets)
def test_leaves_what_it_was_given_alone(op: Operator, market: Market) -> None:
    state = op.start(market)
    for frame in list(op.feed(market, market.chunks([30])))[:20]:
        own = replace(frame, space=None) if isinstance(frame, RawFrame) else frame  # space is there to be written into
        before = pickle.dumps((drive.flat(state), own))
        after, _ = op.step(state, frame)
        assert pickle.dumps((drive.flat(state), own)) == before
        state = op.start(market) if op.by_shard else after


@pytest.mark.parametrize("op", [op for op in OPERATORS if op.module is not pipeline], ids=lambda op: op.name)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_compiled_or_not_the_bits_are_the_same(op: Operator, seed: int) -> None:
    market = make(seed, sessions=9, symbols=3, beside=True)
    chunks = market.chunks([17])
    compiled = bits(op, answers(op, market, chunks))
    with undone(op.module):
        assert bits(op, answers(op, market, chunks)) == compiled


class undone:  # noqa: N801  (used as a statement)
    """Run a module's step in plain Python."""

    def __init__(self, module: Any):
        names = [n for n in vars(module) if n.startswith("advance") or n == "arrange"]
        self.patches = [patch.object(module, n, plain(getattr(module, n))) for n in names]

    def __enter__(self) -> None:
        for one in self.patches:
            one.start()

    def __exit__(self, *_: Any) -> None:
        for one in self.patches:
            one.stop()


@given(order=st.permutations(range(5)), seed=st.integers(0, 2**32))
def test_names_decide_and_ids_do_not(order: list[int], seed: int) -> None:
    """The same market under another assignment of ids gives the same ledger, by name."""
    one, two = make(seed, symbols=5, beside=True), make(seed, symbols=5, order=tuple(order), beside=True)
    assert named(one) == named(two)


def named(market: Market) -> list[Any]:
    rows = []
    for ledger in pipeline.run(market.chunks([33]), DECIDE, ACCOUNT, market.after):
        for kind in ("verdicts", "orders", "updates", "fills", "trades"):
            for row in copy.deepcopy(getattr(ledger, kind)):
                rows.append((kind, ledger.names[row.symbol], *[v for n, v in zip(row.dtype.names, row, strict=True)
                                                               if n != "symbol"]))  # fmt: skip
    return rows


def test_a_missing_frame_stops_the_barrier() -> None:
    market = make(1)
    frames = list(pipeline.signals(market.chunks([20, 40]), DECIDE))
    late = [f for f in frames if f.bars.shard == 3]
    state = barrier.start(market.after)
    with pytest.raises(barrier.GapError, match="shard 3"):
        barrier.step(state, late[1])


def test_a_snapshot_of_another_version_is_refused() -> None:
    state = clean.start()
    with pytest.raises(drive.StateVersionError, match="version 7"):
        drive.unflat(state, (7, *drive.flat(state)[1:]))


def test_a_snapshot_without_bytes_is_read_too_and_one_of_other_columns_is_refused() -> None:
    first = clean.start()
    assert repr(drive.unflat(first, drive.flat(first))) == repr(drive.unflat(first, drive.flat(first, first)))
    version, (shape, text), *rest = drive.flat(first._replace(rows=np.zeros(3, first.rows.dtype)), first)
    with pytest.raises(drive.StateVersionError, match="other columns"):
        drive.unflat(first, (version, (shape, text[1:]), *rest))
