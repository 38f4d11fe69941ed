"""Why did it trade, or not: one bar of a run, decided again and explained. `utp why RUN SYMBOL TS`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataflows import pipeline
from infra.barfiles import reading
from infra.bars import Bars, open_bars
from infra.forecaster import Event, Forecaster
from infra.reference import Files
from infra.results import read_summary
from infra.settings import Settings, settings_of
from operators import filters
from operators.asof import NEVER
from operators.kernel import cache_root
from schemas.errors import UserError
from schemas.events import Absence, Direction, Reason, Regime, word
from schemas.frames import GAP, JUMPED, OVERNIGHT, STALE, UNKNOWN_DAYS, BarFrame, OpinionFrame, SignalFrame
from schemas.universe import shard_of

MARKS = {GAP: "gap", STALE: "stale", JUMPED: "jump", OVERNIGHT: "overnight"}
SENTENCES = {
    Reason.NOT_WARM: "The indicators had not seen enough bars yet.",
    Reason.NO_INSIGHT: "No alpha had a view.",
    Reason.NEUTRAL: "The views balance out: |score| {score:.3f} is not above the threshold {threshold}.",
    Reason.BELOW_PUBLISH_GATE: "Confidence {confidence:.3f} is below the publish gate {publish}.",
    Reason.BELOW_DECISION_GATE: "Confidence {confidence:.3f} is below the decision gate {decide}.",
    Reason.NO_FORECAST: "A forecast is required, and there was none: {absence}.",
    Reason.EXPECTED_RETURN: "The forecast's median, {q50} up or down, does not pay for the round trip.",
    Reason.LOW_PROBABILITY: "The calibrated probability {probability} is below {min_probability}.",
    Reason.OUTSIDE_MARKET_HOURS: "The order would have been executed too close to the close.",
    Reason.JUMP: "Open or close is more than {jump:.3g} of the price from the close before: entries are held.",
    Reason.LOW_LIQUIDITY: "Average daily volume is {average_volume}, below {min_volume:,.0f} shares, or not known.",
    Reason.WIDE_SPREAD: "The quoted spread is {spread}, above {max_spread:g} of the price, or no quote is fresh.",
    Reason.EARNINGS_BLACKOUT: "Days to the nearest report of earnings known: {earnings_days}; entries are held "
    "within {blackout} days, and where nothing is known.",
    Reason.NO_TIME_TO_EXIT: "The next bar is the session's last: a lot bought in it could not be sold tonight.",
}


def explain(run: Path, symbol: str, ts: int) -> dict[str, Any]:
    """Everything about one bar: features, votes, score, gates, and what the account made of it.

    The symbol side is decided again from the run's own bars and settings, up to and including this bar.
    `ts` is the bar's end, UTC ns. Raises UserError.
    """
    summary = read_summary(run)
    symbol = symbol.upper()
    settings = settings_of(summary["settings"])
    answer = _decide_again(summary, settings, symbol, ts)
    account = _of_account(run, symbol, ts)
    return {**answer, **account, "sentence": _sentence(answer, account, settings)}


def _decide_again(summary: dict[str, Any], settings: Settings, symbol: str, ts: int) -> dict[str, Any]:
    described = summary["bars"]
    if symbol not in described["symbols"]:
        raise UserError(f"symbol {symbol}: not in this run; it has {', '.join(described['symbols'][:20])}")
    if ts < described["first_ts"]:
        raise UserError(f"{symbol} at {_iso(ts)}: the run's first bar ends at {_iso(described['first_ts'])}")
    bars = open_bars(described["source"], timeframe=summary["timeframe"], symbols=[symbol],
                     start=described["first_ts"], stop=ts, files=Files(**described.get("files", {})),
                     reference=settings.reference)  # fmt: skip
    if bars.fingerprint != described["fingerprint"]:
        raise UserError(f"{described['source']}: no longer the bars of this run; run the backtest again")
    shard = shard_of(symbol)
    forecaster = _forecaster(summary, settings, bars)
    params = pipeline.decide_params(settings, bars.timeframe, forecaster)
    params = params._replace(features=type(params.features)(set="all"))
    state = pipeline.start(params)
    for chunk in bars.frames([shard]):
        frame = chunk[0] if forecaster is None else forecaster.told(chunk[0])
        state, opinions = pipeline.opine(params, state, frame)
        state, signals = pipeline.score(params, state, opinions)
    answer = _last_row(opinions, signals, settings.ensemble.voters, symbol, ts)
    return {**answer, "reference": _reference(state, signals.bars), "forecast": _forecast(summary, signals)}


def _forecaster(summary: dict[str, Any], settings: Settings, bars: Bars) -> Forecaster | None:
    """The models of the run, from where it had them."""
    told = summary.get("forecasts")
    if told is None:
        return None
    events = [Event(**event) for event in told["events"]]
    paths = {model["id"]: Path(model["bundle"]) for model in told["models"]}
    store = Path(settings.forecast.store)
    return Forecaster(events, paths, store, bars.calendar, bars.after, cache_root() / "forecasts").open(bars.upto)


def _forecast(summary: dict[str, Any], signals: SignalFrame) -> dict[str, Any] | None:
    """The forecast in force at the last bar, or why there is none; None where no model is configured."""
    if not signals.absence.size:
        return None
    absence = Absence(int(signals.absence[-1]))
    if absence != Absence.NONE:
        return {"absence": word(absence)}
    model = summary["forecasts"]["models"][int(signals.model[-1]) - 1]
    numbers = {name: float(getattr(signals, name)[-1]) for name in ("q10", "q50", "q90", "probability")}
    return {"model": model["id"], "calibrated": model["calibrated"], "age": int(signals.age[-1]), **numbers}


def _reference(state: pipeline.State, bars: BarFrame) -> dict[str, Any]:
    """What the filters read of the last bar; None where there was nothing."""
    bid, ask = (float(column[-1]) if column.size else np.nan for column in (bars.bid, bars.ask))
    days = int(bars.earnings_days[-1]) if bars.earnings_days.size else UNKNOWN_DAYS
    found = [name for bit, name in MARKS.items() if bars.marks[-1] & bit]
    return {
        "bid": _or_none(bid),
        "ask": _or_none(ask),
        "spread": _or_none(2.0 * (ask - bid) / (ask + bid)),
        "average_volume": _or_none(filters.average_volume(state.filters, bars, -1)),
        "earnings_days": days if 0 <= days < NEVER else None,
        "marks": found,
    }


def _last_row(opinions: OpinionFrame, signals: SignalFrame, alphas: list[str], symbol: str, ts: int) -> dict[str, Any]:
    bars, features = signals.bars, opinions.features
    when = _iso(ts)
    gone = np.flatnonzero(bars.refused.ts == ts)
    if gone.size and not (bars.at.size and bars.slices.ts[bars.at[-1]] == ts):
        raise UserError(f"{symbol} at {when}: this bar was refused: {word(Reason(int(bars.refused.reason[gone[0]])))}")
    if not bars.at.size or bars.slices.ts[bars.at[-1]] != ts:
        raise UserError(f"{symbol} at {when}: there is no bar that ends then")
    return {
        "symbol": symbol,
        "ts": when,
        "bar": {name: float(getattr(bars, name)[-1]) for name in ("open", "high", "low", "close", "volume")},
        "features": {name: _or_none(value) for name, value in zip(features.names, features.values[-1], strict=True)},
        "votes": {name: float(vote) for name, vote in zip(alphas, opinions.votes[:, -1], strict=True)},
        "regime": word(Regime(int(signals.regime[-1]))),
        "score": float(signals.score[-1]),
        "confidence": float(signals.confidence[-1]),
        "direction": word(Direction(int(signals.direction[-1]))),
        "reason": word(Reason(int(signals.reason[-1]))),
    }


def _iso(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1e9, UTC).isoformat().replace("+00:00", "Z")


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _of_account(run: Path, symbol: str, ts: int) -> dict[str, Any]:
    """What the account wrote of this symbol in this slice, and what became of the orders it sent then."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in ("verdicts", "orders", "fills", "updates"):
        path = run / f"{name}.parquet"
        with reading(path):
            rows = pq.read_table(path, filters=(pc.field("symbol") == symbol)).to_pylist()
        found[name] = [{key: _plain(value) for key, value in row.items()} | {"at": row["ts"].value} for row in rows]
    sent = {row["order_id"] for row in found["orders"] if row["at"] == ts}
    fate = [row for row in found["updates"] if row["order_id"] in sent]
    answer = {name: [row for row in rows if row["at"] == ts] for name, rows in found.items()}
    verdicts = answer.pop("verdicts")
    answer["updates"] = [*answer["updates"], *(row for row in fate if row["at"] != ts)]
    for row in (*verdicts, *found["orders"], *found["fills"], *found["updates"]):
        del row["at"]
    return {"verdict": verdicts[0] if verdicts else None, **answer}


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _sentence(answer: dict[str, Any], account: dict[str, Any], settings: Settings) -> str:
    """The answer in one line."""
    ended = [update for update in account["updates"] if update["status"] in ("rejected", "expired", "canceled")]
    exits = [order["reason"] for order in account["orders"] if order["leg"] == "exit"]
    if exits:
        return f"The lot was sold: {exits[0]}."
    verdict = account["verdict"]
    if verdict is not None and verdict["approved"]:
        ends = [update for update in account["updates"] if update["order_id"].endswith("|entry")]
        fate = f"; it was {ends[-1]['status']} ({ends[-1]['reason']})" if ends and ends[-1]["reason"] != "none" else ""
        return f"Approved: an order for {verdict['measured']:.2f} USD went out{fate}."
    if verdict is not None:
        return f"Refused: {verdict['reason']} (measured {verdict['measured']:g}, limit {verdict['limit']:g})."
    if verdict is None and ended and not account["orders"]:
        return f"The order {ended[0]['order_id']} was {ended[0]['status']} here: {ended[0]['reason']}."
    gates, bounds, known = settings.ensemble, settings.filters, answer["reference"]
    outlook = answer["forecast"] or {}
    sentence = SENTENCES.get(Reason[answer["reason"].upper()], "A candidate without a verdict: it closed a lot.")
    return sentence.format(
        score=abs(answer["score"]), threshold=gates.threshold, confidence=answer["confidence"],
        publish=gates.publish_gate, decide=gates.decision_gate,
        absence=outlook.get("absence"), q50=_told(outlook.get("q50"), ".5f"),
        probability=_told(outlook.get("probability"), ".3f"), min_probability=gates.min_probability,
        jump=settings.clean.max_jump, min_volume=bounds.min_average_volume, max_spread=bounds.max_spread,
        blackout=bounds.blackout_days, average_volume=_told(known["average_volume"], ",.0f"),
        spread=_told(known["spread"], ".5f"), earnings_days=_told(known["earnings_days"], "d"),
    )  # fmt: skip


def _told(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)
