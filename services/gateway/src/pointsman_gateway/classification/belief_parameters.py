"""The fitted parameters of a conversation's belief: the probability of each task, and of none, after each turn.

`belief.py` computes the belief.
"""

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

COUNTS = (4, 10, 10, 3, 2, 1)


@dataclass(frozen=True, slots=True)
class BeliefParameters:
    """Weights of the features of a turn, in the order of `belief.user_features` and `belief.assistant_features`.

    The sum of a field's weights times the features is the quantity that the field's comment names; for `says` and
    `assistant_says` it is the softplus of the sum. `starts_unknown` is no weight, but such a quantity itself.
    """

    says: tuple[float, ...]
    """Weights of the first 4 features of a user's turn: how strongly the turn changes the tasks' probabilities."""
    stays: tuple[float, ...]
    """Weights of all 10 features of a user's turn: the log-odds that the conversation has not changed its task."""
    unknown: tuple[float, ...]
    """Weights of all 10 features of a user's turn: the log-likelihood of the turn if the conversation has no task. For
    comparison, it is 0 for each task if the turn finds all tasks equally probable."""
    assistant_says: tuple[float, ...]
    """Like `says`, for all 3 features of an assistant's message."""
    assistant_unknown: tuple[float, ...]
    """Like `unknown`, for the first 2 features of an assistant's message."""
    starts_unknown: tuple[float]
    """The log-odds that a conversation has no task when it begins, or when it leaves its task."""

    def to_vector(self) -> NDArray[np.float64]:
        return np.concatenate(astuple(self))

    @classmethod
    def from_vector(cls, vector: NDArray[np.float64]) -> "BeliefParameters":
        parts = np.split(vector, np.cumsum(COUNTS)[:-1])
        return cls(*(tuple(part.tolist()) for part in parts))


# `make bench-requests ARGS="--only conversations"` fits these again: on half of the test dialogues of Schema-Guided
# Dialogue, and on tests/gateway/development_conversations.jsonl. It reports the other half.
PARAMETERS = BeliefParameters(
    says=(-0.861, 0.556, 0.096, 0.52),
    stays=(0.577, -1.036, -0.37, -1.241, -0.435, 0.037, -0.285, 0.332, 0.897, 0.832),
    unknown=(-0.071, -1.727, 0.084, 0.452, -0.298, -0.271, -0.027, -0.511, -0.699, 0.058),
    assistant_says=(-0.909, 1.057, -0.834),
    assistant_unknown=(-0.461, -0.785),
    starts_unknown=(0.376,),
)
