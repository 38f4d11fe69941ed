"""What a run's summary says of it beside what happened in it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from infra.benchmark import About
from infra.settings import Settings, describe, settings_hash
from risk.limits import limits

VERSION = 4  # of a run's folder
CLOSED = "lets nothing in"  # in `off`, of a filter that refuses for want of a source


class LedgerError(RuntimeError):
    """The ledger contradicts itself: a gap in its slices, or totals that do not reconcile."""


class Header(TypedDict):
    """What the summary says of a run beside what happened in it."""

    account: str
    initial_cash: int  # ticks
    alphas: list[str]  # alpha k is digit k of `views`
    bars: dict[str, Any]  # label, fingerprint, rows, symbols, ...: as the source describes itself
    synthetic: bool
    timeframe: str
    after: int  # UTC ns; the run covers after < ts <= upto
    upto: int
    off: list[str]  # what was not there or switched off: forecast, quotes, earnings, liquidity
    benchmark: About | None
    settings_hash: str
    settings: dict[str, Any]
    forecast: NotRequired[dict[str, Any]]  # where a model is configured: `models` (k has number k + 1), `events`


def header(
    settings: Settings,
    *,
    alphas: Sequence[str],
    bars: Mapping[str, Any],
    synthetic: bool,
    timeframe: str,
    after: int,
    upto: int,
    off: Sequence[str] = (),
    benchmark: About | None = None,
    forecast: Mapping[str, Any] | None = None,
) -> Header:
    """The header of a run with these settings; `forecast`: who does, None where no model is configured."""
    made = Header(
        account=settings.run.account,
        initial_cash=limits(settings.account).initial_cash,
        alphas=list(alphas),
        bars=dict(bars),
        synthetic=synthetic,
        timeframe=timeframe,
        after=after,
        upto=upto,
        off=list(off),
        benchmark=benchmark,
        settings_hash=settings_hash(settings),
        settings=describe(settings),
    )
    if forecast is not None:
        made["forecast"] = dict(forecast)
    return made


def identity(header: Header) -> str:
    """Which run this is: the same bars, range and settings."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
