"""Regular expressions of the configuration that search untrusted texts, limited in time."""

from time import thread_time

SEARCH_TIMEOUT_SECONDS = 0.05
"""Seconds for the searches of one request or answer. A pattern such as `(a+)+$` could search for years, and would block
all other requests."""


class BadPattern(ValueError):
    """A pattern is not a valid regular expression."""


class SearchTimeout(Exception):
    """The search for a pattern took too long, and was aborted."""


class Pattern:
    """A regular expression for untrusted texts, with the `regex` library, since `re` cannot be interrupted."""

    def __init__(self, text: str) -> None:
        """Compiles the pattern; raises BadPattern."""
        import regex  # 1 MB, only for a configuration with a pattern

        try:
            self._compiled = regex.compile(text)
        except regex.error as error:
            raise BadPattern(f"bad regex {text!r}: {error}") from error
        self.text = text

    def is_found_in(self, text: str, timeout: float = SEARCH_TIMEOUT_SECONDS) -> bool:
        """Returns whether the text contains a match; raises SearchTimeout after `timeout` seconds."""
        try:
            return self._compiled.search(text, timeout=timeout) is not None
        except TimeoutError:
            raise self.given_up() from None

    def given_up(self) -> SearchTimeout:
        """Returns the error for a search that takes too long."""
        return SearchTimeout(f"the search for {self.text!r} was given up after {SEARCH_TIMEOUT_SECONDS * 1000:.0f} ms")


class SearchBudget:
    """Limits the CPU time of several searches together, for example all those of one request."""

    def __init__(self, seconds: float = SEARCH_TIMEOUT_SECONDS) -> None:
        self._left = seconds

    def finds(self, pattern: Pattern, text: str) -> bool:
        """Returns whether the text contains a match; raises SearchTimeout once the time of all searches is used up."""
        if self._left <= 0:
            raise pattern.given_up()
        began = thread_time()
        try:
            return pattern.is_found_in(text, self._left)
        finally:
            self._left -= thread_time() - began
