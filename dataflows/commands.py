"""Words of a human to the account, through `account.commands`.

The recorder takes them into the account log, and they act at their place there.
"""

import getpass
import time

from infra.gated_sink import BY
from infra.kafka import ID, PATIENCE, SCHEMA, TS, Cluster, producer, wait_for
from schemas import codec
from schemas.errors import UserError
from schemas.identity import envelope
from schemas.records import Command, CommandKind

TOPIC = "account.commands"


def send(
    where: Cluster, account: str, kind: CommandKind, reason: str = "", until: int | None = None, issuer: str = "",
    patience: float = PATIENCE,
) -> int:  # fmt: skip
    """Write a command and return its offset, which is its number, once it is in the log."""
    if kind in (CommandKind.KILL, CommandKind.RESUME) and not reason.strip():
        raise UserError(f"{kind.value}: give the reason with --reason; it is kept")
    wait_for(where, patience)
    now, issuer = time.time_ns(), issuer or getpass.getuser()
    key = f"{account}:{kind.value}:{now}"
    event = Command(**envelope(TOPIC, key, "", now, "operator"), account=account, kind=kind, issuer=issuer,
                    reason=reason, until=until)  # fmt: skip
    headers = [(ID, key.encode()), (TS, b"%d" % now), (BY, b"operator"), (SCHEMA, codec.mark(Command))]
    told: list[tuple[object, int | None]] = []
    client = producer(where, 0)
    client.produce(where.topic(TOPIC), codec.encode(event), account.encode(), 0, headers=list(headers),
                   on_delivery=lambda error, message: told.append((error, message.offset())))  # fmt: skip
    client.flush(30.0)
    error, offset = told[0] if told else ("no answer in 30 s", None)
    if error is not None or offset is None:
        raise UserError(f"{kind.value}: not written to {where.topic(TOPIC)} ({error})")
    return offset
