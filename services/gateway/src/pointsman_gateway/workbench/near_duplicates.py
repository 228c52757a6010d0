"""Examples of different tasks that say nearly the same: one of the two is probably in the wrong file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
