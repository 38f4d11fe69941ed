"""The compiled account against the slow, obvious one, on generated histories."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk import account, commands
from risk.limits import Params
from schemas.frames import Actions, Refused, SliceFrame, Slices
from tests.reference import account as reference
from tests.reference import audit
from tests.reference.histories import histories, history

TABLES = ("equity", "verdicts", "orders", "updates", "fills", "trades")


def frames(told: list[reference.Slice], cuts: list[int]) -> list[SliceFrame]:
    """The same history as the account gets it; ids are given in an order that is not alphabetical."""
    names = sorted({name for one in told for name in (*one.bars, *(action.symbol for action in one.actions))})
    ids = {name: len(names) - 1 - k for k, name in enumerate(names)}
    by_id = np.array(names[::-1], "S24")
    rank = np.array([names.index(name.decode()) for name in by_id], np.int32)
    edges = sorted({0, len(told), *(cut % (len(told) + 1) for cut in cuts)})
    pairs = list(itertools.pairwise(edges))
    return [frame(told[begin:end], ids, by_id, rank) for begin, end in pairs]


def frame(told: list[reference.Slice], ids: dict[str, int], names: Any, rank: Any) -> SliceFrame:
    rows = [(ids[name], bar) for one in told for name, bar in sorted(one.bars.items())]
    place = np.random.default_rng(len(rows)).permutation(len(rows))  # rows lie in the order of their shards
    order = np.argsort(place).astype(np.int32)
    rows = [rows[k] for k in place]
    bars = [bar for _, bar in rows]
    size = len(told)
    slices = Slices(
        told[0].ts - 1, told[-1].ts, np.array([s.ts for s in told]), np.array([s.session for s in told], np.int32),
        np.zeros(size, np.int32), np.zeros(size, np.int32), np.array([s.phase for s in told], np.int8),
    )  # fmt: skip
    nothing = np.zeros(0)
    acts = [(k, one) for k, s in enumerate(told) for one in sorted(s.actions, key=lambda action: action.symbol)]
    actions = Actions(
        np.array([k for k, _ in acts], np.int32), np.array([ids[one.symbol] for _, one in acts], np.int32),
        *(np.array([int(getattr(one, field) * scale) for _, one in acts], np.int64)
          for field, scale in (("new", 1), ("old", 1), ("dividend", 10_000))),
    )  # fmt: skip
    spreads = np.array([np.nan if b.half_spread is None else b.half_spread for b in bars])
    column = {n: np.array([getattr(b, n) for b in bars], np.float64)
              for n in ("open", "high", "low", "close", "volume", "volatility", "confidence")}  # fmt: skip
    q10 = np.array([np.nan if b.q10 is None else b.q10 for b in bars], np.float64)
    code = {n: np.array([getattr(b, n) for b in bars], np.int8) for n in ("direction", "reason")}
    return SliceFrame(
        slices=slices, starts=np.cumsum([0, *(len(s.bars) for s in told)]), names=names, rank=rank,
        order=order,
        refused=Refused(nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing),
        rows=len(rows), stopped=np.zeros(100, np.int64), symbol=np.array([i for i, _ in rows], np.int32),
        half_spread=spreads, score=np.zeros(len(rows)), regime=np.zeros(len(rows), np.int8),
        views=np.zeros(len(rows), np.int32), actions=actions, q10=q10, **column, **code,
    )  # fmt: skip


def run(params: Params, told: list[reference.Slice], cuts: list[int] = ()) -> reference.Ledger:
    """The compiled account's ledger, as the reference writes its own."""
    spoken = [k for k, one in enumerate(told) if one.commands]  # a frame ends before each
    state, ledgers = account.start(params), []
    for whole in frames(told, [*cuts, *(k + 1 for k in spoken)]):
        state, ledger = account.step(params, state, whole)
        ledgers.append(ledger)
        for one in told:
            for command in one.commands if one.ts == whole.slices.ts[-1] else ():
                state, ledger = commands.obey(params, state, command)
                ledgers.append(ledger)
    found = reference.Ledger()
    for ledger in ledgers:
        names = [name.decode() for name in ledger.names]
        for kind in TABLES:
            rows = getattr(ledger, kind)
            for row in rows:
                values = dict(zip(rows.dtype.names, row.tolist(), strict=True))
                if "symbol" in values:
                    values["symbol"] = names[values["symbol"]]
                getattr(found, kind).append(tuple(values.values()))
    last = ledgers[-1].funds
    found.funds = dict(zip(last.dtype.names, last[0].tolist(), strict=True))
    return found


def same(params: Params, told: list[reference.Slice], cuts: list[int] = ()) -> None:
    expected, found = reference.run(params, told), run(params, told, cuts)
    for kind in TABLES:
        for one, other in zip(getattr(found, kind), getattr(expected, kind), strict=False):
            assert equal(one, other), f"{kind}: compiled {one}\nreference {other}"
        assert len(getattr(found, kind)) == len(getattr(expected, kind)), kind
    assert found.funds == {name: expected.funds[name] for name in found.funds}
    audit.audit(params, told, found)


def equal(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Bit for bit; a NaN equals a NaN."""
    return len(one) == len(other) and all(a == b or (a != a and b != b) for a, b in zip(one, other, strict=True))


@given(drawn=histories(), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_the_compiled_account_agrees_with_the_obvious_one(
    drawn: tuple[Params, list[reference.Slice]], cuts: list[int]
) -> None:
    same(*drawn, cuts)


@pytest.mark.parametrize("block", range(8))
def test_it_agrees_on_many_seeds(block: int) -> None:
    for seed in range(block * 250, (block + 1) * 250):
        params, told = history(seed)
        same(params, told, [seed % 7, seed % 11])
