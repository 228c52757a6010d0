"""The validator `regex`: a pattern is found in the answer."""

from pointsman_gateway.validation.patterns import Pattern, TookTooLong
from pointsman_gateway.validation.transcript import Choice


class Regex:
    name = "regex"

    def __init__(self, text: str) -> None:
        """Raises BadPattern."""
        self._pattern = Pattern(text)

    def objection(self, choice: Choice) -> str | None:
        if choice.only_calls_tools:
            return None
        try:
            return None if self._pattern.is_found_in(choice.text) else f"{self._pattern.text!r} is not found"
        except TookTooLong as error:
            return str(error)
