"""Patterns of the configuration over texts that a model wrote: their search is bounded in length and in time."""

import regex

LONGEST = 65_536
"""Characters that are searched; what stands behind them is not seen."""
PATIENCE = 0.05
"""Seconds; a pattern such as `(a+)+$` could search for years, and everybody would wait."""


class BadPattern(ValueError):
    """It cannot be compiled."""


class TookTooLong(Exception):
    """The search was given up."""


class Pattern:
    """Python's syntax; the `regex` library's engine, since that of `re` cannot be stopped."""

    def __init__(self, text: str) -> None:
        """Raises BadPattern."""
        try:
            self._compiled = regex.compile(text)
        except regex.error as error:
            raise BadPattern(f"bad regex {text!r}: {error}") from error
        self.text = text

    def is_found_in(self, text: str) -> bool:
        """Raises TookTooLong."""
        try:
            return self._compiled.search(text[:LONGEST], timeout=PATIENCE) is not None
        except TimeoutError as error:
            raise TookTooLong(f"the search for {self.text!r} was given up after {PATIENCE * 1000:.0f} ms") from error
