"""Drift: a model whose forecasts have become less sure than when it was validated is stopped.

The edge of a forecast is 2p - 1, with p the probability that its own quantiles give its median's direction. When
the median edge of a shard's last forecasts falls a fifth below that of validation, the shard stops the model's
forecasts and says so; another model, or the same one activated again, begins anew. It works on one shard's
symbols, so it does not depend on how shards are spread over workers.
"""

from typing import Annotated, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from operators.kernel import grown, kernel, table
from schemas.frames import Floats, Table


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a shard stops its model; counted in forecasts."""

    window: Annotated[int, Meta(ge=1, le=1_000_000)] = 500
    least: Annotated[int, Meta(ge=1, le=1_000_000)] = 200  # forecasts before anything is judged
    share: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.8  # of the edge in validation; 0: never stopped

    def __post_init__(self) -> None:
        if self.least > self.window:
            raise ValueError(f"least = {self.least}, window = {self.window}: want least <= window")


class Row(Protocol):
    """How the model in force is doing."""

    count: int  # forecasts since it was activated
    low: int  # of those in the window, edges below the bound
    is_stopped: bool


class State(NamedTuple):
    """The last edges, oldest overwritten first."""

    rows: Table  # one
    edges: Floats  # grows with the window's use


def start() -> State:
    """No forecast yet."""
    return State(table(Row, 1), np.zeros(0))


def opened(state: State, window: int) -> State:
    """A copy to write into, byte for byte: `copy` leaves what lies between the fields to chance."""
    edges = np.zeros(window)
    kept = min(state.edges.size, window)
    edges[:kept] = state.edges[:kept]
    return State(grown(state.rows, 1), edges)


def median(state: State) -> float:
    """The median edge in the window; NaN without any."""
    known = min(int(state.rows[0].count), state.edges.size)
    return float(np.median(state.edges[:known])) if known else np.nan


@kernel
def note(row: Row, edges: Floats, edge: float, least: int, bound: float) -> bool:
    """Take in one forecast's edge; whether the model has to stop: more than half of the window is below the bound."""
    k = row.count % edges.size
    if row.count >= edges.size and edges[k] < bound:
        row.low -= 1
    edges[k] = edge
    row.count += 1
    if edge < bound:
        row.low += 1
    known = min(row.count, edges.size)
    row.is_stopped = known >= least and 2 * row.low > known
    return row.is_stopped
