"""The trading half of the live flow, one per account: the account log -> orders, verdicts, results.

python -m bytewax.run dataflows.trading -r var/recovery/trading -s 10 -b 0
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataflows.flows import assemble
from dataflows.live import trading

if TYPE_CHECKING:
    from bytewax.dataflow import Dataflow


def flow(settings: str | None = None, sets: Sequence[str] = ()) -> "Dataflow":
    """The dataflow, for `python -m bytewax.run`; `UTP_SETTINGS` may name the settings file."""
    return assemble("trading", settings, sets, trading)
