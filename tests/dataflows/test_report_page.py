"""The report in a real browser: drawn without a complaint, on a desk and on a phone; and made again, byte for byte."""

import json
import struct
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataflows import backtest, cli
from infra.settings import load
from operators import features
from risk import report, report_run
from tests.browser import Browser, browser
from tests.models import bundles

SPEC = "synthetic:symbols=6,days=80,seed=5,timeframe=30m"
SETS = ["rules.cooldown_seconds=60", "ensemble.decision_gate=0.6"]
SIZES = {"desk": (1280, 900, False), "phone": (360, 740, True), "small phone": (320, 568, True)}
WIDE = """
[...document.querySelectorAll("body *")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, pre"))
  .map(e => `${e.tagName}.${e.className.baseVal ?? e.className} in ${e.closest("section")?.id}`)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    summary = backtest.run(backtest.plan(SPEC, load(None, SETS), out), loop=True)
    assert summary["counts"]["trades"] > 20
    return out


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.mark.parametrize("size", SIZES)
def test_it_is_drawn_without_a_complaint_and_fits(run: Path, window: Browser, tmp_path: Path, size: str) -> None:
    width, height, phone = SIZES[size]
    window.show(run / "report.html", width, height, phone=phone)
    assert window.complaints == []
    assert window.value("document.documentElement.scrollWidth") == window.value("innerWidth") == width
    assert window.value(WIDE) == []
    assert window.value("[...document.querySelectorAll('section[id]')].map(s => s.id)") == list(report.SECTIONS)
    charts = window.value("[...document.querySelectorAll('.chart')].map(c => c.id)")
    assert charts == ["curve", "rolling", "held", "dots", "spread", "reach", "each"]
    drawn = "[...document.querySelectorAll('.chart')].every(c => c.querySelector('.main-svg').clientWidth > {})"
    assert window.value(drawn.format(0.8 * width if phone else 900))
    picture = window.picture(tmp_path / "page.png")
    assert struct.unpack(">II", picture[16:24])[0] == width
    assert len(picture) > 100_000  # more than an empty page


def test_a_run_with_a_model_shows_how_right_it_was(window: Browser, tmp_path: Path) -> None:
    usual = tuple((-1.2, 0.0, 1.2) for _ in range(3))
    about = {"feature_set": features.set_hash(features.Params(set="all")), "timeframe": 30,
             "reference": bundles.Reference(usual=usual)}  # fmt: skip
    wide = ("returns_1", "returns_5", "rsi_14")
    ids = [bundles.make(tmp_path, 8, wide, (2, 3, 5), seed, **about).name for seed in (0, 1)]
    lines = [{"from": f"2024-0{month}-02T00:00:00Z", "model": id_} for month, id_ in zip((1, 3), ids, strict=True)]
    (tmp_path / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = load(None, [*SETS, f"forecast.store={tmp_path}", "forecast.model=champion"])
    summary = backtest.run(backtest.plan(SPEC, settings, tmp_path / "run", forecasts=tmp_path / "kept"), loop=True)
    one, two = summary["forecasts"]["judged"]
    assert [one["id"], two["id"]] == ids
    for own in (*one["horizons"], *two["horizons"]):
        assert own["forecasts"] > 200
        assert 0.0 < own["coverage"] < 1.0
        assert own["skill"] == pytest.approx(1.0 - own["pinball"] / own["empirical_pinball"])
    decided = sum(each["decisions"] for each in one["probability"])
    assert 0.9 * one["horizons"][0]["forecasts"] < decided <= one["horizons"][0]["forecasts"]
    assert all(each["from"] <= each["said"] <= each["upto"] for each in one["probability"])
    for width, height, phone in SIZES.values():
        window.show(tmp_path / "run" / "report.html", width, height, phone=phone)
        assert window.complaints == []
        assert window.value("document.documentElement.scrollWidth") == width
        assert window.value(WIDE) == []
        assert window.value("document.querySelectorAll('#forecasts .chart .main-svg').length") == 2 * 3
    text = window.value("document.getElementById('forecasts').innerText")
    for part in (*ids, "not warm", "in force", "2 bars", "calibrated"):
        assert part in text
    assert (tmp_path / "run" / "report.html").stat().st_size < 5_300_000


def test_every_section_says_something(run: Path, window: Browser) -> None:
    window.show(run / "report.html", 1280, 900, phone=False)
    for name in report.SECTIONS:
        assert window.value(f"document.getElementById('{name}').innerText.length") > 10, name
    assert window.value("document.getElementById('reconciliation').innerText").startswith("initial cash 100,000.00")


def test_a_turned_phone_is_redrawn(run: Path, window: Browser) -> None:
    window.show(run / "report.html", 360, 740, phone=True)
    resize = "new Promise(done => setTimeout(() => done(document.querySelector('#curve .main-svg').clientWidth), 700))"
    window._ask("Emulation.setDeviceMetricsOverride", width=740, height=360, mobile=True, deviceScaleFactor=1)
    assert window.value(resize) > 600
    assert window.value("document.documentElement.scrollWidth") == 740


def test_what_was_wrong_with_a_page_would_be_seen(tmp_path: Path, window: Browser) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<body><p style='width:3000px'>wide</p><script>console.error('no'); missing()</script>")
    window.show(page, 360, 740, phone=False)
    assert len(window.complaints) == 2
    assert window.value("document.documentElement.scrollWidth") > 360
    assert window.value(WIDE)


def test_the_page_is_made_again_byte_for_byte(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "report.html").read_bytes()
    (run / "report.html").write_bytes(b"gone")
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(run)])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    assert (run / "report.html").read_bytes() == before
    assert len(before) < 5_300_000  # the library is 4.8 MB of it


def test_profits_of_all_tables_are_those_of_the_trades(run: Path) -> None:
    of = report_run.read(run)
    trades = pq.read_table(run / "trades.parquet").to_pylist()
    signals = {(row["ts"], row["symbol"]): row for row in pq.read_table(run / "signals.parquet").to_pylist()}
    assert of.entries.known.all()
    for k, trade in enumerate(trades):
        signal = signals[trade["decided_ts"], trade["symbol"]]
        assert of.entries.regime.names[of.entries.regime.place[k]] == signal["regime"]
        assert of.entries.direction[k] == {"long": 1, "short": -1}[signal["direction"]]
        said = dict(zip(of.summary["alphas"], of.entries.views[k].tolist(), strict=True))
        assert " ".join(f"{name}{'+' if way > 0 else '-'}" for name, way in said.items() if way) == signal["votes"]
        assert trade["entry_order_id"].split("|")[2] == f"{trade['decided_ts']:%Y%m%dT%H%M%SZ}"


def test_any_counts_of_quality_are_shown(run: Path) -> None:
    of = report_run.read(run)
    more = of._replace(summary={**of.summary, "quality": {"gaps": 12, "flags": {"stale": 3, "jump": 1}}})
    text = report.page(more).body
    for part in ("<td>gaps</td><td>12</td>", "<td>flags · stale</td><td>3</td>", "<td>flags · jump</td><td>1</td>"):
        assert part in text


def test_a_benchmark_of_ones_own_stands_beside_it(tmp_path: Path) -> None:
    curve = tmp_path / "mine.csv"
    curve.write_text("date,close\n2023-12-29,100\n2024-01-02,110\n2024-01-03,99\n2024-01-04,120\n2030-01-02,5\n")
    job = backtest.plan(
        "synthetic:symbols=3,days=3,seed=5,timeframe=30m", load(None), tmp_path / "run", benchmark=curve
    )
    summary = backtest.run(job, loop=True)
    assert summary["benchmark"]["name"] == "mine.csv"
    assert pq.read_table(tmp_path / "run" / "benchmark.parquet")["value"].to_pylist() == [100, 110, 99, 120]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "benchmark: mine.csv" in page
    assert "Beside mine.csv" in page
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["benchmark"] == summary["benchmark"]
