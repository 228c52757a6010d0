"""The small tokenizer of the multilingual encoder gives the tokens that `tokenizers` gives."""

import random
import time

import pytest
from pointsman_embedding.unigram import UnigramTokenizer, full_tokenizer

WORDS = ["▁", "a", "b", "ab", "ba", "▁a", "▁ab", "bab", "aba", "é", "电", "火车", "▁火", "fi", "."]
VOCABULARY = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [
    (word, -(4 + number**0.5) / len(word)) for number, word in enumerate(WORDS)
]
"""Longer tokens are more probable, and a text's best split into tokens is never ambiguous."""
BEGIN, END, UNKNOWN = 0, 2, 3


@pytest.fixture(scope="module")
def tokenizer() -> UnigramTokenizer:
    return UnigramTokenizer(VOCABULARY, BEGIN, END, UNKNOWN)


def test_every_text_gets_the_same_tokens_from_both(tokenizer: UnigramTokenizer) -> None:
    full, rng = full_tokenizer(VOCABULARY, BEGIN, END, UNKNOWN), random.Random(5)
    characters = "aaabbbé电火车.  \t\n\x02\x0b\u200b\u2581\ufeff\u0085e\u0301ﬁ½xyz😀"
    texts = ["".join(rng.choices(characters, k=rng.randrange(60))) for _ in range(3000)]
    assert [tokenizer.encode(text) for text in texts] == [full.encode(text).ids for text in texts]
    assert sum(UNKNOWN in tokenizer.encode(text) for text in texts) > 1000


def test_neighbouring_unknown_characters_are_one_token(tokenizer: UnigramTokenizer) -> None:
    assert tokenizer.encode("axyzb") == [BEGIN, 4 + WORDS.index("▁a"), UNKNOWN, 4 + WORDS.index("b"), END]
    assert tokenizer.encode("") == [BEGIN, END]


def test_a_long_text_without_spaces_takes_time_in_proportion(tokenizer: UnigramTokenizer) -> None:
    times = []
    for size in (20_000, 80_000):
        started = time.thread_time()
        assert len(tokenizer.encode("ab" * (size // 2))) > size / 4
        times.append(time.thread_time() - started)
    assert times[1] < 12 * times[0] + 0.05
