"""Classifies one text: detects other languages first, and classifies a long text by its first and last sentence.

One of these two sentences usually says what the sender wants done with the text between them.
"""

import importlib
import importlib.util
import logging
import re
import tomllib
import unicodedata
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from importlib.resources import files
from typing import Any, Protocol

from pointsman_gateway.classification.excerpt import CHARACTERS_PER_END, character_excerpt, is_binary, visible
from pointsman_gateway.classification.spoken_words import APOSTROPHES, SpokenWords
from pointsman_gateway.domain import UNKNOWN, Labels

log = logging.getLogger(__name__)

_CLD2: Any = importlib.import_module("pycld2") if importlib.util.find_spec("pycld2") else None
"""The language detector's module; None if its package `pycld2` is not installed. There is no wheel of it for Linux with
arm64, nor for Python 3.14.
"""

_ENGLISH = tomllib.loads(files(__package__).joinpath("english.toml").read_text("utf-8"))

FOLLOW_UP_OPENINGS: tuple[str, ...] = tuple(_ENGLISH["follow_up_openings"])

NO_LANGUAGE = "none"
"""Returned by `LanguageDetector.foreign` for a text without a letter or a digit."""
ANOTHER_SCRIPT = "another script"
"""Returned by `LanguageDetector.foreign` for a text in another script than the examples', if the language is
unknown.
"""

ANOTHER_LANGUAGE = "another language"
"""Returned by `LanguageDetector.foreign` for a text of few words, most of them unknown.

The text may be a name, and a more exact language would be a guess.
"""
UNFAMILIAR_NOTE = f"language: {ANOTHER_LANGUAGE}"

MIN_WORDS = 4
"""Texts of fewer words are not given to the language detector. Often they are names: "time in tokyo" would be detected
as Danish.
"""

MIN_SHARE_PERCENT = 20
"""A text is not foreign if at least this percentage of it is in a language of the examples, whatever else it quotes."""

ENGLISH_SHARE = 0.12
"""A text is English if at least this share of its words occurs in English only, even if it quotes another language at
length.
"""

MIN_MARGIN = 0.5
"""A classification is sure if the difference between the two highest probabilities is at least this number.

It was chosen on tests/gateway/development_conversations.jsonl.
"""

FAILED_NOTE = "the embedding endpoint failed"

_MAX_SENTENCE_CHARACTERS = 240
_MIN_SENTENCE_CHARACTERS = 30
"""A shorter sentence, such as "Hi there.", is read together with the next one."""

_SENTENCE_ENDS = re.compile(r"(?<=[.!?:])\s+|\n+")
_APOSTROPHE = re.compile(f"[{APOSTROPHES}]")
_WORDS = SpokenWords(digits=False)

_OTHER_SCRIPTS = frozenset(
    ["am", "ar", "be", "bg", "bn", "el", "fa", "gu", "he", "hi", "hy", "ja", "ka", "kk", "km", "kn", "ko", "ky", "lo",
     "mk", "ml", "mn", "mr", "my", "ne", "pa", "ps", "ru", "si", "sr", "ta", "te", "tg", "th", "ti", "uk", "ur", "yi",
     "zh"]
)  # fmt: skip
"""Languages that are not written in Latin letters."""

_CODES = {"iw": "he", "jw": "jv", "nb": "no", "zh-Hant": "zh", "sco": "en"}
"""Replacements for CLD2's language codes that are obsolete, or finer than the codes of the configuration."""

LONG_CHARACTERS = 600
"""A text of more characters is a letter, a listing or a pasted page, and is classified by its first and last
sentence.
"""


def _english(name: str) -> frozenset[str]:
    return frozenset(_ENGLISH[name].split())


ENGLISH_ONLY = _english("english_only")
INFORMAL = _english("informal")
NO_CONTENT = _english("no_content")
THANKS = _english("thanks")
COURTESIES = THANKS | _english("courtesies")
REFERENCES = _english("references")


class LanguageDetector:
    """Detects texts that are in another language than the examples of the tasks.

    An uncertain detection does not count, so that no request in a known language is left unclassified.
    """

    def __init__(self, known: Collection[str], knows_word: Callable[[str], bool] | None = None) -> None:
        """Takes the ISO 639-1 codes of the examples' languages (`known`); if there are none, every text is accepted.

        `knows_word` tells whether a lower-case word is English or one of the examples'. A text of fewer than
        `MIN_WORDS` words is judged by its script alone if `knows_word` is None, or if `known` is not English alone.
        """
        self._known = frozenset(known)
        self._knows_word = knows_word if self._known == {"en"} else None
        if self._known and _CLD2 is None:
            log.warning("pycld2 is not installed: other languages are recognized by their script alone")
        self._latin_only = not self._known & _OTHER_SCRIPTS

    def foreign(self, text: str) -> str:
        """Returns the ISO 639-1 code of a text's language if it is surely none of the examples' languages; otherwise
        "".

        Returns `ANOTHER_SCRIPT` or `ANOTHER_LANGUAGE` if the text is foreign but its language is unknown, and
        `NO_LANGUAGE` if the text has no letter and no digit.
        """
        if not any(map(str.isalnum, text)):
            return NO_LANGUAGE
        if not self._known:
            return ""
        words = _WORDS.find(text.lower())
        other_script = self._latin_only and not text.isascii() and _is_mostly_other_letters(words)
        if not other_script and len(words) < MIN_WORDS:
            return ANOTHER_LANGUAGE if self._is_unfamiliar(text, words) else ""
        if not other_script and self._is_english(words):
            return ""
        detected = _detect(text)
        if other_script:
            return next(iter(detected), ANOTHER_SCRIPT)
        if not detected or any(detected.get(language, 0) >= MIN_SHARE_PERCENT for language in self._known):
            return ""
        return next(iter(detected))

    def _is_unfamiliar(self, text: str, words: list[str]) -> bool:
        """Returns whether at most half of the words are known, and the detector's best guess is another language."""
        knows = self._knows_word
        if knows is None or not words:
            return False
        stems = (max(_APOSTROPHE.split(word), key=len) for word in words)
        known = sum(stem in INFORMAL or knows(stem) for stem in stems)
        return 2 * known <= len(words) and _best_guess(text) not in self._known | {""}

    def _is_english(self, words: list[str]) -> bool:
        if "en" not in self._known:
            return False
        count = sum(map(ENGLISH_ONLY.__contains__, words))
        return count >= ENGLISH_SHARE * len(words)


class Classify(Protocol):
    def __call__(self, text: str, /, *, is_foreign: bool = False) -> Awaitable[Labels]:
        """Classifies a text. `is_foreign` means that the text is in another language than the examples: then the
        classifier's encoder stage decides alone.
        """
        ...


class Reader:
    """Classifies single texts of any length in bounded time.

    It abstains from texts without letters and digits. Unless the encoder is multilingual, it also abstains from texts
    that are surely in another language than the examples.
    """

    def __init__(self, classify: Classify, languages: LanguageDetector, is_multilingual: bool = False) -> None:
        self._classify, self._languages, self._is_multilingual = classify, languages, is_multilingual

    def with_classifier(self, classify: Classify) -> "Reader":
        """Returns a copy of this reader that classifies texts with the function `classify`, and detects the same
        languages.
        """
        return Reader(classify, self._languages, self._is_multilingual)

    async def read(self, text: str) -> Labels:
        """Classifies a text of any length.

        A text of more than `LONG_CHARACTERS` characters is classified twice: by its first and by its last sentence. The
        labels with the higher in-distribution score are the result if they are sure (`is_sure`). If not, the text is
        classified as a whole.
        """
        if len(text) <= LONG_CHARACTERS:
            return await self.classify_once(text)
        language, abstained = self._language_of(text)
        if abstained:
            return abstained
        ends = [await self._classify(end, is_foreign=bool(language)) for end in _outer_sentences(text)]
        surest = max(ends, key=lambda labels: labels.in_distribution_score)
        if not is_sure(surest):
            return await self._classify(text, is_foreign=bool(language))
        where = "first" if surest is ends[0] else "last"
        note = f"read by its {where} sentence, of {len(text)} characters"
        return replace(surest, notes=(*surest.notes, note))

    async def classify_once(self, text: str) -> Labels:
        """Returns the labels of a text, classified as a whole by at most one call of the classifier.

        Without a call, returns an abstention if the text is binary or has no letters or digits, or if it is in another
        language than the examples and the encoder is not multilingual.
        """
        language, abstained = self._language_of(text)
        if abstained:
            return abstained
        shown = visible(text) if len(text) <= LONG_CHARACTERS else text
        return await self._classify(shown, is_foreign=bool(language))

    def _language_of(self, text: str) -> tuple[str, Labels | None]:
        """Returns (language, labels) of a text. The language is "" for one of the examples' languages.

        The labels are an abstention if the text must not be classified, otherwise None.
        """
        excerpt = character_excerpt(text)
        language = NO_LANGUAGE if is_binary(excerpt.text) else self._languages.foreign(visible(excerpt.text))
        if not language or (self._is_multilingual and language != NO_LANGUAGE):
            return language, None
        return language, abstention("language", f"language: {language}", *excerpt.notes)


def is_sure(labels: Labels) -> bool:
    return not labels.abstained and labels.margin >= MIN_MARGIN


def abstention(stage: str, *notes: str) -> Labels:
    """Returns labels that assign no task and have no probabilities.

    `stage` names what decided to abstain (see `Labels.stage`), and `notes` give the reasons.
    """
    return Labels(UNKNOWN, 0.0, (), abstained=True, stage=stage, notes=notes)


def _is_mostly_other_letters(words: list[str]) -> bool:
    letters = "".join(words)
    other = sum(not letter.isascii() and "LATIN" not in unicodedata.name(letter, "") for letter in letters)
    return 2 * other > len(letters)


def _detect(text: str) -> dict[str, int]:
    """Returns the percentage of the text by language, largest first; empty if the detector is not sure."""
    if _CLD2 is None:
        return {}
    try:
        sure, _, found = _CLD2.detect(text.encode("utf-8", "ignore"))
    except _CLD2.error:  # it rejects bytes that are not valid for text interchange
        return {}
    return {_CODES.get(code, code): percent for _, code, percent, _ in found if percent} if sure else {}


def _best_guess(text: str) -> str:
    """Returns the language detector's best guess for a short text, which is often wrong; "" if it has none."""
    if _CLD2 is None:
        return ""
    try:
        _, _, found = _CLD2.detect(text.encode("utf-8", "ignore"), bestEffort=True)
    except _CLD2.error:
        return ""
    return next((_CODES.get(code, code) for _, code, percent, _ in found if percent), "")


def _outer_sentences(text: str) -> tuple[str, str]:
    first = _SENTENCE_ENDS.split(visible(text[:CHARACTERS_PER_END]).strip())
    last = _SENTENCE_ENDS.split(visible(text[-CHARACTERS_PER_END:]).strip())
    return (
        _join_short(first)[:_MAX_SENTENCE_CHARACTERS],
        _join_short(last[::-1], prepend=True)[-_MAX_SENTENCE_CHARACTERS:],
    )


def _join_short(sentences: list[str], prepend: bool = False) -> str:
    """Joins sentences, in their order, until the result has `_MIN_SENTENCE_CHARACTERS`.

    With `prepend`, each further sentence is put before the result.
    """
    joined = ""
    for sentence in sentences:
        if len(joined) >= _MIN_SENTENCE_CHARACTERS:
            break
        joined = (f"{sentence} {joined}" if prepend else f"{joined} {sentence}").strip()
    return joined
