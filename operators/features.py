"""Features: one row of numbers per bar, causal, NaN before warm.

The features stand in groups, each with a state row of its own, so that a run computes only the
groups it needs: the set `risk` is what the rules read, `all` is every one of them. Formulas: section 4
of the contracts (streaming forms); EMA, Wilder's means and MACD are seeded as in LEAN.

Groups read prices and volumes without the steps of splits, and answer in the bar's own dollars and shares.
"""

import hashlib
import math
from enum import IntEnum
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np

from operators.indicators import (
    NOTHING,
    ago,
    change,
    deviation,
    deviation_about,
    ema,
    gather,
    highest,
    lowest,
    mean,
    mean_of,
    put,
    ratio,
    rises_and_falls,
    smooth,
    strength_index,
    true_range,
    wilder,
)
from operators.kernel import grown, kernel, table
from schemas.frames import BarFrame, FeatureFrame, Floats, Ints, Longs, Table

RISK = ("returns_1", "volatility_5")
MARKET = ("market_return_1", "market_volatility_5")  # of SPY, else QQQ; NaN where it has no bar
IN_DOLLARS = ("sma_5", "sma_20", "sma_50", "bb_upper", "bb_middle", "bb_lower", "ema_5", "ema_12", "ema_20", "ema_26",
              "ema_50", "ema_200", "macd", "macd_signal", "macd_hist", "atr_14")  # fmt: skip


class At(IntEnum):
    """The place of each feature among all; the 15 baseline inputs in model order first."""

    PRICE = 0
    VOLUME = 1
    RETURNS_1 = 2
    RETURNS_5 = 3
    RETURNS_15 = 4
    VOLATILITY_5 = 5
    VOLATILITY_15 = 6
    SMA_5 = 7
    SMA_20 = 8
    EMA_5 = 9
    EMA_20 = 10
    RSI_14 = 11
    VOLUME_ZSCORE = 12
    MINUTE_OF_DAY = 13
    DAY_OF_WEEK = 14
    MACD = 15
    MACD_SIGNAL = 16
    MACD_HIST = 17
    BB_UPPER = 18
    BB_MIDDLE = 19
    BB_LOWER = 20
    BB_PCT = 21
    RETURNS_60 = 22
    RSI_28 = 23
    RSI_14_WILDER = 24
    EMA_12 = 25
    EMA_26 = 26
    EMA_50 = 27
    EMA_200 = 28
    SMA_50 = 29
    ATR_14 = 30
    ADX_14 = 31
    STOCH_K = 32
    STOCH_D = 33
    VOLUME_RATIO = 34
    VWAP_DEV = 35
    HOUR_OF_DAY = 36
    IS_WEEKEND = 37
    DAY_OF_MONTH = 38
    WEEK_OF_YEAR = 39
    MONTH_OF_YEAR = 40
    IS_MONTH_END = 41
    MARKET_RETURN_1 = 42
    MARKET_VOLATILITY_5 = 43


ORDER = tuple(one.name.lower() for one in At)
SETS = {"risk": RISK, "all": ORDER}


class RiskRow(Protocol):
    """The last one-bar returns."""

    seen: int
    close: float
    returns: Annotated[Floats, 8]


class PriceRow(Protocol):
    """The last closes and one-bar returns."""

    seen: int
    closes: Annotated[Floats, 64]
    returns: Annotated[Floats, 16]


class AverageRow(Protocol):
    """Exponential means, and Wilder's means of gains and losses."""

    seen: int
    close: float
    ema_5: float
    ema_12: float
    ema_20: float
    ema_26: float
    ema_50: float
    ema_200: float
    signal: float
    gain: float
    loss: float


class RangeRow(Protocol):
    """Highs, lows and their Wilder means."""

    seen: int
    high: float
    low: float
    close: float
    atr: float
    up: float
    down: float
    reach: float  # Wilder mean of the true range, from the second bar on, for ADX
    adx: float
    highs: Annotated[Floats, 16]
    lows: Annotated[Floats, 16]
    fast: Annotated[Floats, 4]
    slow: Annotated[Floats, 4]


class VolumeRow(Protocol):
    """The last volumes, and typical price × volume."""

    seen: int
    volumes: Annotated[Floats, 64]
    traded: Annotated[Floats, 64]


class MarketRow(Protocol):
    """The market symbol's last close, and its last one-bar log returns."""

    seen: int
    close: float
    returns: Annotated[Floats, 8]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which features are computed."""

    set: Literal["risk", "all"] = "risk"


class State(NamedTuple):
    """Rows per group and slot; a group that is not computed has none."""

    version: int
    risk: Table
    prices: Table
    averages: Table
    ranges: Table
    volumes: Table
    market: Table  # one row


def start() -> State:
    """Nothing seen yet."""
    risk, prices, averages, ranges, volumes = (
        table(row, 0) for row in (RiskRow, PriceRow, AverageRow, RangeRow, VolumeRow)
    )
    return State(2, risk, prices, averages, ranges, volumes, table(MarketRow, 1))


def set_hash(params: Params) -> str:
    """Names the columns and their order; a model is served only under the hash it was trained with."""
    return hashlib.sha256(",".join(SETS[params.set]).encode()).hexdigest()[:16]


def step(params: Params, state: State, frame: BarFrame) -> tuple[State, FeatureFrame]:
    """One row of features per bar. The longest warm-up of the set `all` is 200 bars (ema_200)."""
    size, slots = frame.at.size, frame.slots
    if params.set == "risk":
        values = np.empty((size, len(RISK)))
        if not size:
            return state, FeatureFrame(frame, RISK, values)
        rows = grown(state.risk, slots)
        advance_risk(rows, frame.slot, frame.steady, values)
        return state._replace(risk=rows), FeatureFrame(frame, RISK, values)
    values = np.empty((size, len(ORDER)))
    risk, prices, averages, ranges, volumes = (grown(rows, slots) for rows in state[1:-1])
    market = grown(state.market, 1)
    by_slice = _market(market, frame)
    after = State(state.version, risk, prices, averages, ranges, volumes, market)
    if not size:
        return after, FeatureFrame(frame, ORDER, values)
    known = calendar(frame)
    advance_all(risk, prices, averages, ranges, volumes, frame.slot, frame.at, *_steady(frame),
                np.stack([*known.values(), *by_slice.T], axis=1), _places((*known, *MARKET)), values)  # fmt: skip
    if frame.scale.size:
        for name in IN_DOLLARS:
            values[:, ORDER.index(name)] /= frame.scale
        values[:, At.PRICE], values[:, At.VOLUME] = frame.close, frame.volume
    return after, FeatureFrame(frame, ORDER, values)


@cache
def _places(names: tuple[str, ...]) -> Longs:
    """Where these columns stand among all."""
    return np.array([ORDER.index(name) for name in names], np.int64)


def _market(rows: Table, frame: BarFrame) -> Floats:
    """The market's features by slice; moves its state on."""
    by_slice = np.full((frame.slices.size, len(MARKET)), np.nan)
    if frame.market.size:
        advance_market(rows, frame.market, by_slice)
    return by_slice


def _steady(frame: BarFrame) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Open, high, low, close and volume without steps at splits."""
    scale = frame.scale
    if not scale.size:
        return frame.open, frame.high, frame.low, frame.close, frame.volume
    return frame.open * scale, frame.high * scale, frame.low * scale, frame.steady, frame.volume / scale


def calendar(frame: BarFrame) -> dict[str, Floats]:
    """Calendar features of each slice, in the exchange's time."""
    slices = frame.slices
    day = slices.session.astype("datetime64[D]")
    month, year = day.astype("datetime64[M]"), day.astype("datetime64[Y]")
    weekday = (slices.session + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    thursday = day + (3 - weekday)  # the ISO week belongs to the year of its Thursday
    week = (thursday - thursday.astype("datetime64[Y]").astype("datetime64[D]")).astype(int) // 7 + 1
    until_end = ((month + 1).astype("datetime64[D]") - day).astype(int)
    by_slice: dict[str, Any] = {
        "minute_of_day": slices.minute,
        "hour_of_day": slices.minute // 60,
        "day_of_week": weekday,
        "is_weekend": weekday >= 5,
        "day_of_month": (day - month.astype("datetime64[D]")).astype(int) + 1,
        "week_of_year": week,
        "month_of_year": (month - year.astype("datetime64[M]")).astype(int) + 1,
        "is_month_end": until_end <= 3,
    }
    return {name: np.asarray(values, np.float64) for name, values in by_slice.items()}


@kernel
def advance_risk(rows: Table, slot: Ints, close: Floats, out: Floats) -> None:
    """returns_1 and volatility_5."""
    for i in range(close.size):
        out[i, 0] = follow_risk(rows[slot[i]], close[i])
        out[i, 1] = volatility(rows[slot[i]])


@kernel
def follow_risk(row: RiskRow, close: float) -> float:
    """The return of one bar; keeps the last ones."""
    step_return = np.nan
    row.seen += 1
    if row.seen > 1:
        step_return = change(close, row.close)
        put(row.returns, row.seen - 1, step_return)
    row.close = close
    return step_return


@kernel
def volatility(row: RiskRow) -> float:
    """The deviation of the last five returns."""
    return deviation(row.returns, row.seen - 1, 5, 1) if row.seen > 5 else np.nan


@kernel
def advance_all(
    risk: Table, prices: Table, averages: Table, ranges: Table, volumes: Table, slot: Ints, at: Ints,
    open: Floats, high: Floats, low: Floats, close: Floats, volume: Floats,  # noqa: A002
    by_slice: Floats, columns: Longs, values: Floats,
) -> None:  # fmt: skip
    """Every feature, row by row; what is known by slice goes to its `columns`."""
    for i in range(close.size):
        s, out = slot[i], values[i]
        for k in range(out.size):
            out[k] = np.nan
        out[At.PRICE], out[At.VOLUME] = close[i], volume[i]
        out[At.RETURNS_1] = follow_risk(risk[s], close[i])
        out[At.VOLATILITY_5] = volatility(risk[s])
        follow_prices(prices[s], close[i], out)
        follow_averages(averages[s], close[i], out)
        follow_ranges(ranges[s], high[i], low[i], close[i], out)
        traded = (open[i] + high[i] + low[i] + close[i]) / 4.0 * volume[i]
        follow_volumes(volumes[s], traded, close[i], volume[i], out)
        for k in range(columns.size):
            out[columns[k]] = by_slice[at[i], k]


@kernel
def follow_prices(row: PriceRow, price: float, out: Floats) -> None:
    """Returns, simple means, bands and the simple RSI, from windows of closes."""
    row.seen += 1
    seen, closes = row.seen, row.closes
    put(closes, seen, price)
    if seen > 1:
        put(row.returns, seen - 1, change(price, ago(closes, seen, 1)))
    if seen > 5:
        out[At.RETURNS_5] = change(price, ago(closes, seen, 5))
    if seen > 15:
        out[At.RETURNS_15] = change(price, ago(closes, seen, 15))
        out[At.VOLATILITY_15] = deviation(row.returns, seen - 1, 15, 1)
    if seen > 60:
        out[At.RETURNS_60] = change(price, ago(closes, seen, 60))
    if seen >= 5:
        sums = gather(closes, seen, 5, 0, NOTHING)
        out[At.SMA_5] = mean_of(closes, seen, 5, sums)
        if seen >= 20:
            sums = gather(closes, seen, 20, 4, sums)
            bands(closes, seen, price, mean_of(closes, seen, 20, sums), out)
        if seen >= 50:
            out[At.SMA_50] = mean_of(closes, seen, 50, gather(closes, seen, 50, 20, sums))
    if seen > 14:
        gain, loss = rises_and_falls(closes, seen, 14, 0, 0.0, 0.0)
        out[At.RSI_14] = strength_index(gain / 14, loss / 14)
        if seen > 28:
            gain, loss = rises_and_falls(closes, seen, 28, 14, gain, loss)
            out[At.RSI_28] = strength_index(gain / 28, loss / 28)


@kernel
def bands(closes: Floats, seen: int, price: float, middle: float, out: Floats) -> None:
    """sma_20 and Bollinger's bands: 20 closes, two population deviations."""
    width = 2.0 * deviation_about(closes, seen, 20, 0, middle)
    out[At.SMA_20] = out[At.BB_MIDDLE] = middle
    out[At.BB_UPPER], out[At.BB_LOWER] = middle + width, middle - width
    out[At.BB_PCT] = ratio(price - (middle - width), 2.0 * width)


@kernel
def follow_averages(row: AverageRow, price: float, out: Floats) -> None:
    """Exponential means, MACD and Wilder's RSI."""
    row.seen += 1
    seen = row.seen
    if seen > 200:
        row.ema_5, row.ema_12 = smooth(row.ema_5, price, 5), smooth(row.ema_12, price, 12)
        row.ema_20, row.ema_26 = smooth(row.ema_20, price, 20), smooth(row.ema_26, price, 26)
        row.ema_50, row.ema_200 = smooth(row.ema_50, price, 50), smooth(row.ema_200, price, 200)
    else:
        row.ema_5, row.ema_12 = ema(row.ema_5, price, 5, seen), ema(row.ema_12, price, 12, seen)
        row.ema_20, row.ema_26 = ema(row.ema_20, price, 20, seen), ema(row.ema_26, price, 26, seen)
        row.ema_50, row.ema_200 = ema(row.ema_50, price, 50, seen), ema(row.ema_200, price, 200, seen)
    if seen >= 5:
        out[At.EMA_5] = row.ema_5
    if seen >= 12:
        out[At.EMA_12] = row.ema_12
    if seen >= 20:
        out[At.EMA_20] = row.ema_20
    if seen >= 26:
        out[At.EMA_26] = row.ema_26
        macd = row.ema_12 - row.ema_26
        out[At.MACD] = macd
        row.signal = ema(row.signal, macd, 9, seen - 25)
        if seen >= 34:
            out[At.MACD_SIGNAL], out[At.MACD_HIST] = row.signal, macd - row.signal
    if seen >= 50:
        out[At.EMA_50] = row.ema_50
    if seen >= 200:
        out[At.EMA_200] = row.ema_200
    if seen > 1:
        row.gain = wilder(row.gain, max(price - row.close, 0.0), 14, seen - 1)
        row.loss = wilder(row.loss, max(row.close - price, 0.0), 14, seen - 1)
    if seen > 14:
        out[At.RSI_14_WILDER] = strength_index(row.gain, row.loss)
    row.close = price


@kernel
def follow_ranges(row: RangeRow, high: float, low: float, close: float, out: Floats) -> None:
    """ATR, ADX and the stochastic (14 bars, both lines smoothed by 3)."""
    row.seen += 1
    seen = row.seen
    spread = high - low
    if seen > 1:
        spread = true_range(high, low, row.close)
        directional(row, high, low, spread, out)
    row.atr = wilder(row.atr, spread, 14, seen)
    if seen >= 14:
        out[At.ATR_14] = row.atr
    put(row.highs, seen, high)
    put(row.lows, seen, low)
    if seen >= 14:
        stochastic(row, close, out)
    row.high, row.low, row.close = high, low, close


@kernel
def directional(row: RangeRow, high: float, low: float, spread: float, out: Floats) -> None:
    """Wilder's directional movement, from the second bar on; ADX after 28 bars."""
    up, down = high - row.high, row.low - low
    moves = row.seen - 1
    row.up = wilder(row.up, up if up > down and up > 0.0 else 0.0, 14, moves)
    row.down = wilder(row.down, down if down > up and down > 0.0 else 0.0, 14, moves)
    row.reach = wilder(row.reach, spread, 14, moves)
    if moves < 14:
        return
    both = row.up + row.down
    strength = 100.0 * abs(row.up - row.down) / both if both > 0.0 else 0.0
    row.adx = wilder(row.adx, strength, 14, moves - 13)
    if moves >= 27:
        out[At.ADX_14] = row.adx


@kernel
def stochastic(row: RangeRow, close: float, out: Floats) -> None:
    """The close's place between the lowest low and the highest high of 14 bars, in percent."""
    top, bottom = highest(row.highs, row.seen, 14), lowest(row.lows, row.seen, 14)
    ready = row.seen - 13
    put(row.fast, ready, 100.0 * (close - bottom) / (top - bottom) if top > bottom else 50.0)
    if ready >= 3:
        slow = mean(row.fast, ready, 3)
        put(row.slow, ready - 2, slow)
        out[At.STOCH_K] = slow
    if ready >= 5:
        out[At.STOCH_D] = mean(row.slow, ready - 2, 3)


@kernel
def follow_volumes(row: VolumeRow, traded: float, close: float, volume: float, out: Floats) -> None:
    """Volume against its last 20 bars; the close against the volume-weighted price of 50 bars."""
    row.seen += 1
    seen = row.seen
    put(row.volumes, seen, volume)
    put(row.traded, seen, traded)
    if seen >= 20:
        sums = gather(row.volumes, seen, 20, 0, NOTHING)
        centre = mean_of(row.volumes, seen, 20, sums)
        width = deviation_about(row.volumes, seen, 20, 1, centre)
        out[At.VOLUME_ZSCORE] = (volume - centre) / width if width > 0.0 else 0.0
        out[At.VOLUME_RATIO] = ratio(volume, centre)
        if seen >= 50:
            average = mean_of(row.volumes, seen, 50, gather(row.volumes, seen, 50, 20, sums))
            weighted = ratio(mean(row.traded, seen, 50), average)
            out[At.VWAP_DEV] = ratio(close, weighted) - 1.0


@kernel
def advance_market(rows: Table, close: Floats, out: Floats) -> None:
    """The loop over slices: log return since the market's last bar, and the deviation of the last 5."""
    row = rows[0]
    for k in range(close.size):
        if not close[k] > 0.0:
            continue
        row.seen += 1
        if row.seen > 1:
            step_return = math.log(close[k] / row.close)
            put(row.returns, row.seen - 1, step_return)
            out[k, 0] = step_return
        if row.seen > 5:
            out[k, 1] = deviation(row.returns, row.seen - 1, 5, 1)
        row.close = close[k]
