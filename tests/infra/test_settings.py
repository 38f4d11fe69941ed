import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from infra import settings as module
from infra.settings import Settings, describe, document, load, settings_hash
from schemas.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def mistake(**given):
    with pytest.raises(UserError) as caught:
        load(given.get("path"), given.get("sets", ()), given.get("environ", {}), profile=given.get("profile"))
    message = str(caught.value)
    assert "\n" not in message
    return message


def file(folder, text):
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def test_nothing_given_means_the_defaults():
    assert load(None, (), {}) == Settings()


def test_what_is_given_later_wins(tmp_path):
    path = file(tmp_path, "[rules]\nmax_shares = 2\nmax_open_orders = 3\ncooldown_seconds = 4\n")
    environ = {
        "RULES__MAX_OPEN_ORDERS": "30",
        "RULES__COOLDOWN_SECONDS": "40",
        "PATH": "/bin",
        "OTHER__X": "1",
    }
    rules = load(path, ["rules.cooldown_seconds=400"], environ, profile="research").rules
    assert (rules.max_shares, rules.max_open_orders, rules.cooldown_seconds) == (2, 30, 400)
    assert rules.max_orders_per_minute == 1_000_000  # the profile's
    assert rules.min_confidence == Settings().rules.min_confidence


def test_the_research_profile_lifts_the_throttles():
    settings = load(None, (), {}, profile="research")
    assert settings.cash.initial_cash_usd == 10_000_000.0
    assert settings.rules.cooldown_seconds == 0
    assert settings.rules.max_notional_usd == Settings().rules.max_notional_usd


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("run.account=paper", "run", "account", "paper"),
        ("run.account=123", "run", "account", "123"),
        ('run.account="a b"', "run", "account", "a b"),
        ("run.timeframe=1d", "run", "timeframe", "1d"),
        ("exits.end_of_day=false", "exits", "end_of_day", False),
        ("rules.max_shares=1_000", "rules", "max_shares", 1000),
        ("rules.max_notional_usd=500", "rules", "max_notional_usd", 500.0),
        ("halts.latch_reset=never", "halts", "latch_reset", "never"),
        (" venue.slippage_bps = 7 ", "venue", "slippage_bps", 7),
    ],
)
def test_a_set_is_read_as_toml_and_a_bare_word_as_text(text, section, key, value):
    assert getattr(getattr(load(None, [text], {}), section), key) == value


def test_an_empty_section_changes_nothing(tmp_path):
    path = file(tmp_path, "[rules]\n[cash]\n")
    assert load(path, (), {}, profile="research") == load(None, (), {}, profile="research")


WRONG_SETS = {
    "rules.max_shares=0": "rules.max_shares = 0: want a whole number from 1 to 1_000_000",
    "exits.stop_loss_pct=1.0": "exits.stop_loss_pct = 1.0: want a number over 0 and below 1",
    "rules.max_notional_usd=nan": "rules.max_notional_usd = nan: want a finite number",
    "exits.end_of_day=1": "exits.end_of_day = 1: want true or false",
    "halts.latch_reset=sometimes": 'halts.latch_reset = "sometimes": want never or next_session',
    "rules.max_share=3": "rules.max_share: no such setting; the nearest is rules.max_shares",
    "max_shares=3": "max_shares: no such setting; the nearest is rules.max_shares",
    "exits.max_shares=3": "exits.max_shares: no such setting; the nearest is rules.max_shares",
    "rulez.max_shares=3": "rulez: no such section; the nearest is rules",
    "exits.nope=1": "exits.nope: no such setting; the nearest is exits.trailing_pct",
    "rules.max_shares.x=3": "rules.max_shares is one value, it has no x",
    "cash=3": "cash = 3: want a section with initial_cash_usd",
}


@pytest.mark.parametrize(("text", "message"), WRONG_SETS.items())
def test_a_mistake_names_the_value_and_the_remedy(text, message):
    assert mistake(sets=[text]) == f"{message} (--set)"


@pytest.mark.parametrize("text", ["rules.max_shares", "=3", "rules.=3", ""])
def test_a_set_without_its_parts_is_refused(text):
    assert mistake(sets=[text]) == f"--set {text}: want section.key=value"


def test_a_mistake_in_the_environment_names_the_variable():
    message = 'rules.max_shares = "many": want a whole number from 1 to 1_000_000'
    assert mistake(environ={"RULES__MAX_SHARES": "many"}) == f"{message} (environment RULES__MAX_SHARES)"
    message = "cash.initial: no such setting; the nearest is cash.initial_cash_usd"
    assert mistake(environ={"CASH__INITIAL": "3"}) == f"{message} (environment CASH__INITIAL)"


def test_what_is_not_heeded_in_the_log_is_refused(tmp_path):
    """Of decisions from the log live.missing_data decides; whoever gives the other one means to be obeyed."""
    both, one = tmp_path / "both.toml", tmp_path / "one.toml"
    both.write_text('[filters]\nmissing_data = "off"\n[live]\nmissing_data = "refuse"\n')
    one.write_text('[filters]\nmissing_data = "off"\n')
    told = r"filters.missing_data = off \({}\) .* give live.missing_data = off instead, which is refuse"
    own = "filters.missing_data=off"
    with pytest.raises(UserError, match=told.format("--set")):
        load(None, [own], environ={}, log=True)
    with pytest.raises(UserError, match=told.format("--set")):
        load(both, [own, "live.missing_data=refuse"], environ={}, log=True)
    with pytest.raises(UserError, match=told.format("environment FILTERS__MISSING_DATA")):
        load(None, [], environ={"FILTERS__MISSING_DATA": "off"}, log=True)
    with pytest.raises(UserError, match=told.format(".*one.toml")):
        load(one, [], environ={}, log=True)
    assert load(both, [], environ={}, log=True) == load(None, [], environ={}, log=True)  # as settings.toml lists both
    assert load(None, [own, "live.missing_data=off"], environ={}, log=True).live.missing_data == "off"
    assert load(None, [own], environ={}).filters.missing_data == "off"


def test_an_unknown_profile_is_refused():
    assert mistake(profile="reserch") == "profile reserch: want one of research"


def test_a_fraction_finer_than_the_account_counts_in_is_refused():
    assert "rules.max_position_pct = 1e-05" in mistake(sets=["rules.max_position_pct=0.00001"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[rules]\nmax_shares = 1\nmax_shares = 2\n", "line 3"),
        ("[rules]\nmax_shares = 1\n[rules]\n", "Cannot declare ('rules',) twice (at line 3"),
        ("rules\n", "line 1"),
        ("[rulez]\nmax_shares = 1\n", "rulez: no such section; the nearest is rules"),
        ("[rulez]\n", "rulez: no such section; the nearest is rules"),
        ("[rules]\nmax_shares = '1'\n", 'rules.max_shares = "1": want a whole number'),
        ("[rules]\nmax_shares = 2024-01-02\n", 'rules.max_shares = "2024-01-02": want a whole number'),
    ],
)
def test_a_mistake_in_the_file_names_the_file(tmp_path, text, part):
    message = mistake(path=file(tmp_path, text))
    assert part in message
    assert str(tmp_path) in message


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    assert mistake(path=tmp_path / "none.toml").endswith("none.toml: No such file or directory")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in mistake(path=tmp_path / "bytes.toml")


def test_the_hash_changes_with_a_value_and_with_nothing_else(tmp_path):
    same = load(file(tmp_path, "[rules]\nmax_notional_usd = 1000\n"), (), {})
    other = load(None, ["rules.max_notional_usd=1000.01"], {})
    assert settings_hash(same) == settings_hash(Settings())
    assert settings_hash(other) != settings_hash(Settings())
    assert len(settings_hash(other)) == 16


def test_the_description_is_whole_and_can_be_loaded_again():
    settings = load(None, (), {}, profile="research")
    assert msgspec.convert(describe(settings), Settings) == settings
    assert list(describe(settings)) == sorted(describe(settings))


# settings.toml


def test_the_committed_file_is_the_generated_one_and_equals_the_defaults():
    text = (ROOT / "settings.toml").read_text()
    assert text == document(), "run: python -m infra.settings"
    assert load(ROOT / "settings.toml", (), {}) == Settings()


def test_the_file_lists_every_key_with_a_comment():
    text = document()
    stated = tomllib.loads(text)
    for section, values in msgspec.json.decode(msgspec.json.encode(Settings())).items():  # lists for tuples, as in TOML
        for key, value in values.items():
            if value is not None:
                assert stated[section][key] == value
            if not isinstance(value, dict):
                line = next(line for line in text.splitlines() if line.lstrip("# ").startswith(f"{key} ="))
                assert " # " in line


# Sections of other shapes: tables, lists, nested structs.


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    """Deep."""

    # told above
    # in two lines
    depth: Annotated[int, Meta(ge=1)] = 1  # and beside


class Outer(Struct, frozen=True, forbid_unknown_fields=True):
    """Weights and more."""

    weights: dict[str, Annotated[float, Meta(ge=0.0)]] = msgspec.field(
        default_factory=lambda: {"rsi": 0.5, "macd": 0.5}
    )
    names: tuple[str, ...] = ("rsi", "macd")
    limit: Annotated[int, Meta(ge=0)] | None = None  # no limit unless given
    inner: Inner = Inner()
    mode: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.mode == "b" and self.limit is None:
            raise ValueError("mode b wants a limit")


class Wider(Settings, frozen=True, forbid_unknown_fields=True):
    """More sections."""

    outer: Outer = Outer()


@pytest.fixture
def wider(monkeypatch):
    monkeypatch.setattr(module, "Settings", Wider)


@pytest.mark.usefixtures("wider")
def test_tables_are_merged_key_by_key():
    given = load(None, ["outer.weights.rsi=0.3", "outer.inner.depth=4"], {"OUTER__WEIGHTS__NEW": "2"})
    assert given.outer.weights == {"rsi": 0.3, "macd": 0.5, "new": 2.0}
    assert given.outer.inner.depth == 4


@pytest.mark.usefixtures("wider")
def test_mistakes_in_deep_places_are_named_too():
    assert "outer.weights = " in mistake(sets=["outer.weights.rsi=high"])
    assert "outer.names = [1]: want a list, each text" in mistake(sets=["outer.names=[1]"])
    assert mistake(sets=["outer.mode=b"]) == "outer: mode b wants a limit (--set)"
    assert mistake(sets=["outer.limit=-1"]) == "outer.limit = -1: want a whole number at least 0 (--set)"
    assert "nearest is outer.inner.depth" in mistake(sets=["outer.inner.dept=1"])
    assert "no such setting" in mistake(environ={"OUTER__INNER__X__Y": "1"})


@pytest.mark.usefixtures("wider")
def test_the_document_holds_tables_lists_and_what_is_not_set(tmp_path):
    text = document()
    assert load(file(tmp_path, text), (), {}) == Wider()
    assert "# told above\n# in two lines\ndepth = 1  # and beside; a whole number at least 1\n" in text
    assert "# limit =  # no limit unless given; not set; a whole number at least 0\n" in text
    assert "[outer.weights]\n" in text


@given(shares=st.integers(1, 1_000_000), notional=st.floats(0, 1e9).map(lambda x: round(x, 2)), day=st.booleans())
def test_what_is_written_is_what_is_read(shares, notional, day):
    sets = [
        f"rules.max_shares={shares}",
        f"rules.max_notional_usd={notional!r}",
        f"exits.end_of_day={str(day).lower()}",
    ]
    settings = load(None, sets, {})
    assert (settings.rules.max_shares, settings.rules.max_notional_usd, settings.exits.end_of_day) == (
        shares, notional, day,
    )  # fmt: skip
