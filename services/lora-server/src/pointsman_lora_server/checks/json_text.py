"""JSON that came from elsewhere: read strictly, so that no two readers can take it for two things."""

import json
from collections.abc import Mapping
from typing import Any

DEEPEST = 64


def parse_object(raw: bytes) -> dict[str, Any]:
    """Raises ValueError, which says what is wrong: no JSON object, a key twice, NaN, no UTF-8, nested too deep."""
    try:
        values = json.loads(raw.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_each_once)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    if _depth(values) > DEEPEST:
        raise ValueError("it is nested too deep")
    canonical(values)  # half a surrogate pair, "\ud800", is JSON and no text
    return values


def canonical(values: Mapping[str, Any]) -> bytes:
    """The same content as always the same bytes."""
    return (json.dumps(values, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        ]
    return deepest


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")
        found[key] = value
    return found
