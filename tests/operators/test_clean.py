"""Quality: each reason by a bar made for it, and the last bar that is still good."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import clean
from operators.clean import MAX_VOLUME
from schemas.events import Reason
from schemas.frames import GAP, JUMPED, OVERNIGHT, STALE, Actions, RawFrame
from schemas.units import MAX_PRICE_USD
from tests.operators.frames import plain_slices
from tests.plain import plain

GOOD = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 100.0}
INF, NAN = math.inf, math.nan


def raw(*rows, slices=10, quotes=False, **more):
    """Rows of (ts, slot, changes to the good bar); slices end at 1, 2, 3 .. ns."""
    column = {name: np.array([(GOOD | row[2])[name] for row in rows], np.float64) for name in GOOD}
    ts, slot = np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.int32)
    quote = np.arange(len(rows), dtype=np.float64) if quotes else np.zeros(0)
    ask = quote + 0.5 if quotes else quote
    return RawFrame(3, plain_slices(slices), (), ts, slot + 40, slot, **column, bid=quote, ask=ask, **more)


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


# --- what is marked


def marked(*frames, **params):
    """(ts, slot, marks, bars missing) of every bar let in, by frame."""
    state, found = clean.start(), []
    for frame in frames:
        state, bars = clean.step(clean.Params(**params), state, frame)
        ts = bars.slices.ts[bars.at].tolist()
        found += zip(ts, bars.slot.tolist(), bars.marks.tolist(), bars.missing.tolist(), strict=True)
    return found


def at(close, **more):
    """Changes that make a bar of one price."""
    return {"open": close, "high": close, "low": close, "close": close, **more}


def test_missing_bars_are_counted_within_a_session():
    slices = replace(plain_slices(10), session=np.array([1] * 5 + [2] * 5, np.int32))
    frame = replace(
        raw((1, 0, {}), (2, 0, {}), (2, 1, {}), (5, 0, {}), (8, 0, {}), (9, 1, {}), (10, 0, {})), slices=slices
    )
    assert marked(frame, stale_bars=0) == [
        (1, 0, 0, 0), (2, 0, 0, 0), (2, 1, 0, 0), (5, 0, GAP, 2), (8, 0, OVERNIGHT, 0), (9, 1, OVERNIGHT, 0),
        (10, 0, GAP, 1),
    ]  # fmt: skip


def test_a_refused_bar_is_missing_too():
    frame = raw((1, 0, {}), (2, 0, {"close": NAN}), (3, 0, {}))
    assert marked(frame, stale_bars=0) == [(1, 0, 0, 0), (3, 0, GAP, 1)]


def test_gaps_are_seen_across_frames():
    first, second = raw((1, 0, {}), slices=2), raw((5, 0, {}))
    head, tail = second.slices.cut(2)[0], second.slices.cut(2)[1]
    frames = replace(first, slices=head), replace(second, slices=tail)
    assert marked(*frames, stale_bars=0) == [(1, 0, 0, 0), (5, 0, GAP, 3)]


@pytest.mark.parametrize(("bars", "marks"), [(0, [0, 0, 0, 0, 0]), (1, [2, 2, 2, 2, 2]), (3, [0, 0, 2, 0, 0])])
def test_equal_bars_are_stale_from_a_number_on(bars, marks):
    frame = raw((1, 0, {}), (2, 0, {}), (3, 0, {}), (4, 0, {"volume": 101.0}), (5, 0, {"volume": 101.0}))
    assert [mark for _, _, mark, _ in marked(frame, stale_bars=bars)] == marks
    assert STALE == 2


@pytest.mark.parametrize("column", list(GOOD))
def test_one_number_makes_a_difference(column):
    frame = raw((1, 0, {}), (2, 0, {column: GOOD[column] + 0.25 * (1 if column in ("high", "volume") else -1)}))
    assert [mark for _, _, mark, _ in marked(frame, stale_bars=2)] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "jumps"),
    [
        (at(12.0), False), (at(8.0), False), (at(12.001), True), (at(7.999), True),
        (at(10.0, open=13.0, high=13.0), True), (at(10.0, low=1.0, high=99.0), False),
    ],
)  # fmt: skip
def test_a_jump_is_measured_from_the_last_close_let_in(changes, jumps):
    frame = raw((1, 0, at(50.0)), (2, 0, at(10.0)), (3, 0, {"close": NAN}), (4, 0, changes))
    assert bool(marked(frame, max_jump=0.2)[2][2] & JUMPED) == jumps
    assert not marked(frame, max_jump=0.0)[2][2] & JUMPED


def acting(*rows):
    """Actions (slice from 0, slot, new, old, dividend in USD) as fields of a raw frame."""
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    places, slot, new, old, dividend = columns
    return {
        "actions": Actions(places.astype(np.int32), slot.astype(np.int32) + 40, new, old, np.int64(dividend * 10_000)),
        "acted": slot.astype(np.int32),
    }


def test_a_known_split_or_dividend_is_no_jump():
    rows = (1, 0, at(70.0)), (2, 0, at(10.0)), (3, 0, at(200.0)), (4, 0, at(120.0))
    known = acting((1, 0, 7, 1, 0.0), (2, 0, 1, 20, 0.0), (3, 0, 1, 1, 80.0))
    assert [mark & JUMPED for _, _, mark, _ in marked(raw(*rows, **known))] == [0, 0, 0, 0]
    assert [bool(mark & JUMPED) for _, _, mark, _ in marked(raw(*rows))] == [False, True, True, True]


def test_the_scale_is_the_product_of_the_splits_so_far():
    rows = [(ts, slot, {}) for ts in range(1, 7) for slot in (0, 1)]
    known = acting((2, 0, 3, 2, 0.0), (4, 0, 4, 1, 0.0), (4, 2, 9, 1, 0.0))
    state, bars = clean.step(clean.Params(), clean.start(), raw(*rows, **known))
    assert bars.scale[bars.slot == 0].tolist() == [1.0, 1.0, 1.5, 1.5, 6.0, 6.0]
    assert bars.scale[bars.slot == 1].tolist() == [1.0] * 6
    assert bars.steady.tolist() == (bars.close * bars.scale).tolist()
    assert state.is_scaled
    later = clean.step(clean.Params(), state, raw((7, 0, {}), (7, 2, {})))[1]
    assert later.scale.tolist() == [6.0, 9.0]


def test_an_action_without_a_bar_holds_from_its_slice_on():
    state, bars = clean.step(clean.Params(), clean.start(), raw((1, 0, {}), **acting((5, 0, 2, 1, 0.0))))
    assert bars.scale.tolist() == [1.0]
    assert clean.step(clean.Params(), state, raw((11, 0, {}), slices=20))[1].scale.tolist() == [2.0]


def test_without_splits_there_is_no_column_of_scales():
    bars = clean.step(clean.Params(), clean.start(), raw((1, 0, {}), **acting((0, 0, 1, 1, 0.5))))[1]
    assert bars.scale.size == 0
    assert bars.steady is bars.close


odd = st.sampled_from([NAN, INF, -INF, -1.0, 0.0, 5e-324, 9.0, 10.0, 11.0, 12.0, MAX_PRICE_USD,
                       math.nextafter(MAX_PRICE_USD, INF), MAX_VOLUME, math.nextafter(MAX_VOLUME, INF)])  # fmt: skip


@given(numbers=st.tuples(*(odd,) * 5))
def test_flaws_are_found_in_their_order(numbers):
    """The first that applies, one after the other."""
    opened, high, low, close, volume = numbers
    flaws = {
        Reason.NOT_A_NUMBER: any(math.isnan(number) for number in numbers),
        Reason.BAD_PRICE: min(low, opened, close) <= 0.0 or high > MAX_PRICE_USD,
        Reason.BAD_RANGE: low > min(opened, close) or high < max(opened, close),
        Reason.BAD_VOLUME: not 0.0 <= volume <= MAX_VOLUME,
    }
    expected = next((reason for reason, applies in flaws.items() if applies), Reason.NONE)
    assert clean.flaw(*numbers) == plain(clean.flaw)(*numbers) == expected
