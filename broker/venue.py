"""The simulated venue: what price an order gets from the next bar, if any.

Pure functions of one bar, in ticks. A fill is dearer by slippage and half the quoted spread; rounding
goes against us. Gaps fill at the open. Bracket prices never move once they are sent, and a bracket around
a price that has moved away is refused, as Alpaca refuses it.
"""

import math

from operators.kernel import kernel


@kernel
def room(volume: float, volume_bps: int) -> int:
    """How many shares of a bar our fills may take."""
    return math.floor(volume * volume_bps / 10_000.0)


@kernel
def friction(raw: int, slippage_bps: int, half_spread: int) -> int:
    """What a fill at `raw` costs beyond it, per share."""
    return -(-raw * slippage_bps // 10_000) + half_spread


@kernel
def buy_price(raw: int, slippage_bps: int, half_spread: int) -> int:
    """Price of a market or stop purchase at `raw`."""
    return raw + friction(raw, slippage_bps, half_spread)


@kernel
def sale_price(raw: int, slippage_bps: int, half_spread: int) -> int:
    """Price of a market or stop sale at `raw`, at least one tick."""
    return max(raw - friction(raw, slippage_bps, half_spread), 1)


@kernel
def base_is_stale(open_price: int, stop: int, target: int) -> bool:
    """Whether the market has left the bracket before its entry could be filled."""
    return open_price <= stop or open_price >= target


@kernel
def stop_raw(open_price: int, low: int, stop: int) -> int:
    """Where a sell stop is triggered in this bar, or -1 if it is not; a gap triggers it at the open."""
    if low > stop:
        return -1
    return min(stop, open_price)


@kernel
def target_price(open_price: int, high: int, target: int) -> int:
    """Where a sell limit is filled in this bar, or -1 if it is not; a gap fills it at the open."""
    if high < target:
        return -1
    return max(target, open_price)
