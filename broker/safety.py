"""The gates before every order: the paper host, no dry run, a human's approval, and the master switch.

Paper only, and not by a flag that could be set wrong: there is one address, a constant, and a setting can
only agree with it. The test exchange on this machine is another kind of broker with dummy keys, and neither
kind takes the other's keys. What reduces a position needs no approval; nothing at all goes out in a dry run.
"""

import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, NoReturn
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from broker.port import OrderRequest, Refusal
from schemas.errors import UserError
from schemas.events import Reason
from schemas.units import NS_PER_MINUTE, NS_PER_SECOND

PAPER_HOST = "paper-api.alpaca.markets"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
SCOPES = ("entries", "exits")
DUMMY = "TEST"  # how the key of a loopback broker begins
MAX_MINUTES = 1_440


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """What stands between an order and the broker; keys and TRADING_ENABLED come from the environment alone."""

    # paper: Alpaca's paper host. exchange: the test exchange on this machine (utp exchange)
    kind: Literal["paper", "exchange"] = "paper"
    dry_run: bool = True  # nothing is sent
    approval_file: str = ".tmp/APPROVE_EXECUTION"  # written by utp approve
    approval_key_file: str = "~/.config/utp/approval.key"  # signs it; made at first use, for the owner's eyes only
    timeout_seconds: Annotated[float, Meta(gt=0.0, le=300.0)] = 30.0  # of one call
    entry_seconds: Annotated[float, Meta(gt=0.0, le=3_600.0)] = 30.0  # an entry not placed by then is given up
    exit_seconds: Annotated[float, Meta(gt=0.0, le=3_600.0)] = 300.0  # an exit
    queue: Annotated[int, Meta(ge=1, le=100_000)] = 256  # entries waiting to be sent; exits are always taken


class UnsafeBroker(UserError):  # noqa: N818
    """An address or key that must never be used for trading: the process stops."""


class Endpoint(NamedTuple):
    """Where a broker is. Made by `endpoint` alone, so that whoever holds one holds an allowed address."""

    kind: str
    rest: str
    stream: str


class Keys:
    """A key and its secret; neither can be printed, pickled or compared with other than itself."""

    __slots__ = ("key_id", "secret")

    def __init__(self, key_id: str, secret: str):
        self.key_id = key_id
        self.secret = secret

    def __repr__(self) -> str:
        return "Keys(hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not written anywhere")

    def scrub(self, text: str) -> str:
        """The text without key and secret."""
        for word in (self.secret, self.key_id):
            if word:
                text = text.replace(word, "***")
        return text


def endpoint(kind: str, url: str) -> Endpoint:
    """The broker's address: what the setting says, if that is allowed, in one canonical form."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise UnsafeBroker("broker address: not a URL") from error
    host = (parts.hostname or "").lower()
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment or "\\" in url:
        raise UnsafeBroker(
            f"broker address {_shown(parts.scheme, host, port)}: want scheme, host and port, nothing more"
        )
    if kind == "paper":
        if parts.scheme.lower() != "https" or host != PAPER_HOST or port not in (None, 443):
            raise UnsafeBroker(
                f"broker address {_shown(parts.scheme, host, port)}: orders go to https://{PAPER_HOST} and nowhere else"
            )
        return Endpoint(kind, f"https://{PAPER_HOST}", f"wss://{PAPER_HOST}/stream")
    if kind == "exchange":
        if parts.scheme.lower() != "http" or host not in LOOPBACK or port is None:
            raise UnsafeBroker(
                f"broker address {_shown(parts.scheme, host, port)}: the test exchange is at http://127.0.0.1:PORT"
            )
        address = f"[::1]:{port}" if host == "::1" else f"127.0.0.1:{port}"  # a name could lead elsewhere
        return Endpoint(kind, f"http://{address}", f"ws://{address}/stream")
    raise UnsafeBroker(f"broker kind {kind}: want paper or exchange")


def keys(kind: str, key_id: str, secret: str) -> Keys:
    """Keys that fit the kind of broker: paper keys begin with PK, the test exchange's with TEST."""
    if not key_id or not secret:
        raise UnsafeBroker("broker keys: set ALPACA_API_KEY and ALPACA_SECRET_KEY")
    if kind == "paper" and not key_id.startswith("PK"):
        what = "a live account's" if key_id.startswith("AK") else "no paper account's"
        raise UnsafeBroker(f"broker keys: this key is {what}; paper keys begin with PK")
    if kind == "exchange" and not key_id.startswith(DUMMY):
        raise UnsafeBroker(f"broker keys: the test exchange takes dummy keys only, which begin with {DUMMY}")
    return Keys(key_id, secret)


def of_environ(params: Params, environ: Mapping[str, str]) -> tuple[Endpoint, Keys]:
    """Address and keys from the environment; the paper host unless told otherwise."""
    there = endpoint(params.kind, environ.get("ALPACA_BASE_URL") or f"https://{PAPER_HOST}")
    return there, keys(params.kind, environ.get("ALPACA_API_KEY", ""), environ.get("ALPACA_SECRET_KEY", ""))


def trading_enabled(environ: Mapping[str, str]) -> bool:
    """The master switch TRADING_ENABLED: on only by a clear yes."""
    return environ.get("TRADING_ENABLED", "").strip().lower() in ("1", "true", "yes", "on")


def verify_address(there: Endpoint, url: str) -> None:
    """Refuse a request that is about to go anywhere but to the broker: the last look before the wire."""
    wanted, given = urlsplit(there.rest), urlsplit(url)
    if (given.scheme, given.hostname, given.port) != (wanted.scheme, wanted.hostname, wanted.port):
        raise UnsafeBroker(
            f"request to {_shown(given.scheme, given.hostname or '', given.port)}: not the broker's address"
        )
    if given.username is not None:
        raise UnsafeBroker("request with a user name in its address")
    endpoint(there.kind, there.rest)


# The approval: a file that only `utp approve` can write.


class Approval(Struct, frozen=True):
    """A human's leave to send entries for one account until a time; revoked once `revoked` is set."""

    issuer: str
    account: str
    scope: str
    issued: int  # UTC ns
    expires: int
    revoked: int = 0


class _Signed(Struct, frozen=True):
    approval: Approval
    signature: str


def approve(params: Params, *, issuer: str, account: str, scope: str, minutes: int, now: int) -> Approval:
    """Write an approval that holds from now for some minutes."""
    if scope not in SCOPES:
        raise UserError(f"scope {scope}: want one of {', '.join(SCOPES)}")
    if not 1 <= minutes <= MAX_MINUTES:
        raise UserError(f"{minutes} minutes: want 1 to {MAX_MINUTES}")
    if not issuer.strip() or not account.strip() or "|" in account:
        raise UserError(f"approval by {issuer!r} for account {account!r}: want both, and no | in the account's name")
    approval = Approval(issuer, account, scope, now, now + minutes * NS_PER_MINUTE)
    _write(params, approval, _key(params, make=True))
    return approval


def revoke(params: Params, *, issuer: str, now: int) -> None:
    """Take back every approval: the key that signed them is thrown away, so that a copy of one is worthless too."""
    _key_path(params).unlink(missing_ok=True)
    _write(params, Approval(issuer, "", "", now, now, now), _key(params, make=True))


def approval_gate(params: Params, account: str, now: int) -> tuple[Reason, str]:
    """Whether entries of this account are approved at this moment: NONE, or what is wrong. Reads the file each time."""
    path = Path(params.approval_file).expanduser()
    try:
        signed = msgspec.json.decode(path.read_bytes(), type=_Signed)
        key = _key(params, make=False)
    except FileNotFoundError:
        return Reason.NOT_APPROVED, f"approval file missing: {path}"
    except (OSError, msgspec.MsgspecError, UserError) as error:
        return Reason.NOT_APPROVED, f"approval file {path}: {error}"
    approval = signed.approval
    if not hmac.compare_digest(signed.signature.encode(), _signature(approval, key).encode()):
        return Reason.NOT_APPROVED, f"approval file {path}: the signature is not ours; it was edited, or revoked"
    if approval.revoked:
        return Reason.REVOKED, f"revoked by {approval.issuer}"
    if approval.account != account:
        return Reason.NOT_APPROVED, f"approved for account {approval.account}, not {account}"
    if approval.scope != "entries":
        return Reason.NOT_APPROVED, f"approved for {approval.scope} only"
    if not approval.issued <= now < approval.expires:
        ago = (now - approval.expires) / NS_PER_SECOND
        return Reason.NOT_APPROVED, f"approval expired {ago:.0f} s ago" if ago >= 0 else "approval is from the future"
    return Reason.NONE, f"approved by {approval.issuer}"


def _write(params: Params, approval: Approval, key: bytes) -> None:
    """In one step: a reader sees the old file or the new one."""
    path = Path(params.approval_file).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(_Signed(approval, _signature(approval, key))))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _signature(approval: Approval, key: bytes) -> str:
    return hmac.new(key, msgspec.json.encode(approval, order="sorted"), hashlib.sha256).hexdigest()


def _key_path(params: Params) -> Path:
    return Path(params.approval_key_file).expanduser()


def _key(params: Params, *, make: bool) -> bytes:
    """The signing key; refused when others may read it, when it is a link, or another user's."""
    path = _key_path(params)
    if make:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (
            suppress(FileExistsError),
            os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
        ):
            file.write(os.urandom(32))
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        info = os.fstat(file.fileno())
        if stat.S_IMODE(info.st_mode) & 0o077 or info.st_uid != os.getuid():
            raise UserError(f"key file {path}: others may read it; run utp revoke, which makes a new one")
        key = file.read()
    if len(key) < 32:
        raise UserError(f"key file {path}: too short; run utp revoke, which makes a new one")
    return key


class Gates:
    """All gates of one broker and account. `check` looks anew each time: a revocation acts before the next order."""

    def __init__(self, params: Params, there: Endpoint, keys: Keys, account: str, *, enabled: bool):
        self.params = params
        self.there = there
        self.keys = keys
        self.account = account
        self.enabled = enabled

    def check(self, order: OrderRequest, now: int) -> Refusal | None:
        """The first gate that is shut for this order, or None. An unsafe address or key raises instead."""
        refusal = self.closed(order.id)
        if refusal is not None:
            return refusal
        if order.account != self.account:
            return Refusal(order.id, Reason.NOT_APPROVED, f"order of account {order.account}, not {self.account}")
        if order.reduces:
            return None
        reason, message = approval_gate(self.params, self.account, now)
        return None if reason is Reason.NONE else Refusal(order.id, reason, f"Blocked: {message}")

    def closed(self, id: str) -> Refusal | None:  # noqa: A002
        """The gates that hold back everything, cancelling too. An unsafe address or key raises."""
        verify_address(self.there, self.there.rest)
        keys(self.there.kind, self.keys.key_id, self.keys.secret)
        if self.there.kind != self.params.kind:
            raise UnsafeBroker(f"broker kind {self.there.kind}: the setting says {self.params.kind}")
        if not self.enabled:
            return Refusal(id, Reason.TRADING_DISABLED, "Blocked: TRADING_ENABLED is not true")
        if self.params.dry_run:
            return Refusal(id, Reason.DRY_RUN, "Blocked by execution_dry_run=True")
        return None

    def shut(self, now: int) -> list[tuple[Reason, str]]:
        """Every gate that an entry would not pass, for those who ask why nothing trades."""
        gates = []
        if not self.enabled:
            gates.append((Reason.TRADING_DISABLED, "TRADING_ENABLED is not true"))
        if self.params.dry_run:
            gates.append((Reason.DRY_RUN, "broker.dry_run is on"))
        reason, message = approval_gate(self.params, self.account, now)
        return gates if reason is Reason.NONE else [*gates, (reason, message)]


def _shown(scheme: str, host: str, port: int | None) -> str:
    """An address without user, path or query: any of those may hold a secret."""
    return f"{scheme}://{host}" + (f":{port}" if port else "")
