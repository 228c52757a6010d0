"""Previews for the console: which path a task's policy would choose now, and the statistics of each candidate."""

from collections.abc import Sequence
from dataclasses import dataclass

from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.domain import Path
from pointsman_gateway.extensions.policy import Candidate, Policy
from pointsman_gateway.routing.path_facts import EMPTY_REQUEST, PathFacts, TaskContext


@dataclass(frozen=True, slots=True)
class CandidatePreview:
    """One path that may answer requests of a task, with its role, its statistics and why it would be chosen or not."""

    path: Path
    role: str
    """The path's role: "policy", "fallback", "default", or "shadow" (it answers shadow requests only)."""
    known: Candidate
    """The path's statistics on the task, and its expected cost."""
    unavailable: str
    """The reason why the path cannot be used now; empty if it can."""
    explanation: str
    """The reason why the policy would choose the path or not; empty if the policy gives none."""


@dataclass(frozen=True, slots=True)
class PolicyPreview:
    """The path that the next request of a task would take, and all paths that may answer requests of the task.

    If the policy's own choice is unavailable, `choice` is a fallback or the default path.
    """

    task: str
    policy: PolicyConfig
    choice: str
    """The path that the next request would take, without exploration; with the policy `split` the path with the largest
    weight."""
    reason: str
    escalates: bool
    """Whether another path answers instead if a validator rejects the answer of `choice`."""
    candidates: Sequence[CandidatePreview]


def preview_policy(name: str, task: TaskConfig, policy: Policy, default_path: str, facts: PathFacts) -> PolicyPreview:
    """Returns which path the policy of the task `name` would choose now for an empty request, without exploration.

    The choice is the first available path among the policy's, the task's fallbacks and `default_path`; if none is
    available, it is the policy's first. `facts` tell the availability, the cost and the ratings of each path.
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
