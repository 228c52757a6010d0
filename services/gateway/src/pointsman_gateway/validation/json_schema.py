"""The validator `json_schema`: the answer is JSON, and satisfies a schema (draft 2020-12).

Reasons are kept where texts may not be, and so say nothing of an answer but which of the schema's words it breaks, and
where, in the schema's own names.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, ValidationError

from pointsman_gateway.validation.transcript import Choice

LONGEST_REASON = 300
"""Characters; an error quotes the schema."""
THE_VALUE = "the value"
"""Stands for what an error finds fault with."""
NAMING = frozenset(
    {"additionalProperties", "unevaluatedProperties", "propertyNames", "additionalItems", "unevaluatedItems"}
)
"""Keywords whose errors name what they find, and not in words of the schema."""
BACKTRACKING = 10_000
"""Steps that a `pattern` may take back until its search is given up, which counts as a fault."""


class BadSchema(ValueError):
    """It cannot be used."""


class JsonSchema:
    name = "json_schema"

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Raises BadSchema."""
        try:
            _validator(schema, None)  # whose error quotes the schema
        except ValidationError as error:
            raise BadSchema(
                f"bad schema{_at(map(str, error.instance_path))}: {error.message[:LONGEST_REASON]}"
            ) from error
        self._validator = _validator(schema, THE_VALUE)
        self._names = frozenset(_names(schema))

    def objection(self, choice: Choice) -> str | None:
        if choice.only_calls_tools:
            return None
        try:
            value = json.loads(choice.text, parse_constant=_refuse_constant)
            error = next(self._validator.iter_errors(value), None)
        except (ValueError, RecursionError) as problem:
            return f"not JSON: {problem}"
        return None if error is None else f"{_told(error)}{_at(self._place(error))}"

    def _place(self, error: ValidationError) -> Iterator[str]:
        for part in error.instance_path:
            yield str(part) if isinstance(part, int) or part in self._names else "*"


def _validator(schema: Mapping[str, Any], mask: str | None) -> Draft202012Validator:
    """`mask` stands in its errors for what they find."""
    patterns = FancyRegexOptions(backtrack_limit=BACKTRACKING)
    return Draft202012Validator(dict(schema), pattern_options=patterns, retriever=_fetch_nothing, mask=mask)


def _told(error: ValidationError) -> str:
    naming = NAMING.intersection(map(str, error.schema_path))
    return f"{min(naming)} is not satisfied" if naming else error.message[:LONGEST_REASON]


def _at(place: Iterator[str]) -> str:
    joined = ".".join(place)
    return f" at '{joined}'" if joined else ""


def _names(schema: Any) -> Iterator[str]:
    """All that stands in it as a name, of a property or of a keyword."""
    if isinstance(schema, Mapping):
        yield from map(str, schema)
    if isinstance(schema, Mapping | list):
        for part in schema.values() if isinstance(schema, Mapping) else schema:
            yield from _names(part)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _fetch_nothing(uri: str) -> NoReturn:
    raise ValueError("schemas are not fetched; write it into the file, under $defs")
