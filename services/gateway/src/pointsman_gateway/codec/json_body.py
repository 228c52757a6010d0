"""Decodes JSON from clients, and rejects two kinds of values that Python accepts but that cannot be sent to an engine.

One kind is a lone surrogate, half of a surrogate pair ("\\ud800"): JSON can write it, but UTF-8 cannot. The other kind
is a number that is not finite: Python's decoder reads NaN and Infinity, which JSON does not have, and turns numbers out
of range such as 1e999 into Infinity.
"""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from pointsman_servicekit.errors import InvalidArgument

MAX_NAME_CHARACTERS = 100
"""Maximum number of characters of a field's name in an error message."""

_decode = msgspec.json.Decoder().decode
_encode_finite = json.JSONEncoder(allow_nan=False, check_circular=False).encode
_encode_text = msgspec.json.Encoder().encode


def decode_json(text: bytes, param: str = "") -> Any:
    """Decodes JSON that `check_body` has accepted. `param` names the parameter that holds the JSON; it is empty if the
    JSON is the body itself.

    Raises InvalidArgument if the JSON is malformed, or has a lone surrogate or a number that is not finite.
    """
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    # Python's own decoder accepts more than JSON, and has better messages for what it rejects.
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"'{param}'" if param else "the body"
        raise InvalidArgument(f"{what} is not JSON: {error}", code="bad_json", param=param or None) from error
    _reject_surrogates(data, param)
    _reject_non_finite(data, param)
    return data


def _reject_non_finite(data: Any, path: str) -> None:
    """Raises InvalidArgument if decoded JSON holds NaN or an infinite number; `path` is as in `find_json_path`."""
    try:
        _encode_finite(data)
    except ValueError as error:
        param = find_json_path(data, _is_non_finite, path) or path
        message = f"'{param}' is no number that JSON has: neither NaN nor infinite, and at most about 1.8e308"
        raise InvalidArgument(message, code="bad_parameter", param=param) from error


def _reject_surrogates(data: Any, path: str) -> None:
    """Raises InvalidArgument if decoded JSON holds a lone surrogate; `path` is as in `find_json_path`."""
    try:
        _encode_text(data)
    except UnicodeEncodeError as error:
        param = find_json_path(data, _has_surrogate, path) or None
        where = f"'{param}'" if param else "the body"
        raise InvalidArgument(
            f"{where} holds half of a surrogate pair, which is no character", code="bad_text", param=param
        ) from error


def find_json_path(data: Any, is_wrong: Callable[[Any], bool], path: str = "") -> str | None:
    """Returns the location of the first wrong value in decoded JSON, such as "messages[0].content"; None if no value is
    wrong.

    `is_wrong` decides which values are wrong. It is called with the names in objects, and with all values other than
    objects and lists. The location of a wrong name is that of its object. Locations begin with `path`, the location of
    `data` itself.
    """
    steps = _find_steps(data, is_wrong)
    if steps is None:
        return None
    for step in reversed(steps):
        path += f"[{step}]" if isinstance(step, int) else f"{'.' if path else ''}{step[:MAX_NAME_CHARACTERS]}"
    return path


def _find_steps(data: Any, is_wrong: Callable[[Any], bool]) -> list[int | str] | None:
    """Returns the names and indexes that lead to the first wrong value, the innermost first; None if there is none."""
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
