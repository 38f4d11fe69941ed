"""The signals of whole slices that passed the publish gate, wherever they ended later."""

from typing import Any

import numpy as np

from operators.kernel import kernel
from risk.ledger import SignalColumns
from schemas.events import Reason
from schemas.frames import Codes, Ints, Longs, SliceFrame

UNPUBLISHED = (Reason.NOT_WARM, Reason.NO_INSIGHT, Reason.NEUTRAL, Reason.BELOW_PUBLISH_GATE)
LAST_UNPUBLISHED = int(max(UNPUBLISHED))  # any other reason than NONE comes behind it


def published(frame: SliceFrame) -> SignalColumns:
    """Those rows as columns."""
    size = count(frame.reason)
    rows, ts = np.empty(size + 1, np.int64), np.empty(size + 1, np.int64)
    pick(frame.slices.ts, frame.starts, frame.order, frame.reason, rows, ts)
    rows, ts = rows[:size], ts[:size]
    return SignalColumns(ts, frame.symbol[rows], frame.direction[rows], frame.confidence[rows], frame.score[rows],
                         frame.regime[rows], frame.views[rows], frame.reason[rows],
                         **_of_forecasts(frame, rows))  # fmt: skip


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
