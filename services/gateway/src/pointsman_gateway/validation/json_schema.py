"""The validator `json_schema`, which checks answers by a JSON Schema from the configuration.

The reasons of a rejection are stored even if messages are not, so they do not quote the answer: they name the schema's
keyword that is not satisfied and the value's location, using only property names that the schema contains.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from pointsman_gateway.extensions import Choice, Validator
from pointsman_gateway.validation.schema_work import SchemaWork, TooMuchWork, measure

if TYPE_CHECKING:  # imported with the first schema: without one a gateway does not need its 3 MB
    from jsonschema_rs import Draft202012Validator, FancyRegexOptions, RegexOptions, ValidationError

MAX_REASON_CHARACTERS = 300
"""Maximum length of the reason for a rejection; a longer reason is cut, since it may quote a large schema."""
MAX_REASON_WORK = 1_000_000
"""Maximum number of characters that may be copied to explain a rejection, in 50 ns each. If more would be copied, the
reason has no details."""
UNEXPLAINED = "the schema is not satisfied"
THE_VALUE = "the value"
"""The text that stands in a reason in place of the answer's value."""
NAMING = frozenset(
    {"additionalProperties", "unevaluatedProperties", "propertyNames", "additionalItems", "unevaluatedItems"}
)
"""Schema keywords whose error messages quote property names of the answer; a reason only names such a keyword."""
MAX_BACKTRACKING = 10_000
"""Maximum number of backtracking steps of a `pattern`; a text that needs more counts as no match."""
MAX_INTEGER_DIGITS = 100
"""Maximum number of digits of an integer; JSON with a longer one is invalid. The comparison of an integer of 4,000
digits takes a millisecond."""


class BadSchema(ValueError):
    """Raised if the JSON Schema of a validator is not valid."""


class JsonSchema(Validator):
    """A validator that rejects a choice that is not JSON, or does not satisfy the schema (draft 2020-12). A choice that
    only calls tools is accepted.
    """

    Options = dict[str, Any]

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Compiles the schema; raises BadSchema if it is not valid."""
        from jsonschema_rs import FancyRegexOptions

        try:
            work = measure(options)
        except TooMuchWork:  # the configuration is trusted
            work = None
        self._schema = CompiledSchema(options, FancyRegexOptions(backtrack_limit=MAX_BACKTRACKING), work)

    def objection(self, choice: Choice) -> str | None:
        if choice.only_calls_tools:
            return None
        try:
            return self._schema.objection(parse_json(choice.text), len(choice.text), MAX_REASON_WORK)
        except (ValueError, RecursionError) as problem:
            return f"not JSON: {problem}"


class CompiledSchema:
    """A compiled JSON Schema that explains why a value does not satisfy it."""

    def __init__(
        self, schema: Mapping[str, Any], patterns: "FancyRegexOptions | RegexOptions", work: SchemaWork | None
    ) -> None:
        """Compiles the schema; raises BadSchema if it is not valid.

        `patterns` are limits of its regular expressions. `work` is the estimate of `measure`; None if the schema
        exceeds its limits.
        """
        self._validator = _compile(schema, patterns)
        self._names = frozenset(_names(schema))
        self._work = work

    def objection(self, value: Any, characters: int, max_reason_work: int) -> str | None:
        """Returns a message that says why the value does not satisfy the schema; None if it does.

        `value` is parsed JSON, and `characters` its length as text. The message has no details if finding them would
        copy more than `max_reason_work` characters. Raises ValueError if the value is nested too deeply.
        """
        from jsonschema_rs import ValidationError

        if self._validator.is_valid(value):  # evaluates a recursive $ref once for each value, and copies nothing
            return None
        if self._reason_work(value, characters) <= max_reason_work:
            try:
                self._validator.validate(value)
            except ValidationError as error:
                return f"{_message(error)}{_at(self._location(error))}"
        return UNEXPLAINED

    def _reason_work(self, value: Any, characters: int) -> float:
        """Returns an upper bound of the characters that are copied to explain why the value does not satisfy the
        schema.

        The error of each alternative (`anyOf`, `oneOf`) contains the value. The bound is infinite if the schema was not
        measured and may have alternatives.
        """
        work = self._work
        if work is None:
            return float("inf") if self._names & {"$ref", "anyOf", "oneOf"} else 0
        depth = _depth(value) if work.recursions else 0
        repeated: int = work.recursions**depth
        return repeated * work.alternatives * characters * max(depth, 1) if work.alternatives else repeated

    def _location(self, error: "ValidationError") -> Iterator[str]:
        for part in error.instance_path:
            yield str(part) if isinstance(part, int) or part in self._names else "*"


def parse_json(text: str) -> Any:
    """Parses JSON strictly: `NaN`, `Infinity` and integers of over `MAX_INTEGER_DIGITS` digits are errors.

    Raises ValueError if the text is invalid, RecursionError if it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse_constant, parse_int=_parse_integer)


def _compile(schema: Mapping[str, Any], patterns: "FancyRegexOptions | RegexOptions") -> "Draft202012Validator":
    from jsonschema_rs import Draft202012Validator, ValidationError

    def compiled(mask: str | None) -> Draft202012Validator:
        return Draft202012Validator(dict(schema), pattern_options=patterns, retriever=_fetch_nothing, mask=mask)

    try:
        return compiled(THE_VALUE)
    except ValidationError:
        try:  # again without the mask, for an error that quotes the schema
            return compiled(None)
        except ValidationError as error:
            reason = error.message[:MAX_REASON_CHARACTERS]
            raise BadSchema(f"bad schema{_at(map(str, error.instance_path))}: {reason}") from error


def _message(error: "ValidationError") -> str:
    naming = NAMING.intersection(map(str, error.schema_path))
    return f"{min(naming)} is not satisfied" if naming else error.message[:MAX_REASON_CHARACTERS]


def _at(location: Iterator[str]) -> str:
    joined = ".".join(location)
    return f" at '{joined}'" if joined else ""


def _names(schema: Any) -> Iterator[str]:
    """Yields every key in the schema: the names of properties and of keywords."""
    if isinstance(schema, Mapping):
        yield from map(str, schema)
    if isinstance(schema, Mapping | list):
        for part in schema.values() if isinstance(schema, Mapping) else schema:
            yield from _names(part)


def _depth(value: Any) -> int:
    """Returns how deeply arrays and objects are nested; 0 for other values."""
    depth, level = 0, [value]
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        level = [child for part in level for child in (part.values() if isinstance(part, dict) else part)]
    return depth


def _parse_integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise ValueError(f"an integer has over {MAX_INTEGER_DIGITS} digits")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _fetch_nothing(uri: str) -> NoReturn:
    raise ValueError("schemas are not fetched; write the referenced schema into the file, under $defs")
