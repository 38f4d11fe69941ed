"""The log of slices -> one Parquet file per session, which a backtest reads like any other bars.

utp archive --out archive/slices
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.kafka import Cluster
from infra.log_bars import LogBars
from infra.snapshots import session_name
from schemas.errors import UserError
from schemas.frames import RawFrame

COLUMNS = ("open", "high", "low", "close", "volume", "bid", "ask")


def write(where: Cluster, topic: str, out: Path, start: int | None = None, stop: int | None = None) -> Iterator[Path]:
    """Write the sessions that the log holds to their close and that are not there yet; each file in one step."""
    bars = LogBars(where, topic, start, stop)
    names = np.zeros(0, object)  # by id in the log
    out.mkdir(parents=True, exist_ok=True)
    for frames in bars.frames():
        for entry in (entry for frame in frames for entry in frame.listed):
            names = np.pad(names, (0, max(0, entry.symbol + 1 - names.size)), constant_values="")
            names[entry.symbol] = entry.name
        slices = frames[0].slices
        session = int(slices.session[-1])
        path = out / f"{session_name(session)}.parquet"
        if slices.upto != bars.calendar.close_of(session) or path.exists():
            continue
        partial = path.with_name(f"{path.name}.partial")
        try:
            pq.write_table(_table(frames, names), partial, compression="zstd")
            partial.replace(path)
        except OSError as error:
            raise UserError(f"--out {path}: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)
        yield path


def _table(frames: list[RawFrame], names: "np.ndarray[tuple[int], np.dtype[np.object_]]") -> pa.Table:
    """The bars of a session in order of `(ts, symbol)`."""
    ts, symbol = (np.concatenate([getattr(frame, name) for frame in frames]) for name in ("ts", "symbol"))
    named = names[symbol]
    order = np.lexsort((named, ts))
    columns = {"symbol": pa.array(named[order], pa.string()).dictionary_encode(),
               "ts": pa.array(ts[order], pa.timestamp("ns", "UTC"))}  # fmt: skip
    for name in COLUMNS:
        parts = [
            getattr(frame, name) if getattr(frame, name).size else np.full(frame.ts.size, np.nan) for frame in frames
        ]
        column = np.concatenate(parts)[order]
        if name not in ("bid", "ask") or not np.isnan(column).all():
            columns[name] = pa.array(column)
    return pa.table(columns)
