"""The gateway's data on each configured path (availability, cost, ratings), and the part of the data that a policy
gets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from pointsman_gateway.domain import AUTO, Labels, Message, Path, Request, Vector
from pointsman_gateway.extensions.policy import Candidate, hash_to_unit_interval
from pointsman_gateway.routing.path_state import (
    NOT_PINNED,
    Adapters,
    Availability,
    Evidence,
    ExpectedCost,
    PinnedVersion,
    resolve_adapter,
)

EMPTY_REQUEST = Request(AUTO, (Message("user", ""),))
"""An empty request for previews and plans that do not depend on the request."""


@dataclass(frozen=True, slots=True)
class PathFacts:
    """The configured paths by name, and where to look up their availability, expected cost, ratings and adapters."""

    paths: Mapping[str, Path]
    availability: Availability
    expected_cost: ExpectedCost
    evidence: Evidence
    adapters: Adapters

    def resolved(self, name: str, key: str, pinned: PinnedVersion = NOT_PINNED) -> Path:
        """Returns the path `name` with its adapter's alias replaced by a version: the stable one or the canary.

        `key` identifies a user or a request: equal keys get the same version. `pinned` is the version with which the
        request's conversation began; it is preferred while an engine has loaded it. Raises KeyError for an unknown
        name.
        """
        path = self.paths[name]
        return resolve_adapter(path, key, self.adapters, pinned) if path.adapter else path


class TaskContext:
    """The data on the paths and on one request by which a policy chooses a path; implements `PolicyContext`.

    `task` is the task's name. `key` identifies the user, so that a random choice, such as between an adapter's stable
    version and its canary, is the same in all of the user's requests; it is None in previews, where no version is
    chosen. `labels` are the classifier's result for the request; None in previews.
    """

    def __init__(
        self, facts: PathFacts, task: str, request: Request, key: str | None = None, labels: Labels | None = None
    ) -> None:
        self.task, self.request = task, request
        self.vector: Vector | None = labels.vector if labels is not None else None
        self._is_embedded = labels is None or self.vector is not None
        self._facts, self._key, self._labels = facts, key, labels
        self._resolved: dict[str, Path] = {}

    @property
    def task_probabilities(self) -> Mapping[str, float]:
        labels = self._labels
        if labels is None:
            return {}
        return dict(labels.probabilities) if labels.probabilities and not labels.abstained else {labels.task: 1.0}

    def candidates(self, paths: Sequence[str]) -> list[Candidate]:
        return [self._candidate(self._path(name)) for name in paths]

    def unavailable(self, paths: Sequence[str]) -> Mapping[str, str]:
        why_not = self._facts.availability.why_not
        return {name: why for name in paths if (why := why_not(self._path(name)))}

    def position(self, purpose: str = "") -> float:
        key = self._key or ""
        return hash_to_unit_interval(f"{purpose} {self.task} {key}" if purpose else key)

    def _path(self, name: str) -> Path:
        if self._key is None:
            return self._facts.paths[name]
        path = self._resolved.get(name)
        if path is None:
            path = self._resolved[name] = self._facts.resolved(name, self._key)
        return path

    def _candidate(self, path: Path) -> Candidate:
        evidence = self._facts.evidence.of(self.task, path)
        cost = self._facts.expected_cost.usd(path, self.request, is_embedded=self._is_embedded)
        if cost is None:
            return Candidate(path.name, evidence, inf)
        return Candidate(path.name, evidence, evidence.mean_cost_usd if evidence.answers > 0 else cost)
