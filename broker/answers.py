"""What a broker's refusal means. Codes are reused for many causes, so: the status first, then the words."""

import re

from schemas.events import Reason

# status -> (pattern, reason), the first that is found; texts differ from time to time, hence loosely
_FORBIDDEN = (
    (r"buying power", Reason.INSUFFICIENT_CASH),
    (r"pattern day", Reason.PATTERN_DAY_TRADER),
    (r"wash trade", Reason.WASH_TRADE),
    (r"sold short|short sell|shorting|not shortable", Reason.NOT_SHORTABLE),
    (r"insufficient qty|held_for_orders", Reason.SHARES_HELD),
    (r"not tradable|not active|halted", Reason.NOT_TRADABLE),
)
_INVALID = (
    (r"client.?order.?id must be unique", Reason.DUPLICATE),
    (r"base.?price", Reason.STALE_BASE),
    (r"sub-?penny|pricing criteria", Reason.SUB_PENNY),
    (r"fraction", Reason.FRACTIONAL),
    (r"sold short|short sell|not shortable", Reason.NOT_SHORTABLE),
    (r"not tradable|not active|halted|asset .*not found", Reason.NOT_TRADABLE),
    (r"not cancelable|already in|not replaceable|cannot replace", Reason.TOO_LATE),
    (r"bracket|take_profit|stop_loss|stop price|oco", Reason.BRACKET_UNPLACEABLE),
)


def meaning(status: int, text: str) -> Reason:
    """The reason behind an error answer; UNAUTHORIZED ends trading, BROKER_DOWN leaves the outcome open."""
    if status == 401:
        return Reason.UNAUTHORIZED
    if status == 403:  # "forbidden." and whatever else nobody has seen: the account may not trade
        return _first(_FORBIDDEN, text, Reason.UNAUTHORIZED)
    if status == 404:
        return Reason.NOT_FOUND
    if status == 429:
        return Reason.RATE_LIMIT
    if status == 408 or status >= 500:
        return Reason.BROKER_DOWN
    return _first(_INVALID, text, Reason.REFUSED)


def _first(table: tuple[tuple[str, Reason], ...], text: str, otherwise: Reason) -> Reason:
    return next((reason for pattern, reason in table if re.search(pattern, text, re.IGNORECASE)), otherwise)
