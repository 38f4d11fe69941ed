"""Whose profit was it: a run's trades by the views and the regime that were there when they were decided.

A trade's profit is divided among the alphas whose view pointed the trade's own way in the slice in
which its entry was decided, in proportion to their ensemble weights. So the shares of all alphas,
and of the trades that no alpha was for, add up to the profit of all trades.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from operators.kernel import kernel
from schemas.frames import Codes, Floats, Longs


class Share(NamedTuple):
    """What an alpha has part in."""

    alpha: str
    agreed: int  # trades it was for
    won: int  # of these
    against: int  # trades it was against
    profit: float  # its share, USD
    of_agreed: float  # profit of all the trades it was for, USD


def views_of(votes: str, alphas: Sequence[str]) -> list[int]:
    """`rsi+ ema_cross-` -> the view of each alpha: 1 up, -1 down, 0 none."""
    said = {vote[:-1]: 1 if vote[-1] == "+" else -1 for vote in votes.split()}
    return [said.get(alpha, 0) for alpha in alphas]


def by_alpha(
    pnl: Floats, direction: Codes, views: Codes, alphas: Sequence[str], weights: Mapping[str, float]
) -> list[Share]:
    """Shares of the alphas in their order; `views` is [trades, alphas], `direction` +1 for a long trade."""
    weight = np.array([weights.get(alpha, 0.0) for alpha in alphas])
    counts, sums = np.zeros((len(alphas), 3), np.int64), np.zeros((len(alphas), 2))
    views, direction = (np.require(codes, np.int8, ["C", "W"]) for codes in (views, direction))
    divide(np.require(pnl, np.float64, ["C", "W"]), direction, views, weight, counts, sums)
    rows = zip(alphas, counts.tolist(), sums.tolist(), strict=True)
    return [Share(alpha, agreed, won, against, profit, of_agreed)
            for alpha, (agreed, won, against), (profit, of_agreed) in rows]  # fmt: skip


@kernel
def divide(pnl: Floats, direction: Codes, views: Codes, weight: Floats, counts: Longs, sums: Floats) -> None:
    """Add up by alpha: trades it was for, won ones, those it was against; its share, and all of their profit."""
    for i in range(pnl.size):
        total = 0.0
        for k in range(weight.size):
            if views[i, k] == direction[i]:
                total += weight[k]
        for k in range(weight.size):
            if views[i, k] == direction[i]:
                counts[k, 0] += 1
                counts[k, 1] += pnl[i] > 0
                if total > 0:
                    sums[k, 0] += weight[k] / total * pnl[i]
                sums[k, 1] += pnl[i]
            if views[i, k] == -direction[i]:
                counts[k, 2] += 1
