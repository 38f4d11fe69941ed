"""How far behind the log this process is, for Prometheus: `kafka_consumer_lag{topic,partition}` and their sum.

With `BYTEWAX_DATAFLOW_API_ENABLED=1` Bytewax serves it at `/metrics`, port 3030, beside its own metrics.
"""

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from infra.tail import reading

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily


@cache
def show_lag() -> "LagCollector":
    """Put the gauges of this process among its metrics, once; whoever builds a flow gives them its name."""
    from prometheus_client import REGISTRY

    shown = LagCollector("")
    REGISTRY.register(shown)
    return shown


class LagCollector:
    """Asks the parts of this process when it is scraped; nothing runs in between."""

    def __init__(self, group: str):
        self.group = group  # the flow, in place of a consumer group, which we have none of

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
            lag.add_metric([self.group, topic, str(number)], at.end - at.next)
            total += at.end - at.next
        yield lag
        whole = GaugeMetricFamily("kafka_consumer_lag_total", "The sum over partitions.", labels=["consumer_group"])
        whole.add_metric([self.group], total)
        yield whole
