"""Folds in time, what a model would have earned out of sample, and the gates it has to pass.

A fold learns from `train` sessions, chooses its epoch on `validation` sessions and is judged on the `test`
sessions after them. Between each two lie `embargo` bars, and a sample whose label reaches into them is
left out. Borders are slices of the calendar; `overlap` checks the result by time, whoever made it.
What is traded out of sample is what the live steps decide (`models.decision`), with nothing that was not known then.
"""

import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from models import baselines, calibration
from models.bundle import Calibration
from models.dataset import Dataset
from models.decision import Decisions, Policy, decide
from models.training import QUANTILES, Folds, Gates, Params
from schemas.errors import UserError
from schemas.events import Absence, Direction, Reason, word
from schemas.frames import Bools, Codes, Floats, Ints, Longs

MODEL = "tft"
IMPLAUSIBLE_SKILL, IMPLAUSIBLE_WINS = 0.5, 0.95  # nobody forecasts prices so well: look for a leak
_NORMAL = NormalDist()
_EULER = 0.5772156649015329


class LeakError(RuntimeError):
    """Something in sample knows what happened out of sample."""


class Fold(NamedTuple):
    """Borders in slices of the calendar; `upto` is the first slice that no longer belongs."""

    number: int  # from 1
    train_from: int
    train_upto: int  # labels end before it
    validation_from: int
    validation_upto: int  # labels end before it
    test_from: int
    test_upto: int


def plan(ds: Dataset, params: Folds) -> list[Fold]:
    """Rolling folds, the last one at the end of the bars. Raises UserError where they do not fit."""
    first, last = int(ds.grid.min()), int(ds.grid.max())
    session = ds.calendar.session_at(np.arange(first, last + 1))
    begins = first + np.flatnonzero(np.diff(session, prepend=-1))  # first slice of every session
    edges = np.append(begins, last + 1)
    own = params.train + params.validation
    needed = own + params.count * params.test
    if begins.size < needed:
        least = (begins.size - own) // params.test
        remedy = f"training.folds.count={least}" if least >= 1 else "training.folds.train, validation and test smaller"
        raise UserError(
            f"{begins.size} sessions of bars; {params.count} folds need {params.train} + {params.validation} + "
            f"{params.count} × {params.test} = {needed}: give more bars or --set {remedy}"
        )
    folds = []
    for number in range(1, params.count + 1):
        test = begins.size - (params.count - number + 1) * params.test
        test_from, validation_from = int(edges[test]), int(edges[test - params.validation])
        folds.append(
            Fold(number, int(edges[test - own]), validation_from - ds.data.embargo, validation_from,
                 test_from - ds.data.embargo, test_from, int(edges[test + params.test]))
        )  # fmt: skip
    return folds


def split(ds: Dataset, fold: Fold) -> tuple[Longs, Longs, Longs]:
    """The samples of a fold: to train, to validate, to test. Raises UserError where one of them is empty."""
    at, known = ds.at, ds.label_end
    parts = (
        np.flatnonzero((at >= fold.train_from) & (known < fold.train_upto)),
        np.flatnonzero((at >= fold.validation_from) & (known < fold.validation_upto)),
        np.flatnonzero((at >= fold.test_from) & (at < fold.test_upto)),
    )
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        if not part.size:
            raise UserError(
                f"fold {fold.number}: no samples to {name}; between blocks lie {ds.data.embargo} bars: "
                f"give training.folds.{name} more sessions"
            )
    return parts


def overlap(ds: Dataset, train: Longs, validation: Longs, test: Longs) -> None:
    """Refuse samples whose label is known later than `embargo` bars before the next block's first decision.

    By time, not by trust: it looks at when samples are decided and when their labels end.
    """
    for name, before, after in (("train", train, validation), ("train", train, test), ("validation", validation, test)):
        ends = int(ds.label_end[before].max())
        begins = int(ds.at[after].min())
        if ends + ds.data.embargo >= begins:
            raise LeakError(
                f"a {name} label ends {begins - ends} bars before the next block, want more than {ds.data.embargo}"
            )


# What trading on a forecast would have brought.


class Trades(NamedTuple):
    """Round trips of one fold, one position per symbol at a time."""

    session: Ints  # of the exit, days since 1970-01-01
    symbol: Ints
    direction: Ints
    result: Floats  # net, a fraction of what was put in


def entries(decisions: Decisions, shorts: bool) -> Codes:
    """Which way each row is traded; a book of longs alone lets shorts be (they would end what it held)."""
    way: Codes = np.where(decisions.reason == Reason.NONE, decisions.direction, Direction.FLAT)
    return way if shorts else np.maximum(way, 0)


def trade(ds: Dataset, which: Longs, direction: Ints | Codes, cost: Floats, upto: int) -> Trades:
    """In at the next open, out at the close of the decision horizon; none that would end at `upto` or later.

    While a position is held nothing is added to it, so results of a symbol never overlap. `cost` is each round trip's.
    """
    horizon = ds.data.decision_horizon
    at, symbol = ds.at[which], ds.symbol[which]
    free: dict[int, int] = {}
    taken = []
    for k in np.flatnonzero(direction).tolist():
        if at[k] >= free.get(int(symbol[k]), 0) and at[k] + horizon < upto:
            free[int(symbol[k])] = int(at[k]) + horizon
            taken.append(k)
    chosen = np.array(taken, np.int64)
    way = direction[chosen].astype(np.int32)
    result = np.asarray(way * np.expm1(ds.returns(which[chosen])) - cost[chosen], np.float64)
    session = ds.calendar.session_at(at[chosen].astype(np.int64) + horizon)
    return Trades(session, symbol[chosen], way, result)


def daily(ds: Dataset, fold: Fold, trades: Trades) -> Floats:
    """Returns by session of the block, booked at the exit; each symbol has an equal share of the money."""
    sessions = np.unique(ds.calendar.session_at(np.arange(fold.test_from, fold.test_upto)))
    own = (ds.at >= fold.test_from) & (ds.at < fold.test_upto)
    symbols = np.unique(ds.symbol[own]).size
    where = np.searchsorted(sessions, trades.session)
    booked: Floats = np.bincount(where, trades.result, minlength=sessions.size) / symbols
    return booked


# One fold.


@dataclass(frozen=True, eq=False, slots=True)
class Learned:
    """What came of fitting the network and the baselines on one fold, by their names."""

    fold: Fold
    samples: tuple[int, int, int]  # train, validation, test
    quantiles: dict[str, Floats]  # of the test samples, [samples, horizons, quantiles] in volatility units
    offsets: dict[str, Floats]  # conformal, from validation
    edges: dict[str, float]  # median of 2 certainty - 1 on validation, corrected
    train_loss: float
    validation_loss: float
    epochs: int
    best: int
    seconds: float  # of the fitting, by the clock
    weights: bytes  # of the network, where they were asked for


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """One model on one fold, out of sample."""

    loss: Floats  # pinball in volatility units, by horizon
    coverage: Floats  # of [q10, q90], by horizon
    corrected: Floats  # the same after the conformal correction
    trades: Trades
    daily: Floats
    ends: dict[str, int]  # where the decisions ended: how many rows for each reason
    score: Floats  # the certainty of its direction at the decision horizon
    correct: Bools


@dataclass(frozen=True, eq=False, slots=True)
class Tried:
    """All of one fold."""

    learned: Learned
    outcomes: dict[str, Outcome]  # the network's and the baselines'
    held: Floats  # returns by session of being long in everything all the time, without costs

    @property
    def fold(self) -> Fold:
        """Its borders."""
        return self.learned.fold


def attempt(params: Params, keep: int, ds: Dataset, fold: Fold) -> Learned:
    """Fit the network and the baselines on one fold; `keep` is the fold whose weights are wanted."""
    import torch

    from models import tft

    begun = time.perf_counter()
    torch.set_num_threads(1)  # so that a fold has the same bits wherever it runs
    train, validation, test = split(ds, fold)
    overlap(ds, train, validation, test)
    fitted = tft.fit(ds, train, validation, params.network)
    found = {MODEL: tuple(tft.quantiles(fitted.model, ds, part).astype(np.float64) for part in (validation, test))}
    for name in baselines.installed(params.baselines):
        both = baselines.BASELINES[name](ds, train, np.concatenate([validation, test]))
        found[name] = (both[: validation.size], both[validation.size :])
    offsets, edges, k = {}, {}, ds.data.decision
    for name, (own, _) in found.items():
        offsets[name] = calibration.conformal(own, ds.label[validation].astype(np.float64))
        sure = calibration.certainty(calibration.widened(own, offsets[name])[:, k])
        edges[name] = float(np.median(2.0 * sure - 1.0))
    weights = io.BytesIO()
    if fold.number == keep:
        torch.save(fitted.model.state_dict(), weights)
    return Learned(
        fold, (train.size, validation.size, test.size), {name: q for name, (_, q) in found.items()}, offsets, edges,
        fitted.train_loss, fitted.validation_loss, fitted.epochs, fitted.best, time.perf_counter() - begun,
        weights.getvalue(),
    )  # fmt: skip


def judge(ds: Dataset, learned: Learned, params: Params, policy: Policy, before: Sequence[Tried] = ()) -> Tried:
    """What all models would have done out of sample; calibrators are those that the folds before had taught."""
    test = split(ds, learned.fold)[2]
    outcomes = {}
    for name in learned.quantiles:
        past = [one.outcomes[name] for one in before]
        rolled = calibration.rolled([o.score for o in past], [o.correct for o in past], params.calibration_least)
        outcomes[name] = _outcome(ds, learned, name, test, rolled.calibration, params, policy)
    always = trade(ds, test, np.ones(test.size, np.int8), np.zeros(test.size), learned.fold.test_upto)
    return Tried(learned, outcomes, daily(ds, learned.fold, always))


def _outcome(
    ds: Dataset, learned: Learned, name: str, test: Longs, known: Calibration, params: Params, policy: Policy
) -> Outcome:
    y, k, around = ds.label[test].astype(np.float64), ds.data.decision, ds.around.at(test)
    q = learned.quantiles[name]
    corrected = calibration.widened(q, learned.offsets[name])
    decisions = decide(policy, ds.symbols, ds.symbol[test], ds.at[test], around, corrected * ds.scale(test)[..., None],
                       k, known, learned.edges[name])  # fmt: skip
    trades = trade(ds, test, entries(decisions, policy.shorts), around.cost, learned.fold.test_upto)
    moved = ds.label[test, k] != 0.0
    return Outcome(
        pinball(y, q), calibration.coverage(q, y), calibration.coverage(corrected, y), trades,
        daily(ds, learned.fold, trades), decisions.tally(), calibration.certainty(corrected[:, k])[moved],
        ((q[:, k, 1] > 0.0) == (y[:, k] > 0.0))[moved],
    )  # fmt: skip


def pinball(y: Floats, q: Floats) -> Floats:
    """By horizon, the mean of max(tau e, (tau - 1) e)."""
    error, at = y[..., None] - q, np.array(QUANTILES)
    loss: Floats = np.maximum(at * error, (at - 1.0) * error).mean(axis=(0, 2))
    return loss


# All folds.

Progress = Callable[[Tried, int], None]  # a fold that is done, and how many there are


def run(ds: Dataset, params: Params, policy: Policy, progress: Progress | None = None) -> list[Tried]:
    """Try every fold, several at a time where cores allow; the results do not depend on how many."""
    folds = plan(ds, params.folds)
    for fold in folds:
        overlap(ds, *split(ds, fold))  # before the first is fitted
    processes = min(params.folds.processes or os.cpu_count() or 1, len(folds))
    done: list[Tried] = []
    for learned in _each(ds, partial(attempt, params, folds[-1].number), folds, processes):
        done.append(judge(ds, learned, params, policy, done))
        if progress is not None:
            progress(done[-1], len(folds))
    return done


def _each(
    ds: Dataset, one: Callable[[Dataset, Fold], Learned], folds: Sequence[Fold], processes: int
) -> Iterator[Learned]:
    if processes == 1:
        yield from (one(ds, fold) for fold in folds)
        return
    with tempfile.TemporaryDirectory(prefix="utp-folds-") as folder:
        _share(ds, Path(folder))
        context = multiprocessing.get_context("spawn")  # torch does not survive a fork
        with ProcessPoolExecutor(processes, context, _open, (folder,)) as pool:
            yield from pool.map(partial(_in_process, one), folds)


def _share(ds: Dataset, folder: Path) -> None:
    """Write the arrays, to be mapped by every process: they are in memory once."""
    import pickle

    rest = {}
    for field in fields(ds):
        value = getattr(ds, field.name)
        if isinstance(value, np.ndarray):
            np.save(folder / f"{field.name}.npy", value)
            value = None
        rest[field.name] = value
    (folder / "rest").write_bytes(pickle.dumps(rest))


_opened: list[Dataset] = []


def _open(folder: str) -> None:
    import pickle

    rest = pickle.loads((Path(folder) / "rest").read_bytes())  # noqa: S301  (written by the parent just now)
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in Path(folder).glob("*.npy")}
    _opened[:] = [Dataset(**{**rest, **arrays})]


def _in_process(one: Callable[[Dataset, Fold], Learned], fold: Fold) -> Learned:
    return one(_opened[0], fold)


# The gates.

Judge = Callable[
    [Floats], dict[str, float]
]  # returns by session -> sharpe, sortino, calmar, max_drawdown, total_return


class Verdict(NamedTuple):
    """What the folds say about a model."""

    folds: list[dict[str, float]]  # of the network, one by one
    reasons: list[str]  # why it is refused; none: it may be promoted
    skill: dict[str, tuple[float, float]]  # of each model against the empirical quantiles: mean over folds, its error


def verdict(tried: Sequence[Tried], gates: Gates, measure: Judge) -> Verdict:
    """Measure every fold and hold it against the gates."""
    rows = [row(one, MODEL, measure) for one in tried]
    skill = {name: skill_of(tried, name) for name in tried[0].outcomes if name != "empirical"}
    return Verdict(rows, refusals(rows, gates, skill[MODEL][0]), skill)


def row(one: Tried, name: str, measure: Judge) -> dict[str, float]:
    """One model's numbers of one fold."""
    outcome = one.outcomes[name]
    results = outcome.trades.result
    return {
        **measure(outcome.daily),
        "trades": float(results.size),
        "win_rate": float((results > 0.0).mean()) if results.size else float("nan"),
        "loss": float(outcome.loss.mean()),
        "coverage": float(outcome.coverage.mean()),
        "coverage_corrected": float(outcome.corrected.mean()),
        "skill": 1.0 - float(outcome.loss.mean() / one.outcomes["empirical"].loss.mean()),
        "drifted": outcome.ends.get(word(Absence.DRIFTED), 0) / max(sum(outcome.ends.values()), 1),
    }


def refusals(rows: Sequence[dict[str, float]], gates: Gates, skill: float = 0.0) -> list[str]:
    """Every gate that is not passed, in words with the value and the bound."""
    why = []
    if len(rows) < gates.folds:
        why.append(f"{len(rows)} folds, want {gates.folds} or more")
    for number, found in enumerate(rows, 1):
        sharpe = found["sharpe"]
        if found["trades"] < gates.trades:
            why.append(f"fold {number}: {found['trades']:.0f} trades, want {gates.trades} or more")
        elif not np.isfinite(sharpe) or sharpe < gates.worst_sharpe:
            why.append(f"fold {number}: Sharpe {sharpe:.2f} under {gates.worst_sharpe:g}")
    for name, bound in (("sharpe", gates.sharpe), ("win_rate", gates.win_rate)):
        found_median = float(np.median([found[name] for found in rows])) if rows else float("nan")
        if not found_median >= bound:
            why.append(f"median {name} {found_median:.2f} under {bound:g}")
    wins = sum(found["win_rate"] * found["trades"] for found in rows if found["trades"])
    trades = sum(found["trades"] for found in rows)
    if skill > IMPLAUSIBLE_SKILL or (trades >= 30 and wins / trades > IMPLAUSIBLE_WINS):
        why.append(
            f"too good to be true: skill {skill:.2f}, {wins / max(trades, 1):.0%} of the trades win; look for a leak"
        )
    return why


def skill_of(tried: Sequence[Tried], name: str) -> tuple[float, float]:
    """1 - loss / loss of the empirical quantiles: mean over folds and its standard error (NaN of one fold)."""
    skills = np.array([1.0 - one.outcomes[name].loss.mean() / one.outcomes["empirical"].loss.mean() for one in tried])
    error = float(skills.std(ddof=1) / np.sqrt(skills.size)) if skills.size > 1 else float("nan")
    return float(skills.mean()), error


def power(gates: Gates, sharpe: float, sessions: int, folds: int, draws: int = 20_000) -> float:
    """The probability that a strategy of this true annual Sharpe ratio passes the two Sharpe gates.

    A block of T years estimates it with deviation sqrt((1 + S^2 / (2 × 252)) / T), blocks independently.
    """
    deviation = np.sqrt((1.0 + sharpe**2 / 504.0) / (sessions / 252.0))
    found = np.random.default_rng(0).normal(sharpe, deviation, (draws, folds))
    passed = (found.min(axis=1) >= gates.worst_sharpe) & (np.median(found, axis=1) >= gates.sharpe)
    return float(passed.mean())


def expected_best(trials: int, samples: int) -> float:
    """The Sharpe ratio per sample that the best of so many worthless configurations shows.

    Source: Bailey and Lopez de Prado, The deflated Sharpe ratio (2014), with the variance 1 / (samples - 1)
    that the ratio of pure noise has. The deflated ratio is the probabilistic one against it.
    """
    if trials < 2 or samples < 2:
        return 0.0
    high = (1.0 - _EULER) * _NORMAL.inv_cdf(1.0 - 1.0 / trials) + _EULER * _NORMAL.inv_cdf(1.0 - 1.0 / (trials * np.e))
    return float(high / np.sqrt(samples - 1))
