"""`utp broker`, `utp topics`, `utp dlq`: the log from the command line. The environment says which."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from dataflows.options import JSON


def _help_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


topics = typer.Typer(help="The topics of the platform.", callback=_help_alone, invoke_without_command=True)
dlq = typer.Typer(
    help="Records that could not be used: look at them, put them back.",
    callback=_help_alone,
    invoke_without_command=True,
)


def broker(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Where its data stays.")] = Path("var/broker"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 9092,
) -> None:
    """Run the embedded Kafka-protocol server until Ctrl-C: for tests and for trying things out, one node."""
    import signal

    from infra.embedded import Broker

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the server must not outlive us
    server = Broker(data.absolute(), port)
    try:
        server.start()
        typer.echo(f"broker at {server.servers}, data in {data}; Ctrl-C stops it")
        server.wait()
    finally:
        server.stop()


@topics.command("create")
def create() -> None:
    """Create the topics that are absent, with their partitions and retention; check those that are there."""
    from infra.kafka import cluster
    from infra.topics import TOPICS, create_topics

    made = create_topics(cluster())
    for name in made:
        typer.echo(f"created {name}")
    typer.echo(f"{len(TOPICS)} topics as they must be, {len(made)} of them new")


@topics.command("list")
def list_topics(json: JSON = False) -> None:
    """How many records each topic holds."""
    from infra.kafka import bounds, cluster, topic_names
    from infra.topics import TOPICS

    where = cluster()
    there = topic_names(where)
    rows: list[dict[str, Any]] = []
    for topic in TOPICS:
        spans = bounds(where, topic.name) if where.topic(topic.name) in there else {}
        rows.append({"topic": topic.name, "partitions": len(spans),
                     "records": sum(high - low for low, high in spans.values())})  # fmt: skip
    if json:
        typer.echo(jsonlib.dumps(rows, indent=2))
        return
    for row in rows:
        state = f"{row['partitions']:>3} partitions {row['records']:>12,} records" if row["partitions"] else "absent"
        typer.echo(f"{row['topic']:<22}{state}")


@dlq.command("list")
def list_letters(json: JSON = False) -> None:
    """All dead letters, one a line."""
    from infra.dead_letters import letters
    from infra.kafka import cluster

    found = [_shown(one) for one in letters(cluster())]
    if json:
        typer.echo(jsonlib.dumps(found, indent=2))
        return
    for one in found:
        typer.echo(f"{one['dlq_id'][:8]}  {one['ts']}  {one['place']:<32}{one['error_type']:<16}{one['error_message']}")
    typer.echo(f"{len(found)} dead letters")


@dlq.command("show")
def show(dlq_id: Annotated[str, typer.Argument(metavar="ID", help="Its beginning will do.")]) -> None:
    """One dead letter with its bytes, as JSON."""
    from infra.dead_letters import find
    from infra.kafka import cluster

    typer.echo(jsonlib.dumps(_shown(find(cluster(), dlq_id), whole=True), indent=2))


@dlq.command("replay")
def replay(
    dlq_id: Annotated[str, typer.Argument(metavar="[ID]", help="Its beginning will do.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="All that are in the log.")] = False,
) -> None:
    """Put the original bytes back on their topic; bars go to market.late, never into decisions."""
    from infra import dead_letters
    from infra.kafka import cluster
    from schemas.errors import UserError

    if bool(dlq_id) == everything:
        raise UserError("dlq replay: want the id of a letter, or --all")
    where = cluster()
    chosen = list(dead_letters.letters(where)) if everything else [dead_letters.find(where, dlq_id)]
    for done in dead_letters.replay(where, chosen):
        typer.echo(f"{done.dlq_id[:8]} -> {done.topic}")
    typer.echo(f"{len(chosen)} dead letters put back")


def _shown(one: Any, whole: bool = False) -> dict[str, Any]:
    found = {
        "dlq_id": one.dlq_id,
        "ts": one.ts,
        "place": f"{one.source_topic}:{one.source_partition}:{one.source_offset}",
        "agent": one.agent,
        "error_type": one.error_type,
        "error_message": one.error_message,
        "retry_count": one.retry_count,
        "idempotency_key": one.idempotency_key,
    }
    if whole:
        found["key"] = (one.original_key or b"").decode("latin-1")
        found["headers"] = {each.name: each.value.decode("latin-1") for each in one.original_headers}
        found["payload_base64"] = one.original_payload
    return found
