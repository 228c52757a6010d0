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
"""Default of `max_evaluation_ratings`: the rows of evaluations count as at most this many ratings, so as not to
outweigh those of traffic."""

TRIAL = "policy:trial"
"""The reason of a plan whose path was chosen to collect ratings for it, not because it is the best one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A path, with its statistics and expected cost on the task."""

    name: str
    evidence: PathEvidence
    cost_usd: float
    """Expected dollars for one answer: the mean of past answers, or an estimate if there are none; infinite if the
    price of the path's model is unknown."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A policy's choice for one request: the paths in their order, and the reason."""

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
    """The requirements of a policy on the ratings of paths. The console shows whether the paths of a task meet it."""

    quality_floor: float | None = None
    """The value that the lower confidence bound of a path's mean rating must reach; None: any will do."""
    confidence: float = 0.95
    """The confidence of that bound, one-sided."""
    max_evaluation_ratings: int = MAX_EVALUATION_RATINGS
    """The number of ratings that the evaluated rows of a path count as at most."""


class PolicyContext(Protocol):
    """Interface to what a policy can know about one request and the paths; `TaskContext` implements it."""

    @property
    def task(self) -> str: ...

    @property
    def request(self) -> Request: ...

    @property
    def vector(self) -> Vector | None:
        """Returns the unit vector of the request's text; None if it was not computed (see `needs_vector`)."""
        ...

    @property
    def task_probabilities(self) -> Mapping[str, float]:
        """Returns by task the probability that the request belongs to it, which add up to 1 or less.

        A task that a rule assigns has 1; so has "unknown" if classification abstains. Empty for previews.
        """
        ...

    def candidates(self, paths: Sequence[str]) -> list[Candidate]:
        """Returns the statistics and expected costs of these paths, in the given order."""
        ...

    def unavailable(self, paths: Sequence[str]) -> Mapping[str, str]:
        """Returns by name the paths that cannot be used now, each with the reason; empty if all can be used."""
        ...

    def position(self, purpose: str = "") -> float:
        """Returns a pseudo-random number from 0 to 1, which is the same for all requests of one user.

        Over users it is uniformly distributed. Another `purpose` gives an independent number. If requests name no user,
        each conversation has its own number, or else each request.
        """
        ...


class Policy(Protocol):
    """Interface of a policy. One object is made for each task and revision of the configuration."""

    Options: ClassVar[Any]
    """The type of the options in the configuration: any type that pydantic can validate."""
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
        """Returns the fingerprint of the embedding model that the options are for; empty if any model will do."""
        return ""

    @classmethod
    def summary(cls, options: Any) -> str:
        """Returns in a few words what the options say, for the console; empty if the policy's name says enough."""
        return ""

    @classmethod
    def requirements(cls, options: Any) -> Requirements:
        return Requirements()

    def __init__(self, options: Any) -> None: ...

    @property
    def paths(self) -> tuple[str, ...]:
        """Returns every path that the policy may choose."""
        ...

    def plan(self, context: PolicyContext) -> Plan:
        """Returns the plan for one request; may change the policy's state."""
        ...

    def preview(self, context: PolicyContext) -> Plan:
        """Returns the plan to show for the next request. A policy with random choices or state must override this, so
        that nothing is random and no state changes.
        """
        return self.plan(context)


def hash_to_unit_interval(key: str) -> float:
    """Returns a number from 0 to 1 that depends only on the key; over many keys it is uniformly distributed."""
    return float(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64)
