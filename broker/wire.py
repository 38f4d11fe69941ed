"""Alpaca's JSON <-> the port's types: decimals are text, times RFC 3339, and unknown states are kept."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from broker.port import BrokerAccount, BrokerPosition, Execution, OrderState
from schemas.events import Side
from schemas.units import NS_PER_SECOND, TICKS_PER_USD

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:?\d\d)")


def order_state(raw: Mapping[str, Any]) -> OrderState:
    """One order, its legs with it."""
    filled = whole(raw.get("filled_qty"))
    average = Decimal(str(raw.get("filled_avg_price") or 0))
    return OrderState(
        broker_id=str(raw["id"]),
        client_id=str(raw["client_order_id"]),
        symbol=str(raw["symbol"]),
        side=Side.BUY if raw["side"] == "buy" else Side.SELL,
        qty=whole(raw.get("qty")),
        filled_qty=filled,
        filled_cost=_round(average * filled * TICKS_PER_USD),
        status=str(raw["status"]),
        kind=str(raw.get("type") or raw.get("order_type") or ""),
        shape=str(raw.get("order_class") or "simple"),
        limit_price=ticks(raw.get("limit_price")),
        stop_price=ticks(raw.get("stop_price")),
        submitted=instant(raw.get("submitted_at")),
        updated=instant(raw.get("updated_at")),
        replaces=str(raw.get("replaces") or ""),
        replaced_by=str(raw.get("replaced_by") or ""),
        legs=tuple(order_state(leg) for leg in raw.get("legs") or ()),
    )


def position(raw: Mapping[str, Any]) -> BrokerPosition:
    """One position; a short has a negative quantity, whatever sign the broker gives it."""
    qty = abs(whole(raw["qty"])) * (-1 if raw.get("side") == "short" else 1)
    return BrokerPosition(str(raw["symbol"]), qty, ticks(raw["cost_basis"]), ticks(raw.get("current_price")))


def account(raw: Mapping[str, Any]) -> BrokerAccount:
    """The account; blocked if any of its blocks is on or it is not active."""
    blocks = ("trading_blocked", "account_blocked", "trade_suspended_by_user")
    return BrokerAccount(
        number=str(raw["account_number"]),
        status=str(raw["status"]),
        cash=ticks(raw["cash"]),
        equity=ticks(raw["equity"]),
        last_equity=ticks(raw["last_equity"]),
        buying_power=ticks(raw["buying_power"]),
        blocked=raw["status"] != "ACTIVE" or any(raw.get(name) for name in blocks),
        shorting=bool(raw.get("shorting_enabled")),
    )


def activity(raw: Mapping[str, Any]) -> Execution:
    """A fill as the list of account activities has it."""
    return Execution(
        str(raw["order_id"]),
        whole(raw["cum_qty"]),
        whole(raw["qty"]),
        ticks(raw["price"]),
        instant(raw["transaction_time"]),
    )


def update(raw: Mapping[str, Any]) -> tuple[OrderState, Execution | None]:
    """A message of the trade updates: the order after it, and its fill if it is one."""
    state = order_state(raw["order"])
    if raw.get("event") not in ("fill", "partial_fill") or not raw.get("qty") or not raw.get("price"):
        return state, None
    ts = instant(raw.get("timestamp")) or state.updated
    return state, Execution(state.broker_id, state.filled_qty, whole(raw["qty"]), ticks(raw["price"]), ts)


def ticks(value: Any) -> int:
    """A decimal in USD -> ticks, exactly where it can be; nothing is 0."""
    return 0 if value is None or value == "" else _round(Decimal(str(value)) * TICKS_PER_USD)


def usd(value: int) -> str:
    """Ticks -> a decimal in USD, two places at least."""
    text = f"{Decimal(value) / TICKS_PER_USD:.4f}"
    return text[:-2] if text.endswith("00") else text


def whole(value: Any) -> int:
    """Shares; a fraction is not ours and raises."""
    number = Decimal(str(value or 0))
    if number != int(number):
        raise ValueError(f"{number} shares: this platform trades whole ones")
    return int(number)


def instant(text: Any) -> int:
    """RFC 3339, up to nine places -> UTC ns; nothing is 0."""
    if not text:
        return 0
    found = _TIME.fullmatch(str(text))
    if found is None:
        raise ValueError(f"time {text!r}: want RFC 3339")
    day, clock, fraction, zone = found.groups()
    seconds = datetime.fromisoformat(f"{day}T{clock}{zone.replace('Z', '+00:00')}")
    return int(seconds.timestamp()) * NS_PER_SECOND + int((fraction or "0").ljust(9, "0"))


def stamp(ns: int) -> str:
    """UTC ns -> RFC 3339 with nine places."""
    seconds, fraction = divmod(ns, NS_PER_SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def _round(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_HALF_EVEN))
