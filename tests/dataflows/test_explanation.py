"""`utp compare` of days at an exchange and their backtest: each difference explained, or named as unexplained."""

import json
import random
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataflows import cli
from dataflows.compare import compare
from dataflows.explanation import UNTOUCHED, explain
from infra.day_results import DayResults
from infra.result_header import header
from infra.settings import load
from schemas.frames import NO_FLOATS
from schemas.units import TICKS_PER_USD, to_ticks
from tests.dataflows.test_live_at_exchange import SETS, Account, at_the_exchange, slices_of

NEAR = [*SETS, "exits.take_profit_pct=0.004", "exits.stop_loss_pct=0.003"]
LIVE = load(None, [*NEAR, "venue.kind=broker"], {})
BACKTEST = load(None, NEAR, {})


def written(one, folder):
    """The run's folders, a session each."""

    def head(after, upto):
        return header(one.settings, alphas=one.settings.ensemble.voters, bars={"symbols": []}, synthetic=True,
                      timeframe="5m", after=after, upto=upto)  # fmt: skip

    part = DayResults(folder, head, one.calendar).build_part("results", "results", None)
    part.write_batch(one.ledgers)
    return sorted(path.parent for path in folder.glob("*/summary.json"))


@pytest.fixture(scope="module")
def slices():
    return [replace(frame, half_spread=NO_FLOATS) for frame in slices_of(BACKTEST)]


@pytest.fixture(scope="module")
def theirs(slices, tmp_path_factory):
    one = Account(BACKTEST)
    for frame in slices:
        one.act(frame)
    return written(one, tmp_path_factory.mktemp("backtest"))


@pytest.fixture(scope="module")
def slipped(slices, tmp_path_factory):
    """Fills at an open lie four cents above it."""
    folder = tmp_path_factory.mktemp("live")
    one, _ = at_the_exchange(LIVE, slices, folder, slip=400)
    return written(one, folder / "runs")


@pytest.fixture
def ours(slipped, tmp_path):
    """A copy to tamper with."""
    return [shutil.copytree(path, tmp_path / "live" / path.name) for path in slipped]


def edit(folder, table, change):
    """Change a table's rows, given as dictionaries."""
    path = folder / f"{table}.parquet"
    whole = pq.read_table(path)
    plain = [column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
             for column in whole.columns]  # fmt: skip
    rows = pa.table(plain, whole.column_names)
    pq.write_table(pa.Table.from_pylist(change(rows.to_pylist()), rows.schema), path)


def cash_of(folders):
    return to_ticks(pq.read_table(folders[-1] / "equity.parquet")["cash"][-1].as_py())


def adds_up(why, ours, theirs):
    """The lines are the difference in cash, to the tick."""
    assert sum(to_ticks(line.usd) for line in why.lines) == cash_of(ours) - cash_of(theirs)
    here, there = why.equity
    assert to_ticks(here) - to_ticks(there) == round((why.explained + why.unexplained) * TICKS_PER_USD)


def test_without_slippage_every_order_is_the_same(slices, theirs, tmp_path):
    one, _ = at_the_exchange(LIVE, slices, tmp_path)
    ours = written(one, tmp_path / "runs")
    why = explain(ours, theirs)
    assert why.whole
    assert why.explained == why.unexplained == 0.0
    assert len(why.lines) > 20
    assert why.counts()["same"] == len(why.lines)


def test_slippage_explains_all_of_it(slipped, theirs):
    why = explain(slipped, theirs)
    assert why.whole, [line for line in why.lines if line.kind == "unexplained"]
    assert why.explained != 0.0 == why.unexplained
    adds_up(why, slipped, theirs)
    assert compare(slipped, theirs, UNTOUCHED) == []
    prices = [line for line in why.lines if line.kind == "price"]
    assert len(prices) > 10
    for line in prices:
        if line.order.endswith("|entry"):
            assert line.shares[0] == line.shares[1]
            assert line.usd == pytest.approx(-0.04 * line.shares[0])
            assert line.bps == pytest.approx(0.04 / line.price[1] * 10_000)


@pytest.mark.parametrize("seed", range(5))
def test_parts_refusals_and_what_follows_from_them_are_explained(slices, theirs, tmp_path, seed):
    dice = random.Random(seed)
    one, _ = at_the_exchange(LIVE, slices, tmp_path, slip=dice.choice([-300, 0, 500]),
                             room=lambda: dice.choice([None, None, None, 0, 1, 3, 8]))  # fmt: skip
    ours = written(one, tmp_path / "runs")
    why = explain(ours, theirs)
    assert why.whole, [(line.order, line.why) for line in why.lines if line.kind == "unexplained"] + why.notes
    adds_up(why, ours, theirs)
    assert why.counts()["reported"] > 0
    assert why.counts()["follows"] > 0
    back = explain(theirs, ours)  # the other way round
    assert back.whole
    assert round(back.explained * TICKS_PER_USD) == -round(why.explained * TICKS_PER_USD)


def changed(which, **to):
    """One row of a table, chosen by `which`, with other values; the name of its order."""

    def change(rows):
        row = next(row for row in rows if which(row))
        row.update({name: value(row[name]) if callable(value) else value for name, value in to.items()})
        return rows

    return change


def entry_of(row):
    return row["order_id"].endswith("|entry")


def exit_of(row):
    return row["order_id"].endswith("|exit")


def without(which):
    return lambda rows: [row for row in rows if row is not next(row for row in rows if which(row))]


TAMPERED = {
    "another size": ("orders", changed(entry_of, qty=lambda qty: qty + 1), "qty"),
    "another side": ("orders", changed(entry_of, side="sell"), "side sell, there buy"),
    "another price decided on": ("orders", changed(entry_of, price=lambda price: price + 0.01), "price"),
    "another stop": ("orders", changed(lambda row: row["leg"] == "stop_loss", price=lambda price: price - 0.01),
                     "stop_loss price"),
    "another reason to leave": ("orders", changed(exit_of, reason="kill_switch"), "kill_switch"),
    "an entry that was not sent": ("orders", without(entry_of), "there only, though both approved it"),
    "an exit that was not sent": ("orders", without(exit_of), "nobody sent it"),
    "an entry that nobody approved": ("verdicts", changed(lambda row: row["approved"], approved=False),
                                      "without an approved verdict"),
    "a fill at another price": ("fills", changed(entry_of, price=lambda price: price + 1.0), "no fill accounts for"),
    "a fill of more shares": ("fills", changed(entry_of, qty=lambda qty: qty + 5), "no fill accounts for"),
    "a fill that is missing": ("fills", without(exit_of), "no fill accounts for"),
    "a fee that is not in the cash": ("fills", changed(entry_of, fee=1.0), "no fill accounts for"),
    "other equity at the end": ("equity", lambda rows: [*rows[:-1], {**rows[-1], "equity": rows[-1]["equity"] + 1}],
                                "the same shares are worth"),
    "other cash at the end": ("equity", lambda rows: [*rows[:-1], {**rows[-1], "cash": rows[-1]["cash"] + 1,
                                                                   "equity": rows[-1]["equity"] + 1}],
                              "no fill accounts for: +1.0000 USD"),
    "an end that is missing": ("equity", lambda rows: rows[:-1], "they end at"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_what_prices_do_not_explain_is_named(ours, theirs, case):
    table, change, said = TAMPERED[case]
    edit(ours[-1], table, change)
    why = explain(ours, theirs)
    assert not why.whole
    named = [line.why for line in why.lines if line.kind == "unexplained"] + why.notes
    assert any(said in one for one in named), named
    here, there = why.equity
    assert here - there == pytest.approx(why.explained + why.unexplained)


def test_another_signal_is_a_difference_whatever_the_prices(ours, theirs, capsys):
    edit(ours[0], "signals", changed(lambda row: True, score=lambda score: score + 1.0))
    code, out = utp(capsys, "compare", ours[0].parent, theirs[0].parent)
    assert code == 1
    assert "signals row 0" in out


def utp(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    assert not err
    return ended.value.code, out


def test_the_command_says_it_and_its_exit_code_too(ours, theirs, capsys):
    live, backtest = ours[0].parent, theirs[0].parent
    code, out = utp(capsys, "compare", live, backtest)
    assert code == 0
    assert "unexplained +0.0000" in out
    assert "another price" in out
    code, out = utp(capsys, "compare", live, backtest, "--json")
    told = json.loads(out)
    assert (code, told["whole"], told["differences"]) == (0, True, [])
    assert told["orders"][0]["bps"] != 0
    edit(ours[1], "orders", changed(entry_of, qty=lambda qty: qty + 1))
    code, out = utp(capsys, "compare", live, backtest)
    assert code == 1
    assert "UNEXPLAINED" in out
    assert utp(capsys, "compare", backtest, backtest) == (0, "the same\n")
    code, out = utp(capsys, "compare", backtest, backtest, "--explain")
    assert code == 0
    assert "every order is the same in both" in out
    code, out = utp(capsys, "compare", live, live, "--json")
    assert (code, json.loads(out)) == (0, {"differences": []})
