"""The log of slices -> one Parquet file per session, which a backtest reads like any other bars.

    utp archive --out archive/slices

Bars that came after their slice go into files of their own beside it: nothing was decided with them, and nothing is.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.kafka import Cluster, bounds, records
from infra.log_bars import LogBars
from infra.ranges import messages_of
from infra.raw_log import LATE, arrivals
from infra.snapshots import session_name
from operators.slicer import Arrival
from schemas.calendar import Calendar
from schemas.errors import UserError
from schemas.frames import RawFrame

COLUMNS = ("open", "high", "low", "close", "volume", "bid", "ask")


def write(where: Cluster, topic: str, out: Path, start: int | None = None, stop: int | None = None) -> Iterator[Path]:
    """Write the sessions that the log holds to their close and that are not there yet; each file in one step."""
    bars = LogBars(where, topic, start, stop)
    names = np.zeros(0, object)  # by id in the log
    for frames in bars.frames():
        for entry in (entry for frame in frames for entry in frame.listed):
            names = np.pad(names, (0, max(0, entry.symbol + 1 - names.size)), constant_values="")
            names[entry.symbol] = entry.name
        slices = frames[0].slices
        session = int(slices.session[-1])
        path = out / f"{session_name(session)}.parquet"
        if slices.upto != bars.calendar.close_of(session) or path.exists():
            continue
        _put(_table(frames, names), path)
        yield path


def write_late(where: Cluster, out: Path) -> Iterator[Path]:
    """Write the late bars by session; a file of which more bars are in the log by now is made anew, in one step."""
    for session, bars in sorted(_late(where).items()):
        path = out / f"{session_name(session)}.parquet"
        if path.exists() and pq.read_metadata(path).num_rows >= len(bars):  # the topic forgets nothing
            continue
        columns = {"symbol": pa.array([bar.symbol for _, bar in bars]),
                   "ts": pa.array([bar.ts for _, bar in bars], pa.timestamp("ns", "UTC")),
                   **{name: pa.array([getattr(bar, name) for _, bar in bars]) for name in COLUMNS},
                   "partition": pa.array([number for number, _ in bars]),
                   "offset": pa.array([bar.offset for _, bar in bars])}  # fmt: skip
        _put(pa.table(columns).sort_by([(name, "ascending") for name in ("ts", "symbol", "partition", "offset")]), path)
        yield path


def _late(where: Cluster) -> dict[int, list[tuple[int, Arrival]]]:
    """By session: late bars with their partitions. What a letter put back there may be no bar, and stays there."""
    calendar, found = Calendar.whole(1), dict[int, list[tuple[int, Arrival]]]()
    for number, (low, high) in bounds(where, LATE).items():
        messages = messages_of(LATE, number, list(records(where, LATE, number, low, high)))
        for bar in arrivals(messages):
            if isinstance(bar, Arrival) and bar.symbol and calendar.opens[0] < bar.ts < calendar.closes[-2]:
                found.setdefault(calendar.session_of(bar.ts), []).append((number, bar))
    return found


def _put(table: pa.Table, path: Path) -> None:
    """Write a file in one step."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


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
