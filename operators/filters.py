"""Filters: what keeps a decided signal from the account whatever its score.

In this order, the first that objects wins: market hours, jump, liquidity, spread, earnings. Market hours are
judged at the instant of execution, which is the next slice's start: so a daily bar, known at the close, can
trade at the next open. A value that its source does not give for a bar fails the filter; a filter without any
source is off or refuses, by setting.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from operators.indicators import mean, put
from operators.kernel import grown, kernel, table
from schemas.events import Phase, Reason
from schemas.frames import JUMPED, BarFrame, Codes, Floats, Ints, SignalFrame, Table

SESSIONS = 10  # of average daily volume
FEWEST = 3  # sessions before there is an average
MOST_APART = 30  # days between two sessions; after more the average begins anew


class Row(Protocol):
    """The volume of one symbol's last sessions, in shares as they were at the start of the log."""

    session: int
    today: float
    sessions: int  # complete ones
    average: float
    volumes: Annotated[Floats, 16]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which filters there are, and their bounds. `missing_data` is for those without any source."""

    market_hours: bool = True
    minutes_before_close: Annotated[int, Meta(ge=0, le=390)] = 15  # when the last entry may be executed
    liquidity: bool = True
    min_average_volume: Annotated[float, Meta(ge=0.0, le=1e15)] = 500_000.0  # shares a day, over 10 sessions
    spread: bool = True
    max_spread: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.001  # (ask - bid) / mid
    earnings: bool = True
    blackout_days: Annotated[int, Meta(ge=0, le=60)] = 2  # calendar days before and after a report
    missing_data: Literal["off", "refuse"] = "off"  # refuse: no source, no entry; live trading wants that


class State(NamedTuple):
    """One Row per slot."""

    version: int
    rows: Table


class Bounds(NamedTuple):
    """Params as the kernel reads them."""

    earliest: int  # minutes to the close; -1: whenever
    end_of_day: bool
    liquidity: bool
    volume: float
    spread: bool
    width: float
    earnings: bool
    days: int
    refuses: bool  # where there is no source


class Given(NamedTuple):
    """What the kernel reads of a frame; columns without a source are empty."""

    at: Ints
    slot: Ints
    to_close: Ints
    phase: Codes
    session: Ints
    marks: Codes
    volume: Floats
    scale: Floats
    average_volume: Floats
    bid: Floats
    ask: Floats
    earnings_days: Ints


def start() -> State:
    """No session seen."""
    return State(2, table(Row, 0))


def step(params: Params, end_of_day: bool, state: State, frame: SignalFrame) -> tuple[State, SignalFrame]:
    """Give each candidate that a filter stops its reason; `end_of_day`: all lots are sold by the close."""
    state, reason = judge(params, end_of_day, state, frame.bars, frame.reason)
    volatility = np.where(reason == Reason.NONE, frame.volatility, np.nan)
    return state, replace(frame, volatility=volatility, reason=reason)


def judge(params: Params, end_of_day: bool, state: State, bars: BarFrame, reason: Codes) -> tuple[State, Codes]:
    """Move the volumes on by these bars; the reasons after the filters, which look at those rows that have none."""
    if not reason.size:
        return state, reason
    reason, rows, slices = reason.copy(), grown(state.rows, bars.slots), bars.slices
    advance(bounds_of(params, end_of_day), rows, bars.at, bars.slot, slices.to_close, slices.phase, slices.session,
            bars.marks, bars.volume, bars.scale, bars.average_volume, bars.bid, bars.ask, bars.earnings_days,
            reason)  # fmt: skip
    return State(state.version, rows), reason


@lru_cache(maxsize=8)
def bounds_of(params: Params, end_of_day: bool) -> Bounds:
    """As the kernel reads them."""
    return Bounds(
        params.minutes_before_close if params.market_hours else -1, end_of_day,
        params.liquidity, params.min_average_volume, params.spread, params.max_spread,
        params.earnings, params.blackout_days, params.missing_data == "refuse",
    )  # fmt: skip


def average_volume(state: State, bars: BarFrame, i: int) -> float:
    """What the liquidity filter compares for row `i`, the last of its symbol; NaN where it has nothing."""
    if bars.average_volume.size:
        return float(bars.average_volume[i])
    row = state.rows[bars.slot[i]]
    own = bars.scale[i] if bars.scale.size else 1.0
    return float(row.average * own) if row.sessions >= FEWEST else np.nan


@kernel
def advance(
    bounds: Bounds, rows: Table, at: Ints, slot: Ints, to_close: Ints, phase: Codes, session: Ints, marks: Codes,
    volume: Floats, scale: Floats, average_volume: Floats, bid: Floats, ask: Floats, earnings_days: Ints,
    reason: Codes,
) -> None:  # fmt: skip
    """The loop over rows; each adds to its session's volume, only candidates are judged."""
    given = Given(at, slot, to_close, phase, session, marks, volume, scale, average_volume, bid, ask, earnings_days)
    for i in range(reason.size):
        sift(bounds, rows[slot[i]], given, i, at[i], reason)


@kernel
def sift(bounds: Bounds, row: Row, given: Given, i: int, k: int, reason: Codes) -> None:
    """Count the volume of row `i`, which is of slice `k`, and judge it if it is a candidate."""
    if bounds.liquidity and given.average_volume.size == 0:
        scaled = given.scale.size > 0
        add(row, given.session[k], given.volume[i] / given.scale[i] if scaled else given.volume[i])
    if reason[i] == Reason.NONE:
        reason[i] = objection(bounds, row, given, i, k)


@kernel
def add(row: Row, session: int, volume: float) -> None:
    """Add a bar's volume; the first bar of a session completes the one before."""
    if session != row.session:
        if session - row.session > MOST_APART:
            row.sessions = 0
        else:
            row.sessions += 1
            put(row.volumes, row.sessions, row.today)
            row.average = mean(row.volumes, row.sessions, min(row.sessions, SESSIONS))
        row.session, row.today = session, 0.0
    row.today += volume


@kernel
def objection(bounds: Bounds, row: Row, given: Given, i: int, k: int) -> Reason:
    """The first filter that fails, or NONE."""
    if given.to_close[k] < bounds.earliest:
        return Reason.OUTSIDE_MARKET_HOURS
    if bounds.end_of_day and given.phase[k] == Phase.EVE:
        return Reason.NO_TIME_TO_EXIT  # it would be filled in the last bar and held overnight
    if given.marks.size > 0 and given.marks[i] & JUMPED:
        return Reason.JUMP
    if bounds.liquidity and is_thin(bounds, row, given, i):
        return Reason.LOW_LIQUIDITY
    if bounds.spread and is_wide(bounds, given, i):
        return Reason.WIDE_SPREAD
    if bounds.earnings and is_near_report(bounds, given, i):
        return Reason.EARNINGS_BLACKOUT
    return Reason.NONE


@kernel
def is_thin(bounds: Bounds, row: Row, given: Given, i: int) -> bool:
    """Too little volume a day: of the reference, else of the sessions so far, at least FEWEST."""
    if given.average_volume.size > 0:
        return not bool(given.average_volume[i] >= bounds.volume)
    if row.sessions < FEWEST:
        return bounds.refuses
    own = given.scale[i] if given.scale.size > 0 else 1.0
    return bool(row.average * own < bounds.volume)


@kernel
def is_wide(bounds: Bounds, given: Given, i: int) -> bool:
    """Too wide a quote, or none that is fresh and sane."""
    if given.bid.size == 0:
        return bounds.refuses
    bid, ask = given.bid[i], given.ask[i]
    return not bool(0.0 < bid <= ask and (ask - bid) / ((bid + ask) / 2.0) <= bounds.width)


@kernel
def is_near_report(bounds: Bounds, given: Given, i: int) -> bool:
    """Too near a report of earnings, or nobody knows."""
    if given.earnings_days.size == 0:
        return bounds.refuses
    return bool(given.earnings_days[i] <= bounds.days)  # what is not known is below 0
