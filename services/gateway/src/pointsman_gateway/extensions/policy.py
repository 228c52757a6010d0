"""The interface of policies, which choose the path for each request of a task."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from pointsman_servicekit.extensions import Registry

from pointsman_gateway.domain import PathEvidence, Request, Vector

POLICIES = Registry(
    "policy",
    "pointsman.policies",
    {
        "fixed": "pointsman_gateway.routing.policies:Fixed",
        "split": "pointsman_gateway.routing.policies:Split",
        "best_value": "pointsman_gateway.routing.best_value:BestValue",
        "escalate": "pointsman_gateway.routing.policies:Escalate",
        "predicted": "pointsman_gateway.routing.predicted:Predicted",
    },
    method="plan",
)

MAX_EVALUATION_RATINGS = 100
"""Default of `max_evaluation_ratings`: the rows of evaluations count as at most this many ratings, so that they do not
outweigh the ratings of real requests.
"""

TRIAL = "policy:trial"
"""The reason of a plan whose path was chosen to collect ratings for it, not because it is the best one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the paths among which a policy chooses, with its statistics on the task, and the expected cost of an
    answer.

    `cost_usd` is in dollars, and infinite if the price of the path's model is unknown.
    """

    name: str
    evidence: PathEvidence
    cost_usd: float
    """Expected dollars for one answer: the mean of past answers, or an estimate if there are none; infinite if the
    price of the path's model is unknown."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy chooses for one request: the path, the paths that may replace it, in order, and the reason."""

    paths: tuple[str, ...]
    """The path to take, then those that may replace it, in order. The router appends the task's fallbacks."""
    reason: str
    """The reason in the decision, such as "policy:fixed"."""
    explanations: Mapping[str, str] = field(default_factory=dict)
    """Why a path was chosen or not, by the path's name; for the paths that the policy compared."""
    escalates: bool = False
    """Whether the next path answers instead if a validator rejects the answer of the first path."""
    escalation_order: tuple[str, ...] = ()
    """The order for escalation: only paths after the chosen one may replace its answer. Empty: the order of the
    policy's `paths`."""
    stream_unvalidated: frozenset[str] = frozenset()
    """Paths whose answers are streamed before they are validated, and so cannot be escalated."""
    as_good: frozenset[str] | None = None
    """Paths that are as good as the chosen one: a conversation on one of them leaves it only if that pays. None: all
    paths of the policy."""
    worth_usd: Mapping[str, float] = field(default_factory=dict)
    """The policy's estimate, by path, of what an answer is worth in dollars. The difference between two paths is added
    to what a conversation gains by changing its path. Empty: an answer of each path is worth the same."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a policy requires of a path's ratings before it relies on the path; the console shows which paths meet it.

    The requirement: the lower confidence bound of the path's mean rating reaches `quality_floor`.
    """

    quality_floor: float | None = None
    """The value, 0 to 1, that the lower confidence bound of a path's mean rating must reach; None: any value."""
    confidence: float = 0.95
    """The one-sided confidence, 0 to 1, of the lower bound of a path's mean rating."""
    max_evaluation_ratings: int = MAX_EVALUATION_RATINGS
    """Each row on which an evaluation has scored the path counts as one rating, up to this number of rows."""


class PolicyContext(Protocol):
    """What a policy can read when it chooses a path: the request, and facts about the paths; `TaskContext` implements
    it.
    """

    @property
    def task(self) -> str: ...

    @property
    def request(self) -> Request: ...

    @property
    def vector(self) -> Vector | None:
        """Returns the embedding of the request's text, of unit length; None if it was not computed (see
        `Policy.needs_vector`).
        """
        ...

    @property
    def task_probabilities(self) -> Mapping[str, float]:
        """Returns the probability that the request belongs to each task: task -> probability, 0 to 1.

        They add up to 1 or less. If a rule has assigned the task, it has 1; if the classifier found no task, "unknown"
        has 1. Empty for a preview of the next request.
        """
        ...

    def candidates(self, paths: Sequence[str]) -> list[Candidate]:
        """Returns the statistics and expected costs of the paths with these names, in the given order."""
        ...

    def unavailable(self, paths: Sequence[str]) -> Mapping[str, str]:
        """Returns those of the paths that cannot be used at present: path name -> reason; empty if all can be used."""
        ...

    def position(self, purpose: str = "") -> float:
        """Returns a pseudo-random number from 0 to 1 for random choices, equal for all requests of one user.

        Over users it is uniformly distributed. Each `purpose` has its own, independent number. If requests name no
        user, each conversation has its own number, or else each request.
        """
        ...


class Policy(Protocol):
    """Interface of a policy, which chooses the path for each request of a task.

    One object is made for each task in each revision of the configuration.
    """

    Options: ClassVar[Any]
    """The type of the policy's options in the configuration: any type that pydantic can validate."""
    is_constant: ClassVar[bool] = False
    """Whether the plan is the same for every request, so that `plan` is called only once."""
    needs_validators: bool = False
    """Whether a task with this policy must have validators; may depend on the options."""
    needs_costs: ClassVar[bool] = False
    """Whether the models of the policy's paths must have known prices."""
    needs_vector: bool = False
    """Whether requests of the task are embedded for the policy if the classifier has not embedded them; may depend on
    the options."""
    uses_ratings: ClassVar[bool] = False
    """Whether the plan depends on the present statistics of paths, so that a replay may choose another path."""

    @classmethod
    def encoder(cls, options: Any) -> str:
        """Returns the fingerprint of the embedding model for which the options were computed; empty if any model will
        do.
        """
        return ""

    @classmethod
    def summary(cls, options: Any) -> str:
        """Returns the options as a few words for the console; empty if the policy's name says enough."""
        return ""

    @classmethod
    def requirements(cls, options: Any) -> Requirements:
        return Requirements()

    def __init__(self, options: Any) -> None: ...

    @property
    def paths(self) -> tuple[str, ...]:
        """Returns the names of all paths that the policy may choose."""
        ...

    def plan(self, context: PolicyContext) -> Plan:
        """Returns the choice of paths for one request; may change the policy's state."""
        ...

    def preview(self, context: PolicyContext) -> Plan:
        """Returns the choice of paths that the next request would get, to show it; must not change the policy's state.

        A policy with random choices or state must override this, and leave out what is random.
        """
        return self.plan(context)


def hash_to_unit_interval(key: str) -> float:
    """Returns a number from 0 to 1 that depends only on the key; over many keys it is uniformly distributed."""
    return float(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64)
