"""Events <-> Avro bytes; the fingerprint of the writer's schema travels in the record's header `schema`."""

import io
from functools import cache
from typing import Any, TypeVar

import msgspec

from schemas.avro_files import fingerprint, versions
from schemas.avro_schema import schema_of
from schemas.records import NAMES

E = TypeVar("E", bound=msgspec.Struct)


class UndecodableError(ValueError):
    """Bytes that are no record of the kind; the message says why."""


@cache
def parsed(kind: type) -> Any:
    """The current schema, as fastavro wants it."""
    import fastavro

    return fastavro.parse_schema(_plain(schema_of(kind)), named_schemas={})


@cache
def mark(kind: type) -> bytes:
    """The fingerprint as the header carries it."""
    return fingerprint(schema_of(kind)).encode()


@cache
def written_by(kind: type) -> dict[bytes, Any]:
    """By fingerprint: every schema with which records of this kind were ever written."""
    import fastavro

    known = {mark(kind): parsed(kind)}
    for old in versions(NAMES[kind].file):
        known.setdefault(fingerprint(old).encode(), fastavro.parse_schema(_plain(old), named_schemas={}))
    return known


def _plain(schema: Any) -> Any:
    """Without logical types, which fastavro would turn into its own classes: times are numbers here."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "logicalType" in schema:
        return schema["type"]
    return {
        name: _plain(value) if name in ("fields", "type", "items", "values") else value
        for name, value in schema.items()
    }


def encode(event: msgspec.Struct) -> bytes:
    """The event's bytes by the current schema of its class."""
    import fastavro

    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed(type(event)), msgspec.to_builtins(event, builtin_types=(bytes,)))
    return out.getvalue()


def decode(kind: type[E], value: bytes | None, schema: bytes | None = None) -> E:
    """The event in the bytes; `schema` is the header's fingerprint, by default the current one.

    Raises UndecodableError for an unknown schema, for bytes that do not fit it, and for bytes left over.
    """
    import fastavro

    if value is None:
        raise UndecodableError("a record without a value")
    writer = written_by(kind).get(mark(kind) if schema is None else schema)
    if writer is None:
        raise UndecodableError(
            f"schema {(schema or b'').decode(errors='replace')}: none of {kind.__name__} is known by it"
        )
    source = io.BytesIO(value)
    try:
        found = fastavro.schemaless_reader(source, writer, parsed(kind))
        event = msgspec.convert(found, kind)
    except Exception as error:  # whatever a decoder makes of arbitrary bytes
        raise UndecodableError(f"no {kind.__name__}: {type(error).__name__}: {error}"[:300]) from error
    if source.read(1):
        raise UndecodableError(f"no {kind.__name__}: {len(value) - source.tell() + 1} bytes are left over")
    return event
