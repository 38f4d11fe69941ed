import pytest

from dataflows import account_log, pipeline
from infra.gated_sink import ID
from infra.kafka import SCHEMA, TS
from infra.ranges import Messages
from infra.settings import load
from operators import barrier, drive
from risk import account
from risk.commands import Command, obey
from schemas import codec
from schemas.identity import envelope
from schemas.records import Command as Said
from schemas.records import CommandKind, LogEntry, LogKind
from tests.markets import make

SETTINGS = load(None, ["filters.liquidity=false"], environ={})
MARKET = make(5, sessions=3)
DECIDE = pipeline.decide_params(SETTINGS, 30)


def messages(topic, rows):
    headers = [[(ID, row.id.encode()), (TS, b"%d" % row.ts), *row.headers] for row in rows]
    return Messages(topic, 0, list(range(len(rows))), [row.key for row in rows], [row.value for row in rows], headers)


def said(kind, account="backtest", ts=MARKET.upto):
    event = Said(**envelope("account.commands", f"{kind.value}:{ts}", "", ts, "operator"), account=account, kind=kind,
                 issuer="someone", reason="a test")  # fmt: skip
    return account_log.Record("x", ts, None, codec.encode(event), ((SCHEMA, codec.mark(Said)),))


def slices():
    signals = pipeline.signals(MARKET.chunks(), DECIDE)
    frames = drive.replay(barrier.start(MARKET.after), barrier.step_singly, signals)
    return [frame for released in frames for frame in released]


def test_every_record_acts_at_its_place():
    """Slices with a kill after the third, from the log, are the account's steps with the command between them."""
    frames = slices()
    (kill,), letters = account_log.command_records("backtest", messages("account.commands", [said(CommandKind.KILL)]))
    assert letters == []
    before, after = (account_log.records("backtest", tuple(part))[1] for part in (frames[:3], frames[3:]))
    state, direct = account.start(SETTINGS.account), account.start(SETTINGS.account)
    for _, act in account_log.acts(MARKET.calendar, messages("account.log", [*before, kill, *after])):
        state, _ = account_log.step(MARKET.calendar, SETTINGS.account, state, act)
    for k, frame in enumerate(frames):
        if k == 3:
            direct, _ = obey(
                SETTINGS.account, direct, Command(number=0, kind="kill", issuer="someone", reason="a test")
            )
        direct, _ = account.step(SETTINGS.account, direct, frame)
    assert state.book.funds[0].killed
    assert repr(drive.flat(state)) == repr(drive.flat(direct))


def test_commands_to_others_and_junk_do_not_enter_the_log():
    junk = said(CommandKind.KILL)._replace(value=b"junk")
    rows = [said(CommandKind.KILL, account="other"), junk, said(CommandKind.RESUME)]
    found, letters = account_log.command_records("backtest", messages("account.commands", rows))
    assert [record.id for record in found] == ["command:2"]
    assert [(letter.offset, letter.kind) for letter in letters] == [(1, "undecodable")]


def test_a_record_that_nobody_here_knows_stops_the_account():
    empty = LogEntry(kind=LogKind.REPORT, account="backtest", ts=MARKET.upto, source_topic="execution.reports",
                     source_partition=0, source_offset=0)  # fmt: skip
    with pytest.raises(ValueError, match="of kind report"):
        account_log.act(MARKET.calendar, empty)
