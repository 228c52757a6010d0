"""Requests that fit no task but are like each other: they look like a task that nobody has written yet."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pointsman_gateway.classification.words import words_of
from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]  # it ships no types

MOST_TEXTS = 5_000
"""Different ones; the table of their distances takes 100 MB then."""
APART = 0.65
"""Mean cosine distance from which two groups are not one."""
FEWEST_TEXTS = 3
"""Different ones, in a group that is listed."""
REPRESENTATIVES = 3
NAME_WORDS = 4
SHORTEST_WORD = 3


@dataclass(frozen=True, slots=True)
class Group:
    requests: int
    texts: tuple[str, ...]
    """Different ones, the most typical first."""
    words: tuple[str, ...]
    """Frequent in it and rare elsewhere: what a task might be called by."""
    tightness: float
    """The mean cosine of its texts to their centre."""


def groups_of(
    counts: Mapping[str, int], vectors: NDArray[np.float32], others: Iterable[str], apart: float = APART
) -> list[Group]:
    """Of texts, each with how many requests had it; `vectors` (texts, dimensions) in the same order, of length one.

    `others` are texts of known tasks. The largest group comes first; texts that are like no others are in none.
    """
    texts = list(counts)
    if len(texts) < FEWEST_TEXTS:
        return []
    # Average linkage: a chain of texts, each like the next, does not make one group of what is not alike.
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
    """In which share of some texts a word is."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = len(texts)
        self.counts = Counter(word for text in texts for word in set(words_of(text)))

    def share(self, word: str) -> float:
        return self.counts[word] / self._texts


def _words(texts: Sequence[str], everywhere: _Frequency) -> tuple[str, ...]:
    """Those that are in more of its texts than one, by how much more frequent they are in it than everywhere."""
    inside = _Frequency(texts)
    scores = {
        word: inside.share(word) * float(np.log(inside.share(word) / everywhere.share(word)))
        for word, count in inside.counts.items()
        if count > 1 and len(word) >= SHORTEST_WORD and word.isalpha()
    }
    return tuple(sorted(scores, key=lambda word: (-scores[word], word))[:NAME_WORDS])


ALIKE = 0.88
"""Cosine from which two texts are listed."""
ROWS_AT_ONCE = 512
"""Bounds the memory: so many rows of the table of all pairs at a time."""


@dataclass(frozen=True, slots=True)
class Example:
    """Where it stands, for people who are to find it."""

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
    """Pairs across tasks, most alike first; `vectors` are (examples, dimensions), of length one."""
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
    """Of the rows from `start` with any later one."""
    cosines = vectors[start : start + ROWS_AT_ONCE] @ vectors.T
    for row, column in np.argwhere(cosines >= alike):
        if start + row < column and tasks[start + row] != tasks[column]:
            yield int(start + row), int(column), float(cosines[row, column])
