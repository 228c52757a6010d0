"""Regular expressions of the configuration that search untrusted texts, limited in time."""

from time import thread_time

SEARCH_TIMEOUT_SECONDS = 0.05
"""Seconds for the searches of one request or answer. A pattern such as `(a+)+$` could search for years, and would block
all other requests."""


class BadPattern(ValueError):
    """A pattern is not a valid regular expression."""


class SearchTimeout(Exception):
    """The search for a pattern took too long."""


class SearchBudget:
    """The CPU time that several searches have together."""

    def __init__(self, seconds: float = SEARCH_TIMEOUT_SECONDS) -> None:
        self._end = thread_time() + seconds

    @property
    def left(self) -> float:
        """Returns the seconds that are left, 0 if none are."""
        return max(self._end - thread_time(), 0.0)


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
        """Returns whether the pattern is found in the text; raises SearchTimeout."""
        try:
            if timeout > 0:
                return self._compiled.search(text, timeout=timeout) is not None
        except TimeoutError:
            pass
        raise SearchTimeout(f"the search for {self.text!r} was given up after {SEARCH_TIMEOUT_SECONDS * 1000:.0f} ms")
