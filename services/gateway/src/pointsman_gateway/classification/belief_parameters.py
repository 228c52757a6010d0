"""The fitted parameters with which `belief.py` computes a conversation's belief.

The belief is the probability that the conversation is about each task, or about no task, after each turn.
"""

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

CONTEXT = 3
"""The number of features that `belief.context_features` returns for a user's turn."""
COUNTS = (4 + CONTEXT, 10 + CONTEXT, 10 + CONTEXT, 3, 2, 1)


@dataclass(frozen=True, slots=True)
class BeliefParameters:
    """Weights for computing a conversation's belief from the features of its turns.

    The weights follow the order of `belief.user_features` and `belief.assistant_features`. In `says`, `stays` and
    `unknown`, weights for the three `belief.context_features` come last; in the first turn these features are 0. The
    sum of weights times features is the quantity that a field's docstring names; for `says` and `assistant_says` the
    quantity is the softplus of the sum. `starts_unknown` is not a weight, but a quantity itself.
    """

    says: tuple[float, ...]
    """Weights of the first 4 features of a user's turn and of its 3 context features. Their quantity is how strongly
    the turn changes the tasks' probabilities.
    """
    stays: tuple[float, ...]
    """Weights of all 10 features of a user's turn and of its 3 context features. Their quantity is the log-odds that
    the conversation has not changed its task.
    """
    unknown: tuple[float, ...]
    """Weights of all 10 features of a user's turn and of its 3 context features. Their quantity is the log-likelihood
    of the turn if the conversation has no task. For comparison, the log-likelihood given a task is 0 if the turn finds
    all tasks equally probable.
    """
    assistant_says: tuple[float, ...]
    """Weights of all 3 features of an assistant's message. Their quantity is how strongly the message changes the
    tasks' probabilities.
    """
    assistant_unknown: tuple[float, ...]
    """Weights of the first 2 features of an assistant's message. Their quantity is the log-likelihood of the message if
    the conversation has no task.
    """
    starts_unknown: tuple[float]
    """The log-odds that a conversation has no task when it begins, or when it leaves its task."""

    def to_vector(self) -> NDArray[np.float64]:
        return np.concatenate(astuple(self))

    @classmethod
    def from_vector(cls, vector: NDArray[np.float64]) -> "BeliefParameters":
        parts = np.split(vector, np.cumsum(COUNTS)[:-1])
        return cls(*(tuple(part.tolist()) for part in parts))


# `make bench-requests ARGS="--only conversations --sgd CLONE"` fits these again, on dialogues of Schema-Guided Dialogue
# that are not reported, and on tests/gateway/development_conversations.jsonl.
PARAMETERS = BeliefParameters(
    says=(-0.154, 0.363, -0.064, 0.567, -0.431, -0.303, -0.189),
    stays=(0.528, -0.639, -0.022, -1.189, -0.249, 0.057, -0.358, 0.183, 0.76, 0.676, -0.024, 0.554, -0.204),
    unknown=(-0.086, -1.511, 0.135, 0.406, 0.069, 0.377, 0.054, -0.519, -0.445, -0.013, 0.254, -0.621, 0.368),
    assistant_says=(-0.979, 0.833, -0.686),
    assistant_unknown=(0.092, -0.361),
    starts_unknown=(0.21,),
)
