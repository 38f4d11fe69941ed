"""When to try again, as numbers: who waits, and on what clock, is the caller's matter.

`attempt` counts from 0, the first try. Jitter is a share of the delay, 0 <= jitter < 1, from whatever source the
caller has: full jitter, so that many who failed together do not come back together.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Policy(NamedTuple):
    """How often and how long; seconds."""

    attempts: int = 3  # all together
    base: float = 0.2
    cap: float = 5.0


DEFAULT = Policy()
BROKER = Policy(40, 0.1, 2.0)  # a broker that is coming back: about half a minute of waiting


def delay(policy: Policy, attempt: int, jitter: float) -> float | None:
    """Seconds to wait after this attempt has failed; None after the last."""
    if attempt + 1 >= policy.attempts:
        return None
    return min(policy.cap, policy.base * 2.0**attempt) * jitter


def retrying(
    action: Callable[[], T],
    retryable: Callable[[Exception], bool],
    wait: Callable[[float], None],
    jitter: Callable[[], float],
    policy: Policy = DEFAULT,
) -> T:
    """Do it until it works, as long as what it raises may pass by itself; else raise that."""
    attempt = 0
    while True:
        try:
            return action()
        except Exception as error:
            pause = delay(policy, attempt, jitter()) if retryable(error) else None
            if pause is None:
                raise
        wait(pause)
        attempt += 1
