"""Where in a topic an instant is, by what the records state: the broker knows only when they were written."""

from typing import TYPE_CHECKING

from infra.kafka import PATIENCE, Cluster, at_end, bounds, consumer, lost, passing, stated_time
from schemas.errors import UserError

if TYPE_CHECKING:
    from confluent_kafka import Consumer

WINDOW = 16  # records that are looked at in one place

Stated = tuple[int, int]  # offset, event time


def offsets_at(where: Cluster, topic: str, ts: int) -> dict[int, int]:
    """By partition: the first offset whose record's event time is at or after `ts`, UTC ns; else the end.

    Wants the event times of a partition not to fall, but for less than WINDOW records in a row that were written
    again long after their time.
    """
    client = consumer(where, fetch_message_max_bytes=65_536, fetch_wait_max_ms=5, enable_partition_eof=True)
    try:
        return {
            number: _first_at(client, where.topic(topic), number, low, high, ts)
            for number, (low, high) in bounds(where, topic).items()
        }
    finally:
        client.close()


def _first_at(client: "Consumer", topic: str, number: int, low: int, high: int, ts: int) -> int:
    """Bisect one partition by the newest time of a window, then look at each record of the last ones."""
    first, last = low, high  # all windows before `first` are older; the one at `last` is not, if it is not the end
    while last - first > WINDOW:
        middle = (first + last) // 2
        found = _stated(client, topic, number, middle, high)
        if found and max(stated for _, stated in found) < ts:
            first = found[-1][0] + 1
        else:
            last = middle
    while first < high:
        found = _stated(client, topic, number, first, high)
        if not found:
            return high
        for offset, stated in found:
            if stated >= ts:
                return offset
        first = found[-1][0] + 1
    return high


def _stated(client: "Consumer", topic: str, number: int, offset: int, high: int) -> list[Stated]:
    """Up to WINDOW records at or after an offset that state their time; fewer before `high` only."""
    from confluent_kafka import TopicPartition

    client.assign([TopicPartition(topic, number, offset)])
    found: list[Stated] = []
    waited = 0.0
    while waited < PATIENCE:
        messages = client.consume(WINDOW, 0.1)
        waited = 0.0 if messages else waited + 0.1
        for message in messages:
            error, at = message.error(), int(message.offset() or 0)
            if error is None:
                ts, at = stated_time(message.headers() or ()), at + 1
                found += [(at - 1, ts)] if ts is not None and at <= high else []
            elif not (at_end(error) or passing(error)):
                raise lost(topic, number, offset, error)
            if len(found) == WINDOW or (at >= high and (error is None or at_end(error))):
                return found
    raise UserError(f"{topic} partition {number}: no answer for offset {offset} within {PATIENCE:g} s")
