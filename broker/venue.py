"""The simulated venue: what price an order gets from the next bar, if any.

Pure functions of one bar, in ticks. A fill is dearer by slippage and half the quoted spread; rounding
goes against us. Gaps fill at the open. Bracket prices never move once they are sent, and a bracket around
a price that has moved away is refused, as Alpaca refuses it.
"""

import math

from operators.kernel import kernel
from schemas.events import Side


@kernel
def room(volume: float, volume_bps: int) -> int:
    """How many shares of a bar our fills may take."""
    return math.floor(volume * volume_bps / 10_000.0)


@kernel
def friction(raw: int, slippage_bps: int, half_spread: int) -> int:
    """What a fill at `raw` costs beyond it, per share."""
    return -(-raw * slippage_bps // 10_000) + half_spread


@kernel
def fill_price(side: int, raw: int, slippage_bps: int, half_spread: int) -> int:
    """Price of a market or stop order at `raw`: dearer for a buyer, cheaper for a seller, at least one tick."""
    return max(raw + side * friction(raw, slippage_bps, half_spread), 1)


@kernel
def base_is_stale(open_price: int, stop: int, target: int) -> bool:
    """Whether the market has left the bracket, long or short, before its entry could be filled."""
    return open_price <= min(stop, target) or open_price >= max(stop, target)


@kernel
def stop_raw(side: int, open_price: int, high: int, low: int, stop: int) -> int:
    """Where a lot's stop is triggered in this bar, or -1 if it is not; a gap triggers it at the open."""
    if side == Side.BUY:
        return min(stop, open_price) if low <= stop else -1
    return max(stop, open_price) if high >= stop else -1


@kernel
def target_price(side: int, open_price: int, high: int, low: int, target: int) -> int:
    """Where a lot's target, a limit, is filled in this bar, or -1 if it is not; a gap fills it at the open."""
    if side == Side.BUY:
        return max(target, open_price) if high >= target else -1
    return max(min(target, open_price), 1) if low <= target else -1
