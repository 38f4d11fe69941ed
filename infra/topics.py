"""The topics of the platform: how many partitions, and how long they are kept.

Symbols and shards have 16 partitions, one per shard, so that a partition holds whole symbols in order. What one
account writes has one partition: it has one writer, and every consumer sees its one order.
What decisions are made from, or were, is kept for ever (`retention.ms=-1`): a replay needs it.
"""

from collections.abc import Iterable
from typing import NamedTuple

from infra.kafka import Cluster, admin, answered, wait_for
from schemas.errors import UserError
from schemas.frames import SHARDS

FOREVER = -1
DAY_MS = 86_400_000


class Topic(NamedTuple):
    """A topic as it must be."""

    name: str
    partitions: int = SHARDS
    retention_ms: int = FOREVER


TOPICS = (
    Topic("market.raw", SHARDS, 7 * DAY_MS),
    Topic("market.slices"),
    Topic("market.late"),
    Topic("market.engineered", SHARDS, 3 * DAY_MS),
    Topic("predictions.tft"),  # a replay reads the recorded forecasts
    Topic("alpha.signals", SHARDS, 3 * DAY_MS),
    Topic("signals.scored", 1, 30 * DAY_MS),
    Topic("risk.approved", 1),
    Topic("risk.rejected", 1, 30 * DAY_MS),
    Topic("execution.completed", 1),
    Topic("execution.blocked", 1),
    Topic("exit.signals", 1),
    Topic("trade.decisions", SHARDS, 30 * DAY_MS),
    Topic("account.commands", 1),
    Topic("execution.reports", 1),
    Topic("execution.claims", 1, DAY_MS),
    Topic("account.log", 1),
    Topic("account.orders", 1),
    Topic("model.activated", 1),
    Topic("audit.event.v1", 3, 365 * DAY_MS),
    Topic("dlq.failed", 1, 30 * DAY_MS),
)
BY_NAME = {topic.name: topic for topic in TOPICS}


def create_topics(where: Cluster, topics: Iterable[Topic] = TOPICS) -> list[str]:
    """Create those that are absent, and say which; a UserError where one is there and is another.

    Asks for nothing of a topic that is as it must be, so every start may call it.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

    wait_for(where)
    wanted = {where.topic(topic.name): topic for topic in topics}
    client = admin(where)
    there = answered(lambda: client.list_topics(timeout=30.0)).topics
    absent = {name: topic for name, topic in wanted.items() if name not in there}
    answers = client.create_topics(
        [
            NewTopic(name, topic.partitions, where.replication, config={"retention.ms": str(topic.retention_ms)})
            for name, topic in absent.items()
        ]
    ) if absent else {}  # fmt: skip
    for name, answer in answers.items():
        try:
            answer.result(30.0)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was faster
                raise UserError(f"topic {name} at {where.servers}: {error.args[0].str()}") from error
    check_topics(where, topics)
    return sorted(absent)


def check_topics(where: Cluster, topics: Iterable[Topic] = TOPICS) -> None:
    """Partitions place symbols and retention keeps history: a UserError where one of them differs."""
    from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

    wanted = {where.topic(topic.name): topic for topic in topics}
    client = admin(where)
    there = answered(lambda: client.list_topics(timeout=30.0)).topics
    for name, topic in wanted.items():
        found = len(there[name].partitions) if name in there else 0
        if found != topic.partitions:
            raise UserError(
                f"topic {name} at {where.servers} has {found} partitions, want {topic.partitions}: "
                f"delete it if nothing in it is needed, or set another KAFKA_TOPIC_PREFIX"
            )
    kept = [name for name, topic in wanted.items() if topic.retention_ms == FOREVER]
    configs = client.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in kept]) if kept else {}
    for resource, answer in configs.items():
        entry = answer.result(30.0).get("retention.ms")
        if entry is not None and entry.value not in (None, str(FOREVER)):
            raise UserError(
                f"topic {resource.name} at {where.servers} forgets after {entry.value} ms, and a replay needs it: "
                f"set retention.ms=-1 on it"
            )
