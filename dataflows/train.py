"""Training: bars -> dataset -> folds -> gates -> bundle -> registry, with a report: `utp train BARS`.

A model that does not pass is kept and recorded with its reasons; it can be looked at, not promoted.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dataflows import pipeline
from dataflows.sources import Source, open_source
from infra.bars import NO_FILES
from infra.reference import Files
from infra.settings import Settings
from models.bundle import GRAPH, Calibration, Manifest, Reference, publish
from models.dataset import Dataset, build
from models.decision import Policy
from models.registry import Registry, Run, mirror, record
from models.training import QUANTILES, Params, describe
from operators import features, known
from risk import performance
from schemas.errors import UserError
from schemas.frames import Floats, Longs, RawFrame
from schemas.identity import iso

if TYPE_CHECKING:
    from collections.abc import Iterable

    from models.report import Findings
    from models.walk_forward import Tried, Verdict

NEEDED = ("torch", "pytorch_forecasting", "mlflow", "onnx", "onnxscript", "sklearn")
SHARPES = (0.0, 1.0, 2.0, 3.0)  # whose chance to pass is reported
Progress = Callable[[str, int, int, str], None]  # what, done, in all, a note
_REFERENCE_ROWS = 20_000


def run(
    spec: str,
    settings: Settings,
    store: Path,
    *,
    symbols: Sequence[str] = (),
    start: int | None = None,
    stop: int | None = None,
    files: Files = NO_FILES,
    promote: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train, judge, export and register one model; `start`, `stop`: UTC ns, inclusive. Raises UserError, one line."""
    check()
    from models import walk_forward

    params = settings.training
    tell: Progress = progress or (lambda *_: None)
    bars = open_source(spec, settings, symbols=symbols, start=start, stop=stop, files=files)
    _writable(store)
    begun = time.perf_counter()
    policy = policy_of(settings, bars.timeframe)
    ds = build(params.data, bars.calendar, _counted(bars, tell), bars.rows, settings.clean, policy)
    folds = walk_forward.plan(ds, params.folds)
    tell("folds", 0, len(folds), f"{len(ds):,} samples")
    tried = walk_forward.run(ds, params, policy, lambda one, many: tell("folds", one.fold.number, many, _note(one)))
    verdict = walk_forward.verdict(tried, params.gates, measure)
    tell("export", 0, 1, "")
    registry = Registry(store)
    fingerprint, described = bars.fingerprint, describe(params, policy)
    bundle, manifest = _bundle(ds, bars, params, tried, verdict, registry)
    found = _findings(ds, bars, settings, tried, verdict, manifest.id, registry.trials(fingerprint, described))
    page = _report(store, found)
    if not registry.knows(manifest.id):
        run = _run(ds, settings, manifest, tried, verdict, fingerprint, time.perf_counter() - begun)
        ident = record(store, params.tracking, manifest.id, run, bundle, page)
        registry.add(manifest.id, now(), ident, fingerprint, described)
    if promote and manifest.promotable and not registry.is_green(manifest.id):
        registry.promote(manifest.id, now())
    mirror(registry, params.tracking)
    tell("export", 1, 1, manifest.id)
    return _summary(manifest, found, bundle, page, registry)


def check() -> None:
    """Raise UserError unless everything that trains is installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(
            f"utp train needs the extra `train` ({', '.join(missing)} not installed): make setup-train, "
            f"then .venv-train/bin/utp train"
        )


def now() -> str:
    """The time, ISO, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def mirrored(registry: Registry, settings: Settings) -> bool:
    """Show MLflow the states; False where it is not installed: the next training does it."""
    if find_spec("mlflow") is None:
        return False
    mirror(registry, settings.training.tracking)
    return True


def measure(returns: Floats) -> dict[str, float]:
    """Sharpe, Sortino, Calmar, drawdown and total of returns by session; no risk-free rate: the money is not lent."""
    curve = performance.curve_of(returns)
    fall = performance.max_drawdown(curve)
    return {
        "sharpe": performance.sharpe(returns, 0.0),
        "sortino": performance.sortino(returns, 0.0),
        "calmar": performance.calmar(performance.cagr(returns), fall),
        "max_drawdown": fall,
        "total_return": performance.total_return(returns),
    }


def policy_of(settings: Settings, timeframe: int) -> Policy:
    """How forecasts are decided upon: as the live pipeline does with these settings, for bars of so many minutes."""
    own = pipeline.decide_params(settings, timeframe)
    return Policy(own.forecast, own.regime, own.ensemble, own.filters, own.end_of_day, own.toll,
                  settings.rules.allow_short)  # fmt: skip


def _writable(store: Path) -> None:
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {store}: {error.strerror or error}") from error


def _counted(bars: Source, tell: Progress) -> "Iterable[list[RawFrame]]":
    done = 0
    for chunk in bars.frames():
        done += sum(frame.ts.size for frame in chunk)
        tell("features", done, bars.rows, "")
        yield chunk


def _note(one: "Tried") -> str:
    from models.walk_forward import MODEL, row

    found = row(one, MODEL, measure)
    return f"Sharpe {found['sharpe']:.2f}, {found['trades']:.0f} trades, skill {found['skill']:+.2%}"


def _run(
    ds: Dataset, settings: Settings, manifest: Manifest, tried: "Sequence[Tried]", verdict: "Verdict",
    fingerprint: str, seconds: float,
) -> Run:  # fmt: skip
    """What MLflow is told of a training and its folds."""
    tags = {"model_id": manifest.id, "data": manifest.data, "data_fingerprint": fingerprint,
            "feature_set": manifest.feature_set, "symbols": str(len(ds.symbols)), "rows": str(len(ds.matrix)),
            "promotable": str(manifest.promotable).lower(), "reasons": "; ".join(manifest.reasons)}  # fmt: skip
    folds = []
    for one, found in zip(tried, verdict.folds, strict=True):
        learned = one.learned
        sizes = dict(zip(("train_samples", "validation_samples", "oos_samples"), learned.samples, strict=True))
        fitted = {"train_loss": learned.train_loss, "validation_loss": learned.validation_loss,
                  "epochs": learned.epochs, "best_epoch": learned.best,
                  "duration_seconds": learned.seconds}  # fmt: skip
        folds.append({name: float(value) for name, value in {**found, **sizes, **fitted}.items()})
    return Run(
        _decisive(settings), {**manifest.metrics, "samples": float(len(ds)), "duration_seconds": seconds}, tags, folds
    )


# The bundle: the latest fold's model.


def _bundle(
    ds: Dataset, bars: Source, params: Params, tried: "Sequence[Tried]", verdict: "Verdict", registry: Registry
) -> tuple[Path, Manifest]:
    from models import calibration, export, walk_forward

    last, outcomes = tried[-1].learned, [one.outcomes[walk_forward.MODEL] for one in tried]
    offsets = last.offsets[walk_forward.MODEL]
    train, validation, test = walk_forward.split(ds, last.fold)
    model = export.rebuilt(ds, params.network, last.weights)
    export.widen(model, offsets)
    files = export.files(model, ds, _spread(validation, 64))
    some = _spread(np.arange(test.size), 256)
    judged = calibration.widened(last.quantiles[walk_forward.MODEL][some], offsets) * ds.scale(test[some])[..., None]
    export.confirm(model, files[GRAPH], ds, test[some], judged)
    rolled = calibration.rolled([o.score for o in outcomes], [o.correct for o in outcomes], params.calibration_least)
    stamps = ds.ts(train[[0, -1]])
    covered = tuple(outcomes[-1].corrected.tolist())
    end = max(ds.calendar.ts_at(int(slot)) for slot in ds.label_end[train[-len(ds.symbols) :]])
    symbols = () if params.network.unknown == 1.0 else ds.symbols  # else their embeddings never learned
    manifest = Manifest(
        feature_set=features.set_hash(features.Params(set="all")), features=ds.data.features, known=known.NAMES,
        timeframe=bars.timeframe, lookback=ds.data.lookback, horizons=ds.data.horizons,
        decision_horizon=ds.data.decision_horizon, quantiles=QUANTILES, symbols=symbols, gap_days=ds.data.gap_days,
        label="log return from this close to that of the bar so many slices later", trained_from=iso(int(stamps[0])),
        trained_upto=iso(end), data=bars.label, synthetic=bars.synthetic, promotable=not verdict.reasons,
        reasons=tuple(verdict.reasons), calibration=rolled.calibration or Calibration(),
        conformal=tuple(offsets.tolist()),
        reference=Reference(last.edges[walk_forward.MODEL], covered, _deciles(ds, train), _usual(ds, train)),
        metrics=_metrics(tried, verdict, rolled.before, rolled.after), files={},
    )  # fmt: skip
    path = publish(registry.bundles, manifest, files)
    return path, msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)


def _metrics(tried: "Sequence[Tried]", verdict: "Verdict", before: float, after: float) -> dict[str, float]:
    """Medians over folds, and what is said of the whole; only what is a number."""
    found = {f"median_{name}": float(np.median([fold[name] for fold in verdict.folds])) for name in verdict.folds[0]}
    found |= {"folds": float(len(tried)), "brier_raw": before, "brier_scaled": after}
    found |= {f"skill_{name}": value for name, (value, _) in verdict.skill.items()}
    last = tried[-1].learned
    found |= {"train_loss": last.train_loss, "validation_loss": last.validation_loss,
              "train_samples": float(last.samples[0])}  # fmt: skip
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _deciles(ds: Dataset, train: Longs) -> dict[str, tuple[float, ...]]:
    """Where nine tenths of the training rows' features lie, each."""
    rows = ds.matrix[ds.end[_spread(train, _REFERENCE_ROWS)]].astype(np.float64)
    levels = np.quantile(rows, np.arange(1, 10) / 10.0, axis=0)
    return {name: tuple(levels[:, k].tolist()) for k, name in enumerate(ds.data.features)}


def _usual(ds: Dataset, train: Longs) -> tuple[tuple[float, ...], ...]:
    """The quantiles of the training labels, by horizon: what costs nothing and uses no feature."""
    levels = np.quantile(ds.label[train].astype(np.float64), QUANTILES, axis=0)
    return tuple(tuple(row) for row in levels.T.tolist())


def _spread(which: Longs, most: int) -> Longs:
    """At most so many, evenly."""
    return which[:: -(-which.size // most)]


# The report.


def _findings(
    ds: Dataset, bars: Source, own: Settings, tried: "Sequence[Tried]", verdict: "Verdict", ident: str, trials: int
) -> "Findings":
    from models import calibration, walk_forward
    from models.report import Findings

    params = own.training
    network = [one.outcomes[walk_forward.MODEL] for one in tried]
    together = np.concatenate([outcome.daily for outcome in network])
    scores, correct = [outcome.score for outcome in network], [outcome.correct for outcome in network]
    rolled = calibration.rolled(scores, correct, params.calibration_least)
    probability = np.concatenate(scores)
    if rolled.calibration.kept:
        probability = calibration.calibrated(rolled.calibration, probability)
    best = walk_forward.expected_best(trials, together.size)
    sessions = params.folds.test
    return Findings(
        id=ident, data=f"{bars.label}, {bars.rows:,} rows, {len(ds):,} samples of {len(ds.symbols)} symbols",
        synthetic=bars.synthetic, settings=list(_decisive(own).items()),
        models=[_model(tried, name, verdict) for name in tried[0].outcomes], folds=verdict.folds,
        spans=[_span(ds, one) for one in tried], reasons=verdict.reasons,
        medians={name: float(np.median([fold[name] for fold in verdict.folds])) for name in ("sharpe", "win_rate")},
        held=float(np.median([measure(one.held)["sharpe"] for one in tried])),
        probabilistic=performance.probabilistic_sharpe(together, 0.0),
        deflated=performance.probabilistic_sharpe(together, best), trials=trials,
        power=[(sharpe, walk_forward.power(params.gates, sharpe, sessions, len(tried))) for sharpe in SHARPES],
        calibration=rolled, bins=calibration.reliability(probability, np.concatenate(correct)),
        horizons=ds.data.horizons, coverage=np.mean([o.coverage for o in network], axis=0).tolist(),
        corrected=np.mean([o.corrected for o in network], axis=0).tolist(),
        ends=_counted_together([o.ends for o in network]),
        shorts=own.rules.allow_short,
    )  # fmt: skip


def _counted_together(ends: Sequence[dict[str, int]]) -> list[tuple[str, int]]:
    """Where the decisions of all folds ended, the most frequent first."""
    counts = Counter[str]()
    for one in ends:
        counts.update(one)
    return counts.most_common()


def _model(tried: "Sequence[Tried]", name: str, verdict: "Verdict") -> Any:
    from models.report import Model
    from models.walk_forward import row

    rows = [row(one, name, measure) for one in tried]
    skill, error = verdict.skill.get(name, (0.0, 0.0))
    sharpes = np.array([found["sharpe"] for found in rows])
    return Model(
        name, float(np.mean([found["loss"] for found in rows])), skill, error,
        float(np.mean([found["coverage"] for found in rows])),
        float(np.mean([found["coverage_corrected"] for found in rows])), float(np.median(sharpes)),
        int((sharpes < 0.0).sum()), float(np.median([found["trades"] for found in rows])),
    )  # fmt: skip


def _span(ds: Dataset, one: "Tried") -> tuple[str, str]:
    """First and last session out of sample."""
    first, last = ds.calendar.session_at(np.array([one.fold.test_from, one.fold.test_upto - 1])).tolist()
    return str(np.datetime64(first, "D")), str(np.datetime64(last, "D"))


def _report(store: Path, found: "Findings") -> Path:
    """Both forms; the page's path."""
    from models.report import markdown, page, sections

    folder = store / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    parts = sections(found)
    (folder / f"{found.id}.md").write_text(markdown(parts), encoding="utf-8")
    path = folder / f"{found.id}.html"
    path.write_text(page(parts), encoding="utf-8")
    return path


def _summary(manifest: Manifest, found: "Findings", bundle: Path, page: Path, registry: Registry) -> dict[str, Any]:
    from models.report import skill_sentence

    champion = registry.champion()
    return {
        "id": manifest.id, "bundle": str(bundle), "report": str(page), "synthetic": manifest.synthetic,
        "promotable": manifest.promotable, "reasons": list(manifest.reasons), "skill": skill_sentence(found.models),
        "champion": champion.id if champion else None, "metrics": manifest.metrics,
        "models": [model._asdict() for model in found.models],
    }  # fmt: skip


def _decisive(settings: Settings) -> dict[str, str]:
    """The settings that a training depends on, by their dotted names."""
    found: dict[str, str] = {}
    for section in ("training", "clean", "forecast", "regime", "ensemble", "filters", "venue"):
        found |= _flat(msgspec.to_builtins(getattr(settings, section)), section)
    rules = {"max_notional_usd": settings.rules.max_notional_usd, "allow_short": settings.rules.allow_short}
    return found | _flat(rules, "rules") | _flat({"end_of_day": settings.exits.end_of_day}, "exits")


def _flat(tree: dict[str, Any], above: str) -> dict[str, str]:
    """Settings by their dotted names."""
    flat: dict[str, str] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{above}.{name}") if isinstance(value, dict) else {f"{above}.{name}": _text(value)}
    return flat


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
