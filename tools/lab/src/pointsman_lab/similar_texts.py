"""Cluster requests that fit no task, because a cluster suggests a missing task; and find near-duplicate examples across
tasks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pointsman_gateway.classification.words import words_of
from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]  # it ships no types

MAX_TEXTS = 5_000
"""Maximum number of distinct texts; their distance table takes 100 MB."""
MAX_CLUSTER_DISTANCE = 0.65
"""Mean cosine distance above which two clusters are not merged."""
MIN_CLUSTER_TEXTS = 3
"""Minimum number of distinct texts in a listed cluster."""
REPRESENTATIVES = 3
NAME_WORDS = 4
SHORTEST_WORD = 3


@dataclass(frozen=True, slots=True)
class Cluster:
    requests: int
    texts: tuple[str, ...]
    """Distinct texts, the most typical first."""
    words: tuple[str, ...]
    """Words that are frequent in the cluster and rare elsewhere: candidates for a task name."""
    tightness: float
    """Mean cosine similarity of the texts to their centroid."""


def cluster_texts(
    counts: Mapping[str, int], vectors: NDArray[np.float32], others: Iterable[str], apart: float = MAX_CLUSTER_DISTANCE
) -> list[Cluster]:
    """Cluster texts, given with their request counts, largest cluster first. `vectors` has shape (texts, dimensions)
    and unit rows in the same order. `others` are texts of known tasks. Texts unlike all others belong to no cluster."""
    texts = list(counts)
    if len(texts) < MIN_CLUSTER_TEXTS:
        return []
    # Average linkage: a chain of pairwise similar texts does not become one cluster.
    numbers = fcluster(linkage(vectors, "average", "cosine"), apart, "distance")
    everywhere = _DocumentFrequency([*texts, *others])
    groups = []
    for number in np.unique(numbers):
        rows = np.flatnonzero(numbers == number)
        if len(rows) >= MIN_CLUSTER_TEXTS:
            groups.append(_group([texts[row] for row in rows], counts, vectors[rows], everywhere))
    return sorted(groups, key=lambda group: (-group.requests, group.texts))


def _group(
    texts: Sequence[str], counts: Mapping[str, int], vectors: NDArray[np.float32], everywhere: "_DocumentFrequency"
) -> Cluster:
    centre = vectors.mean(axis=0)
    cosines = vectors @ (centre / np.linalg.norm(centre))
    typical = tuple(texts[row] for row in np.argsort(-cosines, kind="stable"))
    return Cluster(sum(counts[text] for text in texts), typical, _words(texts, everywhere), float(cosines.mean()))


class _DocumentFrequency:
    """Document frequency of words in a set of texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = len(texts)
        self.counts = Counter(word for text in texts for word in set(words_of(text)))

    def share(self, word: str) -> float:
        return self.counts[word] / self._texts


def _words(texts: Sequence[str], everywhere: _DocumentFrequency) -> tuple[str, ...]:
    """Return words that occur in at least two of the cluster's texts, sorted by how much more frequent they are there
    than elsewhere."""
    inside = _DocumentFrequency(texts)
    scores = {
        word: inside.share(word) * float(np.log(inside.share(word) / everywhere.share(word)))
        for word, count in inside.counts.items()
        if count > 1 and len(word) >= SHORTEST_WORD and word.isalpha()
    }
    return tuple(sorted(scores, key=lambda word: (-scores[word], word))[:NAME_WORDS])


MIN_DUPLICATE_SIMILARITY = 0.88
"""Cosine similarity from which two texts are near duplicates."""
ROWS_PER_BLOCK = 512
"""Rows of the similarity matrix computed at once, which bounds memory."""


@dataclass(frozen=True, slots=True)
class Example:
    """An example with its file and line, so that people can find it."""

    text: str
    task: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Pair:
    one: Example
    other: Example
    cosine: float


def near_duplicates(
    examples: Sequence[Example], vectors: NDArray[np.float32], alike: float = MIN_DUPLICATE_SIMILARITY
) -> list[Pair]:
    """Find near duplicates across tasks, most similar first. `vectors`: unit rows, (examples, dimensions)."""
    tasks = np.array([example.task for example in examples])
    pairs = [
        Pair(examples[i], examples[j], cosine)
        for start in range(0, len(examples), ROWS_PER_BLOCK)
        for i, j, cosine in _alike(tasks, vectors, start, alike)
    ]
    return sorted(pairs, key=lambda pair: -pair.cosine)


def _alike(
    tasks: NDArray[np.str_], vectors: NDArray[np.float32], start: int, alike: float
) -> Iterator[tuple[int, int, float]]:
    """Compare the rows from `start` with all later rows."""
    cosines = vectors[start : start + ROWS_PER_BLOCK] @ vectors.T
    for row, column in np.argwhere(cosines >= alike):
        if start + row < column and tasks[start + row] != tasks[column]:
            yield int(start + row), int(column), float(cosines[row, column])
