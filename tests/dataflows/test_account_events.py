"""What is told to others of what the account did: by the contracts, and each chain of events under one id."""

import math
from dataclasses import replace

import pytest

from dataflows import account_log, pipeline
from dataflows.live import writer_of
from infra.forecaster import Event, Forecaster
from infra.settings import load
from operators import barrier, drive, features
from risk import account
from schemas import codec
from schemas.frames import NO_NAMES, SHARDS
from schemas.identity import correlation_id, nanos
from schemas.records import NAMES, ScoredSignal
from tests.dataflows.test_account_log import messages
from tests.markets import make
from tests.models import bundles

SETS = ["filters.liquidity=false", "ensemble.decision_gate=0.56", "rules.cooldown_seconds=60", "rules.max_shares=5",
        "rules.max_orders_per_minute=100", "rules.max_orders_per_symbol_per_day=100", "rules.max_correlation=1.0",
        "rules.max_volatility=0.2", "exits.max_holding_bars=6"]  # fmt: skip
FILTERS = {"outside_market_hours", "no_time_to_exit", "wide_spread", "jump"}  # those that object to this market
SETTINGS = load(None, SETS, environ={})
MODELLED = load(None, [*SETS, "forecast.model=champion", "ensemble.cost_multiple=0"], environ={})
MARKET = make(7, sessions=6, symbols=7)


@pytest.fixture(scope="module")
def slices():
    signals = pipeline.signals(MARKET.chunks(), pipeline.decide_params(SETTINGS, 30))
    frames = drive.replay(barrier.start(MARKET.after), barrier.step_singly, signals)
    return [frame for released in frames for frame in released]


@pytest.fixture(scope="module")
def told(slices):
    """All events by topic, with the headers of their records, as the live flow makes them from the account log."""
    return made_of(slices, SETTINGS)


def made_of(slices, settings):
    """The same by other settings."""
    state, writer = account.start(settings.account), writer_of(settings)
    kinds = {topic: kind for kind, named in NAMES.items() for topic in named.topics}
    made = {}
    log = account_log.records("backtest", tuple(slices))[1]
    for _, one in account_log.acts(MARKET.calendar, messages("account.log", log)):
        state, ledger = account_log.step(MARKET.calendar, settings.account, state, one)
        for topic, records in {"account.orders": list(writer.orders(ledger)), **writer.told(ledger)}.items():
            made.setdefault(topic, []).extend(
                (codec.decode(kinds[topic], one.value), dict(one.headers)) for one in records
            )
    return made


def test_a_scored_signal_tells_what_the_account_reads_of_it(told, slices):
    rows = {(frame.slices.upto, frame.names[symbol].decode()): (frame, k)
            for frame in slices for k, symbol in enumerate(frame.symbol)}  # fmt: skip
    signals: list[ScoredSignal] = [event for event, _ in told["signals.scored"]]
    assert len(signals) > 100
    for event in signals:
        frame, k = rows[nanos(event.ts), event.symbol]
        assert event.price == frame.close[k]
        volatility = float(frame.volatility[k])
        assert event.volatility == (None if math.isnan(volatility) else volatility)
        assert event.filters == ([event.reason] if event.reason in FILTERS else [])
        assert (event.source, event.q50, event.tft_direction) == ("signal_engine", None, None)
    assert any(event.volatility for event in signals)
    assert any(event.filters for event in signals)


def test_one_id_goes_from_the_bar_to_the_order_its_fills_and_the_exit(told):
    """Who asks for an entry's id finds its signal and verdict, its fill, the exit's order and fill, and the exit."""
    entries = [event for event, _ in told["account.orders"] if event.leg == "entry" and event.action == "submit"]
    for event in entries:
        assert event.correlation_id == correlation_id(event.symbol, event.slice_ts, "1m")
    chains = {event.correlation_id: event for event in entries}
    assert len(chains) == len(entries) > 10
    for topic in ("account.orders", "risk.approved", "execution.completed", "exit.signals"):
        assert {event.correlation_id for event, _ in told[topic]} <= set(chains), topic
    exits = {event.correlation_id for event, _ in told["exit.signals"]}
    sent = {event.correlation_id for event, _ in told["account.orders"] if event.leg == "exit"}
    filled = [event.correlation_id for event, _ in told["execution.completed"]]
    assert sent
    assert sent <= exits
    assert all(filled.count(one) == 2 for one in exits)  # in and out


def test_all_parts_of_an_exit_have_its_entrys_id(slices):
    """A venue that has few shares in a bar fills in parts; those before the last name no entry."""
    told = made_of(slices, load(None, [*SETS, "rules.max_shares=500", "venue.max_volume_share=0.03"], environ={}))
    entries = {event.correlation_id for event, _ in told["account.orders"] if event.leg == "entry"}
    fills = [(event, event.idempotency_key.split("|")[:4]) for event, _ in told["execution.completed"]]
    parts = [event for event, order in fills if order[3] != "entry" and [each for _, each in fills].count(order) > 1]
    assert len(parts) > 4
    for topic in ("account.orders", "execution.completed", "execution.blocked", "exit.signals"):
        assert {event.correlation_id for event, _ in told[topic]} <= entries, topic


def test_an_exit_says_in_its_headers_who_and_why(told):
    for event, headers in told["exit.signals"]:
        assert (headers["source"], headers["reason"]) == (b"exit_monitor", event.reason.encode())


ABOUT = {"feature_set": features.set_hash(features.Params(set="all")), "timeframe": 30}


@pytest.fixture(scope="module")
def modelled(tmp_path_factory):
    """A forecaster whose second model follows the first, which comes again; who is in force from when."""
    folder = tmp_path_factory.mktemp("store")
    one, two = (bundles.make(folder, lookback, horizons=(2, 5), seed=lookback, **ABOUT).name for lookback in (4, 6))
    starts = MARKET.slices.ts[[5, 20, 40, 50]].tolist()
    events = [Event(ts, model) for ts, model in zip(starts, (one, two, "", one), strict=True)]
    return Forecaster(events, {}, folder, MARKET.calendar, MARKET.after).open(2**62), events


def scored(forecaster, cuts, stops=()):
    """The market's slices under some models; after so many chunks all states go through their snapshots."""
    params = pipeline.decide_params(MODELLED, 30, forecaster)
    states, gate = {shard: pipeline.start(params) for shard in range(SHARDS)}, barrier.start(MARKET.after)
    for number, chunk in enumerate(MARKET.chunks(cuts)):
        if number in stops:
            states = {n: drive.unflat(pipeline.start(params), drive.flat(one)) for n, one in states.items()}
            gate = barrier.restore(barrier.start(MARKET.after), drive.flat(gate))
        for frame in chunk:
            states[frame.shard], signals = pipeline.step(params, states[frame.shard], forecaster.told(frame))
            gate, released = barrier.step_singly(gate, signals)
            yield from released or ()


def events_of(slices, forget=False):
    """The scored signals that the account tells of these slices; `forget`: of a log without models' names."""
    state, writer = account.start(MODELLED.account), writer_of(MODELLED)
    log = account_log.records("backtest", tuple(slices))[1]
    for _, one in account_log.acts(MARKET.calendar, messages("account.log", log)):
        one = replace(one, models=NO_NAMES) if forget else one
        state, ledger = account_log.step(MARKET.calendar, MODELLED.account, state, one)
        yield from (codec.decode(ScoredSignal, each.value) for each in writer.signals(ledger))


@pytest.mark.parametrize(("cuts", "stops"), [([], ()), ([10, 21, 45], (1, 2, 3))])
def test_a_scored_signal_names_the_model_of_its_forecast(modelled, cuts, stops):
    """Whoever made the slices' frames, and after a restart, too."""
    forecaster, history = modelled
    told = list(events_of(scored(forecaster, cuts, stops)))
    for event in told:
        in_force = [each.model for each in history if each.ts <= nanos(event.ts)]
        assert event.model_version == (None if event.q50 is None else in_force[-1])
    assert {event.model_version for event in told} == {None, *(each.model for each in history if each.model)}


def test_a_log_of_the_time_before_tells_no_model(modelled):
    told = list(events_of(scored(modelled[0], []), forget=True))
    assert any(event.q50 is not None for event in told)
    assert {event.model_version for event in told} == {None}
