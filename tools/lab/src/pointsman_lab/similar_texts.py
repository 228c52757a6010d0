"""Cluster requests that fit no task, because a cluster suggests a missing task; and find near-duplicate examples across
tasks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pointsman_gateway.classification.words import words_of
from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]  # it ships no types

MOST_TEXTS = 5_000
"""Maximum number of distinct texts; their distance table takes 100 MB."""
APART = 0.65
"""Mean cosine distance above which two clusters are not merged."""
FEWEST_TEXTS = 3
"""Minimum number of distinct texts in a listed cluster."""
REPRESENTATIVES = 3
NAME_WORDS = 4
SHORTEST_WORD = 3


@dataclass(frozen=True, slots=True)
class Group:
    requests: int
    texts: tuple[str, ...]
    """Distinct texts, the most typical first."""
    words: tuple[str, ...]
    """Words that are frequent in the cluster and rare elsewhere: candidates for a task name."""
    tightness: float
    """Mean cosine similarity of the texts to their centroid."""


def groups_of(
    counts: Mapping[str, int], vectors: NDArray[np.float32], others: Iterable[str], apart: float = APART
) -> list[Group]:
    """Cluster texts, given with their request counts, largest cluster first. `vectors` has shape (texts, dimensions)
    and unit rows in the same order. `others` are texts of known tasks. Texts unlike all others belong to no cluster."""
    texts = list(counts)
    if len(texts) < FEWEST_TEXTS:
        return []
    # Average linkage: a chain of pairwise similar texts does not become one cluster.
    numbers = fcluster(linkage(vectors, "average", "cosine"), apart, "distance")
    everywhere = _Frequency([*texts, *others])
    groups = []
    for number in np.unique(numbers):
        rows = np.flatnonzero(numbers == number)
        if len(rows) >= FEWEST_TEXTS:
            groups.append(_group([texts[row] for row in rows], counts, vectors[rows], everywhere))
    return sorted(groups, key=lambda group: (-group.requests, group.texts))


def _group(
    texts: Sequence[str], counts: Mapping[str, int], vectors: NDArray[np.float32], everywhere: "_Frequency"
) -> Group:
    centre = vectors.mean(axis=0)
    cosines = vectors @ (centre / np.linalg.norm(centre))
    typical = tuple(texts[row] for row in np.argsort(-cosines, kind="stable"))
    return Group(sum(counts[text] for text in texts), typical, _words(texts, everywhere), float(cosines.mean()))


class _Frequency:
    """Document frequency of words in a set of texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = len(texts)
        self.counts = Counter(word for text in texts for word in set(words_of(text)))

    def share(self, word: str) -> float:
        return self.counts[word] / self._texts


def _words(texts: Sequence[str], everywhere: _Frequency) -> tuple[str, ...]:
    """Return words that occur in at least two of the cluster's texts, sorted by how much more frequent they are there
    than elsewhere."""
    inside = _Frequency(texts)
    scores = {
        word: inside.share(word) * float(np.log(inside.share(word) / everywhere.share(word)))
        for word, count in inside.counts.items()
        if count > 1 and len(word) >= SHORTEST_WORD and word.isalpha()
    }
    return tuple(sorted(scores, key=lambda word: (-scores[word], word))[:NAME_WORDS])


ALIKE = 0.88
"""Cosine similarity from which two texts are near duplicates."""
ROWS_AT_ONCE = 512
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


def near_duplicates(examples: Sequence[Example], vectors: NDArray[np.float32], alike: float = ALIKE) -> list[Pair]:
    """Find near duplicates across tasks, most similar first. `vectors` has shape (examples, dimensions) and unit rows."""
    tasks = np.array([example.task for example in examples])
    pairs = [
        Pair(examples[i], examples[j], cosine)
        for start in range(0, len(examples), ROWS_AT_ONCE)
        for i, j, cosine in _alike(tasks, vectors, start, alike)
    ]
    return sorted(pairs, key=lambda pair: -pair.cosine)


def _alike(
    tasks: NDArray[np.str_], vectors: NDArray[np.float32], start: int, alike: float
) -> Iterator[tuple[int, int, float]]:
    """Compare the rows from `start` with all later rows."""
    cosines = vectors[start : start + ROWS_AT_ONCE] @ vectors.T
    for row, column in np.argwhere(cosines >= alike):
        if start + row < column and tasks[start + row] != tasks[column]:
            yield int(start + row), int(column), float(cosines[row, column])
