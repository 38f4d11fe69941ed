"""Does a model still see what it was trained on, and keep its word? `utp drift BARS` says so.

Replays the symbol side over bars. Coverage: how often the close so many slices later lay within [q10, q90], by
month. Stability: the population stability index of each feature at the forecasts against the deciles of training,
sum of (share - 0.1) × ln(share / 0.1) over ten bins; above 0.25 a feature is commonly called another one.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dataflows import pipeline
from dataflows.sources import logged, open_source
from infra.bars import NO_FILES
from infra.forecaster import Forecaster, open_forecaster
from infra.reference import Files
from infra.settings import Settings
from operators.kernel import cache_root
from schemas.errors import UserError
from schemas.events import Absence
from schemas.frames import SHARDS, Floats, ForecastFrame, Longs
from schemas.units import NS_PER_SECOND

LEAST_SHARE = 1e-4  # of an empty bin


def run(
    spec: str,
    settings: Settings,
    *,
    symbols: Sequence[str] = (),
    start: int | None = None,
    stop: int | None = None,
    files: Files = NO_FILES,
    models: Path | None = None,
    forecasts: Path | None = None,
) -> dict[str, Any]:
    """The report as plain values, by model; `start`, `stop`: UTC ns, inclusive. Raises UserError."""
    bars = open_source(spec, settings, symbols=symbols, start=start, stop=stop, files=files)
    forecaster = open_forecaster(settings.forecast, bars.calendar, bars.after, bars.upto, models,
                                 forecasts or cache_root() / "forecasts", logged(bars))  # fmt: skip
    if forecaster is None:
        raise UserError("forecast.model = none: name the model to look at, as --set forecast.model=champion")
    # a model that was stopped is looked at all the same
    watch = msgspec.structs.replace(settings.forecast.drift, share=0.0)
    params = pipeline.decide_params(settings, bars.timeframe, forecaster)
    params = params._replace(forecast=msgspec.structs.replace(settings.forecast, drift=watch))
    states = {shard: pipeline.start(params) for shard in range(SHARDS)}
    closes: list[tuple[Longs, Longs, Floats]] = []
    made: list[dict[str, Any]] = []
    try:
        for chunk in bars.frames():
            for frame in map(forecaster.told, chunk):
                states[frame.shard], opinions = pipeline.opine(params, states[frame.shard], frame)
                own = opinions.features.bars
                place = bars.calendar.index_of(own.slices.ts)[own.at] if own.at.size else np.zeros(0, np.int64)
                closes.append((own.symbol.astype(np.int64), place, np.log(own.steady)))
                if opinions.forecast is not None:
                    made.append(_made(opinions.forecast, place))
    finally:
        forecaster.close()
    return _report(forecaster, closes, made)


def _made(answer: ForecastFrame, place: Longs) -> dict[str, Any]:
    """The rows at which a forecast was made."""
    rows = np.flatnonzero((answer.age == 0) & (answer.absence == Absence.NONE))
    bars = answer.features.bars
    return {
        "symbol": bars.symbol[rows].astype(np.int64), "place": place[rows], "ts": bars.slices.ts[bars.at[rows]],
        "model": answer.model[rows], "quantiles": answer.quantiles[rows], "probability": answer.probability[rows],
        "features": answer.features.values[rows], "names": answer.features.names,
    }  # fmt: skip


def _report(
    forecaster: Forecaster, closes: list[tuple[Longs, Longs, Floats]], made: list[dict[str, Any]]
) -> dict[str, Any]:
    symbol, place, close = (np.concatenate(column) for column in zip(*closes, strict=True))
    names = made[0]["names"]
    whole = {name: np.concatenate([part[name] for part in made]) for name in made[0] if name != "names"}
    later = np.full((whole["ts"].size, len(forecaster.horizons)), np.nan)
    span = int(place.max(initial=0)) + max(forecaster.horizons, default=0) + 1
    order = np.argsort(symbol * span + place)
    keys, logs = (symbol * span + place)[order], close[order]
    for k, horizon in enumerate((0, *forecaster.horizons)):
        wanted = whole["symbol"] * span + whole["place"] + horizon
        at = np.minimum(np.searchsorted(keys, wanted), max(keys.size - 1, 0))
        found = np.where(keys[at] == wanted, logs[at], np.nan) if keys.size else np.full(wanted.size, np.nan)
        if k == 0:
            now = found
        else:
            later[:, k - 1] = found - now
    answer = []
    for number, about in enumerate(forecaster.describe()["models"], 1):
        own = whole["model"] == number
        manifest = forecaster.manifest(about["id"])
        answer.append({
            "id": about["id"], "forecasts": int(own.sum()), "edge": _edge(forecaster, whole["quantiles"][own]),
            "reference_edge": manifest.reference.edge, "reference_coverage": list(manifest.reference.coverage),
            "horizons": list(forecaster.horizons),
            "coverage": coverage(whole["ts"][own], later[own], whole["quantiles"][own]),
            "stability": {name: stability(whole["features"][own][:, names.index(name)], bins)
                          for name, bins in manifest.reference.bins.items()},
        })  # fmt: skip
    return {"models": answer}


def _edge(forecaster: Forecaster, quantiles: Floats) -> float | None:
    """The median of 2p - 1 at the decision horizon."""
    from models.calibration import certainty

    if not len(quantiles):
        return None
    return float(np.median(2.0 * certainty(quantiles[:, forecaster.decision]) - 1.0))


def coverage(ts: Longs, later: Floats, quantiles: Floats) -> dict[str, list[float | None]]:
    """By month, for each horizon: the share of returns within [q10, q90]; None where none is known yet."""
    months = np.array([datetime.fromtimestamp(int(at) // NS_PER_SECOND, UTC).strftime("%Y-%m") for at in ts])
    inside = (later >= quantiles[:, :, 0]) & (later <= quantiles[:, :, 2])
    answer: dict[str, list[float | None]] = {}
    for month in ("all", *sorted(set(months.tolist()))):
        own = np.ones(months.size, np.bool_) if month == "all" else months == month
        known = np.isfinite(later) & own[:, None]
        counts = known.sum(axis=0)
        hits = (inside & known).sum(axis=0)
        answer[month] = [float(hit) / int(count) if count else None for hit, count in zip(hits, counts, strict=True)]
    return answer


def stability(values: Floats, deciles: Sequence[float]) -> float | None:
    """The population stability index against nine deciles; None without values.

    Where deciles are equal nobody knows how much lies on them: their bins are one with the next.
    """
    some = values[np.isfinite(values)]
    if not some.size or not len(deciles):
        return None
    edges, first, count = np.unique(np.asarray(deciles), return_index=True, return_counts=True)
    alone = count == 1
    expected = np.diff(np.concatenate([[0.0], (first[alone] + 1) / 10.0, [1.0]]))
    found = np.bincount(np.searchsorted(edges[alone], some, side="left"), minlength=expected.size) / some.size
    share = np.maximum(found, LEAST_SHARE)
    return float(np.sum((share - expected) * np.log(share / expected)))
