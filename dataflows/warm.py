"""Compile every kernel into the cache, so that no first run pays for it: `python -m dataflows.warm`."""

import tempfile
from pathlib import Path

from dataflows import backtest, features
from infra import synthetic
from infra.barfiles import write_tables
from infra.reference import MARKETS
from infra.settings import load
from operators import slice_columns

SPECS = ("synthetic:symbols=3,days=12,seed=1", "synthetic:symbols=3,days=3,seed=1,timeframe=1d")


def warm() -> None:
    """Run each pipeline once, over little data: with quotes, in both forms of the MACD, and a market from a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bars.parquet"
        tables = synthetic.Market(synthetic.parse(SPECS[-1])).tables()
        write_tables(file, (table._replace(names=(MARKETS[-1], *table.names[1:])) for table in tables), has_quotes=True)
        for number, spec in enumerate((*SPECS, str(file))):
            settings = load(None, environ={})
            backtest.run(backtest.plan(spec, settings, Path(folder) / f"run{number}"), loop=True)
        slice_columns.decode([])
        features.run(SPECS[0], load(None, environ={}), Path(folder) / "features.parquet")


if __name__ == "__main__":
    warm()
