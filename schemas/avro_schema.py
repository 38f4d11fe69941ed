"""From a record's class to its Avro schema, and what of a schema may change."""

import enum
import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from schemas.records import NAMES

_PLAIN = {str: "string", int: "int", float: "double", bool: "boolean", bytes: "bytes", type(None): "null"}
_MARKED: dict[str, Any] = {"long": "long", "timestamp-millis": {"type": "long", "logicalType": "timestamp-millis"}}
_WIDER = {"int": {"long", "float", "double"}, "long": {"float", "double"}, "float": {"double"}}


def schema_of(kind: type) -> dict[str, Any]:
    """The Avro schema of a record's class, fields in the order of the class."""
    schema: dict[str, Any] = _record(kind, set())
    return schema


def _record(kind: type, known: set[str]) -> Any:
    name = NAMES[kind].record
    if name in known:
        return name
    known.add(name)
    space, _, short = name.rpartition(".")
    hints = get_type_hints(kind, include_extras=True)
    fields = []
    for field in msgspec.structs.fields(kind):
        entry: dict[str, Any] = {"name": field.name, "type": _type(hints[field.name], known, space)}
        if field.default is not msgspec.NODEFAULT:
            entry["default"] = _plain(field.default)
        elif field.default_factory is not msgspec.NODEFAULT:
            entry["default"] = _plain(field.default_factory())
        fields.append(entry)
    doc = (kind.__doc__ or "").partition("\n")[0]
    return {"type": "record", "name": short, "namespace": space, "doc": doc, "fields": fields}


def _type(hint: Any, known: set[str], space: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _MARKED[arguments[1]]
    if origin in (Union, types.UnionType):  # null first, so that it can be the default
        return ["null", *(_type(one, known, space) for one in arguments if one is not type(None))]
    if origin is dict:
        return {"type": "map", "values": _type(arguments[1], known, space)}
    if origin is list:
        return {"type": "array", "items": _type(arguments[0], known, space)}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"type": "enum", "name": f"{space}.{hint.__name__}", "symbols": [one.value for one in hint]}
    if hint in NAMES:
        return _record(hint, known)
    return _PLAIN[hint]


def _plain(value: Any) -> Any:
    """A default as JSON: Avro writes bytes as text of the same code points."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def breaches(old: Any, new: Any) -> list[str]:
    """Why `new` may not take the place of `old`; nothing if it may.

    Records written with `old` must be readable, under the same names: a field is added with a default, none is
    removed, a number may only widen, symbols are only appended.
    """
    return _breaches(old, new, "", _definitions(old), _definitions(new))


def _breaches(old: Any, new: Any, place: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    old, new = (
        before.get(old, old) if isinstance(old, str) else old,
        after.get(new, new) if isinstance(new, str) else new,
    )
    if isinstance(old, list) or isinstance(new, list):
        return _of_union(old, new, place, before, after)
    was, now = _kind(old), _kind(new)
    if was != now:
        return [] if now in _WIDER.get(was, ()) else [f"{place or 'schema'}: was {was}, is {now}"]
    if was == "record":
        return _of_record(old, new, place, before, after)
    if was == "enum" and old["symbols"] != new["symbols"][: len(old["symbols"])]:
        return [f"{place}: symbols were {old['symbols']}, are {new['symbols']}: only append"]
    if was in ("array", "map"):
        below = "items" if was == "array" else "values"
        return _breaches(old[below], new[below], f"{place}[]", before, after)
    return []


def _of_union(old: Any, new: Any, place: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    was = old if isinstance(old, list) else [old]
    now = new if isinstance(new, list) else [new]
    found = []
    for one in was:
        tried = [_breaches(one, other, place, before, after) for other in now]
        if all(tried):
            same = [
                each
                for each, other in zip(tried, now, strict=True)
                if _kind(_seen(one, before)) == _kind(_seen(other, after))
            ]
            found += same[0] if same else [f"{place}: {_kind(_seen(one, before))} is no longer possible"]
    return found


def _of_record(old: Any, new: Any, place: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    found = []
    if _full(old) != _full(new):
        found.append(f"{place or 'schema'}: was named {_full(old)}, is named {_full(new)}")
    fields = {field["name"]: field for field in new["fields"]}
    for field in old["fields"]:
        name = f"{place}.{field['name']}".lstrip(".")
        if field["name"] not in fields:
            found.append(f"{name}: removed or renamed")
        else:
            found += _breaches(field["type"], fields.pop(field["name"])["type"], name, before, after)
    for name, field in fields.items():
        if "default" not in field:
            found.append(f"{f'{place}.{name}'.lstrip('.')}: added without a default")
    return found


def _kind(schema: Any) -> str:
    kind = schema["type"] if isinstance(schema, dict) else schema
    return kind if isinstance(kind, str) else _kind(kind)


def _full(schema: dict[str, Any]) -> str:
    name: str = schema["name"]
    space = schema.get("namespace", "")
    return name if "." in name or not space else f"{space}.{name}"


def _seen(schema: Any, definitions: dict[str, Any]) -> Any:
    return definitions.get(schema, schema) if isinstance(schema, str) else schema


def _definitions(schema: Any) -> dict[str, Any]:
    """Records and enums by name, for they are written out once."""
    found: dict[str, Any] = {}
    if isinstance(schema, list):
        for one in schema:
            found |= _definitions(one)
    elif isinstance(schema, dict):
        if schema["type"] in ("record", "enum"):
            found[_full(schema)] = schema
        for field in schema.get("fields", ()):
            found |= _definitions(field["type"])
        for below in ("items", "values"):
            if below in schema:
                found |= _definitions(schema[below])
    return found
