"""Live: `market.slices` -> decide -> the account log -> the account -> orders, verdicts, results.

    python -m bytewax.run dataflows.live -r var/recovery/live -s 10 -b 0

Two halves that meet in the account log: `signals` by shard, `trading` by account. Here they run together; apart
they are `dataflows.signals` and `dataflows.trading`, the same code.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dataflows import account_log, pipeline, taps
from dataflows.account_events import TOLD, Writer
from dataflows.flows import assemble, behind, by_shard, grid, of_topic, some
from dataflows.flows import first as _first
from infra import intake
from infra.abreast import AbreastSource
from infra.day_results import DayResults
from infra.dead_letters import TOPIC as LETTERS
from infra.dead_letters import Letter
from infra.dead_letters import record as letter_record
from infra.forecaster import NONE, Event, Forecaster, described, live_forecaster
from infra.gated_sink import GatedSink, Record
from infra.kafka import Cluster
from infra.late import late
from infra.ranges import Messages
from infra.result_header import Header, header
from infra.settings import Settings
from infra.slice_log import models_upto
from infra.snapshots import Snapshot, write
from infra.tail import TailSource
from operators import barrier
from operators.drive import flat, scan
from risk import account
from schemas.calendar import Calendar
from schemas.frames import RawFrame, SliceFrame, Slices

if TYPE_CHECKING:
    from bytewax.dataflow import Dataflow
    from bytewax.operators import KeyedStream

DECISIVE = ("clean", "features", "alphas", "regime", "ensemble", "filters", "rules", "exits", "halts", "venue", "cash")
HOPS = 3  # from the late lane to the end of the sinks behind it


def flow(settings: str | None = None, sets: Sequence[str] = ()) -> "Dataflow":
    """Both halves, for `python -m bytewax.run`; `UTP_SETTINGS` may name the settings file."""
    return assemble("live", settings, sets, signals, trading)


def signals(graph: "Dataflow", settings: Settings, where: Cluster) -> None:
    """`market.slices` by shard -> the account log."""
    import bytewax.operators as op

    calendar, keeper = grid(settings), Keeper(settings)
    forecaster = live_forecaster(settings.forecast, calendar)
    params = pipeline.decide_params(settings, calendar.timeframe, forecaster)
    source = AbreastSource(where, "market.slices", calendar, settings.live.ahead_slices)
    read = op.map("shard", op.input("slices", graph, source), by_shard)
    answers = scan("intake", read, intake.start(), partial(intake.step, calendar), intake.restore)
    op.output("letters", op.flat_map("letter", answers, _letters), GatedSink(where, LETTERS, "live", _first))
    frames = op.flat_map("frames", answers, partial(_frames, forecaster))
    if forecaster is None:
        scored = pipeline.decide("decide", frames, params, keeper.decide)
        taps.draw(frames, settings, where, calendar.timeframe)
    else:  # a forecast is dear: the taps tell the one that was made
        start = pipeline.start(params)
        decided = scan("decide", frames, start, partial(pipeline.step_openly, params), keep=keeper.decide)
        taps.draw(decided, settings, where, calendar.timeframe)
        scored = op.map("scored", decided, lambda item: (item[0], item[1].signals))
    one = op.map("one", scored, lambda item: (pipeline.ACCOUNT, item[1]))
    whole = scan("barrier", one, barrier.start(), barrier.step_singly, barrier.restore)
    name = settings.run.account
    logged = op.map("logged", whole, lambda item: account_log.records(name, item[1]))
    op.output("log", logged, GatedSink(where, "account.log", "recorder", _first, linger_ms=0))


def _taken(
    graph: "Dataflow", where: Cluster, word: str, topic: str,
    read: Callable[[Messages], tuple[list[Record], list[Letter]]],
) -> "KeyedStream[list[Record]]":  # fmt: skip
    """What a topic has for the account log; what cannot be read goes to the dead letters."""
    import bytewax.operators as op

    told = op.map(f"{word}_read", op.input(f"{word}s", graph, TailSource(where, topic)), read)
    refused = op.flat_map(f"no_{word}", told, lambda both: some(pipeline.ACCOUNT, letter_records(both[1])))
    op.output(f"{word}_letters", refused, GatedSink(where, LETTERS, f"{word}s", _first))
    return op.flat_map(word, told, lambda both: some(pipeline.ACCOUNT, both[0]))


def trading(graph: "Dataflow", settings: Settings, where: Cluster) -> None:
    """The account log -> orders, verdicts, results."""
    import bytewax.operators as op

    name = settings.run.account
    commands = _taken(graph, where, "command", "account.commands", partial(account_log.command_records, name))
    reports = _taken(graph, where, "report", "execution.reports", partial(account_log.report_records, name))
    # a writer of its own, so that what humans and brokers say is heard though no slice comes
    op.output("heard", op.merge("in_order", commands, reports),
              GatedSink(where, "account.log", "listener", _first, linger_ms=0))  # fmt: skip
    calendar, keeper = grid(settings), Keeper(settings)
    read = op.input("account_log", graph, TailSource(where, "account.log"))
    log = op.flat_map("acts", read, partial(account_log.acts, calendar))
    start = account.start(settings.account)
    ledger = scan("account", log, start, partial(account_log.step, calendar, settings.account), keep=keeper.account)
    writer = writer_of(settings)
    orders = op.flat_map("account_orders_record", ledger, lambda item: some(item[0], list(writer.orders(item[1]))))
    op.output("account_orders", orders, GatedSink(where, "account.orders", "account", _first, linger_ms=0))
    # what nobody waits for goes after the orders; what comes at a close is in its topics before its results are there
    told = late("told", ledger, (), lambda state, frame: (state, writer.told(frame)), lambda one: one.slices.closes)
    for topic in TOLD:
        step = topic.replace(".", "_")
        own = op.flat_map(f"{step}_record", told, partial(of_topic, topic))
        op.output(step, own, GatedSink(where, topic, "account", _first))
    models = (
        partial(_models, where, calendar, Path(settings.forecast.store).expanduser())
        if settings.forecast.model != NONE
        else None
    )
    op.output("results", behind("results_behind", ledger, HOPS),
              DayResults(_results(settings), partial(_header, settings), calendar, models))  # fmt: skip


def _frames(forecaster: Forecaster | None, item: tuple[str, intake.Answer]) -> Iterator[tuple[str, RawFrame]]:
    key, answer = item
    for frame in answer.frames:
        yield key, frame if forecaster is None else forecaster.told(frame)


def _letters(item: tuple[str, intake.Answer]) -> list[tuple[str, list[Record]]]:
    return some(item[0], letter_records(item[1].letters))


def letter_records(letters: Sequence[Letter]) -> list[Record]:
    """Dead letters of this flow."""
    return [letter_record(one, "live") for one in letters]


def writer_of(settings: Settings) -> Writer:
    """Makes the events of the account."""
    limits = msgspec.to_builtins(settings.rules)
    return Writer(settings.run.account, settings.live.timeframe, voters(settings), limits,
                  at_broker=settings.venue.kind == "broker")  # fmt: skip


def voters(settings: Settings) -> list[str]:
    """Who votes, in the order of their digits in `views`."""
    return [*settings.ensemble.voters, *(["forecast"] if settings.forecast.model != NONE else [])]


def snapshots_of(settings: Settings) -> Path:
    """Where the account's hashed snapshots are."""
    return Path(settings.live.folder) / "snapshots" / settings.run.account


def identity(settings: Settings) -> str:
    """A hash of all settings that a decision depends on."""
    parts = {name: msgspec.to_builtins(getattr(settings, name)) for name in DECISIVE}
    if settings.forecast.model != NONE:
        parts["forecast"] = msgspec.to_builtins(settings.forecast) | {"store": ""}
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:16]


class Keeper:
    """Puts away hashed snapshots at each session's close."""

    def __init__(self, settings: Settings):
        self._folder = snapshots_of(settings)
        self._identity = identity(settings)

    def decide(self, frame: RawFrame, state: pipeline.State) -> None:
        """The state of a shard, when its frame ends with the session."""
        if frame.slices.closes:
            self._write(frame.slices, f"decide.{frame.shard:02}", state)

    def account(self, one: account_log.Act, state: account.State) -> None:
        """The state of the account, after the session's last slice."""
        if isinstance(one, SliceFrame) and one.slices.closes:
            self._write(one.slices, "account", state)

    def _write(self, slices: Slices, key: str, state: Any) -> None:
        write(self._folder, int(slices.session[-1]), key, Snapshot(slices.upto, self._identity, flat(state)))


def _results(settings: Settings) -> Path:
    return Path(settings.live.folder) / "results" / settings.run.account


def _header(settings: Settings, after: int, upto: int) -> Header:
    """What a session's results say of themselves."""
    bars = {"source": "market.slices", "label": "market.slices", "fingerprint": "", "rows": 0, "symbols": [],
            "first_ts": after, "last_ts": upto}  # fmt: skip
    forecast: dict[str, Any] | None = (
        {"models": [], "events": []} if settings.forecast.model != NONE else None
    )  # told at the close
    return header(settings, alphas=voters(settings), bars=bars, synthetic=False, timeframe=settings.live.timeframe,
                  after=after, upto=upto, forecast=forecast)  # fmt: skip


def _models(where: Cluster, calendar: Calendar, store: Path, upto: int) -> dict[str, Any]:
    """Who forecast until an instant, as the log has it, in the order of their numbers."""
    events = [Event(one.since, one.model, one.bundle_sha256) for one in models_upto(where, calendar, upto)]
    return described(events, store)
