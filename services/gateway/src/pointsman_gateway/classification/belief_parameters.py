"""The parameters of the belief about a conversation's task, and how they were fitted."""

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

COUNTS = (4, 10, 10, 3, 2, 1)


@dataclass(frozen=True, slots=True)
class BeliefParameters:
    """The weights of the features of a turn, in the order in which `belief.py` lists them."""

    says: tuple[float, ...]
    """Weights of the first four features for how strongly a user's turn changes the task's probabilities."""
    stays: tuple[float, ...]
    """The log-odds that the conversation stays with its task."""
    unknown: tuple[float, ...]
    """The log-likelihood of a user's turn given no task; given each task it is 0 if all are equally probable."""
    assistant_says: tuple[float, ...]
    """As `says`, for the assistant's messages."""
    assistant_unknown: tuple[float, ...]
    """The log-likelihood of the assistant's message given no task; weights of its first two features."""
    starts_unknown: tuple[float]
    """The log-odds that a conversation that starts anew has no task."""

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
