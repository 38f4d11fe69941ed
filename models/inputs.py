"""Raw features -> numbers without price, size or market: the first thing that every model does.

Written once, for numpy and torch alike: `x` needs indexing and arithmetic only, and `log1p` is handed in.
"""

from collections.abc import Callable, Sequence
from typing import Any

LEVELS = ("sma_5", "sma_20", "sma_50", "ema_5", "ema_12", "ema_20", "ema_26", "ema_50", "ema_200",
          "bb_upper", "bb_middle", "bb_lower")  # fmt: skip
AMOUNTS = ("macd", "macd_signal", "macd_hist", "atr_14")  # in USD
MOVES = ("returns_1", "returns_5", "returns_15", "returns_60", "volatility_5", "volatility_15", "vwap_dev")
CALENDAR = ("minute_of_day", "day_of_week")  # go in as known inputs


def observed(names: Sequence[str]) -> list[str]:
    """The names of what `scale_free` gives."""
    return [name for name in names if name not in CALENDAR]


def scale_free(names: Sequence[str], x: Any, volatility: Any, log1p: Callable[[Any], Any]) -> list[Any]:
    """Columns of `x` [..., features]: prices against the bar's close and moves in units of `volatility`.

    `volatility` is one bar's, shaped so that it can be divided by. The close itself stands against its mean
    of 20 bars where that is there, else it is 0.
    """
    where = {name: k for k, name in enumerate(names)}
    price = x[..., where["price"]]
    columns = []
    for name in observed(names):
        value = x[..., where[name]]
        if name == "price":
            anchor = x[..., where["sma_20"]] if "sma_20" in where else price
            value = (price / anchor - 1.0) / volatility
        elif name in LEVELS:
            value = (value / price - 1.0) / volatility
        elif name in AMOUNTS:
            value = value / price / volatility
        elif name in MOVES:
            value = value / volatility
        elif name == "volume":
            value = log1p(value)
        columns.append(value)
    return columns
