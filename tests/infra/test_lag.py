import time

from prometheus_client import CollectorRegistry, generate_latest

from infra.lag import LagCollector
from infra.tail import TailSource
from infra.topics import Topic, create_topics
from tests.infra.logkit import fill


def test_lag_is_what_was_not_read_yet(kafka):
    create_topics(kafka, [Topic("a", 2)])
    fill(kafka, "a", 1, [b"x"] * 10)
    part = TailSource(kafka, "a", {1: 0}).build_part("step", "a:001", None)
    deadline = time.monotonic() + 20.0
    while part.reading.end < 10 and time.monotonic() < deadline:  # told once a second
        time.sleep(0.05)
    part._next = 4  # as if it had taken so many
    registry = CollectorRegistry()
    registry.register(LagCollector("live"))
    text = generate_latest(registry).decode()
    assert 'kafka_consumer_lag{consumer_group="live",partition="1",topic="a"} 6.0' in text
    assert 'kafka_consumer_lag_total{consumer_group="live"} 6.0' in text
    part.close()
    assert 'topic="a"' not in generate_latest(registry).decode()


def test_a_flow_shows_it_where_bytewax_serves_metrics(kafka, monkeypatch):
    from bytewax._metrics import generate_python_metrics

    from dataflows import live, trading

    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.servers)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", kafka.prefix)
    monkeypatch.setattr("gc.freeze", lambda: None)  # of this process, which goes on
    live.flow()
    trading.flow()  # the same gauges, under the name of the last
    part = TailSource(kafka, "account.log").build_part("step", "account.log:000", None)
    text = generate_python_metrics()
    part.close()
    assert text.count('topic="account.log"') == 1
    assert 'kafka_consumer_lag{consumer_group="trading",partition="0",topic="account.log"} 0.0' in text
