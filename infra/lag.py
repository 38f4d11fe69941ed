"""How far behind the log this process is, for Prometheus: `kafka_consumer_lag{topic,partition}` and their sum.

Register it in the process that reads: `prometheus_client.REGISTRY.register(LagCollector("live"))`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from infra.tail import reading

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily


class LagCollector:
    """Asks the parts of this process when it is scraped; nothing runs in between."""

    def __init__(self, group: str):
        self._group = group  # the flow, in place of a consumer group, which we have none of

    def describe(self) -> list["GaugeMetricFamily"]:
        """Nothing is asked when it is registered."""
        return []

    def collect(self) -> Iterator["GaugeMetricFamily"]:
        """One gauge per partition, and one for all."""
        from prometheus_client.core import GaugeMetricFamily

        lag = GaugeMetricFamily(
            "kafka_consumer_lag",
            "Records in the log that were not read yet.",
            labels=["consumer_group", "topic", "partition"],
        )
        total = 0
        for (topic, number), at in sorted(reading().items()):
            lag.add_metric([self._group, topic, str(number)], at.end - at.next)
            total += at.end - at.next
        yield lag
        whole = GaugeMetricFamily("kafka_consumer_lag_total", "The sum over partitions.", labels=["consumer_group"])
        whole.add_metric([self._group], total)
        yield whole
