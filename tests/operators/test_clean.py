"""Quality: each reason by a bar made for it, and the last bar that is still good."""

import math

import numpy as np
import pytest

from operators import clean
from operators.clean import MAX_VOLUME
from schemas.events import Reason
from schemas.frames import RawFrame
from schemas.units import MAX_PRICE_USD
from tests.operators.frames import plain_slices

GOOD = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 100.0}
INF, NAN = math.inf, math.nan


def raw(*rows, slices=10, quotes=False):
    """Rows of (ts, slot, changes to the good bar); slices end at 1, 2, 3 .. ns."""
    column = {name: np.array([(GOOD | row[2])[name] for row in rows], np.float64) for name in GOOD}
    ts, slot = np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.int32)
    quote = np.arange(len(rows), dtype=np.float64) if quotes else np.zeros(0)
    return RawFrame(
        3, plain_slices(slices), (), ts, slot + 40, slot, **column, bid=quote, ask=quote + 0.5 if quotes else quote
    )


def judged(*frames):
    """(ts, slot) let in, and (ts, slot, reason) refused, by frame."""
    state, answers = clean.start(), []
    for frame in frames:
        state, bars = clean.step(clean.Params(), state, frame)
        kept = list(zip(bars.slices.ts[bars.at].tolist(), bars.slot.tolist(), strict=True))
        out = bars.refused
        columns = (out.ts.tolist(), (out.symbol - 40).tolist(), map(Reason, out.reason.tolist()))
        gone = list(zip(*columns, strict=True))
        answers.append((kept, gone))
    return answers


def verdict(**changes):
    """The reason of one bar, NONE when it is let in."""
    [(kept, gone)] = judged(raw((1, 0, changes)))
    assert len(kept) + len(gone) == 1
    return gone[0][2] if gone else Reason.NONE


@pytest.mark.parametrize("column", list(GOOD))
def test_not_a_number(column):
    assert verdict(**{column: NAN}) == Reason.NOT_A_NUMBER


@pytest.mark.parametrize(
    "changes",
    [
        {"low": 0.0}, {"low": -1.0}, {"open": 0.0}, {"close": 0.0}, {"close": -INF}, {"low": -INF},
        {"high": INF}, {"high": np.nextafter(MAX_PRICE_USD, INF)},
    ],
)  # fmt: skip
def test_bad_price(changes):
    assert verdict(**changes) == Reason.BAD_PRICE


@pytest.mark.parametrize(
    "changes",
    [
        {"low": 10.01},  # over the open
        {"open": 10.5, "close": 8.99}, {"high": 10.99}, {"open": 12.01}, {"high": 8.0}, {"close": INF},
    ],
)  # fmt: skip
def test_bad_range(changes):
    assert verdict(**changes) == Reason.BAD_RANGE


@pytest.mark.parametrize("volume", [-1.0, -5e-324, np.nextafter(MAX_VOLUME, INF), INF, -INF])
def test_bad_volume(volume):
    assert verdict(volume=volume) == Reason.BAD_VOLUME


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"volume": 0.0}, {"volume": MAX_VOLUME}, {"high": MAX_PRICE_USD}, {"low": 10.0}, {"high": 11.0},
        {"low": 5e-324}, {"open": 10.0, "high": 10.0, "low": 10.0, "close": 10.0},
        {"open": 11.0, "close": 9.0}, {"open": 12.0, "close": 9.0},
    ],
)  # fmt: skip
def test_bars_at_the_bound_are_good(changes):
    assert verdict(**changes) == Reason.NONE


def test_off_session_is_a_time_at_which_no_slice_ends():
    frame = raw((0, 0, {}), (1, 0, {}), (10, 0, {}), (11, 0, {}))
    assert judged(frame) == [([(1, 0), (10, 0)], [(0, 0, Reason.OFF_SESSION), (11, 0, Reason.OFF_SESSION)])]


def test_the_time_is_judged_before_the_numbers():
    assert judged(raw((11, 0, {"close": NAN})))[0][1] == [(11, 0, Reason.OFF_SESSION)]
    assert judged(raw((1, 0, {}), (1, 0, {"close": NAN})))[0][1] == [(1, 0, Reason.DUPLICATE)]


def test_the_first_bar_of_a_slice_counts():
    [(kept, gone)] = judged(raw((2, 0, {}), (2, 0, {"close": 10.5}), (2, 1, {}), (3, 0, {})))
    assert kept == [(2, 0), (2, 1), (3, 0)]
    assert gone == [(2, 0, Reason.DUPLICATE)]


def test_a_refused_bar_leaves_its_place_free():
    [(kept, gone)] = judged(raw((2, 0, {"close": NAN}), (2, 0, {}), (2, 0, {})))
    assert kept == [(2, 0)]
    assert gone == [(2, 0, Reason.NOT_A_NUMBER), (2, 0, Reason.DUPLICATE)]


def test_what_was_let_in_is_remembered_over_frames():
    first, second = raw((2, 0, {}), (3, 1, {})), raw((2, 0, {}), (2, 1, {}), (2, 2, {}), (3, 0, {}))
    assert judged(first, second)[1] == (
        [(2, 2), (3, 0)],
        [(2, 0, Reason.DUPLICATE), (2, 1, Reason.OUT_OF_ORDER)],
    )


def test_every_reason_but_one_has_a_bar():
    """BAD_TIME has none: a time that is no time is refused where files are read."""
    spoilt = [{"low": NAN}, {"low": 0.0}, {"low": 11.5}, {"volume": -1.0}]
    frames = [
        raw((4, 1, {}), (11, 0, {})),
        raw((3, 1, {}), (4, 1, {}), *((5 + k, 1, changes) for k, changes in enumerate(spoilt))),
    ]
    seen = {why for _, gone in judged(*frames) for *_, why in gone}
    assert seen == {reason for reason in Reason if 80 <= reason < 90} - {Reason.BAD_TIME}


def test_kept_and_refused_rows_keep_their_columns():
    frame = raw((1, 0, {"close": 10.5}), (2, 0, {"volume": -7.0}), (3, 0, {"close": 9.5}), quotes=True)
    _, bars = clean.step(clean.Params(), clean.start(), frame)
    assert bars.shard == 3
    assert bars.at.tolist() == [0, 2]
    assert bars.close.tolist() == [10.5, 9.5]
    assert (bars.bid.tolist(), bars.ask.tolist()) == ([0.0, 2.0], [0.5, 2.5])
    assert bars.refused.volume.tolist() == [-7.0]
    assert bars.refused.close.tolist() == [11.0]


def test_without_quotes_there_are_no_columns_of_quotes():
    _, bars = clean.step(clean.Params(), clean.start(), raw((1, 0, {}), (1, 0, {})))
    assert bars.bid.size == bars.ask.size == 0
    assert bars.close.size == 1


def test_an_empty_frame_is_answered_by_an_empty_one():
    assert judged(raw()) == [([], [])]
