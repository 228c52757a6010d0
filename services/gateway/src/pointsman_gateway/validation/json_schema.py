"""The validator `json_schema`: the answer is JSON, and satisfies a schema (draft 2020-12)."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, ValidationError

from pointsman_gateway.validation.transcript import Choice

LONGEST_REASON = 300
"""Characters; an error quotes what it finds fault with."""
BACKTRACKING = 10_000
"""Steps that a `pattern` may take back until its search is given up, which counts as a fault."""


class BadSchema(ValueError):
    """It cannot be used."""


class JsonSchema:
    name = "json_schema"

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Raises BadSchema."""
        patterns = FancyRegexOptions(backtrack_limit=BACKTRACKING)
        try:
            self._validator = Draft202012Validator(dict(schema), pattern_options=patterns, retriever=_fetch_nothing)
        except ValidationError as error:
            raise BadSchema(f"bad schema{_place(error)}: {error.message[:LONGEST_REASON]}") from error

    def objection(self, choice: Choice) -> str | None:
        if choice.only_calls_tools:
            return None
        try:
            value = json.loads(choice.text, parse_constant=_refuse_constant)
            error = next(self._validator.iter_errors(value), None)
        except (ValueError, RecursionError) as problem:
            return f"not JSON: {problem}"
        return None if error is None else f"{error.message[:LONGEST_REASON]}{_place(error)}"


def _place(error: ValidationError) -> str:
    return f" at '{'.'.join(map(str, error.instance_path))}'" if error.instance_path else ""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _fetch_nothing(uri: str) -> NoReturn:
    raise ValueError("schemas are not fetched; write it into the file, under $defs")
