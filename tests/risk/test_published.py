"""Published signals, beside a walk over the slices row by row."""

import numpy as np
from hypothesis import given

from dataflows import pipeline
from infra.settings import load
from operators import barrier, drive
from risk.published import UNPUBLISHED, published
from tests.markets import cuts, markets

DECIDE = pipeline.decide_params(load(None, ["ensemble.publish_gate=0.51"], environ={}), 30)
COLUMNS = ("symbol", "direction", "confidence", "score", "regime", "views", "reason")


@given(market=markets, where=cuts)
def test_agrees_with_the_rows_one_by_one(market, where):
    signals = pipeline.signals(market.chunks(where), DECIDE)
    for frame in drive.replay(barrier.start(market.after), barrier.step, signals):
        rows = [
            (ts, r)
            for i, ts in enumerate(frame.slices.ts)
            for r in frame.order[frame.starts[i] : frame.starts[i + 1]]
            if frame.reason[r] not in UNPUBLISHED
        ]
        found = published(frame)
        assert found.ts.tolist() == [ts for ts, _ in rows]
        for name in COLUMNS:
            column, wanted = getattr(found, name), getattr(frame, name)
            assert column.dtype == wanted.dtype
            assert column.tobytes() == np.array([wanted[r] for _, r in rows], wanted.dtype).tobytes()
