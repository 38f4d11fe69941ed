"""Reference data from files: the formats, what is known when, and every mistake as one line."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from infra.bars import open_bars
from infra.reference import Files, midnight, read_actions
from infra.settings import Reference as Params
from schemas.calendar import NEW_YORK, Calendar
from schemas.errors import UserError
from schemas.frames import SHARDS
from tests.infra.barkit import LEAN, needs_lean

BARS = "symbol,ts,open,high,low,close,volume"
PARAMS = Params()
DAYS = [date(2024, 7, day) for day in (1, 2, 3, 5, 8)]  # the 4th is a holiday, the 3rd half a day


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UTP_CACHE_DIR", str(tmp_path / "cache"))


def ns(text: str) -> int:
    """New York's clock -> UTC ns."""
    return int(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp()) * 10**9


def stamp(text: str) -> str:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).astimezone(UTC).isoformat()


def opened(tmp_path: Path, *, frame_slices: int = 0, params: Params = PARAMS, symbols=(), **texts: str):
    """Hourly bars of A and B on all days from 11:00 to 13:00, and the files that stand beside them."""
    lines = [f"{name},{stamp(f'{day}T{hour}:00')},10,11,9,{10 + hour / 100},1000"
             for day in DAYS for hour in (11, 12, 13) for name in "AB"]  # fmt: skip
    (tmp_path / "bars.csv").write_text("\n".join([BARS, *lines]) + "\n")
    files = {}
    for kind, text in texts.items():
        path = tmp_path / f"{kind}.csv"
        path.write_text(text)
        files[kind] = str(path)
    return open_bars(str(tmp_path / "bars.csv"), timeframe="1h", frame_slices=frame_slices, symbols=symbols,
                     files=Files(**files), reference=params)  # fmt: skip


def column(bars, name, symbol="A"):
    """New York time of each bar of a symbol -> what stands beside it."""
    found = {}
    for chunk in bars.frames():
        for frame in chunk:
            for k in np.flatnonzero(frame.symbol == bars.universe.ids[symbol]).tolist():
                when = datetime.fromtimestamp(frame.ts[k] / 1e9, NEW_YORK)
                found[f"{when:%m-%dT%H}"] = getattr(frame, name)[k].item()
    return found


def actions(bars):
    """(first bar of the slice, symbol, new, old, dividend) as frames carry them."""
    found = []
    for chunk in bars.frames():
        for frame in chunk:
            own = frame.actions
            for k in range(own.at.size):
                when = datetime.fromtimestamp(frame.slices.ts[own.at[k]] / 1e9, NEW_YORK)
                name = bars.universe.names[own.symbol[k]]
                assert bars.universe.slots[own.symbol[k]] == frame.acted[k]
                row = [int(getattr(own, each)[k]) for each in ("new", "old", "dividend")]
                found.append((f"{when:%m-%dT%H}", name, *row))
    return sorted(found)


# --- quotes


def test_a_bar_has_the_last_quote_that_is_not_too_old(tmp_path):
    text = "symbol,ts,bid,ask\n"
    for when, bid in (("07-01T11:00", 1), ("07-01T11:00:01", 2), ("07-01T12:00", 3), ("07-02T10:00", 4),
                      ("07-02T09:59:59", 9), ("07-03T11:00:00.000001", 5), ("07-05T11:00", 6)):  # fmt: skip
        text += f"a,{stamp('2024-' + when)},{bid},{bid + 0.5}\n"
    found = column(opened(tmp_path, quotes=text), "bid")
    expected = {"07-01T11": 1.0, "07-01T12": 3.0, "07-01T13": 3.0, "07-02T11": 4.0, "07-03T12": 5.0, "07-05T11": 6.0,
                "07-05T12": 6.0}  # fmt: skip
    assert {key: value for key, value in found.items() if not np.isnan(value)} == expected
    wider = column(opened(tmp_path, quotes=text, params=Params(quote_age_bars=2.0)), "ask")
    assert (wider["07-02T12"], wider["07-03T13"]) == (4.5, 5.5)
    assert np.isnan(list(column(opened(tmp_path, quotes=text), "ask", "B").values())).all()


@needs_lean
def test_bars_of_quotes_are_quotes(tmp_path):
    """minute_quote has bid_close and ask_close; a bar has the quote of its own minute, where there is one."""
    bars = open_bars(f"{LEAN}/minute_trade.parquet", symbols=["SPY"], files=Files(f"{LEAN}/minute_quote.parquet"))
    quotes = pq.read_table(
        LEAN / "minute_quote.parquet", columns=["symbol", "ts", "bid_close", "ask_close"]
    ).to_pylist()
    told = {int(q["ts"].timestamp()) * 10**9: (q["bid_close"], q["ask_close"]) for q in quotes if q["symbol"] == "spy"}
    seen = 0
    for chunk in bars.frames():
        for frame in chunk:
            for ts, bid, ask in zip(frame.ts.tolist(), frame.bid.tolist(), frame.ask.tolist(), strict=True):
                expected = told.get(ts) or told.get(ts - 60 * 10**9)
                seen += expected is not None
                assert (bid, ask) == expected if expected else np.isnan(bid)
    assert seen > 5_000


# --- earnings


def test_a_report_is_known_its_notice_before_it(tmp_path):
    text = "symbol,date\nA,2024-07-05\nB,\n"
    bars = opened(tmp_path, earnings=text, params=Params(earnings_notice_days=2))
    assert column(bars, "earnings_days") == {
        **{
            f"07-0{day}T{hour}": days
            for day, days in ((1, -1), (2, -1), (3, 2), (5, 0), (8, 3))
            for hour in (11, 12, 13)
        }
    }
    assert set(column(bars, "earnings_days", "B").values()) == {2**31 - 1}


def test_a_report_is_known_from_its_own_instant_or_from_the_end_of_its_day(tmp_path):
    at_noon = f"symbol,date,known_from\nA,2024-07-05,{stamp('2024-07-03T12:00')}\n"
    found = column(opened(tmp_path, earnings=at_noon), "earnings_days")
    assert [found[f"07-03T{hour}"] for hour in (11, 12, 13)] == [-1, 2, 2]
    by_day = "symbol,date,known_from\nA,2024-07-05,2024-07-02\n"
    found = column(opened(tmp_path, earnings=by_day), "earnings_days")
    assert [found[f"07-0{day}T13"] for day in (2, 3)] == [-1, 2]


def test_long_after_the_last_report_nothing_is_known(tmp_path):
    text = "symbol,date\nA,2024-06-30\n"
    found = column(opened(tmp_path, earnings=text, params=Params(earnings_stale_days=3)), "earnings_days")
    assert [found[f"07-0{day}T11"] for day in (1, 2, 3, 5, 8)] == [1, 2, 3, -1, -1]


# --- actions


@pytest.mark.parametrize("slices", [0, 1, 4])
def test_an_action_holds_from_the_first_slice_of_its_session(tmp_path, slices):
    text = "symbol,date,split,dividend\na,2024-07-02,7:1,\nB,2024-07-04,1:20,0.25\nA,2024-07-05,,1.5\nC,2024-07-05,2,\n"
    bars = opened(tmp_path, actions=text, frame_slices=slices)
    assert actions(bars) == [
        ("07-02T10", "A", 7, 1, 0),
        ("07-05T10", "A", 1, 1, 15_000),
        ("07-05T10", "B", 1, 20, 2_500),
    ]


def test_actions_of_one_slice_become_one(tmp_path):
    text = "symbol,date,split,dividend\nA,2024-07-04,2,0.5\nA,2024-07-05,1.5,0.25\n"
    assert actions(opened(tmp_path, actions=text)) == [("07-05T10", "A", 3, 1, 7_500)]


def test_what_held_before_the_log_begins_is_no_action(tmp_path):
    assert (
        actions(opened(tmp_path, actions="symbol,date,split\nA,2024-07-01,2\nA,2024-06-03,2\nA,2030-01-01,2\n")) == []
    )


@needs_lean
def test_factors_of_lean_are_the_real_splits():
    """From the README beside them; and AAPL paid 3.29 a share in May 2014, 0.47 after its split, 0.82 in 2020."""
    found = read_actions(LEAN / "factors.csv", Calendar(60, date(1998, 1, 2), date(2021, 4, 1)))
    day = {a: datetime.fromtimestamp(a.ts / 1e9, NEW_YORK).date().isoformat() for a in found}
    splits = {
        (a.name, day[a], a.new, a.old) for a in found if a.new != a.old and a.name in ("AAPL", "IBM", "AIG", "BAC")
    }
    assert splits >= {
        ("AAPL", "2000-06-21", 2, 1), ("AAPL", "2005-02-28", 2, 1), ("AAPL", "2014-06-09", 7, 1),
        ("AAPL", "2020-08-31", 4, 1), ("IBM", "1999-05-27", 2, 1), ("BAC", "2004-08-30", 2, 1),
        ("AIG", "1999-08-02", 5, 4), ("AIG", "2000-07-31", 3, 2), ("AIG", "2009-07-01", 1, 20),
    }  # fmt: skip
    paid = {day[a]: a.dividend / 10_000 for a in found if a.name == "AAPL" and a.dividend}
    assert paid["2014-05-08"] == pytest.approx(3.29, abs=0.01)
    assert paid["2014-08-07"] == pytest.approx(0.47, abs=0.01)
    assert paid["2020-08-07"] == pytest.approx(0.82, abs=0.01)


# --- volumes


def test_a_reference_volume_follows_its_splits(tmp_path):
    volumes = f"symbol,average_volume,known_from\nA,1000,\nA,600,{stamp('2024-07-03T12:00')}\n"
    split = "symbol,date,split\nA,2024-07-02,2\nA,2024-07-08,3\nB,2024-07-02,9\n"
    found = column(opened(tmp_path, volumes=volumes, actions=split), "average_volume")
    assert [found[f"07-0{day}T11"] for day in (1, 2, 3, 5, 8)] == [1_000, 2_000, 2_000, 600, 1_800]
    assert found["07-03T12"] == 600
    assert np.isnan(list(column(opened(tmp_path, volumes=volumes), "average_volume", "B").values())).all()


# --- all together


def test_frames_hold_the_same_however_they_are_cut(tmp_path):
    texts = {
        "quotes": f"symbol,ts,bid,ask\nB,{stamp('2024-07-03T11:30')},1,2\n",
        "earnings": "symbol,date\nA,2024-07-05\nB,2024-07-30\n",
        "volumes": "symbol,average_volume,known_from\nA,5,2024-07-02\n",
        "actions": "symbol,date,split\nA,2024-07-03,2\n",
    }
    bars = [opened(tmp_path, frame_slices=slices, **texts) for slices in (0, 1, 5)]
    for name in ("bid", "ask", "earnings_days", "average_volume"):
        for symbol in "AB":
            whole, *parts = (list(column(one, name, symbol).items()) for one in bars)
            for part in parts:
                np.testing.assert_equal(part, whole)
    for first, count in ((13, 1), (14, 0)):  # whoever begins later has seen what came before
        later = [frame for chunk in bars[1].frames(range(SHARDS), first) for frame in chunk]
        assert sum(frame.actions.at.size for frame in later) == count


def test_the_fingerprint_changes_with_any_of_the_files(tmp_path):
    text = "symbol,date\nA,2024-07-05\n"
    plain, beside = opened(tmp_path), opened(tmp_path, earnings=text)
    changed = opened(tmp_path, earnings=text + "B,2024-07-05\n")
    assert len({plain.fingerprint, beside.fingerprint, changed.fingerprint}) == 3
    assert beside.files.resolved() == {"earnings": str(tmp_path / "earnings.csv")}


def test_parquet_and_csv_say_the_same(tmp_path):
    table = pa.table({
        "symbol": ["A", "B"], "date": pa.array([date(2024, 7, 2), date(2024, 7, 3)]), "split": [7.0, 0.05],
        "dividend": [None, 0.1],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "x.csv")
    calendar = Calendar(60, DAYS[0], DAYS[-1])
    rows = read_actions(tmp_path / "x.parquet", calendar)
    assert rows == read_actions(tmp_path / "x.csv", calendar)
    assert [(row.name, row.new, row.old, row.dividend) for row in rows] == [("A", 7, 1, 0), ("B", 1, 20, 1_000)]


def test_midnight_is_new_yorks():
    assert midnight(date(2024, 7, 3)) == ns("2024-07-03T00:00")
    assert midnight(date(2024, 1, 3)) == ns("2024-01-03T00:00")


MISTAKES = [
    ("quotes", "", "quotes.csv is empty; want a header and rows"),
    ("quotes", "symbol,ts,bid\n", "has no column ask"),
    ("quotes", "symbol,ts,bid,ask\nA,2024-07-03T12:00,1,2\n", "row 1, column ts: '2024-07-03T12:00' has no time zone"),
    ("quotes", "symbol,ts,bid,ask\nA,2024-07-03T12:00Z,1,two\n", "row 1, column ask: 'two' is not a number"),
    ("quotes", "symbol,ts,bid,ask\n,2024-07-03T12:00Z,1,2\n", "row 1 has no symbol"),
    ("earnings", "symbol,day\nA,2024-07-03\n", "has no column date"),
    ("earnings", "symbol,date\nA,soon\n", "row 1, column date: 'soon' is no date; write it as 2024-01-02"),
    ("earnings", "symbol,date,known_from\nA,2024-07-03,2024-07-03T12:00\n", "column known_from: '2024-07-03T12:00'"),
    ("actions", "symbol,date\nA,2024-07-03\n", "has neither a column split nor dividend"),
    ("actions", "symbol,date,split\nA,,2\n", "row 1: no date; want the first session in which it holds"),
    ("actions", "symbol,date,split\nA,2024-07-03,7-1\n", "row 1: split '7-1': want new:old as 7:1, or a number"),
    ("actions", "symbol,date,split\nA,2024-07-03,1:0\n", "row 1: split '1:0': want new:old"),
    ("actions", "symbol,date,split\nA,2024-07-03,-2\n", "row 1: split -2: want 1:10000 to 10000:1"),
    ("actions", "symbol,date,dividend\nA,2024-07-03,-0.5\n", "row 1: dividend -0.5: want USD per share"),
    ("actions", "permtick,date,price_factor,split_factor\na,2024-07-03,1,1\n", "has no column reference_price"),
    ("actions", "permtick,date,price_factor,split_factor,reference_price\na,2024-07-03,1,0,1\n", "row 1: want a date"),
    ("volumes", "symbol,volume\nA,5\n", "has no column average_volume"),
    ("volumes", "symbol,average_volume\nA,-5\n", "row 1: average_volume -5: want shares a day"),
    ("volumes", "symbol,average_volume\nA,\n", "row 1: average_volume nan: want shares a day"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "message"), MISTAKES)
def test_a_mistake_is_one_line(tmp_path, kind, text, message):
    with pytest.raises(UserError) as error:
        opened(tmp_path, **{kind: text})
    assert message in str(error.value)
    assert str(tmp_path / f"{kind}.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    opened(tmp_path, earnings="symbol,date\n")
    with pytest.raises(UserError, match="no such file; did you mean"):
        open_bars(str(tmp_path / "bars.csv"), timeframe="1h", files=Files(earnings=str(tmp_path / "earning.csv")))


def test_types_that_cannot_be_read_are_named(tmp_path):
    opened(tmp_path)
    pq.write_table(pa.table({"symbol": ["A"], "date": [20240703]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="column date is int64; want dates, as 2024-01-02"):
        open_bars(str(tmp_path / "bars.csv"), timeframe="1h", files=Files(earnings=str(tmp_path / "x.parquet")))
