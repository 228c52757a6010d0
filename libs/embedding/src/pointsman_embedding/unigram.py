"""Splits texts into the tokens of XLM-RoBERTa's vocabulary, in a fifth of the memory that the package `tokenizers`
takes.

The tokens are the same as those of `tokenizers` (tests/embedding/test_multilingual.py). That package builds a trie of
250,000 tokens, 250 MB in each process of the gateway, so it is used only for finding the place of each token in a text.
"""

import re
import unicodedata
from array import array
from collections.abc import Sequence
from functools import lru_cache

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

Vocabulary = Sequence[tuple[str, float]]
"""Tokens with their log probabilities; a token's id is its index."""

SPACE = "▁"
"""The character with which the first token of each word begins."""
IGNORED = "[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"
SPACES = "[\u1680\u200b-\u200f\u2581\ufeff\ufffd]"
"""A regular expression for characters that separate words, in addition to those that Unicode lists as white space."""

UNKNOWN_PENALTY = 10.0
"""The log probability of an unknown character is this much below that of the rarest token; SentencePiece's constant."""
MAX_CACHED_WORDS = 16_384
MAX_CACHED_CHARACTERS = 40

_IGNORED, _SPACES = re.compile(IGNORED), re.compile(SPACES)


class UnigramTokenizer:
    """Splits each word into the tokens whose probabilities have the highest product (Kudo, "Subword Regularization",
    2018).
    """

    def __init__(self, vocabulary: Vocabulary, begin: int, end: int, unknown: int) -> None:
        self._numbers = {token: number for number, (token, _) in enumerate(vocabulary)}
        self._scores = array("f", [score for _, score in vocabulary])
        self._unknown_score = min(self._scores) - UNKNOWN_PENALTY
        self._longest = max(map(len, self._numbers))
        self._begin, self._end, self._unknown = begin, end, unknown
        self._cached = lru_cache(MAX_CACHED_WORDS)(self._split)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text's tokens; the first and the last id are those of the tokens for begin and end."""
        text = unicodedata.normalize("NFKC", _SPACES.sub(" ", _IGNORED.sub("", text)))
        numbers = [self._begin]
        for word in text.split():
            split = self._cached if len(word) <= MAX_CACHED_CHARACTERS else self._split
            numbers += split(SPACE + word)
        return [*numbers, self._end]

    def _split(self, word: str) -> Sequence[int]:
        """Finds the best tokens of a word by dynamic programming over the beginnings of the word."""
        best, last = [0.0, *[float("-inf")] * len(word)], [(0, self._unknown)] * (len(word) + 1)
        for start in range(len(word)):
            score = best[start]
            for end in range(start + 1, min(start + self._longest, len(word)) + 1):
                number = self._numbers.get(word[start:end])
                if number is not None and score + self._scores[number] > best[end]:
                    best[end], last[end] = score + self._scores[number], (start, number)
            if score + self._unknown_score > best[start + 1]:
                best[start + 1], last[start + 1] = score + self._unknown_score, (start, self._unknown)
        return self._trace(last)

    def _trace(self, last: Sequence[tuple[int, int]]) -> Sequence[int]:
        """Returns the tokens of a word, by following the links from its end; neighbouring unknown tokens become one."""
        place, numbers = len(last) - 1, list[int]()
        while place > 0:
            place, number = last[place]
            if number != self._unknown or not numbers or numbers[-1] != self._unknown:
                numbers.append(number)
        return tuple(reversed(numbers))


def full_tokenizer(vocabulary: Vocabulary, begin: int, end: int, unknown: int) -> Tokenizer:
    """Builds a tokenizer of the package `tokenizers`, which also reports where in the text each token is.

    The tokenizer neither truncates nor pads. `begin`, `end` and `unknown` are the ids of the tokens before and after a
    text and of the token for unknown characters.
    """
    tokenizer = Tokenizer(models.Unigram(list(vocabulary), unk_id=unknown))
    ignored, spaces = normalizers.Replace(Regex(IGNORED), ""), normalizers.Replace(Regex(SPACES), " ")
    tokenizer.normalizer = normalizers.Sequence([ignored, spaces, normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    first, last = vocabulary[begin][0], vocabulary[end][0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, begin), (last, end)]
    )
    return tokenizer
