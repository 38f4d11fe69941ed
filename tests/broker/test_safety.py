"""Each gate is the only reason once; and there is no way to another host."""

import json
import os
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import safety
from broker.alpaca import AlpacaBroker
from broker.safety import PAPER_HOST, Endpoint, Gates, Keys, Params, UnsafeBroker, endpoint
from schemas.errors import UserError
from schemas.events import Reason
from tests.broker.rooms import ACCOUNT, KEYS, Fault, entry, exit_, once, posts, trading

MINUTE = 60_000_000_000
NOW = 1_704_205_800_000_000_000
PAPER = f"https://{PAPER_HOST}"


@pytest.fixture
def params(tmp_path):
    return Params(
        dry_run=False, approval_file=str(tmp_path / "approval"), approval_key_file=str(tmp_path / "key" / "k")
    )


@pytest.fixture
def gates(params):
    """All open."""
    safety.approve(params, issuer="ann", account=ACCOUNT, scope="entries", minutes=390, now=NOW)
    return Gates(params, endpoint("paper", PAPER), Keys("PKX", "s"), ACCOUNT, enabled=True)


def changed(gates, **changes):
    """The same gates, one thing different."""
    params = msgspec.structs.replace(
        gates.params, **{k: v for k, v in changes.items() if k in Params.__struct_fields__}
    )
    rest = {k: v for k, v in changes.items() if k not in Params.__struct_fields__}
    return Gates(
        params, **{"there": gates.there, "keys": gates.keys, "account": gates.account, "enabled": True, **rest}
    )


def reasons(gates, now=NOW):
    """Of an entry, of an exit."""
    return tuple(found and found.reason for found in (gates.check(entry(), now), gates.check(exit_(), now)))


def test_all_gates_open(gates):
    assert reasons(gates) == (None, None)
    assert gates.shut(NOW) == []


# Gate 1: the address.


@pytest.mark.parametrize(
    "url",
    [
        PAPER, PAPER + "/", PAPER.upper(), "https://Paper-API.alpaca.markets/", PAPER + ":443", f"  {PAPER} ",
    ],
)  # fmt: skip
def test_the_paper_host_however_it_is_written(url):
    assert endpoint("paper", url) == Endpoint("paper", PAPER, f"wss://{PAPER_HOST}/stream")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.alpaca.markets", "https://broker-api.alpaca.markets", "http://paper-api.alpaca.markets", "",
        "https://paper-api.alpaca.markets.evil.example", "https://evil.example/paper-api.alpaca.markets",
        "https://paper-api.alpaca.markets@evil.example", "https://u:p@paper-api.alpaca.markets", PAPER + ":8443",
        "https://evil.example\\@paper-api.alpaca.markets", PAPER + "/v2", PAPER + "?x=1", PAPER + "#x",
        "https://xpaper-api.alpaca.markets", "https://paper-api.alpaca.markets.", "ftp://paper-api.alpaca.markets",
        "paper-api.alpaca.markets", "http://127.0.0.1:8900", "https://[::1", "https://paper-api.alpaca.markets:port",
    ],
)  # fmt: skip
def test_anything_else_stops_the_process(url):
    with pytest.raises(UnsafeBroker):
        endpoint("paper", url)
    assert issubclass(UnsafeBroker, UserError)  # the command ends with one line and exit code 2


@given(st.text(max_size=40))
def test_no_text_leads_elsewhere(text):
    for url in (text, f"https://{text}", f"https://{PAPER_HOST}{text}", f"https://{text}{PAPER_HOST}"):
        try:
            found = endpoint("paper", url)
        except UnsafeBroker:
            continue
        assert found.rest == PAPER


@pytest.mark.parametrize("url", ["http://127.0.0.1:8900", "http://localhost:8900/", "http://[::1]:8900"])
def test_the_exchange_on_this_machine(url):
    assert endpoint("exchange", url).rest in ("http://127.0.0.1:8900", "http://[::1]:8900")


@pytest.mark.parametrize(
    "url",
    [PAPER, "http://127.0.0.1", "https://127.0.0.1:8900", "http://10.0.0.1:8900", "http://127.0.0.1.evil.example:8900",
     "http://api.alpaca.markets:80"],
)  # fmt: skip
def test_the_exchange_is_nowhere_else(url):
    with pytest.raises(UnsafeBroker):
        endpoint("exchange", url)


def test_the_address_is_looked_at_again_for_every_order(gates):
    live = changed(gates, there=Endpoint("paper", "https://api.alpaca.markets", "wss://api.alpaca.markets/stream"))
    for order in (entry(), exit_()):
        with pytest.raises(UnsafeBroker, match=r"api\.alpaca\.markets"):
            live.check(order, NOW)
    with pytest.raises(UnsafeBroker):
        AlpacaBroker(live.there, Keys("PKX", "s"))


def test_an_exchange_is_no_paper_account(gates):
    with pytest.raises(UnsafeBroker, match="the setting says paper"):
        changed(gates, there=endpoint("exchange", "http://127.0.0.1:1"), keys=KEYS).check(entry(), NOW)


def test_a_client_that_was_bent_afterwards_sends_nothing():
    with trading() as (server, broker):
        broker._client._base_url = f"http://127.0.0.2:{server.port}"
        with pytest.raises(UnsafeBroker, match=r"127\.0\.0\.2"):
            broker.submit(entry())
        assert server.requests == []


def test_a_redirect_is_a_refusal_and_is_not_followed():
    with trading() as (server, broker):
        server.faults = once(Fault("redirect", after=False))
        with pytest.raises(UnsafeBroker, match="redirects"):
            broker.submit(entry())
        assert posts(server) == 1
        assert not server.exchange.orders


def test_proxies_of_the_environment_are_not_used(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login x password y")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy", "ws_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there: whoever obeys fails
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("APCA_API_BASE_URL", "https://api.alpaca.markets")
    with trading() as (server, broker):
        assert broker.account().status == "ACTIVE"
        assert server.requests == [("GET", "/v2/account")]


# The keys.


@pytest.mark.parametrize(
    ("kind", "key", "says"),
    [
        ("paper", "AKLIVE", "live account's"),
        ("paper", "TESTKEY", "no paper account's"),
        ("paper", "", "set ALPACA_API_KEY"),
        ("exchange", "PKREAL", "dummy keys only"),
        ("exchange", "AKREAL", "dummy keys only"),
    ],
)
def test_keys_of_the_other_kind_are_refused(kind, key, says, gates):
    with pytest.raises(UnsafeBroker, match=says) as caught:
        safety.keys(kind, key, "secret-9")
    assert "secret-9" not in str(caught.value)
    if key:
        assert key not in str(caught.value)
    if kind == "paper":
        with pytest.raises(UnsafeBroker):
            changed(gates, keys=Keys(key, "secret-9")).check(exit_(), NOW)


def test_real_keys_and_a_loopback_host_are_refused_together():
    real = {"ALPACA_API_KEY": "PKREAL", "ALPACA_SECRET_KEY": "s"}
    dummy = {"ALPACA_API_KEY": "TESTKEY", "ALPACA_SECRET_KEY": "s"}
    here = {"ALPACA_BASE_URL": "http://127.0.0.1:8900"}
    assert safety.of_environ(Params(), real)[0].rest == PAPER
    assert safety.of_environ(Params(kind="exchange"), {**dummy, **here})[0].kind == "exchange"
    for params, environ in [
        (Params(kind="exchange"), {**real, **here}), (Params(), {**real, **here}), (Params(), dummy),
        (Params(kind="exchange"), dummy), (Params(), {**real, "ALPACA_BASE_URL": "https://api.alpaca.markets"}),
    ]:  # fmt: skip
        with pytest.raises(UnsafeBroker):
            safety.of_environ(params, environ)


def test_a_broker_cannot_even_be_made_with_keys_of_the_other_kind():
    with pytest.raises(UnsafeBroker, match="dummy keys only"):
        AlpacaBroker(endpoint("exchange", "http://127.0.0.1:8900"), Keys("PKREAL", "s"))
    with pytest.raises(UnsafeBroker, match="live account's"):
        AlpacaBroker(endpoint("paper", PAPER), Keys("AKLIVE", "s"))


def test_keys_show_themselves_to_nobody():
    keys = Keys("PKSECRET", "secret-9")
    assert "SECRET" not in f"{keys} {keys!r} {[keys]}"
    with pytest.raises(TypeError, match="not written"):
        pickle.dumps(keys)
    assert keys.scrub("a secret-9 PKSECRET b") == "a *** *** b"


# Gate 2, and the master switch.


def test_a_dry_run_sends_nothing(gates):
    assert reasons(changed(gates, dry_run=True)) == (Reason.DRY_RUN, Reason.DRY_RUN)
    assert Params().dry_run


def test_the_master_switch_is_off_unless_it_is_clearly_on(gates):
    assert reasons(changed(gates, enabled=False)) == (Reason.TRADING_DISABLED, Reason.TRADING_DISABLED)
    assert [safety.trading_enabled({"TRADING_ENABLED": text}) for text in ("true", "1", "YES", " on ")] == [True] * 4
    assert not any(safety.trading_enabled({"TRADING_ENABLED": text}) for text in ("", "0", "false", "maybe", "tru"))
    assert not safety.trading_enabled({})


# Gate 3: the approval. Exits need none.


def test_no_approval(params):
    gates = Gates(params, endpoint("paper", PAPER), Keys("PKX", "s"), ACCOUNT, enabled=True)
    assert reasons(gates) == (Reason.NOT_APPROVED, None)
    assert "missing" in gates.check(entry(), NOW).message


def test_an_approval_ends_at_its_minute(gates):
    assert reasons(gates, NOW + 390 * MINUTE - 1) == (None, None)
    assert reasons(gates, NOW + 390 * MINUTE) == (Reason.NOT_APPROVED, None)
    assert reasons(gates, NOW - 1) == (Reason.NOT_APPROVED, None)


def test_an_approval_is_for_one_account(gates):
    safety.approve(gates.params, issuer="ann", account="other", scope="entries", minutes=1, now=NOW)
    assert reasons(gates) == (Reason.NOT_APPROVED, None)
    assert reasons(changed(gates, account="other")) == (Reason.NOT_APPROVED, Reason.NOT_APPROVED)  # orders of `paper`


def test_an_approval_of_exits_is_none_of_entries(gates):
    safety.approve(gates.params, issuer="ann", account=ACCOUNT, scope="exits", minutes=1, now=NOW)
    assert reasons(gates) == (Reason.NOT_APPROVED, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [("expires", NOW * 2), ("scope", "entries "), ("account", "x"), ("issuer", "eve"), ("issued", 0), ("revoked", 1)],
)
def test_an_edited_approval_is_refused(gates, params, field, value):
    path = safety.Path(params.approval_file)
    edited = json.loads(path.read_bytes())
    edited["approval"][field] = value
    path.write_text(json.dumps(edited))
    assert reasons(gates) == (Reason.NOT_APPROVED, None)


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", '{"approval": 1, "signature": ""}', "\udcff"])
def test_a_file_that_is_no_approval_is_refused(gates, params, text):
    safety.Path(params.approval_file).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert reasons(gates) == (Reason.NOT_APPROVED, None)


def test_an_approval_signed_elsewhere_is_refused(gates, params, tmp_path):
    other = msgspec.structs.replace(params, approval_key_file=str(tmp_path / "other"))
    safety.approve(other, issuer="eve", account=ACCOUNT, scope="entries", minutes=1, now=NOW)
    assert reasons(gates) == (Reason.NOT_APPROVED, None)


def test_a_revocation_acts_before_the_next_order(gates, params):
    assert reasons(gates) == (None, None)
    copy = safety.Path(params.approval_file).read_bytes()
    safety.revoke(params, issuer="bob", now=NOW + 1)
    assert reasons(gates, NOW + 2) == (Reason.REVOKED, None)
    assert "bob" in gates.check(entry(), NOW + 2).message
    safety.Path(params.approval_file).write_bytes(copy)  # an old approval put back
    assert reasons(gates, NOW + 2) == (Reason.NOT_APPROVED, None)
    safety.approve(params, issuer="ann", account=ACCOUNT, scope="entries", minutes=1, now=NOW + 3)
    assert reasons(gates, NOW + 4) == (None, None)


def test_a_revocation_needs_no_approval_before_it(params):
    safety.revoke(params, issuer="bob", now=NOW)
    assert safety.approval_gate(params, ACCOUNT, NOW)[0] is Reason.REVOKED


def test_the_key_is_its_owners_alone(gates, params):
    path = safety.Path(params.approval_key_file)
    assert path.stat().st_mode & 0o777 == 0o600
    assert safety.Path(params.approval_file).stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert reasons(gates) == (Reason.NOT_APPROVED, None)
    with pytest.raises(UserError, match="others may read"):
        safety.approve(params, issuer="a", account="b", scope="entries", minutes=1, now=NOW)
    path.chmod(0o600)
    assert reasons(gates) == (None, None)
    path.rename(path.with_name("real"))
    path.symlink_to(path.with_name("real"))
    assert reasons(gates) == (Reason.NOT_APPROVED, None)
    path.unlink()
    path.write_bytes(b"short")
    path.chmod(0o600)
    assert reasons(gates) == (Reason.NOT_APPROVED, None)
    safety.revoke(params, issuer="a", now=NOW)
    safety.approve(params, issuer="a", account=ACCOUNT, scope="entries", minutes=1, now=NOW)
    assert reasons(gates) == (None, None)


def test_a_key_of_another_user_is_refused(gates, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    assert reasons(gates) == (Reason.NOT_APPROVED, None)


@pytest.mark.parametrize(
    "wrong",
    [{"minutes": 0}, {"minutes": 1_441}, {"scope": "everything"}, {"issuer": " "}, {"account": ""}, {"account": "a|b"}],
)
def test_an_approval_that_makes_no_sense_is_not_written(params, wrong):
    given = {"issuer": "ann", "account": ACCOUNT, "scope": "entries", "minutes": 1, "now": NOW, **wrong}
    with pytest.raises(UserError):
        safety.approve(params, **given)
    assert not safety.Path(params.approval_file).exists()


def test_all_shut_gates_are_named_at_once(params):
    gates = Gates(Params(approval_file=params.approval_file), endpoint("paper", PAPER), Keys("PKX", "s"), ACCOUNT,
                  enabled=False)  # fmt: skip
    assert [reason for reason, _ in gates.shut(NOW)] == [Reason.TRADING_DISABLED, Reason.DRY_RUN, Reason.NOT_APPROVED]
