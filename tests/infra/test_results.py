import dataclasses
import errno
import json
import os
import pickle
import shutil
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, cluster_main
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import result_parts, result_tables
from infra.benchmark import Curve
from infra.parquet import Writer
from infra.result_header import VERSION, LedgerError
from infra.result_parts import TABLES, Parts
from infra.result_sink import ResultSink
from infra.result_tables import Words
from infra.results import Recorder, check_out, read_summary
from schemas.errors import UserError
from schemas.events import Reason
from schemas.frames import Refused
from tests.infra.ledgers import AFTER, story

STORY = story(seed=3)


READ = result_parts._read


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    """Parts and row groups of a few rows, so that every run has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(result_parts, "PART_ROWS", dict.fromkeys(result_parts.TABLES, 50))
        patch.setattr(result_tables, "PART_ROWS", dict.fromkeys(result_parts.TABLES, 64))
        patch.setattr("risk.report._plotly", lambda: Path(os.devnull))
        yield


def record(out, story=STORY, cuts=(), **header):
    recorder = Recorder(out, story.header(**header))
    for frame in story.frames(cuts):
        recorder.add(frame)
    return recorder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    record(folder).finish()
    return folder


def rows(run, table):
    return pq.read_table(run / f"{table}.parquet").to_pylist()


def stamp(ts):
    return datetime.fromtimestamp(ts // 10**9, UTC).strftime("%Y%m%dT%H%M%SZ")


# The tables.


def test_every_row_is_there(run):
    for table in TABLES:
        given = {"signals": STORY.signals["ts"], "quarantine": STORY.refused["ts"]}.get(table)
        size = STORY.tables[table].size if given is None else given.size
        assert pq.read_metadata(run / f"{table}.parquet").num_rows == size > 0
    assert {path.name for path in run.iterdir()} == {
        *(f"{table}.parquet" for table in TABLES), "summary.json", "report.html",
    }  # fmt: skip


def test_tables_are_in_order_of_time_and_name(run):
    for table in TABLES:
        ts = "exit_ts" if table == "trades" else "ts"
        keys = [(row[ts], row.get("symbol")) for row in rows(run, table)]
        assert keys == sorted(keys)


def test_types_are_times_words_and_dollars(run):
    schema = pq.read_schema(run / "signals.parquet")
    assert str(schema.field("ts").type) == "timestamp[ns, tz=UTC]"
    for name in ("symbol", "direction", "regime", "votes", "reason"):
        assert str(schema.field(name).type).startswith("dictionary<values=string")
    equity = rows(run, "equity")
    assert [round(row["equity"] * 10_000) for row in equity] == STORY.tables["equity"]["equity"].tolist()


def test_votes_name_each_alpha_that_has_a_view(run):
    signs = {0: "-", 2: "+"}
    for view, row in zip(STORY.signals["views"].tolist(), rows(run, "signals"), strict=True):
        digits = [view % 3, view // 3 % 3, view // 9]
        names = zip(("rsi", "ema_cross", "macd"), digits, strict=True)
        assert row["votes"] == " ".join(name + signs[digit] for name, digit in names if digit != 1)


def test_signals_carry_their_words(run):
    first = rows(run, "signals")[0]
    given = {name: column[0] for name, column in STORY.signals.items()}
    assert first["symbol"] == STORY.names[given["symbol"]].decode()
    assert first["direction"] == {-1: "short", 0: "flat", 1: "long"}[int(given["direction"])]
    assert first["regime"] == ["unknown", "bull", "bear", "sideways"][given["regime"]]
    assert first["reason"] == Reason(int(given["reason"])).name.lower()


def test_ids_tie_orders_updates_fills_and_trades_together(run):
    orders = {row["order_id"]: row for row in rows(run, "orders")}
    assert len(orders) == STORY.tables["orders"].size
    for row in orders.values():
        parent = row["parent_id"]
        assert (parent is None) == (row["leg"] == "entry")
        assert parent is None or orders[parent]["leg"] == "entry"
        assert row["order_id"].split("|")[1] == row["symbol"]
    for table in ("updates", "fills"):
        assert all(row["order_id"] in orders for row in rows(run, table))
    assert all(orders[row["entry_order_id"]]["leg"] == "entry" for row in rows(run, "trades"))
    sent = STORY.tables["orders"][0]
    symbol = STORY.names[sent["symbol"]].decode()
    assert rows(run, "orders")[0]["order_id"].startswith(f"backtest|{symbol}|{stamp(int(sent['ts']))}|")


def test_an_id_is_right_on_any_day_of_any_year(tmp_path):
    times = np.array([0, 951_782_400, 1_704_067_199, 4_102_444_799], np.int64) * 10**9
    words = Words("a", [], np.array([b"X"]))
    column = {"id": words.order_id(np.zeros(4, np.int32), times, np.array([0, 1, 2, 5], np.int8))}
    with Writer(tmp_path / "ids.parquet") as writer:
        writer.write(column)
    ids = pq.read_table(tmp_path / "ids.parquet")["id"].to_pylist()
    legs = ("entry", "take_profit", "stop_loss", "exit")
    assert ids == [f"a|X|{stamp(int(ts))}|{leg}" for ts, leg in zip(times, legs, strict=True)]


def test_ids_with_gaps_between_them_keep_their_names(tmp_path):
    """As those of a log, where a shard's ids are sixteen apart."""
    words = Words("backtest", [], np.array([b"A", b"", b"B", b"", b"", b"C"]))
    symbol = np.array([5, 0, 2, 5], np.int32)
    with Writer(tmp_path / "x.parquet") as writer:
        writer.write({"symbol": words.symbol(symbol)})
    assert pq.read_table(tmp_path / "x.parquet")["symbol"].to_pylist() == ["C", "A", "B", "C"]


def test_a_trade_is_priced_per_share(run):
    row, given = rows(run, "trades")[0], STORY.tables["trades"][0]
    assert row["entry_price"] == pytest.approx(given["cost"] / given["qty"] / 1e4, abs=1e-9)
    assert row["pnl"] == pytest.approx((row["exit_price"] - row["entry_price"]) * row["qty"] - row["fees"])


def test_refused_bars_are_put_in_order(tmp_path, run):
    """The one table that the ledger does not have in order."""
    recorder = Recorder(tmp_path / "run", STORY.header())
    for frame in STORY.frames():
        late = {field.name: getattr(frame.refused, field.name)[::-1] for field in dataclasses.fields(Refused)}
        recorder.add(dataclasses.replace(frame, refused=Refused(**late)))
    recorder.finish()
    assert len(rows(tmp_path / "run", "quarantine")) == len(rows(run, "quarantine"))
    test_tables_are_in_order_of_time_and_name(tmp_path / "run")


# Any cut, any crash: the same bytes.


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 199), max_size=6), crash=st.integers(0, 6), more=st.integers(0, 3))
def test_frames_snapshots_and_crashes_leave_no_trace(run, tmp_path_factory, cuts, crash, more):
    out = tmp_path_factory.mktemp("runs") / "cut"
    frames = STORY.frames(cuts)
    recorder = Recorder(out, STORY.header())
    for frame in frames[:crash]:
        recorder.add(frame)
    state = pickle.dumps(recorder.snapshot())
    for frame in frames[crash : crash + more]:  # after the snapshot: lost, and written again
        recorder.add(frame)
        recorder.snapshot()
    again = Recorder.resume(out, STORY.header(), pickle.loads(state))
    for frame in frames[crash:]:
        again.add(frame)
    again.finish()
    assert contents(out) == contents(run)
    assert not out.with_name("cut.partial").exists()


def test_a_snapshot_is_plain_and_not_changed_by_what_follows(tmp_path):
    frames = STORY.frames([100])
    recorder = Recorder(tmp_path / "run", STORY.header())
    recorder.add(frames[0])
    state = recorder.snapshot()
    before = pickle.dumps(state)
    recorder.add(frames[1])
    recorder.snapshot()
    assert pickle.dumps(state) == before
    assert b"infra" not in before
    assert b"schemas" not in before


def test_a_snapshot_of_another_version_is_refused(tmp_path):
    state = record(tmp_path / "run").snapshot() | {"version": 0}
    with pytest.raises(LedgerError, match=f"version 0, want {VERSION}"):
        Recorder.resume(tmp_path / "run", STORY.header(), state)


def test_a_snapshot_that_names_files_of_before_is_refused_in_one_line(tmp_path):
    state = record(tmp_path / "run").snapshot()
    state["next"] = dict.fromkeys(TABLES, state.pop("end"))
    with pytest.raises(UserError, match="older version"):
        Recorder.resume(tmp_path / "run", STORY.header(), state)


def test_parts_that_are_gone_are_told(tmp_path):
    state = record(tmp_path / "run").snapshot()
    shutil.rmtree(tmp_path / "run.partial")
    with pytest.raises(UserError, match="gone; start the run anew"):
        Recorder.resume(tmp_path / "run", STORY.header(), state)


# Where the folder stands.


def test_nothing_but_the_partial_folder_before_the_end(tmp_path):
    recorder = Recorder(tmp_path / "run", STORY.header())
    recorder.add(STORY.frames([100])[0])
    with pytest.raises(LedgerError, match="recorded up to 2024-01-02T16:40:00Z of 2024-01-02T18:20:00Z"):
        recorder.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]


def test_a_fresh_start_drops_what_was_left_unfinished(tmp_path, run):
    record(tmp_path / "run").snapshot()
    record(tmp_path / "run").finish()
    assert contents(tmp_path / "run") == contents(run)


def test_a_former_run_is_replaced_whole(tmp_path, run):
    record(tmp_path / "run", story(seed=9)).finish()
    (tmp_path / "run" / "timing.json").write_text("{}")
    record(tmp_path / "run").finish()
    assert contents(tmp_path / "run") == contents(run)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_former_run_stays_until_the_new_one_is_whole(tmp_path, run, monkeypatch):
    record(tmp_path / "run").finish()
    recorder = record(tmp_path / "run", story(seed=9))

    def fall(folder, run):
        raise OSError("no space left")

    monkeypatch.setattr("risk.report.write", fall)
    with pytest.raises(UserError, match="no space"):
        recorder.finish()
    assert contents(tmp_path / "run") == contents(run)


def test_a_crash_between_the_two_renames_is_mended(tmp_path, run):
    record(tmp_path / "run").finish()
    record(tmp_path / "run", story(seed=9))
    (tmp_path / "run").rename(tmp_path / "run.partial" / "old")
    Recorder(tmp_path / "run", STORY.header())
    assert contents(tmp_path / "run") == contents(run)


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="it is no run"):
        Recorder(tmp_path / "mine", STORY.header())
    with pytest.raises(UserError, match="is a file"):
        check_out(tmp_path / "mine" / "thesis.txt")
    with pytest.raises(UserError, match="root of a file system"):
        check_out(tmp_path / "/")
    (tmp_path / "empty").mkdir()
    record(tmp_path / "empty").finish()
    with pytest.raises(UserError, match="no finished run"):
        read_summary(tmp_path / "mine")


def test_resuming_a_finished_run_leaves_it_alone(tmp_path, run):
    recorder = record(tmp_path / "run")
    state = recorder.snapshot()
    recorder.finish()
    (tmp_path / "run" / "note.txt").write_text("kept")
    again = Recorder.resume(tmp_path / "run", STORY.header(), state)
    assert again.finished
    assert again.snapshot()["written"] == state["written"]
    assert again.finish() == read_summary(run)
    assert (tmp_path / "run" / "note.txt").exists()
    with pytest.raises(LedgerError, match="finished"):
        again.add(STORY.frames()[0])


def test_resuming_after_a_crash_within_finish_finishes(tmp_path, run):
    state = record(tmp_path / "run").snapshot()
    (tmp_path / "run.partial" / "run").mkdir()  # half-written
    (tmp_path / "run.partial" / "run" / "equity.parquet").write_text("half")
    Recorder.resume(tmp_path / "run", STORY.header(), state).finish()
    assert contents(tmp_path / "run") == contents(run)


def test_a_failed_write_is_not_passed_over(tmp_path, monkeypatch):
    recorder = record(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "_path", tmp_path / "nowhere" / "rows")
        with pytest.raises(UserError, match="free some space"):
            recorder.snapshot()
    recorder.finish()
    assert len(rows(tmp_path / "run", "equity")) == STORY.ts.size


@pytest.mark.parametrize("held", [0, 2_000, 1 << 27])
def test_parts_in_memory_are_bounded_and_change_no_byte(tmp_path, run, monkeypatch, held):
    monkeypatch.setattr(result_parts, "HELD_BYTES", held)
    recorder = Recorder(tmp_path / "run", STORY.header())
    for frame in STORY.frames(range(10, 200, 10)):
        recorder.add(frame)
        assert sum(column.nbytes for _, part in recorder._parts._held for column in part.values()) <= held
    assert bool(list((tmp_path / "run.partial").glob("parts/*"))) == (held < 1 << 27)
    recorder.finish()
    assert contents(tmp_path / "run") == contents(run)


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("elsewhere", [True, False], ids=["bars of another process", "bars of its own"])
def test_tables_that_are_written_beside_the_rest_are_the_same(tmp_path, run, monkeypatch, lasting, elsewhere):
    threads = set()
    write = Writer.write

    def seen(self, columns):
        threads.add(threading.get_ident())
        write(self, columns)

    monkeypatch.setattr(Writer, "write", seen)
    monkeypatch.setattr(result_tables, "has_borrowed", lambda: elsewhere)
    recorder = Recorder(tmp_path / "run", STORY.header(), lasting=lasting)
    for frame in STORY.frames(range(10, 200, 10)):
        recorder.add(frame)
    recorder.finish()
    assert contents(tmp_path / "run") == contents(run)
    assert (threading.get_ident() in threads) != elsewhere
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("aside")]


@pytest.mark.parametrize("table", ["signals", "trades"])
def test_a_table_that_cannot_be_written_beside_the_rest_is_told(tmp_path, monkeypatch, table):
    def fall(self, columns):
        if Path(self._file.name).stem == table:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Writer, "write", fall)
    monkeypatch.setattr(result_tables, "has_borrowed", lambda: True)
    recorder = Recorder(tmp_path / "run", STORY.header(), lasting=False)

    def record_all():
        for frame in STORY.frames(range(10, 200, 10)):
            recorder.add(frame)
        recorder.finish()

    with pytest.raises(UserError, match="No space left on device; free some space"):
        record_all()
    recorder.discard()
    assert not list(tmp_path.iterdir())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("aside")]


def test_what_a_snapshot_wrote_is_read_by_a_resume_only(tmp_path, run, monkeypatch):
    read = []
    monkeypatch.setattr(result_parts, "_read", lambda file, *given: read.append(file.name) or READ(file, *given))
    recorder = Recorder(tmp_path / "run", STORY.header())
    first, second = STORY.frames([100])
    recorder.add(first)
    state = recorder.snapshot()
    recorder.add(second)
    recorder.finish()
    assert not read
    recorder = Recorder(tmp_path / "again", STORY.header())
    recorder.add(first)
    state = recorder.snapshot()
    del recorder
    recorder = Recorder.resume(tmp_path / "again", STORY.header(), state)
    recorder.add(second)
    recorder.finish()
    assert len(read) > 5  # tables that had rows before the snapshot
    assert contents(tmp_path / "again") == contents(tmp_path / "run") == contents(run)


def test_frames_have_to_follow_each_other(tmp_path):
    first, second = STORY.frames([100])
    recorder = Recorder(tmp_path / "run", STORY.header())
    with pytest.raises(LedgerError, match="a frame after"):
        recorder.add(second)
    recorder.add(first)
    with pytest.raises(LedgerError, match="a frame after"):
        recorder.add(first)


# The summary.


def test_the_summary_reconciles_and_counts(run):
    summary = read_summary(run)
    total = summary["initial_cash"] + summary["realised_pnl"] + summary["unrealised_pnl"] - summary["fees"]
    assert round(total, 4) == summary["final_equity"]
    assert summary["final_equity"] == rows(run, "equity")[-1]["equity"]
    assert summary["return"] == pytest.approx(summary["final_equity"] / summary["initial_cash"] - 1)
    trades = rows(run, "trades")
    assert summary["win_rate"] == sum(row["pnl"] > 0 for row in trades) / len(trades)
    gains = sum(row["pnl"] for row in trades if row["pnl"] > 0)
    losses = -sum(row["pnl"] for row in trades if row["pnl"] < 0)
    assert summary["profit_factor"] == pytest.approx(gains / losses)
    assert summary["max_drawdown"] == max(row["drawdown"] for row in rows(run, "equity"))
    counts = summary["counts"]
    verdicts = rows(run, "verdicts")
    assert counts["approved"] == sum(row["approved"] for row in verdicts)
    for reason, number in counts["rejected_by_reason"].items():
        assert number == sum(row["reason"] == reason and not row["approved"] for row in verdicts)
    assert sum(counts["trades_by_reason"].values()) == counts["trades"] == len(trades)
    assert sum(counts["refused_by_reason"].values()) == counts["refused"] == len(rows(run, "quarantine"))
    assert summary["settings"]["rules"]["max_shares"] == 100
    assert summary["data"] == {
        "after": "2024-01-02T15:00:00Z", "upto": "2024-01-02T18:20:00Z",
        "first_slice": "2024-01-02T15:01:00Z", "last_slice": "2024-01-02T18:20:00Z",
    }  # fmt: skip
    assert (summary["synthetic"], summary["off"]) == (True, ["forecast", "quotes"])


def test_the_funnel_narrows_step_by_step(run):
    summary = read_summary(run)
    funnel = summary["funnel"]
    assert [stage["stage"] for stage in funnel] == [
        "rows", "insights", "direction", "published", "decided", "filters", "approved", "filled",
    ]  # fmt: skip
    for above, below in pairwise(funnel):
        assert above["count"] - below["lost"] == below["count"]
        assert below["reason_count"] <= below["lost"]
    stages = {stage["stage"]: stage for stage in funnel}
    assert stages["rows"]["count"] == summary["counts"]["bars"]
    assert stages["direction"]["commonest_reason"] == "neutral"
    assert stages["filters"]["count"] == summary["counts"]["candidates"]
    flips = summary["counts"]["candidates"] - summary["counts"]["verdicts"]
    assert stages["approved"]["lost"] == summary["counts"]["rejected"] + flips == 3 + summary["counts"]["rejected"]
    assert stages["filled"]["count"] == sum(row["order_id"].endswith("|entry") for row in rows(run, "fills"))
    assert stages["filled"]["commonest_reason"] == "stale_base"


def change(frame, table, column, value):
    rows = getattr(frame, table).copy()
    rows[column][-1] += value
    return dataclasses.replace(frame, **{table: rows})


@pytest.mark.parametrize(
    ("table", "column"),
    [("funds", "cash"), ("funds", "realised"), ("funds", "fees"), ("funds", "cost"), ("equity", "equity")],
)
def test_a_single_tick_too_many_is_an_error(tmp_path, table, column):
    recorder = Recorder(tmp_path / "run", STORY.header())
    recorder.add(change(STORY.frames()[0], table, column, 1))
    with pytest.raises(LedgerError, match="do not reconcile"):
        recorder.finish()


def test_a_row_that_ends_nowhere_is_an_error(tmp_path):
    recorder = Recorder(tmp_path / "run", STORY.header())
    frame = STORY.frames()[0]
    recorder.add(dataclasses.replace(frame, rows=frame.rows + 1))
    with pytest.raises(LedgerError, match="where their signal ended"):
        recorder.finish()


def test_a_run_without_a_trade_has_a_summary(tmp_path):
    quiet = story(seed=1, symbols=2, slices=3, trades=0)
    summary = record(tmp_path / "run", quiet).finish({"wall_s": 1.5})
    assert summary["win_rate"] is None
    assert summary["profit_factor"] is None
    assert json.loads((tmp_path / "run" / "timing.json").read_text()) == {"wall_s": 1.5}
    assert "wall_s" not in (tmp_path / "run" / "summary.json").read_text()


def test_progress_can_be_read_while_it_runs(tmp_path):
    recorder = Recorder(tmp_path / "run", STORY.header())
    assert (recorder.rows, recorder.trades, recorder.equity_usd) == (0, 0, 100_000.0)
    recorder.add(STORY.frames()[0])
    assert recorder.trades == STORY.tables["trades"].size
    assert recorder.equity_usd == STORY.tables["equity"]["equity"][-1] / 10_000
    assert recorder.upto == STORY.upto > AFTER


# As a Bytewax sink.


def flow(out, items, story=STORY):
    sink = ResultSink(out, story.header())
    graph = Dataflow("test")
    frames = op.input("frames", graph, TestingSource(items, 1))
    op.output("results", op.key_on("key", frames, lambda frame: "account"), sink)
    return graph, sink


def go(graph, store=None, every=0, workers=1):
    recovery = None if store is None else RecoveryConfig(store)
    interval = timedelta(seconds=every)
    cluster_main(graph, [], 0, worker_count_per_proc=workers, epoch_interval=interval, recovery_config=recovery)


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    init_db_dir(folder, 1)
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_flow_that_ends_leaves_the_run(tmp_path, run, workers):
    graph, sink = flow(tmp_path / "run", STORY.frames([50, 120]))
    go(graph, every=10, workers=workers)
    assert sink.summary() == read_summary(run)
    assert contents(tmp_path / "run") == contents(run)


@pytest.mark.parametrize("came", [True, False])
def test_the_benchmark_that_came_with_the_frames_is_not_asked_for(tmp_path, came):
    first, second = STORY.frames([100])
    ts, asked = np.array([first.slices.ts[0], second.slices.ts[-1]]), []

    def points():
        asked.append(came)
        return Curve(ts, np.array([1.0, 1.5]))

    about = {"name": "X", "meaning": "X, held", "source": "bars", "fingerprint": "0"}
    sink = ResultSink(tmp_path / "run", STORY.header(benchmark=about), benchmark=points)
    part = sink.build_part("results", "results", None)
    part.write_batch([first, *([Curve(ts, np.array([1.0, 2.0]))] if came else []), second])
    part.close()
    told = pq.read_table(tmp_path / "run" / "benchmark.parquet").to_pydict()
    assert (told["value"], asked) == (([1.0, 2.0], []) if came else ([1.0, 1.5], [False]))
    assert f"Benchmark +{'100' if came else '50'}.00%" in (tmp_path / "run" / "report.html").read_text()


def test_a_flow_that_crashed_goes_on_from_its_snapshot(tmp_path, run, store):
    frames = STORY.frames([40, 80, 120, 160])
    for crash in (1, 3, 4):
        graph, sink = flow(tmp_path / "run", [*frames[:crash], TestingSource.ABORT(), *frames[crash:]])
        go(graph, store)
        assert not (tmp_path / "run").exists()
        with pytest.raises(LedgerError, match="left in"):
            sink.summary()
    graph, sink = flow(tmp_path / "run", frames)
    go(graph, store)
    assert sink.summary() == read_summary(run)
    assert contents(tmp_path / "run") == contents(run)


def test_a_finished_flow_can_be_resumed_and_changes_nothing(tmp_path, run, store):
    graph, sink = flow(tmp_path / "run", STORY.frames([100]))
    go(graph, store)
    (tmp_path / "run" / "note.txt").write_text("kept")
    graph, sink = flow(tmp_path / "run", STORY.frames([100]))
    go(graph, store)
    assert sink.summary() == read_summary(run)
    assert (tmp_path / "run" / "note.txt").exists()


def test_a_flow_that_stops_short_leaves_only_the_partial_folder(tmp_path):
    graph, sink = flow(tmp_path / "run", STORY.frames([100])[:1])
    go(graph, every=10)
    with pytest.raises(LedgerError, match="recorded up to"):
        sink.summary()
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]


def test_a_flow_without_frames_is_told(tmp_path):
    graph, sink = flow(tmp_path / "run", [])
    go(graph, every=10)
    with pytest.raises(LedgerError, match="without a single frame"):
        sink.summary()


def test_a_mistake_in_the_flow_keeps_its_cause(tmp_path):
    first, second = STORY.frames([100])
    graph, _ = flow(tmp_path / "run", [second, first])
    with pytest.raises(LedgerError, match="a frame after"):
        go(graph, every=10)
    assert not (tmp_path / "run").exists()


def test_the_last_snapshot_finishes_so_that_no_part_is_written(tmp_path, run, monkeypatch):
    monkeypatch.setattr(Parts, "write", lambda self: pytest.fail("parts are for those that go on"))
    monkeypatch.setattr(Recorder, "snapshot", _only_once_finished(Recorder.snapshot))
    graph, sink = flow(tmp_path / "run", STORY.frames([100]))
    go(graph, every=10)
    assert sink.summary() == read_summary(run)
    assert contents(tmp_path / "run") == contents(run)


def _only_once_finished(snapshot):
    def check(recorder, **given):
        assert recorder.finished
        return snapshot(recorder, **given)

    return check


def test_a_last_snapshot_that_is_lost_leaves_the_one_before_usable(tmp_path, run):
    first, second = STORY.frames([100])
    sink = ResultSink(tmp_path / "run", STORY.header())
    part = sink.build_part("results", "results", None)
    part.write_batch([first])
    state = part.snapshot()
    part.write_batch([second])
    part.snapshot()  # killed before it is in the store
    again = ResultSink(tmp_path / "run", STORY.header())
    part = again.build_part("results", "results", state)
    part.write_batch([second])
    part.snapshot()
    part.close()
    assert again.summary() == read_summary(run)
    assert contents(tmp_path / "run") == contents(run)


def test_the_last_snapshot_writes_nothing_for_a_resume_that_has_nothing_to_do(tmp_path, run, monkeypatch):
    first, second = STORY.frames([100])
    part = ResultSink(tmp_path / "run", STORY.header()).build_part("results", "results", None)
    part.write_batch([first])
    part.snapshot()
    before = (tmp_path / "run.partial" / "parts" / "rows").read_bytes()
    part.write_batch([second])
    state = part.snapshot()  # killed once it is in the store
    assert (tmp_path / "run.partial" / "parts" / "rows").read_bytes() == before
    assert contents(tmp_path / "run") == contents(run)
    sink = ResultSink(tmp_path / "run", STORY.header())
    sink.build_part("results", "results", state).close()
    assert sink.summary() == read_summary(run)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_went_wrong_at_the_last_snapshot_is_tried_again(tmp_path, run, monkeypatch, store):
    from risk import report

    write, tries = report.write, []

    def fall_once(folder, run):
        tries.append(folder)
        if len(tries) == 1:
            raise OSError("no space left")
        write(folder, run)

    monkeypatch.setattr("risk.report.write", fall_once)
    graph, sink = flow(tmp_path / "run", STORY.frames([100]))
    go(graph, store, every=10)
    assert len(tries) == 2
    assert sink.summary() == read_summary(run)
    assert contents(tmp_path / "run") == contents(run)


def test_an_error_while_finishing_is_kept_for_who_asks(tmp_path, monkeypatch):
    def fall(folder, run):
        raise OSError("no space left")

    monkeypatch.setattr("risk.report.write", fall)
    graph, sink = flow(tmp_path / "run", STORY.frames())
    go(graph, every=10)
    with pytest.raises(UserError, match="no space"):
        sink.summary()
