"""Removes the language from sentence vectors, so that a text and its translation are nearer to each other.

The vectors of multilingual-e5-small are all similar (unrelated sentences have a cosine of 0.8), and two sentences of
one language are even more similar: a classifier with English examples would find all other texts unusual. The method is
a simple form of Yang et al., A Simple and Effective Method to Eliminate the Self Language Bias in Multilingual
Representations (2021).
"""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

MIN_LENGTH = 1e-12


@dataclass(frozen=True, slots=True)
class LanguageAxes:
    """Removes from a text's vector the part that depends only on the text's language."""

    mean: Array
    """The mean vector of sentences in all languages, (dimensions,)."""
    axes: Array
    """Orthonormal directions in which the mean vectors of the languages differ, (languages - 1, dimensions)."""

    @classmethod
    def learn(cls, embed: Callable[[Sequence[str]], Array]) -> "LanguageAxes":
        """Computes `mean` and `axes` from the vectors of the same sentences in several languages
        (`parallel_sentences`).

        `embed` returns the vectors (texts, dimensions) of texts. Takes half a second with multilingual-e5-small.
        """
        means = np.stack([embed(sentences).mean(axis=0) for sentences in parallel_sentences().values()])
        mean = means.mean(axis=0)
        return cls(mean, np.linalg.svd(means - mean, full_matrices=False)[2][: len(means) - 1])

    def remove_from(self, vector: Array) -> Array:
        """Returns `vector` (dimensions,) without `mean` and without its components along `axes`, scaled to length 1."""
        centered = vector - self.mean
        neutral = centered - (self.axes @ centered) @ self.axes
        return np.asarray(neutral / max(float(np.linalg.norm(neutral)), MIN_LENGTH), np.float32)


def parallel_sentences() -> dict[str, list[str]]:
    """Returns language -> sentences; the lists have the same sentences in the same order, translated."""
    return tomllib.loads(sentences_file().decode())


def sentences_file() -> bytes:
    return files(__package__).joinpath("parallel_sentences.toml").read_bytes()
