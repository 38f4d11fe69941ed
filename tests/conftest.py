"""How hard the property tests try: `HYPOTHESIS_PROFILE=long` is for a night, the default for every change.

The long one takes other cases each time. The default takes the same ones, so that a change that fails is at fault.
"""

import os
import uuid

import pytest
from hypothesis import HealthCheck, settings

ANY_TIME = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", ANY_TIME, max_examples=12, derandomize=True)
settings.register_profile("long", ANY_TIME, max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    """Addresses of a Kafka cluster: the one that the environment names, or a server of our own."""
    if named := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield named
        return
    from infra.embedded import Broker

    broker = Broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker.servers
    broker.stop()


@pytest.fixture
def kafka(servers):
    """The cluster, with a topic prefix that nobody else uses; its topics are deleted afterwards."""
    from infra.kafka import Cluster, admin

    where = Cluster(servers, f"t{uuid.uuid4().hex[:12]}.")
    yield where
    client = admin(where)
    ours = [name for name in client.list_topics(timeout=10).topics if name.startswith(where.prefix)]
    for answer in client.delete_topics(ours).values() if ours else ():
        answer.result(30.0)


@pytest.fixture
def broker(tmp_path):
    """A server of our own that a test may kill."""
    if "KAFKA_BOOTSTRAP_SERVERS" in os.environ:
        pytest.skip("kills its own broker, not yours")
    from infra.embedded import Broker

    one = Broker(tmp_path / "broker")
    one.start()
    yield one
    one.stop()


def pytest_addoption(parser):
    parser.addoption(
        "--kills", type=int, default=20, help="of flows and broker in tests/dataflows/test_live.py; 200 for a night"
    )
