import json
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from dataflows.cli import main
from infra import dead_letters, intake
from infra.gated_sink import GatedSink
from infra.kafka import bounds, records
from infra.ranges import RangeSource
from infra.retry import DEFAULT, Policy, delay, retrying
from infra.slice_log import record
from infra.topics import BY_NAME, TOPICS, create_topics
from schemas import codec
from schemas.calendar import Calendar
from schemas.errors import UserError
from schemas.frames import Actions, Listing, RawFrame
from schemas.records import DlqRecord
from tests.infra.logkit import drain, trim

CALENDAR = Calendar(1, date(2024, 1, 2), date(2024, 1, 31))
FIRST = CALENDAR.index_after(int(CALENDAR.opens[CALENDAR.sessions.searchsorted(19_724)]))


def frame(k, rows=2, shard=3, listed=()):
    """The shard's slice number k, with bars of symbols 10, 11 ..."""
    slices = CALENDAR.slices(FIRST + k, FIRST + k + 1, CALENDAR.ts_at(FIRST + k - 1), CALENDAR.ts_at(FIRST + k))
    prices = [np.arange(rows) + 100.0 * column + k for column in range(7)]
    return RawFrame(shard, slices, listed, np.full(rows, slices.ts[0]), np.arange(rows, dtype=np.int32) + 10,
                    np.arange(rows, dtype=np.int32), *prices)  # fmt: skip


def put(where, topic, batch, number=0):
    sink = GatedSink(where, topic, "test").build_part("step", f"{topic}:{number:03}", None)
    sink.write_batch([batch])
    sink.snapshot()
    sink.close()


def read(where, topic, number, stop, headers=True):
    source = RangeSource(where, {(topic, number): (0, stop)}, headers=headers)
    (item,) = drain(source.build_part("s", f"{topic}:{number:03}", None))
    return item


@pytest.fixture
def log(kafka, monkeypatch):
    create_topics(kafka, [BY_NAME[name] for name in ("market.slices", "market.late", "dlq.failed", "account.commands")])
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.servers)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", kafka.prefix)
    return kafka


def same(one, other):
    for name in ("ts", "symbol", "slot", "open", "high", "low", "close", "volume", "bid", "ask"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


def taken(messages):
    return intake.step(CALENDAR, intake.start(), messages)[1]


@pytest.mark.parametrize("headers", [True, False])
def test_slices_come_back_as_one_frame(log, headers):
    listed = (Listing(10, 0, "AA"), Listing(11, 1, "BB"))
    slot = np.array([1], np.int32)
    split = Actions(*(np.array([one], np.int32) for one in (0, 11)), *(np.array([one]) for one in (2, 1, 0)))
    frames = [
        frame(0, listed=listed),
        frame(1, rows=0),
        replace(frame(2), actions=split, acted=slot),
    ]
    put(log, "market.slices", [record(one, 1) for one in frames], 3)
    found = taken(read(log, "market.slices", 3, 3, headers))
    assert found.letters == ()
    (whole,) = found.frames
    assert (whole.shard, whole.listed, whole.slices.size) == (3, listed, 3)
    assert (whole.slices.after, whole.slices.upto) == (frames[0].slices.after, frames[2].slices.upto)
    told = whole.actions
    assert [column.tolist() for column in (told.at, told.symbol, told.new, told.old, told.dividend, whole.acted)] == [
        [2], [11], [2], [1], [0], [1]
    ]  # fmt: skip
    for one, rows in ((frames[0], slice(0, 2)), (frames[2], slice(2, 4))):
        assert whole.close[rows].tobytes() == one.close.tobytes()
        assert whole.ask[rows].tobytes() == one.ask.tobytes()
        assert whole.ts[rows].tolist() == one.ts.tolist()


def test_a_record_of_two_slices_is_refused():
    two = CALENDAR.slices(FIRST, FIRST + 2, CALENDAR.ts_at(FIRST - 1), CALENDAR.ts_at(FIRST + 1))
    one = frame(0)
    with pytest.raises(ValueError, match="this frame 2"):
        record(RawFrame(3, two, (), one.ts, one.symbol, one.slot, one.open, one.high, one.low, one.close, one.volume,
                        one.bid, one.ask), 1)  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda r: r._replace(value=r.value[:-9]), "undecodable", "cut short"),
        (lambda r: r._replace(value=b"\xff" * 99), "undecodable", "cut short"),
        (lambda r: r._replace(headers=(("schema", b"0123"),)), "undecodable", "schema 0123: none of SliceBars"),
        (lambda r: r._replace(headers=()), "undecodable", "schema : none of SliceBars"),
        (lambda r: record(frame(1), 5), "wrong_timeframe", "bars of 5 minutes, want 1"),
    ],
)
def test_a_poisoned_record_is_a_letter_and_a_declared_gap(log, spoil, kind, message):
    good = [record(frame(k), 1) for k in range(4)]
    put(log, "market.slices", [good[0], spoil(good[1])._replace(id="poison"), *good[2:]], 3)
    found = taken(read(log, "market.slices", 3, 4))
    slices = [ts for one in found.frames for ts in one.slices.ts.tolist()]
    assert slices == [frame(k).slices.upto for k in range(4)]  # the promise goes on over the hole
    assert {ts for one in found.frames for ts in one.ts.tolist()} == {frame(k).slices.upto for k in (0, 2, 3)}
    (letter,) = found.letters
    assert (letter.topic, letter.partition, letter.offset, letter.kind) == ("market.slices", 3, 1, kind)
    assert message in letter.message


def test_a_letter_is_listed_shown_and_put_back_among_late_bars(log, capsys):
    spoiled = record(frame(0), 1)._replace(value=b"\0broken\xff")
    put(log, "market.slices", [spoiled], 3)
    messages = read(log, "market.slices", 3, 1)
    (letter,) = taken(messages).letters
    written = dead_letters.record(letter, "live")
    assert written == dead_letters.record(letter, "live")  # a function of where the record stands
    put(log, "dlq.failed", [written])
    with pytest.raises(SystemExit) as done:
        main(["dlq", "list"])
    assert done.value.code == 0
    listed = capsys.readouterr().out
    assert "market.slices:3:0" in listed
    assert "1 dead letters" in listed
    with pytest.raises(SystemExit):
        main(["dlq", "show", listed[:8]])
    shown = json.loads(capsys.readouterr().out)
    assert shown["idempotency_key"] == spoiled.id
    with pytest.raises(SystemExit):
        main(["dlq", "replay", listed[:8]])
    assert f"{listed[:8]} -> market.late" in capsys.readouterr().out
    assert bounds(log, "market.slices")[3] == (0, 1)  # nothing went into decisions
    late = list(records(log, "market.late", 3, 0, 1))  # in the partition of its shard, whatever its key
    assert [(m.value(), m.key()) for m in late] == [(spoiled.value, spoiled.key)]
    headers = dict(late[0].headers())
    assert headers["id"] == spoiled.id.encode()
    assert headers["replayed_from"] == b"market.slices"


def test_what_is_no_letter_hides_none(log, capsys, caplog):
    good = dead_letters.record(dead_letters.Letter("market.raw", 3, 7, None, b"x", (), "undecodable", "no bar"), "live")
    junk = good._replace(id="junk", value=b"\xff\0")
    put(log, "dlq.failed", [junk, good, junk._replace(id="more", headers=())])
    for arguments, said in ((["dlq", "list"], "1 dead letters"), (["dlq", "replay", "--all"], "1 dead letters put")):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 0
        assert said in capsys.readouterr().out
    assert "partition 0 offset 0 is no dead letter, and passed over" in caplog.text


def test_other_letters_go_back_to_their_topic(log, capsys):
    put(log, "account.commands", [record(frame(0), 1)._replace(id="c", value=b"nonsense", key=None)])
    letter = dead_letters.letter(read(log, "account.commands", 0, 1), 0, "undecodable", "no Command")
    put(log, "dlq.failed", [dead_letters.record(letter, "live")])
    with pytest.raises(SystemExit):
        main(["dlq", "replay", "--all"])
    assert "-> account.commands" in capsys.readouterr().out
    back = list(records(log, "account.commands", 0, 1, 2))
    assert [(m.value(), m.key(), dict(m.headers())["id"]) for m in back] == [(b"nonsense", None, b"c")]


@pytest.mark.parametrize(("arguments", "message"), [
    (["dlq", "replay"], "want the id of a letter, or --all"),
    (["dlq", "show", "feed"], "dead letter feed: none found"),
])  # fmt: skip
def test_a_mistake_is_one_line(log, capsys, arguments, message):
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    assert message in capsys.readouterr().err


def test_the_topics_are_created_and_listed(kafka, monkeypatch, capsys):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.servers)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", kafka.prefix)
    for arguments in (["topics", "create"], ["topics", "list"], ["topics", "list", "--json"]):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 0
    out = capsys.readouterr().out
    assert f"{len(TOPICS)} of them new" in out
    assert json.loads(out[out.index("[\n") :])[1] == {"topic": "market.slices", "partitions": 16, "records": 0}


def test_delays_grow_and_end():
    assert [delay(DEFAULT, k, 0.5) for k in range(4)] == [0.1, 0.2, None, None]
    assert delay(Policy(9), 6, 1.0) == 5.0


@pytest.mark.parametrize(("failures", "kind", "tries", "waits"), [
    (0, OSError, 1, []), (2, OSError, 3, [0.1, 0.2]), (3, OSError, 3, [0.1, 0.2]), (1, ValueError, 1, []),
])  # fmt: skip
def test_only_what_may_pass_is_tried_again(failures, kind, tries, waits):
    done, slept = [], []

    def action():
        done.append(1)
        if len(done) <= failures:
            raise kind("no")
        return "yes"

    def run():
        return retrying(action, lambda error: isinstance(error, OSError), slept.append, lambda: 0.5)

    if failures >= tries:
        with pytest.raises(kind):
            run()
    else:
        assert run() == "yes"
    assert (len(done), slept) == (tries, waits)


def test_a_record_that_no_letter_can_hold_stays_where_it_is_and_comes_back_from_there(log):
    large = record(frame(0), 1)._replace(value=bytes(range(256)) * 3_800)
    put(log, "market.slices", [large], 3)
    (letter,) = taken(read(log, "market.slices", 3, 1)).letters
    put(log, "dlq.failed", [dead_letters.record(letter, "live")])  # a sink stops at a record that is too large
    (found,) = dead_letters.letters(log)
    assert (found.original_payload, found.idempotency_key) == ("", large.id)
    assert [each.name for each in found.original_headers] == ["left_out"]
    dead_letters.replay(log, [found])
    (back,) = records(log, "market.late", 3, 0, 1)
    assert (back.value(), back.key(), dict(back.headers())["id"]) == (large.value, large.key, large.id.encode())
    trim(log, "market.slices", 3, 1)
    with pytest.raises(UserError, match="offset 0 is no longer in the log"):
        dead_letters.replay(log, [found])


@pytest.mark.parametrize("headers", [
    [("id", None), ("ts", None), ("schema", None)], [("ts", b"9" * 19), ("id", b"\xff")], [("ts", b"9" * 5_000)],
    [("ts", b"-1"), ("by", None)],
])  # fmt: skip
def test_a_letter_can_be_written_of_any_headers(headers):
    letter = dead_letters.Letter("market.raw", 1, 2, b"\xff", None, headers, "undecodable", "no MarketRaw")
    found = codec.decode(DlqRecord, dead_letters.record(letter, "live").value)
    assert (found.source_offset, found.ts) == (2, "1970-01-01T00:00:00Z")
    assert [(each.name, each.value) for each in found.original_headers] == [(name, v or b"") for name, v in headers]


def test_a_letter_of_nowhere_has_no_way_back(log):
    letter = dead_letters.Letter("unknown", -1, -1, None, None, (), "x", "y")
    put(log, "dlq.failed", [dead_letters.record(letter, "live")])
    with pytest.raises(UserError, match="its topic is unknown"):
        dead_letters.replay(log, list(dead_letters.letters(log)))
