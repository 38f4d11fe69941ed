"""A model into the log: `utp models announce`, and what promote and rollback do where there is a cluster.

One record in `model.activated`; ingest writes it among the bars of every partition of `market.raw`, so that it has
its place in the log, and it acts at the first slice that ends at `from_slice` or later.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dataflows.ingest import MODELS
from infra.forecaster import NONE
from infra.gated_sink import BY
from infra.kafka import ID, SCHEMA, TS, Cluster, bounds, partitions, producer, records, stated_time, wait_for
from infra.raw_log import RAW
from models.bundle import MANIFEST, Manifest, Refusal, sha256
from models.registry import NAME, Registry
from operators import features
from schemas import codec
from schemas.calendar import Calendar, timeframe_name
from schemas.errors import UserError
from schemas.identity import envelope, iso
from schemas.records import ModelActivated

PATIENCE = 5.0  # seconds for the cluster to answer
LAST = 200  # records of the raw log in which the feed's clock is looked for


def is_configured(environ: Mapping[str, str] | None = None) -> bool:
    """Whether somebody has named a cluster."""
    return bool((os.environ if environ is None else environ).get("KAFKA_BOOTSTRAP_SERVERS"))


def announce(where: Cluster, calendar: Calendar, store: Path, model: str, from_slice: int | None = None) -> int:
    """Announce a model of the store, or `none`; returns the instant from which it acts, UTC ns. Raises UserError.

    Without `from_slice` that is the first slice which has not begun yet, by the feed's clock.
    """
    clock = _clock(where)
    since = from_slice if from_slice is not None else _following(calendar, clock)
    if clock is not None and since <= clock:
        raise UserError(f"--from-slice {iso(since)}: the feed is at {iso(clock)} already; give a later one, or none")
    before = last(where)
    bundle = "" if model == NONE else _checked(store, model, calendar, before.version if before else NONE)
    write(where, model, since, bundle, before.version if before else None, clock or 0)
    return since


def write(
    where: Cluster, model: str, since: int, bundle: str = "", previous: str | None = None, clock: int = 0
) -> None:
    """Write the record, and return when it is in the log; `clock`: the feed's."""
    number = bounds(where, MODELS, [0])[0][1]
    key = f"model:{number}:{model}:{iso(since)}"
    event = ModelActivated(**envelope(MODELS, key, "", clock, "promoter"), model=NAME, version=model, from_slice=since,
                           bundle_sha256=bundle, previous=previous)  # fmt: skip
    headers = [(ID, key.encode()), (TS, b"%d" % clock), (BY, b"promoter"), (SCHEMA, codec.mark(ModelActivated))]
    told: list[object] = []
    client = producer(where, 0)
    client.produce(where.topic(MODELS), codec.encode(event), NAME.encode(), 0, headers=list(headers),
                   on_delivery=lambda error, _: told.append(error))  # fmt: skip
    client.flush(30.0)
    if told != [None]:
        raise UserError(f"{model}: not written to {where.topic(MODELS)} ({told[0] if told else 'no answer in 30 s'}); "
                        "announce it again")  # fmt: skip


def last(where: Cluster) -> ModelActivated | None:
    """The latest announcement."""
    low, high = bounds(where, MODELS, [0])[0]
    latest = None
    for message in records(where, MODELS, 0, max(low, high - LAST), high):
        with suppress(codec.UndecodableError):  # a dead letter
            latest = codec.decode(ModelActivated, message.value(), dict(message.headers() or ()).get(SCHEMA))
    return latest


def _clock(where: Cluster) -> int | None:
    """The feed's clock: the latest event time in the raw log; None before it has begun."""
    low, high = bounds(where, RAW, [0])[0]
    stated = (stated_time(one.headers() or ()) for one in records(where, RAW, 0, max(low, high - LAST), high))
    return max((ts for ts in stated if ts is not None), default=None)


def _following(calendar: Calendar, clock: int | None) -> int:
    """End of the first slice that begins after an instant; of a log that has not begun, its first slice."""
    return 0 if clock is None else calendar.ts_at(calendar.index_after(clock) + 1)


def _checked(store: Path, model: str, calendar: Calendar, before: str) -> str:
    """Hash of the bundle's manifest. Raises UserError where the live flow could not use it: it would have to stop."""
    from models.engine import opened

    path = next((path for path in (store / "bundles" / model, store / model) if path.is_dir()), store / model)
    engine = opened(path, features.set_hash(features.Params(set="all")))
    if isinstance(engine, Refusal):
        raise UserError(f"{model} cannot be announced: {engine}")
    manifest = engine.manifest
    if manifest.timeframe != calendar.timeframe:
        own, wanted = timeframe_name(manifest.timeframe), timeframe_name(calendar.timeframe)
        raise UserError(f"{model} cannot be announced: trained on {own} bars, live.timeframe is {wanted}")
    _agrees(model, manifest, store, before)
    return sha256(path / MANIFEST)


def _agrees(model: str, manifest: Manifest, store: Path, before: str) -> None:
    """All models of a log have the same horizons."""
    from models.bundle import read

    paths = [path for path in (store / "bundles" / before, store / before) if path.is_dir()]
    found = read(paths[0]) if paths and before != NONE else None
    if isinstance(found, Manifest):
        own, wanted = ((one.horizons, one.decision_horizon) for one in (manifest, found))
        if own != wanted:
            raise UserError(f"{model} cannot be announced: it forecasts {list(own[0])} bars ahead and trades {own[1]}, "
                            f"{before} in the log {list(wanted[0])} and {wanted[1]}")  # fmt: skip


def refusal(where: Cluster) -> str:
    """Why nothing can be announced there; an empty text if it can."""
    try:
        wait_for(where, PATIENCE)
        partitions(where, MODELS)
    except UserError as error:
        return str(error)
    return ""


def champion(store: Path) -> str:
    """The registry's."""
    entry = Registry(store).champion()
    if entry is None:
        raise UserError(f"{store} has no champion; utp models promote ID makes one, or announce an ID")
    return entry.id
