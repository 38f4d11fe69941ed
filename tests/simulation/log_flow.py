"""A small flow from log to log, run in processes of its own by the tests that kill it.

`python -m bytewax.run "tests/simulation/log_flow.py:flow('127.0.0.1:9092', 'prefix.', 4000)"`
"""

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators import KeyedStream

from infra.gated_sink import GatedSink, Record
from infra.kafka import Cluster
from infra.ranges import Messages, RangeSource

INPUTS, OUTPUTS = 4, 3


def count(state: tuple[int, int] | None, value: int) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """Number the values of a key and sum them up: wrong as soon as one is lost or doubled."""
    number, total = state or (0, 0)
    state = (number + 1, total + value)
    return state, (value, *state)


def keyed(messages: Messages) -> list[tuple[str, int]]:
    """Seven keys, spread over all partitions."""
    return [(f"key{int(value) % 7}-{messages.partition}", int(value)) for value in messages.values]


def record(item: tuple[str, tuple[int, int, int]]) -> tuple[str, list[Record]]:
    """One output record per input record; its id is the input's."""
    key, (value, number, total) = item
    return key, [Record(f"{key}|{value}", value + 1, key.encode(), b"%d %d" % (number, total))]


def flow(servers: str, prefix: str, each: int) -> Dataflow:
    """in -> count -> out."""
    where = Cluster(servers, prefix)
    made = Dataflow("log_flow")
    ranges = {("in", number): (0, each) for number in range(INPUTS)}
    values = op.flat_map("keyed", op.input("in", made, RangeSource(where, ranges, batch=25)), keyed)
    counted: KeyedStream[tuple[int, int, int]] = op.stateful_map("count", values, count)
    op.output("out", op.map("record", counted, record), GatedSink(where, "out", "log_flow"))
    return made


def expected(each: int) -> dict[str, bytes]:
    """What an undisturbed run writes, by id."""
    states: dict[str, tuple[int, int]] = {}
    made = {}
    for number in range(INPUTS):
        for i in range(each):
            value = i * INPUTS + number
            key = f"key{value % 7}-{number}"
            states[key], answer = count(states.get(key), value)
            made[f"{key}|{value}"] = b"%d %d" % answer[1:]
    return made
