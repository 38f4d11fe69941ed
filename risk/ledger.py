"""What the account answers: tables of events, one row each, written by compiled code."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from schemas.frames import (
    NO_BOOLS,
    NO_CODES,
    NO_COUNTS,
    NO_FLOATS,
    NO_INTS,
    NO_LONGS,
    NO_NAMES,
    NO_OUTCOMES,
    Alarm,
    Bools,
    Codes,
    Floats,
    Ints,
    Longs,
    Names,
    Outcomes,
    Refused,
    Slices,
    Table,
)


class EquityRow(Protocol):
    """The account at the end of a slice, after its fills; money in ticks."""

    ts: int
    equity: int
    cash: int
    exposure: int  # of all lots, short ones as if they were long
    drawdown: float


class VerdictRow(Protocol):
    """What the rules said of one candidate."""

    ts: int
    symbol: int
    direction: int
    approved: bool
    reason: int
    measured: float
    limit: float
    confidence: float
    cvar_95: float  # of the symbol, a fraction of its price
    risk_score: float  # 0..1
    max_loss: int  # ticks: what the order loses at the forecast's low quantile, or at its stop without one


class OrderRow(Protocol):
    """An order as it was sent. `entry_ts` is the slice of its lot's entry: with leg 0 the parent's id."""

    ts: int
    symbol: int
    side: int
    qty: int
    kind: int
    leg: int
    entry_ts: int
    reason: int  # of an exit
    price: int  # limit or stop in ticks; of a market order, the price it was decided on


class UpdateRow(Protocol):
    """A change of an order's state; the order is named by symbol, the slice it was sent in, and leg."""

    ts: int
    symbol: int
    order_ts: int
    leg: int
    status: int
    qty: int
    reason: int


class FillRow(Protocol):
    """Shares that changed hands; price and commission in ticks."""

    ts: int
    symbol: int
    side: int
    qty: int
    price: int
    fee: int
    order_ts: int
    leg: int
    reason: int
    expected: int  # the price before slippage and spread


class TradeRow(Protocol):
    """A round trip, written when its lot closes; money in ticks."""

    symbol: int
    order_ts: int  # slice in which the entry was sent
    entry_ts: int
    exit_ts: int
    side: int  # of the entry
    qty: int  # as it was entered, before any split since
    cost: int  # what the entry bought, or sold short, for
    proceeds: int  # what the exits sold, or bought back, for
    fees: int
    pnl: int  # side * (proceeds - cost) - fees
    reason: int
    mae: float  # worst price against the entry, a fraction, <= 0 but for the cost of the fill
    mfe: float


class FundsRow(Protocol):
    """The account's totals, in ticks; what the summary reconciles."""

    cash: int
    cost: int  # of the lots still held, short ones negative
    value: int  # of the lots still held, at their marks, short ones negative
    realised: int  # before fees
    fees: int
    dividends: int  # received less those paid on short lots
    positions: int
    pending: int
    drawdown_latches: int
    latch_releases: int
    killed: bool


@dataclass(frozen=True, eq=False, slots=True)
class SignalColumns:
    """Published signals in order of `(ts, symbol name)`."""

    ts: Longs
    symbol: Ints
    direction: Codes
    confidence: Floats
    score: Floats
    regime: Codes
    views: Ints
    reason: Codes
    # of the forecast at the decision horizon, empty where no model is configured; NaN and -1 where there is none
    q10: Floats = field(default_factory=lambda: NO_FLOATS)  # log returns
    q50: Floats = field(default_factory=lambda: NO_FLOATS)
    q90: Floats = field(default_factory=lambda: NO_FLOATS)
    probability: Floats = field(default_factory=lambda: NO_FLOATS)
    age: Ints = field(default_factory=lambda: NO_INTS)  # bars
    model: Codes = field(default_factory=lambda: NO_CODES)  # number; 0: none
    is_calibrated: Bools = field(default_factory=lambda: NO_BOOLS)
    # what the account saw of their bars and models; empty but where it reads its log, for only its events tell them
    price: Floats = field(default_factory=lambda: NO_FLOATS)  # USD, the close
    volatility: Floats = field(default_factory=lambda: NO_FLOATS)  # NaN: of no candidate
    version: Names = field(default_factory=lambda: NO_NAMES)  # id of the forecast's model; empty: none, or not known


@dataclass(frozen=True, eq=False, slots=True)
class LedgerFrame:
    """Everything that happened in a range of slices, each table in order of `(ts, symbol name)`."""

    slices: Slices
    names: Names
    rows: int  # bars that reached the account
    stopped: Longs  # of these, by Reason: where each row's signal ended
    refused: Refused
    signals: SignalColumns
    equity: Table
    verdicts: Table
    orders: Table
    updates: Table
    fills: Table
    trades: Table
    funds: Table  # one row: the totals after the last slice
    quality: Longs = field(default_factory=lambda: NO_COUNTS)  # by symbol: bars missing, gaps, stale, jumps
    absent: Longs = field(default_factory=lambda: NO_LONGS)  # rows by Absence of a forecast
    made: int = 0  # forecasts
    alarms: tuple[Alarm, ...] = ()  # of models that were stopped
    outcomes: Outcomes = NO_OUTCOMES  # of forecasts
    report: int = -1  # number of the broker's report that brought all this about
    # by symbol: slice in which the entry of the lot that is still held was sent, UTC ns, or 0; empty but where the
    # account reads its log, for only its events tell it
    entered: Longs = field(default_factory=lambda: NO_LONGS)


def uncalibrated(frame: LedgerFrame) -> Bools:
    """Of each verdict: is there no calibrated probability behind it? Told, and no reason to refuse anything.

    So it is where no model is configured, where none has a forecast, and where its calibrator was not kept.
    """
    verdicts, signals = frame.verdicts, frame.signals
    answer: Bools = np.ones(verdicts.size, np.bool_)
    if verdicts.size and signals.is_calibrated.size:  # each verdict's signal was published
        slices = frame.slices.ts
        of_signals = np.searchsorted(slices, signals.ts) * frame.names.size + signals.symbol
        of_verdicts = np.searchsorted(slices, verdicts["ts"]) * frame.names.size + verdicts["symbol"]
        order = np.argsort(of_signals, kind="stable")
        row = order[np.minimum(np.searchsorted(of_signals, of_verdicts, sorter=order), order.size - 1)]
        answer[:] = ~(signals.is_calibrated[row] & (of_signals[row] == of_verdicts))
    return answer
