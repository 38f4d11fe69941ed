"""A backtest's memory: chunks of bars use that of the chunks before, whatever is made of them, and wherever."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataflows import backtest
from infra import source
from infra.bars import Bars
from infra.parcels import LENDER
from infra.settings import load

MODEL = Path(__file__).resolve().parents[2] / "demo" / "model"
BARS = "synthetic:symbols=20,days=8,seed=7"
CHUNK = 20 * 130  # rows


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("sets", [[], [f"forecast.model={MODEL}"]], ids=["no model", "a model"])
def test_no_step_looks_at_a_chunk_for_good(tmp_path, monkeypatch, sets, workers):
    """No chunk is overdue, so none is waited for longer than steps take; and two are all that there ever are."""
    monkeypatch.setattr(source, "PATIENCE", 3.0)
    parts, build = [], source.BarInput.build_part

    def built(self, *given):
        parts.append(build(self, *given))
        return parts[-1]

    monkeypatch.setattr(source.BarInput, "build_part", built)
    settings = load(None, [*sets, "run.frame_slices=130"], environ={}, profile="research")
    job = backtest.plan(BARS, settings, tmp_path / "run", forecasts=tmp_path / "forecasts")
    before = LENDER.held
    summary = backtest.run(job, workers=workers)
    assert summary["counts"]["bars"] > 8 * 389 * 19
    assert [part.overdue for part in parts if isinstance(part, source.Part)] == [0]
    assert LENDER.held - before <= 3 * 1.5 * 112 * CHUNK + (1 << 20)


@pytest.mark.parametrize(("workers", "loop"), [(1, False), (2, False), (1, True)])
def test_the_benchmark_is_seen_as_the_bars_pass_by_and_not_read_once_more(tmp_path, monkeypatch, workers, loop):
    settings = load(None, ["run.frame_slices=130"], environ={}, profile="research")
    plain = backtest.plan(BARS, settings, tmp_path / "plain")
    wanted = plain.benchmark.points()  # nobody has read the bars yet: it does
    monkeypatch.setattr(Bars, "closes", lambda self: pytest.fail("read once more"))
    backtest.run(backtest.plan(BARS, settings, tmp_path / "run"), workers=workers, loop=loop)
    told = pq.read_table(tmp_path / "run" / "benchmark.parquet")
    assert told["value"].to_pylist() == wanted.values.tolist()
    assert told["ts"].cast("int64").to_pylist() == wanted.ts.tolist()
