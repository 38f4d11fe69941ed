import socket
import subprocess
import sys
from functools import partial

import pytest

from infra import log_bars
from infra.embedded import Broker, free_port
from infra.kafka import Cluster, bounds, cluster, wait_for
from infra.retry import Policy
from infra.topics import BY_NAME, TOPICS, Topic, create_topics
from schemas.errors import UserError
from schemas.frames import SHARDS


def test_the_environment_names_the_cluster_and_no_secret_is_printed():
    where = cluster(
        {
            "KAFKA_BOOTSTRAP_SERVERS": "a:1,b:2",
            "KAFKA_TOPIC_PREFIX": "x.",
            "KAFKA_SASL_PASSWORD": "hush",
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        }
    )
    assert (where.servers, where.topic("market.raw")) == ("a:1,b:2", "x.market.raw")
    assert where.client["sasl.password"] == "hush"
    assert where.client["security.protocol"] == "SASL_SSL"
    assert "hush" not in repr(where)
    assert cluster({}).servers == "localhost:9092"


@pytest.mark.parametrize("value", ["0", "-1", "x", "99", ""])
def test_an_impossible_replication_is_a_mistake(value):
    with pytest.raises(UserError, match="KAFKA_REPLICATION"):
        cluster({"KAFKA_REPLICATION": value})


def test_a_cluster_that_is_not_there_is_one_clear_line():
    with pytest.raises(UserError, match=r"127.0.0.1:9 does not answer within 0.3 s .*utp broker"):
        wait_for(Cluster("127.0.0.1:9"), 0.3)


def test_who_waits_for_a_cluster_is_told_so_once(caplog):
    with pytest.raises(UserError, match="does not answer within 5 s"):
        wait_for(Cluster("127.0.0.1:9"), 5.0)
    told = [line.getMessage() for line in caplog.records if "does not answer yet" in line.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("Kafka at 127.0.0.1:9 does not answer yet, waiting up to 5 s; start it (`utp broker`)")


def test_a_log_whose_cluster_is_not_there_is_one_clear_line_too(monkeypatch):
    monkeypatch.setattr(log_bars, "wait_for", partial(wait_for, seconds=0.3))
    with pytest.raises(UserError, match=r"Kafka at 127.0.0.1:9 does not answer within 0.3 s .*; start it"):
        log_bars.LogBars(Cluster("127.0.0.1:9"), "market.slices")


def test_a_cluster_that_went_away_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("infra.kafka.BROKER", Policy(2, 0.0, 0.0))
    monkeypatch.setattr("infra.kafka.ANSWER", 0.2)
    with pytest.raises(UserError, match=r"^Kafka at 127\.0\.0\.1:\d+ does not answer \(.*\); start it"):
        bounds(Cluster(f"127.0.0.1:{free_port()}"), "market.raw")


def test_an_embedded_broker_that_died_is_noticed(tmp_path):
    broker = Broker(tmp_path)
    broker.check()  # not started yet
    broker.start()
    broker.check()
    broker.kill()
    with pytest.raises(UserError, match=r"^the broker ended with code -9; .*broker\.log says why$"):
        broker.check()
    with pytest.raises(UserError, match="-9"):
        broker.wait()


def test_a_port_that_is_taken_is_one_clear_line(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot have 127.0.0.1:{port} \(Address already in use\): end what"):
            Broker(tmp_path / "broker", port).start()
    assert not (tmp_path / "broker").exists()


def test_the_topics_of_the_platform_are_created_once(kafka):
    assert create_topics(kafka) == sorted(kafka.topic(topic.name) for topic in TOPICS)
    assert create_topics(kafka) == []
    assert len(bounds(kafka, "market.slices")) == SHARDS
    assert len(bounds(kafka, "account.log")) == 1


def test_history_is_kept_for_ever():
    for name in ("market.slices", "market.late", "account.log", "account.commands", "execution.reports",
                 "account.orders", "model.activated", "predictions.tft"):  # fmt: skip
        assert BY_NAME[name].retention_ms == -1


def test_another_number_of_partitions_is_refused(kafka):
    create_topics(kafka, [Topic("a", 2)])
    with pytest.raises(UserError, match=r"\.a .* has 2 partitions, want 3"):
        create_topics(kafka, [Topic("a", 3)])


def test_a_topic_that_forgets_is_refused_where_history_must_stay(kafka):
    create_topics(kafka, [Topic("a", 1, 3_600_000)])
    with pytest.raises(UserError, match=r"\.a .* forgets after 3600000 ms"):
        create_topics(kafka, [Topic("a", 1)])


def test_a_topic_that_does_not_exist_is_a_mistake(kafka):
    with pytest.raises(UserError, match="there is no topic"):
        bounds(kafka, "nowhere")


def test_the_embedded_broker_ends_with_its_command(tmp_path):
    port = free_port()
    script = "from dataflows.cli import main; main()"
    command = [sys.executable, "-c", script, "broker", "--data", str(tmp_path / "data"), "--port", str(port)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout.readline() == f"broker at 127.0.0.1:{port}, data in {tmp_path / 'data'}; Ctrl-C stops it\n"
    wait_for(Cluster(f"127.0.0.1:{port}"), 5.0)
    run.terminate()
    run.communicate(timeout=30)
    assert run.returncode == 130
    with pytest.raises(UserError, match="does not answer"):
        wait_for(Cluster(f"127.0.0.1:{port}"), 0.2)
