"""A few typical vectors for each task, whose nearest is nearly as telling as the nearest of all examples."""

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.classification.softmax_regression import Floats

FEWEST, MOST = 5, 100
"""For each task. On CLINC150 five tell out-of-scope texts as well as all hundred examples, in 2 % of the time."""

EXAMPLES_FOR_ONE_MORE = 20
"""A task of many examples is a wide one: of 640 triage messages five prototypes are too few."""

ROUNDS = 12


def prototypes_of_tasks(vectors: Floats, y: NDArray[np.intp], tasks: int, seed: int) -> Floats:
    """(prototypes, dimensions) of unit vectors (examples, dimensions)."""
    rng = np.random.default_rng(seed)
    groups = (vectors[y == task] for task in range(tasks))
    return np.concatenate([prototypes(group, _how_many(len(group)), rng) for group in groups if len(group)])


def prototypes(vectors: Floats, count: int, rng: np.random.Generator) -> Floats:
    """(count, dimensions) at most: spherical k-means, begun as k-means++ does (Arthur and Vassilvitskii, 2007)."""
    centres = _begin(vectors, min(count, len(vectors)), rng)
    for _ in range(ROUNDS):
        nearest = (vectors @ centres.T).argmax(axis=1)
        sums = np.stack([vectors[nearest == centre].sum(axis=0) for centre in range(len(centres))])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        moved = np.where(lengths > 0, sums / np.where(lengths > 0, lengths, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return np.asarray(centres, np.float32)


def _how_many(examples: int) -> int:
    return min(max(FEWEST, examples // EXAMPLES_FOR_ONE_MORE), MOST)


def _begin(vectors: Floats, count: int, rng: np.random.Generator) -> Floats:
    chosen = [int(rng.integers(len(vectors)))]
    distance = 1 - vectors @ vectors[chosen[0]]
    while len(chosen) < count:
        chances = np.maximum(distance, 1e-9).astype(np.float64)
        chosen.append(int(rng.choice(len(vectors), p=chances / chances.sum())))
        distance = np.minimum(distance, 1 - vectors @ vectors[chosen[-1]])
    return vectors[chosen]
