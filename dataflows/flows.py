"""What the flows on the log have in common: how one is put together, their grid, and where their items go."""

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dataflows.pipeline import KEYS
from infra.gated_sink import Record
from infra.heap import keep_freed
from infra.kafka import Cluster, cluster
from infra.lag import show_lag
from infra.late import ByTopic
from infra.preload import load_all
from infra.ranges import Messages
from infra.recovery import accepts_loss, check_store, folder_of
from infra.run import heed_bytewax_interrupts
from infra.settings import Settings, load, of_log
from infra.topics import create_topics
from schemas.calendar import TIMEFRAMES, Calendar
from schemas.errors import UserError

if TYPE_CHECKING:
    from bytewax.dataflow import Dataflow
    from bytewax.operators import KeyedStream

T = TypeVar("T")
SETTINGS = "UTP_SETTINGS"  # names the settings file, for flows that Bytewax starts

Part = Callable[["Dataflow", Settings, Cluster], None]


def assemble(name: str, settings: str | None, sets: Sequence[str], *parts: Part) -> "Dataflow":
    """A flow of some parts, on topics that are there and a recovery store that is its own."""
    heed_bytewax_interrupts()
    from bytewax.dataflow import Dataflow

    keep_freed()
    load_all()
    path = settings or os.environ.get(SETTINGS)
    loaded, where = of_log(load(Path(path) if path else None, sets, log=True)), cluster()
    create_topics(where)
    graph = Dataflow(name)
    for part in parts:
        part(graph, loaded, where)
    check_store(graph, folder_of(), accepts_loss())
    show_lag().group = name
    gc.freeze()  # what is loaded by now stays: a collection that walked it would hold up a slice by a tenth of a second
    return graph


def grid(settings: Settings) -> Calendar:
    """The calendar of the live slices, from the first to the last year that is known."""
    name = settings.live.timeframe
    if name not in TIMEFRAMES:
        raise UserError(f"live.timeframe = {name!r}: want one of {', '.join(TIMEFRAMES)}")
    return Calendar.whole(TIMEFRAMES[name])


def by_shard(messages: Messages) -> tuple[str, Messages]:
    """Under the key of the partition."""
    return KEYS[messages.partition], messages


def first(key: str) -> int:
    """The one partition, of topics that have one."""
    return 0


def some(key: str, records: list[Record]) -> list[tuple[str, list[Record]]]:
    """Records for a gated sink; nothing where there are none."""
    return [(key, records)] if records else []


def of_topic(topic: str, item: tuple[str, ByTopic]) -> list[tuple[str, list[Record]]]:
    """A topic's share of what a late lane made, for a gated sink."""
    return some(item[0], item[1].get(topic, []))


def behind(step_id: str, stream: "KeyedStream[T]", hops: int) -> "KeyedStream[T]":
    """The same, so many hops later: a worker takes its steps in turn, so what has fewer hops before it goes first."""
    import bytewax.operators as op

    for k in range(hops):
        stream = op.map(f"{step_id}_{k}", stream, _same)
    return stream


def _same(item: T) -> T:
    return item
