"""The interface of policies: how a task chooses among its paths."""

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
        "best_value": "pointsman_gateway.routing.policies:BestValue",
        "escalate": "pointsman_gateway.routing.policies:Escalate",
        "predicted": "pointsman_gateway.routing.predicted:Predicted",
    },
    method="plan",
)

TRIAL = "policy:trial"
"""The reason of a plan that explores."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A path, and the evidence and expected cost that it has on the task."""

    name: str
    evidence: PathEvidence
    cost_usd: float
    """Expected cost of one answer: the mean of past answers, or an estimate before there are any; infinite if the
    price of the path's model is unknown."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A policy's choice for one request: the paths in order, and the reason."""

    paths: tuple[str, ...]
    """The path to take, then those that may replace it, in order. The router appends the task's fallbacks."""
    reason: str
    explanations: Mapping[str, str] = field(default_factory=dict)
    """Why a path was chosen or not, for the decision; by path, for those that were weighed."""
    escalates: bool = False
    """Whether the next path answers instead if a validator refuses the first one's answer."""
    stream_unvalidated: frozenset[str] = frozenset()
    """Paths whose answers are streamed before they are validated, and so cannot be escalated."""
    as_good: frozenset[str] | None = None
    """Paths that would do as well, so that a conversation on one of them changes only if that pays. None: all paths of
    the policy."""
    worth_usd: Mapping[str, float] = field(default_factory=dict)
    """What the policy would pay for an answer of each path, in dollars; a conversation weighs it against the price of a
    change. Empty: the same for all paths."""


class PolicyContext(Protocol):
    """The facts that a policy may use to choose a path for one request."""

    @property
    def task(self) -> str: ...

    @property
    def request(self) -> Request: ...

    @property
    def vector(self) -> Vector | None:
        """Returns the embedding of the request's text; None if it was not computed, unless `needs_vector`."""
        ...

    def candidates(self, paths: Sequence[str]) -> list[Candidate]:
        """Returns the evidence on these paths and their expected costs, in their order."""
        ...

    def unavailable(self, paths: Sequence[str]) -> Mapping[str, str]:
        """Returns why paths cannot be used now, by path; empty if all can be."""
        ...

    def position(self, purpose: str = "") -> float:
        """Returns a number from 0 to 1 that is the same for all requests of one user, and uniform over users.

        Another `purpose` gives an independent number. Without a user, each conversation has a number of its own.
        """
        ...


class Policy(Protocol):
    """Chooses the path of each request of one task; built once per revision of the configuration."""

    Options: ClassVar[Any]
    """The type of the options in the configuration: any type that pydantic can validate."""
    is_constant: ClassVar[bool] = False
    """Whether the plan is the same for every request, so that it needs to be made only once."""
    needs_validators: ClassVar[bool] = False
    """Whether a task with this policy must have validators."""
    needs_costs: ClassVar[bool] = False
    """Whether the models of its paths must have known prices."""
    needs_vector: ClassVar[bool] = False
    """Whether requests of its task are embedded if the classifier has not done so."""
    uses_ratings: ClassVar[bool] = False
    """Whether the plan depends on the ratings that paths have now, so that a replay may choose another path."""

    @classmethod
    def encoder(cls, options: Any) -> str:
        """Returns the fingerprint of the embedding model that the options were made for; empty if any will do."""
        return ""

    @classmethod
    def weights(cls, options: Any) -> Mapping[str, float]:
        """Returns the weights by which users are distributed over paths; empty if they are not."""
        return {}

    def __init__(self, options: Any) -> None: ...

    @property
    def paths(self) -> tuple[str, ...]:
        """Returns every path that the policy may choose."""
        ...

    def plan(self, context: PolicyContext) -> Plan: ...

    def preview(self, context: PolicyContext) -> Plan:
        """Returns what the next request would get, without randomness and without a change of state."""
        return self.plan(context)


def hash_to_unit_interval(key: str) -> float:
    """Returns a number from 0 to 1 by which keys are uniformly distributed."""
    return float(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64)
