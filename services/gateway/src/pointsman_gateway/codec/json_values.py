"""Rejects JSON values that cannot be passed on to an engine: lone surrogates and non-finite numbers.

JSON can write half of a surrogate pair ("\\ud800"), which no UTF-8 text can hold. Python's decoder also reads NaN,
Infinity and numbers out of range such as 1e999, which JSON does not have.
"""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from pointsman_servicekit.errors import InvalidArgument

MAX_NAME_CHARACTERS = 100
"""Characters of a field's name that an error message repeats."""

_encode_finite = json.JSONEncoder(allow_nan=False, check_circular=False).encode
_encode_text = msgspec.json.Encoder().encode


def reject_non_finite(data: Any, path: str = "") -> None:
    """Raises InvalidArgument if decoded JSON holds a number that is NaN or infinite; `path` is the path of `data`."""
    try:
        _encode_finite(data)
    except ValueError as error:
        param = find_json_path(data, _is_non_finite, path) or path
        message = f"'{param}' is no number that JSON has: neither NaN nor infinite, and at most about 1.8e308"
        raise InvalidArgument(message, code="bad_parameter", param=param) from error


def reject_surrogates(data: Any) -> None:
    """Raises InvalidArgument if decoded JSON holds a lone surrogate in a name or a string."""
    try:
        _encode_text(data)
    except UnicodeEncodeError as error:
        param = find_json_path(data, _has_surrogate) or None
        where = f"'{param}'" if param else "the body"
        raise InvalidArgument(f"{where} holds half a character", code="bad_text", param=param) from error


def find_json_path(data: Any, is_wrong: Callable[[Any], bool], path: str = "") -> str | None:
    """The path of the first wrong name, string or number, as in "messages[0].content"; None if all are right.

    For a wrong name it is the path of its object. `path` is the path of `data` itself. The time is linear in the size
    of `data`.
    """
    steps = _find_steps(data, is_wrong)
    if steps is None:
        return None
    for step in reversed(steps):
        path += f"[{step}]" if isinstance(step, int) else f"{'.' if path else ''}{step[:MAX_NAME_CHARACTERS]}"
    return path


def _find_steps(data: Any, is_wrong: Callable[[Any], bool]) -> list[int | str] | None:
    """The names and indexes that lead to the first wrong value, from the innermost to the outermost."""
    members: Iterable[tuple[int | str, Any]]
    if isinstance(data, dict):
        if any(map(is_wrong, data)):
            return []
        members = data.items()
    elif isinstance(data, list):
        members = enumerate(data)
    else:
        return [] if is_wrong(data) else None
    for step, value in members:
        if isinstance(value, (list, dict)):
            steps = _find_steps(value, is_wrong)
            if steps is not None:
                return [*steps, step]
        elif is_wrong(value):
            return [step]
    return None


def _is_non_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _has_surrogate(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False
