"""The validator `json_schema`: the answer is JSON and satisfies a schema (draft 2020-12).

Reasons are stored even if messages are not, so they do not quote the answer: they name the keyword that is not
satisfied and its location, in names that the schema contains.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, ValidationError

from pointsman_gateway.extensions import Choice, Validator

MAX_REASON_CHARACTERS = 300
"""An error may quote a large schema."""
THE_VALUE = "the value"
"""Replaces the value that an error is about."""
NAMING = frozenset(
    {"additionalProperties", "unevaluatedProperties", "propertyNames", "additionalItems", "unevaluatedItems"}
)
"""Keywords whose errors quote property names of the answer."""
MAX_BACKTRACKING = 10_000
"""Backtracking steps of a `pattern`; if it needs more, it counts as not satisfied."""

MAX_CLIENT_SCHEMA_CHARACTERS = 64 * 1024
"""As JSON. A larger schema of a client is left to the engine, since compiling it would delay other requests."""


class BadSchema(ValueError):
    """The schema is not valid."""


class JsonSchema(Validator):
    """Refuses a choice that is not JSON, or does not satisfy the schema."""

    Options = dict[str, Any]

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Raises BadSchema."""
        try:
            _validator(options, None)  # its error quotes the schema
        except ValidationError as error:
            raise BadSchema(
                f"bad schema{_at(map(str, error.instance_path))}: {error.message[:MAX_REASON_CHARACTERS]}"
            ) from error
        self._validator = _validator(options, THE_VALUE)
        self._names = frozenset(_names(options))

    def objection(self, choice: Choice) -> str | None:
        if choice.only_calls_tools:
            return None
        try:
            value = json.loads(choice.text, parse_constant=_refuse_constant)
            error = next(self._validator.iter_errors(value), None)
        except (ValueError, RecursionError) as problem:
            return f"not JSON: {problem}"
        return None if error is None else f"{_message(error)}{_at(self._location(error))}"

    def _location(self, error: ValidationError) -> Iterator[str]:
        for part in error.instance_path:
            yield str(part) if isinstance(part, int) or part in self._names else "*"


class ClientSchema(JsonSchema):
    """The schema of a request's own `response_format`.

    A choice that reached the request's length limit is accepted: its finish reason says so, and another path would
    reach the limit as well.
    """

    def objection(self, choice: Choice) -> str | None:
        return None if choice.finish_reason == "length" else super().objection(choice)


def client_schemas(response_format: Mapping[str, Any]) -> Iterator[ClientSchema]:
    """Yield the schema that a `response_format` contains; none if it contains none that is small and valid."""
    wrapper = response_format.get("json_schema")
    schema = wrapper.get("schema") if isinstance(wrapper, Mapping) else None
    if not isinstance(schema, Mapping) or len(json.dumps(schema)) > MAX_CLIENT_SCHEMA_CHARACTERS:
        return
    with suppress(ValueError):  # the engine judges it too, and its message is better
        yield ClientSchema(schema)


def _validator(schema: Mapping[str, Any], mask: str | None) -> Draft202012Validator:
    """`mask` replaces the value in its errors."""
    patterns = FancyRegexOptions(backtrack_limit=MAX_BACKTRACKING)
    return Draft202012Validator(dict(schema), pattern_options=patterns, retriever=_fetch_nothing, mask=mask)


def _message(error: ValidationError) -> str:
    naming = NAMING.intersection(map(str, error.schema_path))
    return f"{min(naming)} is not satisfied" if naming else error.message[:MAX_REASON_CHARACTERS]


def _at(location: Iterator[str]) -> str:
    joined = ".".join(location)
    return f" at '{joined}'" if joined else ""


def _names(schema: Any) -> Iterator[str]:
    """Yield every name in the schema, of properties and of keywords."""
    if isinstance(schema, Mapping):
        yield from map(str, schema)
    if isinstance(schema, Mapping | list):
        for part in schema.values() if isinstance(schema, Mapping) else schema:
            yield from _names(part)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _fetch_nothing(uri: str) -> NoReturn:
    raise ValueError("schemas are not fetched; write it into the file, under $defs")
