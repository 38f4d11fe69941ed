"""Which model is in force, engines that answer for it, and forecasts that are kept."""

import json
import os
import threading
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataflows import pipeline
from infra.forecast_store import ForecastStore
from infra.forecaster import (
    HISTORY,
    Event,
    Forecaster,
    described,
    live_forecaster,
    open_forecaster,
    read_history,
)
from infra.settings import Settings
from models.bundle import GRAPH, MANIFEST, publish, sha256
from models.registry import Registry
from operators import features
from operators.forecast import Params
from schemas.errors import UserError
from schemas.frames import Activation
from tests.markets import calendar_of, make
from tests.models import bundles

ABOUT = {"feature_set": features.set_hash(features.Params(set="all")), "timeframe": 30}
MARKET = make(1, sessions=3)
AFTER, UPTO = MARKET.after, MARKET.upto
NAMES = np.array([b"AAA", b"ZZZ", b"BB"])
TS = MARKET.slices.ts[[3, 3, 5]]


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def good(store, seed=0, **changes):
    """The id of a good bundle."""
    return bundles.make(store, seed=seed, **{**ABOUT, **changes}).name


def forecaster(store, *events, keep=None):
    return Forecaster(events, {}, store, MARKET.calendar, AFTER, keep)


def windows(rows=3, seed=1):
    return bundles.examples(rows, seed=seed)[0]


def history(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(line) if isinstance(line, dict) else line for line in lines))
    return path


# Histories.


def test_a_history_is_read_in_order_of_time(tmp_path):
    path = history(
        tmp_path / "h", {"from": "2024-06-27T14:00:00Z", "model": "b"}, "",
        {"from": "2024-06-26T10:00:00-04:00", "model": "a", "by": "someone"},
        {"from": "2024-06-28T00:00:00Z", "model": "none"},
    )  # fmt: skip
    first = int(np.datetime64("2024-06-26T14:00:00", "ns").astype(np.int64))
    day = 86_400_000_000_000
    assert read_history(path) == [
        Event(first, "a"),
        Event(first + day, "b"),
        Event(first - 14 * day // 24 + 2 * day, ""),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1"),
        ({"from": "2024-06-26", "model": "a"}, "line 1: 2024-06-26 has no time zone"),
        ({"from": "yesterday", "model": "a"}, "line 1"),
        ({"from": "2024-06-26T10:00:00Z"}, "line 1"),
    ],
)
def test_a_history_that_cannot_be_read_is_said(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        read_history(history(tmp_path / "h", line))


def test_a_missing_history_is_said(tmp_path):
    with pytest.raises(UserError, match="promote a model"):
        open_forecaster(Params(model="champion", store=str(tmp_path)), MARKET.calendar, AFTER, UPTO)


def test_the_last_event_before_the_log_holds_from_its_first_slice(store):
    events = [Event(AFTER - 9, "a"), Event(AFTER - 5, "b"), Event(AFTER + 7, "c")]
    made = forecaster(store, *events)
    assert made.events == [Event(AFTER + 1, "b"), Event(AFTER + 7, "c")]


def test_events_stand_at_the_first_slice_that_ends_at_their_time_or_later(store):
    ts = MARKET.slices.ts
    made = forecaster(store, Event(AFTER, "a"), Event(int(ts[4]), "b"), Event(int(ts[6]) + 1, ""), Event(UPTO + 1, "c"))
    (whole,) = {made.told(frame).models for frame in MARKET.chunks()[0]}
    assert whole == (Activation(0, "a"), Activation(4, "b"), Activation(7, ""))
    parts = [made.told(frames[0]).models for frames in MARKET.chunks([4, 5])]
    assert parts == [(Activation(0, "a"),), (Activation(0, "b"),), (Activation(2, ""),)]


# Which model.


def test_a_model_is_found_by_id_path_or_history(store, tmp_path):
    id_ = good(store)
    given = {"store": str(store)}
    for params in (Params(model=id_, **given), Params(model=str(store / id_), store=str(tmp_path / "none"))):
        found = open_forecaster(params, MARKET.calendar, AFTER, UPTO)
        assert found.events == [Event(AFTER + 1, id_)]
        assert found.model(id_).id == id_
    history(store / HISTORY, {"from": "2024-06-27T00:00:00Z", "model": id_})
    champion = open_forecaster(Params(model="champion", **given), MARKET.calendar, AFTER, UPTO)
    assert [event.model for event in champion.events] == [id_]
    assert champion.events[0].ts > AFTER + 1
    beside = open_forecaster(Params(store=str(tmp_path / "none")), MARKET.calendar, AFTER, UPTO, store / HISTORY)
    assert beside.events == champion.events
    assert open_forecaster(Params(**given), MARKET.calendar, AFTER, UPTO) is None


def test_the_champion_of_each_day_is_the_registry_s(store):
    registry = Registry(store)
    one, two = (bundles.make(registry.bundles, seed=seed, **ABOUT).name for seed in (0, 1))
    with pytest.raises(UserError, match="history of models"):
        open_forecaster(Params(model="champion", store=str(store)), MARKET.calendar, AFTER, UPTO)
    for id_ in (one, two):
        registry.add(id_, "2024-06-01T00:00:00+00:00", "", "bars", id_)
    with pytest.raises(UserError, match="never had one"):
        open_forecaster(Params(model="champion", store=str(store)), MARKET.calendar, AFTER, UPTO)
    times = ("2024-06-20T12:00:00+00:00", "2024-06-27T15:00:00+00:00", "2024-06-28T15:00:00+00:00")
    registry.promote(one, times[0])
    registry.promote(two, times[1])
    registry.rollback(times[2])
    found = open_forecaster(Params(model="champion", store=str(store)), MARKET.calendar, AFTER, UPTO)
    later = [int(np.datetime64(at[:19], "ns").astype(np.int64)) for at in times[1:]]
    assert found.events == [Event(AFTER + 1, one), Event(later[0], two), Event(later[1], one)]
    assert [model["id"] for model in found.describe()["models"]] == [one, two]


def test_an_unknown_model_is_said_with_the_nearest(store):
    id_ = good(store)
    with pytest.raises(UserError, match=f"no such bundle; the nearest in .* is {id_}"):
        open_forecaster(Params(model=id_[:-1], store=str(store)), MARKET.calendar, AFTER, UPTO)
    with pytest.raises(UserError, match="holds no bundle"):
        open_forecaster(Params(model="x", store=str(store / "y")), MARKET.calendar, AFTER, UPTO)


def spoilt(store):
    path = bundles.make(store, seed=3, **ABOUT)
    (path / GRAPH).write_bytes((path / GRAPH).read_bytes()[:-9])
    return path.name


def renamed(store):
    path = bundles.make(store, seed=3, **ABOUT)
    return path.rename(path.with_name("other")).name


WRONG = {
    "missing": (lambda store: "gone", "missing: manifest.json"),
    "damaged": (spoilt, "hash: model.onnx"),
    "another one's": (renamed, "holds tft_"),
    "other features": (lambda store: good(store, 3, feature_set="x" * 16), "feature_set: trained on"),
    "other bars": (lambda store: good(store, 3, timeframe=60), "trained on 1h bars, these are 30m bars"),
    "other horizons": (lambda store: good(store, 3, horizons=(10, 20)), "forecasts .10, 20. bars ahead"),
    "other quantiles": (lambda store: good(store, 3, quantiles=(0.05, 0.5, 0.95)), "gives the quantiles"),
}


@pytest.mark.parametrize(("make_wrong", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_log_that_names_a_wrong_bundle_does_not_start(store, make_wrong, message):
    wrong = make_wrong(store)
    first = good(store)
    history(store / HISTORY, {"from": "2024-06-01T00:00:00Z", "model": first},
            {"from": "2024-06-27T00:00:00Z", "model": wrong})  # fmt: skip
    with pytest.raises(UserError, match=message):
        open_forecaster(Params(model="champion", store=str(store)), MARKET.calendar, AFTER, UPTO)
    history(store / HISTORY, {"from": "2024-06-01T00:00:00Z", "model": first},
            {"from": "2034-06-27T00:00:00Z", "model": wrong})  # fmt: skip
    later = open_forecaster(Params(model="champion", store=str(store)), MARKET.calendar, AFTER, UPTO)
    with pytest.raises(UserError, match=message):  # an event of the future stops the flow when it comes
        later.model(wrong)
    assert np.isfinite(later.forecast(first, NAMES, TS, windows())).all()


def test_the_longest_pause_is_the_manifest_s(store):
    silent, said = good(store), good(store, gap_days=2)
    made = forecaster(store, Event(0, silent))
    assert (made.model(silent).gap_days, made.model(said).gap_days) == (5, 2)


# Forecasts.


def test_forecasts_are_the_engine_s_with_the_calendar_s_knowledge_and_the_symbols_numbers(store):
    id_ = good(store)
    made = forecaster(store, Event(0, id_)).open(UPTO)
    from models.engine import Engine
    from operators import known

    engine = Engine.open(store / id_)
    future = known.inputs(MARKET.calendar, TS, (30, 45, 60))
    expected = engine.forecast(windows(), future, np.array([1, 0, 2]))
    assert made.forecast(id_, NAMES, TS, windows()).tobytes() == expected.tobytes()
    assert made.counts() == {"computed": 3, "reused": 0, "failed": 0}


def test_kept_forecasts_are_the_fresh_ones_bit_for_bit_and_cost_no_engine(store, tmp_path):
    id_ = good(store)
    first = forecaster(store, Event(0, id_), keep=tmp_path / "kept").open(UPTO)
    fresh = first.forecast(id_, NAMES, TS, windows())
    first.close()
    second = forecaster(store, Event(0, id_), keep=tmp_path / "kept").open(UPTO)
    assert second.forecast(id_, NAMES, TS, windows()).tobytes() == fresh.tobytes()
    assert second.counts() == {"computed": 0, "reused": 3, "failed": 0}
    more = second.forecast(id_, NAMES[[1, 0]], TS[[1, 0]], np.concatenate([windows()[1:2], windows(1, 9)]))
    assert more[0].tobytes() == fresh[1].tobytes()
    assert second.counts() == {"computed": 1, "reused": 4, "failed": 0}
    second.close()
    files = sorted((tmp_path / "kept" / id_).iterdir())
    assert len(files) == 2
    assert {tuple(pq.read_table(path).column_names) for path in files} == {
        ("symbol", "ts", "key", "check", "quantiles")
    }


CHANGES = {
    "one number of a window": lambda a: a["windows"].__setitem__((0, 2, 1), np.nextafter(a["windows"][0, 2, 1], 9)),
    "the instant": lambda a: a["ts"].__setitem__(0, MARKET.slices.ts[4]),
    "a symbol that the model knows": lambda a: a["names"].__setitem__(0, b"BB"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_whatever_is_different_is_forecast_anew(store, tmp_path, change):
    id_ = good(store)
    given = {"names": NAMES.copy(), "ts": TS.copy(), "windows": windows()}
    first = forecaster(store, Event(0, id_), keep=tmp_path).open(UPTO)
    first.forecast(id_, **given)
    first.close()
    change(given)
    second = forecaster(store, Event(0, id_), keep=tmp_path).open(UPTO)
    without = forecaster(store, Event(0, id_)).open(UPTO)
    assert second.forecast(id_, **given).tobytes() == without.forecast(id_, **given).tobytes()
    assert second.counts() == {"computed": 1, "reused": 2, "failed": 0}


def test_another_model_or_engine_finds_nothing(store, tmp_path):
    one, two = good(store), good(store, 1)
    made = forecaster(store, Event(0, one), keep=tmp_path).open(UPTO)
    made.forecast(one, NAMES, TS, windows())
    made.close()
    again = forecaster(store, Event(0, two), keep=tmp_path).open(UPTO)
    again.forecast(two, NAMES, TS, windows())
    assert again.reused == 0
    assert len(ForecastStore(tmp_path, one, 3, "another engine")) == 0


def test_a_file_is_there_as_a_whole_or_not_at_all(store, tmp_path, monkeypatch):
    kept = ForecastStore(tmp_path, "m", 1, "e")
    kept.add(NAMES, TS, np.arange(6, dtype=np.uint64).reshape(3, 2), np.zeros((3, 1, 3), np.float32))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        kept.flush()
    monkeypatch.undo()
    assert list((tmp_path / "m").iterdir()) == []
    (tmp_path / "m" / ".partial-x").write_bytes(b"PAR1 and no more")
    assert len(ForecastStore(tmp_path, "m", 1, "e")) == 0
    (tmp_path / "m" / "y.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"y\.parquet.*delete it"):
        ForecastStore(tmp_path, "m", 1, "e")


def test_a_failing_engine_gives_no_numbers_and_is_counted(store, tmp_path, monkeypatch):
    id_ = good(store)
    made = forecaster(store, Event(0, id_), keep=tmp_path).open(UPTO)
    engine = made._served[id_].engine
    monkeypatch.setattr(engine, "_session", None)
    assert np.isnan(made.forecast(id_, NAMES, TS, windows())).all()
    assert made.failed == 3
    assert "first_failure" in made.counts()
    made.close()
    assert not list((tmp_path / id_).iterdir())  # what failed is not kept


# Under load.


def test_models_are_swapped_under_load_and_none_is_ever_half_there(store):
    """Thousands of forecasts in two threads while good and broken bundles are published and named by events."""
    first = good(store)
    made = forecaster(store, Event(0, first)).open(UPTO)
    expected = {first: made.forecast(first, NAMES, TS, windows()).tobytes()}
    done, failures, refused = threading.Event(), [], []
    current = [first]
    calls = [0, 0]

    def load(k):
        while not done.is_set():
            id_ = current[-1]  # what an event has put in force
            made.model(id_)
            if made.forecast(id_, NAMES, TS, windows()).tobytes() != expected[id_]:
                failures.append(id_)
            calls[k] += 3

    threads = [threading.Thread(target=load, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for seed in range(1, 9):
        path = bundles.make(store, seed=seed, **ABOUT)
        if seed % 2:
            (path / (GRAPH if seed % 4 == 1 else MANIFEST)).write_bytes(b"half")
            with pytest.raises(UserError, match=path.name) as error:
                made.model(path.name)
            refused.append(str(error.value))
        else:
            alone = forecaster(store, Event(0, path.name)).open(UPTO)
            expected[path.name] = alone.forecast(path.name, NAMES, TS, windows()).tobytes()
            current.append(path.name)
        target = sum(calls) + 600
        while sum(calls) < target and any(thread.is_alive() for thread in threads):
            pass
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(calls) >= 4_000
    assert len(set(expected.values())) == len(expected) == 5
    assert len(refused) == 4
    assert all("hash" in message or "manifest" in message for message in refused)


def test_a_broken_bundle_that_an_event_names_stops_the_step(store):
    """Good until the event, then a clear error: never the old model in the new one's place."""
    first, wrong = bundles.make(store, 6, ("price", "returns_1"), **ABOUT).name, spoilt(store)
    second_day = int(calendar_of(30).opens[calendar_of(30).opens > AFTER][1]) + 1
    made = forecaster(store, Event(0, first), Event(second_day, wrong)).open(second_day - 1)
    decide = pipeline.decide_params(Settings(), 30, made)
    answers = pipeline.signals(([made.told(frame) for frame in chunk] for chunk in MARKET.chunks([6, 12, 18])), decide)
    seen = []
    with pytest.raises(UserError, match=rf"model {wrong}.*hash.*in force from 2024-06-27"):
        seen.extend(answer.bars.slices.upto for answer in answers)
    assert made.computed > 0


def test_a_bundle_published_twice_is_the_same_one(store):
    blob = bundles.graph()
    paths = {publish(store, bundles.manifest(**ABOUT), bundles.files(blob)) for _ in range(2)}
    assert len(paths) == 1


# A log of slices has its events already.


def framed(*events):
    """A frame of the whole market with these activations."""
    frame = MARKET.chunks()[0][0]
    return replace(frame, models=tuple(events))


def of_log(store, *events):
    return Forecaster(events, {}, store, MARKET.calendar, AFTER, None, True)


def test_a_bundle_that_is_not_the_one_that_was_announced_is_refused(store):
    one = good(store)
    announced = sha256(store / one / MANIFEST)
    frame = framed(Activation(2, one, announced))
    assert of_log(store).told(frame) is frame
    with pytest.raises(UserError, match=f"{one}: the bundle here has the hash {announced[:12]}, announced was 0000"):
        of_log(store).told(framed(Activation(2, one, "0" * 64)))
    with pytest.raises(UserError, match="put the right bundle there"):
        of_log(store).told(framed(Activation(2, "tft_gone", announced)))


def test_of_a_log_only_the_model_from_before_it_is_new(store):
    one, two = good(store), good(store, seed=1)
    later = int(MARKET.slices.ts[3])
    forecasts = of_log(store, Event(AFTER - 5, one), Event(later, two))
    told = forecasts.told(framed(Activation(3, two)))
    assert [(event.at, event.model) for event in told.models] == [(0, one), (3, two)]
    plain = forecaster(store, Event(AFTER - 5, two)).told(framed(Activation(3, one)))
    assert [(event.at, event.model) for event in plain.models] == [(0, two)]  # who chooses a model leaves the log's


def test_the_live_flow_takes_its_models_from_the_log(store):
    assert live_forecaster(Params(), MARKET.calendar) is None
    assert live_forecaster(Params(model="champion", store=str(store)), MARKET.calendar).events == []
    with pytest.raises(UserError, match="utp models announce tft_1"):
        live_forecaster(Params(model="tft_1"), MARKET.calendar)


def test_a_log_s_models_are_described_by_their_manifests_alone(store):
    one = good(store)
    told = described([Event(5, one), Event(9, "")], store)
    opened = forecaster(store, Event(AFTER + 1, one)).open(UPTO).describe()
    assert told["models"] == opened["models"]
    assert told["events"] == [{"ts": 5, "model": one}, {"ts": 9, "model": ""}]
    with pytest.raises(UserError, match="model tft_gone"):
        described([Event(5, "tft_gone")], store)
