"""Texts to the terms that are searched: words, without case and accents, brought to their English stems.

A name in code is the word that it is, and each of those that it is made of: `read_file` and `readFile` are found by
"read a file" too.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

import Stemmer

MAX_QUERY_WORDS = 256  # of a long query; BM25 gains nothing from more, and each costs a look at its postings

_WORD = re.compile(r"\w+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")  # of a name: HTTPServer2 is HTTP, Server, 2
_MAX_CACHED_STEMS = 100_000  # stems kept; a vocabulary without end is forgotten now and then

# Question words, and words that say nothing of the topic. They are dropped from queries only, for in a document's
# passage they may be part of a name.
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
    """For any thread: the interpreter lets one of them at the stemmer at a time."""

    def __init__(self) -> None:
        self._stemmer = Stemmer.Stemmer("english")
        self._stems: dict[str, str] = {}

    def of_text(self, text: str) -> Counter[str]:
        return Counter(self._stemmed(_words(text)))

    def of_query(self, text: str) -> Counter[str]:
        """A text of stop words alone keeps them. A word that comes twice counts twice, as a topic does."""
        words = _words(text)
        telling = [word for word in words if word not in _STOP_WORDS] or words
        return Counter(self._stemmed(telling[:MAX_QUERY_WORDS]))

    def _stemmed(self, words: Iterable[str]) -> list[str]:
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


def _words(text: str) -> list[str]:
    if not text.isascii():
        apart = unicodedata.normalize("NFKD", text)
        text = "".join(character for character in apart if not unicodedata.combining(character))
    words: list[str] = []
    for word in _WORD.findall(text):
        if word.islower() and "_" not in word:  # as nearly all are
            words.append(word)
        elif word.strip("_"):
            words += _split_identifier(word)
    return words


def _split_identifier(name: str) -> list[str]:
    """A name as a whole, and what it is made of where that is something else."""
    whole = [name.lower()]
    parts = [part.lower() for part in _PART.findall(name)] if name.isascii() else whole
    return whole if parts == whole else whole + parts
