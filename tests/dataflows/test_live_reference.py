"""What stands beside the bars, in the live flow: as in a backtest of the same files, table by table."""

import json
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataflows.compare import compare
from infra.kafka import SCHEMA, bounds, records
from infra.settings import load, of_log
from infra.topics import create_topics
from schemas import codec
from schemas.calendar import Calendar
from schemas.records import MarketEngineered, SliceBars
from tests.dataflows.livekit import Site
from tests.dataflows.test_live import QUIET

NAMES = ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF", "GGG", "SPY")
DAYS = [date(2024, 6, 24), date(2024, 6, 25)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two sessions of bars with quotes and with what a split leaves in them, and the files beside."""
    folder = tmp_path_factory.mktemp("reference")
    calendar, draw = Calendar(5, DAYS[0], DAYS[-1]), np.random.default_rng(3)
    begin = calendar.index_after(int(calendar.opens[calendar.sessions.searchsorted((DAYS[0] - date(1970, 1, 1)).days)]))
    ends = np.array([calendar.ts_at(begin + k) for k in range(2 * 78)])
    second = ends[78:]
    columns = {name: [] for name in ("symbol", "ts", "open", "high", "low", "close", "volume", "bid", "ask")}
    for name in NAMES:
        waves = np.sin(np.arange(ends.size) / draw.uniform(4, 9)) * 0.01
        close = 100.0 * np.exp(np.cumsum(draw.normal(0, 0.002, ends.size)) + waves)
        close = np.where((ends >= second[0]) & (name in ("BBB", "SPY")), close / 2, close).round(4)
        opened = np.concatenate([close[:1], close[:-1]])
        opened[78] = close[78]
        kept = draw.random(ends.size) > (0.03 if name == "SPY" else 0.01)
        rows = {"ts": ends, "open": opened, "high": np.maximum(opened, close) + 0.01,
                "low": np.minimum(opened, close) - 0.01, "close": close, "volume": draw.integers(1e4, 1e5, ends.size),
                "bid": close - 0.01, "ask": close + 0.01}  # fmt: skip
        columns["symbol"] += [name] * int(kept.sum())
        for column, values in rows.items():
            columns[column] += np.asarray(values)[kept].tolist()
    columns["ts"] = pa.array(columns["ts"], pa.timestamp("ns", "UTC"))
    pq.write_table(pa.table(columns), folder / "bars.parquet")
    (folder / "actions.csv").write_text(
        f"symbol,date,split,dividend\nBBB,{DAYS[1]},2:1,\nSPY,{DAYS[1]},2:1,0.5\nAAA,{DAYS[1]},,0.25\n"
        f"DDD,{DAYS[1]},,0.25\nEEE,{DAYS[1]},,0.1\n"
    )
    none = "".join(f"{name},,\n" for name in NAMES if name not in ("CCC", "GGG"))
    (folder / "earnings.csv").write_text(f"symbol,date,known_from\n{none}CCC,{DAYS[1] + timedelta(days=1)},\n")
    volumes = "".join(f"{name},{4e5 if name in 'DDD FFF' else 1e6},\n" for name in NAMES)
    (folder / "volumes.csv").write_text(f"symbol,average_volume,known_from\n{volumes}EEE,300000,{DAYS[0]}\n")
    return folder


@pytest.fixture
def site(tmp_path, kafka, files):
    beside = {f"INGEST__{kind.upper()}": str(files / f"{kind}.csv") for kind in ("earnings", "actions", "volumes")}
    one = Site(tmp_path, kafka, **{
        **QUIET, **beside, "INGEST__SOURCE": str(files / "bars.parquet"), "LIVE__MISSING_DATA": "refuse",
        "LIVE__TAPS": '["market.engineered"]', "EXITS__END_OF_DAY": "false"})  # fmt: skip
    yield one
    one.stop_all()


def every(where, topic, kind):
    """All records of a topic."""
    return [codec.decode(kind, message.value(), dict(message.headers())[SCHEMA])
            for number, (low, high) in bounds(where, topic).items()
            for message in records(where, topic, number, low, high)]  # fmt: skip


def test_a_live_day_with_all_that_stands_beside_the_bars_is_the_backtest_of_the_files(site, kafka, files, tmp_path):
    create_topics(kafka)
    site.start("ingest", "dataflows.ingest")
    site.start("live", "dataflows.live")
    live = site.wait(2)
    beside = [word for kind in ("earnings", "actions", "volumes") for word in (f"--{kind}", str(files / f"{kind}.csv"))]
    refuse = ["--set", "filters.missing_data=refuse"]
    for name, words in (("file", [str(files / "bars.parquet"), *beside, *refuse]), ("log", ["kafka://market.slices"])):
        done = site.utp("backtest", *words, "--out", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert compare(live, [tmp_path / name]) == []
    summaries = [json.loads((tmp_path / name / "summary.json").read_bytes()) for name in ("file", "log")]
    assert summaries[0]["off"] == summaries[1]["off"]
    assert summaries[0]["counts"]["orders"] > 10
    assert summaries[0]["dividends"] > 0.0
    stopped = set(pq.read_table(tmp_path / "log" / "signals.parquet")["reason"].to_pylist())
    assert {"none", "earnings_blackout", "low_liquidity"} <= stopped
    for run in live:
        done = site.utp("replay", "--day", run.name)
        assert done.returncode == 0, done.stdout + done.stderr
    told = every(kafka, "market.slices", SliceBars)
    acted = [(action.new, action.old, action.dividend) for one in told for action in one.actions]
    assert sorted(acted) == [(1, 1, 1000), (1, 1, 2500), (1, 1, 2500), (2, 1, 0), (2, 1, 5000)]
    assert {len(one.market) for one in told} == {8}
    by_slice = {ts: {one.market for one in told if one.ts == ts} for ts in {one.ts for one in told}}
    assert {len(closes) for closes in by_slice.values()} == {1}  # all shards know the same market
    rows = every(kafka, "market.engineered", MarketEngineered)
    assert max(abs(row.returns_1) for row in rows if row.returns_1 == row.returns_1) < 0.1  # no step at the split


def test_decisions_from_the_log_refuse_what_has_no_source():
    settings = load(None, [], {})
    assert settings.filters.missing_data == "off"
    assert of_log(settings).filters.missing_data == "refuse"
    assert of_log(load(None, ["live.missing_data=off"], {})).filters.missing_data == "off"
