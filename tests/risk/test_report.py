import re
from datetime import date, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from infra.results import Recorder
from risk import report, report_figures, report_json, report_slippage, report_words
from risk.report_figures import extremes, thinned
from risk.report_json import dates, either, local, noons, phrases, rounded
from risk.report_words import Labels, groups
from schemas.calendar import NEW_YORK
from tests.infra.ledgers import story
from tests.plain import plain


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
def test_a_thinned_curve_keeps_ends_and_extremes(curve, buckets):
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


@given(days=st.lists(st.integers(0, 30_000), max_size=20))
def test_days_are_dates_and_have_a_noon(days):
    shown = [(date(1970, 1, 1) + timedelta(days)).isoformat() for days in days]
    assert msgspec.json.decode(dates(np.array(days, np.int64))) == shown
    assert msgspec.json.decode(noons(np.array(days, np.int64))) == [f"{day}T12:00" for day in shown]


def figures(number):
    """What may be written of a number: of some digits, or any double."""
    return st.one_of(st.floats(-1e9, 1e9), st.integers(-(10**7), 10**7).map(lambda k: k / 10**6), number)


@given(values=st.lists(figures(st.floats()), max_size=20), digits=st.integers(1, 6))
def test_numbers_are_written_as_an_encoder_writes_them(values, digits):
    with np.errstate(all="ignore"):
        wanted = np.round(np.array(values, np.float64), digits).tolist()
        assert bytes(rounded(np.array(values, np.float64), digits)) == msgspec.json.encode(wanted)


words = st.text('ab<"\\é _', max_size=4)


@given(data=st.data(), size=st.integers(0, 10))
def test_words_are_written_as_an_encoder_writes_them(data, size):
    first, second = (
        Labels(
            names, np.array(data.draw(st.lists(st.integers(0, len(names) - 1), min_size=size, max_size=size)), np.int32)
        )
        for names in (data.draw(st.lists(words, min_size=1, max_size=4, unique=True)) for _ in range(2))
    )
    wanted = [
        f"{report_words.words(first.names[i])} {report_words.words(second.names[j])}"
        for i, j in zip(first.place, second.place, strict=True)
    ]
    assert bytes(phrases(first, second)) == msgspec.json.encode(wanted)
    flags = first.place > 0
    assert bytes(either(flags, "yes", "no")) == msgspec.json.encode(["yes" if flag else "no" for flag in flags])


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.floats(-9, 9), st.floats(-9, 9)), max_size=30))
def test_groups_keep_the_order_of_their_rows(rows):
    names = ["d", "a", "c", "b"]
    place, one, two = (np.array(column) for column in zip(*rows, strict=True)) if rows else np.zeros((3, 0))
    found = groups(Labels(names, place.astype(np.int8)), one, two)
    assert [(name, first.tolist(), second.tolist()) for name, first, second in found] == [
        (name, one[place == k].tolist(), two[place == k].tolist())
        for name, k in sorted((name, k) for k, name in enumerate(names))
        if (place == k).any()
    ]


@given(values=arrays(np.float64, st.integers(1, 60), elements=st.integers(-50, 50).map(lambda k: k / 7)))
def test_a_histogram_is_numpys(values):
    counts = np.zeros(41, np.int64)
    low, high = np.quantile(values, [0.1, 0.9])
    if low < high:
        wanted, edges = np.histogram(np.clip(values, low, high), 41, (low, high))
        report_figures.count(values, edges, counts)
        assert counts.tolist() == wanted.tolist()


amounts = st.integers(1, 10**6).map(lambda k: k / 100)


@given(rows=st.lists(st.tuples(st.integers(0, 1), amounts, amounts, st.integers(1, 10**6)), max_size=20))
def test_what_slipped_is_plain_arithmetic(rows):
    side, price, expected, qty = (np.array(column) for column in zip(*rows, strict=True)) if rows else np.zeros((4, 0))
    sign = np.array([-1.0, 1.0])
    bps, cost = np.empty((2, price.size))
    report_slippage.compare(sign, side.astype(np.int32), price, expected, qty.astype(np.int64), bps, cost)
    worse = sign[side.astype(int)] * (price - expected)
    assert bps.tolist() == (10_000 * worse / expected).tolist()
    assert cost.tolist() == (worse * qty).tolist()


KERNELS = (report_figures.reach, report_figures.find_ends, report_figures.count, report_json.write_numbers)


@given(values=arrays(np.float64, st.integers(4, 40), elements=st.integers(-9, 9)))
def test_compiled_or_not_the_bits_are_the_same(values):
    def answers(reach, find_ends, count, write_numbers):
        kept, low, high = np.zeros(values.size, np.bool_), np.zeros(3, np.int64), np.zeros(3, np.int64)
        counts, text = np.zeros(5, np.int64), np.zeros(values.size * 20, np.uint8)
        reach(values, np.array([0, 2, values.size]), kept)
        find_ends(values, low, high)
        count(values, np.linspace(-5, 5, 6), counts)
        write_numbers(values / 8, 100.0, 2, text)
        return [each.tolist() for each in (kept, low, high, counts, text)]

    assert answers(*KERNELS) == answers(*map(plain, KERNELS))
