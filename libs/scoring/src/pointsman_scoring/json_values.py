"""JSON values, told apart as JSON tells them apart."""

import json
from typing import Any

Leaf = tuple[str, Any]
"""A type and a value: Python alone holds True for equal to 1."""

NOTHING: Any = object()
"""What stands for a text that is not JSON: None is JSON's null."""


def parsed(text: str) -> Any:
    """The value that `text` is, all of it; NOTHING where it is no JSON, or nested too deeply to read."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NOTHING


def structure(expected: Any) -> Any:
    """The object or array that is expected, written as a value or as its text; NOTHING where it is something else."""
    value = parsed(expected) if isinstance(expected, str) else expected
    return value if isinstance(value, dict | list) else NOTHING


def leaves(value: Any) -> dict[tuple[str | int, ...], Leaf]:
    """Every field by where it stands: keys and positions. An empty object or array is a field itself."""
    found: dict[tuple[str | int, ...], Leaf] = {}
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        where, inner = waiting.pop()
        if isinstance(inner, dict) and inner:
            waiting += [((*where, key), item) for key, item in inner.items()]
        elif isinstance(inner, list) and inner:
            waiting += [((*where, index), item) for index, item in enumerate(inner)]
        else:
            found[where] = _leaf(inner)
    return found


def _leaf(value: Any) -> Leaf:
    if isinstance(value, dict | list):
        return type(value).__name__, ()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", value
    return type(value).__name__, value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
