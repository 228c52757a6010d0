"""Where in decoded JSON a wrong value stands."""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel, model_validator

MAX_NAME = 100
"""Characters of a field's name that an error message repeats."""


def first_place(data: Any, is_wrong: Callable[[Any], bool], within: str = "") -> str | None:
    """The place of the first wrong name, string or number, as in "messages[0].content", or None if all are right.

    Of a wrong name it is the place of its object. `within` is the place of `data` itself. Takes time linear in the
    size of `data`: the text is made only once the place has been found.
    """
    steps = _steps_to(data, is_wrong)
    if steps is None:
        return None
    place = within
    for step in reversed(steps):
        place += f"[{step}]" if isinstance(step, int) else f"{'.' if place else ''}{step[:MAX_NAME]}"
    return place


def _steps_to(data: Any, is_wrong: Callable[[Any], bool]) -> list[int | str] | None:
    """The names and indexes that lead to the first wrong value, the innermost first."""
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
            steps = _steps_to(value, is_wrong)
            if steps is not None:
                return [*steps, step]
        elif is_wrong(value):
            return [step]
    return None


_encode_finite = json.JSONEncoder(allow_nan=False, check_circular=False).encode


def refuse_infinite(passed_on: Any, within: str = "") -> None:
    """Of what goes to an engine as it came; `within` is where it stands. Raises InvalidArgument with the place."""
    try:
        _encode_finite(passed_on)
    except ValueError as error:
        param = first_place(passed_on, _is_infinite, within) or within
        told = f"'{param}' is no number that JSON has: neither NaN nor infinite, and at most about 1.8e308"
        raise InvalidArgument(told, code="bad_parameter", param=param) from error


def _is_infinite(number: Any) -> bool:
    return isinstance(number, float) and not math.isfinite(number)


_encode_text = msgspec.json.Encoder().encode


def refuse_half_characters(data: Any) -> None:
    """Checks what Python's json has read. Raises InvalidArgument with the place of the first lone surrogate."""
    try:
        _encode_text(data)
    except UnicodeEncodeError as error:
        param = first_place(data, _is_half) or None
        where = f"'{param}'" if param else "the body"
        raise InvalidArgument(f"{where} holds half a character", code="bad_text", param=param) from error


class WholeCharacters(BaseModel):
    """A body that FastAPI reads."""

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, data: Any) -> Any:
        refuse_half_characters(data)
        return data


def _is_half(text: Any) -> bool:
    if not isinstance(text, str):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
