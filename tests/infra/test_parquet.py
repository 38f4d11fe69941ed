"""Files as Arrow reads them, beside the columns that they were made of."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from infra.parquet import Coded, Flags, Ids, Instants, Lexicon, Numbers, Writer

WORDS = Lexicon(["", "Ä", "buy", "sell and more"])
PARTS = (["main|A|", "main|BRK.B|"], ["Z|entry", "Z|exit"])
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
        "id": Ids(symbol, sent, leg, *PARTS),
        "parent": Ids(symbol, sent, leg, *PARTS, rng.random(rows) < 0.7),
    }


def expected(column):
    match column:
        case Numbers(values) | Flags(values):
            return values.tolist()
        case Instants(values):
            return values.astype("M8[ns]").tolist()
        case Coded(codes, lexicon):
            return [lexicon.words[code] for code in codes.tolist()]
        case Ids(symbol, _, leg, _, _, there):
            there = np.ones(symbol.size, np.bool_) if there is None else there
            rows = zip(symbol.tolist(), leg.tolist(), there.tolist(), strict=True)
            return [IDS[2 * k + n] if is_there else None for k, n, is_there in rows]


def written(groups, schema):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        with Writer(path, schema) as writer:
            for group in groups:
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
    file = pq.ParquetFile(pa.BufferReader(written(groups, groups[0])))
    bounds = [file.metadata.row_group(k).column(0).statistics for k in range(2)]
    assert [(each.min.value, each.max.value) for each in bounds] == [(1, 9), (10, 30)]
    later = [("ts", ">", pa.scalar(25, pa.timestamp("ns", "UTC")))]
    assert pq.read_table(pa.BufferReader(written(groups, groups[0])), filters=later).num_rows == 1
