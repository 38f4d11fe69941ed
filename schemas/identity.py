"""Ids of events: functions of what happened, so that a replay gives the same ones."""

import re
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha1
from typing import Any

from schemas.units import NS_PER_SECOND

SCHEMA_VERSION = 1
_SPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "unified-trading-platform").bytes
_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


@lru_cache(maxsize=1024)
def iso(ts: int) -> str:
    """UTC ns -> 2024-01-02T14:31:00Z, with as many digits after the second as are needed."""
    seconds, rest = divmod(ts, NS_PER_SECOND)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{f'{rest:09d}'.rstrip('0')}Z" if rest else f"{text}Z"


def nanos(text: str) -> int:
    """The inverse of `iso`; ValueError for anything else."""
    found = _ISO.fullmatch(text)
    if found is None:
        raise ValueError(f"time {text!r}: want ISO 8601 in UTC, as 2024-01-02T14:31:00Z")
    seconds = int(datetime.fromisoformat(found[1] + "+00:00").timestamp())
    return seconds * NS_PER_SECOND + int((found[2] or "").ljust(9, "0"))


def event_id(topic: str, key: str) -> str:
    """UUIDv5 of topic and idempotency key; `uuid.uuid5` takes three times as long."""
    digest = sha1(_SPACE + f"{topic}\n{key}".encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def bar_key(symbol: str, ts: int, timeframe: str, revision: int = 0) -> str:
    """Idempotency key of a bar: the same whether it came live or by backfill; `ts` is its end, UTC ns."""
    return f"{symbol}:{_digits(ts)}:{timeframe}:{revision}"


@lru_cache(maxsize=1024)
def _digits(ts: int) -> str:
    return datetime.fromtimestamp(ts // NS_PER_SECOND, UTC).strftime("%Y%m%d%H%M%S")


def slice_key(shard: int, ts: int, timeframe: str) -> str:
    """Id of a shard's slice."""
    return f"slice:{shard:02d}:{iso(ts)}:{timeframe}"


def moment_key(kind: str, symbol: str, ts: int) -> str:
    """Idempotency key of what happens once to a symbol at an instant: `signal:AAPL:2024-01-02T14:31:00Z`."""
    return f"{kind}:{symbol}:{iso(ts)}"


def correlation_id(symbol: str, ts: int, timeframe: str) -> str:
    """One id from the bar to the order and the exit that it leads to."""
    return event_id("market.raw", bar_key(symbol, ts, timeframe))


def envelope(topic: str, key: str, symbol: str, ts: int, source: str, correlation: str = "") -> dict[str, Any]:
    """The seven fields that an event begins with; without another one it is its own correlation."""
    identity = event_id(topic, key)
    return {
        "event_id": identity,
        "correlation_id": correlation or identity,
        "idempotency_key": key,
        "symbol": symbol.upper(),
        "ts": iso(ts),
        "schema_version": SCHEMA_VERSION,
        "source": source,
    }
