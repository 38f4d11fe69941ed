"""Exact money: integers in 1/10 000 USD ("ticks"), and whole shares."""

TICKS_PER_USD = 10_000
TICKS_PER_CENT = 100
MAX_PRICE_USD = 10_000_000.0  # 1e11 ticks; products with basis points stay far inside int64
NS_PER_SECOND = 1_000_000_000
NS_PER_MINUTE = 60 * NS_PER_SECOND
NS_PER_DAY = 86_400 * NS_PER_SECOND


def to_ticks(price: float) -> int:
    """USD per share -> ticks, to the nearest; the one way from float to money.

    Plain arithmetic, so that it may be compiled; the caller has refused prices above MAX_PRICE_USD.
    """
    return round(price * 10_000.0)


def share_of(amount: int, bps: int) -> int:
    """`amount * bps / 10 000`, rounded down, without overflow for any int64 amount and bps <= 10 000."""
    return amount // 10_000 * bps + amount % 10_000 * bps // 10_000


def to_cents(ticks: int) -> int:
    """The nearest whole cent, still in ticks; a half rounds up."""
    return (ticks + 50) // 100 * 100


def to_usd(ticks: int) -> float:
    """Ticks -> USD, for display and for files."""
    return ticks / TICKS_PER_USD
