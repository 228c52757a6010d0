"""The classes that the classifier's linear heads tell apart, and the tasks to which the classes belong.

A task whose examples have intents (finer labels) has several classes; any other task is one class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.classification.scores import Floats


@dataclass(frozen=True, slots=True)
class TaskClasses:
    """The classes of all tasks, in the tasks' order. A task without intents (finer labels of its examples) has one
    class.
    """

    starts: NDArray[np.intp]
    """The number of each task's first class, (tasks,)."""
    count: int
    """The number of classes of all tasks together."""

    @classmethod
    def of_counts(cls, counts: Sequence[int]) -> "TaskClasses":
        """Makes the classes from `counts`: the number of classes of each task, 1 or more, in the tasks' order."""
        ends = np.cumsum(counts)
        return cls(np.asarray(ends - counts, np.intp), int(ends[-1]))

    @property
    def are_tasks(self) -> bool:
        """Returns whether no task has intents, so that a class is a task."""
        return self.count == len(self.starts)

    @property
    def sizes(self) -> NDArray[np.intp]:
        """Returns the number of each task's classes, (tasks,)."""
        return np.diff(self.starts, append=self.count)

    def probabilities_of_tasks(self, of_classes: Floats) -> Floats:
        """Sums probabilities of classes, (..., classes), to those of tasks, (..., tasks)."""
        if self.are_tasks:
            return of_classes
        return np.asarray(np.add.reduceat(of_classes, self.starts, axis=-1))

    def logits_of_tasks(self, of_classes: Floats) -> Floats:
        """Converts logits of classes, (..., classes), to those of tasks, (..., tasks), whose softmax is the sum of the
        classes' probabilities.
        """
        if self.are_tasks:
            return of_classes
        most = np.maximum.reduceat(of_classes, self.starts, axis=-1)
        exponentials = np.exp(of_classes - np.repeat(most, self.sizes, axis=-1))
        return np.asarray(most + np.log(np.add.reduceat(exponentials, self.starts, axis=-1)))

    def best_tasks(self, logits: Floats, temperature: float) -> NDArray[np.intp]:
        """Returns the numbers of the most probable tasks, (...), by the logits of the classes, (..., classes)."""
        if self.are_tasks:
            return np.asarray(logits.argmax(axis=-1))
        return np.asarray(self.logits_of_tasks(logits * np.float32(1 / temperature)).argmax(axis=-1))
