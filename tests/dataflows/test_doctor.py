"""What `utp doctor` says, of a real log and of real stores."""

import json
import pickle
import sqlite3

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main
from typer.testing import CliRunner

from dataflows.cli import app
from infra.embedded import free_port
from infra.ranges import RangeSource
from infra.store_places import stored_places
from infra.topics import TOPICS, Topic, create_topics
from tests.infra.logkit import fill, trim


@pytest.fixture
def log(kafka, monkeypatch):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.servers)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", kafka.prefix)
    return kafka


def examine(tmp_path, *arguments):
    """What it says by subject, and its exit code."""
    given = ["doctor", "--json", "--recovery", str(tmp_path), "--set", f"live.folder={tmp_path / 'live'}", *arguments]
    done = CliRunner().invoke(app, given)
    rows = json.loads(done.stdout)
    return {row["subject"]: (row["is_well"], row["message"]) for row in rows}, done.exit_code


def read_some(where, folder, upto):
    """A store whose flow has read so many records of each of two partitions."""
    folder.mkdir()
    init_db_dir(folder, 2)
    graph = Dataflow("live")
    ranges = {("market.slices", number): (0, upto) for number in (3, 4)}
    read = op.input("slices", graph, RangeSource(where, ranges, batch=1))
    op.output("out", read, TestingSink([]))
    run_main(graph, recovery_config=RecoveryConfig(folder))


def test_topics_that_are_absent_are_named(log, tmp_path):
    found, code = examine(tmp_path / "none")
    assert code == 1
    well, message = found["topics"]
    assert not well
    assert message.endswith("absent: `utp topics create`")
    assert found["settings"][0]
    assert found["stores"] == (True, f"none in {tmp_path / 'none'}: flows begin anew")


def test_a_topic_that_forgets_what_a_replay_needs_is_not_well(log, tmp_path):
    create_topics(log, [Topic("account.log", 1, 3_600_000)])
    create_topics(log, [topic for topic in TOPICS if topic.name != "account.log"])
    found, code = examine(tmp_path / "none")
    well, message = found["topics"]
    assert (code, well) == (1, False)
    assert "account.log" in message
    assert message.endswith("set retention.ms=-1 on it")
    assert found["account.log"] == (True, "0 records")  # the rest is told all the same


def test_a_store_is_as_far_behind_as_the_log_has_more(log, tmp_path):
    create_topics(log)
    for number, count in ((3, 9), (4, 5)):
        fill(log, "market.slices", number, [b"x"] * count)
    read_some(log, tmp_path / "live", 5)
    assert stored_places(tmp_path / "live") == {("market.slices", 3): 5, ("market.slices", 4): 5}
    found, code = examine(tmp_path)
    assert code == 0
    assert found["topics"][0]
    assert found["market.slices"] == (True, "14 records")
    assert found["lag of live"] == (True, "4 of market.slices not read at the newest snapshot")
    assert found["store live"][0]


def test_a_place_that_the_log_no_longer_has_is_not_well(log, tmp_path):
    create_topics(log)
    for number in (3, 4):
        fill(log, "market.slices", number, [b"x"] * 9)
    read_some(log, tmp_path / "live", 5)
    trim(log, "market.slices", 4, 7)
    found, code = examine(tmp_path)
    assert code == 1
    well, message = found["place of live"]
    assert not well
    assert message.startswith("market.slices partition 4: the store goes on with offset 5, the log has 7 to 9")


def test_a_log_that_does_not_answer_is_one_finding_among_others(tmp_path, monkeypatch):
    servers = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
    monkeypatch.setattr("dataflows.doctor.PATIENCE", 0.5)
    found, code = examine(tmp_path)
    assert code == 1
    assert not found["log"][0]
    assert f"Kafka at {servers} does not answer" in found["log"][1]
    assert found["snapshots"][0]


def test_nothing_that_lies_in_a_store_is_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (tmp_path / "harm").touch, ()

    with sqlite3.connect(tmp_path / "part-0.sqlite3") as store:
        store.execute("CREATE TABLE snaps (step_id TEXT, state_key TEXT, snap_epoch INTEGER, ser_change BLOB)")
        rows = [("a", "t:000", 1, pickle.dumps(Harm())), ("a", "t:001", 1, pickle.dumps(7)),
                ("a", "t:001", 2, pickle.dumps(8)), ("b", "t:002", 1, pickle.dumps((1, 2, ())))]  # fmt: skip
        store.executemany("INSERT INTO snaps VALUES (?, ?, ?, ?)", rows)
    store.close()
    assert stored_places(tmp_path) == {("t", 1): 8}
    assert not (tmp_path / "harm").exists()
