"""What `utp metrics` reads, refuses and prints."""

import json
import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from dataflows import cli
from dataflows.metrics import metrics
from infra.results import Recorder
from risk import performance as perf
from schemas.calendar import NEW_YORK, exchange_dates
from schemas.errors import UserError
from tests.infra.ledgers import story

LEVELS = [100.0, 101.0, 99.0, 103.0, 102.0]
MONDAY = date(2024, 3, 4)
WEEK = [MONDAY + timedelta(days=n) for n in range(5)]


def save(path, **columns):
    table = pa.table(columns)
    pyarrow.csv.write_csv(table, path) if path.suffix == ".csv" else pq.write_table(table, path)
    return path


def close_of(day):
    return datetime(day.year, day.month, day.day, 16, tzinfo=NEW_YORK).astimezone(UTC)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    given = story(seed=3, slices=9000)  # a week of minutes
    recorder = Recorder(folder, given.header())
    for frame in given.frames([1000]):
        recorder.add(frame)
    recorder.finish()
    return folder


# A run.


def test_a_run_says_what_its_summary_says(run):
    found = metrics(run)
    summary = json.loads((run / "summary.json").read_text())
    data, numbers, trades, legacy = (found[name] for name in ("data", "performance", "trades", "legacy"))
    assert (data["kind"], data["rows"], data["synthetic"]) == ("run", 9000, summary["synthetic"])
    assert data["days"] > 4
    assert numbers["total_return"] == pytest.approx(summary["return"])
    assert numbers["max_drawdown"] == pytest.approx(summary["max_drawdown"])
    assert (numbers["initial_equity"], numbers["final_equity"]) == (summary["initial_cash"], summary["final_equity"])
    assert trades["total_number_of_trades"] == legacy["num_trades"] == summary["counts"]["trades"]
    assert trades["win_rate"] == legacy["win_rate"] == pytest.approx(summary["win_rate"])
    assert trades["profit_factor"] == pytest.approx(summary["profit_factor"])
    assert found["benchmark"] is None


def test_what_a_run_holds_and_turns_over(run):
    numbers = metrics(run)["performance"]
    equity = pq.read_table(run / "equity.parquet").to_pylist()
    assert numbers["exposure"] == pytest.approx(np.mean([row["exposure"] / row["equity"] for row in equity]))
    assert numbers["time_in_market"] == pytest.approx(np.mean([row["exposure"] > 0 for row in equity]))
    last, traded = {}, {}
    for row in equity:
        last[row["ts"].astimezone(NEW_YORK).date()] = row["equity"]
    for row in pq.read_table(run / "fills.parquet").to_pylist():
        day = row["ts"].astimezone(NEW_YORK).date()
        traded[day] = traded.get(day, 0.0) + row["qty"] * row["price"]
    assert numbers["turnover"] == pytest.approx(np.mean([traded.get(day, 0.0) / last[day] for day in last]))
    initial = json.loads((run / "summary.json").read_text())["initial_cash"]
    returns = perf.returns_of(np.array([initial, *last.values()]))
    assert numbers["sharpe"] == pytest.approx(perf.sharpe(returns))
    assert numbers["probabilistic_sharpe"] == pytest.approx(perf.probabilistic_sharpe(returns, None, 0.04 / 252))


def test_excursions_of_a_run_are_dollars(run):
    trades = pq.read_table(run / "trades.parquet").to_pylist()
    best = [row["mfe"] * row["entry_price"] * row["qty"] for row in trades]
    found = metrics(run)["trades"]
    assert found["average_mfe"] == pytest.approx(np.mean(best))
    given_back = [max(mfe - row["pnl"], 0) for mfe, row in zip(best, trades, strict=True)]
    assert found["max_end_trade_drawdown"] == pytest.approx(max(given_back))
    assert found["start_ts"] == f"{min(row['entry_ts'] for row in trades):%Y-%m-%dT%H:%M:%SZ}"


def test_the_curve_of_a_run_is_the_run(run):
    folder, curve = metrics(run), metrics(run / "equity.parquet")
    assert {**curve, "data": None} == {**folder, "data": None}


def test_a_run_without_trades_has_no_rates(tmp_path):
    given = story(seed=1, symbols=2, slices=3, trades=0)
    recorder = Recorder(tmp_path / "run", given.header())
    for frame in given.frames():
        recorder.add(frame)
    recorder.finish()
    found = metrics(tmp_path / "run")
    assert found["trades"]["total_number_of_trades"] == 0
    assert math.isnan(found["trades"]["win_rate"])
    assert found["trades"]["start_ts"] is None
    assert math.isnan(found["performance"]["sharpe"])  # one day


# Any other file.


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("name", ["equity", "value", "close", "Close"])
@pytest.mark.parametrize("kind", ["dates", "texts", "midnights", "closes", "iso"])
def test_a_daily_curve_in_many_spellings(tmp_path, suffix, name, kind):
    closes = [close_of(day) for day in WEEK]
    times = {
        "dates": {"date": pa.array(WEEK)},
        "texts": {"Date": pa.array([day.isoformat() for day in WEEK])},
        "midnights": {"ts": pa.array([datetime(*day.timetuple()[:3], tzinfo=UTC) for day in WEEK])},
        "closes": {"ts": pa.array(closes, pa.timestamp("us", "UTC"))},
        "iso": {"ts": pa.array([f"{ts:%Y-%m-%dT%H:%M:%SZ}" for ts in closes])},
    }[kind]
    found = metrics(save(tmp_path / f"x{suffix}", **times, **{name: LEVELS}))
    numbers = found["performance"]
    assert (found["data"]["first_day"], found["data"]["last_day"]) == ("2024-03-04", "2024-03-08")
    assert numbers["total_return"] == pytest.approx(0.02)
    assert numbers["annual_volatility"] == pytest.approx(perf.annual_volatility(perf.returns_of(np.array(LEVELS))))
    assert numbers["max_drawdown"] == pytest.approx(2 / 101)
    assert numbers["max_drawdown_days"] == 1
    assert numbers["max_drawdown_recovery_days"] == 2
    assert found["trades"] is None
    assert math.isnan(numbers["turnover"])


def test_the_order_of_rows_does_not_matter(tmp_path):
    there = metrics(save(tmp_path / "a.csv", date=pa.array(WEEK), equity=LEVELS))
    back = metrics(save(tmp_path / "b.csv", date=pa.array(WEEK[::-1]), equity=LEVELS[::-1]))
    assert there["performance"] == pytest.approx(back["performance"], nan_ok=True)


def test_returns_are_as_good_as_levels(tmp_path):
    levels = metrics(save(tmp_path / "a.parquet", date=pa.array(WEEK), equity=LEVELS))["performance"]
    returns = [None, *perf.returns_of(np.array(LEVELS)).tolist()]
    found = metrics(save(tmp_path / "b.parquet", date=pa.array(WEEK), returns=pa.array(returns)))
    for name in ("total_return", "sharpe", "sortino", "max_drawdown", "calmar", "var_95", "best_day"):
        assert found["performance"][name] == pytest.approx(levels[name])
    assert math.isnan(found["performance"]["final_equity"])
    assert math.isnan(found["legacy"]["final_equity"])


def test_a_day_in_minutes_is_one_day(tmp_path):
    ts = [close_of(day) - timedelta(hours=hours) for day in WEEK for hours in (6, 3, 0)]
    equity = [value for level in LEVELS for value in (level * 0.9, level * 1.1, level)]
    found = metrics(save(tmp_path / "x.parquet", ts=pa.array(ts), equity=equity))
    returns = perf.returns_of(np.array([90.0, *LEVELS]))  # from the first value on
    assert (found["data"]["days"], found["data"]["rows"]) == (5, 15)
    assert found["performance"]["total_return"] == pytest.approx(102 / 90 - 1)
    assert found["performance"]["annual_volatility"] == pytest.approx(perf.annual_volatility(returns))
    assert found["performance"]["max_drawdown"] == pytest.approx(1 - 0.9 * 99 / 111.1)  # within the days


def test_dates_are_new_yorks_on_both_sides_of_its_clock_changes():
    instants = [
        datetime(2024, month, day, hour, minute, tzinfo=UTC)
        for month, day in ((3, 10), (3, 11), (11, 3), (11, 4), (7, 1))
        for hour in range(24)
        for minute in (0, 59)
    ]
    found = exchange_dates(np.array([int(each.timestamp()) * 10**9 for each in instants], np.int64))
    want = [(each.astimezone(NEW_YORK).date() - date(1970, 1, 1)).days for each in instants]
    assert found.tolist() == want
    assert exchange_dates(np.zeros(0, np.int64)).size == 0


# Beside a benchmark.


def test_only_shared_days_are_compared(tmp_path):
    ours = save(tmp_path / "a.csv", date=pa.array(WEEK), equity=LEVELS)
    days, levels = [*WEEK[:2], *WEEK[3:]], [10.0, 11.0, 12.0, 11.5]
    theirs = save(tmp_path / "b.parquet", ts=pa.array([close_of(day) for day in days]), close=levels)
    found = metrics(ours, theirs, 0.0)["benchmark"]
    r, b = perf.returns_of(np.array([100.0, 101, 103, 102])), perf.returns_of(np.array(levels))
    assert found["returns"] == 3
    assert found["beta"] == pytest.approx(perf.beta(r, b))
    assert found["alpha"] == pytest.approx(perf.alpha(r, b, 0.0))
    assert found["information_ratio"] == pytest.approx(perf.information_ratio(r, b))
    assert found["treynor_lean"] == pytest.approx(perf.treynor(r, b, 0.0, form="lean"))
    assert found["excess_return"] == pytest.approx(0.02 - 0.15)


def test_the_first_day_of_returns_meets_the_benchmarks_last_close_before(tmp_path):
    ours = save(tmp_path / "a.csv", date=pa.array(WEEK[1:]), returns=[0.01, 0.02, -0.01, 0.0])
    theirs = save(tmp_path / "b.csv", date=pa.array(WEEK), close=LEVELS)
    assert metrics(ours, theirs)["benchmark"]["returns"] == 4
    late = save(tmp_path / "c.csv", date=pa.array(WEEK[1:]), close=LEVELS[1:])
    assert metrics(ours, late)["benchmark"]["returns"] == 3


def test_of_several_symbols_the_benchmark_is_spy(tmp_path):
    bars = save(
        tmp_path / "bars.parquet", symbol=["spy", "aapl"] * 5, close=[v for level in LEVELS for v in (level, 5.0)],
        date=pa.array([day for day in WEEK for _ in range(2)]),
    )  # fmt: skip
    ours = save(tmp_path / "a.csv", date=pa.array(WEEK), equity=LEVELS)
    found = metrics(ours, bars)["benchmark"]
    assert (found["beta"], found["tracking_error"]) == (pytest.approx(1), 0)
    assert math.isnan(found["information_ratio"])
    with pytest.raises(UserError, match="2 symbols; want the rows of one"):
        metrics(bars)
    table = pq.read_table(bars)
    pq.write_table(table.filter(pc.equal(table["symbol"], "aapl")), tmp_path / "one.parquet")
    assert metrics(tmp_path / "one.parquet")["performance"]["total_return"] == 0


def test_a_run_has_its_own_benchmark(run, tmp_path):
    found = metrics(run, run / "equity.parquet")
    assert found["benchmark"]["returns"] == found["data"]["days"]
    assert found["benchmark"]["beta"] == pytest.approx(1)


# Mistakes.


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"equity": LEVELS}, "no column ts or date; it has equity"),
        (
            {"date": WEEK},
            "no column one of equity, value, nav, balance, close, adj_close, price, returns, return; it has date",
        ),
        ({"price": LEVELS}, "no column ts or date; it has price"),
        ({"date": WEEK, "equity": LEVELS, "Equity": LEVELS}, "two columns equity; leave one"),
        ({"date": WEEK, "equity": [100.0, -3.0, 1.0, 1.0, 1.0]}, "equity -3 on 2024-03-05: want a number above 0"),
        ({"date": WEEK, "equity": [100.0, None, 1.0, 1.0, 1.0]}, "equity nan on 2024-03-05"),
        ({"date": WEEK, "returns": [0.1, -1.0, 0.0, 0.0, 0.0]}, "returns -1 on 2024-03-05: want a number above -1"),
        ({"date": WEEK, "returns": pa.nulls(5, pa.float64())}, "no numbers in returns"),
        ({"date": WEEK, "equity": ["100", "x", "1", "1", "1"]}, "equity is not all numbers"),
        ({"date": [WEEK[0]] * 5, "equity": LEVELS}, "two rows of the same time on 2024-03-04"),
        ({"date": [*WEEK[:4], None], "equity": LEVELS}, "a row without date"),
        ({"date": WEEK[:1], "equity": LEVELS[:1]}, "holds one day"),
        ({"date": pa.array([], pa.date32()), "equity": pa.array([], pa.float64())}, "no rows in date"),
        ({"ts": ["noon"] * 5, "equity": LEVELS}, "ts 'noon' ..: want dates as 2024-01-02 or times"),
        ({"ts": ["2024-01-02 10:00", "2024-01-02 11:00"], "equity": [1.0, 2.0]}, "ts has no time zone"),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_wrong_file_is_one_line(tmp_path, suffix, columns, part):
    with pytest.raises(UserError) as stop:
        metrics(save(tmp_path / f"x{suffix}", **{name: pa.array(column) for name, column in columns.items()}))
    assert part in str(stop.value)
    assert "\n" not in str(stop.value)


def test_times_are_no_numbers(tmp_path):
    with pytest.raises(UserError, match="ts holds int64; want times in UTC or dates"):
        metrics(save(tmp_path / "x.parquet", ts=[1, 2, 3], equity=[1.0, 2.0, 3.0]))


def test_what_is_no_curve_is_refused(tmp_path, run):
    for name, content in (("x.txt", b"1"), ("x.csv", b""), ("x.parquet", b"no"), ("x.csv.gz", b"no")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError):
            metrics(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        metrics(tmp_path / "none.csv")
    with pytest.raises(UserError, match="no finished run"):
        metrics(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="not that of a run"):
        metrics(tmp_path)
    far = save(tmp_path / "far.csv", date=pa.array(WEEK), close=LEVELS)
    with pytest.raises(UserError, match="shares no two days with"):
        metrics(save(tmp_path / "a.csv", date=pa.array([date(2020, 1, 2), date(2020, 1, 3)]), close=[1.0, 2.0]), far)


# The command.


def utp(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(each) for each in arguments])
    return stop.value.code


def test_the_table_says_the_most(run, capsys):
    assert utp("metrics", run, "--benchmark", run) == 0
    shown = capsys.readouterr().out
    for part in ("SYNTHETIC DATA", "Sharpe", "max drawdown", "turnover / day", "beta", "1.000", "win rate", "holding"):
        assert part in shown
    assert "nan" not in shown


def test_json_has_null_for_what_is_undefined(tmp_path, capsys):
    path = save(tmp_path / "x.csv", date=pa.array(WEEK), equity=[1.0] * 5)

    def refuse(name):
        raise AssertionError(name)

    assert utp("metrics", path, "--json", "--risk-free", "0.01") == 0
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found["performance"]["sharpe"] is None
    assert found["performance"]["annual_volatility"] == 0
    assert found["data"]["risk_free"] == 0.01
    assert (found["benchmark"], found["trades"]) == (None, None)
    assert utp("metrics", path) == 0
    assert "turnover" not in capsys.readouterr().out


def test_a_percentage_is_no_rate(tmp_path, capsys):
    assert utp("metrics", tmp_path / "x.csv", "--risk-free", "4") == 2
    assert capsys.readouterr().err == "utp: --risk-free 4: want a fraction per year, as 0.04\n"


@pytest.mark.parametrize("level", ["equity", "Value", "NAV", "balance", "close", "Adj_Close", "price"])
@pytest.mark.parametrize(("time", "kind"), [("date", ".csv"), ("Timestamp", ".parquet"), ("datetime", ".csv")])
def test_columns_go_by_several_names(tmp_path, level, time, kind):
    path = save(tmp_path / f"x{kind}", **{time: WEEK, level: LEVELS})
    assert metrics(path)["performance"]["total_return"] == pytest.approx(0.02)


def test_several_symbols_of_a_benchmark_are_spy_or_qqq(tmp_path):
    own = save(tmp_path / "own.csv", date=WEEK, equity=LEVELS)
    for names, wanted in ((["QQQ", "SPY"], [1.0, 1.5]), (["IBM", "QQQ"], [1.0, 1.5])):
        columns = {"date": WEEK[:2] * 2, "symbol": np.repeat(names, 2), "close": [1.0, 3.0, *wanted]}
        other = save(tmp_path / "other.parquet", **columns)
        assert metrics(own, other)["benchmark"]["total_return"] == pytest.approx(0.5)
