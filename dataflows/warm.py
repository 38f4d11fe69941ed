"""Compile every kernel into the cache, so that no first run pays for it: `python -m dataflows.warm`."""

import tempfile
from pathlib import Path

from dataflows import backtest, features
from infra.settings import load
from operators import slice_columns

SPECS = ("synthetic:symbols=3,days=2,seed=1", "synthetic:symbols=3,days=3,seed=1,timeframe=1d")


def warm() -> None:
    """Run each pipeline once, over little data: with quotes, and in both forms of the MACD."""
    with tempfile.TemporaryDirectory() as folder:
        for number, spec in enumerate(SPECS):
            settings = load(None, environ={})
            backtest.run(backtest.plan(spec, settings, Path(folder) / f"run{number}"), loop=True)
        slice_columns.decode([])
        features.run(SPECS[0], load(None, environ={}), Path(folder) / "features.parquet")


if __name__ == "__main__":
    warm()
