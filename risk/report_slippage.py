"""The report's part about slippage: what fills cost beside the price before slippage and spread."""

import numpy as np

from operators.kernel import kernel
from risk.performance import quantile
from risk.report_run import Run
from risk.report_words import cell, groups, nothing, ratio, section, table, words
from schemas.frames import Floats, Ints, Longs

_TITLE = "Slippage, expected and realised"


def slippage(run: Run) -> str:
    """Per kind of fill, basis points of that price."""
    fills = run.fills
    if not fills["price"].size:
        return section("slippage", _TITLE, nothing("There was no fill."))
    sign = np.array([1.0 if name == "buy" else -1.0 for name in fills["side"].names])
    price, expected = (np.require(fills[name], np.float64, ["C", "W"]) for name in ("price", "expected_price"))
    bps, cost = np.empty((2, price.size))
    side, qty = np.require(fills["side"].place, np.int32, ["C", "W"]), np.require(fills["qty"], np.int64, ["C", "W"])
    compare(sign, side, price, expected, qty, bps, cost)
    rows = [
        _row("entry" if name == "none" else words(name), of, paid)
        for name, of, paid in groups(fills["reason"], bps, cost)
    ]
    rows.append(_row("all", bps, cost))
    expected_bps = run.summary["settings"]["venue"]["slippage_bps"]
    spread = "" if "spread cost (no quotes)" in run.summary["off"] else " and half the spread"
    note = (
        f'<p class="under">Expected of an order that takes the price it gets: {expected_bps} bps{spread}; of a limit: '
        "nothing. Realised: the fill beside the price before both; prices are rounded against us.</p>"
    )
    return section("slippage", _TITLE, table(("fill", "fills", "mean bps", "95 % bps", "cost USD"), rows) + note)


def _row(name: str, bps: Floats, cost: Floats) -> list[str]:
    return [name, f"{bps.size:,}", ratio(float(bps.mean())), ratio(quantile(bps, 0.95)), cell(-cost.sum())]


@kernel
def compare(sign: Floats, side: Ints, price: Floats, expected: Floats, qty: Longs, bps: Floats, cost: Floats) -> None:
    """How much worse than expected each fill was, in basis points and in USD; `sign` by side is +1 where one pays."""
    for i in range(price.size):
        worse = sign[side[i]] * (price[i] - expected[i])
        bps[i], cost[i] = 10_000 * worse / expected[i], worse * qty[i]
