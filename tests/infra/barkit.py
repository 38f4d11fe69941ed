"""What the tests of bar sources share: making files, and frames as plain rows."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.bars import Bars
from schemas.frames import SHARDS, RawFrame
from schemas.units import NS_PER_MINUTE

LEAN = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "lean"
needs_lean = pytest.mark.skipif(not LEAN.is_dir(), reason=f"the sample bars are not in {LEAN}")
OPEN = int(datetime(2024, 1, 2, 14, 30, tzinfo=UTC).timestamp()) * 1_000_000_000  # a session's start
NUMBERS = ("open", "high", "low", "close", "volume")
HEADER = "symbol,ts,open,high,low,close,volume"
ROW = "SPY,2024-01-02T14:31:00Z,1,1,1,1,100"


def bars_table(rows, quotes=False, unit="us"):
    """(minute of 2024-01-02's session, symbol, close) -> a table of bars."""
    minutes = np.array([row[0] for row in rows], np.int64)
    close = np.array([row[2] for row in rows], np.float64)
    ts = pa.array(OPEN + minutes * NS_PER_MINUTE)
    columns = {
        "symbol": pa.array([row[1] for row in rows], pa.string()),
        "ts": ts.cast(pa.timestamp("ns", "UTC")).cast(pa.timestamp(unit, "UTC")),
        "open": close, "high": close + 0.5, "low": close - 0.5, "close": close,
        "volume": np.full(len(rows), 100.0),
    }  # fmt: skip
    if quotes:
        columns |= {"bid": close - 0.01, "ask": close + 0.01}
    return pa.table(columns)


def parquet(path, table, **options):
    pq.write_table(table, path, **options)
    return str(path)


def csv_text(table):
    """As CSV, with all digits."""
    lines = [",".join(table.column_names)]
    for row in table.to_pylist():
        row["ts"] = row["ts"].isoformat().replace("+00:00", "Z")
        lines.append(",".join("" if value is None else str(value) for value in row.values()))
    return "\n".join(lines) + "\n"


def bits(frame: RawFrame):
    """A frame's rows, compared bit for bit."""
    return tuple(
        getattr(frame, name).tobytes()
        for name in ("ts", "symbol", "slot", *NUMBERS, "bid", "ask")
    )  # fmt: skip


def chunks(bars: Bars, shards: Iterable[int] = range(SHARDS), first=0):
    """All that the frames hold, chunk by chunk."""
    return [
        [(f.shard, f.slices.after, f.slices.upto, f.slices.ts.tobytes(), f.listed, bits(f)) for f in frames]
        for frames in bars.frames(shards, first)
    ]


def rows_by_shard(bars: Bars):
    """The rows of each shard over all chunks, bit for bit."""
    frames = list(bars.frames())
    return [
        tuple(
            np.concatenate([getattr(chunk[shard], name) for chunk in frames]).tobytes()
            for name in ("ts", "symbol", "slot", *NUMBERS, "bid", "ask")
        )
        for shard in range(SHARDS)
    ]
