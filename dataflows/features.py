"""Every feature of every bar in a file: `utp features BARS --out FILE.parquet`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.bars import NO_FILES, Bars, open_bars
from infra.reference import Files
from infra.settings import Settings
from operators import clean, features
from operators.split import places
from schemas.errors import UserError
from schemas.frames import OVERNIGHT, SHARDS, FeatureFrame, RawFrame

Progress = Callable[[int, int], None]  # rows done, rows in all


def run(
    spec: str,
    settings: Settings,
    out_file: Path,
    *,
    symbols: Sequence[str] = (),
    start: int | None = None,
    stop: int | None = None,
    files: Files = NO_FILES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write one row per bar in, in order of `(ts, symbol)`, NaN before warm.

    `is_warm`: no feature is missing, the market's aside where the bars have no market symbol. `is_overnight`: the
    returns over one bar span a closed exchange. A bar that the quality check refuses keeps its row, without
    features and without either. The file appears when it is complete. Raises UserError.
    """
    bars = open_bars(spec, timeframe=settings.run.timeframe, symbols=symbols, start=start, stop=stop,
                     frame_slices=settings.run.frame_slices, files=files, reference=settings.reference)  # fmt: skip
    params = features.Params(set="all")
    names = np.array(bars.universe.names)
    partial = out_file.with_name(out_file.name + ".partial")
    rows = done = 0
    try:
        out_file.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(partial, schema(params), compression="zstd", compression_level=1) as writer:
            for table in _tables(bars, settings.clean, params, names):
                writer.write_table(table)
                rows += table.num_rows
                done += table.num_rows
                if progress is not None:
                    progress(done, bars.rows)
        partial.replace(out_file)
    except OSError as error:
        raise UserError(f"--out {out_file}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return {"rows": rows, "columns": schema(params).names, "feature_set": features.set_hash(params)}


def schema(params: features.Params) -> pa.Schema:
    """Columns of the file."""
    fields = [("ts", pa.timestamp("ns", "UTC")), ("symbol", pa.dictionary(pa.int32(), pa.string()))]
    fields += [(name, pa.float64()) for name in features.SETS[params.set]]
    fields += [("is_warm", pa.bool_()), ("is_overnight", pa.bool_())]
    return pa.schema(fields, {"feature_set": features.set_hash(params)})


def _tables(
    bars: Bars, quality: clean.Params, params: features.Params, names: np.ndarray[Any, Any]
) -> Iterator[pa.Table]:
    """One table per chunk, rows of all shards in order of `(ts, symbol)`."""
    own = [name for name in features.SETS[params.set] if bars.market or name not in features.MARKET]
    expected = np.isin(features.SETS[params.set], own)
    states = {shard: (clean.start(), features.start()) for shard in range(SHARDS)}
    rank = places(bars.universe).rank
    for chunk in bars.frames():
        parts = []
        for frame in chunk:
            clean_state, feature_state = states[frame.shard]
            clean_state, good = clean.step(quality, clean_state, frame)
            feature_state, answer = features.step(params, feature_state, good)
            states[frame.shard] = clean_state, feature_state
            parts.append(_rows(frame, answer))
        ts, symbol, values, overnight = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((rank[symbol], ts))
        values = values[order]
        flags = ~np.isnan(values[:, expected]).any(axis=1), overnight[order]
        yield _table(params, names, ts[order], symbol[order], values, flags)


def _rows(frame: RawFrame, answer: FeatureFrame) -> tuple[Any, Any, Any, Any]:
    """All bars of a frame, the refused ones with NaN."""
    good = answer.bars
    ts = np.concatenate([good.slices.ts[good.at], good.refused.ts])
    symbol = np.concatenate([good.symbol, good.refused.symbol])
    empty = np.full((good.refused.ts.size, answer.values.shape[1]), np.nan)
    overnight = np.concatenate([(good.marks & OVERNIGHT) != 0, np.zeros(len(empty), np.bool_)])
    return ts, symbol, np.concatenate([answer.values, empty]), overnight


def _table(params: features.Params, names: Any, ts: Any, symbol: Any, values: Any, flags: Any) -> pa.Table:
    columns = [pa.array(ts, pa.timestamp("ns", "UTC")), pa.DictionaryArray.from_arrays(symbol, names)]
    columns += [pa.array(np.ascontiguousarray(values[:, k])) for k in range(values.shape[1])]
    return pa.table([*columns, *map(pa.array, flags)], schema=schema(params))
