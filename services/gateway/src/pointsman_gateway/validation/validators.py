"""The validators `complete`, `regex` and `mean_logprob`."""

from statistics import fmean
from typing import Annotated, Literal

import regex
from pydantic import Field

from pointsman_gateway.extensions import Choice, Validator

CUT_OFF = {
    "length": "cut off at its longest",
    "content_filter": "cut off by a filter",
    "abort": "broken off",
    "error": "broken off",
}
"""Objections by the engine's finish reason."""

MAX_SEARCHED_CHARACTERS = 65_536
"""A pattern does not search the text after them."""
SEARCH_TIMEOUT = 0.05
"""Seconds for one search. A pattern such as `(a+)+$` could search for years, and would block all other requests."""


class Complete(Validator):
    """Refuses an empty choice, and one that was cut off."""

    Options = Literal[True]
    checks_format = False

    def __init__(self, options: bool) -> None:
        pass

    def objection(self, choice: Choice) -> str | None:
        if choice.finish_reason in CUT_OFF:
            return CUT_OFF[choice.finish_reason]
        return None if choice.text.strip() or choice.calls_tools else "empty"


class BadPattern(ValueError):
    """The pattern is not a valid regular expression."""


class SearchTimeout(Exception):
    """The search took too long."""


class Pattern:
    """A regular expression for untrusted texts. It uses the `regex` library, since `re` cannot be interrupted."""

    def __init__(self, text: str) -> None:
        """Raises BadPattern."""
        try:
            self._compiled = regex.compile(text)
        except regex.error as error:
            raise BadPattern(f"bad regex {text!r}: {error}") from error
        self.text = text

    def is_found_in(self, text: str) -> bool:
        """Raises SearchTimeout."""
        try:
            return self._compiled.search(text[:MAX_SEARCHED_CHARACTERS], timeout=SEARCH_TIMEOUT) is not None
        except TimeoutError as error:
            limit = f"{SEARCH_TIMEOUT * 1000:.0f} ms"
            raise SearchTimeout(f"the search for {self.text!r} was given up after {limit}") from error


class Regex(Validator):
    """Refuses a choice in which the pattern is not found."""

    Options = str

    def __init__(self, options: str) -> None:
        """Raises BadPattern."""
        self._pattern = Pattern(options)

    def objection(self, choice: Choice) -> str | None:
        if choice.only_calls_tools:
            return None
        try:
            return None if self._pattern.is_found_in(choice.text) else f"{self._pattern.text!r} is not found"
        except SearchTimeout as error:
            return str(error)


class MeanLogprob(Validator):
    """Refuses a choice whose tokens have a low mean log-probability."""

    Options = Annotated[float, Field(le=0)]
    checks_format = False
    needs_logprobs = True

    def __init__(self, options: float) -> None:
        self._minimum = options

    def objection(self, choice: Choice) -> str | None:
        """Refuse the choice also if the engine does not report log-probabilities."""
        if not choice.logprobs:
            return None if choice.only_calls_tools else "the engine told no log-probabilities"
        mean = fmean(choice.logprobs)
        return None if mean >= self._minimum else f"{mean:.3f}, under {self._minimum:.3f}"
