"""What the live flow stands on, looked at from outside: settings, calendar, clock, log, recovery stores, snapshots."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from dataflows.flows import grid
from dataflows.live import identity, snapshots_of
from infra.kafka import Cluster, bounds, cluster, topic_names, wait_for
from infra.recovery import stored_step_ids
from infra.settings import Settings, of_log
from infra.snapshots import session_name, sessions
from infra.store_places import stored_places
from infra.topics import TOPICS, check_topics
from schemas.errors import UserError
from schemas.identity import iso

PATIENCE = 5.0  # seconds for the cluster to answer


class Finding(NamedTuple):
    """One thing that was looked at."""

    subject: str
    is_well: bool
    message: str


def examine(settings: Settings, recovery: Path) -> list[Finding]:
    """Everything, even if some of it is not well."""
    where = cluster()
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "settings": lambda: _settings(settings), "clock, calendar": lambda: _calendar(settings),
        "log": lambda: _log(where, recovery), "stores": lambda: _stores(recovery),
        "snapshots": lambda: _snapshots(settings),
    }  # fmt: skip
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings += check()
        except UserError as error:
            findings.append(Finding(name, False, str(error)))
    return findings


def _settings(settings: Settings) -> Iterator[Finding]:
    yield Finding(
        "settings", True, f"account {settings.run.account}, decisions by settings {identity(of_log(settings))}"
    )


def _calendar(settings: Settings) -> Iterator[Finding]:
    calendar, now = grid(settings), time.time_ns()
    following = calendar.ts_at(calendar.index_after(now))
    state = "open" if calendar.end_of(now) else "closed"
    yield Finding(
        "clock, calendar", True, f"{iso(now)[:19]}Z, the exchange is {state}, the next slice ends at {iso(following)}"
    )


def _log(where: Cluster, recovery: Path) -> Iterator[Finding]:
    wait_for(where, PATIENCE)
    yield Finding("log", True, f"Kafka at {where.servers} answers")
    there = topic_names(where)
    absent = [topic.name for topic in TOPICS if where.topic(topic.name) not in there]
    yield _topics(where, absent)
    for name in ("market.slices", "account.log", "account.orders", "dlq.failed"):
        if name not in absent:
            spans = bounds(where, name).values()
            yield Finding(name, True, f"{sum(high - low for low, high in spans):,} records")
    for folder in _folders(recovery):
        yield from _lag(where, folder, {topic.name for topic in TOPICS} - set(absent))


def _topics(where: Cluster, absent: list[str]) -> Finding:
    """Whether they are there, and as they must be."""
    if absent:
        return Finding("topics", False, f"{', '.join(absent)} absent: `utp topics create`")
    try:
        check_topics(where)
    except UserError as error:
        return Finding("topics", False, str(error))
    return Finding("topics", True, f"all {len(TOPICS)} there")


def _lag(where: Cluster, folder: Path, topics: set[str]) -> Iterator[Finding]:
    """How far a store's newest snapshot is behind the log, and whether the log still has what comes next."""
    places = {place: offset for place, offset in stored_places(folder).items() if place[0] in topics}
    spans = {topic: bounds(where, topic) for topic in sorted({topic for topic, _ in places})}
    behind = dict.fromkeys(spans, 0)
    for (topic, number), offset in places.items():
        low, high = spans[topic].get(number, (0, 0))
        behind[topic] += max(high - offset, 0)
        if not low <= offset <= high:
            yield Finding(
                f"place of {folder.name}",
                False,
                f"{topic} partition {number}: the store goes on with offset {offset}, the log has {low} to {high}: "
                f"retention has removed it, or this is another log",
            )
    if behind:
        told = ", ".join(f"{count:,} of {topic}" for topic, count in behind.items())
        yield Finding(f"lag of {folder.name}", True, f"{told} not read at the newest snapshot")


def _folders(recovery: Path) -> list[Path]:
    return sorted(path for path in recovery.glob("*") if path.is_dir())


def _stores(recovery: Path) -> Iterator[Finding]:
    for folder in _folders(recovery):
        steps = stored_step_ids(folder)
        yield Finding(f"store {folder.name}", True, f"{len(steps)} steps have state" if steps else "new")
    if not recovery.is_dir():
        yield Finding("stores", True, f"none in {recovery}: flows begin anew")


def _snapshots(settings: Settings) -> Iterator[Finding]:
    kept = sessions(snapshots_of(settings), "account")
    message = (
        f"{len(kept)} sessions, the last {session_name(kept[-1])}" if kept else "none yet: the first comes at a close"
    )
    yield Finding("snapshots", True, message)
