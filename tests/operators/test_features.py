"""Every feature against a plain formula over the whole series, and when it becomes known."""

import calendar as months
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import operators.features as features
from dataflows import features as dataflow
from infra.settings import Settings
from schemas.calendar import NEW_YORK
from schemas.frames import Slices
from tests.operators.frames import bars, slices_of

ALL = features.Params(set="all")
BARS = 300
# bars until the first value: sections 4.1 and 4.3 of the contracts
WARM = {
    "price": 1, "volume": 1, "returns_1": 2, "returns_5": 6, "returns_15": 16, "volatility_5": 6,
    "volatility_15": 16, "sma_5": 5, "sma_20": 20, "ema_5": 5, "ema_20": 20, "rsi_14": 15,
    "volume_zscore": 20, "minute_of_day": 1, "day_of_week": 1,
    "macd": 26, "macd_signal": 34, "macd_hist": 34,
    "bb_upper": 20, "bb_middle": 20, "bb_lower": 20, "bb_pct": 20,
    "returns_60": 61, "rsi_28": 29, "rsi_14_wilder": 15, "ema_12": 12, "ema_26": 26, "ema_50": 50,
    "ema_200": 200, "sma_50": 50, "atr_14": 14, "adx_14": 28, "stoch_k": 16, "stoch_d": 18,
    "volume_ratio": 20, "vwap_dev": 50,
    "hour_of_day": 1, "is_weekend": 1, "day_of_month": 1, "week_of_year": 1, "month_of_year": 1,
    "is_month_end": 1, "market_return_1": 2, "market_volatility_5": 6,
}  # fmt: skip
BASELINE = ("price", "volume", "returns_1", "returns_5", "returns_15", "volatility_5", "volatility_15", "sma_5",
            "sma_20", "ema_5", "ema_20", "rsi_14", "volume_zscore", "minute_of_day", "day_of_week")  # fmt: skip


def market(seed, size=BARS):
    """Open, high, low, close and volume of one symbol."""
    rng = np.random.default_rng(seed)
    close = rng.uniform(5, 300) * np.exp(np.cumsum(rng.normal(0, 0.01, size)))
    open_ = close * np.exp(rng.normal(0, 0.004, size))
    high = np.maximum(open_, close) * np.exp(abs(rng.normal(0, 0.004, size)))
    low = np.minimum(open_, close) * np.exp(-abs(rng.normal(0, 0.004, size)))
    return {"open": open_, "high": high, "low": low, "close": close, "volume": np.floor(rng.lognormal(8, 1, size))}


def streamed(size=BARS, slices=None, **columns):
    """All features of one symbol, which is the market too, fed in one piece."""
    frame = bars(**columns, slices=slices)
    frame = replace(frame, market=np.asarray(columns["close"], np.float64))
    return features.step(ALL, features.start(), frame)[1]


# --- the same by formulas over whole series


def window(values, n, of):
    """`of` over each n values, NaN where there are fewer (or where one is NaN)."""
    out = np.full(len(values), np.nan)
    for i in range(n - 1, len(values)):
        out[i] = of(np.asarray(values[i - n + 1 : i + 1]))
    return out


def back(close, n):
    """Simple return over n bars."""
    out = np.full(close.size, np.nan)
    out[n:] = close[n:] / close[:-n] - 1.0
    return out


def seeded(values, n, alpha):
    """Exponential mean that begins with the simple mean of the first n values that are there."""
    first = int(np.flatnonzero(~np.isnan(values))[0])
    out = np.full(values.size, np.nan)
    out[first + n - 1] = np.mean(values[first : first + n])
    for i in range(first + n, values.size):
        out[i] = alpha * values[i] + (1.0 - alpha) * out[i - 1]
    return out


def ema(values, n):
    return seeded(values, n, 2.0 / (n + 1.0))


def wilder(values, n):
    return seeded(values, n, 1.0 / n)


def moves(values):
    return np.concatenate([[np.nan], np.diff(values)])


def simple_rsi(close, n):
    gains = window(np.maximum(moves(close), 0.0), n, np.mean)
    losses = window(np.maximum(-moves(close), 0.0), n, np.mean)
    return 100.0 * gains / (gains + losses)


def wilder_rsi(close, n):
    gains, losses = wilder(np.maximum(moves(close), 0.0), n), wilder(np.maximum(-moves(close), 0.0), n)
    return 100.0 * gains / (gains + losses)


def ranges(m):
    """True range; the first bar has only its own."""
    before = np.concatenate([[np.nan], m["close"][:-1]])
    parts = [m["high"] - m["low"], abs(m["high"] - before), abs(m["low"] - before)]
    return np.nanmax(parts, axis=0)


def adx(m):
    """Wilder's directional index; movement begins with the second bar."""
    up, down = moves(m["high"]), -moves(m["low"])
    plus = np.where((up > down) & (up > 0), up, 0.0)
    minus = np.where((down > up) & (down > 0), down, 0.0)
    reach = ranges(m)
    for column in (plus, minus, reach):
        column[0] = np.nan
    plus_di, minus_di = (100.0 * wilder(column, 14) / wilder(reach, 14) for column in (plus, minus))
    return wilder(100.0 * abs(plus_di - minus_di) / (plus_di + minus_di), 14)


def stochastic(m):
    top, bottom = window(m["high"], 14, np.max), window(m["low"], 14, np.min)
    k = window(100.0 * (m["close"] - bottom) / (top - bottom), 3, np.mean)
    return k, window(k, 3, np.mean)


def population(values):
    return np.std(values)


def sample(values):
    return np.std(values, ddof=1)


def batch(m):
    """Every feature but those of the calendar."""
    close, volume = m["close"], m["volume"]
    macd = ema(close, 12) - ema(close, 26)
    middle, width = window(close, 20, np.mean), 2.0 * window(close, 20, population)
    typical = (m["open"] + m["high"] + m["low"] + m["close"]) / 4.0
    k, d = stochastic(m)
    centre = window(volume, 20, np.mean)
    weighted = window(typical * volume, 50, np.sum) / window(volume, 50, np.sum)
    return {
        "price": close, "volume": volume,
        **{f"returns_{n}": back(close, n) for n in (1, 5, 15, 60)},
        **{f"volatility_{n}": window(back(close, 1), n, sample) for n in (5, 15)},
        **{f"sma_{n}": window(close, n, np.mean) for n in (5, 20, 50)},
        **{f"ema_{n}": ema(close, n) for n in (5, 12, 20, 26, 50, 200)},
        **{f"rsi_{n}": simple_rsi(close, n) for n in (14, 28)},
        "rsi_14_wilder": wilder_rsi(close, 14),
        "macd": macd, "macd_signal": ema(macd, 9), "macd_hist": macd - ema(macd, 9),
        "bb_middle": middle, "bb_upper": middle + width, "bb_lower": middle - width,
        "bb_pct": (close - middle + width) / (2.0 * width),
        "atr_14": wilder(ranges(m), 14), "adx_14": adx(m), "stoch_k": k, "stoch_d": d,
        "volume_zscore": (volume - centre) / window(volume, 20, sample), "volume_ratio": volume / centre,
        "vwap_dev": close / weighted - 1.0,
        "market_return_1": np.log1p(back(close, 1)),
        "market_volatility_5": window(np.log1p(back(close, 1)), 5, lambda x: np.std(x, ddof=1)),
    }  # fmt: skip


CALENDAR = ("minute_of_day", "hour_of_day", "day_of_week", "is_weekend", "day_of_month", "week_of_year",
            "month_of_year", "is_month_end")  # fmt: skip
# differences of prices: what rounding leaves is relative to the price
OF_PRICES = {
    "market_return_1",
    "macd",
    "macd_signal",
    "macd_hist",
    "returns_1",
    "returns_5",
    "returns_15",
    "returns_60",
    "vwap_dev",
}


@pytest.fixture(scope="module")
def series():
    """(streamed, batch) of a few markets."""
    return [(streamed(**market(seed)), batch(market(seed)) | {"scale": market(seed)["close"][0]}) for seed in range(5)]


@pytest.mark.parametrize("name", [name for name in features.ORDER if name not in CALENDAR])
def test_streamed_is_the_batch_formula(name, series):
    for stream, whole in series:
        slack = 1e-12 * (whole["scale"] if name.startswith("macd") else 1.0) if name in OF_PRICES else 0.0
        np.testing.assert_allclose(stream.column(name), whole[name], rtol=1e-9, atol=slack)


@pytest.mark.parametrize("name", features.ORDER)
def test_is_missing_until_exactly_its_warm_up(name, series):
    for stream, _ in series:
        known = ~np.isnan(stream.column(name))
        assert int(np.flatnonzero(known)[0]) + 1 == WARM[name]
        assert known[WARM[name] - 1 :].all()


def test_the_columns_are_those_of_the_contracts():
    assert set(WARM) == set(features.ORDER)
    assert len(features.ORDER) == len(set(features.ORDER))
    assert features.ORDER[:15] == BASELINE


def test_the_small_set_has_the_same_values(series):
    whole = series[0][0]
    small = features.step(features.Params(), features.start(), whole.bars)[1]
    assert small.names == ("returns_1", "volatility_5")
    for name in small.names:
        assert small.column(name).tobytes() == whole.column(name).tobytes()


def test_symbols_do_not_mix():
    one, two = market(1), market(2)
    mixed = {name: np.stack([one[name], two[name]], axis=1).reshape(-1) for name in one}
    at, slot = np.repeat(np.arange(BARS), 2), np.tile([0, 1], BARS)
    frame = replace(bars(**mixed, at=at, slot=slot), market=one["close"])
    both = features.step(ALL, features.start(), frame)[1]
    own = [k for k, name in enumerate(features.ORDER) if name not in features.MARKET]
    for k, alone in enumerate((one, two)):
        np.testing.assert_array_equal(both.values[slot == k][:, own], streamed(**alone).values[:, own])
    of_market = both.values[:, [k for k in range(len(features.ORDER)) if k not in own]]
    np.testing.assert_array_equal(of_market[slot == 0], of_market[slot == 1])


def test_without_a_market_symbol_its_features_are_missing():
    answer = features.step(ALL, features.start(), bars(**market(3)))[1]
    for name in features.MARKET:
        assert np.isnan(answer.column(name)).all()


def test_a_slice_without_a_bar_of_the_market_has_no_features_of_it():
    closes = np.array([10.0, 11.0, np.nan, 12.0, 12.5, 13.0, 12.0, 12.25])
    frame = replace(bars(np.full(8, 5.0)), market=closes)
    answer = features.step(ALL, features.start(), frame)[1]
    there = closes[~np.isnan(closes)]
    expected = np.full(8, np.nan)
    expected[[1, 3, 4, 5, 6, 7]] = np.log(there[1:] / there[:-1])
    np.testing.assert_allclose(answer.column("market_return_1"), expected, rtol=1e-12)
    last = np.std(expected[[3, 4, 5, 6, 7]], ddof=1)
    np.testing.assert_allclose(answer.column("market_volatility_5")[-2:],
                               [np.std(expected[[1, 3, 4, 5, 6]], ddof=1), last], rtol=1e-12)  # fmt: skip
    assert np.isnan(answer.column("market_volatility_5")[:-2]).all()


# --- splits


@pytest.mark.parametrize(("share", "at"), [(7.0, 130), (0.05, 1), (1.5, 299)])
def test_a_split_changes_no_feature_but_the_unit(share, at):
    """Raw bars with their scale, against bars that were adjusted beforehand."""
    whole = market(11)
    after = np.arange(BARS) >= at
    scale = np.where(after, share, 1.0)
    raw = {n: column * scale if n == "volume" else column / scale for n, column in whole.items()}
    frame = replace(bars(**raw), scale=scale)
    told = features.step(ALL, features.start(), frame)[1]
    beforehand = features.step(ALL, features.start(), bars(**whole))[1]
    for name in features.ORDER:
        unit = scale if name in (*features.IN_DOLLARS, "price") else 1.0 / scale if name == "volume" else 1.0
        slack = 1e-9 * whole["close"][0] if name in OF_PRICES else 1e-9
        np.testing.assert_allclose(told.column(name) * unit, beforehand.column(name), rtol=1e-7, atol=slack)


# --- what has no value, and what has one by definition


def frozen(price, volume=100.0, size=260):
    """A price at which nothing moves."""
    column = np.full(size, price)
    return streamed(open=column, high=column, low=column, close=column, volume=np.full(size, volume))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("returns_1", 0.0), ("returns_60", 0.0), ("volatility_5", 0.0), ("volatility_15", 0.0), ("sma_20", 33.33),
        ("ema_200", 33.33), ("macd", 0.0), ("macd_hist", 0.0), ("rsi_14", 50.0), ("rsi_28", 50.0),
        ("rsi_14_wilder", 50.0), ("atr_14", 0.0), ("adx_14", 0.0), ("stoch_k", 50.0), ("stoch_d", 50.0),
        ("volume_zscore", 0.0), ("volume_ratio", 1.0), ("vwap_dev", 0.0),
    ],
)  # fmt: skip
def test_a_frozen_price_has_these_values(name, value):
    np.testing.assert_allclose(frozen(33.33).column(name)[WARM[name] - 1 :], value, rtol=1e-12, atol=1e-12)


def test_a_frozen_price_has_no_place_between_bands_of_no_width():
    wrong = [c for c in range(101, 9000, 97) if not np.isnan(frozen(c / 100, size=40).column("bb_pct")).all()]
    assert wrong == []


def test_equal_volumes_have_no_score_even_when_they_are_no_whole_shares():
    wrong = [c for c in range(1, 40) if frozen(10.0, volume=c / 7, size=40).column("volume_zscore")[19:].any()]
    assert wrong == []


def test_without_volume_there_is_no_ratio_and_no_weighted_price():
    still = frozen(10.0, volume=0.0)
    assert np.isnan(still.column("volume_ratio")).all()
    assert np.isnan(still.column("vwap_dev")).all()
    assert not still.column("volume_zscore")[19:].any()


@pytest.mark.parametrize(("step", "index"), [(0.25, 100.0), (-0.25, 0.0)])
def test_strength_of_a_price_that_only_rises_or_only_falls(step, index):
    close = 100.0 + step * np.arange(60)
    stream = streamed(close=close)
    for name in ("rsi_14", "rsi_28", "rsi_14_wilder"):
        assert (stream.column(name)[WARM[name] - 1 :] == index).all()


# --- the calendar


@pytest.mark.parametrize(
    ("timeframe", "first", "last"),
    [
        (60, date(2020, 11, 20), date(2021, 1, 15)),  # half days, ISO week 53, a new year
        (30, date(2024, 2, 20), date(2024, 3, 15)),  # February 29th, summer time begins
        (30, date(2024, 10, 25), date(2024, 12, 31)),  # it ends; half days; ISO week 1 before the year's end
        (1440, date(2016, 1, 1), date(2017, 12, 31)),
    ],
)
def test_calendar_features_agree_with_datetime(timeframe, first, last):
    slices = slices_of(timeframe, first, last)
    values = streamed(close=np.ones(slices.size), slices=slices)
    for i, ts in enumerate(slices.ts.tolist()):
        then = datetime.fromtimestamp(ts // 10**9, UTC).astimezone(NEW_YORK)
        days = months.monthrange(then.year, then.month)[1]
        expected = (then.hour * 60 + then.minute, then.hour, then.weekday(), then.weekday() >= 5, then.day,
                    then.isocalendar().week, then.month, then.day > days - 3)  # fmt: skip
        assert tuple(values.column(name)[i] for name in CALENDAR) == expected


def test_calendar_features_of_any_date_agree_with_datetime():
    first = date(1999, 1, 1)
    days = [first + timedelta(days=k) for k in range(366 * 12)]
    zeros = np.zeros(len(days), np.int32)
    session = np.array([(day - date(1970, 1, 1)).days for day in days], np.int32)
    slices = Slices(0, 1, np.arange(len(days)), session, zeros + 605, zeros, zeros.astype(np.int8))
    answer = features.calendar(bars(np.ones(len(days)), slices=slices))
    assert set(answer) == set(CALENDAR)
    assert answer["week_of_year"].tolist() == [day.isocalendar().week for day in days]
    assert answer["is_weekend"].tolist() == [day.weekday() >= 5 for day in days]
    assert answer["day_of_week"].tolist() == [day.weekday() for day in days]
    ends = [(day + timedelta(days=3)).month != day.month for day in days]
    assert answer["is_month_end"].tolist() == ends
    assert set(answer["hour_of_day"].tolist()) == {10}


# --- the set's name, and the file


def test_the_hash_names_the_columns_and_their_order(monkeypatch):
    known = features.set_hash(ALL)
    assert features.set_hash(features.Params()) != known
    assert features.set_hash(features.Params(set="all")) == known
    monkeypatch.setitem(features.SETS, "all", features.ORDER[::-1])
    assert features.set_hash(ALL) != known
    monkeypatch.setitem(features.SETS, "all", features.ORDER[:-1])
    assert features.set_hash(ALL) != known


HEADER = "symbol,ts,open,high,low,close,volume"
OPEN = datetime(2024, 7, 3, 9, 30, tzinfo=NEW_YORK)  # a half day: 210 minutes


def bar(symbol, minute, close, volume=100.0):
    ts = (OPEN + timedelta(minutes=minute)).astimezone(UTC).isoformat().replace("+00:00", "Z")
    return f"{symbol},{ts},{close},{close + 0.5},{close - 0.5},{close},{volume}"


@pytest.fixture
def written(tmp_path):
    """A file of two symbols, some bars of which are bad, and the features written from it."""
    good = {name: market(seed, 210)["close"].round(2) for seed, name in enumerate(("ZZZ", "AAA"))}
    lines = []
    for minute in range(1, 211):
        lines.append(bar("ZZZ", minute, good["ZZZ"][minute - 1]))
        lines.append(bar("AAA", minute, good["AAA"][minute - 1] if minute != 7 else -3.0))
    lines.append(bar("AAA", 211, 5.0))  # after the close
    source, out = tmp_path / "bars.csv", tmp_path / "deep" / "features.parquet"
    source.write_text("\n".join([HEADER, *lines]) + "\n")
    answer = dataflow.run(str(source), Settings(), out)
    return good, answer, pq.read_table(out), out


def test_one_row_per_bar_in_order_of_time_and_name(written):
    _, answer, table, out = written
    ts, names = table["ts"].cast("int64").to_pylist(), table["symbol"].to_pylist()
    assert answer["rows"] == table.num_rows == 421
    assert list(zip(ts, names, strict=True)) == sorted(zip(ts, names, strict=True))
    first = int((OPEN + timedelta(minutes=1)).timestamp()) * 10**9
    assert ts[0] == first
    assert ts[-1] == first + 210 * 60 * 10**9
    assert table.column_names == ["ts", "symbol", *features.ORDER, "is_warm", "is_overnight"] == answer["columns"]
    assert table.schema.metadata[b"feature_set"].decode() == answer["feature_set"] == features.set_hash(ALL)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_refused_bars_keep_their_rows_without_values(written):
    _, _, table, _ = written
    rows = table.to_pylist()
    missing = [i for i, row in enumerate(rows) if np.isnan(row["price"])]
    assert [(rows[i]["symbol"], rows[i]["ts"].minute) for i in missing] == [("AAA", 37), ("AAA", 1)]
    for i in missing:
        assert np.isnan([rows[i][name] for name in features.ORDER]).all()
        assert not rows[i]["is_warm"]
        assert not rows[i]["is_overnight"]


def test_the_file_holds_what_the_step_gives(written):
    good, _, table, _ = written
    rows = table.to_pylist()
    whole = [row for row in rows if row["symbol"] == "ZZZ"]
    assert [row["is_warm"] for row in whole] == [False] * 199 + [True] * 11
    other = [row for row in rows if row["symbol"] == "AAA" and not np.isnan(row["price"])]
    closes = np.delete(good["AAA"], 6)
    for own, close in ((whole, good["ZZZ"]), (other, closes)):
        n = close.size
        expected = streamed(open=close, high=close + 0.5, low=close - 0.5, close=close, volume=np.full(n, 100.0))
        for name in features.ORDER:
            if name not in (*CALENDAR, *features.MARKET):
                given = np.array([row[name] for row in own])
                np.testing.assert_array_equal(given, expected.column(name))
    assert {row["day_of_month"] for row in whole} == {3.0}
    assert [row["minute_of_day"] for row in whole] == list(range(571, 781))


def test_a_return_over_night_is_flagged(tmp_path):
    days = [datetime(2024, 7, day, 16, tzinfo=NEW_YORK).astimezone(UTC) for day in (1, 2)]
    stamps = [day + timedelta(minutes=minute) for day in days for minute in (-2, -1, 0)]
    lines = [f"AAA,{ts.isoformat().replace('+00:00', 'Z')},5,6,4,5,100" for ts in stamps]
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    dataflow.run(str(tmp_path / "bars.csv"), Settings(), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["is_overnight"].to_pylist() == [False, False, False, True, False, False]


def test_the_market_is_spy_also_for_those_who_did_not_ask_for_it(tmp_path):
    closes = market(5, 210)["close"].round(2)
    lines = [bar("SPY", minute, closes[minute - 1]) for minute in range(1, 211) if minute != 50]
    lines += [bar("SPY", 50, -1.0), bar("QQQ", 50, 7.0)]  # a bad bar is none
    lines += [bar("AAA", minute, 5.0 + minute % 7) for minute in range(1, 211)]
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    for name, asked in (("all", ()), ("one", ("AAA",))):
        dataflow.run(str(tmp_path / "bars.csv"), Settings(), tmp_path / name, symbols=asked)
    whole, one = (pq.read_table(tmp_path / name) for name in ("all", "one"))
    own = whole.filter(pc.equal(whole["symbol"].cast("string"), "AAA"))
    for name in features.ORDER:
        np.testing.assert_array_equal(one[name].to_numpy(), own[name].to_numpy())
    told = np.array(one["market_return_1"])
    expected = np.full(210, np.nan)
    kept = np.delete(np.arange(210), 49)
    expected[kept[1:]] = np.log(closes[kept[1:]] / closes[kept[:-1]])
    np.testing.assert_allclose(told, expected, rtol=1e-12)
