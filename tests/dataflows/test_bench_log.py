"""The measurements on the log count what they should; how long anything takes is never tested."""

import pytest

from dataflows import bench_log


@pytest.fixture
def log(kafka, monkeypatch):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.servers)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", kafka.prefix)
    return kafka


def test_a_replay_reads_every_bar_and_every_slice(log):
    rows = bench_log.fill([5, 2])["rows"]
    assert 2 * 5 * 390 * 0.8 < rows <= 2 * 5 * 390
    answer = bench_log.source(2)
    assert (answer["rows"], len(answer["cpu"])) == (rows, 2)
    answer = bench_log.replay(1)
    assert (answer["slices"], len(answer["cpu"])) == (2 * 390, 1)
    answer = bench_log.growth()
    assert (answer["slices"], len(answer["mb"])) == (2 * 390, 10)


def test_latency_is_that_of_slices_with_orders(log):
    answer = bench_log.latency([40, 3], 150, pace=0.0)
    assert 0 < answer["ordered"] <= 150
    assert 0.0 < answer["p50_ms"] <= answer["p99_ms"] <= answer["worst_ms"]
    assert 0.0 < answer["log_p50_ms"] <= answer["p99_ms"]
    assert answer["start_s"] > 0.0
