"""The benchmark runs and says what it should; how long anything takes is never tested."""

import json

import pytest

from dataflows import bench, bench_measures
from dataflows.cli import main

TINY = [3, 2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_measures, "cache_root", lambda: tmp_path)


def test_bars_are_written_once_and_older_ones_dropped():
    path = bench_measures.bars_of(TINY)
    old = path.with_name(f"3x2-{bench_measures.SEED}-0.parquet")
    written = path.stat().st_mtime_ns
    old.touch()
    assert bench_measures.bars_of(TINY) == path
    assert path.stat().st_mtime_ns == written
    path.unlink()
    assert bench_measures.bars_of(TINY) == path
    assert list(path.parent.iterdir()) == [path]


def test_throughput_counts_what_was_run():
    answer = bench_measures.flow(TINY, 2)
    assert 2 * 3 * 390 * 0.8 < answer["rows"] <= 2 * 3 * 390
    assert len(answer["cpu"]) == len(answer["wall"]) == 2
    assert min(answer["cpu"] + answer["bare_cpu"]) > 0.0


def test_stages_and_kernels_all_have_their_part():
    (spent,) = bench_measures.stages(TINY, 1)["stages"]
    assert tuple(spent) == bench_measures.STAGES
    assert min(spent.values()) > 0.0
    answer = bench_measures.kernels(TINY, 1)
    assert len(answer["needed_cpu"]) == len(answer["all_cpu"]) == 1


def test_recovery_is_on_when_it_is_measured():
    answer = bench_measures.recovery(TINY, 1, epochs=1)
    assert len(answer["on_cpu"]) == len(answer["off_cpu"]) == 1
    assert answer["epochs"][0] >= 1


def test_the_live_shape_has_one_slice_per_frame():
    answer = bench_measures.live(TINY)
    assert answer["slices"] == 2 * 390 - 100
    assert 0.0 < answer["p50_ms"] <= answer["p99_ms"] <= answer["worst_ms"]


def test_every_measurement_in_a_process_of_its_own(monkeypatch):
    """Each part of the whole, over markets so small that the numbers mean nothing."""
    monkeypatch.undo()  # other processes have the usual cache
    parts = [
        bench.of_processes(TINY, 1), bench.of_width({3: 2}, 1), bench.of_memory(TINY, TINY), bench.of_start(TINY, 1),
    ]  # fmt: skip
    lines = [line for part in parts for line in part]
    assert {line.group for line in lines} == {"two processes", "width", "memory", "start"}
    assert all(line.value > 0.0 for line in lines)


def test_a_measurement_that_fails_is_no_number(monkeypatch, capfd):
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="bench: flow ended with 1"):
        bench.measure("flow", market=[0, 1], times=1)
    assert "symbols=0" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "reached", "shown", "goal"),
    [
        (bench.Line("g", "n", "bars/CPU-s", 3e6, 4e6, ">=", 2e6), True, "3.00 M", "≥ 2.00 M"),
        (bench.Line("g", "n", "ms", 1.25, None, "<=", 1.0), False, "1.25", "≤ 1"),
        (bench.Line("g", "n", "share", 0.2512), None, "25.1%", ""),
    ],
)
def test_a_line_is_held_against_its_goal(line, reached, shown, goal):
    assert (line.reached, bench.shown(line, line.value), bench.goal(line)) == (reached, shown, goal)


def test_the_command_shows_a_table_or_json(monkeypatch, capsys):
    lines = [bench.Line("group", "name", "s", 0.5, 0.25, "<=", 3.0)]
    monkeypatch.setattr(bench, "run", lambda names, quick, progress: lines)
    with pytest.raises(SystemExit, match="0"):
        main(["bench", "--quick", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["lines"] == [
        {"group": "group", "name": "name", "unit": "s", "value": 0.5, "best": 0.25, "sign": "<=", "bound": 3.0,
         "reached": True}
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="0"):
        main(["bench"])
    assert "yes" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "--size", "D"])
