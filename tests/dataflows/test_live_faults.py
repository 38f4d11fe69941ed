"""Live, when something around it is wrong: poisoned records, a broker that is away, a place that retention ate."""

import json
import math
import os
import random
import signal
import time
import uuid

import msgspec
import pytest
from confluent_kafka import Producer

from dataflows.compare import compare
from infra import dead_letters
from infra.kafka import ID, SCHEMA, TS, Cluster, bounds, records, topic_names
from infra.topics import create_topics
from schemas import codec
from schemas.records import Beat, Command, MarketRaw, SliceBars
from tests.dataflows.livekit import DECIDED, SYNCED, Site, said, slices, states
from tests.infra.logkit import fill, trim

MARKET = {"INGEST__SOURCE": "synthetic:symbols=12,days=2,seed=11,timeframe=5m", "LIVE__TIMEFRAME": "5m",
          "RULES__COOLDOWN_SECONDS": "60", "RULES__MAX_ORDERS_PER_MINUTE": "1000"}  # fmt: skip
AWAY = 60.0 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 10.0  # seconds


class Undisturbed:
    """What the market gives when nothing is wrong."""

    def __init__(self, site, where):
        self.site, self.where = site, where
        self.days, self.slices, self.states = site.sessions(), slices(where), states(site)
        self.said = {topic: said(where, topic) for topic in DECIDED}
        self.raw = []  # the first bar of each partition that has one
        for number, (low, high) in sorted(bounds(where, "market.raw").items()):
            bars = (m for m in records(where, "market.raw", number, low, high) if m.key() is not None)
            if (bar := next(bars, None)) is not None:
                self.raw.append((number, bar))

    def check(self, site, where):
        """Everything that was decided is the same."""
        assert compare(site.sessions(), self.days) == []
        assert {topic: said(where, topic) for topic in DECIDED} == self.said
        assert states(site) == self.states


@pytest.fixture(scope="module")
def undisturbed(servers, tmp_path_factory):
    where = Cluster(servers, f"t{uuid.uuid4().hex[:12]}.")
    one = Site(tmp_path_factory.mktemp("undisturbed"), where, **MARKET, INGEST__SPEED="0")
    try:
        for name in ("ingest", "live"):
            one.start(name, f"dataflows.{name}")
        one.wait(2)
        time.sleep(2.5)  # an epoch or two: the store knows its place
        return Undisturbed(one, where)
    finally:
        one.stop_all()


@pytest.fixture
def site(tmp_path):
    made = []

    def make(where, **settings):
        made.append(Site(tmp_path / f"site{len(made)}", where, **MARKET, **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop_all()


JUNK = [
    (b"\xff\x00 no Avro", [(SCHEMA, codec.mark(MarketRaw))]),
    (b"\xff" * 40, [(SCHEMA, codec.mark(SliceBars))]),
    (b"", [(SCHEMA, b"0123456789abcdef")]),
    (b"\x02" * 500, [(SCHEMA, codec.mark(Command)), (ID, b"\xff\xfe"), (TS, b"9" * 30)]),
    (b"no headers", []),
    (None, [(ID, b"empty"), (TS, b"soon")]),
    (b"nothing in its headers", [(ID, None), (TS, None), (SCHEMA, None)]),
    (codec.encode(Beat(ts=1))[:-1], [(SCHEMA, codec.mark(Beat))]),
    (b"\x07" * 900_000, [(SCHEMA, codec.mark(MarketRaw)), (ID, b"large")]),  # too large to be copied into a letter
]


def poison(where, topic, number, values):
    """Append records that nobody can use; where they stand."""
    client, places = Producer({**where.client, "linger.ms": 0}), []
    for value, headers in values:
        client.produce(
            where.topic(topic), value, None, number, headers=headers,
            on_delivery=lambda error, m: places.append((topic, m.partition(), m.offset(), error)),
        )  # fmt: skip
    assert client.flush(60) == 0
    assert [place[3] for place in places] == [None] * len(values)
    return [place[:3] for place in places]


def bad_bars(undisturbed, rng):
    """Bars that say something impossible; by partition."""
    number, message = rng.choice(undisturbed.raw)
    bar = codec.decode(MarketRaw, message.value())
    for change in ({"close": math.nan}, {"high": math.inf}, {"open": -1.0}, {"volume": -5.0}, {"symbol": "NOSUCH"},
                   {"symbol": "é"}, {"ts": "2024-01-06T15:00:00Z"}):  # fmt: skip
        yield number, codec.encode(msgspec.structs.replace(bar, **change))
    yield (number + 1) % 16, message.value()  # of another shard


def bad_slices(undisturbed, rng):
    """Slices that cannot be the next one of partition 5: an old one, another shard's, with impossible symbols."""
    for shard in (5, 6):
        yield rng.choice(list(undisturbed.slices[shard].values())[:3])
    one = codec.decode(SliceBars, next(iter(undisturbed.slices[5].values())))
    less, nan = b"\xff" * 4, b"\xff" * 8  # symbol -1, and prices that are no numbers
    numbers = dict.fromkeys(("bar_ts", "open", "high", "low", "close", "volume"), nan)
    yield codec.encode(msgspec.structs.replace(one, symbol=less, slot=less, **numbers))


def test_poisoned_records_never_stop_the_flows_and_are_found_among_the_letters(site, kafka, undisturbed):
    rng = random.Random(3)
    create_topics(kafka)
    one = site(kafka, INGEST__SPEED="2500")
    mark = {kind: [(SCHEMA, codec.mark(kind))] for kind in (MarketRaw, SliceBars)}
    places = poison(kafka, "market.raw", 3, JUNK) + poison(kafka, "market.slices", 5, JUNK)
    places += poison(kafka, "account.commands", 0, JUNK)
    for name in ("ingest", "live"):
        one.start(name, f"dataflows.{name}")
    deadline = time.monotonic() + 120.0
    for share in (0.2, 0.4, 0.6):
        while bounds(kafka, "account.log")[0][1] < 156 * share:
            one.check()
            assert time.monotonic() < deadline, one.tails()
            time.sleep(0.1)
        places += poison(kafka, "market.raw", rng.randrange(16), JUNK)
        places += poison(kafka, "market.slices", rng.randrange(16), JUNK)
        places += poison(kafka, "account.commands", 0, JUNK)
        for number, value in bad_bars(undisturbed, rng):
            places += poison(kafka, "market.raw", number, [(value, mark[MarketRaw])])
        places += poison(
            kafka, "market.slices", 5, [(value, mark[SliceBars]) for value in bad_slices(undisturbed, rng)]
        )
    one.wait(2)
    wanted = {":".join(map(str, place)) for place in places}
    while bounds(kafka, "dlq.failed")[0][1] < len(wanted) and time.monotonic() < deadline:
        one.check()
        time.sleep(0.1)
    listed = one.utp("dlq", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    found = json.loads(listed.stdout)
    assert sorted(letter["place"] for letter in found) == sorted(wanted)
    kinds = {letter["error_type"] for letter in found}
    assert kinds >= {"undecodable", "unknown_symbol", "off_session", "repeated", "wrong_partition"}, kinds
    undisturbed.check(one, kafka)
    one.stop_all()
    done = one.utp("dlq", "replay", "--all")
    assert done.returncode == 0, done.stderr
    put_back = bounds(kafka, "market.late")
    assert sum(high for _, high in put_back.values()) == sum(1 for topic, *_ in places if topic != "account.commands")
    for letter in dead_letters.letters(kafka):
        if letter.source_topic == "market.raw" and letter.source_partition == 3 and letter.source_offset == 0:
            value, key, headers = dead_letters.original(kafka, letter)
            assert (value, key, headers) == (JUNK[0][0], None, JUNK[0][1])


def test_a_broker_that_is_away_costs_nothing_but_time(site, broker, undisturbed):
    where = Cluster(broker.servers)
    one = site(where, INGEST__SPEED="4000")
    for name in ("ingest", "live"):
        one.start(name, f"dataflows.{name}")
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        one.check()
        if where.topic("account.log") in topic_names(where) and bounds(where, "account.log")[0][1] > 40:
            break
        time.sleep(0.1)
    one.signal(signal.SIGSTOP)
    time.sleep(SYNCED)
    broker.kill()
    one.signal(signal.SIGCONT)
    gone = time.monotonic()
    while time.monotonic() < gone + AWAY:
        one.check()
        time.sleep(0.5)
    broker.start()
    one.wait(2)
    undisturbed.check(one, where)


@pytest.fixture
def heard():
    """Flows hear Ctrl-C even where whoever started the tests does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_flows_that_are_told_to_end_do_so_in_time_and_lose_nothing(site, kafka, undisturbed):
    one, ways, since = site(kafka, INGEST__SPEED="3000"), {"ingest": 1, "live": 2}, time.time()
    runner = {"ingest": "bytewax.run", "live": "infra.run"}
    for name in ways:
        one.start(name, f"dataflows.{name}", runner=runner[name])
    deadline = time.monotonic() + 240.0
    for share, number in ((0.2, signal.SIGINT), (0.4, signal.SIGTERM), (0.6, signal.SIGINT)):
        while not (reached(kafka, 156 * share) and all(begun(one, name, since) for name in ways)):
            one.check()
            assert time.monotonic() < deadline, one.tails()
            time.sleep(0.1)
        for name, processes in ways.items():
            (first, *_), told = one.running[name], time.monotonic()
            one.stop(name, number)
            assert time.monotonic() < told + 30.0
            assert first.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
            one.start(name, f"dataflows.{name}", runner=runner[name], processes=processes)
        ways["live"], since = 3 - ways["live"], time.time()
    one.wait(2)
    undisturbed.check(one, kafka)
    assert "Traceback" not in one.tails()
    for name in ways:
        assert "interrupted; started again the flow goes on" in (one.folder / f"{name}.log").read_text()


def begun(site, name, since):
    """Has a flow written to its store since then? One that has not yet may still be loading."""
    return any(path.stat().st_mtime > since for path in (site.folder / "recovery" / name).glob("part-*.sqlite3-wal"))


def reached(where, count):
    """Has the account log so many records? It has none before a flow has made it."""
    return where.topic("account.log") in topic_names(where) and bounds(where, "account.log")[0][1] >= count


def test_a_place_that_retention_has_eaten_is_one_line_and_exit_code_2(undisturbed):
    one, where = undisturbed.site, undisturbed.where
    high = bounds(where, "market.slices")[3][1]
    fill(where, "market.slices", 3, [b"x"] * 5)
    trim(where, "market.slices", 3, high + 2)
    (one.folder / "live.log").unlink()
    one.start("live", "dataflows.live", runner="infra.run")
    try:
        assert one.running["live"][0].wait(60.0) == 2
    finally:
        one.stop_all()
    (line,) = (one.folder / "live.log").read_text().strip().splitlines()
    assert line.startswith(f"dataflows.live: {where.topic('market.slices')} partition 3: offset ")
    assert f"is no longer in the log, which begins at {high + 2}; retention has removed it" in line
