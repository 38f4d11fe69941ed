import json
import signal
import subprocess
import sys
import types
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSource, cluster_main

import dataflows
from dataflows import cli, options, run_commands
from infra.results import Recorder
from schemas.calendar import NEW_YORK
from schemas.errors import UserError
from tests.infra.ledgers import story

ROOT = Path(__file__).resolve().parents[2]
STORY = story(seed=3)


@pytest.fixture
def fake(monkeypatch):
    """Puts a module of the given functions in the place of a command's own."""

    def put(name, **functions):
        module = types.SimpleNamespace(**functions)
        monkeypatch.setattr(dataflows, name, module, raising=False)
        monkeypatch.setitem(sys.modules, f"dataflows.{name}", module)
        return module

    return put


@pytest.fixture
def backtest(fake):
    """A backtest that records a made-up ledger and keeps what it was called with."""
    calls = {}

    def plan(bars, settings, out, **options):
        calls.update(bars=bars, settings=settings, out=out, **options)
        return out

    def run(out, *, workers, loop, progress):
        calls.update(workers=workers, loop=loop, progress=progress)
        recorder = Recorder(out, STORY.header())
        for frame in STORY.frames([100]):
            recorder.add(frame)
            if progress:
                progress(recorder.rows, 2 * recorder.rows, recorder.trades, recorder.equity_usd)
        return recorder.finish()

    fake("backtest", plan=plan, run=run)
    return calls


def utp(*arguments):
    """Exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return stop.value.code


def mistake(capsys, *arguments):
    assert utp(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("utp: ")
    assert shown.err.count("\n") == 1
    return shown.err[5:-1]


# What is passed on.


def test_a_backtest_gets_what_was_asked_for(backtest, tmp_path, capsys):
    (tmp_path / "s.toml").write_text("[rules]\nmax_shares = 7\nmax_open_orders = 8\n")
    code = utp(
        "backtest", "bars/", "--out", str(tmp_path / "run"), "--settings", str(tmp_path / "s.toml"),
        "--set", "rules.max_open_orders=9", "--set", "run.account=mine", "--symbols", "msft, AAPL,MSFT",
        "--from", "2024-01-02", "--to", "2024-01-03", "--timeframe", "5m", "--profile", "research",
        "--workers", "3", "--loop",
    )  # fmt: skip
    assert code == 0
    rules = backtest["settings"].rules
    assert (rules.max_shares, rules.max_open_orders, rules.cooldown_seconds) == (7, 9, 0)
    assert (backtest["settings"].run.account, backtest["settings"].run.timeframe) == ("mine", "5m")
    assert (backtest["bars"], backtest["out"]) == ("bars/", tmp_path / "run")
    assert backtest["symbols"] == ["MSFT", "AAPL"]
    midnight = datetime(2024, 1, 2, tzinfo=NEW_YORK)
    assert backtest["start"] == int(midnight.timestamp()) * 10**9 + 1
    assert backtest["stop"] == (midnight + timedelta(days=2)).timestamp() * 1e9
    assert (backtest["workers"], backtest["loop"]) == (3, True)
    assert backtest["progress"] is None  # no terminal
    assert capsys.readouterr().err == ""


def test_nothing_asked_for_means_everything(backtest, tmp_path):
    assert utp("backtest", "bars", "--out", str(tmp_path / "run")) == 0
    assert [backtest[name] for name in ("symbols", "start", "stop", "workers", "loop")] == [
        [], None, None, 1, False,
    ]  # fmt: skip


def test_dates_are_new_yorks_and_bounds_are_kept():
    summer = datetime(2024, 7, 1, tzinfo=NEW_YORK)
    assert options.first_of("2024-07-01") == int(summer.timestamp()) * 10**9 + 1
    assert options.last_of("2024-07-01") == (summer + timedelta(days=1)).timestamp() * 1e9
    assert options.last_of("2024-03-10") - options.first_of("2024-03-10") == 23 * 3_600 * 10**9 - 1  # clocks go forward
    instant = 1_704_209_400_123_456_000
    assert options.last_of("2024-01-02T15:30:00.123456Z") == instant
    assert options.first_of("2024-01-02T10:30:00.123456-05:00") == instant


@pytest.mark.parametrize("text", ["2024-01-02 10:30", "2024-01-02T15:30Z", "2024-01-02T16:30+01:00"])
def test_why_takes_new_yorks_clock_or_an_offset(text):
    assert options.instant_of(text) == 1_704_209_400_000_000_000


# What is shown.


def test_a_human_reads_the_sum_the_funnel_and_where_the_report_is(backtest, tmp_path, capsys):
    utp("backtest", "bars", "--out", str(tmp_path / "run"))
    shown = capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for part in (
        "made up", "SYNTHETIC DATA", "return", "win rate", "insights", "stale_base", "off: forecast, quotes",
        run_commands.reconciliation(summary), f"report: {tmp_path / 'run' / 'report.html'}",
    ):  # fmt: skip
        assert part in shown
    assert f"= final {summary['final_equity']:,.2f} USD" in shown


def test_json_is_the_summary_and_nothing_else(backtest, tmp_path, capsys):
    utp("backtest", "bars", "--out", str(tmp_path / "run"), "--json")
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert shown.err == ""


def test_on_a_terminal_there_is_a_progress_bar(backtest, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    assert utp("backtest", "bars", "--out", str(tmp_path / "run"), "--json") == 0
    shown = capsys.readouterr()
    assert "trades" in shown.err
    assert "/s" in shown.err
    json.loads(shown.out)


def test_features_say_how_many(fake, tmp_path, capsys):
    fake("features", run=lambda bars, settings, out, **more: {"rows": 12345, "columns": ["ema", "rsi"]})
    assert utp("features", "bars", "--out", "f.parquet") == 0
    assert capsys.readouterr().out == "12,345 rows, 2 columns: f.parquet\nema, rsi\n"
    utp("features", "bars", "--out", "f.parquet", "--json")
    assert json.loads(capsys.readouterr().out)["rows"] == 12345


ANSWER = {
    "symbol": "AAPL",
    "ts": 1_704_209_400_000_000_000,
    "bar": {"close": 185.25, "volume": 1000.0},
    "features": {"rsi": 61.5, "ema": None},
    "votes": {"rsi": 1.0},
    "regime": "bull",
    "score": 0.4,
    "confidence": 0.7,
    "direction": "long",
    "reason": "none",
    "sentence": "Bought 10 [AAPL].",
    "verdict": {"approved": True},
    "orders": [{"order_id": "a|AAPL|x|entry", "qty": 10}],
    "fills": [],
}


def test_why_prints_the_sentence_and_the_time_in_both_clocks(fake, capsys):
    asked = []
    fake("why", explain=lambda *given: asked.append(given) or ANSWER)
    assert utp("why", "runs/x", "aapl", "2024-01-02 10:30") == 0
    assert asked == [(Path("runs/x"), "AAPL", ANSWER["ts"])]
    shown = capsys.readouterr().out
    assert shown.startswith("AAPL 2024-01-02 10:30 New York (2024-01-02T15:30:00Z)\nBought 10 [AAPL].\n")
    for part in ("close 185.25", "rsi 61.5  ema -", "bull", "approved True", "a|AAPL|x|entry"):
        assert part in shown
    utp("why", "runs/x", "AAPL", "2024-01-02T15:30Z", "--json")
    assert json.loads(capsys.readouterr().out) == ANSWER


# Mistakes, Ctrl-C, bugs.


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--symbols", "A,,B"], "--symbols 'A,,B': want names"),
        (["--from", "yesterday"], "--from yesterday: want a date as 2024-01-02"),
        (
            ["--from", "2024-01-02T10:00"],
            "--from 2024-01-02T10:00: has no time zone; write 2024-01-02T10:00Z",
        ),
        (["--to", "2024-13-02"], "--to 2024-13-02: want a date"),
        (
            ["--from", "2024-01-03", "--to", "2024-01-02"],
            "--from 2024-01-03 --to 2024-01-02: nothing lies between",
        ),
        (["--set", "rules.max_shares=0"], "rules.max_shares = 0: want a whole number"),
        (["--set", "rules.max_share=1"], "nearest is rules.max_shares"),
        (["--settings", "none.toml"], "settings file none.toml: No such file"),
        (["--profile", "x"], "profile x: want one of research"),
        (["--workers", "0"], "--workers"),
        (["--worker", "1"], "--worker"),
        (["more"], "unexpected extra argument"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(backtest, tmp_path, capsys, arguments, part):
    assert part in mistake(capsys, "backtest", "bars", "--out", str(tmp_path / "run"), *arguments)


def test_what_is_missing_is_named(capsys):
    assert "--out" in mistake(capsys, "features", "bars")
    assert "BARS" in mistake(capsys, "backtest")
    assert "No such command" in mistake(capsys, "backtets")
    assert "want" in mistake(capsys, "why", "run", "A", "noon")


def test_a_mistake_found_by_the_command_is_one_line_too(fake, capsys):
    def plan(*given, **more):
        raise UserError("bars/x.csv: no column close;\n  has open, high")

    fake("backtest", plan=plan)
    assert mistake(capsys, "backtest", "b", "--out", "o") == "bars/x.csv: no column close; has open, high"


@pytest.mark.parametrize("error", [UserError("a bad bar"), KeyboardInterrupt()])
def test_what_a_dataflow_wraps_is_found(fake, capsys, error):
    def run(plan, **more):
        def fall(item):
            raise error

        graph = Dataflow("test")
        op.inspect("see", op.map("fall", op.input("in", graph, TestingSource([1])), fall))
        cluster_main(graph, [], 0, worker_count_per_proc=1)

    fake("backtest", plan=lambda *given, **more: None, run=run)
    code, line = (2, "a bad bar") if isinstance(error, UserError) else (130, "interrupted")
    assert utp("backtest", "b", "--out", "o") == code
    assert capsys.readouterr().err == f"utp: {line}\n"


def test_a_bug_keeps_its_traceback(fake):
    def plan(*given, **more):
        raise ZeroDivisionError("a bug")

    fake("backtest", plan=plan)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main(["backtest", "b", "--out", "o"])


def test_ctrl_c_is_one_line_and_code_130(tmp_path):
    script = (
        "import sys, types, time, dataflows\n"
        "from dataflows import cli\n"
        "def run(*given, **more):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(30)\n"
        "dataflows.backtest = sys.modules['dataflows.backtest'] = types.SimpleNamespace(\n"
        "    plan=lambda *given, **more: None, run=run)\n"
        "cli.main(['backtest', 'b', '--out', 'o'])\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=pipe, stderr=pipe, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:  # fmt: skip
        assert child.stdout.readline() == "up\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (130, "", "utp: interrupted\n")


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from dataflows import cli\n"
        "try:\n"
        "    cli.main(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "heavy = {'numpy', 'pyarrow', 'numba', 'bytewax', 'plotly', 'pandas', 'rich', 'msgspec'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    for arguments in (["--help"], ["backtest", "--help"], [], ["dlq"], ["topics"]):
        shown = subprocess.run(
            [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "Usage: utp" in shown.stdout
