"""The committed schemas: `python -m schemas.avro_files` writes schemas/avro, `... check` only looks.

A schema that changes keeps its former versions under schemas/avro/former, named by fingerprint, so that
old records stay readable. What would make them unreadable is refused.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from schemas.avro_schema import breaches, schema_of
from schemas.errors import UserError
from schemas.records import all_records

FOLDER = Path(__file__).resolve().parent / "avro"


def fingerprint(schema: Any) -> str:
    """Sixteen hexadecimal digits: CRC-64-AVRO of the schema's canonical form."""
    from fastavro.schema import fingerprint as hashed
    from fastavro.schema import to_parsing_canonical_form

    return hashed(to_parsing_canonical_form(schema), "CRC-64-AVRO")


def text(schema: Any) -> bytes:
    """A schema as it is committed."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def versions(file: str, folder: Path = FOLDER) -> list[Any]:
    """Every committed version of a record, the current one last."""
    former = sorted((folder / "former").glob(f"{file}@*.avsc"))
    current = folder / f"{file}.avsc"
    return [msgspec.json.decode(path.read_bytes()) for path in [*former, *([current] if current.exists() else [])]]


def refuse_breaches(folder: Path = FOLDER) -> None:
    """UserError if a class has changed so that records of some committed version could not be read."""
    records = all_records()
    for file, kind in records.items():
        for old in versions(file, folder):
            for breach in breaches(old, schema_of(kind)):
                raise UserError(f"{kind.__name__} ({file}.avsc): {breach}; old records must stay readable")
    for path in sorted(folder.glob("*.avsc")):
        if path.name.removesuffix(".avsc") not in records:
            raise UserError(f"{path.name}: its class is gone; a record once written must stay readable")


def stale(folder: Path = FOLDER) -> list[str]:
    """Files that are not what the classes say."""
    wanted = {file: text(schema_of(kind)) for file, kind in all_records().items()}
    return [file for file, content in wanted.items()
            if not (folder / f"{file}.avsc").exists() or (folder / f"{file}.avsc").read_bytes() != content]  # fmt: skip


def write(folder: Path = FOLDER) -> list[str]:
    """Bring the files up to date; says which were not."""
    refuse_breaches(folder)
    changed = stale(folder)
    for file in changed:
        path, schema = folder / f"{file}.avsc", schema_of(all_records()[file])
        if path.exists():
            old = msgspec.json.decode(path.read_bytes())
            if fingerprint(old) != fingerprint(schema):
                (folder / "former").mkdir(exist_ok=True)
                (folder / "former" / f"{file}@{fingerprint(old)}.avsc").write_bytes(path.read_bytes())
        path.write_bytes(text(schema))
    return changed


def main(arguments: list[str]) -> int:
    """Exit code 1 where something is to be done, 2 where it may not be."""
    try:
        refuse_breaches()
        if arguments == ["check"]:
            for file in stale():
                print(f"schemas/avro/{file}.avsc is not what the class says: run python -m schemas.avro_files")
            return 1 if stale() else 0
        print("\n".join(write()) or "nothing has changed")
    except UserError as error:
        print(f"avro_files: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
