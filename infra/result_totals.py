"""Sums over the ledger of a run, and the summary that is made of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from infra.result_header import VERSION, Header, LedgerError
from infra.result_parts import Columns
from operators.outcome import UNIT
from risk.ledger import LedgerFrame
from schemas.events import Absence, Leg, Reason, Status, word
from schemas.frames import Longs, Names, Outcomes
from schemas.identity import iso
from schemas.units import to_usd

_CODES = 128  # reasons fit an int8
_FILLED = -1  # of an entry, beside the reasons for which it was not
_ENDED = np.isin(np.arange(128), (Status.CANCELED, Status.EXPIRED, Status.REJECTED))  # by code
_FUNDS = ("cash", "cost", "value", "realised", "fees", "dividends", "positions", "pending", "drawdown_latches",
          "latch_releases", "killed")  # fmt: skip

# Where a row's signal may end, stage by stage; codes 10..19 are the filters'.
_STAGES = (
    ("insights", (Reason.NOT_WARM, Reason.NO_INSIGHT)),
    ("direction", (Reason.NEUTRAL,)),
    ("published", (Reason.BELOW_PUBLISH_GATE,)),
    ("decided", (Reason.NO_FORECAST, Reason.BELOW_DECISION_GATE, Reason.EXPECTED_RETURN, Reason.LOW_PROBABILITY)),
    ("filters", tuple(range(10, 20))),
)
_JUDGED = ("forecasts", "inside", "measured", "compared", "loss", "usual")
_SAID = ("decisions", "right", "said")
BINS = 20  # of a forecast's probability, 0 to 1
_NAMED = {int(reason): word(reason) for reason in Reason}
_ODD = ("missing_bars", "gaps", "stale_bars", "jumps")  # columns of a frame's `quality`
_ODDEST = 20  # symbols that the summary names


def _entry(columns: Columns, row: int) -> tuple[int, int]:
    """The entry that a row speaks of."""
    return int(columns["symbol"][row]), int(columns["order_ts"][row])


def _by_code(codes: np.ndarray[Any, Any]) -> Longs:
    return np.bincount(codes, minlength=_CODES)


class Totals:
    """Sums over the whole ledger, by reason where there is one; money in ticks."""

    def __init__(self, initial_cash: int, after: int, at_broker: bool):
        self.after = after  # UTC ns; entries sent before are an earlier run's
        self.at_broker = at_broker
        self.fates: dict[tuple[int, int], int] = {}  # at a broker, by symbol and slice of an entry: why it ended, or -1
        self.equity = initial_cash
        self.worst = 0.0  # drawdown
        self.slices = 0
        self.first = self.last = 0  # slices' ends, UTC ns
        self.stopped: Longs = np.zeros(_CODES, np.int64)
        self.refused: Longs = np.zeros(_CODES, np.int64)
        self.rejected: Longs = np.zeros(_CODES, np.int64)
        self.unfilled: Longs = np.zeros(_CODES, np.int64)  # entries that ended without a fill
        self.exits: Longs = np.zeros(_CODES, np.int64)  # trades
        self.approved = 0
        self.entries = 0  # filled
        self.wins = 0
        self.gains = 0
        self.losses = 0
        self.quality: Longs = np.zeros((0, len(_ODD)), np.int64)  # by symbol
        self.absent: Longs = np.zeros(max(Absence) + 1, np.int64)  # rows by Absence of a forecast
        self.made = 0  # forecasts
        self.alarms: list[tuple[Any, ...]] = []  # as Alarm
        self.judged: Longs = np.zeros((0, 0, len(_JUDGED)), np.int64)  # forecasts by model and horizon
        self.said: Longs = np.zeros((0, BINS, len(_SAID)), np.int64)  # by model and bin of the probability
        self.funds: dict[str, int] = {**dict.fromkeys(_FUNDS, 0), "cash": initial_cash}

    def plain(self) -> dict[str, Any]:
        """A copy of everything in plain types."""
        return {
            name: value.copy() if isinstance(value, np.ndarray | dict) else value for name, value in vars(self).items()
        }

    def restore(self, plain: dict[str, Any]) -> None:
        """The inverse of `plain`."""
        for name, value in plain.items():
            setattr(self, name, value.copy() if isinstance(value, np.ndarray | dict) else value)

    def frame(self, frame: LedgerFrame) -> None:
        """Add what a frame says as a whole."""
        if frame.slices.size:
            self.first = self.first or int(frame.slices.ts[0])
            self.last = int(frame.slices.ts[-1])
        self.slices += frame.slices.size
        self.stopped[: frame.stopped.size] += frame.stopped
        if frame.quality.size:
            before, self.quality = self.quality, frame.quality.copy()
            self.quality[: len(before)] += before
        if frame.absent.size:
            self.absent = self.absent + frame.absent
            self.made += frame.made
            self.alarms = [*self.alarms, *(tuple(alarm) for alarm in frame.alarms)]
            self._judge(frame.outcomes)
        if frame.equity.size:
            self.equity = int(frame.equity["equity"][-1])
        if frame.funds.size:
            last = frame.funds.view(np.ndarray)[-1]
            self.funds = {name: int(last[name]) for name in _FUNDS}

    def _judge(self, told: Outcomes) -> None:
        """Add what has become known of forecasts; whole numbers, so that nothing depends on how frames are cut."""
        if not told.ts.size:
            return
        models, horizons = int(told.model.max()), int(told.horizon.max()) + 1
        old = self.judged
        self.judged = np.zeros((max(models, len(old)), max(horizons, old.shape[1]), len(_JUDGED)), np.int64)
        self.judged[: len(old), : old.shape[1]] = old
        self.said = np.concatenate(
            [self.said, np.zeros((len(self.judged) - len(self.said), *self.said.shape[1:]), np.int64)]
        )
        model = told.model - 1
        measured = np.maximum(np.stack([told.loss, told.usual], axis=1), 0)
        counts = np.column_stack(
            [np.ones(model.size, np.int64), told.inside, told.loss >= 0, told.usual >= 0, measured]
        )
        np.add.at(self.judged, (model, told.horizon), counts)
        own = told.said >= 0
        place = np.minimum(told.said[own] * BINS // UNIT, BINS - 1)
        counts = np.column_stack([np.ones(place.size, np.int64), told.right[own], told.said[own]])
        np.add.at(self.said, (model[own], place), counts)

    def part(self, table: str, columns: Columns) -> None:
        """Add the rows of a part."""
        match table:
            case "equity":
                self.worst = max(self.worst, float(columns["drawdown"].max()))
            case "quarantine":
                self.refused += _by_code(columns["reason"])
            case "verdicts":
                self.approved += int(columns["approved"].sum())
                self.rejected += _by_code(columns["reason"][~columns["approved"]])
            case "updates":
                lost = (columns["leg"] == Leg.ENTRY) & _ENDED[columns["status"]]
                lost &= (columns["reason"] != Reason.PARTIAL_ENTRY) & (columns["order_ts"] > self.after)
                if self.at_broker:
                    for row in np.flatnonzero(lost).tolist():
                        self.fates.setdefault(_entry(columns, row), int(columns["reason"][row]))
                else:
                    self.unfilled += _by_code(columns["reason"][lost])
            case "fills":
                came = (columns["leg"] == Leg.ENTRY) & (columns["order_ts"] > self.after)
                if self.at_broker:  # in parts, and perhaps after a cancel was asked for
                    self.fates.update((_entry(columns, row), _FILLED) for row in np.flatnonzero(came).tolist())
                else:
                    self.entries += int(came.sum())
            case "trades":
                pnl = columns["pnl"]
                self.exits += _by_code(columns["reason"])
                self.wins += int((pnl > 0).sum())
                self.gains += int(pnl[pnl > 0].sum())
                self.losses -= int(pnl[pnl < 0].sum())

    def summary(self, header: Header, rows: int, written: Mapping[str, int], names: Names) -> dict[str, Any]:
        """What summary.json holds; raises LedgerError where the totals do not reconcile."""
        funds, initial = self.funds, header["initial_cash"]
        self._reconcile(initial, rows, written)
        final = funds["cash"] + funds["value"]
        trades = written["trades"]
        return {
            "version": VERSION,
            "account": header["account"],
            "bars": header["bars"],
            "synthetic": header["synthetic"],
            "timeframe": header["timeframe"],
            "data": {
                "after": iso(header["after"]),
                "upto": iso(header["upto"]),
                "first_slice": iso(self.first) if self.slices else None,
                "last_slice": iso(self.last) if self.slices else None,
            },
            "alphas": header["alphas"],
            "off": header["off"],
            "benchmark": header["benchmark"],
            "initial_cash": to_usd(initial),
            "final_equity": to_usd(final),
            "cash": to_usd(funds["cash"]),
            "realised_pnl": to_usd(funds["realised"]),
            "unrealised_pnl": to_usd(funds["value"] - funds["cost"]),
            "fees": to_usd(funds["fees"]),
            "dividends": to_usd(funds["dividends"]),
            "return": (final - initial) / initial,
            "max_drawdown": self.worst,
            "win_rate": self.wins / trades if trades else None,
            "profit_factor": self.gains / self.losses if self.losses else None,
            "counts": {
                "slices": self.slices,
                "bars": rows,
                "refused": written["quarantine"],
                "refused_by_reason": _words_of(self.refused),
                "signals": written["signals"],
                "candidates": int(self.stopped[Reason.NONE]),
                "verdicts": written["verdicts"],
                "approved": self.approved,
                "rejected": int(self.rejected.sum()),
                "rejected_by_reason": _words_of(self.rejected),
                "orders": written["orders"],
                "fills": written["fills"],
                "trades": trades,
                "trades_by_reason": _words_of(self.exits),
                "open_positions": funds["positions"],
                "pending_orders": funds["pending"],
                "drawdown_latches": funds["drawdown_latches"],
                "latch_releases": funds["latch_releases"],
                "killed": bool(funds["killed"]),
            },
            "quality": self._quality(names),
            **({"forecasts": self._forecasts(header["forecast"])} if "forecast" in header else {}),
            "funnel": self._funnel(rows, written),
            "settings_hash": header["settings_hash"],
            "settings": header["settings"],
        }

    def _forecasts(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Who forecast, how many rows had a forecast, and why the others had none."""
        missing = {word(Absence(code)): int(self.absent[code]) for code in np.argsort(-self.absent, kind="stable")
                   if code and self.absent[code]}  # fmt: skip
        first = min(self.alarms, default=None)
        return {
            **told,
            "made": self.made,
            "rows": int(self.absent[Absence.NONE]),
            "missing": missing,
            "drift_alarms": len(self.alarms),
            "first_drift_alarm": None if first is None else {
                "ts": iso(first[0]), "shard": first[1], "model": told["models"][first[2] - 1]["id"],
                "edge": first[3], "reference": first[4],
            },
            "judged": [self._judged(number, model) for number, model in enumerate(told["models"])],
        }  # fmt: skip

    def _judged(self, number: int, model: Mapping[str, Any]) -> dict[str, Any]:
        """How right one model's forecasts were, by horizon, and whether its probabilities came true."""
        there = number < len(self.judged)
        horizons = []
        for k, bars in enumerate(model["horizons"]):
            known = self.judged[number, k].tolist() if there and k < self.judged.shape[1] else [0] * len(_JUDGED)
            count, inside, measured, compared, loss, usual = known
            horizons.append({
                "bars": bars, "forecasts": count, "coverage": inside / count if count else None,
                "pinball": loss / measured / UNIT if measured else None,
                "empirical_pinball": usual / compared / UNIT if compared else None,
                "skill": 1.0 - loss / usual if compared and usual else None,
            })  # fmt: skip
        bins = [
            {"from": k / BINS, "upto": (k + 1) / BINS, "decisions": count, "said": said / count / UNIT,
             "came": right / count}
            for k, (count, right, said) in enumerate(self.said[number].tolist() if there else []) if count
        ]  # fmt: skip
        return {"id": model["id"], "horizons": horizons, "probability": bins}

    def _quality(self, names: Names) -> dict[str, Any]:
        """What was odd about bars that were let in, and the symbols with the most of it."""
        sums = self.quality.sum(axis=1)
        oddest = sorted(np.flatnonzero(sums).tolist(), key=lambda symbol: (-int(sums[symbol]), names[symbol]))
        by_symbol = {
            names[symbol].decode(): dict(zip(_ODD, self.quality[symbol].tolist(), strict=True))
            for symbol in oddest[:_ODDEST]
        }
        return dict(zip(_ODD, self.quality.sum(axis=0).tolist(), strict=True)) | {"by_symbol": by_symbol}

    def _reconcile(self, initial: int, rows: int, written: Mapping[str, int]) -> None:
        """Exactly, in ticks."""
        funds = self.funds
        final = funds["cash"] + funds["value"]
        unrealised = funds["value"] - funds["cost"]
        for left, right, what in (
            (
                funds["cash"] + funds["cost"] + funds["fees"] - funds["realised"] - funds["dividends"],
                initial,
                "cash + cost of lots + fees - realised profit - dividends, against the initial cash",
            ),
            (
                initial + funds["realised"] + unrealised - funds["fees"] + funds["dividends"],
                final,
                "initial cash + realised + unrealised profit - fees + dividends, against the final equity",
            ),
            (self.equity, final, "the last row of the equity curve, against cash + value of lots"),
            (int(self.stopped.sum()), rows, "rows by where their signal ended, against all rows"),
            (self.approved + int(self.rejected.sum()), written["verdicts"], "verdicts"),
        ):
            if left != right:
                raise LedgerError(f"results do not reconcile: {what}: {left}, {right} (ticks or rows)")

    def _funnel(self, rows: int, written: Mapping[str, int]) -> list[dict[str, Any]]:
        """From rows to fills: how many came so far, how many were lost on the step and mostly why."""
        known = {Reason.NONE, *(code for _, codes in _STAGES for code in codes)}
        strange = [code for code in np.flatnonzero(self.stopped) if code not in known]
        if strange:
            raise LedgerError(f"results: rows ended with {_word(int(strange[0]))}, which is no stage of a signal")
        stages = [_stage("rows", rows, _words_of(self.refused))]
        count = rows
        for stage, codes in _STAGES:
            lost = {_word(code): int(self.stopped[code]) for code in codes if self.stopped[code]}
            count -= sum(lost.values())
            stages.append(_stage(stage, count, lost))
        flips = count - written["verdicts"]  # short signals on a held symbol are exits and get no verdict
        if flips < 0:
            raise LedgerError(f"results: {written['verdicts']} verdicts on {count} candidates")
        rejected = _words_of(self.rejected) | ({word(Reason.SIGNAL_FLIP): flips} if flips else {})
        stages.append(_stage("approved", self.approved, rejected))
        entries, lost_entries = self._ended()
        waiting = self.approved - entries - int(lost_entries.sum())  # sent in the last slice
        if waiting < 0:
            raise LedgerError(f"results: {self.approved} entries approved, {self.approved - waiting} ended")
        unfilled = _words_of(lost_entries) | ({word(Reason.ORDER_PENDING): waiting} if waiting else {})
        stages.append(_stage("filled", entries, unfilled))
        return stages

    def _ended(self) -> tuple[int, Longs]:
        """How many entries were filled, and how many were not, by reason."""
        if not self.at_broker:
            return self.entries, self.unfilled
        fates = np.array(list(self.fates.values()), np.int64)
        return int((fates == _FILLED).sum()), _by_code(fates[fates != _FILLED])


def _stage(stage: str, count: int, lost: Mapping[str, int]) -> dict[str, Any]:
    """One step of the funnel; `lost` are those that came to it and no further."""
    reason = max(lost, key=lambda name: lost[name], default=None)
    return {
        "stage": stage,
        "count": count,
        "lost": sum(lost.values()),
        "commonest_reason": reason,
        "reason_count": lost[reason] if reason else 0,
    }


def _word(code: int) -> str:
    """A reason's word; a number for one that has no name."""
    return _NAMED.get(code, str(code))


def _words_of(counts: Longs) -> dict[str, int]:
    """Counts by word, commonest first, ties by code."""
    codes = [int(code) for code in np.argsort(-counts, kind="stable") if counts[code]]
    return {_word(code): int(counts[code]) for code in codes}
