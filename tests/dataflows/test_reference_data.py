"""Quotes, splits and the rest beside real bars, from the file to the fill; and one result however it is run."""

import bisect
import math
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dataflows import backtest, features, pipeline, why
from infra.bars import open_bars
from infra.reference import Files, read_actions
from infra.results import read_summary
from infra.settings import Settings, load
from operators.features import IN_DOLLARS
from schemas.calendar import NEW_YORK, Calendar
from tests.dataflows.test_one_order_log import TABLES

LEAN = Path(__file__).resolve().parents[3] / "shared" / "data" / "lean"
needs_lean = pytest.mark.skipif(not LEAN.is_dir(), reason=f"no sample bars at {LEAN}")
FACTORS = str(LEAN / "factors.csv")
MINUTE = 60 * 10**9


# --- quotes


@pytest.fixture(scope="module")
def quoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The minute bars with the minute quotes beside them."""
    out = tmp_path_factory.mktemp("quoted") / "run"
    files = Files(quotes=str(LEAN / "minute_quote.parquet"))
    backtest.run(backtest.plan(str(LEAN / "minute_trade.parquet"), load(None, environ={}), out, files=files))
    return out


@pytest.fixture(scope="module")
def spreads() -> dict[str, tuple[list[int], list[tuple[float, float]]]]:
    """By symbol: instants, and bid and ask from then on, straight from the file."""
    columns = ["symbol", "ts", "bid_close", "ask_close"]
    table = pq.read_table(LEAN / "minute_quote.parquet", columns=columns).sort_by("ts")
    found: dict[str, tuple[list[int], list[tuple[float, float]]]] = {}
    stamps = table["ts"].cast(pa.timestamp("ns", "UTC")).cast("int64").to_pylist()
    for row, ts in zip(table.to_pylist(), stamps, strict=True):
        instants, values = found.setdefault(row["symbol"].upper(), ([], []))
        instants.append(ts)
        values.append((row["bid_close"], row["ask_close"]))
    return found


def quote_at(spreads: Any, symbol: str, ts: int) -> tuple[float, float] | None:
    """The last quote that is not older than a minute."""
    instants, values = spreads[symbol]
    k = bisect.bisect_right(instants, ts) - 1
    return values[k] if k >= 0 and ts - instants[k] <= MINUTE else None


@needs_lean
def test_measured_spreads_reach_the_filter(quoted: Path, spreads: Any) -> None:
    signals = pq.read_table(quoted / "signals.parquet").to_pylist()
    passed, held = [], []
    for row in signals:
        quote = quote_at(spreads, row["symbol"], row["ts"].value)
        width = math.inf if quote is None else 2 * (quote[1] - quote[0]) / (quote[1] + quote[0])
        if row["reason"] == "none":
            passed.append(width)
        elif row["reason"] == "wide_spread":
            held.append(width)
    assert len(passed) > 500
    assert max(passed) <= 0.001
    assert len(held) > 10
    assert min(held) > 0.001
    assert math.inf in held  # no quote at all, or an old one


@needs_lean
def test_measured_spreads_reach_the_fill_price(quoted: Path, spreads: Any) -> None:
    """A buy costs the open, 5 basis points and half the spread that was quoted when it was decided."""
    widths = set()
    for fill in pq.read_table(quoted / "fills.parquet").to_pylist():
        if fill["side"] != "buy":
            continue
        sent = datetime.strptime(fill["order_id"].split("|")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        bid, ask = quote_at(spreads, fill["symbol"], int(sent.timestamp()) * 10**9)
        half = math.ceil(round((ask - bid) / 2 * 10_000, 6))
        opened = round(fill["expected_price"] * 10_000)
        assert round(fill["price"] * 10_000) == pytest.approx(opened + math.ceil(opened * 5 / 10_000) + half, abs=1)
        widths.add(half)
    assert len(widths) > 5
    assert max(widths) >= 200  # 4 cents wide


@needs_lean
def test_without_quotes_the_same_fills_cost_less_and_the_summary_says_so(quoted: Path, tmp_path: Path) -> None:
    backtest.run(backtest.plan(str(LEAN / "minute_trade.parquet"), load(None, environ={}), tmp_path / "run"))
    off = read_summary(tmp_path / "run")["off"]
    assert {"spread filter", "spread cost (no quotes)", "earnings filter", "corporate actions"} <= set(off)
    assert not {"spread filter", "spread cost (no quotes)"} & set(read_summary(quoted)["off"])
    cheap, dear = (
        {row["order_id"]: row["price"] for row in pq.read_table(run / "fills.parquet").to_pylist()
         if row["side"] == "buy"} for run in (tmp_path / "run", quoted)
    )  # fmt: skip
    both = cheap.keys() & dear.keys()
    assert len(both) > 50
    assert all(cheap[one] <= dear[one] for one in both)
    assert sum(cheap[one] < dear[one] for one in both) > 50


@needs_lean
def test_missing_data_can_refuse(tmp_path: Path) -> None:
    """As live trading wants it: without reports and reference volumes nothing is bought."""
    settings = load(None, ["filters.missing_data=refuse"], environ={})
    files = Files(quotes=str(LEAN / "minute_quote.parquet"))
    job = backtest.plan(str(LEAN / "minute_trade.parquet"), settings, tmp_path / "run", files=files)
    summary = backtest.run(job, loop=True)
    assert summary["counts"]["fills"] == 0
    assert [name for name in summary["off"] if "filter" in name] == [
        "liquidity filter (no volumes) in a symbol's first 3 sessions lets nothing in",
        "earnings filter (no reports) lets nothing in",
    ]
    reasons = set(pq.read_table(tmp_path / "run" / "signals.parquet")["reason"].to_pylist())
    assert {"low_liquidity", "earnings_blackout"} <= reasons


# --- splits


@pytest.fixture(scope="module")
def adjusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AAPL's hourly bars in the shares of 1998, so without any step."""
    table = pq.read_table(LEAN / "hour.parquet", columns=["symbol", "ts", "open", "high", "low", "close", "volume"])
    table = table.filter(pc.equal(table["symbol"], "aapl"))
    scale = np.ones(table.num_rows)
    stamps = table["ts"].cast(pa.timestamp("ns", "UTC")).cast("int64").to_numpy()
    for action in read_actions(Path(FACTORS), Calendar(60, date(1998, 1, 2), date(2021, 3, 31))):
        if action.name == "AAPL":
            scale[stamps >= action.ts] *= action.new / action.old
    for place, name in enumerate(table.column_names):
        if name in ("open", "high", "low", "close", "volume"):
            values = table[name].to_numpy()
            table = table.set_column(place, name, pa.array(values / scale if name == "volume" else values * scale))
    path = tmp_path_factory.mktemp("adjusted") / "aapl.parquet"
    pq.write_table(table, path)
    return path


SPLITS = [("2014-06-09", 7), ("2020-08-31", 4)]


@needs_lean
def test_real_splits_leave_no_jump_in_any_feature(adjusted: Path, tmp_path: Path) -> None:
    """Raw bars with their splits give the features of bars adjusted beforehand, in the dollars of the day."""
    hours, settings = str(LEAN / "hour.parquet"), Settings()
    features.run(hours, settings, tmp_path / "raw", symbols=["AAPL"])
    features.run(hours, settings, tmp_path / "told", symbols=["AAPL"], files=Files(actions=FACTORS))
    features.run(str(adjusted), settings, tmp_path / "smooth")
    raw, told, smooth = (pq.read_table(tmp_path / name) for name in ("raw", "told", "smooth"))
    days = np.array([ts.astimezone(NEW_YORK).date().isoformat() for ts in told["ts"].to_pylist()])
    for day, ratio in SPLITS:
        first = int(np.flatnonzero(days == day)[0])
        assert raw["returns_1"][first].as_py() == pytest.approx(1 / ratio - 1, abs=0.05)
        assert abs(told["returns_1"][first].as_py()) < 0.05
    scale = smooth["price"].to_numpy() / told["price"].to_numpy()
    assert sorted(set(np.round(scale[~np.isnan(scale)], 6))) == [1.0, 2.0, 4.0, 28.0, 112.0]
    for name in told.column_names[2:-2]:
        if name.startswith("market"):  # AAPL alone has no market beside it
            continue
        unit = scale if name in (*IN_DOLLARS, "price") else 1.0 / scale if name == "volume" else 1.0
        slack = 1e-9 * np.nanmax(np.abs(smooth[name].to_numpy()))
        np.testing.assert_allclose(told[name].to_numpy() * unit, smooth[name].to_numpy(), rtol=1e-6, atol=slack)
    assert told["is_overnight"].to_pylist() == smooth["is_overnight"].to_pylist()


@needs_lean
def test_real_splits_change_no_signal(adjusted: Path) -> None:
    """Votes, regime, score and every filter, on raw bars with actions and on bars adjusted beforehand."""
    params = pipeline.decide_params(Settings(), 60)
    one, two = (
        [frame for frame in pipeline.signals(bars.frames(), params) if frame.bars.at.size]
        for bars in (
            open_bars(str(LEAN / "hour.parquet"), symbols=["AAPL"], files=Files(actions=FACTORS)),
            open_bars(str(adjusted)),
        )
    )
    for name in ("direction", "regime", "views", "reason"):
        told, smooth = (np.concatenate([getattr(frame, name) for frame in frames]) for frames in (one, two))
        assert np.count_nonzero(told != smooth) <= 3, name  # a tie within rounding, of 40,000 bars
    for name in ("score", "confidence", "volatility"):
        told, smooth = (np.concatenate([getattr(frame, name) for frame in frames]) for frames in (one, two))
        is_close = np.isclose(told, smooth, rtol=1e-6, atol=1e-12, equal_nan=True)
        assert np.count_nonzero(~is_close) <= 60, name  # a view that begins a bar off lasts as long


HOLDING = [
    "exits.end_of_day=false", "exits.max_holding_bars=1500", "exits.take_profit_pct=0.5", "exits.stop_loss_pct=0.3",
    "exits.trailing_pct=0.3", "venue.time_in_force=gtc", "cash.initial_cash_usd=10000000", "rules.allow_short=true",
    "rules.max_notional_usd=200000", "rules.max_shares=1000000", "rules.max_total_exposure_usd=1000000",
    "rules.max_symbol_exposure_usd=1000000", "ensemble.decision_gate=0.56", "ensemble.weights.macd=0",
    "ensemble.weights.rsi=0",
]  # fmt: skip


@needs_lean
def test_real_splits_make_no_profit_and_change_no_trade(adjusted: Path, tmp_path: Path) -> None:
    """Lots held over both splits: raw bars with actions trade as bars adjusted beforehand do.

    What differs is rounding: prices of legs to the cent and shares to whole ones, of a price that is up to 112
    times another; so a few legs are met a bar earlier or later, and profits agree to a part of a percent.
    """
    settings, trades = load(None, HOLDING, environ={}), {}
    hours = str(LEAN / "hour.parquet")
    for name, spec, files in (("told", hours, Files(actions=FACTORS)), ("smooth", str(adjusted), Files())):
        plan = backtest.plan(spec, settings, tmp_path / name, symbols=["AAPL"], files=files)
        backtest.run(plan, loop=True)
        trades[name] = pq.read_table(tmp_path / name / "trades.parquet").to_pylist()
    key = ("entry_ts", "exit_ts", "exit_reason")
    whole, found = (
        {tuple(row[name] for name in key): row["pnl"] / row["entry_price"] / row["qty"] for row in rows}
        for rows in (trades["smooth"], trades["told"])
    )
    same = whole.keys() & found.keys()
    assert len(whole) > 15
    assert len(same) >= 0.95 * len(whole | found)
    for one in same:
        assert found[one] == pytest.approx(whole[one], abs=2e-3)
    for day, _ in SPLITS:
        instant = datetime.fromisoformat(day).replace(tzinfo=UTC)
        assert any(entry < instant < exit_ for entry, exit_, _ in same), day
    dividends = read_summary(tmp_path / "told")["dividends"]  # the file has them too, since 2012
    assert dividends != 0.0
    assert f"dividends <b>{dividends:,.2f}</b>" in (tmp_path / "told" / "report.html").read_text().replace("−", "-")
    equity = pq.read_table(tmp_path / "told" / "equity.parquet")["equity"].to_numpy()
    assert np.abs(np.diff(equity) / equity[:-1]).max() < 0.01


# --- one result


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Files of all kinds for a synthetic market of 2024-01-02 to 01-05."""
    folder = tmp_path_factory.mktemp("beside")
    names = [f"SYN{i:03}" for i in range(8)]
    texts = {
        "quotes": "symbol,ts,bid,ask\n" + "".join(
            f"{name},2024-01-0{day}T{hour}:{minute:02}:00Z,99.97,{100.01 + k / 100}\n" for k, name in enumerate(names)
            for day in (2, 3, 4, 5) for hour in range(14, 21) for minute in range(60)
        ),
        "earnings": "symbol,date,known_from\n" + "".join(f"{name},,\n" for name in [*names[:2], *names[4:]])
        + "SYN002,2024-01-05,2024-01-02\nSYN003,2024-01-03,2023-12-01\n",
        "actions": "symbol,date,split,dividend\nSYN000,2024-01-03,7:1,\n"
        "SYN001,2024-01-04,,0.31\nSYN002,2024-01-05,1:3,0.1\n",
        "volumes": "symbol,average_volume\n" + "".join(f"{name},{3e5 * k}\n" for k, name in enumerate(names)),
    }  # fmt: skip
    for kind, text in texts.items():
        (folder / f"{kind}.csv").write_text(text)
    return Files(**{kind: str(folder / f"{kind}.csv") for kind in texts})


SPEC = "synthetic:symbols=8,days=4,seed=3"
SETS = [
    "rules.max_orders_per_minute=1000",
    "rules.cooldown_seconds=60",
    "clean.max_jump=0.003",
    "filters.max_spread=0.0008",
    "regime.hysteresis=1",
]


def ran(out: Path, files: Files, *sets: str, **how: Any) -> dict[str, Any]:
    return backtest.run(backtest.plan(SPEC, load(None, [*SETS, *sets], environ={}), out, files=files), **how)


@pytest.fixture(scope="module")
def expected(beside: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "loop"
    ran(out, beside, loop=True)
    return out


def test_every_filter_has_its_say(expected: Path) -> None:
    reasons = set(pq.read_table(expected / "signals.parquet")["reason"].to_pylist())
    assert {"none", "jump", "low_liquidity", "wide_spread", "earnings_blackout"} <= reasons
    summary = read_summary(expected)
    assert set(summary["bars"]["files"]) == {"quotes", "earnings", "actions", "volumes"}
    quality = summary["quality"]
    assert quality["missing_bars"] >= quality["gaps"] > 0
    assert quality["jumps"] >= 3
    assert sum(row["gaps"] for row in quality["by_symbol"].values()) == quality["gaps"]


@pytest.mark.parametrize(("slices", "how"), [(1, {"loop": True}), (37, {}), (0, {"workers": 2})])
def test_frames_and_workers_do_not_matter(expected: Path, beside: Files, tmp_path: Path, slices: int, how: Any) -> None:
    summary = ran(tmp_path / "run", beside, f"run.frame_slices={slices}", **how)
    for table in TABLES:
        assert (tmp_path / "run" / f"{table}.parquet").read_bytes() == (expected / f"{table}.parquet").read_bytes()
    assert summary["quality"] == read_summary(expected)["quality"]


def test_why_tells_what_the_filters_read(expected: Path) -> None:
    rows = pq.read_table(expected / "signals.parquet").to_pylist()
    words = {
        "jump": "more than 0.003 of the price from the close before",
        "low_liquidity": "Average daily volume is",
        "wide_spread": "The quoted spread is 0.0",
        "earnings_blackout": "nearest report of earnings known:",
    }
    for reason, text in words.items():
        row = next(row for row in rows if row["reason"] == reason)
        answer = why.explain(expected, row["symbol"], row["ts"].value)
        assert answer["reason"] == reason
        assert text in answer["sentence"]
    assert why.explain(expected, "SYN001", rows[0]["ts"].value)["reference"]["average_volume"] == 300_000
