import gzip
import itertools
import os
import resource
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import sorting
from infra.barfiles import PRICES, QUOTES, Column
from infra.bars import open_bars
from schemas.errors import UserError
from schemas.frames import SHARDS
from schemas.units import NS_PER_MINUTE
from schemas.universe import shard_of
from tests.infra.barkit import (
    HEADER,
    LEAN,
    OPEN,
    ROW,
    bars_table,
    chunks,
    csv_text,
    needs_lean,
    parquet,
    rows_by_shard,
)

SMALL = [(1, "SPY", 10.0), (1, "AAPL", 20.0), (2, "SPY", 11.0), (3, "AAPL", 21.0), (3, "SPY", 12.0)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("UTP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bars"


@pytest.fixture
def small(tmp_path):
    return parquet(tmp_path / "small.parquet", bars_table(SMALL))


# What is in a frame


def test_a_file_of_five_bars_by_hand(small):
    bars = open_bars(small, timeframe="1m", frame_slices=2)
    assert bars.universe.names == ["AAPL", "SPY"]
    assert (bars.rows, bars.chunks, bars.timeframe, bars.slices) == (5, 2, 1, 3)
    assert (bars.first_ts, bars.last_ts) == (OPEN + NS_PER_MINUTE, OPEN + 3 * NS_PER_MINUTE)
    assert not bars.synthetic
    assert not bars.has_quotes
    first, second = bars.frames([shard_of("SPY")])
    assert first[0].close.tolist() == [10.0, 11.0]
    assert second[0].close.tolist() == [12.0]
    assert first[0].bid.size == 0
    assert [listing.name for listing in first[0].listed] == ["SPY"]
    assert second[0].listed == ()
    assert first[0].slices.ts.tolist() == [OPEN + NS_PER_MINUTE, OPEN + 2 * NS_PER_MINUTE]
    assert (first[0].slices.after, second[0].slices.upto) == (bars.after, bars.upto)


def test_ranges_follow_each_other_without_gap(small):
    for frames in (list(open_bars(small, timeframe="1m", frame_slices=n).frames()) for n in (1, 2, 3, 9)):
        edges = [(chunk[0].slices.after, chunk[0].slices.upto) for chunk in frames]
        assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))
        assert [frame.shard for chunk in frames for frame in chunk] == list(range(SHARDS)) * len(frames)


def test_bars_outside_the_session_travel_in_the_frame_of_their_time(tmp_path):
    late = [(-30, "SPY", 1.0), (1, "SPY", 2.0), (389, "SPY", 3.0), (400, "SPY", 4.0), (1441, "SPY", 5.0)]
    bars = open_bars(parquet(tmp_path / "late.parquet", bars_table(late)), timeframe="1m", frame_slices=100)
    frames = [chunk[0] for chunk in bars.frames([shard_of("SPY")])]
    assert [value for frame in frames for value in frame.close.tolist()] == [1.0, 2.0, 3.0, 4.0, 5.0]
    for frame in frames:
        assert ((frame.slices.after < frame.ts) & (frame.ts <= frame.slices.upto)).all()


def test_only_bars_outside_every_session_are_one_chunk_without_slices(tmp_path):
    night = parquet(tmp_path / "night.parquet", bars_table([(600, "SPY", 1.0), (601, "SPY", 1.0)]))
    bars = open_bars(night)
    assert (bars.chunks, bars.slices) == (1, 0)
    assert sum(frame.ts.size for frame in next(bars.frames())) == 2


def test_the_market_is_its_first_bar_of_a_slice_wherever_the_file_is_divided(tmp_path):
    twice = [(1, "AAPL", 9.0), (1, "SPY", 3.0), (1, "SPY", 1.0), (2, "AAPL", 8.0), (3, "SPY", 2.0)]
    for group in (1, 2, 5):
        spec = parquet(tmp_path / f"{group}.parquet", bars_table(twice), row_group_size=group)
        for chosen in (["AAPL"], ["AAPL", "SPY"]):  # asked for or not
            bars = open_bars(spec, timeframe="1m", symbols=chosen, frame_slices=2)
            seen = np.concatenate([chunk[0].market for chunk in bars.frames()])
            assert np.array_equal(seen, [3.0, np.nan] if len(chosen) == 1 else [3.0, np.nan, 2.0], equal_nan=True)


def test_a_file_without_quotes_beside_one_that_has_them_has_unknown_ones(tmp_path):
    for group in (1, 9):
        folder = tmp_path / str(group)
        folder.mkdir()
        parquet(folder / "a.parquet", bars_table(SMALL[:2], quotes=True), row_group_size=group)
        parquet(folder / "b.parquet", bars_table(SMALL[2:]), row_group_size=group)
        bars = open_bars(str(folder), timeframe="1m")
        frame = next(bars.frames([shard_of("SPY")]))[0]
        assert frame.close.tolist() == [10.0, 11.0, 12.0]
        for name in QUOTES:
            assert np.isnan(getattr(frame, name)).tolist() == [False, True, True]


@pytest.mark.parametrize("order", [1, -1])
def test_row_groups_without_rows_are_passed_by(tmp_path, order):
    whole = bars_table(SMALL[::order], quotes=True)
    path = tmp_path / "holes.parquet"
    with pq.ParquetWriter(path, whole.schema) as writer:
        for rows in (0, 2, 0, 0, 3, 0):
            writer.write_table(whole.slice(whole.num_rows if not rows else 0 if rows == 2 else 2, rows))
    assert [pq.ParquetFile(path).metadata.row_group(k).num_rows for k in range(6)] == [0, 2, 0, 0, 3, 0]
    expected = open_bars(parquet(tmp_path / "whole.parquet", whole), timeframe="1m")
    assert chunks(open_bars(str(path), timeframe="1m")) == chunks(expected)


def test_many_small_files_are_not_all_open_at_once(tmp_path):
    folder = tmp_path / "days"
    folder.mkdir()
    many = [(minute, "SPY", 1.0 + minute) for minute in range(1, 121)]
    for k in range(60):
        parquet(folder / f"{k:02}.parquet", bars_table(many[2 * k : 2 * k + 2], quotes=True))
    bars = open_bars(str(folder))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, before[1]))
    try:
        frame = next(bars.frames([shard_of("SPY")]))[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert frame.close.tolist() == [close for *_, close in many]


@given(
    sources=st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=4),
    asked=st.lists(st.integers(0, 6), max_size=12),
)
def test_a_column_gives_what_is_asked_for_in_order_and_never_less(sources, asked):
    column, values = Column(), iter(range(1_000))
    for sizes in sources:
        column.add([np.array([next(values) for _ in range(size)], np.float64) for size in sizes])
    there, at = sum(map(sum, sources)), 0
    for rows in asked:
        if at + rows > there:
            with pytest.raises(RuntimeError, match="fewer rows than there are keys"):
                list(column.take(rows))
            return
        pieces = list(column.take(rows))
        assert all(piece.size for piece in pieces)
        assert [value for piece in pieces for value in piece.tolist()] == list(range(at, at + rows))
        at += rows


def test_repeated_bars_keep_the_order_of_the_file(tmp_path):
    twice = [(1, "SPY", 3.0), (1, "AAPL", 9.0), (1, "SPY", 1.0), (1, "SPY", 2.0)]
    for name, order in (("as_is", twice), ("sorted_by_us", [(2, "SPY", 4.0), *twice])):
        bars = open_bars(parquet(tmp_path / f"{name}.parquet", bars_table(order)), timeframe="1m")
        frame = next(bars.frames([shard_of("SPY")]))[0]
        assert frame.close.tolist()[:3] == [3.0, 1.0, 2.0]


def test_null_numbers_are_nan(tmp_path):
    table = bars_table(SMALL).set_column(5, "close", pa.array([10.0, None, 11.0, 21.0, None]))
    table = table.set_column(6, "volume", pa.array([1, 2, None, 4, 5], pa.int64()))
    for spec in (
        parquet(tmp_path / "nulls.parquet", table),
        _write(tmp_path / "nulls.csv", csv_text(table)),
    ):
        closes, volumes = zip(*_by_symbol(open_bars(spec, timeframe="1m"), "close", "volume"), strict=True)
        assert np.array_equal(np.concatenate(closes), [np.nan, 21.0, 10.0, 11.0, np.nan], equal_nan=True)
        assert np.array_equal(np.concatenate(volumes), [2, 4, 1, np.nan, 5], equal_nan=True)


def test_names_are_upper_cased_and_one_however_written(tmp_path):
    mixed = [(1, "spy", 1.0), (2, "SPY", 2.0), (2, "aapl", 5.0), (3, "Spy", 3.0)]
    bars = open_bars(parquet(tmp_path / "mixed.parquet", bars_table(mixed)), timeframe="1m")
    assert bars.universe.names == ["AAPL", "SPY"]
    assert next(bars.frames([shard_of("SPY")]))[0].close.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_any_unit_of_time_and_any_number_type(tmp_path, unit, small):
    table = bars_table(SMALL, unit=unit)
    table = table.set_column(2, "open", table["open"].cast(pa.float32()))
    table = table.set_column(6, "volume", table["volume"].cast(pa.decimal128(10, 2)))
    table = table.set_column(0, "symbol", table["symbol"].cast(pa.large_string()))
    table = table.set_column(1, "ts", table["ts"].cast(pa.timestamp(unit, "America/New_York")))
    assert rows_by_shard(open_bars(parquet(tmp_path / "t.parquet", table))) == rows_by_shard(open_bars(small))


def test_symbols_and_range_choose(small):
    bars = open_bars(small, timeframe="1m", symbols=["spy"], start=OPEN + 2 * NS_PER_MINUTE)
    assert (bars.rows, bars.universe.names) == (2, ["SPY"])
    assert next(bars.frames([shard_of("SPY")]))[0].close.tolist() == [11.0, 12.0]
    bars = open_bars(small, timeframe="1m", stop=OPEN + 2 * NS_PER_MINUTE)
    assert (bars.rows, bars.last_ts, bars.universe.names) == (3, OPEN + 2 * NS_PER_MINUTE, ["AAPL", "SPY"])
    assert sum(frame.ts.size for frame in next(bars.frames())) == 3


def test_a_start_inside_a_slice_leaves_what_is_before_it_out(tmp_path):
    hours = [(15, "SPY", 1.0), (20, "SPY", 2.0), (30, "SPY", 3.0)]
    spec = parquet(tmp_path / "hours.parquet", bars_table(hours))
    bars = open_bars(spec, timeframe="1h", start=OPEN + 20 * NS_PER_MINUTE)
    assert next(bars.frames([shard_of("SPY")]))[0].close.tolist() == [2.0, 3.0]
    assert bars.rows == 2


def test_quotes_that_one_file_lacks_are_nan(tmp_path):
    folder = tmp_path / "both"
    folder.mkdir()
    parquet(folder / "a.parquet", bars_table([(1, "SPY", 10.0)], quotes=True))
    for later in (2, 1):  # read as it is, and through a sorted copy
        parquet(folder / "b.parquet", bars_table([(later, "SPY", 11.0)]))
        bars = open_bars(str(folder), timeframe="1m")
        assert bars.has_quotes
        assert np.array_equal(next(bars.frames([shard_of("SPY")]))[0].bid, [9.99, np.nan], equal_nan=True)


def test_the_automatic_size_of_a_chunk(small):
    assert open_bars(small, timeframe="1m").slices_per_chunk == 131_072
    assert open_bars("synthetic:symbols=100,days=1").slices_per_chunk == 2622
    assert open_bars("synthetic:symbols=1,days=1").slices_per_chunk == 262_144


def test_unused_columns_do_no_harm(tmp_path, small):
    table = bars_table(SMALL)
    table = table.append_column("vwap", pa.array(["x"] * 5)).append_column("trades", pa.array([[1]] * 5))
    assert rows_by_shard(open_bars(parquet(tmp_path / "wide.parquet", table))) == rows_by_shard(open_bars(small))


# How files divide and order the bars does not matter

market = st.lists(
    st.tuples(st.integers(-5, 500), st.sampled_from(["SPY", "aapl", "IBM", "BAC", "ge", "T"]), st.integers(1, 999)),
    min_size=1,
    max_size=40,
    unique_by=lambda row: (row[0], row[1]),
)
slow = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@slow
@given(data=st.data(), bars=market, quotes=st.booleans(), size=st.integers(1, 50))
def test_neither_order_nor_files_nor_frames_change_the_bars(data, bars, quotes, size):
    bars.sort(key=lambda row: (row[0], row[1].upper()))
    shuffled = data.draw(st.permutations(bars))
    cut = data.draw(st.integers(0, len(bars)))
    group = data.draw(st.integers(1, 10))
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("UTP_CACHE_DIR", f"{name}/cache")
        home = Path(name)
        expected = rows_by_shard(open_bars(parquet(home / "all.parquet", bars_table(bars, quotes)), timeframe="1m"))
        mixed = bars_table(shuffled, quotes)
        folder = home / "folder"
        folder.mkdir()
        parquet(folder / "z.parquet", bars_table(bars[:cut], quotes))
        _write(folder / "a.csv", csv_text(bars_table(bars[cut:], quotes)))
        later = home / "later"
        later.mkdir()
        parquet(later / "z.parquet", bars_table(bars[:cut], quotes), row_group_size=group)
        parquet(later / "a.parquet", bars_table(bars[cut:], quotes))
        for spec in (
            parquet(home / "groups.parquet", bars_table(bars, quotes), row_group_size=group),
            parquet(home / "mixed.parquet", mixed, row_group_size=group),
            _write(home / "mixed.csv", csv_text(mixed)),
            _write(home / "mixed.csv.gz", csv_text(mixed)),
            str(folder),
            str(later),
        ):
            assert rows_by_shard(open_bars(spec, timeframe="1m", frame_slices=size)) == expected


@slow
@given(bars=market, size=st.integers(1, 50), shards=st.sets(st.integers(0, 15), min_size=1))
def test_resuming_at_any_chunk_is_the_tail(bars, size, shards):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("UTP_CACHE_DIR", f"{name}/cache")
        spec = parquet(Path(name) / "all.parquet", bars_table(bars), row_group_size=5)
        bars = open_bars(spec, timeframe="1m", frame_slices=size)
        whole = chunks(bars)
        assert len(whole) == bars.chunks
        for first in range(bars.chunks + 1):
            assert chunks(bars, first=first) == whole[first:]
        assert chunks(bars, shards) == [[frame for frame in chunk if frame[0] in shards] for chunk in whole]


def test_resuming_reads_only_the_row_groups_from_there_on(tmp_path, monkeypatch):
    many = [(minute, "SPY", 1.0 + minute) for minute in range(1, 391)]
    bars = open_bars(parquet(tmp_path / "m.parquet", bars_table(many), row_group_size=10), frame_slices=30)
    read = []
    original = pq.ParquetFile.iter_batches

    def spy(self, *args, **kwargs):
        read.append((kwargs["columns"], kwargs["row_groups"]))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    tail = chunks(bars, first=10)
    columns = [*([name] for name in PRICES), ["symbol", "ts"]]
    assert read == [(each, list(range(30, 39))) for each in columns]  # each once, numbers by themselves
    assert len(tail) == 3


# Files from elsewhere


@needs_lean
@pytest.mark.parametrize(
    ("name", "minutes", "count", "symbols"),
    [("hour", 60, 228_527, 10), ("daily", 1440, 70_025, 21), ("minute_trade", 1, 21_258, 10)],
)
def test_sample_bars(name, minutes, count, symbols, cache):
    bars = open_bars(str(LEAN / f"{name}.parquet"))
    assert (bars.timeframe, bars.rows, len(bars.universe)) == (minutes, count, symbols)
    table = pq.read_table(LEAN / f"{name}.parquet", columns=["symbol", "ts", "close"])
    expected: dict[str, np.ndarray] = {
        symbol: table.filter(pa.compute.equal(table["symbol"], symbol.lower()))["close"].to_numpy()
        for symbol in bars.universe.names
    }
    found = dict(zip(bars.universe.names, (close for (close,) in _by_symbol(bars, "close")), strict=True))
    assert all(np.array_equal(found[symbol], expected[symbol]) for symbol in expected)
    assert len(list(cache.glob("*.parquet"))) == 1  # it is sorted by symbol: through a copy


@needs_lean
def test_sample_bars_as_csv_are_the_same(tmp_path):
    table = pq.read_table(LEAN / "minute_trade.parquet")
    table = table.select(HEADER.split(","))
    text = _write(tmp_path / "minute.csv.gz", csv_text(table))
    assert chunks(open_bars(text)) == chunks(open_bars(str(LEAN / "minute_trade.parquet")))


@needs_lean
def test_a_range_of_the_sample_is_that_part_of_it():
    spec = str(LEAN / "hour.parquet")
    start, stop = (int(datetime(2008, 9, day, tzinfo=UTC).timestamp()) * 10**9 for day in (1, 20))
    bars = open_bars(spec, start=start, stop=stop, symbols=["aig", "spy"])
    frames = [frame for chunk in bars.frames() for frame in chunk]
    assert sum(frame.ts.size for frame in frames) == bars.rows == 2 * 14 * 7
    assert all(((start <= frame.ts) & (frame.ts <= stop)).all() for frame in frames)


# The cache


def test_a_sorted_file_is_read_as_it_is(small, cache):
    open_bars(small, timeframe="1m")
    assert not list(cache.glob("*.parquet"))
    assert len(list(cache.glob("*.json"))) == 1


def test_the_copy_is_used_again_until_the_file_changes(tmp_path, cache, monkeypatch):
    path = tmp_path / "mixed.parquet"
    spec = parquet(path, bars_table(SMALL[::-1]))
    first = open_bars(spec, timeframe="1m")
    sorted_ = []
    monkeypatch.setattr(sorting, "_sort", lambda *_: sorted_.append(1))
    again = open_bars(spec, timeframe="1m")
    assert chunks(again) == chunks(first)
    assert again.fingerprint == first.fingerprint
    assert not sorted_
    monkeypatch.undo()
    monkeypatch.setenv("UTP_CACHE_DIR", str(cache.parent))
    parquet(path, bars_table([*SMALL[::-1], (4, "SPY", 13.0)]))
    changed = open_bars(spec, timeframe="1m")
    assert changed.rows == 6
    assert changed.fingerprint != first.fingerprint
    assert len(list(cache.glob("*.parquet"))) == 2


def test_two_may_sort_the_same_file_at_once(tmp_path, cache):
    spec = parquet(tmp_path / "mixed.parquet", bars_table(SMALL[::-1]))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: rows_by_shard(open_bars(spec, timeframe="1m")), range(4)))
    assert all(each == found[0] for each in found)
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".parquet"]


def test_a_lost_copy_or_a_spoilt_note_is_made_again(tmp_path, cache):
    spec = parquet(tmp_path / "mixed.parquet", bars_table(SMALL[::-1]))
    expected = rows_by_shard(open_bars(spec, timeframe="1m"))
    for pattern in ("*.parquet", "*.json"):
        for path in cache.glob(pattern):
            path.unlink()
        assert rows_by_shard(open_bars(spec, timeframe="1m")) == expected
    next(cache.glob("*.json")).write_bytes(b'{"files":')
    assert rows_by_shard(open_bars(spec, timeframe="1m")) == expected


def test_old_copies_and_leftovers_go(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(sorting, "KEPT_BYTES", 1)
    for name in "ab":
        open_bars(parquet(tmp_path / f"{name}.parquet", bars_table(SMALL[::-1])), timeframe="1m")
        (cache / ".sort-dead").mkdir(exist_ok=True)
        os.utime(cache / ".sort-dead", (0, 0))
    open_bars(parquet(tmp_path / "c.parquet", bars_table(SMALL[::-1])), timeframe="1m")
    assert len(list(cache.glob("*.parquet"))) == 1
    assert not list(cache.glob(".*"))


def test_without_a_cache_a_sorted_file_still_opens(small, tmp_path, monkeypatch):
    _write(tmp_path / "taken", "a file where the folder would be")
    monkeypatch.setenv("UTP_CACHE_DIR", str(tmp_path / "taken"))
    assert open_bars(small, timeframe="1m").rows == 5


def test_sorting_needs_no_more_memory_than_it_may_have(tmp_path, monkeypatch):
    monkeypatch.setattr(sorting, "_MEMORY", "64MB")
    source = tmp_path / "big.parquet"
    count = 1_000_000
    draw = np.random.default_rng(1)
    minutes = draw.integers(1, 390, count)
    table = pa.table({
        "symbol": pa.array(np.array(["SPY", "AAPL", "IBM"], object)[draw.integers(0, 3, count)]),
        "ts": pa.array(OPEN + minutes * NS_PER_MINUTE).cast(pa.timestamp("ns", "UTC")),
        **{name: draw.random(count) for name in ("open", "high", "low", "close", "volume")},
    })  # fmt: skip
    bars = open_bars(parquet(source, table))
    assert bars.rows == count
    for chunk in bars.frames():
        for frame in chunk:
            assert (np.diff(frame.ts) >= 0).all()


# Errors: one line, the value and the remedy


def _write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def _by_symbol(bars, *names):
    """For each symbol its columns over all chunks."""
    frames = [frame for chunk in bars.frames() for frame in chunk]
    for symbol in range(len(bars.universe)):
        yield [np.concatenate([getattr(f, name)[f.symbol == symbol] for f in frames]) for name in names]


def _naive(table):
    return table.set_column(1, "ts", table["ts"].cast(pa.timestamp("us")))


TABLES = {
    "a naive time": (_naive, "column ts has no time zone; store it as timestamp[us, UTC]"),
    "a bare number": (
        lambda t: t.set_column(1, "ts", t["ts"].cast(pa.int64())),
        "column ts is int64; store it as timestamp[us, UTC]",
    ),
    "text in a price": (
        lambda t: t.set_column(5, "close", pa.array(["1.5", "2", "dear", "x", "5"])),
        "row 3, column close: 'dear' is not a number",
    ),
    "a list as price": (lambda t: t.set_column(2, "open", pa.array([[1.0]] * 5)), "column open is list"),
    "a number as symbol": (lambda t: t.set_column(0, "symbol", pa.array([1] * 5)), "column symbol is int64"),
    "no symbol": (
        lambda t: t.set_column(0, "symbol", pa.array(["SPY", "AAPL", "SPY", None, "SPY"])),
        "row 4 has no symbol",
    ),
    "no time": (
        lambda t: t.set_column(1, "ts", pa.array([*t["ts"].to_pylist()[:2], None, None, None], t["ts"].type)),
        "row 3 has no ts",
    ),
    "a missing column": (
        lambda t: t.rename_columns(["Close" if name == "close" else name for name in t.column_names]),
        "has no column close; did you mean Close?",
    ),
    "one quote": (lambda t: t.append_column("ask", t["close"]), "has ask without bid; give both or none"),
    "a name with a space": (
        lambda t: t.set_column(0, "symbol", pa.array(["S PY"] * 5)),
        "symbol 'S PY': want 1 to 24 visible ASCII",
    ),
    "a name from elsewhere": (
        lambda t: t.set_column(0, "symbol", pa.array(["stra\u00dfe"] * 5)),
        "want 1 to 24 visible ASCII",
    ),
    "a long name": (lambda t: t.set_column(0, "symbol", pa.array(["X" * 25] * 5)), "want 1 to 24 visible"),
    "no rows": (lambda t: t.slice(0, 0), "no rows"),
    "a time before all time": (
        lambda t: t.set_column(1, "ts", pa.array([0] * 5, pa.timestamp("us", "UTC"))),
        "a bar of 1970-01-01T00:00:00Z; bars may be from 1990-01-01 to 2049-12-31",
    ),
    "a time beyond counting": (
        lambda t: t.set_column(1, "ts", pa.array([2**62] * 5, pa.timestamp("us", "UTC"))),
        "row 1: ts 4611686018427387904 us since 1970 is no date",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), TABLES.values(), ids=TABLES.keys())
def test_tables_that_are_refused(tmp_path, spoil, message):
    spec = parquet(tmp_path / "bad.parquet", spoil(bars_table(SMALL)))
    with pytest.raises(UserError) as error:
        list(open_bars(spec, timeframe="1m").frames())
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "bad.parquet" in str(error.value)


TEXTS = {
    "nothing": ("", "is empty"),
    "a header only": (HEADER + "\n", "no rows"),
    "a naive time": (f"{HEADER}\nSPY,2024-01-02T14:31:00,1,1,1,1,1", "14:31:00' has no time zone"),
    "a date": (f"{HEADER}\nSPY,2024-01-02,1,1,1,1,1", "'2024-01-02' has no time zone"),
    "no time at all": (f"{HEADER}\n{ROW}\nSPY,soon,1,1,1,1,1", "row 2, column ts: 'soon' is no time"),
    "a number": (f"{HEADER}\nSPY,1704205860000000000,1,1,1,1,1", "is no time; write it as"),
    "text in a price": (f"{HEADER}\n{ROW}\nSPY,2024-01-02T14:32Z,1,n/a,1,1,1",
                        "row 2, column high: 'n/a' is not a number"),
    "an empty symbol": (f"{HEADER}\n{ROW}\n,2024-01-02T14:32Z,1,1,1,1,1", "row 2 has no symbol"),
    "an empty time": (f"{HEADER}\n{ROW}\nSPY,,1,1,1,1,1", "row 2 has no ts"),
    "a short row": (f"{HEADER}\n{ROW}\nSPY,2024-01-02T14:32Z,1,1", "Expected 7 columns, got 4"),
    "a missing column": ("symbol,time,open,high,low,close,volume\n", "has no column ts"),
    "junk": (b"\x00\xff\xfe\x01" * 50, "cannot be read as csv"),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS.keys())
def test_texts_that_are_refused(tmp_path, text, message, ending):
    spec = _write(tmp_path / f"bad.{ending}", text)
    with pytest.raises(UserError) as error:
        open_bars(spec, timeframe="1m")
    if text != "":  # gzip of nothing is something
        assert message in str(error.value).replace("csv.gz", "csv")
    assert "\n" not in str(error.value)
    assert f"bad.{ending}" in str(error.value)


def test_bytes_that_are_no_parquet(tmp_path, small):
    whole = Path(small).read_bytes()
    for spec in (
        _write(tmp_path / "junk.parquet", b"junk" * 100),
        _write(tmp_path / "half.parquet", whole[: len(whole) // 2]),
    ):
        with pytest.raises(UserError, match=r"cannot be read as parquet: .*; is it whole"):
            open_bars(spec)
    spoilt = bytearray(whole)
    spoilt[4:400] = b"\xff" * 396
    with pytest.raises(UserError, match="cannot be read as parquet"):
        list(open_bars(_write(tmp_path / "spoilt.parquet", bytes(spoilt)), timeframe="1m").frames())
    with pytest.raises(UserError, match=r"bad\.csv\.gz cannot be read as csv\.gz"):
        open_bars(_write_raw(tmp_path / "bad.csv.gz", b"no gzip"))


def _write_raw(path, data):
    path.write_bytes(data)
    return str(path)


def test_paths_that_are_refused(tmp_path, small):
    (tmp_path / "empty").mkdir()
    _write(tmp_path / "bars.xlsx", "x")
    for spec, message in (
        (str(tmp_path / "smal.parquet"), "no such file; did you mean .*small.parquet"),
        (str(tmp_path / "empty"), "no bar files in this folder; want .parquet"),
        (str(tmp_path / "bars.xlsx"), "unknown kind of file; want .parquet, .csv, .csv.gz"),
        (str(tmp_path / "nowhere" / "x.parquet"), "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            open_bars(spec)


def test_a_file_without_permission(small, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pq, "ParquetFile", refuse)  # the superuser may read everything
    with pytest.raises(UserError, match=r"small\.parquet: no permission to read it"):
        open_bars(small)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symbols": ["SPX"]}, "has no symbol SPX; did you mean SPY"),
        ({"timeframe": "7m"}, "timeframe '7m'; did you mean"),
        ({"timeframe": "minute"}, "timeframe 'minute'; "),
        ({"start": OPEN + 9 * NS_PER_MINUTE}, "no bars from 2024-01-02T14:39:00Z; there are some from 2024-"),
        ({"stop": OPEN}, "no bars to 2024-01-02T14:30:00Z; there are some"),
        ({"start": OPEN, "stop": OPEN - 1}, "it ends before it starts"),
        ({"frame_slices": -1}, "frame_slices -1"),
    ],
)  # fmt: skip
def test_arguments_that_are_refused(small, arguments, message):
    with pytest.raises(UserError) as error:
        open_bars(small, **({"timeframe": "1m"} | arguments))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("minutes", "message"),
    [([1], "no symbol has two bars"), ([1, 8, 15], "most bars are 7 minutes apart"),
     ([1, 3000, 6000], "most bars are more than a day apart")],
)  # fmt: skip
def test_timeframes_that_cannot_be_told(tmp_path, minutes, message):
    spec = parquet(tmp_path / "x.parquet", bars_table([(minute, "SPY", 1.0) for minute in minutes]))
    with pytest.raises(UserError, match=f"{message}; give the timeframe"):
        open_bars(spec)
    assert open_bars(spec, timeframe="5m").timeframe == 5


def test_an_unwritable_cache_or_a_full_disk(tmp_path, monkeypatch):
    spec = parquet(tmp_path / "mixed.parquet", bars_table(SMALL[::-1]))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sorting, "write_tables", full)
        with pytest.raises(UserError, match=r"cannot be written: .*No space left.*UTP_CACHE_DIR"):
            open_bars(spec)
    _write(tmp_path / "taken", "a file where the folder would be")
    monkeypatch.setenv("UTP_CACHE_DIR", str(tmp_path / "taken"))
    with pytest.raises(UserError, match=r"cannot be written: .*UTP_CACHE_DIR"):
        open_bars(spec)
