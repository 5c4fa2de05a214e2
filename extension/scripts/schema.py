"""`python extension/scripts/schema.py` writes src/api/schema.ts from the backend's public models.

Only answers are written: what the panel sends is small enough to be typed where it is made.
`--check` writes nothing and fails if the file is not what it would write.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nbgpu_backend.schema.changes import Changes
from nbgpu_backend.schema.common import Model, Problem
from nbgpu_backend.schema.endpoints import Endpoint
from nbgpu_backend.schema.hosts import Contact
from nbgpu_backend.schema.keys import KeyList, NewKey
from nbgpu_backend.schema.pods import Pod, VolumeList
from nbgpu_backend.schema.summary import Settings, Why
from pydantic.json_schema import models_json_schema

TARGET = Path(__file__).resolve().parents[1] / "src" / "api" / "schema.ts"
ANSWERS: tuple[type[Model], ...] = (
    Changes, Contact, Problem, Endpoint, KeyList, NewKey, Pod, Settings, VolumeList, Why,
)  # fmt: skip
HEAD = "// Written by scripts/schema.py from nbgpu_backend.schema: do not edit.\n"
SIMPLE = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}  # fmt: skip


def type_of(schema: dict[str, Any]) -> str:
    """One JSON Schema as a TypeScript type."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return _literal(schema["const"])
    if "enum" in schema:
        return " | ".join(_literal(value) for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(type_of(one) for one in schema[key]))
    kind = schema.get("type")
    if kind == "array":
        inner = type_of(schema.get("items", {}))
        return f"({inner})[]" if "|" in inner else f"{inner}[]"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"Record<string, {type_of(values) if isinstance(values, dict) else 'unknown'}>"
    return SIMPLE.get(str(kind), "unknown")


def _literal(value: object) -> str:
    return "'" + str(value) + "'"


def interface(name: str, schema: dict[str, Any]) -> str:
    """An object's schema as an interface, with the first line of its description above it."""
    lines = []
    if about := str(schema.get("description", "")).partition("\n")[0]:
        lines.append(f"/** {about} */")
    lines.append(f"export interface {name} {{")
    for field, inner in schema.get("properties", {}).items():
        if said := inner.get("description"):
            lines.append(f"  /** {said} */")
        lines.append(f"  {field}: {type_of(inner)};")
    return "\n".join([*lines, "}"]) + "\n"


def render() -> str:
    """The text of schema.ts."""
    _, found = models_json_schema([(model, "serialization") for model in ANSWERS], by_alias=True)
    parts = [interface(name, schema) for name, schema in sorted(found["$defs"].items())]
    return "\n".join([HEAD, *parts])


def main() -> int:
    text = render()
    if "--check" in sys.argv:
        if TARGET.read_text() == text:
            return 0
        print(f"{TARGET} is not what the models say; run: python extension/scripts/schema.py")
        return 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
