"""Which language a text is in, as far as that is beyond doubt: an English request must never be sent away."""

import re
import unicodedata
from collections.abc import Collection

import pycld2

from pointsman_gateway.classification.english import OF_ENGLISH_ALONE

NONE, ANOTHER_SCRIPT = "none", "another script"
"""Of a text without a letter or a digit; of one in other letters than the examples', where no more can be said."""

LEAST_WORDS = 4
"""Fewer are names as often as not: "time in tokyo" would be Danish."""

LEAST_SHARE = 20
"""Percent of a text in a language of the examples that let it pass, whatever else it quotes."""

ENGLISH_SHARE = 0.12
"""Of the words: a text with that many that no other language has is English, though it may quote another at length."""

_OTHER_SCRIPTS = frozenset(
    ["am", "ar", "be", "bg", "bn", "el", "fa", "gu", "he", "hi", "hy", "ja", "ka", "kk", "km", "kn", "ko", "ky", "lo",
     "mk", "ml", "mn", "mr", "my", "ne", "pa", "ps", "ru", "si", "sr", "ta", "te", "tg", "th", "ti", "uk", "ur", "yi",
     "zh"]
)  # fmt: skip
"""Languages that are not written in Latin letters."""

_NAMES = {"iw": "he", "jw": "jv", "nb": "no", "zh-Hant": "zh", "sco": "en"}
"""CLD2's names that are out of use, or finer than a configuration's."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


class Languages:
    """Those that the examples are written in."""

    def __init__(self, known: Collection[str]) -> None:
        """ISO 639-1 codes; without any, every text passes."""
        self._known = frozenset(known)
        self._latin_only = not self._known & _OTHER_SCRIPTS

    def foreign(self, text: str) -> str:
        """The text's language where it is none of those, "" where it is one of them or cannot be told."""
        if not any(map(str.isalnum, text)):
            return NONE
        if not self._known:
            return ""
        words = _WORD.findall(text)
        script = self._latin_only and not text.isascii() and _mostly_other_letters(words)
        if not script and (len(words) < LEAST_WORDS or self._is_english(words)):
            return ""
        found = _detected(text)
        if script:
            return next(iter(found), ANOTHER_SCRIPT)
        if not found or any(found.get(language, 0) >= LEAST_SHARE for language in self._known):
            return ""
        return next(iter(found))

    def _is_english(self, words: list[str]) -> bool:
        if "en" not in self._known:
            return False
        telling = sum(map(OF_ENGLISH_ALONE.__contains__, map(str.lower, words)))
        return telling >= ENGLISH_SHARE * len(words)


def _mostly_other_letters(words: list[str]) -> bool:
    letters = "".join(words)
    other = sum(not letter.isascii() and "LATIN" not in unicodedata.name(letter, "") for letter in letters)
    return 2 * other > len(letters)


def _detected(text: str) -> dict[str, int]:
    """Percent of the text by language, most first; nothing where the detector is not sure."""
    try:
        sure, _, found = pycld2.detect(text.encode("utf-8", "ignore"))
    except pycld2.error:  # it takes only what may be exchanged as text
        return {}
    return {_NAMES.get(code, code): percent for _, code, percent, _ in found if percent} if sure else {}
