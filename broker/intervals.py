"""How long the desk waits, and for what."""

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0.0, le=3_600.0)]


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """How orders of the log are sent to a broker; see docs/broker.md."""

    stale_slices: Annotated[int, Meta(ge=1, le=100_000)] = 3  # an entry that is older, after a restart, is not sent
    legs_seconds: Seconds = 30.0  # an exit waits so long for the end of the legs that hold its shares, then it tries
    doubt_seconds: Seconds = 120.0  # an order that is not found for so long was never placed
    retry_seconds: Seconds = 1.0  # between two looks at what is waited for
    orders_seconds: Seconds = 60.0  # between two reconciliations of orders
    positions_seconds: Seconds = 120.0  # of positions
    # who executes the account renews its claim three times in it; another one waits so long for a sign of life
    lease_seconds: Annotated[float, Meta(ge=0.5, le=3_600.0)] = 15.0
    metrics_port: Annotated[int, Meta(ge=0, le=65_535)] = 0  # of Prometheus' metrics; 0: none
    metrics_host: str = "127.0.0.1"  # an address of this machine that they are told at
