"""Forecasts as the live flow wrote them down: a replay of its day reads them instead of asking the models again.

What is not there (the tap was off, the engine failed, or the forecast stopped its model) is computed. Another
processor may compute other last bits, so a day decided with its recorded forecasts is the day as it was.
"""

from typing import Any, NamedTuple

import numpy as np

from infra.forecaster import Forecaster
from infra.kafka import SCHEMA, Cluster, bounds, records
from infra.offsets import offsets_at
from operators.forecast import Model, Singles
from schemas import codec
from schemas.errors import UserError
from schemas.frames import Floats, Longs, Names, RawFrame
from schemas.identity import nanos
from schemas.records import Prediction

TOPIC = "predictions.tft"


class Counts(NamedTuple):
    """How a replay came by its forecasts."""

    read: int = 0
    computed: int = 0
    compared: int = 0  # computed although they were recorded
    largest: float = 0.0  # difference of a quantile among those, log return


class Recorded:
    """A forecaster that knows the answers; `again`: it computes all the same, and compares."""

    def __init__(self, inner: Forecaster, where: Cluster, after: int, upto: int, again: bool = False):
        self._inner, self._again = inner, again
        self._answers = dict(_answers(where, after, upto))
        self.counts = Counts()

    @property
    def horizons(self) -> tuple[int, ...]:
        """Bars ahead."""
        return self._inner.horizons

    @property
    def decision(self) -> int:
        """Place of the horizon that trades."""
        return self._inner.decision

    def told(self, frame: RawFrame) -> RawFrame:
        """A frame whose events were checked."""
        return self._inner.told(frame)

    def model(self, id: str) -> Model:  # noqa: A002
        """What this model is."""
        return self._inner.model(id)

    def forecast(self, id: str, names: Names, ts: Longs, windows: Singles) -> Floats:  # noqa: A002
        """What was recorded; the rest, or everything, computed."""
        found = [self._answers.get((id, name, when)) for name, when in zip(names.tolist(), ts.tolist(), strict=True)]
        known = np.array([one is not None for one in found], np.bool_)
        answer = np.full((ts.size, len(self.horizons), 3), np.nan)
        for row in np.flatnonzero(known).tolist():
            answer[row] = found[row]
        rest = np.flatnonzero(np.ones_like(known) if self._again else ~known)
        if rest.size:
            fresh = self._inner.forecast(id, names[rest], ts[rest], windows[rest])
            if self._again:
                self._compare(answer[known], np.sort(fresh[known], axis=-1))
            answer[rest] = fresh
        read, computed, compared, largest = self.counts
        self.counts = Counts(read + (0 if self._again else int(known.sum())), computed + rest.size, compared, largest)
        return answer

    def _compare(self, kept: Floats, fresh: Floats) -> None:
        largest = float(np.abs(kept - fresh).max(initial=0.0))
        compared = self.counts.compared + len(kept)
        self.counts = self.counts._replace(compared=compared, largest=max(self.counts.largest, largest))


def _answers(where: Cluster, after: int, upto: int) -> Any:
    """By model, symbol and instant: [horizons, 3] quantiles."""
    firsts, stops = (offsets_at(where, TOPIC, ts + 1) for ts in (after, upto)) if _is_there(where) else ({}, {})
    for number, first in firsts.items():
        for message in records(where, TOPIC, number, first, stops[number]):
            one = codec.decode(Prediction, message.value(), dict(message.headers() or ()).get(SCHEMA))
            if one.quantiles:
                key = one.model_version, one.symbol.encode(), nanos(one.ts)
                yield key, np.array(one.quantiles).reshape(-1, 3)


def _is_there(where: Cluster) -> bool:
    try:
        return any(low < high for low, high in bounds(where, TOPIC).values())
    except UserError:
        return False
