"""JSON can write a lone surrogate ("\\ud800"); no text can hold one, so nothing behind a door could."""

from typing import Any

import msgspec
from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel, model_validator

from pointsman_gateway.http.places import first_place

_encode = msgspec.json.Encoder().encode


def refuse_half_characters(data: Any) -> None:
    """Checks what Python's json has read. Raises InvalidArgument with the place of the first lone surrogate."""
    try:
        _encode(data)
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
