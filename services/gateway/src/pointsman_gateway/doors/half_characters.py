"""JSON can write a lone surrogate ("\\ud800"); no text can hold one, so nothing behind a door could."""

from collections.abc import Iterator
from typing import Any

import msgspec
from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel, model_validator

_encode = msgspec.json.Encoder().encode


def refuse_half_characters(data: Any) -> None:
    """Of what Python's json has read. Raises InvalidArgument with the place of the first."""
    try:
        _encode(data)
    except UnicodeEncodeError as error:
        param = next(_places(data, ""), "") or None
        where = f"'{param}'" if param else "the body"
        raise InvalidArgument(f"{where} holds half a character", code="bad_text", param=param) from error


class WholeCharacters(BaseModel):
    """A body that FastAPI reads."""

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, data: Any) -> Any:
        refuse_half_characters(data)
        return data


def _places(data: Any, at: str) -> Iterator[str]:
    if isinstance(data, str):
        if _is_half(data):
            yield at
    elif isinstance(data, list):
        for number, one in enumerate(data):
            yield from _places(one, f"{at}[{number}]")
    elif isinstance(data, dict):
        for name, one in data.items():
            if _is_half(name):
                yield at
            else:
                yield from _places(one, f"{at}.{name}" if at else name)


def _is_half(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
