"""A validator that refuses long answers."""

from typing import Annotated

from pointsman_gateway.extensions import Choice, Validator
from pydantic import Field


class MaxWords(Validator):
    Options = Annotated[int, Field(ge=1)]

    def __init__(self, options: int) -> None:
        self._max_words = options

    def objection(self, choice: Choice) -> str | None:
        words = len(choice.text.split())
        return f"{words} words, at most {self._max_words} are allowed" if words > self._max_words else None
