"""Events as they stand in the log: one class per Avro record, from which the committed `.avsc` files are made.

Names, namespaces and fields of the first three groups are contracts with other consumers: a field may be added
with a default, none removed or renamed, and symbols of an enum are only appended. Records of the platform's own,
in the last group, keep the same rule, for old logs are replayed. `python -m schemas.avro_files` writes the
files and refuses what breaks it.

A plain `int` is an Avro int. Prices in events are USD; money and prices of orders and fills are ticks.
"""

from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

from msgspec import Struct

Long: TypeAlias = Annotated[int, "long"]
Millis: TypeAlias = Annotated[int, "timestamp-millis"]
Nanos: TypeAlias = Annotated[int, "long"]  # UTC ns
Ticks: TypeAlias = Annotated[int, "long"]  # 1/10 000 USD
Column: TypeAlias = bytes  # little-endian numbers, one per row

T = TypeVar("T", bound=type)


class Named(NamedTuple):
    """What a class is called in the log."""

    record: str  # with its namespace
    file: str  # in schemas/avro, without the ending
    topics: tuple[str, ...]


NAMES: dict[type, Named] = {}
BY_TOPIC: dict[str, type] = {}


def record(name: str, file: str, *topics: str) -> Callable[[T], T]:
    """Register a class as the record of topics."""

    def register(kind: T) -> T:
        NAMES[kind] = Named(name, file, topics)
        BY_TOPIC.update(dict.fromkeys(topics, kind))
        return kind

    return register


def nested(name: str) -> Callable[[T], T]:
    """Name a record that stands only inside others."""
    return record(name, "")


class Envelope(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every event begins with; `schemas.identity.envelope` makes it from content."""

    event_id: str  # UUIDv5 of topic and idempotency key
    correlation_id: str  # one from bar to order and exit
    idempotency_key: str
    symbol: str
    ts: str  # event time, ISO 8601 UTC
    schema_version: int
    source: str


class VersionedEnvelope(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same, of the contracts whose topics end in `.v1`."""

    event_id: str
    correlation_id: str
    idempotency_key: str
    symbol: str
    ts: Millis
    schema_version: int
    source: str


# Bars, forecasts, verdicts, executions.


@record("awet.MarketRaw", "market_raw", "market.raw", "market.late")
class MarketRaw(Envelope, frozen=True, kw_only=True):
    """A bar as received; `ts` is its end. `price` is the close."""

    open: float = 0.0
    high: float = 0.0
    low: float = 0.0
    close: float = 0.0
    price: float
    volume: float
    vwap: float | None = None
    trades: int | None = None
    bid: float | None = None
    ask: float | None = None
    timeframe: str = "1m"
    revision: int = 0  # of this bar, as the vendor counts


@record("awet.MarketEngineered", "market_engineered", "market.engineered")
class MarketEngineered(Envelope, frozen=True, kw_only=True):
    """The features that other consumers read."""

    price: float
    volume: float
    returns_1: float = 0.0
    returns_5: float = 0.0
    returns_15: float = 0.0
    volatility_5: float = 0.0
    volatility_15: float = 0.0
    sma_5: float = 0.0
    sma_20: float = 0.0
    ema_5: float = 0.0
    ema_20: float = 0.0
    rsi_14: float = 50.0
    volume_zscore: float = 0.0
    minute_of_day: int = 0
    day_of_week: int = 0


@record("awet.Prediction", "prediction", "predictions.tft")
class Prediction(Envelope, frozen=True, kw_only=True):
    """A forecast: quantiles of the log return over each horizon."""

    prediction: float
    confidence: float
    horizon_minutes: int
    model_version: str
    horizon_30_q10: float = 0.0
    horizon_30_q50: float = 0.0
    horizon_30_q90: float = 0.0
    horizon_45_q10: float = 0.0
    horizon_45_q50: float = 0.0
    horizon_45_q90: float = 0.0
    horizon_60_q10: float = 0.0
    horizon_60_q50: float = 0.0
    horizon_60_q90: float = 0.0
    direction: str = "neutral"
    horizon_bars: list[int] = []  # as the model has them
    quantiles: list[float] = []  # 0.1, 0.5, 0.9 of the log return, for each horizon


@record("awet.TradeDecision", "trade_decision", "trade.decisions")
class TradeDecision(Envelope, frozen=True, kw_only=True):
    """AWET's decision step; here `signals.scored` takes its place."""

    decision: str
    confidence: float
    reason: str
    price: float = 0.0
    prediction: float = 0.0
    horizon_30_q10: float = 0.0
    horizon_30_q50: float = 0.0
    horizon_30_q90: float = 0.0
    direction: str = "neutral"
    created_at: str


@record("awet.Risk", "risk", "risk.approved", "risk.rejected")
class Risk(Envelope, frozen=True, kw_only=True):
    """The account's verdict on a candidate."""

    approved: bool
    reason: str
    risk_score: float
    max_position: float
    max_notional: float
    min_confidence: float
    cvar_95: float = 0.0
    max_loss: float = 0.0
    direction: str = "neutral"
    uncalibrated: bool = True  # no calibrated probability stands behind it; never a reason to refuse


@record("awet.Execution", "execution", "execution.completed", "execution.blocked")
class Execution(Envelope, frozen=True, kw_only=True):
    """What became of an order."""

    status: str
    filled_qty: int
    avg_price: float
    paper_trade: bool
    dry_run: bool = False
    side: str = "buy"
    alpaca_order_id: str | None = None
    alpaca_status: str | None = None
    error_message: str | None = None


@record("awet.reddit.RedditRawEvent", "reddit_raw", "social.raw")
class RedditRawEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A post or comment as read."""

    event_id: str
    correlation_id: str
    idempotency_key: str
    symbol: str
    ts: str
    schema_version: int = 1
    source: str
    post_id: str
    subreddit: str
    author: str | None = None
    title: str | None = None
    body: str | None = None
    score: int = 0
    num_comments: int = 0
    created_utc: Long
    is_submission: bool = True
    permalink: str | None = None
    extracted_tickers: list[str] = []


# Signals: JSON in the systems that they come from.


@record("awet.AlphaSignal", "alpha_signal", "alpha.signals")
class AlphaSignal(Envelope, frozen=True, kw_only=True):
    """An alpha's view that has changed; FLAT cancels the last one."""

    indicator: str  # rsi_14, ema_cross_12_26, macd_12_26_9
    direction: str  # UP, DOWN, FLAT
    raw_value: float | None = None
    weight: float = 0.0  # informative: the ensemble's settings decide
    bars_left: int = 0  # of the view's life


@record("awet.ScoredSignal", "scored_signal", "signals.scored")
class ScoredSignal(Envelope, frozen=True, kw_only=True):
    """The ensemble's answer, with all that the account reads, so that risk never needs constants."""

    tft_direction: str | None = None
    tft_confidence: float = 0.0
    ensemble_direction: str
    ensemble_confidence: float
    signal_score: float
    active_alphas: list[str] = []
    regime: str
    price: float = 0.0  # USD, the bar's close
    q10: float | None = None  # log return over the decision horizon
    q50: float | None = None
    q90: float | None = None
    volatility: float | None = None  # a fraction per bar
    probability: float | None = None  # calibrated
    filters: list[str] = []  # the verdict of each filter that did not pass
    reason: str = "none"  # why it is no candidate
    model_version: str | None = None


@record("awet.ExitSignal", "exit_signal", "exit.signals")
class ExitSignal(Envelope, frozen=True, kw_only=True):
    """A position is to be closed."""

    action: str = "EXIT"
    reason: str
    qty: int
    pnl_pct: float  # a fraction
    priority: str = "HIGH"


@nested("awet.Header")
class Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record's header."""

    name: str
    value: bytes


@record("awet.DlqRecord", "dlq_record", "dlq.failed")
class DlqRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dead letter: what could not be used, byte for byte, and why."""

    dlq_id: str
    source_topic: str = "unknown"
    agent: str = "unknown"  # the flow that gave up
    correlation_id: str
    original_payload: str  # base64
    error_type: str
    error_message: str
    error_traceback: str = ""
    retry_count: int = 0
    ts: str  # event time of the record, else when it was written
    source_partition: int = -1
    source_offset: Long = -1
    original_key: bytes | None = None
    original_headers: list[Header] = []
    idempotency_key: str = ""  # the original's


# Versioned contracts.


@record("com.awet.audit.AuditEvent", "audit.event.v1", "audit.event.v1")
class AuditEvent(VersionedEnvelope, frozen=True, kw_only=True):
    """One line of the audit trail."""

    stage: str
    outcome: str
    detail: str | None = None


@record("com.awet.dlq.DlqGeneric", "dlq.generic.v1", "dlq.generic.v1")
class DlqGeneric(VersionedEnvelope, frozen=True, kw_only=True):
    """AWET's envelope of a dead letter."""

    original_topic: str
    original_key: str | None = None
    original_value: bytes
    error_message: str
    error_class: str
    retry_count: int = 0
    max_retries: int = 3
    first_failed_at: Millis
    last_failed_at: Millis


# The platform's own.


@nested("utp.Listed")
class Listed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A symbol enters the universe, for good."""

    symbol: int
    slot: int
    name: str


@nested("utp.Action")
class Action(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A split or a cash dividend that holds from the start of its slice."""

    symbol: int
    new: Long = 1  # every `old` shares become `new`
    old: Long = 1
    dividend: Ticks = 0  # per share
    slot: int = 0


@nested("utp.InForce")
class InForce(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model is in force from the slice that ends at `since` on; an empty id: none is."""

    since: Nanos
    model: str
    bundle_sha256: str = ""  # of its manifest, which has the hashes of its files; empty: not checked


@record("utp.SliceBars", "slice_bars", "market.slices")
class SliceBars(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One shard's bars of one slice. The record is the slice's close: written once, never revised.

    It has no envelope: it is a frame, and its id is the record's header. `operators/slice_columns.py` reads the
    fields in this order.
    """

    shard: int
    timeframe: int  # minutes
    ts: Nanos  # the slice's end
    after: Nanos  # complete for after < ts <= upto
    upto: Nanos
    listed: list[Listed] = []
    symbol: Column  # int32
    slot: Column  # int32
    bar_ts: Column  # int64, end of the bar, UTC ns
    open: Column  # float64, USD per share
    high: Column
    low: Column
    close: Column
    volume: Column  # shares
    bid: Column = b""  # empty where the source has no quotes
    ask: Column = b""
    actions: list[Action] = []
    earnings_days: Column = b""  # int32, to the nearest report known; empty where there is no such source
    average_volume: Column = b""  # float64, shares a day; NaN: not known
    market: Column = b""  # one float64, the market symbol's close, NaN: it has no bar; empty: there is none
    models: list[InForce] = []  # that act from here; in a session's first slice all so far, in order


@record("utp.MarketClose", "market_close")
class MarketClose(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The market symbol's bar, for the shards that it is not of; among the bars of `market.raw`."""

    ts: Nanos  # end of the bar
    symbol: str
    open: float
    high: float
    low: float
    close: float
    volume: float


@record("utp.Beat", "beat")
class Beat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The feed's clock, among the bars of `market.raw`: it is now at least `ts`."""

    ts: Nanos


class CommandKind(Enum):
    """What a human may say."""

    APPROVE = "approve"
    REVOKE = "revoke"
    KILL = "kill"
    RESUME = "resume"


@record("utp.Command", "command", "account.commands")
class Command(Envelope, frozen=True, kw_only=True):
    """A human's word to an account; acts at its place in the account log."""

    account: str
    kind: CommandKind
    issuer: str
    reason: str = ""
    until: Annotated[int, "long"] | None = None  # UTC ns; of an approval


@record("utp.ExecutionReport", "execution_report", "execution.reports")
class ExecutionReport(Envelope, frozen=True, kw_only=True):
    """What the venue says about an order."""

    account: str
    order_id: str  # ours
    report_id: str  # the venue's, or a function of its content
    venue_order_id: str | None = None
    status: str
    side: str
    leg: str
    quantity: Long  # shares of this fill
    price: Ticks  # of this fill
    filled: Long  # shares so far
    reason: str = ""
    venue_ts: Nanos
    cost: Ticks = 0  # what the shares of this fill cost, or brought: they may have had several prices


@record("utp.ExecutionClaim", "execution_claim", "execution.claims")
class ExecutionClaim(Envelope, frozen=True, kw_only=True):
    """A process says that it executes an account's orders, again and again while it does; see dataflows/lease.py."""

    account: str
    holder: str  # host and folder
    process: str  # of this start
    epoch: Long  # one more than the one before, at each start
    number: Long  # of the process's claims
    released: bool = False  # the last one: the next process need not wait


@record("utp.Order", "order", "account.orders")
class Order(Envelope, frozen=True, kw_only=True):
    """The account asks the venue for something; `order_id` is a function of account, symbol, slice and leg."""

    account: str
    order_id: str
    action: str  # submit, cancel
    side: str
    kind: str  # market, limit, stop
    leg: str
    parent_id: str | None = None
    quantity: Long
    limit: Annotated[int, "long"] | None = None  # ticks
    stop: Annotated[int, "long"] | None = None
    take_profit: Annotated[int, "long"] | None = None  # of a bracket, fixed at submission
    stop_loss: Annotated[int, "long"] | None = None
    time_in_force: str = "day"
    reason: str = ""
    slice_ts: Nanos
    price: Ticks = 0  # on which a market order was decided


@record("utp.ModelActivated", "model_activated", "model.activated")
class ModelActivated(Envelope, frozen=True, kw_only=True):
    """From this slice on forecasts are this model's."""

    model: str
    version: str
    from_slice: Nanos
    bundle_sha256: str
    previous: str | None = None


class LogKind(Enum):
    """What a record of the account log is; the field of that name holds it."""

    SLICE = "slice"
    COMMAND = "command"
    REPORT = "report"


@nested("utp.ScoredSlice")
class ScoredSlice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One slice of all shards with its signals; `schemas.scored_columns` names the columns."""

    after: Nanos
    upto: Nanos
    columns: dict[str, Column]


@record("utp.LogEntry", "log_entry", "account.log")
class LogEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One record of the account log; where it came from is its id."""

    kind: LogKind
    account: str
    ts: Nanos
    source_topic: str
    source_partition: int
    source_offset: Long
    slice: ScoredSlice | None = None
    command: Command | None = None
    report: ExecutionReport | None = None


def all_records() -> dict[str, Any]:
    """By file name: the classes that have a topic."""
    return {named.file: kind for kind, named in NAMES.items() if named.file}
