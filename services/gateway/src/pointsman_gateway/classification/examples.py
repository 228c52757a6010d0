"""The texts to learn from: those of the tasks, those of none, and in which fold each is held out."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.classification.extract import Tokens, extract
from pointsman_gateway.classification.words import words_of

FOLDS = 5

FOREIGN = -1
"""In place of a task's number."""


@dataclass(frozen=True, slots=True)
class Examples:
    tasks: tuple[str, ...]
    texts: tuple[str, ...]
    """What the classifier will read of each; the foreign ones last."""
    y: NDArray[np.intp]
    """(texts,): the task's number, or FOREIGN."""
    folds: NDArray[np.intp]
    """(texts,)"""

    @property
    def inside(self) -> NDArray[np.bool_]:
        return np.asarray(self.y != FOREIGN)


def gather(examples: Mapping[str, Sequence[str]], out_of_scope: Sequence[str], tokens: Tokens, seed: int) -> Examples:
    """Raises InvalidArgument where there are not two tasks with an example each."""
    tasks = tuple(sorted(examples))
    empty = [task for task in tasks if not examples[task]]
    if empty:
        raise InvalidArgument(f"task '{empty[0]}' has no examples to learn from", code="no_examples")
    if len(tasks) < 2:
        raise InvalidArgument("a classifier needs two tasks or more to choose between", code="one_task")
    by_task = [[extract(text, tokens).text for text in examples[task]] for task in tasks]
    outside = [extract(text, tokens).text for text in out_of_scope]
    rng = np.random.default_rng(seed)
    folds = np.concatenate([_folds(texts, rng) for texts in [*by_task, outside]])
    y = np.repeat([*range(len(tasks)), FOREIGN], [len(texts) for texts in [*by_task, outside]])
    return Examples(tasks, tuple(text for texts in [*by_task, outside] for text in texts), y, folds)


def digest(examples: Mapping[str, Sequence[str]], out_of_scope: Sequence[str]) -> str:
    """Names the data by content; the order of the tasks is no part of it, that of a task's examples is."""
    canonical = [[task, list(examples[task])] for task in sorted(examples)], list(out_of_scope)
    return hashlib.sha256(json.dumps(canonical).encode()).hexdigest()[:16]


def _folds(texts: Sequence[str], rng: np.random.Generator) -> NDArray[np.intp]:
    """As even as may be; texts of the same words share a fold, or one would give the other away."""
    keys = [" ".join(words_of(text)) for text in texts]
    different = sorted(set(keys))
    dealt = (np.arange(len(different)) + rng.integers(FOLDS)) % FOLDS
    rng.shuffle(dealt)
    fold_of = dict(zip(different, dealt.tolist(), strict=True))
    return np.array([fold_of[key] for key in keys], np.intp)
