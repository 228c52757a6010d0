"""What a task's policy would choose now, for the console."""

from collections.abc import Sequence
from dataclasses import dataclass

from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.domain import Path
from pointsman_gateway.extensions.policy import Candidate, Policy
from pointsman_gateway.routing.path_facts import EMPTY_REQUEST, PathFacts, TaskContext


@dataclass(frozen=True, slots=True)
class CandidatePreview:
    """A path that requests of a task may take, and what its policy knows of the path."""

    path: Path
    role: str
    """The path's role: "policy", "fallback", "default", or "shadow" (it answers shadow requests only)."""
    known: Candidate
    """The path's statistics on the task, and its expected cost."""
    unavailable: str
    """Why it cannot be used now; empty if it can."""
    explanation: str
    """Why the policy would choose it or not; empty if the policy does not say."""


@dataclass(frozen=True, slots=True)
class PolicyPreview:
    """The path that the next request of a task would take: by its policy, or a fallback or the default path if those of
    the policy are unavailable. And all paths that requests of the task may take.
    """

    task: str
    policy: PolicyConfig
    choice: str
    """The path that the next request would take, apart from exploration; of a split the one with the largest weight."""
    reason: str
    escalates: bool
    """Whether another path answers instead if a validator rejects the answer of `choice`."""
    candidates: Sequence[CandidatePreview]


def preview_policy(name: str, task: TaskConfig, policy: Policy, default_path: str, facts: PathFacts) -> PolicyPreview:
    """Returns what the policy of the task `name` would choose now for an empty request, without exploration.

    The choice is the first available path among the policy's, the task's fallbacks and the default path; if none is
    available, the policy's first.
    """
    roles = _roles(task, policy, default_path)
    context = TaskContext(facts, name, EMPTY_REQUEST)
    unavailable = context.unavailable(tuple(roles))
    known = {candidate.name: candidate for candidate in context.candidates(tuple(roles))}
    plan = policy.preview(context)
    order = (*plan.paths, *task.fallback, default_path)
    choice = next((path for path in order if path not in unavailable), plan.paths[0])
    candidates = [
        CandidatePreview(
            facts.paths[path], role, known[path], unavailable.get(path, ""), plan.explanations.get(path, "")
        )
        for path, role in roles.items()
    ]
    reason = plan.reason if choice == plan.paths[0] else "availability"
    return PolicyPreview(name, task.policy, choice, reason, plan.escalates, candidates)


def _roles(task: TaskConfig, policy: Policy, default_path: str) -> dict[str, str]:
    """Returns the role (`CandidatePreview.role`) of each path that may answer requests of the task. A path with several
    roles has the first one.
    """
    roles = dict[str, str]()
    for role, paths in (
        ("policy", policy.paths),
        ("fallback", task.fallback),
        ("default", (default_path,)),
        ("shadow", task.shadow.paths if task.shadow else ()),
    ):
        for path in paths:
            roles.setdefault(path, role)
    return roles
