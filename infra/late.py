"""A late lane: records that nobody waits for are made a little later, out of the way of those that somebody does.

The clock says only when. Which records there are, what they say and their order within a topic are functions of the
frames; what is due when a snapshot is taken is made for it and lies in it, so a crash finds either the frames again or
their records.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from infra.gated_sink import Record
from operators.drive import flat, unflat

if TYPE_CHECKING:
    from bytewax.operators import KeyedStream

DELAY = timedelta(milliseconds=50)  # a slice has become orders by then
MOST = 64  # frames that wait: when the flow catches up, no more are kept in memory
VERSION = 2  # of a snapshot; 1: the bare state, of the time before there was a late lane

S = TypeVar("S")
F = TypeVar("F")
ByTopic: TypeAlias = dict[str, list[Record]]


def late(
    step_id: str,
    stream: "KeyedStream[F]",
    start: S,
    step: Callable[[S, F], tuple[S, Mapping[str, list[Record]]]],
    closes: Callable[[F], bool],
    delay: timedelta = DELAY,
) -> "KeyedStream[ByTopic]":
    """A step that makes records by topic, run a little after its frames came; one state per key, recoverable.

    A frame for which `closes` holds is not kept waiting, nor are those before it: after it comes nothing for long.
    """
    import bytewax.operators as op
    from bytewax.operators import StatefulBatchLogic

    class Late(StatefulBatchLogic[F, ByTopic, Any]):
        """A step with its state, the frames that wait, and the records of those before them."""

        def __init__(self, resumed: Any):
            self._state, self._made = (start, {}) if resumed is None else _restored(start, resumed)
            self._frames: list[F] = []
            self._due = datetime.now(UTC) if self._made else None

        def on_batch(self, values: list[F]) -> tuple[Iterable[ByTopic], bool]:
            self._frames += values
            if len(self._frames) >= MOST or any(map(closes, values)):
                return self.on_notify()
            if self._due is None:
                self._due = datetime.now(UTC) + delay
            return [], StatefulBatchLogic.RETAIN

        def on_notify(self) -> tuple[Iterable[ByTopic], bool]:
            self._make()
            made, self._made, self._due = self._made, {}, None
            return [made] if made else [], StatefulBatchLogic.RETAIN

        def on_eof(self) -> tuple[Iterable[ByTopic], bool]:
            return self.on_notify()

        def notify_at(self) -> datetime | None:
            return self._due

        def snapshot(self) -> Any:
            self._make()
            made = {topic: [tuple(record) for record in records] for topic, records in self._made.items()}
            return VERSION, flat(self._state), made

        def _make(self) -> None:
            for frame in self._frames:
                self._state, answer = step(self._state, frame)
                for topic, records in answer.items():
                    if records:
                        self._made.setdefault(topic, []).extend(records)
            self._frames = []

    return op.stateful_batch(step_id, stream, Late)


def _restored(start: S, snapshot: Any) -> tuple[S, ByTopic]:
    version, *rest = snapshot
    if version != VERSION:
        return unflat(start, snapshot), {}
    state, made = rest
    return unflat(start, state), {topic: [Record(*record) for record in records] for topic, records in made.items()}
