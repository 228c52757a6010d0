"""Regular expressions from the configuration, which search untrusted texts for a limited time."""

from time import thread_time

SEARCH_TIMEOUT_SECONDS = 0.05
"""Maximum seconds for all pattern searches of one request or answer. A pattern such as `(a+)+$` could search for years,
and would block all other requests."""


class BadPattern(ValueError):
    """Raised if a pattern is not a valid regular expression."""


class SearchTimeout(Exception):
    """Raised if a search for a pattern was aborted, or was not started, because its time was used up."""


class Pattern:
    """A regular expression for untrusted texts. It uses the `regex` library, since a search by `re` has no timeout."""

    def __init__(self, text: str) -> None:
        """Compiles the pattern `text`; raises BadPattern if it is no valid regular expression."""
        import regex  # 1 MB, only for a configuration with a pattern

        try:
            self._compiled = regex.compile(text)
        except regex.error as error:
            raise BadPattern(f"bad regex {text!r}: {error}") from error
        self.text = text

    def is_found_in(self, text: str, timeout: float = SEARCH_TIMEOUT_SECONDS) -> bool:
        """Returns whether the text contains a match; raises SearchTimeout if the search takes more than `timeout`
        seconds.
        """
        try:
            return self._compiled.search(text, timeout=timeout) is not None
        except TimeoutError:
            raise self.given_up() from None

    def given_up(self) -> SearchTimeout:
        """Returns the exception to raise when a search for this pattern has no time left."""
        return SearchTimeout(f"the search for {self.text!r} was given up after {SEARCH_TIMEOUT_SECONDS * 1000:.0f} ms")


class SearchBudget:
    """Limits the total CPU time of several searches, for example of all searches for one request."""

    def __init__(self, seconds: float = SEARCH_TIMEOUT_SECONDS) -> None:
        """Takes the maximum CPU seconds, of the calling thread, for all searches together."""
        self._left = seconds

    def finds(self, pattern: Pattern, text: str) -> bool:
        """Returns whether the text contains a match of `pattern`.

        Raises SearchTimeout if all searches together have used up the CPU time.
        """
        if self._left <= 0:
            raise pattern.given_up()
        began = thread_time()
        try:
            return pattern.is_found_in(text, self._left)
        finally:
            self._left -= thread_time() - began
