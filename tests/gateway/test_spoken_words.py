"""Words with apostrophes are found in the same way in every text, whether it is split by the table or the pattern."""

import random
import re

import pytest
from pointsman_gateway.classification.spoken_words import SpokenWords

CHARACTERS = "ab'’1_ \n\t.-\x1c\x00é"


@pytest.mark.parametrize(("digits", "character"), [(False, r"[^\W\d_]"), (True, r"[^\W_]")])
def test_words_are_runs_of_characters_with_apostrophes_between_them(digits: bool, character: str) -> None:
    words, expected = SpokenWords(digits=digits), re.compile(f"{character}+(?:['’]{character}+)*")
    generator = random.Random(1)
    for _ in range(20_000):
        text = "".join(generator.choices(CHARACTERS, k=generator.randrange(14)))
        assert words.find(text) == expected.findall(text), text


def test_an_apostrophe_at_the_end_of_a_word_is_not_its_part() -> None:
    assert SpokenWords(digits=True).find("don't say 'no' to the 3 kids' mum") == [
        "don't", "say", "no", "to", "the", "3", "kids", "mum"
    ]  # fmt: skip
