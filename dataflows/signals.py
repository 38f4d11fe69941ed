"""The signal half of the live flow, scaled out by shard: `market.slices` -> the account log.

    python -m bytewax.run dataflows.signals -r var/recovery/signals -s 10 -b 0

One such flow per account log; its workers and processes share the shards.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataflows.flows import assemble
from dataflows.live import signals

if TYPE_CHECKING:
    from bytewax.dataflow import Dataflow


def flow(settings: str | None = None, sets: Sequence[str] = ()) -> "Dataflow":
    """The dataflow, for `python -m bytewax.run`; `UTP_SETTINGS` may name the settings file."""
    return assemble("signals", settings, sets, signals)
