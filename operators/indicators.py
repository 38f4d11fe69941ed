"""One-sample updates of indicators, compiled; shared by the operators.

Means are taken about one of their values, so that equal values have exactly that mean and no deviation:
a frozen price must not cross itself by a rounding error.

Windows are rings whose capacity is a power of two: the value of `k` samples ago stands at
`(seen - 1 - k) & (size - 1)`, where `seen` counts the samples so far. Sums are taken afresh over
the window each time, so no rounding error is carried along and any split of the input gives the
same bits.
"""

import math
from typing import NamedTuple

import numpy as np

from operators.kernel import kernel
from schemas.frames import Floats


class Sums(NamedTuple):
    """Over every fourth value of a window, less the newest value."""

    a: float
    b: float
    c: float
    d: float


NOTHING = Sums(0.0, 0.0, 0.0, 0.0)


@kernel
def ema(previous: float, value: float, n: int, seen: int) -> float:
    """Exponential mean, alpha 2/(n+1), seeded with the simple mean of the first n (as LEAN)."""
    if seen <= n:
        return previous + (value - previous) / seen
    return smooth(previous, value, n)


@kernel
def smooth(previous: float, value: float, n: int) -> float:
    """The same once it is seeded; who knows that asks for this, as the other form costs its division even then."""
    return previous + (value - previous) * (2.0 / (n + 1.0))


@kernel
def wilder(previous: float, value: float, n: int, seen: int) -> float:
    """Wilder's mean, alpha 1/n, seeded with the simple mean of the first n (as LEAN)."""
    if seen <= n:
        return previous + (value - previous) / seen
    return previous + (value - previous) / n


@kernel
def strength_index(gain: float, loss: float) -> float:
    """RSI of mean gain and mean loss: 50 without movement, 100 without loss, 0 without gain."""
    if loss == 0.0:
        return 50.0 if gain == 0.0 else 100.0
    return 100.0 - 100.0 / (1.0 + gain / loss)


@kernel
def ago(ring: Floats, seen: int, k: int) -> float:
    """The value of k samples ago; 0 is the newest."""
    return float(ring[(seen - 1 - k) & (ring.size - 1)])


@kernel
def put(ring: Floats, seen: int, value: float) -> None:
    """Store the newest value; `seen` counts it already."""
    ring[(seen - 1) & (ring.size - 1)] = value


@kernel
def mean(ring: Floats, seen: int, n: int) -> float:
    """Mean of the last n."""
    return mean_of(ring, seen, n, gather(ring, seen, n, 0, NOTHING))


@kernel
def gather(ring: Floats, seen: int, n: int, begun: int, sums: Sums) -> Sums:
    """Four partial sums over the last n but up to three; `sums` are those over the last `begun`, whole fours, already.

    Four, so that additions need not wait for each other; a longer window goes on where a shorter one ended.
    """
    mask, last = ring.size - 1, seen - 1
    base = ring[last & mask]
    a, b, c, d = sums.a, sums.b, sums.c, sums.d
    for k in range(begun, n - 3, 4):
        a += ring[(last - k) & mask] - base
        b += ring[(last - k - 1) & mask] - base
        c += ring[(last - k - 2) & mask] - base
        d += ring[(last - k - 3) & mask] - base
    return Sums(a, b, c, d)


@kernel
def mean_of(ring: Floats, seen: int, n: int, sums: Sums) -> float:
    """Mean of the last n, whose partial sums are known."""
    mask, last = ring.size - 1, seen - 1
    base, a = ring[last & mask], sums.a
    for k in range(n - n % 4, n):
        a += ring[(last - k) & mask] - base
    return float(base + (a + sums.b + sums.c + sums.d) / n)


@kernel
def deviation(ring: Floats, seen: int, n: int, less: int) -> float:
    """Standard deviation of the last n about their mean, divided by n - less."""
    return deviation_about(ring, seen, n, less, mean(ring, seen, n))


@kernel
def deviation_about(ring: Floats, seen: int, n: int, less: int, centre: float) -> float:
    """The same where the mean of the last n is known."""
    mask, last = ring.size - 1, seen - 1
    a, b = 0.0, 0.0
    for k in range(0, n - 1, 2):
        x, y = ring[(last - k) & mask] - centre, ring[(last - k - 1) & mask] - centre
        a += x * x
        b += y * y
    if n % 2 == 1:
        x = ring[(last - n + 1) & mask] - centre
        a += x * x
    return math.sqrt((a + b) / (n - less))


@kernel
def highest(ring: Floats, seen: int, n: int) -> float:
    """Highest of the last n."""
    top = ago(ring, seen, 0)
    for k in range(1, n):
        top = max(top, ago(ring, seen, k))
    return top


@kernel
def lowest(ring: Floats, seen: int, n: int) -> float:
    """Lowest of the last n."""
    bottom = ago(ring, seen, 0)
    for k in range(1, n):
        bottom = min(bottom, ago(ring, seen, k))
    return bottom


@kernel
def true_range(high: float, low: float, previous: float) -> float:
    """Range of a bar, the gap from the previous close included."""
    return max(high - low, abs(previous - high), abs(previous - low))


@kernel
def rises_and_falls(closes: Floats, seen: int, n: int, begun: int, gain: float, loss: float) -> tuple[float, float]:
    """Sums of rises and of falls over the last n changes, for the simple RSI; those over the last `begun` are given.

    `closes` holds at least n + 1 values.
    """
    for k in range(begun, n):
        change = ago(closes, seen, k) - ago(closes, seen, k + 1)
        gain += max(change, 0.0)
        loss += max(-change, 0.0)
    return gain, loss


@kernel
def change(value: float, base: float) -> float:
    """Simple return, a fraction."""
    return (value - base) / max(base, 1e-9)


@kernel
def ratio(part: float, whole: float) -> float:
    """Part / whole, NaN where there is no whole: missing, never 0."""
    return part / whole if whole != 0.0 else np.nan
