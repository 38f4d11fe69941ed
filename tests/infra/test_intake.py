import io
from dataclasses import replace
from datetime import date

import fastavro
import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataflows.ingest import frame
from infra import intake, slice_log
from infra.gated_sink import ID
from infra.kafka import SCHEMA, TS
from infra.ranges import Messages
from operators.slicer import Arrival, Closed
from schemas import avro_files, codec
from schemas.calendar import Calendar
from schemas.frames import SHARDS, Actions, Listing
from schemas.records import InForce, SliceBars
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
                    [row.value for row in rows], headers)  # fmt: skip


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


# What stands beside the bars, and models.

TOLD = (InForce(since=CALENDAR.ts_at(FIRST + 1), model="one"), InForce(since=CALENDAR.ts_at(FIRST + 6), model="two"))


def beside(size: int) -> list:
    """The same slices with all that a record can carry; the session's first slice repeats the models."""
    made = []
    for k in range(size):
        after, ts = CALENDAR.ts_at(FIRST + k - 1), CALENDAR.ts_at(FIRST + k)
        bars = tuple(Arrival(0, ts, name, 10.0 + k, 10.0 + k, 10.0 + k, 10.0 + k, 5.0) for name in ("A", "B")[: k % 3])
        slots = tuple(range(len(bars)))
        listed = (Listing(SHARD, 0, "A"), Listing(SHARDS + SHARD, 1, "B")) if k == 0 else ()
        bare = frame(CALENDAR, Closed(SHARD, after, ts, listed, tuple(s * SHARDS + SHARD for s in slots), slots, bars))
        acted = np.array([1] if k % 5 == 1 else [], np.int32)
        actions = Actions(acted * 0, acted * SHARDS + SHARD, *(np.full(acted.size, n, np.int64) for n in (2, 1, 30)))
        full = replace(bare, earnings_days=np.arange(len(bars), dtype=np.int32) + k, market=np.array([100.0 + k]),
                       average_volume=np.full(len(bars), 7.0 * k), actions=actions, acted=acted)  # fmt: skip
        opens = CALENDAR.session_of(ts) != CALENDAR.session_of(after)
        models = [one for one in TOLD if one.since == ts or (opens and one.since < ts)]
        made.append(slice_log.record(full, 30, models))
    return made


FULL = beside(20)


@given(cuts=st.lists(st.integers(0, 20), max_size=4))
def test_what_stands_beside_the_bars_comes_through_however_the_log_is_cut(cuts):
    _, frames, letters = run(FULL, cuts)
    assert letters == []
    ts = [CALENDAR.ts_at(FIRST + k) for k in range(20)]
    found = {one.slices.ts[at]: market for one in frames for at, market in enumerate(one.market.tolist())}
    assert found == {ts[k]: 100.0 + k for k in range(20)}
    days = [day for one in frames for day in one.earnings_days.tolist()]
    assert days == [n + k for k in range(20) for n in range(k % 3)]
    assert [v for one in frames for v in one.average_volume.tolist()] == [7.0 * k for k in range(20)
                                                                         for _ in range(k % 3)]  # fmt: skip
    acts = [(one.slices.ts[at], symbol, slot, dividend) for one in frames for at, symbol, slot, dividend in zip(
        one.actions.at, one.actions.symbol, one.acted, one.actions.dividend, strict=True)]  # fmt: skip
    assert acts == [(ts[k], SHARDS + SHARD, 1, 30) for k in range(1, 20, 5)]
    models = [(one.slices.ts[event.at], event.model) for one in frames for event in one.models]
    assert models == [(one.since, one.model) for one in TOLD]


@given(lost=st.sets(st.integers(1, 19), max_size=6), cuts=st.lists(st.integers(0, 20), max_size=4))
def test_a_model_whose_record_is_lost_comes_with_the_next_session_at_the_latest(lost, cuts):
    rows = [damaged(row, "junk") if k in lost else row for k, row in enumerate(FULL)]
    _, frames, _ = run(rows, cuts)
    models = [(int(one.slices.ts[event.at]), event.model) for one in frames for event in one.models]
    first = [k for k in range(20) if CALENDAR.session_of(CALENDAR.ts_at(FIRST + k)) != CALENDAR.session_of(
        CALENDAR.ts_at(FIRST + k - 1))]  # fmt: skip
    expected, upto = [], 0
    for k, row in enumerate(FULL):
        told = [
            one for one in TOLD if one.since > upto and (one.since == row.ts or (k in first and one.since < row.ts))
        ]
        if k not in lost and told:
            expected += [(row.ts, one.model) for one in told]
            upto = max(one.since for one in told)
    assert models == expected
    assert all(one.market.size in (0, one.slices.size) for one in frames)


def test_records_of_the_former_schema_are_read():
    """As they were written before there was anything beside the bars."""
    (old,) = [one for one in avro_files.versions("slice_bars") if "market" not in {f["name"] for f in one["fields"]}]
    plain = codec.decode(SliceBars, GOOD[1].value)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(old, named_schemas={}), msgspec.to_builtins(
        plain, builtin_types=(bytes,)))  # fmt: skip
    mark = avro_files.fingerprint(old).encode()
    former = GOOD[1]._replace(value=out.getvalue(), headers=((SCHEMA, mark),))
    _, frames, letters = run([GOOD[0], former], [1])
    assert letters == []
    assert bars(frames) == bars(run(GOOD[:2], [])[1])


def test_a_state_of_the_first_version_goes_on():
    assert intake.restore(intake.start(), (1, 77, 2)) == (2, 77, 2, 77)
