"""Validators for the JSON Schemas that clients send in `response_format`.

The gateway checks an answer by the client's schema only if compiling the schema and checking all choices take at most
about 10 ms and 4 MiB. Otherwise only the engine enforces the schema, while it generates the answer, and the verdict is
"unjudged".
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from pointsman_gateway.extensions import Choice, Validator
from pointsman_gateway.validation.answer_budget import AnswerBudget, BudgetedValidator, NotJudged
from pointsman_gateway.validation.json_schema import BadSchema, CompiledSchema, parse_json
from pointsman_gateway.validation.schema_work import TooMuchWork, measure

MAX_SCHEMA_CHARACTERS = 64 * 1024
"""Maximum length of a schema, as JSON; a longer schema is not compiled."""
MAX_PATTERN_BYTES = 64 * 1024
"""Maximum memory of one compiled pattern; a Unicode class such as `\\p{L}` takes up to 40 kB."""
MAX_REASON_WORK = 100_000
"""Maximum number of characters that are copied to explain a rejection, which takes up to 5 ms and 2 MiB. Only one
choice of an answer is explained, since the first rejection ends the checks."""
CACHED_SCHEMAS = 32
CACHED_CHARACTERS = 8 * MAX_SCHEMA_CHARACTERS
"""Maximum length of all cached schemas together, as JSON. A compiled schema takes up to 40 bytes per character."""


class ClientSchemas:
    """Makes validators from clients' schemas, and caches the validators of the most recently used schemas."""

    def __init__(self) -> None:
        self._cached: OrderedDict[bytes, tuple[Validator, int]] = OrderedDict()
        """The validator for each schema and the schema's length in characters, by the SHA-256 digest of the schema."""
        self._characters = 0

    def validators(self, response_format: Mapping[str, Any]) -> list[Validator]:
        """Returns one validator for the JSON Schema in a client's `response_format`; an empty list if it has no schema.

        For a schema that is too large, too complex or invalid, the validator is an `UncheckedSchema`, whose verdict is
        always "unjudged".
        """
        wrapper = response_format.get("json_schema")
        schema = wrapper.get("schema") if isinstance(wrapper, Mapping) else None
        if not isinstance(schema, dict):
            return []
        if _is_too_long(schema) or len(text := json.dumps(schema)) > MAX_SCHEMA_CHARACTERS:
            return [UncheckedSchema(f"the client's schema has over {MAX_SCHEMA_CHARACTERS:,} characters")]
        return [self._validator(text)]

    def _validator(self, schema: str) -> Validator:
        digest = sha256(schema.encode()).digest()
        if digest in self._cached:
            self._cached.move_to_end(digest)
        else:
            self._cached[digest] = _compile(schema), len(schema)
            self._characters += len(schema)
            while self._characters > CACHED_CHARACTERS or len(self._cached) > CACHED_SCHEMAS:
                _, (_, characters) = self._cached.popitem(last=False)
                self._characters -= characters
        return self._cached[digest][0]


class ClientSchema(BudgetedValidator):
    """A validator that rejects a choice that is not JSON or does not satisfy a client's schema.

    A choice that only calls tools is accepted. A choice that reached the request's length limit is accepted too: its
    finish reason says that it is cut off, and another path's answer would reach the limit as well.
    """

    Options = dict[str, Any]

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Compiles the schema. Raises TooMuchWork if it is too large or complex, and BadSchema if it is invalid."""
        from jsonschema_rs import RegexOptions

        self._work = measure(options)
        patterns = RegexOptions(size_limit=MAX_PATTERN_BYTES, dfa_size_limit=MAX_PATTERN_BYTES)
        self._schema = CompiledSchema(options, patterns, self._work)

    def objection_within(self, budget: AnswerBudget, choice: Choice) -> str | None:
        left, text = budget.schema, choice.text
        if choice.finish_reason == "length" or choice.only_calls_tools:
            return None
        left.take_text(text)
        try:
            value = parse_json(text)
            left.take_work(*self._work.steps_and_searches(value, left.steps))
            return self._schema.objection(value, len(text), MAX_REASON_WORK)
        except (ValueError, RecursionError) as problem:
            return f"not JSON: {problem}"


class UncheckedSchema(Validator):
    """A validator for a client's schema that cannot be checked, since it is too large, too complex or invalid.

    It raises NotJudged for every choice, with its options (a text) as the reason.
    """

    Options = str

    def __init__(self, options: str) -> None:
        self._reason = options

    def objection(self, choice: Choice) -> str | None:
        raise NotJudged(self._reason)


def _is_too_long(schema: Any) -> bool:
    """Returns whether a schema certainly has more than `MAX_SCHEMA_CHARACTERS` as JSON.

    Counts only a lower bound of the length, without encoding the schema.
    """
    characters, waiting = 0, [schema]
    while waiting and characters <= MAX_SCHEMA_CHARACTERS:
        part = waiting.pop()
        if isinstance(part, str):
            characters += len(part) + len('""')
            continue
        if isinstance(part, dict):
            characters += sum(map(len, part)) + len('"": ') * len(part)
            part = part.values()
        characters += len(", ") * len(part)
        waiting.extend([value for value in part if isinstance(value, str | list | dict)])
    return characters > MAX_SCHEMA_CHARACTERS


def _compile(schema: str) -> Validator:
    try:
        return ClientSchema(parse_json(schema))
    except (TooMuchWork, BadSchema) as error:
        return UncheckedSchema(f"the client's schema is not checked: {error}")
    except (ValueError, RecursionError) as error:
        return UncheckedSchema(f"the client's schema is not valid: {error}")
