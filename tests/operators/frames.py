"""Frames made by hand, for the tests of single operators."""

from dataclasses import replace
from datetime import date

import numpy as np

from schemas.calendar import Calendar
from schemas.events import Reason
from schemas.frames import BarFrame, FeatureFrame, ForecastFrame, OpinionFrame, Refused, SignalFrame, Slices

NONE = np.zeros(0)


def plain_slices(size):
    """Slices of no particular day, ending at 1, 2, 3 .. ns."""
    zeros = np.zeros(size, np.int32)
    return Slices(0, size, np.arange(1, size + 1), zeros, zeros, zeros, zeros.astype(np.int8))


def slices_of(timeframe, first, last):
    """The calendar's slices of the days `first` .. `last`."""
    calendar = Calendar(timeframe, first, last)
    begin, end = (
        int(np.datetime64(day, "ns").astype(np.int64)) for day in (first, date.fromordinal(last.toordinal() + 1))
    )
    return calendar.slices(calendar.index_after(begin), calendar.index_after(end), begin, end)


def bars(close, *, slot=None, at=None, slices=None, open=None, high=None, low=None, volume=None):  # noqa: A002
    """Accepted bars; one per slice unless `at` says otherwise."""
    close = np.asarray(close, np.float64)
    size = close.size
    at = np.arange(size, dtype=np.int32) if at is None else np.asarray(at, np.int32)
    slot = np.zeros(size, np.int32) if slot is None else np.asarray(slot, np.int32)
    numbers = [close if column is None else np.asarray(column, np.float64) for column in (open, high, low)]
    volume = np.full(size, 100.0) if volume is None else np.asarray(volume, np.float64)
    slices = plain_slices(int(at.max()) + 1 if size else 0) if slices is None else slices
    refused = Refused(*[np.zeros(0, kind) for kind in (np.int64, np.int32, np.int8)], *[NONE] * 5)
    return BarFrame(
        0, slices, (), refused, int(slot.max(initial=-1)) + 1, at, slot, slot, *numbers, close, volume, NONE, NONE
    )


def opinions(votes, regime):
    """Votes by alpha (in alphabetical order, one list each) and regimes -> what the ensemble weighs."""
    regime = np.asarray(regime, np.int8)
    frame = bars(np.ones(regime.size))
    features = FeatureFrame(frame, ("returns_1", "volatility_5"), np.full((regime.size, 2), 0.01))
    return OpinionFrame(features, np.asarray(votes, np.float64), regime)


def outlook(frame, quantiles, absence=None, direction=None, strength=1.0, probability=0.6, is_calibrated=False):
    """The same opinions with a forecast of one horizon on each row; its direction is the median's unless given."""
    size = frame.regime.size
    quantiles = np.asarray(quantiles, np.float64).reshape(size, 1, 3)
    absence = np.zeros(size, np.int8) if absence is None else np.asarray(absence, np.int8)
    direction = np.sign(quantiles[:, 0, 1]) if direction is None else np.asarray(direction)
    there = absence == 0
    columns = [np.where(there, np.broadcast_to(np.asarray(value, np.float64), size), other) for value, other in
               ((strength, 0.0), (probability, np.nan))]  # fmt: skip
    forecast = ForecastFrame(
        frame.features, (30,), 0, np.where(there[:, None, None], quantiles, np.nan), np.where(there, 0, -1),
        np.where(there, direction, 0).astype(np.int8), *columns, there.astype(np.int8),
        np.full(size, is_calibrated), absence,
    )  # fmt: skip
    return replace(frame, forecast=forecast)


def signals(slices, reason=Reason.NONE, **columns):
    """One scored row per slice, all with one reason; `columns` of the bars."""
    frame = replace(bars(np.ones(slices.size), slices=slices), **columns)
    whole, codes = np.ones(slices.size), np.ones(slices.size, np.int8)
    views = np.ones(slices.size, np.int32)
    return SignalFrame(frame, whole, codes, whole, whole, codes, views, np.full(slices.size, reason, np.int8))
