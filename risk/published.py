"""The signals of whole slices that passed the publish gate, wherever they ended later."""

from typing import Any

import numpy as np

from operators.kernel import ahead, kernel
from risk.ledger import SignalColumns
from schemas.events import Reason
from schemas.frames import Codes, Floats, Ints, Longs, SliceFrame

UNPUBLISHED = (Reason.NOT_WARM, Reason.NO_INSIGHT, Reason.NEUTRAL, Reason.BELOW_PUBLISH_GATE)
AHEAD = 16  # rows
LAST_UNPUBLISHED = int(max(UNPUBLISHED))  # any other reason than NONE comes behind it


def published(frame: SliceFrame) -> SignalColumns:
    """Those rows as columns."""
    size = count(frame.reason)
    rows, ts = np.empty(size + 1, np.int64), np.empty(size + 1, np.int64)
    pick(frame.slices.ts, frame.starts, frame.order, frame.reason, rows, ts)
    rows, ts = rows[:size], ts[:size]
    given = (frame.symbol, frame.direction, frame.confidence, frame.score, frame.regime, frame.views, frame.reason)
    told = tuple(np.empty(size, column.dtype) for column in given)
    gather(rows, *given, *told)
    return SignalColumns(ts, *told, **_of_forecasts(frame, rows))


def _of_forecasts(frame: SliceFrame, rows: Longs) -> dict[str, Any]:
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
def pick(slices: Longs, starts: Longs, order: Ints, reason: Codes, rows: Longs, ts: Longs) -> None:
    """Where they stand, in order of `(ts, symbol name)`, and when; there is room for one more, which means nothing."""
    k = 0
    for s in range(slices.size):
        for j in range(starts[s], starts[s + 1]):
            rows[k], ts[k] = order[j], slices[s]
            k += is_published(reason[order[j]])


@kernel
def gather(
    rows: Longs,
    symbol: Ints, direction: Codes, confidence: Floats, score: Floats, regime: Codes, views: Ints, reason: Codes,
    symbols: Ints, directions: Codes, confidences: Floats, scores: Floats, regimes: Codes, all_views: Ints,
    reasons: Codes,
) -> None:  # fmt: skip
    """All columns of these rows in one pass; what is read a little later is asked for before."""
    for k in range(rows.size):
        r, later = rows[k], rows[min(k + AHEAD, rows.size - 1)]
        ahead(symbol, later)
        ahead(direction, later)
        ahead(confidence, later)
        ahead(score, later)
        ahead(regime, later)
        ahead(views, later)
        symbols[k], directions[k], confidences[k], scores[k] = symbol[r], direction[r], confidence[r], score[r]
        regimes[k], all_views[k], reasons[k] = regime[r], views[r], reason[r]
