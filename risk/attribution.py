"""Whose profit was it: a run's trades by the views and the regime that were there when they were decided.

A trade's profit is divided among the alphas whose view pointed the trade's own way in the slice in
which its entry was decided, in proportion to their ensemble weights. So the shares of all alphas,
and of the trades that no alpha was for, add up to the profit of all trades.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from schemas.frames import Codes, Floats


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
    agreed = views == direction[:, None]
    weight = agreed * np.array([weights.get(alpha, 0.0) for alpha in alphas])
    total = weight.sum(axis=1, keepdims=True)
    part = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    shares = (part * pnl[:, None]).sum(axis=0)
    against = views == -direction[:, None]
    return [
        Share(
            alpha,
            int(agreed[:, k].sum()),
            int((agreed[:, k] & (pnl > 0)).sum()),
            int(against[:, k].sum()),
            float(shares[k]),
            float(pnl[agreed[:, k]].sum()),
        )
        for k, alpha in enumerate(alphas)
    ]
