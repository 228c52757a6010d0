"""Splits text into search terms: the stems of its words, by English rules, in lower case and without accents.

An ASCII identifier in code yields itself and the words it consists of: "read a file" also finds `read_file` and
`readFile`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

import Stemmer

MAX_QUERY_WORDS = 256  # more do not improve BM25, and each costs a lookup of its postings

_WORD = re.compile(r"\w+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")  # of an identifier: HTTPServer2 is HTTP, Server, 2
_MAX_CACHED_STEMS = 100_000  # the cache is cleared when it holds more

# Question words and other words without a topic. They are removed from queries only: in a document they may be part
# of a name.
_STOP_WORDS = frozenset(
    _WORD.findall(
        """
        a about am an and any are as at be been being but by can could did do does for from had has have he her hers him
        his how i if in into is it its just me may might must my of on or our ours please shall she should so some such
        than that the their theirs them then there these they this those to too us was we were what when where which who
        whom whose why will with would you your yours
        ain aren couldn d didn doesn don hadn hasn haven isn ll m re s shouldn t ve wasn weren won wouldn
        """
    )
)


class TermAnalyzer:
    """Splits texts into search terms (stems of words), and counts how often each occurs. Any thread may use it."""

    def __init__(self) -> None:
        self._stemmer = Stemmer.Stemmer("english")
        self._stems: dict[str, str] = {}

    def document_terms(self, text: str) -> Counter[str]:
        return Counter(self._stem(_split_words(text)))

    def query_terms(self, text: str) -> Counter[str]:
        """Counts the terms in the first `MAX_QUERY_WORDS` words of a query, without stop words.

        If the query consists of stop words only, the stop words are counted.
        """
        words = _split_words(text)
        topical = [word for word in words if word not in _STOP_WORDS] or words
        return Counter(self._stem(topical[:MAX_QUERY_WORDS]))

    def _stem(self, words: Iterable[str]) -> list[str]:
        if len(self._stems) > _MAX_CACHED_STEMS:
            self._stems = {}
        stems = self._stems
        found = []
        for word in words:
            stem = stems.get(word)
            if stem is None:
                stem = stems[word] = self._stemmer.stemWord(word)
            found.append(stem)
        return found


def _split_words(text: str) -> list[str]:
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(character for character in decomposed if not unicodedata.combining(character))
    words: list[str] = []
    for word in _WORD.findall(text):
        if word.islower() and "_" not in word:  # true for nearly all words
            words.append(word)
        elif word.strip("_"):
            words += _split_identifier(word)
    return words


def _split_identifier(name: str) -> list[str]:
    """Returns the whole name in lower case, followed by its parts if it has several; a name not in ASCII has none."""
    whole = [name.lower()]
    parts = [part.lower() for part in _PART.findall(name)] if name.isascii() else whole
    return whole if parts == whole else whole + parts
