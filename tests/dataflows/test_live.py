"""Live = replay = backtest: one order log, whatever the feed's disorder and whoever is killed when."""

import os
import random
import re
import time
from collections import Counter
from dataclasses import replace
from datetime import date
from itertools import cycle

import pyarrow.parquet as pq
import pytest

from dataflows.commands import send
from dataflows.compare import compare
from infra.embedded import Broker
from infra.kafka import ID, Cluster, bounds, records
from infra.snapshots import path_of, read, write
from schemas import codec
from schemas.errors import UserError
from schemas.records import CommandKind, LogEntry, LogKind
from tests.dataflows.livekit import (
    DECIDED,
    Site,
    deliver_again,
    kill_broker,
    said,
    slices,
    sometime,
    states,
)

SOURCE = "synthetic:symbols=12,days=2,seed=11,timeframe=5m"
QUIET = {"INGEST__SOURCE": SOURCE, "INGEST__SPEED": "0", "LIVE__TIMEFRAME": "5m", "RULES__COOLDOWN_SECONDS": "60",
         "RULES__MAX_ORDERS_PER_MINUTE": "1000"}  # fmt: skip
DISORDER = {**QUIET, "INGEST__JITTER_SECONDS": "4", "INGEST__LATE": "0.03", "INGEST__MISSING": "0.03",
            "INGEST__REPEATED": "0.05", "INGEST__SEED": "5"}  # fmt: skip


@pytest.fixture
def site(tmp_path, kafka):
    made = []

    def make(**settings):
        made.append(Site(tmp_path, kafka, **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop_all()


def ids(where, topic):
    """The ids in a topic with one partition, in order; each at most once."""
    low, high = bounds(where, topic)[0]
    return [dict(message.headers())[ID].decode() for message in records(where, topic, 0, low, high)]


def recorded(sessions):
    """The ids of all orders in the sessions' results."""
    return [name for folder in sessions for name in pq.read_table(folder / "orders.parquet")["order_id"].to_pylist()]


def test_a_day_live_is_the_backtest_of_its_file_of_its_log_and_of_its_archive(site, kafka, tmp_path):
    one = site(**QUIET)
    one.start("ingest", "dataflows.ingest")
    one.start("live", "dataflows.live")
    live = one.wait(2)
    for name, spec in (("file", SOURCE), ("log", "kafka://market.slices")):
        done = one.utp("backtest", spec, "--out", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert compare(live, [tmp_path / name]) == []
    done = one.utp("archive", "--out", str(tmp_path / "archive"))
    assert (done.returncode, len(list((tmp_path / "archive").iterdir()))) == (0, 2), done.stderr
    done = one.utp("backtest", str(tmp_path / "archive"), "--out", str(tmp_path / "archived"))
    assert done.returncode == 0, done.stderr
    assert compare(live, [tmp_path / "archived"]) == []
    assert sum(pq.read_metadata(folder / "orders.parquet").num_rows for folder in live) > 20
    sent = [name for name in ids(kafka, "account.orders") if not name.endswith("|cancel")]
    assert sent == [
        name for folder in live for name in pq.read_table(folder / "orders.parquet")["order_id"].to_pylist()
    ]


def test_a_live_day_decided_again_from_the_log_is_the_same_order_by_order(site, tmp_path):
    """From the snapshot of the close before it, with a human's kill and resume in between."""
    one = site(**DISORDER)
    one.start("ingest", "dataflows.ingest")
    one.start("live", "dataflows.live")
    one.wait(1)
    assert one.utp("kill", "--reason", "a test").returncode == 0
    assert one.utp("resume", "--reason", "a test").returncode == 0
    days = [folder.name for folder in one.wait(2)]
    for day in days:
        done = one.utp("replay", "--day", day)
        assert (done.returncode, done.stdout.splitlines()[-1][-8:]) == (0, "the same"), done.stdout + done.stderr
    other = one.utp("replay", "--day", days[0], "--set", "rules.max_notional_usd=500")
    assert other.returncode == 1
    assert "NOT the same" in other.stdout
    assert "settings: the day was decided by " in other.stdout
    other = one.utp("replay", "--day", days[0], "--account", "nobody")
    assert other.returncode == 2
    assert "account.log has nothing of it; it is the log of backtest" in other.stderr
    other = one.utp("replay", "--day", days[1], "--set", "rules.max_notional_usd=500")
    assert other.returncode == 2
    assert "was made with other settings" in other.stderr
    kept = read(one.folder / "var/snapshots/backtest", session_of(days[1]), "account")
    kept.state[1][0]["cash"] += 1  # of the book's funds
    path_of(one.folder / "var/snapshots/backtest", session_of(days[1]), "account").unlink()
    write(one.folder / "var/snapshots/backtest", session_of(days[1]), "account", kept)
    other = one.utp("replay", "--day", days[1])
    assert other.returncode == 1
    assert re.search(
        r"^state at the close, account\.book\.funds\.cash\[0\]: replayed \d+, recorded \d+$", other.stdout, re.M
    )


def session_of(day):
    """As snapshots count it."""
    return (date.fromisoformat(day) - date(1970, 1, 1)).days


def test_a_kill_stops_a_trading_day_at_its_place_in_the_log_and_a_resume_the_next_one_goes_on(site, kafka):
    one = site(**{**QUIET, "INGEST__SOURCE": SOURCE.replace("days=2", "days=3"),
                  "INGEST__SPEED": "2000"})  # seven slices a second  # fmt: skip
    one.start("ingest", "dataflows.ingest")
    one.start("live", "dataflows.live")
    deadline = time.monotonic() + 200.0
    while orders(kafka) < 10 and time.monotonic() < deadline:  # early on the second day: the first one warms up
        time.sleep(0.05)
    send(kafka, "backtest", CommandKind.KILL, "enough for today")
    one.wait(2)
    send(kafka, "backtest", CommandKind.RESUME, "a new day")
    days = one.wait(3)
    reasons = pq.read_table(days[1] / "verdicts.parquet")["reason"].to_pylist()
    stop = reasons.index("kill_switch")
    assert reasons[:stop].count("none") >= 2  # it traded before
    assert set(reasons[stop:]) == {"kill_switch"}
    for folder in days:
        done = one.utp("replay", "--day", folder.name)
        assert (done.returncode, done.stdout.splitlines()[-1][-8:]) == (0, "the same"), done.stdout + done.stderr
    assert "none" in pq.read_table(days[2] / "verdicts.parquet")["reason"].to_pylist()
    low, high = bounds(kafka, "account.log")[0]
    log = [codec.decode(LogEntry, m.value()) for m in records(kafka, "account.log", 0, low, high)]
    assert [entry.command.kind.value for entry in log if entry.kind == LogKind.COMMAND] == ["kill", "resume"]


def orders(kafka):
    """How many the account has sent; none before the flow has made the topic."""
    try:
        return bounds(kafka, "account.orders")[0][1]
    except UserError:
        return 0


@pytest.fixture
def breakable(request, tmp_path):
    """A cluster, and the broker where it is one that may be killed; yours may not."""
    if "KAFKA_BOOTSTRAP_SERVERS" in os.environ:
        shared = request.getfixturevalue("kafka")
        yield replace(shared, prefix=f"{shared.prefix}chaos."), None
        return
    broker = Broker(tmp_path / "broker")
    broker.start()
    yield Cluster(broker.servers), broker
    broker.stop()


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_lose_no_order_and_double_none(kafka, breakable, tmp_path, seed, request):
    """Flows and broker are killed at random moments, and come back with another number of workers and processes.

    Between the kills records are delivered again and in another order. Beside it runs the same market undisturbed.
    """
    rng = random.Random(seed)
    where, broker = breakable
    kills = request.config.getoption("--kills") // 2
    days = min(max(2, kills // 5), 7)
    disturbed = {**DISORDER, "INGEST__SOURCE": SOURCE.replace("days=2", f"days={days}"),
                 "INGEST__SPEED": str(days * 23_400 / (5 * kills))}  # so that all kills hit it at work  # fmt: skip
    quiet = Site(tmp_path / "quiet", kafka, **{**disturbed, "INGEST__SPEED": "0"})
    one = Site(tmp_path / "chaos", where, **disturbed)
    ways = {name: cycle([(1, ()), (2, ()), (1, ("-w", "2"))]) for name in ("ingest", "live")}
    hit = Counter()
    try:
        for name, (processes, arguments) in [(name, next(way)) for name, way in ways.items()]:
            quiet.start(name, f"dataflows.{name}")
            one.start(name, f"dataflows.{name}", *arguments, processes=processes)
        targets = [rng.choice(["ingest", "live", "live", "broker"]) for _ in range(kills)]
        for target in targets:
            sometime(rng, 0.5, 6.0)
            one.check()
            hit[target] += 1
            if target == "broker":
                if broker is not None:
                    kill_broker(broker, one, rng)
                continue
            one.stop(target)
            for topic in ("market.raw", "market.slices"):
                hit["again"] += deliver_again(where, rng, topic)
            processes, arguments = next(ways[target])
            one.start(target, f"dataflows.{target}", *arguments, processes=processes)
        one.env["INGEST__SPEED"] = "0"
        one.stop("ingest")
        one.start("ingest", "dataflows.ingest")
        patience = 240.0 + 20.0 * days
        undisturbed, live = quiet.wait(days, patience), one.wait(days, patience)
    finally:
        one.stop_all()
        quiet.stop_all()
    print(f"seed {seed}: {dict(hit)}; {sum(len(one) for one in slices(where))} slices, {orders(where)} orders")
    assert compare(live, undisturbed) == []
    for topic in DECIDED:
        found = said(where, topic)
        assert len(found) == len({name for name, *_ in found}), topic
        assert found == said(kafka, topic), topic
    assert slices(where) == slices(kafka)
    assert states(one) == states(quiet)
    sent = {name for name in ids(where, "account.orders") if not name.endswith("|cancel")}
    assert sent == set(recorded(live))
    assert {writer for _, writer, *_ in said(where, "account.log")} == {b"recorder"}
