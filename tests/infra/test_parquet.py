"""Files as Arrow reads them, beside the columns that they were made of."""

from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.parquet import Coded, Flags, Ids, Instants, Lexicon, Numbers, Writer
from risk.order_ids import forms

WORDS = Lexicon(["", "Ä", "buy", "sell and more"])
FORMS = forms(["main|A|", "main|BRK.B|"], ["|entry", "|exit"])
IDS = [f"main|{name}|20240102T150000Z|{leg}" for name in ("A", "BRK.B") for leg in ("entry", "exit")]


def columns(rows, seed):
    rng = np.random.default_rng(seed)
    symbol, leg = rng.integers(0, 2, rows).astype(np.int32), rng.integers(0, 2, rows).astype(np.int8)
    sent = np.full(rows, 1_704_207_600 * 10**9)
    return {
        "ts": Instants(np.sort(rng.integers(0, max(rows // 8, 1), rows)) * 10**9),
        "later_ts": Instants(rng.integers(0, 2**60, rows)),
        "price": Numbers(rng.normal(size=rows)),
        "qty": Numbers(rng.integers(-5, 5, rows)),
        "age": Numbers(rng.integers(-5, 5, rows).astype(np.int32)),
        "ok": Flags(rng.random(rows) < 0.5),
        "word": Coded(rng.integers(0, 4, rows).astype(np.int8), WORDS),
        "only": Coded(np.zeros(rows, np.int32), Lexicon(["one"])),
        "id": Ids(symbol, sent, leg, FORMS),
        "parent": Ids(symbol, sent, leg, FORMS, rng.random(rows) < 0.7),
    }


def expected(column):
    match column:
        case Numbers(values) | Flags(values):
            return values.tolist()
        case Instants(values):
            return values.astype("M8[ns]").tolist()
        case Coded(codes, lexicon):
            return [lexicon.words[code] for code in codes.tolist()]
        case Ids(symbol, _, leg, _, there):
            there = np.ones(symbol.size, np.bool_) if there is None else there
            rows = zip(symbol.tolist(), leg.tolist(), there.tolist(), strict=True)
            return [IDS[2 * k + n] if is_there else None for k, n, is_there in rows]


def written(groups, schema):  # no row tells the schema, as well as the first group does
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        with Writer(path) as writer:
            for group in [schema, *groups] if schema else groups:
                writer.write(group)
        return path.read_bytes()


@given(rows=st.lists(st.integers(1, 90), max_size=3), seed=st.integers(0, 999))
def test_every_column_is_read_as_it_was(rows, seed):
    groups = [columns(size, seed + k) for k, size in enumerate(rows)]
    text = written(groups, columns(0, 0))
    table = pq.read_table(pa.BufferReader(text))
    table.validate(full=True)
    assert pq.ParquetFile(pa.BufferReader(text)).num_row_groups == len(rows)
    for name in columns(0, 0):
        column = table[name].cast(pa.int64()).cast(pa.timestamp("ns")) if name.endswith("ts") else table[name]
        found = column.to_numpy().tolist() if name.endswith("ts") else column.to_pylist()
        assert found == [value for group in groups for value in np.array(expected(group[name]), object).tolist()]


def test_types_are_those_that_arrow_writes():
    schema = pq.read_schema(pa.BufferReader(written([columns(9, 1)], columns(0, 0))))
    words = pa.dictionary(pa.int8(), pa.string())
    assert schema.equals(pa.schema([
        pa.field("ts", pa.timestamp("ns", "UTC"), False), pa.field("later_ts", pa.timestamp("ns", "UTC"), False),
        pa.field("price", pa.float64(), False), pa.field("qty", pa.int64(), False), pa.field("age", pa.int32(), False),
        pa.field("ok", pa.bool_(), False), pa.field("word", words, False),
        pa.field("only", pa.dictionary(pa.int32(), pa.string()), False), pa.field("id", pa.string(), False),
        pa.field("parent", pa.string(), True),
    ]))  # fmt: skip


def test_readers_skip_groups_by_their_bounds():
    groups = [{"ts": Instants(np.array([1, 1, 1, 1, 9]))}, {"ts": Instants(np.array([10, 30, 20]))}]
    file = pq.ParquetFile(pa.BufferReader(written(groups[1:], groups[0])))
    bounds = [file.metadata.row_group(k).column(0).statistics for k in range(2)]
    assert [(each.min.value, each.max.value) for each in bounds] == [(1, 9), (10, 30)]
    later = [("ts", ">", pa.scalar(25, pa.timestamp("ns", "UTC")))]
    assert pq.read_table(pa.BufferReader(written(groups[1:], groups[0])), filters=later).num_rows == 1


def test_columns_of_several_pages_and_words_of_any_number():
    many = {
        **columns(40_000, 3),
        "symbol": Coded((np.arange(40_000) % 300).astype(np.int32), Lexicon([f"S{k}" for k in range(300)])),
        "far": Coded(np.arange(40_000, dtype=np.int32) * 2, Lexicon([f"{k:05}" for k in range(80_000)])),
    }
    text = written([many], {})
    table = pq.read_table(pa.BufferReader(text))
    assert table["symbol"].to_pylist() == [f"S{k % 300}" for k in range(40_000)]
    assert table["far"].to_pylist() == [f"{2 * k:05}" for k in range(40_000)]
    assert table["parent"].to_pylist() == expected(many["parent"])
    assert table["later_ts"].cast(pa.int64()).to_pylist() == many["later_ts"].values.tolist()


def test_another_reader_finds_the_same(tmp_path):
    """DuckDB reads by the format's own description, without what Arrow wrote for itself."""
    groups = [columns(20_000, 5), columns(90, 6)]
    path = tmp_path / "table.parquet"
    path.write_bytes(written(groups, columns(0, 0)))
    table = duckdb.read_parquet(str(path))
    instants = [f"epoch_ns({name})" if name.endswith("ts") else f'"{name}"' for name in groups[0]]

    def plain(name, column):
        return column.values.tolist() if name.endswith("ts") else expected(column)

    wanted = [[value for group in groups for value in plain(name, group[name])] for name in groups[0]]
    assert table.project(", ".join(instants)).fetchall() == list(zip(*wanted, strict=True))


def test_sizes_and_encodings_are_as_the_footer_says():
    text = written([columns(20_000, 5)], columns(0, 0))
    group = pq.ParquetFile(pa.BufferReader(text)).metadata.row_group(0)
    chunks = [group.column(k) for k in range(group.num_columns)]
    begins = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
    ends = [begin + chunk.total_compressed_size for begin, chunk in zip(begins, chunks, strict=True)]
    assert ends == [*begins[1:], len(text) - 8 - int.from_bytes(text[-8:-4], "little")]  # then the footer begins
    assert group.total_byte_size == sum(chunk.total_uncompressed_size for chunk in chunks)
    packed = [isinstance(column, Instants | Ids) for column in columns(0, 0).values()]
    assert [chunk.compression == "LZ4" for chunk in chunks] == packed


def test_what_was_left_half_written_is_no_table(tmp_path):
    def half():
        with Writer(tmp_path / "half.parquet") as writer:
            writer.write(columns(9, 1))
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        half()
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(tmp_path / "half.parquet")
