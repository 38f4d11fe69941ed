"""Bars from anywhere: what is learned from the log of slices is what is learned from its archive, bit for bit."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataflows import archive, cli
from dataflows.sources import open_source
from infra import log_bars, slice_log
from infra.bars import open_bars
from infra.benchmark import of_bars
from infra.gated_sink import ID
from infra.kafka import TS, Cluster, bounds, records, wait_for
from infra.raw_log import LATE
from infra.raw_log import record as raw_record
from infra.reference import Files
from infra.settings import Settings
from infra.topics import create_topics
from models.dataset import Dataset, build
from models.training import Data
from operators.slicer import Arrival
from schemas.errors import UserError
from tests.infra.logkit import fill

SPEC = "synthetic:symbols=7,days=6,seed=3,timeframe=5m"
LOG = f"kafka://{slice_log.TOPIC}"
DATA = Data(lookback=12, horizons=(3, 6), decision_horizon=3, every=4)
ARRAYS = ("matrix", "end", "symbol", "label", "volatility", "entry")


@pytest.fixture
def log(kafka, monkeypatch):
    """The slices of a small market, as ingestion writes them."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.servers)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", kafka.prefix)
    create_topics(kafka)
    written, known, opens = {}, {}, set()
    for chunk in open_bars(SPEC, frame_slices=1).frames():
        session = int(chunk[0].slices.session[0])
        for frame in chunk:
            known.setdefault(frame.shard, frame.listed)  # a session's first slice lists all so far, as the slicer does
            told = replace(frame, listed=known[frame.shard]) if session not in opens else frame
            written.setdefault(frame.shard, []).append(slice_log.record(told, 5))
        opens.add(session)
    for shard, own in written.items():
        assert len({record.headers for record in own}) == 1
        fill(kafka, slice_log.TOPIC, shard, [record.value for record in own], [record.ts for record in own],
             [(ID, b"-"), *own[0].headers])  # fmt: skip
    return kafka


def built(spec: str, start=None, stop=None) -> Dataset:
    bars = open_source(spec, Settings(), start=start, stop=stop)
    return build(DATA, bars.calendar, bars.frames(), bars.rows)


def same(one: Dataset, other: Dataset) -> bool:
    assert one.symbols == other.symbols
    everything = np.arange(len(one))
    return (all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in ARRAYS)
            and one.ts().tobytes() == other.ts().tobytes()
            and one.future(everything).tobytes() == other.future(everything).tobytes())  # fmt: skip


def test_a_dataset_of_the_log_is_that_of_its_archive_and_of_the_file(log, tmp_path):
    assert len(list(archive.write(log, slice_log.TOPIC, tmp_path))) == 6
    of_log = built(LOG)
    assert len(of_log) > 300
    assert same(of_log, built(str(tmp_path)))
    assert same(of_log, built(SPEC))
    # a range, by the ends of slices: four whole sessions of the six
    first, last = (int(np.datetime64(f"2024-01-0{day}T{hour}", "ns").astype(np.int64)) for day, hour in
                   ((3, "14:35"), (8, "21:00")))  # fmt: skip
    part = built(LOG, first, last)
    assert 100 < len(part) < len(of_log)
    assert same(part, built(str(tmp_path), first, last))
    assert not same(part, built(SPEC, first, last - 60 * 60 * 10**9))


def test_what_holding_had_brought_is_seen_as_the_log_passes_by_and_is_that_of_the_file(log, monkeypatch):
    wanted = of_bars(open_bars(SPEC)).points()
    anew = of_bars(open_source(LOG, Settings())).points()  # no pass before: one of its own
    late = open_source(LOG, Settings())
    held_late = of_bars(late)
    assert len(list(late.frames(first=3))) == 3  # who begins later has not seen all
    bars = open_source(LOG, Settings())
    held = of_bars(bars)
    assert len(list(bars.frames())) == 6
    monkeypatch.setattr(bars, "frames", lambda: pytest.fail("the log is read once more"))
    for found in (anew, held_late.points(), held.points()):
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))


def test_late_bars_are_archived_by_session_and_made_anew_when_more_come(kafka, tmp_path):
    create_topics(kafka)
    first, last = (int(np.datetime64(text, "ns").astype(np.int64)) for text in ("2024-01-03T20:59", "2024-01-04T14:31"))

    def come_late(number, symbol, ts):
        bar = raw_record(LATE, "r", Arrival(0, ts, symbol, 1.0, 2.0, 0.5, 1.5, 100.0), "1m", "slicer")
        fill(kafka, LATE, number, [bar.value], [ts], bar.headers)

    assert list(archive.write_late(kafka, tmp_path)) == []
    for number, symbol, ts in ((3, "BB", first), (5, "AA", last), (1, "AA", first)):
        come_late(number, symbol, ts)
    fill(kafka, LATE, 3, [b"of a letter that was put back", b""])
    third, fourth = paths = [tmp_path / "2024-01-03.parquet", tmp_path / "2024-01-04.parquet"]
    assert list(archive.write_late(kafka, tmp_path)) == paths
    assert list(archive.write_late(kafka, tmp_path)) == []
    come_late(1, "AA", first)  # once more
    assert list(archive.write_late(kafka, tmp_path)) == [third]
    rows = pq.read_table(third).to_pylist()
    assert [(row["symbol"], row["partition"], row["offset"]) for row in rows] == [
        ("AA", 1, 0),
        ("AA", 1, 1),
        ("BB", 3, 0),
    ]
    assert {(row["open"], row["high"], row["low"], row["close"], row["volume"]) for row in rows} == {
        (1, 2, 0.5, 1.5, 100)
    }
    assert [row["ts"].value for row in rows] == [first] * 3
    assert pq.read_metadata(fourth).num_rows == 1


def test_what_nobody_can_use_where_a_range_begins_is_passed_over(log, kafka):
    """The first record of every partition is junk, and the slices are those of a log without it."""
    clean = built(LOG)
    spoiled = replace(kafka, prefix=f"{kafka.prefix}spoiled.")
    create_topics(spoiled)
    for number, (low, high) in bounds(log, slice_log.TOPIC).items():
        fill(spoiled, slice_log.TOPIC, number, [b"junk", b""])
        found = list(records(log, slice_log.TOPIC, number, low, high))
        fill(spoiled, slice_log.TOPIC, number, [one.value() for one in found],
             [int(dict(one.headers())[TS]) for one in found], found[0].headers()[1:])  # fmt: skip
    bars = log_bars.LogBars(spoiled, slice_log.TOPIC)
    assert same(build(DATA, bars.calendar, bars.frames(), bars.rows), clean)


def test_a_topic_without_slices_and_a_time_without_them_are_one_line(log):
    for number in range(16):
        fill(log, "market.raw", number, [b"a bar"])
    with pytest.raises(UserError, match=r"market\.raw partition 0: no slice at offset 0, .* kafka://market\.slices"):
        log_bars.LogBars(log, "market.raw")
    later = int(np.datetime64("2025-01-03", "ns").astype(np.int64))
    with pytest.raises(UserError, match="the log has 2023-12-29T21:00:00Z to 2024-01-09T21:00:00Z"):
        log_bars.LogBars(log, slice_log.TOPIC, later)


def test_what_the_log_has_no_place_for_is_refused():
    with pytest.raises(UserError, match="the log has its own symbols"):
        open_source(LOG, Settings(), symbols=["AAA"])
    with pytest.raises(UserError, match="its own reference data"):
        open_source(LOG, Settings(), files=Files(actions="a.csv"))


def test_a_log_that_does_not_answer_is_one_line(monkeypatch):
    monkeypatch.setattr(log_bars, "wait_for", partial(wait_for, seconds=0.2))
    with pytest.raises(UserError, match=r"Kafka at 127\.0\.0\.1:1 does not answer within 0\.2 s"):
        log_bars.LogBars(Cluster("127.0.0.1:1"), "market.slices")


def test_a_backtest_of_the_log_says_why_nothing_is_let_in(log, tmp_path, capsys, monkeypatch):
    """Who has not heard of live.missing_data gets no trade, and a line that names it; the other setting is refused."""
    monkeypatch.delenv("LIVE__MISSING_DATA", raising=False)

    def utp(*words):
        with pytest.raises(SystemExit) as left:
            cli.main(["backtest", LOG, "--loop", "--out", str(tmp_path / "run"), *words])
        told = capsys.readouterr()
        return left.value.code, " ".join((told.out + told.err).split())

    code, said = utp("--set", "filters.missing_data=off")
    assert (code, said.count("live.missing_data = off")) == (2, 1)
    code, said = utp()
    assert (code, "filled 0" in said, "earnings filter (no reports) lets nothing in" in said) == (0, True, True)
    assert "--set live.missing_data=off switches it off instead" in said
    code, said = utp("--set", "live.missing_data=off")
    assert (code, "lets nothing in" in said, "filled 0" in said) == (0, False, False)
