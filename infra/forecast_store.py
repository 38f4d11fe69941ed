"""Forecasts that were made, kept by model, symbol and instant: asked again, they cost no model.

    DIR/MODEL/NAME.parquet      any number of them, each complete, named by its content

A model's id is the hash of all that it is, so its folder never holds another one's. Within it a row is found by
the instant and 128 bits of the very numbers that the model was given, windows, known future and symbol: bars
that were mended, another start of the log or other features find nothing there and are forecast anew.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from operators.forecast import Singles, Words
from schemas.errors import UserError
from schemas.frames import Bools, Longs, Names

FORMAT = b"1"
FLUSH_ROWS = 1 << 18  # forecasts that wait before they are written


class Kept(NamedTuple):
    """Forecasts in order of their key."""

    key: npt.NDArray[np.uint64]
    check: npt.NDArray[np.uint64]
    ts: Longs
    quantiles: Singles  # [rows, horizons × 3]


class ForecastStore:
    """The forecasts of one model; several processes may have it open."""

    def __init__(self, folder: Path, model: str, horizons: int, engine: str):
        """Read what is there; `engine` names what computes: another one's forecasts may differ in their last bits."""
        self._folder, self._horizons = folder / model, horizons
        self._about = {b"format": FORMAT, b"engine": engine.encode(), b"model": model.encode()}
        self._fresh: list[tuple[Names, Kept]] = []
        self._waiting = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            parts = [self._read(path) for path in sorted(self._folder.glob("*.parquet"))]
        except OSError as error:
            raise UserError(f"--forecasts {folder}: {error.strerror or error}") from error
        self._kept = _ordered([part for part in parts if part is not None], horizons)

    def __len__(self) -> int:
        return int(self._kept.key.size)

    def find(self, ts: Longs, words: Words) -> tuple[Bools, Singles]:
        """Which of these are kept, and their quantiles [rows, horizons, 3] (NaN for the others)."""
        kept = self._kept
        answer = np.full((ts.size, self._horizons, 3), np.nan, np.float32)
        if not kept.key.size:
            return np.zeros(ts.size, np.bool_), answer
        place = np.minimum(np.searchsorted(kept.key, words[:, 0]), kept.key.size - 1)
        found = (kept.key[place] == words[:, 0]) & (kept.check[place] == words[:, 1]) & (kept.ts[place] == ts)
        answer[found] = kept.quantiles[place[found]].reshape(-1, self._horizons, 3)
        return found, answer

    def add(self, names: Names, ts: Longs, words: Words, quantiles: Singles) -> None:
        """Keep forecasts; they are found by those who open the store after the next flush."""
        if not ts.size:
            return
        flat = quantiles.reshape(ts.size, -1).astype(np.float32)
        self._fresh.append((names, Kept(words[:, 0].copy(), words[:, 1].copy(), ts, flat)))
        self._waiting += ts.size
        if self._waiting >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is new, as one more file that is there as a whole or not at all."""
        fresh, self._fresh, self._waiting = self._fresh, [], 0
        if not fresh:
            return
        names = np.concatenate([names for names, _ in fresh])
        kept = _joined([part for _, part in fresh])
        order = np.lexsort((names, kept.ts, kept.check, kept.key))
        width = self._horizons * 3
        values = pa.FixedSizeListArray.from_arrays(pa.array(kept.quantiles[order].reshape(-1)), width)
        table = pa.table(
            {
                "symbol": pa.array([name.decode() for name in names[order].tolist()]).dictionary_encode(),
                "ts": pa.array(kept.ts[order], pa.timestamp("ns", "UTC")),
                "key": kept.key[order], "check": kept.check[order], "quantiles": values,
            }
        ).replace_schema_metadata(self._about)  # fmt: skip
        handle, partial = tempfile.mkstemp(prefix=".partial-", dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                pq.write_table(table, file, compression="zstd", compression_level=1)
                file.flush()
                os.fsync(file.fileno())
            name = hashlib.sha256(Path(partial).read_bytes()).hexdigest()[:24]
            Path(partial).replace(self._folder / f"{name}.parquet")
        except OSError as error:
            raise UserError(f"--forecasts {self._folder.parent}: {error.strerror or error}") from error
        finally:
            Path(partial).unlink(missing_ok=True)

    def _read(self, path: Path) -> Kept | None:
        """One file; None where it was written by another engine or is damaged."""
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: {str(error).splitlines()[0]}; delete it, it will be made anew") from error
        about = table.schema.metadata or {}
        if any(about.get(name) != value for name, value in self._about.items()):
            return None
        columns = {name: table[name].combine_chunks() for name in ("key", "check", "ts", "quantiles")}
        if not table.num_rows or columns["quantiles"].type.list_size != self._horizons * 3:
            return None
        quantiles = columns["quantiles"].flatten().to_numpy().reshape(-1, self._horizons * 3)
        return Kept(columns["key"].to_numpy(), columns["check"].to_numpy(),
                    columns["ts"].cast(pa.int64()).to_numpy(), quantiles)  # fmt: skip


def _ordered(parts: list[Kept], horizons: int) -> Kept:
    if not parts:
        none = np.zeros(0, np.uint64)
        return Kept(none, none, np.zeros(0, np.int64), np.zeros((0, horizons * 3), np.float32))
    joined = _joined(parts)
    _, first = np.unique(joined.key, return_index=True)
    return Kept._make(column[first] for column in joined)


def _joined(parts: list[Kept]) -> Kept:
    return Kept._make(np.concatenate(column) for column in zip(*parts, strict=True))
