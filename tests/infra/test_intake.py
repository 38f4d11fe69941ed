from datetime import date

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataflows.ingest import frame
from infra import intake, slice_log
from infra.gated_sink import ID
from infra.kafka import SCHEMA, TS
from infra.ranges import Messages
from operators.slicer import Arrival, Closed
from schemas.calendar import Calendar
from schemas.frames import SHARDS, Listing
from schemas.units import NS_PER_MINUTE

CALENDAR = Calendar(30, date(2024, 6, 26), date(2024, 12, 31))
FIRST = CALENDAR.index_after(int(CALENDAR.closes[CALENDAR.sessions.searchsorted(19906)]) - 3 * 30 * NS_PER_MINUTE)
SHARD = 3


def records(size: int) -> list:
    """Slices over the close of a session and into the next, with 0 to 2 bars each."""
    made = []
    for k in range(size):
        after, ts = CALENDAR.ts_at(FIRST + k - 1), CALENDAR.ts_at(FIRST + k)
        bars = tuple(Arrival(0, ts, name, 10.0 + k, 10.0 + k, 10.0 + k, 10.0 + k, 5.0) for name in ("A", "B")[: k % 3])
        slots = tuple(range(len(bars)))
        listed = (Listing(SHARD, 0, "A"), Listing(SHARDS + SHARD, 1, "B")) if k == 0 else ()
        closed = Closed(SHARD, after, ts, listed, tuple(slot * SHARDS + SHARD for slot in slots), slots, bars)
        made.append(slice_log.record(frame(CALENDAR, closed), 30))
    return made


def messages(rows: list, first: int) -> Messages:
    headers = [[(ID, row.id.encode()), (TS, b"%d" % row.ts), *row.headers] for row in rows]
    size = len(rows)
    return Messages("market.slices", SHARD, list(range(first, first + size)), [row.key for row in rows],
                    [row.value for row in rows], headers, [0] * size)  # fmt: skip


def run(rows: list, cuts: list[int]):
    state, frames, letters = intake.start(), [], []
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for begin, end in zip(edges, edges[1:], strict=False):  # noqa: RUF007
        state, answer = intake.step(CALENDAR, state, messages(rows[begin:end], begin))
        frames += answer.frames
        letters += answer.letters
    return state, frames, letters


def bars(frames: list) -> list:
    return [(ts, symbol, close) for one in frames for ts, symbol, close in
            zip(one.ts.tolist(), one.symbol.tolist(), one.close.tolist(), strict=True)]  # fmt: skip


GOOD = records(20)
damage = st.sampled_from(["", "", "", "junk", "cut", "without headers", "gone"])


def damaged(row, how: str):
    match how:
        case "junk":
            return row._replace(value=b"\xff\x00junk")
        case "cut":
            return row._replace(value=row.value[:-3])
        case "without headers":
            return row._replace(value=b"", ts=0)
    return row


@given(how=st.lists(damage, min_size=20, max_size=20), cuts=st.lists(st.integers(0, 20), max_size=4))
def test_a_bad_record_is_a_letter_and_a_hole_and_nothing_else(how, cuts):
    """The promise goes on without a gap, good bars all come through, and how the log was cut does not matter."""
    how[0] = ""  # where the log begins must be told
    rows = [damaged(row, one) for row, one in zip(GOOD, how, strict=True) if one != "gone"]
    state, frames, letters = run(rows, cuts)
    good = [k for k, one in enumerate(how) if one == ""]
    assert len(letters) == state.holes == sum(one not in ("", "gone") for one in how)
    expected = [(row.ts, SHARD + SHARDS * n, 10.0 + k) for k in good for row in [GOOD[k]] for n in range(k % 3)]
    assert bars(frames) == expected
    assert all(one.slices.after == before.slices.upto for before, one in zip(frames, frames[1:], strict=False))  # noqa: RUF007
    assert state.upto >= GOOD[good[-1]].ts
    for one in frames:
        first, last = CALENDAR.index_after(one.slices.after), CALENDAR.index_after(one.slices.upto)
        assert one.slices.ts.tolist() == [CALENDAR.ts_at(k) for k in range(first, last)]
        assert len(set(one.slices.session.tolist())) <= 1  # so that the state at each close can be kept


@given(cuts=st.lists(st.integers(0, 20), max_size=4))
def test_frames_end_with_their_session(cuts):
    _, frames, letters = run(GOOD, cuts)
    assert letters == []
    closes = {one.slices.upto for one in frames} & set(CALENDAR.closes.tolist())
    assert closes == {row.ts for row in GOOD} & set(CALENDAR.closes.tolist())
    assert len(closes) == 2


def test_what_belongs_elsewhere_is_a_letter():
    other = Calendar(60, date(2024, 6, 26), date(2024, 12, 31))
    _, answer = intake.step(other, intake.start(), messages(GOOD[:2], 0))
    assert [one.kind for one in answer.letters] == ["wrong_timeframe"] * 2
    moved = messages(GOOD[:2], 0)._replace(partition=4)
    _, answer = intake.step(CALENDAR, intake.start(), moved)
    assert [one.kind for one in answer.letters] == ["wrong_partition"] * 2
    state, _ = intake.step(CALENDAR, intake.start(), messages(GOOD[:2], 0))
    _, answer = intake.step(CALENDAR, state, messages(GOOD[1:2], 2))
    assert [one.kind for one in answer.letters] == ["repeated"]


def test_an_unknown_schema_is_a_letter():
    one = messages(GOOD[:1], 0)
    headers = [(name, b"0" * 16 if name == SCHEMA else value) for name, value in one.headers[0]]
    _, answer = intake.step(CALENDAR, intake.start(), one._replace(headers=[headers]))
    assert [letter.kind for letter in answer.letters] == ["undecodable"]
    assert np.concatenate([frame_.ts for frame_ in answer.frames] or [np.zeros(0)]).size == 0
