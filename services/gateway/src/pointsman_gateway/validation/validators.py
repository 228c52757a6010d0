"""The validators `complete`, `json_schema`, `regex` and `mean_logprob`.

Reasons are stored even if messages are not, so they do not quote the answer. Those of `json_schema` name the keyword
that is not satisfied and its location, in names that the schema contains.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from statistics import fmean
from typing import Annotated, Any, Literal, NoReturn

import regex
from jsonschema_rs import Draft202012Validator, FancyRegexOptions, ValidationError
from pydantic import Field

from pointsman_gateway.extensions import Choice, Validator

CUT_OFF = {
    "length": "cut off at its longest",
    "content_filter": "cut off by a filter",
    "abort": "broken off",
    "error": "broken off",
}
"""Objections by the engine's finish reason."""

MAX_SEARCHED_CHARACTERS = 65_536
"""Only this many characters at the start of a text are searched."""
SEARCH_TIMEOUT = 0.05
"""Seconds for one search. A pattern such as `(a+)+$` could search for years, and would block all other requests."""


class Complete(Validator):
    """A validator that refuses an empty choice, and one that was cut off."""

    Options = Literal[True]
    checks_format = False

    def __init__(self, options: bool) -> None:
        pass

    def objection(self, choice: Choice) -> str | None:
        if choice.finish_reason in CUT_OFF:
            return CUT_OFF[choice.finish_reason]
        return None if choice.text.strip() or choice.calls_tools else "empty"


class BadPattern(ValueError):
    """The pattern of a validator is not a valid regular expression."""


class SearchTimeout(Exception):
    """The search for a pattern took too long."""


class Pattern:
    """A regular expression for untrusted texts, with the `regex` library, since `re` cannot be interrupted."""

    def __init__(self, text: str) -> None:
        """Compiles the pattern; raises BadPattern."""
        try:
            self._compiled = regex.compile(text)
        except regex.error as error:
            raise BadPattern(f"bad regex {text!r}: {error}") from error
        self.text = text

    def is_found_in(self, text: str) -> bool:
        """Returns whether the pattern is found in the text; raises SearchTimeout."""
        try:
            return self._compiled.search(text[:MAX_SEARCHED_CHARACTERS], timeout=SEARCH_TIMEOUT) is not None
        except TimeoutError as error:
            limit = f"{SEARCH_TIMEOUT * 1000:.0f} ms"
            raise SearchTimeout(f"the search for {self.text!r} was given up after {limit}") from error


class Regex(Validator):
    """A validator that refuses a choice in which the pattern is not found."""

    Options = str

    def __init__(self, options: str) -> None:
        """Compiles the pattern; raises BadPattern."""
        self._pattern = Pattern(options)

    def objection(self, choice: Choice) -> str | None:
        if choice.only_calls_tools:
            return None
        try:
            return None if self._pattern.is_found_in(choice.text) else f"{self._pattern.text!r} is not found"
        except SearchTimeout as error:
            return str(error)


class MeanLogprob(Validator):
    """A validator that refuses a choice whose tokens have a low mean log-probability."""

    Options = Annotated[float, Field(le=0)]
    checks_format = False
    needs_logprobs = True

    def __init__(self, options: float) -> None:
        self._minimum = options

    def objection(self, choice: Choice) -> str | None:
        """Refuses a choice whose mean is too low, or unknown because the engine reports no log-probabilities."""
        if not choice.logprobs:
            return None if choice.only_calls_tools else "the engine reported no log-probabilities"
        mean = fmean(choice.logprobs)
        return None if mean >= self._minimum else f"{mean:.3f}, under {self._minimum:.3f}"


MAX_REASON_CHARACTERS = 300
"""Length of a reason of `json_schema`; an error may quote a large schema."""
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
    """The JSON Schema of a validator is not valid."""


class JsonSchema(Validator):
    """A validator that refuses a choice that is not JSON, or does not satisfy the schema (draft 2020-12)."""

    Options = dict[str, Any]

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Compiles the schema; raises BadSchema."""
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
    """A validator by the schema of a request's own `response_format`.

    A choice that reached the request's length limit is accepted: its finish reason says so, and another path would
    reach the limit as well.
    """

    def objection(self, choice: Choice) -> str | None:
        return None if choice.finish_reason == "length" else super().objection(choice)


def client_schemas(response_format: Mapping[str, Any]) -> Iterator[ClientSchema]:
    """Yields the schema that a `response_format` contains; none if it contains none that is small and valid."""
    wrapper = response_format.get("json_schema")
    schema = wrapper.get("schema") if isinstance(wrapper, Mapping) else None
    if not isinstance(schema, Mapping) or len(json.dumps(schema)) > MAX_CLIENT_SCHEMA_CHARACTERS:
        return
    with suppress(ValueError):  # the engine judges it too, and its message is better
        yield ClientSchema(schema)


def _validator(schema: Mapping[str, Any], mask: str | None) -> Draft202012Validator:
    """Compiles a schema; `mask` replaces the value in its errors."""
    patterns = FancyRegexOptions(backtrack_limit=MAX_BACKTRACKING)
    return Draft202012Validator(dict(schema), pattern_options=patterns, retriever=_fetch_nothing, mask=mask)


def _message(error: ValidationError) -> str:
    naming = NAMING.intersection(map(str, error.schema_path))
    return f"{min(naming)} is not satisfied" if naming else error.message[:MAX_REASON_CHARACTERS]


def _at(location: Iterator[str]) -> str:
    joined = ".".join(location)
    return f" at '{joined}'" if joined else ""


def _names(schema: Any) -> Iterator[str]:
    """Yields every name in the schema, of properties and of keywords."""
    if isinstance(schema, Mapping):
        yield from map(str, schema)
    if isinstance(schema, Mapping | list):
        for part in schema.values() if isinstance(schema, Mapping) else schema:
            yield from _names(part)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _fetch_nothing(uri: str) -> NoReturn:
    raise ValueError("schemas are not fetched; write it into the file, under $defs")
