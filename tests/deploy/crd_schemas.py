"""Validates custom resources against the published schemas in crds/, which lack the descriptions."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema.validators import Draft202012Validator

FOLDER = Path(__file__).parent / "crds"
KINDS = frozenset(file.stem for file in FOLDER.glob("*.json"))


def violations(object: dict[str, Any]) -> list[str]:
    """Returns the errors with which an API server that knows the kind's definition would reject the object in a strict
    request.
    """
    schema = _schema(object["kind"])
    wrong = [] if object["apiVersion"] == schema["apiVersion"] else [f"apiVersion is not {schema['apiVersion']}"]
    return wrong + [error.message for error in Draft202012Validator(schema).iter_errors(object)]


@cache
def _schema(kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = strict(json.loads((FOLDER / f"{kind}.json").read_text()))
    return schema


def strict(schema: Any) -> Any:
    """Returns the schema changed so that it forbids unknown fields, as a server's strict validation does."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not is_open:
        closed["additionalProperties"] = False
    return closed
