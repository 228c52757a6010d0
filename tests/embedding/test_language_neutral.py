"""The part of a vector that depends on its sentence's language is learned from translations, and removed."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from pointsman_embedding.language_neutral import LanguageAxes, parallel_sentences

DIMENSIONS = 64


class Biased:
    """An encoder whose vector of a sentence is the sum of its meaning, a large vector of its language, and one that all
    sentences share.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        sentences = parallel_sentences()
        self.meanings = rng.normal(0, 0.3, (8, DIMENSIONS))
        biases = rng.normal(0, 1, (len(sentences), DIMENSIONS)) + rng.normal(0, 3, DIMENSIONS)
        self._vectors = {
            text: meaning + bias
            for bias, texts in zip(biases, sentences.values(), strict=True)
            for text, meaning in zip(texts, self.meanings, strict=True)
        }

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.stack([self._vectors[text] for text in texts]).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def neutral(languages: LanguageAxes, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([languages.remove_from(vector) for vector in vectors])


def test_every_language_has_the_same_sentences_once() -> None:
    sentences = parallel_sentences()
    assert len(sentences) == 16
    assert {len(texts) for texts in sentences.values()} == {8}
    texts = [text for some in sentences.values() for text in some]
    assert len({*texts}) == len(texts)


@pytest.mark.parametrize("language", ["de", "zh", "hi", "ar"])
def test_translations_are_near_afterwards_and_other_sentences_are_not(language: str) -> None:
    encoder, sentences = Biased(), parallel_sentences()
    english, other = encoder.embed(sentences["en"]), encoder.embed(sentences[language])
    languages = LanguageAxes.learn(encoder.embed)
    before, after = english @ other.T, neutral(languages, english) @ neutral(languages, other).T
    assert np.diag(after).mean() > 0.9
    unrelated = ~np.eye(len(after), dtype=bool)
    assert abs(after[unrelated].mean()) < 0.2 < before[unrelated].mean()


def test_vectors_keep_length_one_and_one_of_the_mean_alone_is_no_error() -> None:
    encoder = Biased()
    languages = LanguageAxes.learn(encoder.embed)
    vectors = neutral(languages, encoder.embed(parallel_sentences()["en"]))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.isfinite(languages.remove_from(languages.mean)).all()
