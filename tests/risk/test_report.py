import re
from datetime import datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from infra.results import Recorder
from risk import report
from risk.report_figures import extremes, thinned
from risk.report_words import local
from schemas.calendar import NEW_YORK
from tests.infra.ledgers import story


def write(folder, given, **header):
    recorder = Recorder(folder, given.header(**header))
    for frame in given.frames():
        recorder.add(frame)
    recorder.finish()
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return write(tmp_path_factory.mktemp("runs") / "run", story(seed=3))


def own(html):
    """Without the library's JavaScript."""
    return re.sub(r"<script>/\*\*.*?</script>", "", html, flags=re.DOTALL)


def test_the_library_is_inside_once_and_nothing_is_fetched(html):
    assert html.count("plotly.js v") == 1
    assert len(own(html)) < 200_000
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://""", own(html))


def test_a_phone_can_read_it(html):
    assert 'name="viewport" content="width=device-width' in html
    assert "responsive: true" in html


def test_it_says_what_the_summary_says(html):
    text = own(html)
    for part in (
        "SYNTHETIC DATA", "made up", "Max drawdown", "Win rate", "Profit factor", "final equity",
        "From bars to fills", "lost here, most: ", "Refused by the rules", "How trades ended",
        "Best trades", "Worst trades", "Last trades", "forecast, quotes", "bars refused", "fingerprint",
        '"max_shares"'.replace('"', "&quot;"),
    ):  # fmt: skip
        assert part in text, part
    for chart in ("curve", "dots", "spread", "symbols"):
        assert f'id="{chart}"' in text


def test_real_data_has_no_banner(tmp_path):
    assert "SYNTHETIC" not in own(write(tmp_path / "run", story(seed=3), synthetic=False))


def test_names_are_no_markup(tmp_path):
    text = own(write(tmp_path / "run", story(seed=3), bars={"label": "<script>alert(1)</script>"}))
    assert "<script>alert" not in text


def test_a_run_without_trades_has_a_report(tmp_path):
    text = own(write(tmp_path / "run", story(seed=1, symbols=2, slices=3, trades=0)))
    assert "Best trades" not in text
    assert 'id="curve"' in text


def test_reading_again_gives_the_same_page(tmp_path):
    before = write(tmp_path / "run", story(seed=3))
    report.write(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").read_text() == before


curves = arrays(np.float64, st.integers(1, 400), elements=st.floats(-1e6, 1e6))


@given(curve=curves, buckets=st.integers(1, 50))
def test_a_thinned_curve_keeps_ends_andextremes(curve, buckets):
    kept = thinned(curve, -curve, most=100, buckets=buckets)
    assert (np.diff(kept) > 0).all()
    assert {0, curve.size - 1} <= set(kept.tolist())
    assert {curve[kept].min(), curve[kept].max()} == {curve.min(), curve.max()}
    assert kept.size == curve.size if curve.size <= 100 else kept.size <= 6 * buckets


@given(values=arrays(np.float64, st.integers(1, 60), elements=st.integers(-5, 5)), most=st.integers(1, 20))
def test_the_extremes_are_the_ends_of_a_stable_sort(values, most):
    order = np.argsort(values, kind="stable")
    worst, best = extremes(values, most)
    assert worst.tolist() == order[:most].tolist()
    assert best.tolist() == order[::-1][:most].tolist()


@given(st.lists(st.integers(0, 4_102_444_799), max_size=20))
def test_times_are_new_yorks(seconds):
    there = [datetime.fromtimestamp(second, NEW_YORK).strftime("%Y-%m-%dT%H:%M:%S") for second in seconds]
    assert msgspec.json.decode(local(np.array(seconds, np.int64) * 10**9)) == there
