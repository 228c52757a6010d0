"""Finds similar texts: groups of requests without a task that may be a missing task, and near-duplicate examples."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pointsman_gateway.classification.words import words_of
from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]  # it ships no types

MAX_TEXTS = 5_000
"""The maximum number of different texts that are grouped; their distance matrix then takes 100 MB."""
MAX_GROUP_DISTANCE = 0.65
"""The maximum mean cosine distance at which two clusters of texts are merged."""
MIN_GROUP_TEXTS = 3
"""A group with fewer different texts is not listed."""
REPRESENTATIVES = 3
NAME_WORDS = 4
MIN_WORD_CHARACTERS = 3
MIN_SIMILARITY = 0.88
"""Two examples of different tasks are listed as near-duplicates from this cosine similarity on."""
ROWS_AT_ONCE = 512
"""The number of rows of the similarity matrix that are computed at once, which limits the memory."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group of requests with similar texts for which the classifier found no task; the group may be a missing
    task.
    """

    requests: int
    """The number of requests whose text is one of `texts`."""
    texts: tuple[str, ...]
    """The different texts of the group, the most typical first."""
    words: tuple[str, ...]
    """Words that are frequent in this group and rare elsewhere: suggestions for the task's name."""
    tightness: float
    """Mean cosine similarity of the texts to their centroid."""


def group_texts(
    counts: Mapping[str, int],
    vectors: NDArray[np.float32],
    known_texts: Iterable[str],
    max_distance: float = MAX_GROUP_DISTANCE,
) -> list[Group]:
    """Groups texts with similar embeddings; returns the groups, the one with the most requests first.

    `counts` maps each text to its number of requests. `vectors` are the texts' embeddings in the same order, (texts,
    dimensions), each of length 1. `known_texts` are examples of existing tasks; words that are frequent in them are not
    suggested as names. Clusters are merged while their mean cosine distance is at most `max_distance`. Clusters of
    fewer than MIN_GROUP_TEXTS texts are left out.
    """
    texts = list(counts)
    if len(texts) < MIN_GROUP_TEXTS:
        return []
    # Average linkage: single linkage would join a chain of texts of which only neighbours are similar.
    numbers = fcluster(linkage(vectors, "average", "cosine"), max_distance, "distance")
    overall = _WordFrequency([*texts, *known_texts])
    groups = []
    for number in np.unique(numbers):
        rows = np.flatnonzero(numbers == number)
        if len(rows) >= MIN_GROUP_TEXTS:
            groups.append(_group([texts[row] for row in rows], counts, vectors[rows], overall))
    return sorted(groups, key=lambda group: (-group.requests, group.texts))


def _group(
    texts: Sequence[str], counts: Mapping[str, int], vectors: NDArray[np.float32], overall: "_WordFrequency"
) -> Group:
    centroid = vectors.mean(axis=0)
    cosines = vectors @ (centroid / np.linalg.norm(centroid))
    typical = tuple(texts[row] for row in np.argsort(-cosines, kind="stable"))
    return Group(sum(counts[text] for text in texts), typical, _words(texts, overall), float(cosines.mean()))


class _WordFrequency:
    """For some texts, the fraction of the texts that contain each word."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = len(texts)
        self.counts = Counter(word for text in texts for word in set(words_of(text)))

    def fraction(self, word: str) -> float:
        return self.counts[word] / self._texts


def _words(texts: Sequence[str], overall: _WordFrequency) -> tuple[str, ...]:
    """Returns the words that at least two texts contain; words that are much more frequent here than overall come
    first.
    """
    inside = _WordFrequency(texts)
    scores = {
        word: inside.fraction(word) * float(np.log(inside.fraction(word) / overall.fraction(word)))
        for word, count in inside.counts.items()
        if count > 1 and len(word) >= MIN_WORD_CHARACTERS and word.isalpha()
    }
    return tuple(sorted(scores, key=lambda word: (-scores[word], word))[:NAME_WORDS])


@dataclass(frozen=True, slots=True)
class Example:
    """An example message of a task, with the file and the line that it is in."""

    text: str
    task: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class SimilarPair:
    """Two examples of different tasks with nearly the same meaning: one of them is probably in the wrong task."""

    one: Example
    other: Example
    cosine: float


def near_duplicates(
    examples: Sequence[Example], vectors: NDArray[np.float32], min_similarity: float = MIN_SIMILARITY
) -> list[SimilarPair]:
    """Returns the pairs of examples of different tasks whose cosine similarity is `min_similarity` or more.

    The most similar pair is the first. `vectors` are the examples' embeddings, (examples, dimensions), each of length
    1.
    """
    tasks = np.array([example.task for example in examples])
    pairs = [
        SimilarPair(examples[i], examples[j], cosine)
        for start in range(0, len(examples), ROWS_AT_ONCE)
        for i, j, cosine in _similar(tasks, vectors, start, min_similarity)
    ]
    return sorted(pairs, key=lambda pair: -pair.cosine)


def _similar(
    tasks: NDArray[np.str_], vectors: NDArray[np.float32], start: int, min_similarity: float
) -> Iterator[tuple[int, int, float]]:
    """Yields (row, row, similarity) of similar examples of different tasks.

    The rows of a block, which begins at row `start`, are compared with all later rows.
    """
    cosines = vectors[start : start + ROWS_AT_ONCE] @ vectors.T
    for row, column in np.argwhere(cosines >= min_similarity):
        if start + row < column and tasks[start + row] != tasks[column]:
            yield int(start + row), int(column), float(cosines[row, column])
