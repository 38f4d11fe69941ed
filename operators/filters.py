"""Filters: what keeps a decided signal from the account whatever its score.

Market hours are judged at the instant of execution, which is the next slice's start: so a daily bar, known
at the close, can trade at the next open.
"""

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from operators.kernel import kernel
from schemas.events import Phase, Reason
from schemas.frames import Codes, Ints, SignalFrame


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long before the close the last entry may be executed."""

    market_hours: bool = True
    minutes_before_close: Annotated[int, Meta(ge=0, le=390)] = 15


class State(NamedTuple):
    """Nothing is remembered."""

    version: int


def start() -> State:
    """Nothing to remember."""
    return State(1)


def step(params: Params, end_of_day: bool, state: State, frame: SignalFrame) -> tuple[State, SignalFrame]:
    """Give each candidate that a filter stops its reason; `end_of_day`: all lots are sold by the close."""
    reason = frame.reason.copy()
    slices = frame.bars.slices
    if reason.size:
        earliest = params.minutes_before_close if params.market_hours else -1
        advance(earliest, end_of_day, slices.to_close, slices.phase, frame.bars.at, reason)
    return state, SignalFrame(
        frame.bars, frame.volatility, frame.direction, frame.score, frame.confidence,
        frame.regime, frame.views, reason,
    )  # fmt: skip


@kernel
def advance(earliest: int, end_of_day: bool, to_close: Ints, phase: Codes, at: Ints, reason: Codes) -> None:
    """The loop over rows; only candidates are looked at."""
    for i in range(at.size):
        if reason[i] == Reason.NONE:
            reason[i] = objection(earliest, end_of_day, to_close[at[i]], phase[at[i]])


@kernel
def objection(earliest: int, end_of_day: bool, to_close: int, phase: int) -> Reason:
    """The first filter that fails, or NONE."""
    if to_close < earliest:
        return Reason.OUTSIDE_MARKET_HOURS
    if end_of_day and phase == Phase.EVE:
        return Reason.NO_TIME_TO_EXIT  # it would be filled in the last bar and held overnight
    return Reason.NONE
