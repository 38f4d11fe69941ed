import copy
import math

import fastavro
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.topics import TOPICS
from schemas import avro_files, codec
from schemas.avro_schema import breaches, schema_of
from schemas.codec import UndecodableError, decode, encode
from schemas.errors import UserError
from schemas.identity import bar_key, correlation_id, envelope, event_id, iso, nanos
from schemas.records import BY_TOPIC, NAMES, Command, CommandKind, LogEntry, LogKind, MarketRaw, SliceBars, all_records

# The contracts' own field lists, in their order: what others rely on.
ENVELOPE = "event_id correlation_id idempotency_key symbol ts schema_version source "
CONTRACT = {
    "awet.MarketRaw": ENVELOPE +
    "open high low close price volume vwap trades ",
    "awet.MarketEngineered": ENVELOPE +
    "price volume returns_1 returns_5 returns_15 volatility_5 volatility_15 sma_5 sma_20 ema_5 ema_20 "
    "rsi_14 volume_zscore minute_of_day day_of_week ",
    "awet.Prediction": ENVELOPE +
    "prediction confidence horizon_minutes model_version horizon_30_q10 horizon_30_q50 horizon_30_q90 "
    "horizon_45_q10 horizon_45_q50 horizon_45_q90 horizon_60_q10 horizon_60_q50 horizon_60_q90 "
    "direction ",
    "awet.TradeDecision": ENVELOPE +
    "decision confidence reason price prediction horizon_30_q10 horizon_30_q50 horizon_30_q90 "
    "direction created_at ",
    "awet.Risk": ENVELOPE +
    "approved reason risk_score max_position max_notional min_confidence cvar_95 max_loss direction ",
    "awet.Execution": ENVELOPE +
    "status filled_qty avg_price paper_trade dry_run side alpaca_order_id alpaca_status error_message ",
    "awet.reddit.RedditRawEvent": ENVELOPE +
    "post_id subreddit author title body score num_comments created_utc is_submission permalink "
    "extracted_tickers ",
    "com.awet.audit.AuditEvent": ENVELOPE +
    "stage outcome detail ",
    "com.awet.dlq.DlqGeneric": ENVELOPE +
    "original_topic original_key original_value error_message error_class retry_count max_retries "
    "first_failed_at last_failed_at ",
}  # fmt: skip
KINDS = list(all_records().values())
EVERY = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def test_the_committed_schemas_are_current():
    assert avro_files.stale() == [], "run python -m schemas.avro_files"
    avro_files.refuse_breaches()


@pytest.mark.parametrize("name", CONTRACT)
def test_a_contract_has_its_fields_first_and_in_order(name):
    (kind,) = [kind for kind, named in NAMES.items() if named.record == name]
    wanted = CONTRACT[name].split()
    schema = schema_of(kind)
    assert [field["name"] for field in schema["fields"]][: len(wanted)] == wanted
    assert all("default" in field for field in schema["fields"][len(wanted) :])
    assert f"{schema['namespace']}.{schema['name']}" == name


def test_every_topic_has_a_record():
    assert {topic.name for topic in TOPICS} <= set(BY_TOPIC)


@EVERY
def test_the_schema_is_avro(kind):
    fastavro.parse_schema(schema_of(kind), named_schemas={})


def values(schema, known):
    """Any value of a schema, as fastavro takes it."""
    if isinstance(schema, str) and schema in known:
        schema = known[schema]
    if isinstance(schema, list):
        return st.one_of(*(values(one, known) for one in schema))
    kind = schema if isinstance(schema, str) else schema["type"]
    if kind == "record":
        return st.fixed_dictionaries({field["name"]: values(field["type"], known) for field in schema["fields"]})
    if kind == "array":
        return st.lists(values(schema["items"], known), max_size=3)
    if kind == "map":
        return st.dictionaries(st.text(max_size=4), values(schema["values"], known), max_size=3)
    if kind == "enum":
        return st.sampled_from(schema["symbols"])
    return {
        "null": st.none(), "string": st.text(max_size=8), "bytes": st.binary(max_size=8), "boolean": st.booleans(),
        "int": st.integers(-(2**31), 2**31 - 1), "long": st.integers(-(2**63), 2**63 - 1),
        "double": st.floats(allow_nan=False),
    }[kind]  # fmt: skip


def definitions(schema, known):
    if isinstance(schema, dict):
        if "name" in schema and "type" in schema and schema["type"] in ("record", "enum"):
            space = schema.get("namespace")
            known[f"{space}.{schema['name']}" if space else schema["name"]] = schema
        for field in schema.get("fields", ()):
            definitions(field["type"], known)
        definitions(schema.get("items"), known)
    if isinstance(schema, list):
        for one in schema:
            definitions(one, known)
    return known


@EVERY
@given(data=st.data())
def test_what_is_written_is_read(kind, data):
    schema = schema_of(kind)
    event = msgspec.convert(data.draw(values(schema, definitions(schema, {}))), kind)
    assert decode(kind, encode(event), codec.mark(kind)) == event


@EVERY
def test_unknown_fields_are_refused(kind):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"no_such_field": 1}, kind)


def command(**more):
    return Command(
        **envelope("account.commands", "k", "", 1, "test"), account="a", kind=CommandKind.KILL, issuer="me", **more
    )


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"\xff" * 30, lambda b: b""])
def test_damaged_bytes_are_no_event(damage):
    with pytest.raises(UndecodableError):
        decode(Command, damage(encode(command())))


def test_a_missing_value_and_an_unknown_schema_are_no_event():
    with pytest.raises(UndecodableError, match="without a value"):
        decode(Command, None)
    with pytest.raises(UndecodableError, match="schema 00: none of Command"):
        decode(Command, encode(command()), b"00")


def test_a_log_entry_holds_its_event():
    entry = LogEntry(kind=LogKind.COMMAND, account="a", ts=5, source_topic="account.commands", source_partition=0,
                     source_offset=7, command=command(until=9))  # fmt: skip
    assert decode(LogEntry, encode(entry)).command.until == 9


def test_old_records_stay_readable_after_a_field_was_added(tmp_path, monkeypatch):
    old = copy.deepcopy(schema_of(Command))
    old["fields"] = [field for field in old["fields"] if field["name"] != "until"]
    (tmp_path / "former").mkdir()
    (tmp_path / "former" / f"command@{avro_files.fingerprint(old)}.avsc").write_bytes(avro_files.text(old))
    monkeypatch.setattr(codec, "versions", lambda file: avro_files.versions(file, tmp_path))
    codec.written_by.cache_clear()
    try:
        import io

        out = io.BytesIO()
        written = {key: value for key, value in msgspec.to_builtins(command()).items() if key != "until"}
        fastavro.schemaless_writer(out, fastavro.parse_schema(old, named_schemas={}), written)
        assert decode(Command, out.getvalue(), avro_files.fingerprint(old).encode()) == command()
    finally:
        codec.written_by.cache_clear()


def changed(change):
    schema = copy.deepcopy(schema_of(Command))
    change(schema)
    return schema


def field(schema, name):
    return next(one for one in schema["fields"] if one["name"] == name)


@pytest.mark.parametrize(
    ("change", "breach"),
    [
        (lambda s: s["fields"].pop(), "until: removed"),
        (lambda s: field(s, "issuer").update(name="who"), "issuer: removed or renamed"),
        (lambda s: s["fields"].append({"name": "x", "type": "int"}), "x: added without a default"),
        (lambda s: field(s, "issuer").update(type="int"), "issuer: was string, is int"),
        (lambda s: field(s, "schema_version").update(type="string"), "schema_version: was int, is string"),
        (lambda s: field(s, "kind")["type"]["symbols"].insert(0, "x"), "only append"),
        (lambda s: field(s, "kind")["type"]["symbols"].remove("kill"), "only append"),
        (lambda s: field(s, "until").update(type=["null"]), "until: long is no longer possible"),
        (lambda s: field(s, "until").update(type="long"), "until: null is no longer possible"),
        (lambda s: s.update(name="Other"), "was named utp.Command, is named utp.Other"),
        (lambda s: s.update(namespace="other"), "is named other.Command"),
    ],
)
def test_a_change_that_breaks_old_records_is_refused(change, breach):
    assert any(breach in one for one in breaches(schema_of(Command), changed(change)))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: None,
        lambda s: s["fields"].append({"name": "x", "type": "int", "default": 0}),
        lambda s: field(s, "schema_version").update(type="long"),
        lambda s: field(s, "kind")["type"]["symbols"].append("pause"),
        lambda s: field(s, "issuer").update(type=["null", "string"]),
        lambda s: field(s, "until").update(type=["null", "long", "string"]),
        lambda s: s.update(doc="other words"),
    ],
)
def test_a_change_that_old_records_survive_is_allowed(change):
    assert breaches(schema_of(Command), changed(change)) == []


def test_a_breach_inside_a_nested_record_is_seen():
    new = copy.deepcopy(schema_of(SliceBars))
    field(new, "listed")["type"]["items"]["fields"].pop()
    assert breaches(schema_of(SliceBars), new) == ["listed[].name: removed or renamed"]
    new = copy.deepcopy(schema_of(LogEntry))
    field(new, "command")["type"][1]["fields"].pop()
    assert any("until: removed" in one for one in breaches(schema_of(LogEntry), new))


def test_the_check_refuses_a_class_that_broke_its_file(tmp_path):
    assert set(avro_files.write(tmp_path)) == set(all_records())
    assert avro_files.write(tmp_path) == []
    path = tmp_path / "command.avsc"
    schema = msgspec.json.decode(path.read_bytes())
    schema["fields"].append({"name": "once", "type": "int"})
    path.write_bytes(avro_files.text(schema))
    with pytest.raises(UserError, match=r"Command \(command.avsc\): once: removed or renamed"):
        avro_files.write(tmp_path)


def test_a_former_version_is_kept(tmp_path):
    avro_files.write(tmp_path)
    path = tmp_path / "command.avsc"
    schema = msgspec.json.decode(path.read_bytes())
    schema["fields"].pop()
    path.write_bytes(avro_files.text(schema))
    assert avro_files.write(tmp_path) == ["command"]
    assert [path.name for path in (tmp_path / "former").iterdir()] == [f"command@{avro_files.fingerprint(schema)}.avsc"]
    assert len(avro_files.versions("command", tmp_path)) == 2


def test_a_file_without_its_class_is_refused(tmp_path):
    avro_files.write(tmp_path)
    (tmp_path / "gone.avsc").write_text("{}")
    with pytest.raises(UserError, match=r"gone.avsc: its class is gone"):
        avro_files.write(tmp_path)


@given(st.integers(-(2**60), 2**62))
def test_times_are_written_and_read_to_the_nanosecond(ts):
    assert nanos(iso(ts)) == ts


def test_times_look_as_they_should():
    assert iso(1_704_205_860_000_000_000) == "2024-01-02T14:31:00Z"
    assert iso(1_704_205_860_120_000_000) == "2024-01-02T14:31:00.12Z"
    for wrong in ("2024-01-02", "2024-01-02T14:31:00+00:00", "2024-01-02T14:31:00", ""):
        with pytest.raises(ValueError, match="want ISO 8601"):
            nanos(wrong)


def test_ids_are_functions_of_content():
    key = bar_key("AAPL", 1_704_205_860_000_000_000, "1m")
    assert key == "AAPL:20240102143100:1m:0"
    first, second = (
        envelope("market.raw", key, "aapl", 1_704_205_860_000_000_000, source) for source in ("live", "file")
    )
    assert first["event_id"] == second["event_id"] == event_id("market.raw", key)
    assert event_id("market.late", key) != first["event_id"]
    assert first["symbol"] == "AAPL"
    assert correlation_id("AAPL", 1_704_205_860_000_000_000, "1m") == first["event_id"]
    bar = MarketRaw(**first, price=1.0, volume=math.inf)
    assert decode(MarketRaw, encode(bar)) == bar
