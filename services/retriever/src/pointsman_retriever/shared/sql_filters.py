"""Converts metadata filters to SQL conditions of PostgreSQL, with the same results as the in-memory index."""

import json
from collections.abc import Iterable, Mapping
from math import isnan
from typing import Any

from pointsman_retriever.filters import And, Eq, Exists, Filter, In, Not, NumberRange, Or, TextRange

_OPERATORS = {"gte": ">=", "gt": ">", "lte": "<=", "lt": "<"}


def to_condition(root: Filter) -> tuple[str, list[Any]]:
    """Returns a metadata filter as an SQL condition on a row of the documents' table, and the condition's parameters.

    The condition uses the jsonb columns `metadata` and `numbers` (see `parse_numbers`). Its value is never null.
    """
    match root:
        case And(parts) | Or(parts):
            inner = [to_condition(part) for part in parts]
            joined = (" AND " if isinstance(root, And) else " OR ").join(condition for condition, _ in inner)
            return f"({joined})", [value for _, values in inner for value in values]
        case Not(part):
            condition, values = to_condition(part)
            return f"(NOT {condition})", values
        case Eq(key, value):
            return "metadata @> %s::jsonb", [json.dumps({key: value})]
        case In(key, values):
            return "coalesce(metadata ->> %s::text = ANY(%s::text[]), false)", [key, to_array(values)]
        case Exists(key):
            return "jsonb_exists(metadata, %s::text)", [key]
        case NumberRange(key):
            return _range("(numbers ->> %s::text)::float8 {} %s::float8", key, root)
        case TextRange(key):
            return _range('metadata ->> %s::text COLLATE "C" {} %s::text', key, root)


def to_array(texts: Iterable[str]) -> str:
    """Returns texts as an SQL parameter of the type text[], in PostgreSQL's notation with quotes.

    The client library's own conversion would turn the text "null" into a null.
    """
    quoted = ('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts)
    return "{" + ",".join(quoted) + "}"


def parse_numbers(metadata: Mapping[str, str]) -> dict[str, str]:
    """Returns the metadata entries whose values are numbers for Python's `float`, in a notation that PostgreSQL can
    parse.
    """
    found = {}
    for key, value in metadata.items():
        try:
            number = float(value)
        except ValueError:
            continue
        if not isnan(number):
            found[key] = repr(number)
    return found


def _range(template: str, key: str, bounds: NumberRange | TextRange) -> tuple[str, list[Any]]:
    given = [(sign, getattr(bounds, name)) for name, sign in _OPERATORS.items() if getattr(bounds, name) is not None]
    conditions = " AND ".join(template.format(sign) for sign, _ in given)
    return f"coalesce({conditions}, false)", [value for _, bound in given for value in (key, bound)]
