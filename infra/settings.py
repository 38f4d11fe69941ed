"""settings.toml, `--set` and the environment -> one frozen Settings; defaults stand in each Params.

What is given later wins: defaults, profile, file, environment (`RULES__MAX_SHARES=50`), `--set
rules.max_shares=50`. Tables are merged key by key. Every mistake is a UserError of one line.
`python -m infra.settings` writes settings.toml anew from the defaults and the comments in the sources.
"""

import ast
import difflib
import hashlib
import inspect
import io
import math
import os
import tokenize
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec import inspect as types

from broker.guard import Params as Guard
from broker.intervals import Params as Execution
from broker.safety import Params as Broker
from models.training import Params as Training
from operators.alphas import ALPHAS
from operators.clean import Params as Clean
from operators.ensemble import Params as Ensemble
from operators.features import Params as Features
from operators.filters import Params as Filters
from operators.forecast import Params as Forecast
from operators.regime import Params as Regime
from risk.limits import Exits, Halts, Rules, Venue, limits
from risk.limits import Params as Account
from schemas.calendar import TIMEFRAMES
from schemas.errors import UserError

Tap = Literal["market.engineered", "predictions.tft", "alpha.signals"]


class Run(Struct, frozen=True, forbid_unknown_fields=True):
    """How a run is cut and what is kept; none of it changes a decision."""

    account: str = "backtest"  # part of every order id
    timeframe: str = "auto"
    frame_slices: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  # slices in a frame; 0 chooses
    run_ahead: Annotated[int, Meta(ge=1, le=1_000)] = 2  # chunks of bars that are read before steps are done with them


class Ingest(Struct, frozen=True, forbid_unknown_fields=True):
    """What `dataflows.ingest` reads and when it closes a slice."""

    source: str = "synthetic:symbols=20,days=5,seed=7"  # a bar file, a folder, or a synthetic market
    speed: Annotated[float, Meta(ge=0.0, le=1_000_000.0)] = 60.0  # times real time; 0: as fast as it goes
    symbols: list[str] = []  # the universe; empty: the source's
    # Files beside the bars, as utp backtest takes them (docs/data.md); what they say goes into market.slices
    quotes: str = ""
    earnings: str = ""
    actions: str = ""
    volumes: str = ""
    wait_for_all: bool = True  # a slice with all symbols closes at once; otherwise each waits for the grace
    grace_seconds: Annotated[float, Meta(ge=0.0, le=50.0)] = 5.0  # after its end a slice waits so long, at most
    seed: int = 0  # of the disorder that a played source is given:
    jitter_seconds: Annotated[float, Meta(ge=0.0, le=50.0)] = 0.0  # bars come up to so much after their slice
    late: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0  # share of the bars that come after the grace
    missing: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0  # share of the bars that never come
    repeated: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0  # share of the bars that come twice


class Live(Struct, frozen=True, forbid_unknown_fields=True):
    """How `dataflows.live` runs; only `missing_data` changes a decision."""

    timeframe: str = "1m"  # of the slices, for ingest too
    ahead_slices: Annotated[int, Meta(ge=1, le=100_000)] = 120  # a partition may be ahead of the barrier
    folder: str = "var"  # snapshots and results by session are kept below
    # filters.missing_data of decisions from the log: refuse means that a filter without any source lets nothing in
    missing_data: Literal["off", "refuse"] = "refuse"
    # what else decide writes, for others: market.engineered (each bar's features), predictions.tft, alpha.signals
    taps: list[Tap] = msgspec.field(default_factory=lambda: ["predictions.tft", "alpha.signals"])


class Reference(Struct, frozen=True, forbid_unknown_fields=True):
    """How long what stands beside the bars is good for; see docs/data.md."""

    quote_age_bars: Annotated[float, Meta(gt=0.0, le=10_000)] = 1.0  # oldest quote of a bar, in bar lengths
    earnings_notice_days: Annotated[int, Meta(ge=0, le=400)] = 14  # a date without known_from is known so long before
    earnings_stale_days: Annotated[int, Meta(ge=1, le=4_000)] = 120  # after the last report known, nothing is known


class Cash(Struct, frozen=True, forbid_unknown_fields=True):
    """What the account starts with."""

    initial_cash_usd: Annotated[float, Meta(gt=0.0, le=1_000_000_000)] = 100_000.0


# One section per registered alpha, with its own Params.
Alphas = msgspec.defstruct(
    "Alphas",
    [(name, alpha.Params, alpha.Params()) for name, alpha in ALPHAS.items()],
    frozen=True,
    forbid_unknown_fields=True,
    module=__name__,
)


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set, by section."""

    run: Run = Run()
    ingest: Ingest = Ingest()
    live: Live = Live()
    reference: Reference = Reference()
    cash: Cash = Cash()
    clean: Clean = Clean()
    features: Features = Features()
    alphas: Alphas = Alphas()  # type: ignore[valid-type]  # built from the registry
    regime: Regime = Regime()
    forecast: Forecast = Forecast()
    ensemble: Ensemble = Ensemble()
    filters: Filters = Filters()
    rules: Rules = Rules()
    exits: Exits = Exits()
    halts: Halts = Halts()
    venue: Venue = Venue()
    broker: Broker = Broker()
    guard: Guard = Guard()
    execution: Execution = Execution()
    training: Training = Training()

    def __post_init__(self) -> None:
        for name in self.ensemble.weights:
            if name not in ALPHAS:
                nearest = difflib.get_close_matches(name, ALPHAS, 1, 0.0)[0]
                raise ValueError(f"ensemble.weights.{name}: there is no such alpha; did you mean {nearest}?")
        if self.ensemble.require_forecast and self.forecast.model == "none":
            raise ValueError("ensemble.require_forecast = true, forecast.model = none: nothing would trade")
        if self.forecast.model == "none" and sum(self.ensemble.weights.values()) <= 0.0:
            raise ValueError(f"ensemble.weights = {self.ensemble.weights}, forecast.model = none: nobody would vote")
        for name in self.ensemble.return_floors:
            if name not in TIMEFRAMES:
                raise ValueError(f"ensemble.return_floors.{name}: want one of {', '.join(TIMEFRAMES)}")

    @property
    def account(self) -> Account:
        """The account's share of it."""
        return Account(self.run.account, self.cash.initial_cash_usd, self.rules, self.exits, self.halts, self.venue)


PROFILES: dict[str, dict[str, Any]] = {
    # Every signal gets its chance: throttles, caps and cooldown lifted, a lower gate, and cash enough for all.
    "research": {
        "ensemble": {"decision_gate": 0.60},
        "cash": {"initial_cash_usd": 10_000_000.0},
        "rules": {
            "max_total_exposure_usd": 1_000_000_000.0,
            "max_symbol_exposure_usd": 10_000_000.0,
            "max_orders_per_minute": 1_000_000,
            "max_orders_per_symbol_per_day": 1_000_000,
            "max_open_orders": 1_000_000,
            "cooldown_seconds": 0,
            "max_sector_pct": 1.0,
            "max_correlation": 1.0,
            "max_cvar_pct": 1.0,
        },
        "halts": {"slippage_guard_minutes": 0},
    },
}

_Key = tuple[str, ...]


def load(
    path: Path | None,
    sets: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    *,
    profile: str | None = None,
    log: bool = False,
) -> Settings:
    """Settings from all their places; `environ` is the process's own unless given.

    `log`: for decisions from the log. What is given and would not be heeded there is refused.
    """
    tree: dict[str, Any] = msgspec.to_builtins(Settings())
    origin: dict[_Key, str] = {}
    root = types.type_info(Settings)
    layers = [
        *_of_profile(profile),
        *_of_file(path),
        *_of_environ(os.environ if environ is None else environ, root),
        *(_of_set(text, root) for text in sets),
    ]
    for name, layer in layers:
        for key, value in _leaves(layer):
            _refuse_unknown(key, value, name, root)
            if value != {}:  # an empty table changes nothing
                _put(tree, key, value)
                origin[key] = name
    settings = _converted(tree, origin, root)
    if log:
        _refuse_unheeded(settings, origin)
    try:
        limits(settings.account)
    except ValueError as error:
        raise UserError(str(error)) from error
    return settings


def _refuse_unheeded(settings: Settings, origin: Mapping[_Key, str]) -> None:
    """A UserError where filters.missing_data is given in vain; a file that lists both settings may well list it."""
    place, other = origin.get(("filters", "missing_data")), origin.get(("live", "missing_data"))
    given, heeded = settings.filters.missing_data, settings.live.missing_data
    if place is None or given == heeded or (place == other and place != "--set"):
        return
    raise UserError(f"filters.missing_data = {given} ({place}) is of no effect on decisions from the log: give "
                    f"live.missing_data = {given} instead, which is {heeded}")  # fmt: skip


def of_log(settings: Settings) -> Settings:
    """The settings of decisions from the log: a filter without any source lets nothing in, unless that is wanted."""
    filters = msgspec.structs.replace(settings.filters, missing_data=settings.live.missing_data)
    return msgspec.structs.replace(settings, filters=filters)


def describe(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, sections and keys in alphabetical order."""
    plain: dict[str, Any] = msgspec.json.decode(_canonical(settings))
    return plain


def settings_of(described: Mapping[str, Any]) -> Settings:
    """The settings that `describe` described, as a run's summary keeps them."""
    return msgspec.convert(described, Settings)


def settings_hash(settings: Settings) -> str:
    """Sixteen hexadecimal digits that change with any value."""
    return hashlib.sha256(_canonical(settings)).hexdigest()[:16]


def _canonical(settings: Settings) -> bytes:
    return msgspec.json.encode(settings, order="sorted")


# Where values come from: each gives (name of the place, nested values).


def _of_profile(profile: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if profile is None:
        return
    if profile not in PROFILES:
        raise UserError(f"profile {profile}: want one of {', '.join(PROFILES)}")
    yield f"profile {profile}", PROFILES[profile]


def _of_file(path: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if path is None:
        return
    try:
        yield str(path), tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"settings file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"settings file {path}: not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"settings file {path}: {error}") from error


def _of_environ(environ: Mapping[str, str], root: types.Type) -> Iterator[tuple[str, dict[str, Any]]]:
    """Upper-case names that begin with a section; all others are somebody else's."""
    for name in sorted(environ):
        key = tuple(name.lower().split("__"))
        if name == name.upper() and len(key) > 1 and key[0] in _children(root):
            yield f"environment {name}", _nested(key, _value(environ[name], _type_at(root, key)))


def _of_set(text: str, root: types.Type) -> tuple[str, dict[str, Any]]:
    name, equals, value = text.partition("=")
    key = tuple(part.strip() for part in name.split("."))
    if not equals or not all(key):
        raise UserError(f"--set {text}: want section.key=value")
    return "--set", _nested(key, _value(value, _type_at(root, key)))


def _value(text: str, wanted: types.Type | None) -> Any:
    """A TOML value; a bare word, and anything where text is wanted, is a string."""
    try:
        (value,) = tomllib.loads(f"value = {text}").values()
    except ValueError:  # not TOML, or several lines of it
        return text.strip()
    textual = isinstance(wanted, types.StrType | types.LiteralType)
    return text.strip() if textual and not isinstance(value, str) else value


# The tree of values.


def _nested(key: _Key, value: Any) -> dict[str, Any]:
    for part in reversed(key):
        value = {part: value}
    tree: dict[str, Any] = value
    return tree


def _leaves(tree: Mapping[str, Any], above: _Key = ()) -> Iterator[tuple[_Key, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _put(tree: dict[str, Any], key: _Key, value: Any) -> None:
    for part in key[:-1]:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[key[-1]] = value


def _get(tree: Any, key: _Key) -> Any:
    for part in key:
        tree = tree[part]
    return tree


# The tree of types.


def _plain(kind: types.Type | None) -> types.Type | None:
    """Without metadata and without an `| None`."""
    while isinstance(kind, types.Metadata):
        kind = kind.type
    if isinstance(kind, types.UnionType):
        some = [one for one in kind.types if not isinstance(one, types.NoneType)]
        return _plain(some[0]) if len(some) == 1 else kind
    return kind


def _children(kind: types.Type | None) -> dict[str, types.Type]:
    kind = _plain(kind)
    return {field.name: field.type for field in kind.fields} if isinstance(kind, types.StructType) else {}


def _type_at(root: types.Type, key: _Key) -> types.Type | None:
    """The type of a setting, None where there is no such setting."""
    kind = _plain(root)
    for part in key:
        kind = _plain(kind.value_type if isinstance(kind, types.DictType) else _children(kind).get(part))
    return kind


def _names(kind: types.Type, above: _Key = ()) -> Iterator[_Key]:
    for name, child in _children(kind).items():
        yield (*above, name)
        yield from _names(child, (*above, name))


def _refuse_unknown(key: _Key, value: Any, place: str, root: types.Type) -> None:
    for depth in range(1, len(key) + 1):
        if _type_at(root, key[:depth]) is not None:
            continue
        if depth > 1 and not isinstance(_type_at(root, key[: depth - 1]), types.StructType):
            raise UserError(f"{_dotted(key[: depth - 1])} is one value, it has no {key[depth - 1]} ({place})")
        what = "section" if depth == 1 and (len(key) > 1 or value == {}) else "setting"
        nearest = _nearest(key[:depth] if what == "section" else key, root)
        raise UserError(f"{_dotted(key[:depth])}: no such {what}; the nearest is {nearest} ({place})")


def _nearest(key: _Key, root: types.Type) -> str:
    """The most similar name: this word in another section, else beside it, else in its section, else anywhere."""
    names = list(_names(root))
    beside = [_dotted(name) for name in names if name[:-1] == key[:-1]]
    same_word = [_dotted(name) for name in names if name[-1] == key[-1]]
    everything = [_dotted(name) for name in names]
    in_section = beside if len(key) > 1 else []  # a section is no remedy for a setting of it
    for choices, cutoff in ((same_word, 0.0), (beside, 0.6), (in_section, 0.0), (everything, 0.0)):
        found = difflib.get_close_matches(_dotted(key), choices, 1, cutoff)
        if found:
            return found[0]
    return everything[0]


def _dotted(key: _Key) -> str:
    return ".".join(key)


# The values' check, in words.


def _converted(tree: dict[str, Any], origin: dict[_Key, str], root: types.Type) -> Settings:
    for key, value in _leaves(tree):
        if isinstance(value, float) and not math.isfinite(value):
            raise _wrong(key, value, "want a finite number", origin)
    try:
        return msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        message, below, path = str(error).partition(" - at `$.")
        if not below:
            raise UserError(message) from error
        key = tuple(path.partition("[")[0].rstrip("`").split("."))
        kind = _type_at(root, key)
        value = _get(tree, key)
        if isinstance(kind, types.StructType) and isinstance(value, dict):  # two settings that do not go together
            raise UserError(f"{_dotted(key)}: {message.strip()}{_from(key, origin)}") from error
        raise _wrong(key, value, f"want {_wanted(kind)}", origin) from error


def _wrong(key: _Key, value: Any, message: str, origin: dict[_Key, str]) -> UserError:
    shown = msgspec.json.encode(value, enc_hook=str).decode() if not isinstance(value, float) else repr(value)
    return UserError(f"{_dotted(key)} = {shown}: {message}{_from(key, origin)}")


def _from(key: _Key, origin: dict[_Key, str]) -> str:
    """The place that has set this, or something in it."""
    places = [place for k, place in origin.items() if k[: len(key)] == key or key[: len(k)] == k]
    return f" ({places[-1]})" if places else ""


def _wanted(kind: types.Type | None) -> str:
    """What a value has to be: `a whole number from 1 to 1000000`."""
    kind = _plain(kind)
    match kind:
        case types.BoolType():
            return "true or false"
        case types.IntType():
            return " ".join(["a whole number", *_range(kind)])
        case types.FloatType():
            return " ".join(["a number", *_range(kind)])
        case types.StrType():
            return "text"
        case types.LiteralType():
            return " or ".join(map(str, kind.values))
        case types.DictType():
            return f"a table, each value {_wanted(kind.value_type)}"
        case types.VarTupleType() | types.ListType():
            return f"a list, each {_wanted(kind.item_type)}"
        case types.StructType():
            return f"a section with {', '.join(_children(kind))}"
    return "another type of value"


def _range(kind: types.IntType | types.FloatType) -> Iterator[str]:
    if kind.ge is not None and kind.le is not None:
        yield f"from {_number(kind.ge)} to {_number(kind.le)}"
        return
    bounds = (("over", kind.gt), ("at least", kind.ge), ("below", kind.lt), ("at most", kind.le))
    parts = [f"{word} {_number(bound)}" for word, bound in bounds if bound is not None]
    if parts:
        yield " and ".join(parts)


def _number(bound: float) -> str:
    return f"{int(bound):_}" if bound == int(bound) else repr(bound)


# settings.toml, written from the sources.


def document() -> str:
    """The text of settings.toml: every setting at its default, with what the sources say about it."""
    heading = (
        "# Every setting at its default; the sources' own words and the values that are allowed. A file for",
        "# `--settings` needs only what differs. Written by `python -m infra.settings`: change the sources.",
    )
    root = types.type_info(Settings)
    lines = [*heading]
    defaults = msgspec.to_builtins(Settings())
    for name, kind in _children(root).items():
        lines += _section((name,), kind, defaults[name])
    return "\n".join(lines) + "\n"


def _section(key: _Key, kind: types.Type, values: dict[str, Any]) -> Iterator[str]:
    """One struct, its plain keys before its tables, as TOML wants it."""
    kind = _plain(kind) or kind
    notes: dict[str, list[str]] = {}
    if not all(isinstance(value, dict) for value in values.values()):
        yield ""
        if isinstance(kind, types.StructType):
            notes = _notes(kind.cls)
            yield from (f"# {line}".rstrip() for line in inspect.cleandoc(kind.cls.__doc__ or "").splitlines())
        yield f"[{_dotted(key)}]"
    for name, value in values.items():
        child = _type_at(kind, (name,))
        if isinstance(value, dict):
            continue
        before, beside = notes.get(name, []), ""
        if before:
            *above, last = before
            yield from (f"# {line}" for line in above)
            beside = f"{last}; " if last else ""
        wanted = _wanted(child)
        if value is None:
            yield f"# {name} =  # {beside}not set; {wanted}"
        else:
            yield f"{name} = {_toml(value)}  # {beside}{wanted}"
    for name, value in values.items():
        if isinstance(value, dict):
            child = _type_at(kind, (name,))
            first, *rest = _section((*key, name), child or kind, value)
            yield first
            yield from (f"# {line}" for line in notes.get(name, []) if line)
            yield from rest


def _notes(cls: type) -> dict[str, list[str]]:
    """Comments by field, those of the lines above it first, its trailing one (or "") last."""
    try:
        source = inspect.getsource(cls)
    except OSError:  # a class that was put together by code
        return {}
    lines = source.splitlines()
    comments = {
        token.start[0]: (
            token.string.lstrip("# ").rstrip(),
            lines[token.start[0] - 1].lstrip().startswith("#"),
        )
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    notes: dict[str, list[str]] = {}
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.ClassDef)  # noqa: S101  (the source of a class)
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above: list[str] = []
            line = node.lineno - 1
            while line in comments and comments[line][1]:
                above.insert(0, comments[line][0])
                line -= 1
            beside = comments.get(node.end_lineno or node.lineno, ("", True))
            notes[node.target.id] = [*above, "" if beside[1] else beside[0]]
    return notes


def _toml(value: Any) -> str:
    """A plain value as TOML; the text of a JSON string is a TOML string too."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    return repr(value)


if __name__ == "__main__":
    # Under its own name, so that types are not those of `__main__`.
    from infra import settings as module

    target = Path(module.__file__).resolve().parent.parent / "settings.toml"
    target.write_text(module.document(), encoding="utf-8")
    print(target)
