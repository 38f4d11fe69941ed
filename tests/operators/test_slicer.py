import itertools
import math
import pickle
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.drive import flat
from operators.slicer import Activated, Arrival, Market, Params, Turned, restore, start, step
from schemas.calendar import Calendar
from schemas.events import Reason
from schemas.frames import SHARDS
from schemas.units import NS_PER_MINUTE, NS_PER_SECOND
from schemas.universe import shard_of

NAMES = [name for name in (f"S{k}" for k in range(200)) if shard_of(name) == 3][:4]
ONE = Calendar(1, date(2024, 6, 26), date(2024, 12, 31))
FIVE = Calendar(5, date(2024, 6, 26), date(2024, 12, 31))
OPEN = int(ONE.opens[ONE.sessions.searchsorted(19907)])  # 2024-07-03, a half day
GRACE = 5 * NS_PER_SECOND


def params(calendar=ONE, expected=NAMES, symbols=NAMES):
    return Params(calendar, GRACE, frozenset(symbols) if symbols else None, frozenset(expected) if expected else None)


def bar(minute, name, *, offset=0, close=10.0, volume=100.0, **other):
    """A bar that ends so many minutes after the open."""
    fields = {"open": 10.0, "high": max(10.0, close), "low": min(10.0, close), **other}
    return Arrival(offset, OPEN + minute * NS_PER_MINUTE, name, close=close, volume=volume, **fields)


def beat(minute, seconds=0):
    return Arrival(0, OPEN + minute * NS_PER_MINUTE + seconds * NS_PER_SECOND)


def numbered(records):
    return [Market(one.bar._replace(offset=k)) if isinstance(one, Market) else one._replace(offset=k)
            for k, one in enumerate(records)]  # fmt: skip


def run(given_params, records, cuts=(), shard=3):
    """Everything that comes out, with the state pickled and restored at each cut."""
    state, closed, turned = start(shard), [], []
    edges = [0, *sorted(cuts), len(records)]
    for begin, end in itertools.pairwise(edges):
        state = restore(start(shard), pickle.loads(pickle.dumps(flat(state))))
        state, (some, others) = step(given_params, state, records[begin:end])
        closed += some
        turned += others
    return state, closed, turned


def rows(slice_):
    return [(one.symbol, one.close) for one in slice_.bars]


def test_a_slice_closes_with_its_last_expected_bar_or_when_the_grace_is_over():
    early = [beat(0), *(bar(1, name) for name in NAMES), beat(1)]
    _, closed, _ = run(params(), numbered(early))
    assert [(one.ts, len(one.bars)) for one in closed] == [(OPEN + NS_PER_MINUTE, 4)]
    waits = [*early, bar(2, NAMES[0]), beat(2), beat(2, 4)]
    assert len(run(params(), numbered(waits))[1]) == 1
    assert [len(one.bars) for one in run(params(), numbered([*waits, beat(2, 5)]))[1]] == [4, 1]
    assert [len(one.bars) for one in run(params(), numbered([*waits, *(bar(2, name) for name in NAMES[1:])]))[1]] == [
        4,
        4,
    ]


def test_without_an_expected_universe_every_slice_waits_for_the_grace():
    records = [beat(0), *(bar(1, name) for name in NAMES), beat(1), beat(1, 4)]
    free = params(expected=None, symbols=None)
    assert run(free, numbered(records))[1] == []
    assert len(run(free, numbered([*records, beat(1, 5)]))[1]) == 1


def test_a_shard_of_which_nothing_is_expected_closes_when_the_slice_is_due():
    assert [one.ts for one in run(params(), [beat(0), beat(2)], shard=4)[1]] == [
        OPEN + k * NS_PER_MINUTE for k in (1, 2)
    ]


def test_a_late_bar_is_in_no_slice():
    late = bar(1, NAMES[1], close=11.0)
    _, closed, turned = run(params(), numbered([beat(0), bar(1, NAMES[0]), beat(1, 5), late]))
    assert [rows(one) for one in closed] == [[(NAMES[0], 10.0)]]
    assert turned == [Turned(late._replace(offset=3), Reason.NONE)]


def test_bars_finer_than_the_slice_are_put_together_in_order_of_time():
    name = NAMES[0]
    parts = [bar(3, name, close=12.0, high=15.0, bid=11.0, ask=13.0), bar(1, name, open=9.0, low=8.0, close=9.5),
             bar(5, name, close=11.0, volume=7.0, bid=10.0, ask=11.5)]  # fmt: skip
    _, (closed, *rest), turned = run(params(FIVE, [name]), numbered([beat(0), *parts, beat(5)]))
    assert (rest, turned) == ([], [])
    assert closed.bars == (Arrival(3, OPEN + 5 * NS_PER_MINUTE, name, 9.0, 15.0, 8.0, 11.0, 207.0, 10.0, 11.5),)


def test_symbols_get_ids_that_no_other_shard_can_give_and_keep_them():
    late_name = NAMES[3]
    records = [
        beat(0),
        *(bar(1, name) for name in NAMES[:3]),
        beat(1, 5),
        bar(2, late_name),
        bar(2, NAMES[0]),
        beat(2, 5),
    ]
    _, (first, second), _ = run(params(), numbered(records))
    assert [(entry.symbol, entry.slot, entry.name) for entry in first.listed] == [
        (slot * SHARDS + 3, slot, name) for slot, name in enumerate(sorted(NAMES[:3]))]  # fmt: skip
    assert [(entry.slot, entry.name) for entry in second.listed] == [(3, late_name)]
    assert {one.symbol: slot for one, slot in zip(second.bars, second.slots, strict=True)} == {
        NAMES[0]: 0,
        late_name: 3,
    }


def test_a_session_begins_with_the_names_of_all_symbols_so_far():
    """So a replay may begin with any session."""
    records = [beat(0), bar(1, NAMES[1]), bar(1, NAMES[0]), beat(1, 5)]
    tomorrow = 2 * 24 * 60  # the 4th of July is no session
    records += [beat(tomorrow, 5), bar(tomorrow + 1, NAMES[3]), beat(tomorrow + 1, 5), beat(tomorrow + 2, 5)]
    _, closed, _ = run(params(), numbered(records))
    first, second = [one for one in closed if one.ts > OPEN + tomorrow * NS_PER_MINUTE]
    assert [(entry.slot, entry.name) for entry in first.listed] == [
        *enumerate(sorted(NAMES[:2])), (2, NAMES[3])]  # fmt: skip
    assert second.listed == ()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (bar(2, NAMES[0], close=math.nan), Reason.NOT_A_NUMBER),
        (bar(2, NAMES[0], low=-1.0), Reason.BAD_PRICE),
        (bar(2, NAMES[0], high=9.0), Reason.BAD_RANGE),
        (bar(2, NAMES[0], volume=-1.0), Reason.BAD_VOLUME),
        (bar(2, "lower"), Reason.UNKNOWN_SYMBOL),
        (bar(2, "NOT_IN_THE_UNIVERSE"), Reason.UNKNOWN_SYMBOL),
        (bar(2, NAMES[0])._replace(ts=OPEN + 90 * NS_PER_SECOND), Reason.OFF_SESSION),
        (bar(-1, NAMES[0]), Reason.OFF_SESSION),
        (bar(0, NAMES[0]), Reason.OFF_SESSION),
        (bar(211, NAMES[0]), Reason.OFF_SESSION),  # after the close of the half day
        (bar(5, NAMES[0]), Reason.BAD_TIME),
        (bar(2, NAMES[1]), Reason.DUPLICATE),
    ],
    ids=lambda value: value.name if isinstance(value, Reason) else "",
)  # fmt: skip
def test_what_cannot_be_a_bar_is_refused_with_its_reason(wrong, reason):
    records = [beat(0), bar(1, NAMES[0]), beat(1, 5), bar(2, NAMES[1]), wrong, beat(2, 5)]
    _, closed, turned = run(params(), numbered(records))
    assert [entry.reason for entry in turned] == [reason]
    assert [rows(one) for one in closed] == [[(NAMES[0], 10.0)], [(NAMES[1], 10.0)]]


def test_a_bar_two_slices_ahead_of_the_feed_waits_for_its_slice():
    _, closed, turned = run(params(), numbered([beat(0), bar(2, NAMES[0]), beat(2, 5)]))
    assert [rows(one) for one in closed] == [[], [(NAMES[0], 10.0)]]
    assert turned == []


def test_the_log_of_slices_begins_with_the_first_beat():
    _, closed, turned = run(params(), numbered([bar(1, NAMES[0]), beat(1, 1), beat(2, 5)]))
    assert [(one.after, one.ts) for one in closed] == [(OPEN + NS_PER_MINUTE, OPEN + 2 * NS_PER_MINUTE)]
    assert [entry.reason for entry in turned] == [Reason.NONE]


record = st.one_of(
    st.builds(bar, st.integers(1, 6), st.sampled_from(NAMES), close=st.sampled_from([9.0, 10.0, 11.0, math.nan])),
    st.builds(beat, st.integers(0, 6), st.sampled_from([0, 3, 5, 9])),
)


@given(records=st.lists(record, max_size=40), cuts=st.lists(st.integers(0, 40), max_size=5), expect=st.booleans())
def test_where_the_log_is_cut_and_resumed_does_not_matter(records, cuts, expect):
    given_params = params(expected=NAMES[:2] if expect else None)
    log = numbered([beat(0), *records])
    whole, pieces = run(given_params, log), run(given_params, log, [min(cut, len(log)) for cut in cuts])
    assert repr(pieces) == repr(whole)  # NaN is not equal to itself


def is_refused(entry, clock, slices):
    is_repeat = any((entry.symbol, entry.ts) == (one.symbol, one.ts) for one in slices.get(entry.ts, []))
    return math.isnan(entry.close) or entry.ts > clock // NS_PER_MINUTE * NS_PER_MINUTE + 2 * NS_PER_MINUTE or is_repeat


@given(records=st.lists(record, max_size=40), expect=st.booleans())
def test_agrees_with_the_definition(records, expect):
    """Every record is in one place, and each slice is what had come when the first reason to close it came."""
    log = numbered([beat(0), *records])
    expected = NAMES[:2] if expect else None
    state, closed, turned = run(params(expected=expected), log)
    after, clock, slices, out = OPEN, OPEN, {}, []
    for entry in log:
        if not entry.symbol:
            clock = max(clock, entry.ts)
        elif is_refused(entry, clock, slices) or entry.ts <= after:
            out.append(entry.offset)
        else:
            slices.setdefault(entry.ts, []).append(entry)
        while True:
            due = after + NS_PER_MINUTE
            there = {one.symbol for one in slices.get(due, [])}
            if clock < due or not (clock >= due + GRACE or (expect and set(expected) <= there)):
                break
            after = due
    assert [one.ts for one in closed] == list(range(OPEN + NS_PER_MINUTE, after + 1, NS_PER_MINUTE))
    for one in closed:
        assert [item.offset for item in one.bars] == [
            item.offset for item in sorted(slices.get(one.ts, []), key=lambda item: item.symbol)]  # fmt: skip
    places = [item.offset for one in closed for item in one.bars] + [item.offset for item in state.pending]
    assert [entry.arrival.offset for entry in turned] == out
    assert sorted(places + out) == [entry.offset for entry in log if entry.symbol]


def activated(since, model="m", offset=0):
    return Activated(offset, OPEN + since * NS_PER_MINUTE, model, "b", f"{since}:{model}")


def told(closed):
    """Minutes of the slices, each with what came with it: since when, and which model."""
    return [((one.ts - OPEN) // NS_PER_MINUTE, [((each.since - OPEN) // NS_PER_MINUTE, each.model)
                                                for each in one.models]) for one in closed]  # fmt: skip


def test_a_model_acts_from_the_slice_that_is_named_and_one_that_comes_too_late_from_the_next():
    records = [activated(3, "two"), activated(2, "one"), beat(0), beat(1, 5), beat(2, 5), activated(1, "late"),
               beat(3, 5), beat(4, 5)]  # fmt: skip
    _, closed, _ = run(params(), numbered(records))
    expected = [(1, []), (2, [(2, "one")]), (3, [(3, "late"), (3, "two")]), (4, [])]
    assert told(closed) == expected
    again = [*records[:-1], *records[:2], records[-1]]
    assert told(run(params(), numbered(again))[1]) == expected  # delivered twice, it acts once


def test_a_session_begins_with_all_models_so_far():
    tomorrow = 2 * 24 * 60  # the 4th of July is no session
    records = [activated(1, "one"), beat(0), beat(1, 5), activated(tomorrow + 1, "two"), beat(tomorrow + 2, 5)]
    _, closed, _ = run(params(), numbered(records))
    later = [one for one in told(closed) if one[0] > tomorrow]
    assert later == [(tomorrow + 1, [(1, "one"), (tomorrow + 1, "two")]), (tomorrow + 2, [])]


MARKET = "SPY"


def market(minute, close=20.0, **other):
    return Market(bar(minute, MARKET, close=close, **{"high": max(close, 20.0), "low": 9.0, **other}))


def test_every_shard_is_told_the_market_s_close_and_waits_for_it():
    universe = [*NAMES, MARKET]
    given_params = params(expected=universe, symbols=universe)._replace(market=MARKET)
    bars = [bar(1, name) for name in NAMES]
    early = [beat(0), *bars, beat(1)]
    assert run(given_params, numbered(early))[1] == []
    _, closed, turned = run(given_params, numbered([*early, market(1, math.nan), market(1, 21.0), market(1, 22.0)]))
    assert ([one.market for one in closed], turned) == ([21.0], [])
    _, closed, _ = run(given_params, numbered([*early, beat(1, 5), market(1), beat(2, 5)]))
    assert [math.isnan(one.market) for one in closed] == [True, True]
    own = [name for name in (f"S{k}" for k in range(200)) if shard_of(name) == 3][5]
    mine = params(expected=[own], symbols=[own])._replace(market=own)
    assert [one.market for one in run(mine, numbered([beat(0), bar(1, own, close=12.0), beat(1)]))[1]] == [12.0]


more = st.one_of(record, st.builds(activated, st.integers(0, 7), st.sampled_from(["a", "b", ""])),
                 st.builds(market, st.integers(1, 6), st.sampled_from([20.0, 21.0, math.nan])))  # fmt: skip


@given(records=st.lists(more, max_size=40), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_where_the_log_is_cut_does_not_matter_to_models_and_the_market(records, cuts):
    universe = [*NAMES[:2], MARKET]
    given_params = params(expected=universe, symbols=[*NAMES, MARKET])._replace(market=MARKET)
    log = numbered([beat(0), *records])
    whole, pieces = run(given_params, log), run(given_params, log, [min(cut, len(log)) for cut in cuts])
    assert repr(pieces) == repr(whole)  # NaN is not equal to itself


def test_a_state_of_the_first_version_goes_on():
    former = (1, 3, OPEN, OPEN + 5, ("A",), ((7, OPEN + 6, "A", 1.0, 1.0, 1.0, 1.0, 2.0, 0.0, 0.0),))
    state = restore(start(3), former)
    assert (state.version, state.names, state.pending[0].offset, state.models) == (2, ("A",), 7, ())
