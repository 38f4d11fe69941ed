"""The compiled walk over slice records agrees with the reference decoder, and survives any bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import slice_columns
from operators.slice_columns import (
    AFTER,
    FLAWS,
    OVER,
    RANGE,
    SHARD,
    SHORT,
    SYMBOL,
    TIMEFRAME,
    TS,
    UNEVEN,
    UPTO,
    decode,
)
from schemas import codec
from schemas.records import Action, InForce, Listed, SliceBars
from tests.plain import kernels, plain

FLOATS = ("open", "high", "low", "close", "volume", "bid", "ask", "average_volume")
numbers = st.integers(0, 2**24 - 1)
times = st.integers(-(2**62), 2**62)


@st.composite
def slices(draw):
    rows = draw(st.integers(0, 5))

    def column(kind, elements):
        return np.array(draw(st.lists(elements, min_size=rows, max_size=rows)), kind).tobytes()

    after, ts, upto = sorted(draw(st.lists(times, min_size=3, max_size=3, unique=True)))
    prices = {name: column("<f8", st.floats()) for name in FLOATS[:5]}
    if draw(st.booleans()):
        prices |= {name: column("<f8", st.floats()) for name in FLOATS[5:7]}
    if draw(st.booleans()):
        prices["average_volume"] = column("<f8", st.floats())
    if draw(st.booleans()):
        prices["earnings_days"] = column("<i4", st.integers(-1, 2**31 - 1))
    if draw(st.booleans()):
        prices["market"] = np.array([draw(st.floats())]).tobytes()
    text = st.text(max_size=6)
    return SliceBars(
        shard=draw(st.integers(0, 15)), timeframe=draw(st.integers(1, 1440)), ts=ts, after=after,
        upto=draw(st.sampled_from([ts, upto])),
        listed=draw(st.lists(st.builds(Listed, symbol=numbers, slot=numbers, name=text), max_size=2)),
        symbol=column("<i4", numbers), slot=column("<i4", numbers), bar_ts=column("<i8", times), **prices,
        actions=draw(st.lists(st.builds(Action, symbol=numbers, new=times, old=times, dividend=times, slot=numbers),
                              max_size=2)),
        models=draw(st.lists(st.builds(InForce, since=times, model=text, bundle_sha256=text), max_size=2)),
    )  # fmt: skip


def reference(event):
    """What the slow decoder says of a record, as plain values."""
    bars = {name: np.frombuffer(getattr(event, name), "<f8") for name in FLOATS}
    lists = bool(event.listed or event.actions or event.models)
    return (
        (event.shard, event.timeframe, event.ts, event.after, event.upto, lists),
        np.frombuffer(event.symbol, "<i4").tobytes(), np.frombuffer(event.slot, "<i4").tobytes(), event.bar_ts, bars,
    )  # fmt: skip


def agrees(columns, events):
    has = {name: any(getattr(event, name) for event in events) for name in FLOATS}
    markets = [np.frombuffer(event.market or np.array([np.nan]).tobytes(), "<f8") for event in events]
    assert columns.market.tobytes() == (b"".join(map(bytes, markets)) if any(e.market for e in events) else b"")
    knows = any(event.earnings_days for event in events)
    if knows:
        unknown = np.array([-1], "<i4").tobytes()
        days = [event.earnings_days or unknown * (len(event.symbol) // 4) for event in events]
        assert columns.earnings_days.tobytes() == b"".join(days)
    else:
        assert not columns.earnings_days.size
    for i, event in enumerate(events):
        head, symbol, slot, bar_ts, bars = reference(event)
        rows = slice(columns.starts[i], columns.starts[i + 1])
        assert FLAWS[columns.flaws[i]] == ""
        assert (*columns.heads[i, [SHARD, TIMEFRAME, TS, AFTER, UPTO]].tolist(), i in columns.lists) == head
        assert columns.ts[i] == event.ts
        assert columns.symbol[rows].tobytes() == symbol
        assert columns.slot[rows].tobytes() == slot
        assert columns.bar_ts[rows].tobytes() == bar_ts
        for name in FLOATS:
            found = getattr(columns, name)[rows]
            if name in ("bid", "ask", "average_volume") and not bars[name].size:
                assert np.isnan(found).all()
                assert (found.size > 0) == (has[name] and len(symbol) > 0)
            else:
                assert found.tobytes() == bars[name].tobytes()


@given(st.lists(slices(), max_size=5))
def test_the_walk_agrees_with_the_reference_decoder(events):
    values = [codec.encode(event) for event in events]
    assert [codec.decode(SliceBars, value) for value in values] == events or any(
        np.isnan(np.frombuffer(event.open, "<f8")).any() for event in events
    )
    agrees(decode(values), events)


@given(st.lists(slices(), min_size=1, max_size=3), st.data())
def test_any_bytes_are_a_flaw_or_a_record_and_the_others_are_unharmed(events, data):
    values = [codec.encode(event) for event in events]
    at = data.draw(st.integers(0, len(values)))
    broken = data.draw(st.binary(max_size=80))
    if data.draw(st.booleans()) and values[0]:
        broken = values[0][: data.draw(st.integers(0, len(values[0]) - 1))]
    columns = decode([*values[:at], broken, *values[at:]])
    others = np.arange(len(values) + 1) != at
    assert not columns.flaws[others].any()
    if columns.flaws[at]:
        assert columns.starts[at] == columns.starts[at + 1]
        assert at not in columns.lists  # what it lists cannot be read
    rest = decode(values)
    if columns.flaws[at]:
        assert columns.symbol.tobytes() == rest.symbol.tobytes()
        assert columns.close.tobytes() == rest.close.tobytes()


@given(st.lists(slices(), max_size=3), st.binary(max_size=60))
def test_compiled_or_not_the_bits_are_the_same(events, noise):
    values = [*(codec.encode(event) for event in events), noise]
    compiled = decode(values)
    undone = {name: plain(getattr(slice_columns, name)) for name in kernels(slice_columns)}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("walk", "follow", "gather"):
            patch.setattr(slice_columns, name, undone[name])
        for one, other in zip(decode(values), compiled, strict=True):
            assert one.tobytes() == other.tobytes()
        assert decode([event(), event(after=20, ts=30, upto=30)]).sound(3, 1, 10)


def event(**changed):
    fields = {
        "shard": 3, "timeframe": 1, "ts": 20, "after": 10, "upto": 20, "symbol": b"\1\0\0\0", "slot": b"\2\0\0\0",
        "bar_ts": (20).to_bytes(8, "little"), **{name: np.float64(7).tobytes() for name in FLOATS[:5]},
    }  # fmt: skip
    return codec.encode(SliceBars(**(fields | changed)))


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        (event(), 0),
        (event(symbol=b"", slot=b"", bar_ts=b"", **dict.fromkeys(FLOATS[:5], b"")), 0),
        (event()[:-1], SHORT), (b"", SHORT), (b"\xff" * 40, SHORT), (event() + b"\0", OVER),
        (event(slot=b""), UNEVEN), (event(open=b"\0" * 7), UNEVEN), (event(bid=b"\0" * 8), UNEVEN),
        (event(symbol=b"\1\0\0"), UNEVEN),
        (event(average_volume=b"\0" * 7), UNEVEN), (event(earnings_days=b"\0" * 8), UNEVEN),
        (event(market=b"\0" * 16), UNEVEN), (event(models=[InForce(since=1, model="m")])[:-1], SHORT),
        (event(models=[InForce(since=1, model="m")]), 0), (event(actions=[Action(symbol=1)]), 0),
        (event(shard=16), RANGE), (event(shard=-1), RANGE), (event(after=20), RANGE), (event(upto=19), RANGE),
        (event(symbol=b"\xff" * 4), SYMBOL), (event(slot=b"\0\0\0\1"), SYMBOL),
    ],
)  # fmt: skip
def test_each_flaw_has_its_name(value, flaw):
    assert decode([value]).flaws.tolist() == [flaw]


def test_blocks_with_their_size_are_stepped_over():
    """Other writers may give an array's block a negative count and its size in bytes."""
    value = event(listed=[Listed(symbol=1, slot=2, name="AB")])
    head = codec.encode(SliceBars(**{**dict.fromkeys(("symbol", "slot", "bar_ts", *FLOATS[:5]), b""), "shard": 3,
                                     "timeframe": 1, "ts": 20, "after": 10, "upto": 20}))[:5]  # fmt: skip
    block = value[len(head) :]
    assert block[0] == 2  # one item
    other = head + b"\x01" + b"\x0a" + block[1:]  # minus one item, of five bytes
    found = decode([value, other])
    assert found.flaws.tolist() == [0, 0]
    assert found.lists.tolist() == [0, 1]
    assert found.close.tolist() == [7.0, 7.0]


CHAIN = [{"after": 10, "ts": 20, "upto": 20}, {"after": 20, "ts": 30, "upto": 35}, {"after": 35, "ts": 40, "upto": 40}]


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("changed", [{"shard": 4}, {"timeframe": 5}, {"after": 11}, {"upto": 200}, {"open": b""}])
def test_a_batch_is_sound_unless_one_record_is_not(at, changed):
    assert decode([event(**one) for one in CHAIN]).sound(3, 1, 10)
    wrong = [event(**(one | changed if k == at else one)) for k, one in enumerate(CHAIN)]
    last = at == 2 and "upto" in changed  # nothing follows it
    assert decode(wrong).sound(3, 1, 10) == last


def test_no_records_are_no_rows():
    columns = decode([])
    assert columns.starts.tolist() == [0]
    assert columns.close.size == 0
