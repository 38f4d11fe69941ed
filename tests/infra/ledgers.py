"""Made-up ledgers that reconcile: what the account might answer, without the account."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from infra.result_header import Header, header
from infra.settings import Settings
from operators.kernel import dtype_of
from risk import ledger
from risk.ledger import LedgerFrame, SignalColumns
from schemas.events import Direction, Kind, Leg, Reason, Side, Status
from schemas.frames import Longs, Names, Refused, Slices
from schemas.units import NS_PER_MINUTE

AFTER = 1_704_207_600_000_000_000  # 2024-01-02T15:00:00Z
CASH = 1_000_000_000  # ticks
ALPHAS = ["rsi", "ema_cross", "macd"]
REJECTIONS = [Reason.COOLDOWN, Reason.POSITION_HELD, Reason.TOTAL_EXPOSURE]
ENDS = [Reason.NOT_WARM, Reason.NO_INSIGHT, Reason.NEUTRAL, Reason.BELOW_PUBLISH_GATE,
        Reason.BELOW_DECISION_GATE, Reason.OUTSIDE_MARKET_HOURS, Reason.NO_TIME_TO_EXIT]  # fmt: skip
ROWS = {"equity": ledger.EquityRow, "verdicts": ledger.VerdictRow, "orders": ledger.OrderRow,
        "updates": ledger.UpdateRow, "fills": ledger.FillRow, "trades": ledger.TradeRow}  # fmt: skip


@dataclass
class Story:
    """A whole run: columns by table, and the slices in which its rows are."""

    names: Names
    ts: Longs
    tables: dict
    funds: np.recarray  # after each slice
    stopped: np.ndarray  # [slices, codes]
    signals: dict
    refused: dict

    @property
    def upto(self) -> int:
        return int(self.ts[-1])

    def header(self, **more) -> Header:
        given = {
            "alphas": ALPHAS,
            "bars": {"label": "made up", "fingerprint": "0123456789abcdef", "symbols": self.names.size},
            "synthetic": True,
            "timeframe": "1m",
            "after": AFTER,
            "upto": self.upto,
            "off": ["forecast", "quotes"],
        }
        settings = Settings(cash=type(Settings().cash)(CASH / 10_000))
        return header(settings, **(given | more))

    def frames(self, cuts=()) -> list[LedgerFrame]:
        """The run, cut after the given numbers of slices."""
        edges = [0, *sorted({c for c in cuts if 0 < c < self.ts.size}), self.ts.size]
        return [self.frame(a, b) for a, b in pairwise(edges)]

    def frame(self, a: int, b: int) -> LedgerFrame:
        after = AFTER if a == 0 else int(self.ts[a - 1])
        upto = int(self.ts[b - 1])
        zeros = np.zeros(b - a, np.int32)
        slices = Slices(after, upto, self.ts[a:b], zeros, zeros, zeros, zeros.astype(np.int8))

        def rows(ts):
            return slice(*np.searchsorted(ts, [after, upto], side="right"))

        tables = {
            name: table[rows(table["exit_ts" if name == "trades" else "ts"])] for name, table in self.tables.items()
        }
        signals = {name: column[rows(self.signals["ts"])] for name, column in self.signals.items()}
        refused = {name: column[rows(self.refused["ts"])] for name, column in self.refused.items()}
        stopped = self.stopped[a:b].sum(axis=0)
        return LedgerFrame(
            slices=slices,
            names=self.names,
            rows=int(stopped.sum()),
            stopped=stopped,
            refused=Refused(**refused),
            signals=SignalColumns(**signals),
            funds=self.funds[b - 1 : b],
            **tables,
        )


def story(seed: int = 0, symbols: int = 5, slices: int = 200, trades: int = 20, published: float = 0.2) -> Story:
    """A run with about so many round trips per symbol; some lots stay open, some orders fail."""
    rng = np.random.default_rng(seed)
    names = rng.permutation([f"S{n:03}".encode() for n in range(symbols)]).astype("S24")
    rank = np.argsort(np.argsort(names))
    ts = AFTER + NS_PER_MINUTE * np.arange(1, slices + 1)
    price = np.maximum(1_000_000 + np.cumsum(rng.integers(-900, 901, (slices, symbols)), axis=0), 10_000)
    cash, cost, fees, realised, exposure, positions, pending = np.zeros((7, slices), np.int64)
    out: dict[str, list] = {name: [] for name in ROWS}
    candidates = np.zeros(slices, np.int64)

    def order(t, s, side, leg, entry, reason=Reason.NONE, kind=Kind.MARKET, limit=0):
        out["orders"].append((ts[t], s, side, 10, kind, leg, ts[entry], reason, limit or price[t, s]))

    def update(t, s, sent, leg, status, reason=Reason.NONE):
        out["updates"].append((ts[t], s, ts[sent], leg, status, 10, reason))

    def fill(t, s, side, sent, leg, at, reason=Reason.NONE):
        out["fills"].append((ts[t], s, side, 10, at, 100, ts[sent], leg, reason, price[t, s]))

    def verdict(t, s, approved, reason):
        candidates[t] += 1
        out["verdicts"].append((ts[t], s, Direction.LONG, approved, reason, 1.5, 1.0, 0.7, 0.02, 0.3, 1_000))

    def round_trip(s, t, end):
        """Decided at t, filled at t + 1, closed at end."""
        verdict(t, s, True, Reason.NONE)
        order(t, s, Side.BUY, Leg.ENTRY, t)
        stop, target = price[t, s] - 5_000, price[t, s] + 5_000
        order(t, s, Side.SELL, Leg.TAKE_PROFIT, t, kind=Kind.LIMIT, limit=target)
        order(t, s, Side.SELL, Leg.STOP_LOSS, t, kind=Kind.STOP, limit=stop)
        if t + 1 >= slices:
            pending[t:] += 1
            return
        pending[t] += 1
        if rng.random() < 0.1:
            update(t + 1, s, t, Leg.ENTRY, Status.REJECTED, Reason.STALE_BASE)
            return
        paid = int(price[t + 1, s]) + 50
        fill(t + 1, s, Side.BUY, t, Leg.ENTRY, paid)
        update(t + 1, s, t, Leg.ENTRY, Status.FILLED)
        cash[t + 1 :] -= paid * 10 + 100
        fees[t + 1 :] += 100
        held = slice(t + 1, min(end, slices))
        cost[held] += paid * 10
        positions[held] += 1
        exposure[held] += price[held, s] * 10
        if end >= slices:
            return
        leg, reason = [(Leg.TAKE_PROFIT, Reason.TAKE_PROFIT), (Leg.STOP_LOSS, Reason.STOP_LOSS),
                       (Leg.EXIT, Reason.TIME_EXIT)][rng.integers(3)]  # fmt: skip
        sent = t
        if leg == Leg.EXIT:
            sent = end - 1
            order(sent, s, Side.SELL, Leg.EXIT, t, reason)
            update(sent, s, t, Leg.TAKE_PROFIT, Status.CANCELED, Reason.SIBLING)
        got = int(price[end, s]) - 50
        fill(end, s, Side.SELL, sent, leg, got, reason)
        update(end, s, sent, leg, Status.FILLED, reason)
        cash[end:] += got * 10 - 100
        fees[end:] += 100
        realised[end:] += (got - paid) * 10
        out["trades"].append(
            (
                s,
                ts[t],
                ts[t + 1],
                ts[end],
                Side.BUY,
                10,
                paid * 10,
                got * 10,
                200,
                (got - paid) * 10 - 200,
                reason,
                -0.01,
                0.02,
            )
        )

    pace = max(4, slices // max(trades, 1))
    for s in range(symbols):
        t = int(rng.integers(0, pace))
        while t < slices:
            if rng.random() < 0.3:
                verdict(t, s, False, REJECTIONS[rng.integers(3)])
                t += 1
                continue
            end = t + 2 + int(rng.integers(1, pace))
            round_trip(s, t, end)
            t = end + 1
    candidates[rng.integers(0, slices, 3)] += 1  # short signals on what is held: exits without a verdict

    equity = CASH + cash + exposure
    peak = np.maximum.accumulate(np.maximum(equity, CASH))
    out["equity"] = list(zip(ts, equity, CASH + cash, exposure, (peak - equity) / peak, strict=True))
    zeros = np.zeros(slices, np.int64)
    funds = np.rec.fromarrays(
        [CASH + cash, cost, exposure, realised, fees, zeros, positions, pending, zeros, zeros, zeros.astype(bool)],
        dtype=dtype_of(ledger.FundsRow),
    )
    stopped = np.zeros((slices, 88), np.int64)
    stopped[:, Reason.NONE] = candidates
    stopped[:, ENDS] = rng.integers(0, 10, (slices, len(ENDS)))
    return Story(names, ts, {name: _table(name, rows, rank) for name, rows in out.items()}, funds, stopped,
                 _signals(rng, ts, rank, published), _refused(rng, ts, rank))  # fmt: skip


def _table(name, rows, rank):
    dtype = dtype_of(ROWS[name])
    table = np.array(rows, dtype).view(np.recarray)
    if name == "equity":
        return table
    ts = table["exit_ts" if name == "trades" else "ts"]
    return table[np.lexsort((rank[table["symbol"]], ts))]


def _signals(rng, ts, rank, published):
    by_name = np.argsort(rank).astype(np.int32)
    chosen = np.flatnonzero(rng.random(ts.size * rank.size) < published)
    size = chosen.size
    score = rng.uniform(-1, 1, size)
    return {
        "ts": ts[chosen // rank.size],
        "symbol": by_name[chosen % rank.size],
        "direction": np.sign(score).astype(np.int8),
        "confidence": 0.5 + np.abs(score) / 2,
        "score": score,
        "regime": rng.integers(0, 4, size).astype(np.int8),
        "views": rng.integers(0, 3 ** len(ALPHAS), size).astype(np.int32),
        "reason": rng.choice([0, 5, 10, 11], size).astype(np.int8),
    }


def _refused(rng, ts, rank):
    size = ts.size // 10
    ts = np.sort(rng.choice(ts, size))
    symbol = rng.integers(0, rank.size, size).astype(np.int32)
    order = np.lexsort((rank[symbol], ts))
    price = rng.uniform(1, 2, size)
    return {
        "ts": ts,
        "symbol": symbol[order],
        "reason": rng.choice([Reason.DUPLICATE, Reason.BAD_PRICE], size).astype(np.int8),
        "open": price,
        "high": price,
        "low": price,
        "close": np.where(rng.random(size) < 0.5, np.nan, price),
        "volume": np.zeros(size),
    }
