"""Features: one row of numbers per bar, causal, NaN before warm.

The features stand in groups, each with a state row of its own, so that a run computes only the
groups it needs: the set `risk` is what the rules read, `all` is every one of them. Formulas: section 4
of the contracts (streaming forms); EMA, Wilder's means and MACD are seeded as in LEAN.

Groups read prices and volumes without the steps of splits, and answer in the bar's own dollars and shares.
"""

import hashlib
import math
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np

from operators.indicators import (
    ago,
    change,
    deviation,
    deviation_about,
    ema,
    highest,
    lowest,
    mean,
    put,
    ratio,
    simple_strength,
    strength_index,
    true_range,
    wilder,
)
from operators.kernel import grown, kernel, table
from schemas.frames import BarFrame, FeatureFrame, Floats, Ints, Longs, Table

RISK = ("returns_1", "volatility_5")
PRICES = ("price", "volume", "returns_5", "returns_15", "returns_60", "volatility_15", "sma_5", "sma_20",
          "sma_50", "bb_upper", "bb_middle", "bb_lower", "bb_pct", "rsi_14", "rsi_28")  # fmt: skip
AVERAGES = ("ema_5", "ema_12", "ema_20", "ema_26", "ema_50", "ema_200", "macd", "macd_signal", "macd_hist",
            "rsi_14_wilder")  # fmt: skip
RANGES = ("atr_14", "adx_14", "stoch_k", "stoch_d")
VOLUMES = ("volume_zscore", "volume_ratio", "vwap_dev")
MARKET = ("market_return_1", "market_volatility_5")  # of SPY, else QQQ; NaN where it has no bar
IN_DOLLARS = ("sma_5", "sma_20", "sma_50", "bb_upper", "bb_middle", "bb_lower", "ema_5", "ema_12", "ema_20", "ema_26",
              "ema_50", "ema_200", "macd", "macd_signal", "macd_hist", "atr_14")  # fmt: skip

# the 15 baseline inputs in model order first
ORDER = ("price", "volume", "returns_1", "returns_5", "returns_15", "volatility_5", "volatility_15",
         "sma_5", "sma_20", "ema_5", "ema_20", "rsi_14", "volume_zscore", "minute_of_day", "day_of_week",
         "macd", "macd_signal", "macd_hist", "bb_upper", "bb_middle", "bb_lower", "bb_pct", "returns_60",
         "rsi_28", "rsi_14_wilder", "ema_12", "ema_26", "ema_50", "ema_200", "sma_50", "atr_14", "adx_14",
         "stoch_k", "stoch_d", "volume_ratio", "vwap_dev", "hour_of_day", "is_weekend", "day_of_month",
         "week_of_year", "month_of_year", "is_month_end", *MARKET)  # fmt: skip
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
        values = np.full((size, len(RISK)), np.nan)
        if not size:
            return state, FeatureFrame(frame, RISK, values)
        rows = grown(state.risk, slots)
        advance_risk(rows, frame.slot, frame.steady, values)
        return state._replace(risk=rows), FeatureFrame(frame, RISK, values)
    values = np.empty((size, len(ORDER)))
    rows_by_group: list[Table] = []
    for names, rows, advance, inputs in _groups(state, frame):
        block = np.full((size, len(names)), np.nan)
        fresh = grown(rows, slots)
        if size:
            advance(fresh, frame.slot, *inputs, block)
            place(block, _places(names), values)
        rows_by_group.append(fresh)
    market = grown(state.market, 1)
    by_slice = _market(market, frame)
    if not size:
        return State._make([state.version, *rows_by_group, market]), FeatureFrame(frame, ORDER, values)
    if frame.scale.size:
        for name in IN_DOLLARS:
            values[:, ORDER.index(name)] /= frame.scale
        values[:, ORDER.index("price")], values[:, ORDER.index("volume")] = frame.close, frame.volume
    known = calendar(frame)
    spread(np.stack([*known.values(), *by_slice.T], axis=1), frame.at, _places((*known, *MARKET)), values)
    return State._make([state.version, *rows_by_group, market]), FeatureFrame(frame, ORDER, values)


@cache
def _places(names: tuple[str, ...]) -> Longs:
    """Where these columns stand among all."""
    return np.array([ORDER.index(name) for name in names], np.int64)


@kernel
def place(block: Floats, to: Longs, values: Floats) -> None:
    """Copy a group's columns to their places."""
    for i in range(block.shape[0]):
        for k in range(block.shape[1]):
            values[i, to[k]] = block[i, k]


@kernel
def spread(by_slice: Floats, at: Ints, to: Longs, values: Floats) -> None:
    """Copy columns of slices to the rows of these slices."""
    for i in range(at.size):
        for k in range(by_slice.shape[1]):
            values[i, to[k]] = by_slice[at[i], k]


def _market(rows: Table, frame: BarFrame) -> Floats:
    """The market's features by slice; moves its state on."""
    by_slice = np.full((frame.slices.size, len(MARKET)), np.nan)
    if frame.market.size:
        advance_market(rows, frame.market, by_slice)
    return by_slice


def _groups(
    state: State, frame: BarFrame
) -> list[tuple[tuple[str, ...], Table, Callable[..., None], tuple[Floats, ...]]]:
    close, scale = frame.steady, frame.scale
    opened, high, low, volume = frame.open, frame.high, frame.low, frame.volume
    if scale.size:
        opened, high, low, volume = opened * scale, high * scale, low * scale, volume / scale
    return [
        (RISK, state.risk, advance_risk, (close,)),
        (PRICES, state.prices, advance_prices, (close, volume)),
        (AVERAGES, state.averages, advance_averages, (close,)),
        (RANGES, state.ranges, advance_ranges, (high, low, close)),
        (VOLUMES, state.volumes, advance_volumes, (opened, high, low, close, volume)),
    ]


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
        out[i, 0], out[i, 1] = follow_risk(rows[slot[i]], close[i])


@kernel
def follow_risk(row: RiskRow, close: float) -> tuple[float, float]:
    """The return of one bar, and the deviation of the last five."""
    step_return, volatility = np.nan, np.nan
    row.seen += 1
    if row.seen > 1:
        step_return = change(close, row.close)
        put(row.returns, row.seen - 1, step_return)
    if row.seen > 5:
        volatility = deviation(row.returns, row.seen - 1, 5, 1)
    row.close = close
    return step_return, volatility


@kernel
def advance_prices(rows: Table, slot: Ints, close: Floats, volume: Floats, out: Floats) -> None:
    """Returns, simple means, bands and the simple RSI, from windows of closes."""
    for i in range(close.size):
        row = rows[slot[i]]
        row.seen += 1
        seen, closes, price = row.seen, row.closes, close[i]
        put(closes, seen, price)
        if seen > 1:
            put(row.returns, seen - 1, change(price, ago(closes, seen, 1)))
        out[i, 0], out[i, 1] = price, volume[i]
        if seen > 5:
            out[i, 2] = change(price, ago(closes, seen, 5))
        if seen > 15:
            out[i, 3] = change(price, ago(closes, seen, 15))
            out[i, 5] = deviation(row.returns, seen - 1, 15, 1)
        if seen > 60:
            out[i, 4] = change(price, ago(closes, seen, 60))
        if seen >= 5:
            out[i, 6] = mean(closes, seen, 5)
        if seen >= 20:
            bands(closes, seen, price, out[i])
        if seen >= 50:
            out[i, 8] = mean(closes, seen, 50)
        if seen > 14:
            out[i, 13] = simple_strength(closes, seen, 14)
        if seen > 28:
            out[i, 14] = simple_strength(closes, seen, 28)


@kernel
def bands(closes: Floats, seen: int, price: float, out: Floats) -> None:
    """sma_20 and Bollinger's bands: 20 closes, two population deviations."""
    middle = mean(closes, seen, 20)
    width = 2.0 * deviation_about(closes, seen, 20, 0, middle)
    out[7], out[9], out[10], out[11] = middle, middle + width, middle, middle - width
    out[12] = ratio(price - (middle - width), 2.0 * width)


@kernel
def advance_averages(rows: Table, slot: Ints, close: Floats, out: Floats) -> None:
    """Exponential means, MACD and Wilder's RSI."""
    for i in range(close.size):
        row = rows[slot[i]]
        row.seen += 1
        seen, price = row.seen, close[i]
        row.ema_5, row.ema_12 = ema(row.ema_5, price, 5, seen), ema(row.ema_12, price, 12, seen)
        row.ema_20, row.ema_26 = ema(row.ema_20, price, 20, seen), ema(row.ema_26, price, 26, seen)
        row.ema_50, row.ema_200 = ema(row.ema_50, price, 50, seen), ema(row.ema_200, price, 200, seen)
        if seen >= 5:
            out[i, 0] = row.ema_5
        if seen >= 12:
            out[i, 1] = row.ema_12
        if seen >= 20:
            out[i, 2] = row.ema_20
        if seen >= 26:
            out[i, 3] = row.ema_26
            macd = row.ema_12 - row.ema_26
            out[i, 6] = macd
            row.signal = ema(row.signal, macd, 9, seen - 25)
            if seen >= 34:
                out[i, 7], out[i, 8] = row.signal, macd - row.signal
        if seen >= 50:
            out[i, 4] = row.ema_50
        if seen >= 200:
            out[i, 5] = row.ema_200
        if seen > 1:
            row.gain = wilder(row.gain, max(price - row.close, 0.0), 14, seen - 1)
            row.loss = wilder(row.loss, max(row.close - price, 0.0), 14, seen - 1)
        if seen > 14:
            out[i, 9] = strength_index(row.gain, row.loss)
        row.close = price


@kernel
def advance_ranges(rows: Table, slot: Ints, high: Floats, low: Floats, close: Floats, out: Floats) -> None:
    """ATR, ADX and the stochastic (14 bars, both lines smoothed by 3)."""
    for i in range(close.size):
        row = rows[slot[i]]
        row.seen += 1
        seen = row.seen
        spread = high[i] - low[i]
        if seen > 1:
            spread = true_range(high[i], low[i], row.close)
            directional(row, high[i], low[i], spread, out[i])
        row.atr = wilder(row.atr, spread, 14, seen)
        if seen >= 14:
            out[i, 0] = row.atr
        put(row.highs, seen, high[i])
        put(row.lows, seen, low[i])
        if seen >= 14:
            stochastic(row, close[i], out[i])
        row.high, row.low, row.close = high[i], low[i], close[i]


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
        out[1] = row.adx


@kernel
def stochastic(row: RangeRow, close: float, out: Floats) -> None:
    """The close's place between the lowest low and the highest high of 14 bars, in percent."""
    top, bottom = highest(row.highs, row.seen, 14), lowest(row.lows, row.seen, 14)
    ready = row.seen - 13
    put(row.fast, ready, 100.0 * (close - bottom) / (top - bottom) if top > bottom else 50.0)
    if ready >= 3:
        slow = mean(row.fast, ready, 3)
        put(row.slow, ready - 2, slow)
        out[2] = slow
    if ready >= 5:
        out[3] = mean(row.slow, ready - 2, 3)


@kernel
def advance_volumes(
    rows: Table, slot: Ints, open: Floats, high: Floats, low: Floats, close: Floats,  # noqa: A002
    volume: Floats, out: Floats,
) -> None:  # fmt: skip
    """Volume against its last 20 bars; the close against the volume-weighted price of 50 bars."""
    for i in range(close.size):
        row = rows[slot[i]]
        row.seen += 1
        seen = row.seen
        put(row.volumes, seen, volume[i])
        put(row.traded, seen, (open[i] + high[i] + low[i] + close[i]) / 4.0 * volume[i])
        if seen >= 20:
            centre = mean(row.volumes, seen, 20)
            width = deviation_about(row.volumes, seen, 20, 1, centre)
            out[i, 0] = (volume[i] - centre) / width if width > 0.0 else 0.0
            out[i, 1] = ratio(volume[i], centre)
        if seen >= 50:
            weighted = ratio(mean(row.traded, seen, 50), mean(row.volumes, seen, 50))
            out[i, 2] = ratio(close[i], weighted) - 1.0


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
