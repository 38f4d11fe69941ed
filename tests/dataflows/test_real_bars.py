"""Real bars from end to end: it trades, it reconciles, and it never looks ahead."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dataflows import backtest, why
from infra.results import read_summary
from infra.settings import load
from schemas.errors import UserError

BARS = Path(__file__).resolve().parent.parent.parent.parent / "shared" / "data" / "lean"
TABLES = ("equity", "signals", "verdicts", "orders", "updates", "fills", "trades", "quarantine")
pytestmark = pytest.mark.skipif(not BARS.exists(), reason=f"no sample bars at {BARS}")


def run(name: str, out: Path, *, stop: int | None = None, sets: tuple[str, ...] = ()) -> dict[str, Any]:
    settings = load(None, sets, environ={})
    return backtest.run(backtest.plan(str(BARS / f"{name}.parquet"), settings, out, stop=stop))


@pytest.fixture(scope="module")
def hourly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "hour"
    run("hour", out)
    return out


@pytest.fixture(scope="module")
def minutes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "minute"
    run("minute_trade", out)
    return out


def test_the_hourly_bars_make_a_thousand_round_trips(hourly: Path) -> None:
    trades = pq.read_table(hourly / "trades.parquet")
    assert trades.num_rows >= 1_000
    assert set(trades["exit_reason"].to_pylist()) >= {"end_of_day", "stop_loss", "take_profit", "signal_flip"}


def test_the_minute_bars_trade(minutes: Path) -> None:
    assert pq.read_table(minutes / "trades.parquet").num_rows >= 20


@pytest.mark.parametrize("name", ["hourly", "minutes"])
def test_it_reconciles_to_the_cent_from_its_own_tables(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    summary = read_summary(folder)
    fills = pq.read_table(folder / "fills.parquet").to_pylist()
    cash = summary["initial_cash"]
    shares: dict[str, int] = {}
    for fill in fills:
        sign = 1 if fill["side"] == "buy" else -1
        cash -= sign * fill["qty"] * fill["price"] + fill["fee"]
        shares[fill["symbol"]] = shares.get(fill["symbol"], 0) + sign * fill["qty"]
        assert shares[fill["symbol"]] >= 0
    assert cash == pytest.approx(summary["cash"], abs=0.005)
    assert sum(map(bool, shares.values())) == summary["counts"]["open_positions"]
    total = summary["initial_cash"] + summary["realised_pnl"] + summary["unrealised_pnl"] - summary["fees"]
    assert total == pytest.approx(summary["final_equity"], abs=0.005)
    equity = pq.read_table(folder / "equity.parquet")["equity"][-1].as_py()
    assert equity == pytest.approx(summary["final_equity"], abs=0.005)


@pytest.mark.parametrize(
    ("name", "until"),
    [("hour", "2004-11-05T20:00"), ("hour", "2014-06-09T18:00"), ("minute_trade", "2013-10-09T15:30")],
)
def test_what_comes_later_changes_nothing(name: str, until: str, tmp_path: Path, hourly: Path, minutes: Path) -> None:
    """The run that knows nothing after an instant has made the same decisions up to it."""
    stop = int(np.datetime64(until, "ns").astype(np.int64))
    run(name, tmp_path / "short", stop=stop)
    whole = hourly if name == "hour" else minutes
    for table in TABLES:
        known, told = (pq.read_table(folder / f"{table}.parquet") for folder in (tmp_path / "short", whole))
        column = "exit_ts" if table == "trades" else "ts"
        before = pc.less_equal(told[column].cast("int64"), stop)
        assert known.to_pylist() == told.filter(before).to_pylist(), table


def test_slices_and_prices_are_those_of_the_file(hourly: Path) -> None:
    """A buy is filled in the bar after its decision, at that bar's open and 5 basis points."""
    bars = pq.read_table(BARS / "hour.parquet", columns=["symbol", "ts", "open"]).to_pylist()
    opens = {(bar["symbol"].upper(), bar["ts"].replace(tzinfo=None)): bar["open"] for bar in bars}
    bought = 0
    for fill in pq.read_table(hourly / "fills.parquet").to_pylist():
        if fill["side"] == "buy":
            price = opens[fill["symbol"], fill["ts"].to_pydatetime().replace(tzinfo=None)]
            assert fill["expected_price"] == pytest.approx(price, abs=1e-9)
            assert fill["price"] == pytest.approx(price * 1.0005, abs=1e-4)
            assert fill["order_id"].split("|")[2] < fill["ts"].strftime("%Y%m%dT%H%M%SZ")
            bought += 1
    assert bought >= 1_000


def test_why_answers_for_any_bar_of_a_run(hourly: Path) -> None:
    verdicts = pq.read_table(hourly / "verdicts.parquet").to_pylist()
    for row in verdicts[:: len(verdicts) // 5]:
        answer = why.explain(hourly, row["symbol"], row["ts"].value)
        assert answer["confidence"] == row["confidence"]
        assert answer["verdict"]["reason"] == row["reason"]
    first = why.explain(hourly, "spy", int(np.datetime64("1998-01-02T15:00", "ns").astype(np.int64)))
    assert first["reason"] == "not_warm"
    assert first["features"]["ema_200"] is None
    with pytest.raises(UserError, match="no bar that ends then"):
        why.explain(hourly, "SPY", int(np.datetime64("1998-01-02T15:30", "ns").astype(np.int64)))
    with pytest.raises(UserError, match="off_session"):
        why.explain(hourly, "AAPL", int(np.datetime64("1998-11-27T19:00", "ns").astype(np.int64)))
    with pytest.raises(UserError, match="not in this run"):
        why.explain(hourly, "NONE", 0)


def test_why_tells_what_became_of_an_order(hourly: Path) -> None:
    """43 approved entries of this run were never filled; each says so, where it was sent and where it ended."""
    updates = pq.read_table(hourly / "updates.parquet").to_pylist()
    refused = [row for row in updates if row["status"] == "rejected"]
    assert len(refused) >= 20
    row = refused[0]
    sent = np.datetime64(datetime.strptime(row["order_id"].split("|")[2], "%Y%m%dT%H%M%SZ").isoformat(), "ns")
    answer = why.explain(hourly, row["symbol"], int(sent.astype(np.int64)))
    assert answer["sentence"].endswith("went out; it was rejected (stale_base).")
    ended = why.explain(hourly, row["symbol"], row["ts"].value)
    assert row["order_id"] in {update["order_id"] for update in ended["updates"]}


def test_why_refuses_bars_that_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = tmp_path / "bars.parquet"
    table = pq.read_table(BARS / "hour.parquet", columns=["symbol", "ts", "open", "high", "low", "close", "volume"])
    pq.write_table(table.filter(pc.equal(table["symbol"], "spy")).slice(0, 700), bars)
    monkeypatch.chdir(tmp_path)
    backtest.run(backtest.plan("bars.parquet", load(None, environ={}), tmp_path / "run"), loop=True)
    instant = int(np.datetime64("1998-01-05T16:00", "ns").astype(np.int64))
    monkeypatch.chdir("/")
    assert why.explain(tmp_path / "run", "SPY", instant)["reason"] == "not_warm"
    pq.write_table(pq.read_table(bars).slice(0, 699), bars)
    with pytest.raises(UserError, match="no longer the bars of this run"):
        why.explain(tmp_path / "run", "SPY", instant)


def test_the_drawdown_is_from_the_highest_equity_whatever_the_latch_does(tmp_path: Path) -> None:
    sets = (
            "rules.max_position_pct=1", "rules.max_notional_usd=1000000", "rules.max_shares=1000000",
            "rules.max_total_exposure_usd=1e9", "rules.max_symbol_exposure_usd=1e7", "halts.drawdown_pct=0.02",
    )  # fmt: skip
    summary = run("daily", tmp_path / "run", sets=sets)
    assert summary["counts"]["latch_releases"] > 10
    equity = np.concatenate([[summary["initial_cash"]], pq.read_table(tmp_path / "run" / "equity.parquet")["equity"]])
    peak = np.maximum.accumulate(equity)
    assert summary["max_drawdown"] == pytest.approx(((peak - equity) / peak).max(), abs=1e-9)
