"""The signals of whole slices that passed the publish gate, wherever they ended later."""

from typing import Any

import numpy as np

from operators.kernel import kernel
from risk.ledger import SignalColumns
from schemas.events import Reason
from schemas.frames import Codes, Floats, Ints, Longs, SliceFrame

UNPUBLISHED = (Reason.NOT_WARM, Reason.NO_INSIGHT, Reason.NEUTRAL, Reason.BELOW_PUBLISH_GATE)
LAST_UNPUBLISHED = int(max(UNPUBLISHED))  # any other reason than NONE comes behind it


def published(frame: SliceFrame) -> SignalColumns:
    """Those rows as columns."""
    size = count(frame.reason)
    rows, ts = np.empty(size, np.int32), np.empty(size, np.int64)
    columns = [np.empty(size, column.dtype) for column in
               (frame.symbol, frame.direction, frame.confidence, frame.score, frame.regime, frame.views,
                frame.reason)]  # fmt: skip
    if size:
        publish(frame.slices.ts, frame.starts, frame.order, frame.symbol, frame.direction, frame.confidence,
                frame.score, frame.regime, frame.views, frame.reason, rows, ts, *columns)  # fmt: skip
    return SignalColumns(ts, *columns, **_of_forecasts(frame, rows))


def _of_forecasts(frame: SliceFrame, rows: Ints) -> dict[str, Any]:
    """The forecasts' columns; none where no model is configured."""
    names = ("q10", "q50", "q90", "probability", "age", "model", "is_calibrated") if frame.absent.size else ()
    return {name: getattr(frame, name)[rows] for name in names}


@kernel
def count(reason: Codes) -> int:
    """How many rows are published."""
    found = 0
    for i in range(reason.size):
        found += is_published(reason[i])
    return found


@kernel
def is_published(reason: int) -> bool:
    """Whether a signal that ended so had passed the publish gate."""
    return reason == Reason.NONE or reason > LAST_UNPUBLISHED


@kernel
def publish(
    slices: Longs, starts: Longs, order: Ints, symbol: Ints, direction: Codes, confidence: Floats, score: Floats,
    regime: Codes, views: Ints, reason: Codes,
    rows: Ints, to_ts: Longs, to_symbol: Ints, to_direction: Codes, to_confidence: Floats, to_score: Floats,
    to_regime: Codes, to_views: Ints, to_reason: Codes,
) -> None:  # fmt: skip
    """Copy them in order of `(ts, symbol name)`; `rows` says where they stood."""
    k = 0
    for s in range(slices.size):
        for j in range(starts[s], starts[s + 1]):
            r = order[j]
            if not is_published(reason[r]):
                continue
            rows[k], to_ts[k], to_symbol[k], to_direction[k] = r, slices[s], symbol[r], direction[r]
            to_confidence[k], to_score[k], to_regime[k] = confidence[r], score[r], regime[r]
            to_views[k], to_reason[k] = views[r], reason[r]
            k += 1
