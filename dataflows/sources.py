"""What BARS may be, wherever a command takes it: files, a made-up market, or a range of the log of slices."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, Union

from infra.bars import NO_FILES, Bars, open_bars
from infra.forecaster import Event
from infra.reference import Files
from infra.settings import Settings
from schemas.errors import UserError

if TYPE_CHECKING:
    from infra.log_bars import LogBars

SCHEME = "kafka://"  # before the topic of a log of slices
Source: TypeAlias = Union[Bars, "LogBars"]


def logged(bars: Source) -> list[Event] | None:
    """The models that a log of slices says to have been in force; None where the bars say nothing of that."""
    if isinstance(bars, Bars):
        return None
    return [Event(one.since, one.model, one.bundle_sha256) for one in bars.models]


def open_source(
    spec: str,
    settings: Settings,
    *,
    symbols: Sequence[str] = (),
    start: int | None = None,
    stop: int | None = None,
    files: Files = NO_FILES,
) -> Source:
    """Bars with their reference data; `start`, `stop`: UTC ns, inclusive. Raises UserError, one line.

    A log has its own symbols and its own reference data: what stands in it was chosen when it was written.
    """
    if not spec.startswith(SCHEME):
        return open_bars(spec, timeframe=settings.run.timeframe, symbols=symbols, start=start, stop=stop,
                         frame_slices=settings.run.frame_slices, files=files, reference=settings.reference)  # fmt: skip
    if symbols or files != NO_FILES:
        raise UserError(f"{spec}: the log has its own symbols and its own reference data; leave those options out")
    from infra.kafka import cluster
    from infra.log_bars import LogBars

    return LogBars(cluster(), spec.removeprefix(SCHEME), start, stop)
