"""Guesses whether the user or someone else wrote a part of a text.

The guess is based on the part's name (its tag, heading, label or field) or on its wording. The known names and phrases
are those of `labels.toml`.
"""

import re
from enum import Enum, auto
from functools import lru_cache
from itertools import takewhile

from pointsman_gateway.classification.wrappers import labels_file

MAX_NAME_WORDS = 5
MIN_END_OF_COMPOUND, MIN_END_WITHOUT_SPACES = 4, 2
"""Minimum number of letters of a listed word that is recognized at the end of a compound word, as "Nachricht" is in
"Kundennachricht": the first for Latin and similar scripts, the second for scripts without spaces."""
MAX_CACHED, MAX_RECENT = 4_096, 64
MAX_CACHED_CHARACTERS = 80

_FILE = labels_file()["parts"]
_INSTRUCTION = re.compile(  # for a text in lower case: with IGNORECASE a search takes three times as long
    rf"\b(?:{'|'.join(_FILE['instructions'])})\b|^(?:{'|'.join(_FILE['openings'])})\b"
    rf"|{'|'.join(_FILE['instructions_without_spaces'])}"
)
_WORD = re.compile(r"[^\W\d_]+(?:[\u0900-\u0dff]+[^\W\d_]*)*")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_HEADERS = frozenset(_FILE["headers"])
_NEVER_OF_USER = frozenset(_FILE["never_of_user"])
_ROLES = frozenset(_FILE["roles"])
_OF_MODEL, _PREPOSITIONS = frozenset(_FILE["of_model"]), frozenset(_FILE["prepositions"])


class Author(Enum):
    USER = auto()
    EARLIER = auto()
    """The user wrote the text earlier in the conversation, and a history in the prompt repeats it."""
    UNKNOWN = auto()
    HISTORY = auto()
    """The text is a history of the conversation; some of its parts may be the user's."""
    OTHERS = auto()


_AUTHORS = {
    **dict.fromkeys(_FILE["of_others"], Author.OTHERS),
    **dict.fromkeys(_FILE["of_history"], Author.HISTORY),
    **dict.fromkeys(_FILE["of_user"], Author.USER),
}


@lru_cache(MAX_RECENT)
def instructs_model(text: str) -> bool:
    """Returns whether a text reads like an instruction to a model."""
    return bool(_INSTRUCTION.search(text.lower()))


def author_of(name: str, *, is_heading: bool = False) -> Author:
    """Returns who wrote a text, guessed from the `name` of its tag, heading, label or field.

    Returns `Author.UNKNOWN` if no word of the name shows an author. `is_heading` says whether the name is a heading:
    headings such as "user prompt" describe a prompt, and so do not show that the user wrote the text.
    """
    if len(name) > MAX_CACHED_CHARACTERS:  # a sentence
        return Author.UNKNOWN
    return _author_of(name, is_heading)


def within(outer: Author, inner: Author) -> Author:
    """Returns the author of a part of a text, when the text around the part has an author as well.

    `outer` is the author of the surrounding text, and `inner` the author that the part's own name shows. Inside a text
    of `Author.OTHERS` or `Author.EARLIER`, every part has this same author. Inside a history of the conversation, a
    part of the user becomes `Author.EARLIER`.
    """
    if outer is Author.HISTORY:
        return Author.EARLIER if inner is Author.USER else outer
    return outer if outer in (Author.OTHERS, Author.EARLIER) or inner is Author.UNKNOWN else inner


def is_role(name: str) -> bool:
    """Returns whether a name is exactly the name of a role in a conversation, such as "Human"."""
    return name.lower() in _ROLES


@lru_cache(MAX_CACHED)
def _author_of(name: str, is_heading: bool) -> Author:
    words = _WORD.findall(_CAMEL.sub(" ", name).lower())
    if len(words) > MAX_NAME_WORDS:  # a sentence
        return Author.UNKNOWN
    if " ".join(words) in _HEADERS or not _NEVER_OF_USER.isdisjoint(words):
        return Author.OTHERS
    head = list(takewhile(lambda word: word not in _PREPOSITIONS, words))  # "policy" of "policy for user messages"
    author = next((found for word in reversed(head) if (found := _author_of_word(word)) is not None), Author.UNKNOWN)
    is_of_prompt = is_heading and not _OF_MODEL.isdisjoint(words)
    return Author.UNKNOWN if is_of_prompt and author is Author.USER else author


def _author_of_word(word: str) -> Author | None:
    """Returns who writes texts that are named by `word`, such as `Author.USER` for "question".

    The words are those of `labels.toml`; a compound counts as the listed word that it ends in, so "Kundennachricht" as
    "Nachricht". Returns None for any other word.
    """
    least = MIN_END_OF_COMPOUND if word[:1] < "\u0900" else MIN_END_WITHOUT_SPACES
    ends = (word, *(word[start:] for start in range(1, len(word) - least + 1)))
    return next((_AUTHORS[end] for end in ends if end in _AUTHORS), None)
