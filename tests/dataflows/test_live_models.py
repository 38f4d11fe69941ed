"""A model in the live flow: what was announced acts at its slice live, in a replay, and in a backtest of the log.

`HYPOTHESIS_PROFILE=long` does so with a hundred symbols in bars of a minute, too.
"""

import json
import os
import signal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataflows import announce, features, taps
from dataflows.compare import compare
from dataflows.pipeline import decide_params, start, step_openly
from infra.bars import open_bars
from infra.forecaster import Event, Forecaster
from infra.gated_sink import ID
from infra.kafka import SCHEMA, bounds, records
from infra.settings import load, of_log
from infra.topics import create_topics
from models.bundle import MANIFEST, sha256
from operators.features import Params, set_hash
from schemas import codec
from schemas.identity import nanos
from schemas.records import AlphaSignal, MarketEngineered, Prediction, ScoredSignal, SliceBars
from tests.dataflows.livekit import Site
from tests.dataflows.test_live import QUIET, SOURCE
from tests.infra.logkit import fill
from tests.models import bundles

ABOUT = {"feature_set": set_hash(Params(set="all")), "timeframe": 5}
SIZES = [(12, 5), (100, 1)] if os.environ.get("HYPOTHESIS_PROFILE") == "long" else [(12, 5)]  # symbols, minutes
WIDE = ("returns_1", "returns_5", "rsi_14")
TIMES = ("2024-01-02T18:00:00Z", "2024-01-03T15:30:00Z", "2024-01-03T19:00:00Z")
TOPICS = ["alpha.signals", "market.engineered", "predictions.tft"]
MODEL = {**QUIET, "FORECAST__MODEL": "champion", "ENSEMBLE__COST_MULTIPLE": "0.1"}


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    one = bundles.make(folder, 12, WIDE, **ABOUT).name
    two = bundles.make(folder, 20, WIDE, seed=1, **ABOUT).name
    return folder, one, two


@pytest.fixture
def site(tmp_path, kafka, store):
    made = []

    def make(**settings):
        made.append(Site(tmp_path, kafka, FORECAST__STORE=str(store[0]), **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop_all()


def events(where, topic, kind, key=None):
    """All records of a topic with their ids, by partition."""
    found = {}
    for number, (low, high) in bounds(where, topic).items():
        found[number] = []
        for message in records(where, topic, number, low, high):
            headers = dict(message.headers())
            found[number].append((headers[ID].decode(), codec.decode(kind, message.value(), headers[SCHEMA])))
    return found


def until(where, topic, count):
    """Wait until a topic's first partition holds so many records; ten minutes, for kernels may have to be compiled."""
    deadline = time.monotonic() + 600.0
    while bounds(where, topic, [0])[0][1] < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(("symbols", "minutes"), SIZES)
def test_a_swap_acts_at_its_slice_live_in_a_replay_and_in_a_backtest_of_the_log(
    site, store, kafka, tmp_path, symbols, minutes
):
    folder, one, two = store
    if minutes != ABOUT["timeframe"]:
        about = ABOUT | {"timeframe": minutes}
        one, two = (bundles.make(folder, lookback, WIDE, seed=k, **about).name for k, lookback in enumerate((12, 20)))
    source = f"synthetic:symbols={symbols},days=2,seed=11,timeframe={minutes}m"
    market = {**MODEL, "INGEST__SOURCE": source, "LIVE__TIMEFRAME": f"{minutes}m", "LIVE__TAPS": json.dumps(TOPICS)}
    create_topics(kafka)
    for model, ts in zip((one, two, "none"), TIMES, strict=True):
        bundle = "" if model == "none" else sha256(folder / model / MANIFEST)
        announce.write(kafka, model, nanos(ts), bundle)
    place = site(**{**market, "INGEST__SPEED": str(600 * minutes)})  # ten slices a second
    place.start("ingest", "dataflows.ingest")
    place.start("live", "dataflows.live")
    until(kafka, "account.log", 250 // minutes)  # under the first model
    place.stop("live")
    place.start("live", "dataflows.live", "-w", "2")
    until(kafka, "market.slices", 425 // minutes)  # on the second day
    place.stop("ingest", signal.SIGTERM)
    place.start("ingest", "dataflows.ingest")
    live = place.wait(2, 600.0)
    told = {number: [each for _, event in found for each in event.models if each.since == event.ts]
            for number, found in events(kafka, "market.slices", SliceBars).items()}  # fmt: skip
    assert len(told) == 16
    for found in told.values():
        assert [(each.since, each.model) for each in found] == list(zip(map(nanos, TIMES), (one, two, ""), strict=True))
    done = place.utp("backtest", "kafka://market.slices", "--out", str(tmp_path / "log"))
    assert done.returncode == 0, done.stderr
    assert compare(live, [tmp_path / "log"]) == []
    history = folder / "history.jsonl"
    history.write_text("\n".join(json.dumps({"from": ts, "model": model})
                                 for ts, model in zip(TIMES, (one, two, "none"), strict=True)))  # fmt: skip
    done = place.utp("backtest", source, "--models", str(history), "--out", str(tmp_path / "file"))
    assert done.returncode == 0, done.stderr
    assert compare(live, [tmp_path / "file"]) == []
    tables = [pq.read_table(run / "signals.parquet").to_pandas() for run in live]
    models = {(row.symbol, row.ts.value): row.model for table in tables for row in table.itertuples()}
    assert {"", one, two} == set(models.values())
    scored = [event for _, event in events(kafka, "signals.scored", ScoredSignal)[0]]
    assert {(event.symbol, nanos(event.ts)): event.model_version or "" for event in scored} == models
    summary = json.loads((tmp_path / "log" / "summary.json").read_bytes())
    assert summary["counts"]["orders"] > 10
    assert [each["id"] for each in json.loads((live[1] / "summary.json").read_bytes())["forecasts"]["models"]] == [
        one, two]  # fmt: skip
    predictions = [each for found in events(kafka, "predictions.tft", Prediction).values() for each in found]
    names = [name for name, _ in predictions]
    assert len(names) == len(set(names)) == summary["forecasts"]["made"] > 100
    for run in live:
        done = place.utp("replay", "--day", run.name, "--json")
        outcome = json.loads(done.stdout)
        assert (done.returncode, outcome["differences"]) == (0, []), done.stdout + done.stderr
        assert outcome["forecasts"]["read"] > 0
        assert outcome["forecasts"]["computed"] == 0
    done = place.utp("replay", "--day", live[1].name, "--json", "--recompute")
    outcome = json.loads(done.stdout)
    assert (done.returncode, outcome["forecasts"]["largest"]) == (0, 0.0)
    assert outcome["forecasts"]["compared"] == outcome["forecasts"]["computed"] > 0
    agree(kafka, place, (folder, one, two), tmp_path, source, minutes)


def agree(kafka, place, store, tmp_path, source, minutes):
    """The taps are what `utp features` and a plain loop over the file say."""
    settings = of_log(load(None, [], place.env))
    features.run(source, settings, tmp_path / "features.parquet")
    table = pq.read_table(tmp_path / "features.parquet").to_pandas()
    wanted = {(row.symbol, row.ts.value): row for row in table.itertuples()}
    rows = [each for found in events(kafka, "market.engineered", MarketEngineered).values() for _, each in found]
    assert len(rows) == len(wanted)
    for row in rows:
        other = wanted[row.symbol, nanos(row.ts)]
        for name in taps.NAMED:
            np.testing.assert_array_equal(getattr(row, name), getattr(other, name), name)
    folder, one, two = store
    bars = open_bars(source)
    history = [Event(nanos(ts), model) for model, ts in zip((one, two, ""), TIMES, strict=True)]
    forecaster = Forecaster(history, {}, folder, bars.calendar, bars.after)
    params, own = decide_params(settings, minutes, forecaster), taps.params_of(settings, minutes)
    states, marks, expected = {}, {}, {topic: {} for topic in TOPICS}
    for chunk in bars.frames():
        for frame in chunk:
            before = states.get(frame.shard, start(params)), marks.get(frame.shard, taps.start(own))
            states[frame.shard], decided = step_openly(params, before[0], forecaster.told(frame))
            marks[frame.shard], made = taps.step(own, before[1], decided)
            for topic, found in made.items():
                expected[topic] |= {each.id: each.value for each in found}
    for topic, kind in (("alpha.signals", AlphaSignal), ("predictions.tft", Prediction)):
        found = {name: codec.encode(each) for group in events(kafka, topic, kind).values() for name, each in group}
        assert found == expected[topic]
        assert found
    last, kinds = {}, set()
    for group in events(kafka, "alpha.signals", AlphaSignal).values():
        for _, each in group:
            kinds.add(each.indicator)
            before = last.get((each.symbol, each.indicator), "FLAT")
            assert (each.direction, before) != ("FLAT", "FLAT")
            last[each.symbol, each.indicator] = each.direction
    assert kinds == {"rsi_14", "ema_cross_12_26", "macd_12_26_9"}


def test_a_bundle_that_is_missing_stops_the_flow_and_one_that_comes_lets_it_go_on(site, store, kafka):
    folder, one, _ = store
    create_topics(kafka)
    announce.write(kafka, one, nanos(TIMES[0]), sha256(folder / one / MANIFEST))
    away = folder.with_name("away")
    (folder / one).rename(away)
    place = site(**{**MODEL, "INGEST__SOURCE": SOURCE.replace("days=2", "days=1")})
    place.start("ingest", "dataflows.ingest")
    place.start("live", "dataflows.live")
    assert place.running["live"][0].wait(600.0) != 0
    log = (place.folder / "live.log").read_text()
    assert f"model {one}" in log
    assert "put the right bundle there" in log
    assert place.sessions() == []
    place.stop("live")
    away.rename(folder / one)
    place.start("live", "dataflows.live")
    (run,) = place.wait(1)
    assert one in pq.read_table(run / "signals.parquet")["model"].to_pylist()


def test_what_is_announced_is_looked_at_first(site, store, kafka):
    folder, one, two = store
    other = bundles.make(folder, horizons=(6, 12), **ABOUT).name
    minute = bundles.make(folder, **{**ABOUT, "timeframe": 1}).name
    place = site(**MODEL)

    def tell(*words):
        done = place.utp("models", "--store", str(folder), "announce", *words)
        return done.returncode, (done.stdout + done.stderr).strip()

    code, said = tell(one)
    assert code == 2
    assert "utp topics create" in said
    create_topics(kafka)
    assert tell(one) == (0, f"{one} is announced to the live flow from the first slice on")
    assert tell(two, "--from-slice", "2024-01-02T18:00Z")[0] == 0
    found = [event for _, event in events(kafka, "model.activated", announce.ModelActivated)[0]]
    assert [(event.version, event.from_slice, event.previous) for event in found] == [
        (one, 0, None), (two, nanos(TIMES[0]), one)]  # fmt: skip
    assert found[1].bundle_sha256 == sha256(folder / two / MANIFEST)
    for name, reason in ((other, "forecasts [6, 12] bars ahead"), (minute, "trained on 1m bars"), ("x", "manifest")):
        code, said = tell(name)
        assert (code, reason in said) == (2, True), said
    for topic in ("model.activated", "market.raw"):  # what nobody can use is not the latest word
        fill(kafka, topic, 0, [b"junk"], ts=["soon"])
    assert announce.last(kafka).version == two
    assert tell("none") == (0, "none is announced to the live flow from the first slice on")


def test_what_is_not_a_number_is_no_difference_between_runs(tmp_path):
    for name, value in (("one", 1.0), ("two", 1.0), ("other", 2.0)):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"a": [np.nan, value, np.nan]}), tmp_path / name / "signals.parquet")
    assert compare([tmp_path / "one"], [tmp_path / "two"], ("signals",)) == []
    assert [found.row for found in compare([tmp_path / "one"], [tmp_path / "other"], ("signals",))] == [1]
