"""Live = replay = backtest: one order log, whatever the feed's disorder and whoever is killed when."""

import random
import time

import pyarrow.parquet as pq
import pytest

from dataflows.commands import send
from dataflows.compare import compare
from infra.gated_sink import BY, ID
from infra.kafka import bounds, records
from schemas import codec
from schemas.errors import UserError
from schemas.records import CommandKind, LogEntry, LogKind
from tests.dataflows.livekit import Site, sometime

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
    other = one.utp("replay", "--day", days[1], "--set", "rules.max_notional_usd=500")
    assert other.returncode == 2
    assert "was made with other settings" in other.stderr


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


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_lose_no_order_and_double_none(site, kafka, tmp_path, seed, request):
    """Either flow is killed at random moments and comes back, live with another number of workers."""
    rng = random.Random(seed)
    kills = request.config.getoption("--kills") // 2
    one = site(**DISORDER)
    ways = [("run", ()), ("run", ("-w", "2")), ("testing", ("-p", "2"))]
    for name in ("ingest", "live"):
        one.start(name, f"dataflows.{name}")
    for _ in range(kills):
        sometime(rng, 0.5, 6.0)
        name = rng.choice(["ingest", "live"])
        one.stop(name)
        module, arguments = rng.choice(ways) if name == "live" else ways[0]
        one.start(name, f"dataflows.{name}", *arguments, module=module)
    live = one.wait(2)
    done = one.utp("backtest", "kafka://market.slices", "--out", str(tmp_path / "log"))
    assert done.returncode == 0, done.stderr
    assert compare(live, [tmp_path / "log"]) == []
    for topic in ("account.log", "account.orders", "risk.approved", "execution.completed"):
        names = ids(kafka, topic)
        assert len(names) == len(set(names)), topic
    sent = {name for name in ids(kafka, "account.orders") if not name.endswith("|cancel")}
    assert sent == {
        name for folder in live for name in pq.read_table(folder / "orders.parquet")["order_id"].to_pylist()
    }
    low, high = bounds(kafka, "account.log")[0]
    assert {dict(m.headers())[BY] for m in records(kafka, "account.log", 0, low, high)} == {b"recorder"}
