"""Chooses the path of a request: the one that it names, else by the task's policy, else the default path.

Paths that are unavailable, outside the key's scope, or whose model cannot take the request's media are passed over.
"""

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument, NotFound

from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.config.flywheel import StaleConfig
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.domain import AUTO, PATH_PREFIX, Decision, Labels, Message, Path, Request, Vector
from pointsman_gateway.domain.conversation import ConversationStep, Step
from pointsman_gateway.domain.decision import DECISION_ID_PREFIX
from pointsman_gateway.domain.request import UNRESTRICTED
from pointsman_gateway.extensions.policy import Candidate, Plan, Policy, hash_to_unit_interval
from pointsman_gateway.routing.left_out import LeftOutFields
from pointsman_gateway.routing.path_keeper import ChangePrices, PathKeeper, UnknownPrices
from pointsman_gateway.routing.path_state import (
    ALWAYS_FRESH,
    NOT_PINNED,
    Adapters,
    Availability,
    Evidence,
    ExpectedCost,
    Freshness,
    PinnedVersion,
    considered_paths,
    resolve_adapter,
    within_scope,
)

TEXT = ("text",)
NO_INPUTS: Mapping[str, Collection[str]] = {}
NO_FALLBACKS: Mapping[str, Sequence[Path]] = {}
ALL_SENT = LeftOutFields()
NO_PRICES = UnknownPrices()

EMPTY_REQUEST = Request(AUTO, (Message("user", ""),))
"""An empty request for previews and plans that do not depend on the request."""


class NamedPaths(Protocol):
    """Finds the path without strategies for a model or an adapter that a request names."""

    def path_of(self, model: str) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class CandidatePreview:
    """A path that requests of a task may take, and the policy's view of it."""

    path: Path
    role: str
    """ "policy", "fallback", "default", or "shadow": it answers shadow requests only."""
    known: Candidate
    unavailable: str
    """Why it cannot be used now; empty if it can."""
    explanation: str
    """The policy's explanation, if it weighs paths."""


@dataclass(frozen=True, slots=True)
class PolicyPreview:
    """The path that a task's policy would choose now, and its candidates."""

    task: str
    policy: PolicyConfig
    choice: str
    """The path that the next request would take, apart from exploration; of a split the one with the largest weight."""
    reason: str
    candidates: Sequence[CandidatePreview]


class Router:
    """Makes the decision for a request and its labels."""

    def __init__(
        self,
        paths: Mapping[str, Path],
        tasks: Mapping[str, TaskConfig],
        default_path: str,
        *,
        availability: Availability,
        named: NamedPaths,
        expected_cost: ExpectedCost,
        evidence: Evidence,
        adapters: Adapters,
        generation: str = "",
        freshness: Freshness = ALWAYS_FRESH,
        model_inputs: Mapping[str, Collection[str]] = NO_INPUTS,
        model_fallbacks: Mapping[str, Sequence[Path]] = NO_FALLBACKS,
        left_out: LeftOutFields = ALL_SENT,
        change_prices: ChangePrices = NO_PRICES,
    ) -> None:
        """Takes in `model_inputs` the kinds of media that each model accepts; one without an entry accepts only text.

        `model_fallbacks` are the paths to try if the model that a request names fails, by model.
        """
        self._paths = paths
        self._tasks = tasks
        self._default = paths[default_path]
        self._availability = availability
        self._named = named
        self._expected_cost = expected_cost
        self._evidence = evidence
        self._adapters = adapters
        self._generation = generation
        self._freshness = freshness
        self._model_inputs = model_inputs
        self._model_fallbacks = model_fallbacks
        self._left_out = left_out
        self._abstained = Plan((default_path,), "abstained" if tasks else "no_tasks")
        self._policies: dict[str, Policy] = {name: task.policy.build() for name, task in tasks.items()}
        self._constant_plans = {
            name: self._with_fallbacks(name, policy.plan(_Context(self, name, EMPTY_REQUEST)))
            for name, policy in self._policies.items()
            if policy.is_constant
        }
        self._keeper = PathKeeper(paths, self._policies, availability, change_prices)

    def decide(self, request: Request, labels: Labels, step: ConversationStep | None = None) -> Decision:
        """Decides which path answers; raises NotFound if the request names something that does not exist.

        `step` says what the request is in its conversation; None if that does not matter.
        """
        decision_id = f"{DECISION_ID_PREFIX}{time.time_ns() // 1_000_000:x}{os.urandom(6).hex()}"
        # It is in the request log, so that a replay can make the same random choices.
        random_key = request.user or (step.key if step is not None else "") or decision_id
        if request.model != AUTO:
            path = self._path_named(request)
            if path.adapter:
                path = resolve_adapter(path, random_key, self._adapters)
            fallbacks = self._model_fallbacks.get(path.name, ()) if self._model_fallbacks else ()
            return self._decision(decision_id, request, labels, [path, *fallbacks], _forced(path.name))
        plan = self._plan(request, labels, random_key)
        if step is not None and step.continues:
            return self._continue(decision_id, request, labels, plan, step, random_key)
        decision = self._decision(
            decision_id, request, labels, [self._resolved(name, random_key) for name in plan.paths], plan
        )
        if step is None or not (step.key or step.notes):
            return decision
        return replace(decision, random_key=step.key, notes=(*step.notes, *decision.notes))

    def _continue(
        self, decision_id: str, request: Request, labels: Labels, plan: Plan, step: ConversationStep, random_key: str
    ) -> Decision:
        """Decides on a request of a conversation whose path is known; notes say why it stays or leaves."""
        kept, pinned = step.kept, NOT_PINNED
        plan, note = self._keeper.continue_with(plan, step, request, labels.task)
        if step.pins_version or step.kind is Step.TOOL_LOOP:
            pinned = PinnedVersion(kept.version, kept.replaces)
        paths = [self._resolved(name, random_key, pinned if name == kept.path else NOT_PINNED) for name in plan.paths]
        decision = self._decision(decision_id, request, labels, paths, plan)
        if plan.paths[0] == kept.path != decision.path.name:
            rows = {row.path: row.reason for row in decision.considered}
            note = f"left {kept.path}: {rows.get(kept.path) or plan.explanations.get(kept.path, 'unavailable')}"
        notes = (*step.notes, note) if note else step.notes
        return replace(decision, random_key=step.key, notes=(*notes, *decision.notes))

    def costs(self, request: Request, decision: Decision) -> Mapping[str, float | None]:
        """Returns the expected cost of the request in dollars, by path, for the paths that were considered."""
        names = dict.fromkeys((decision.path.name, *(considered.path for considered in decision.considered)))
        paths = {decision.path.name: decision.path, **self._paths}
        return {name: self._expected_cost.usd(paths[name], request) for name in names if name in paths}

    def previews(self) -> list[PolicyPreview]:
        """Returns what each task's policy would choose now; no state changes."""
        return [self._preview(name) for name in self._tasks]

    def _preview(self, name: str) -> PolicyPreview:
        roles = self._roles(name)
        paths = {path: self._paths[path] for path in roles}
        context = _Context(self, name, EMPTY_REQUEST)
        unavailable = context.unavailable(tuple(roles))
        known = {candidate.name: candidate for candidate in context.candidates(tuple(roles))}
        plan = self._policies[name].preview(context)
        order = (*plan.paths, *self._tasks[name].fallback, self._default.name)
        choice = next((path for path in order if path not in unavailable), plan.paths[0])
        candidates = [
            CandidatePreview(paths[path], role, known[path], unavailable.get(path, ""), plan.explanations.get(path, ""))
            for path, role in roles.items()
        ]
        reason = plan.reason if choice == plan.paths[0] else "availability"
        return PolicyPreview(name, self._tasks[name].policy, choice, reason, candidates)

    def _roles(self, task: str) -> dict[str, str]:
        """Returns each path that answers requests of the task, with its role."""
        shadow, roles = self._tasks[task].shadow, dict[str, str]()
        for role, paths in (
            ("policy", self._policies[task].paths),
            ("fallback", self._tasks[task].fallback),
            ("default", (self._default.name,)),
            ("shadow", shadow.paths if shadow else ()),
        ):
            for path in paths:
                roles.setdefault(path, role)
        return roles

    def _resolved(self, name: str, key: str, pinned: PinnedVersion = NOT_PINNED) -> Path:
        """Returns the path with its adapter resolved for this request."""
        path = self._paths[name]
        return resolve_adapter(path, key, self._adapters, pinned) if path.adapter else path

    def _path_named(self, request: Request) -> Path:
        model, scope = request.model, request.caller.scope
        is_path = model.startswith(PATH_PREFIX)
        path = self._paths.get(model.removeprefix(PATH_PREFIX)) if is_path else self._named.path_of(model)
        if path is None:
            known = "auto, a model, an adapter's alias or version, or path:NAME; GET /v1/models lists them"
            if is_path:
                known = ", ".join(PATH_PREFIX + name for name, path in self._paths.items() if scope.allows(path))
            raise NotFound(f"unknown model '{model[:200]}'; known: {known}", code="unknown_model", param="model")
        return path

    def _plan(self, request: Request, labels: Labels, key: str) -> Plan:
        if labels.abstained:
            return self._abstained
        task = labels.task
        plan = self._constant_plans.get(task)
        if plan is None:
            plan = self._with_fallbacks(
                task, self._policies[task].plan(_Context(self, task, request, key, labels.vector))
            )
        if labels.stage.startswith("rule:"):
            plan = replace(plan, reason=labels.stage)
        stale = self._tasks[task].stale
        return self._avoid_stale(stale, plan, key) if stale else plan

    def _with_fallbacks(self, task: str, plan: Plan) -> Plan:
        paths = dict.fromkeys([*plan.paths, *self._tasks[task].fallback, self._default.name])
        return replace(plan, paths=tuple(paths))

    def _avoid_stale(self, stale: StaleConfig, plan: Plan, key: str) -> Plan:
        """Puts the path with retrieval first if too many documents have changed since the adapter was trained."""
        path = self._resolved(plan.paths[0], key)
        if path.resolved_adapter is None or path.name == stale.path:
            return plan
        version = path.resolved_adapter.version
        share = self._freshness.changed_share(version)
        if share <= stale.after_changed_share:
            return plan
        explanation = f"{share * 100:.0f} % of its topic's documents have changed since {version} was trained"
        paths = tuple(dict.fromkeys((stale.path, *plan.paths)))
        explanations = {**plan.explanations, path.name: explanation}
        return replace(plan, paths=paths, reason="stale", explanations=explanations, as_good=frozenset((stale.path,)))

    def _decision(
        self, decision_id: str, request: Request, labels: Labels, paths: Sequence[Path], plan: Plan
    ) -> Decision:
        if request.caller.scope is not UNRESTRICTED:
            paths, plan = within_scope(request.caller.scope, labels.task, paths, plan)
        unavailable = {path.name: why for path in paths if (why := self._availability.why_not(path))}
        if request.media:
            unavailable |= self._unsuitable(request, paths)
        # If no path is available, the first is tried nevertheless, because its own error says what is wrong.
        chosen, *others = (
            ([path for path in paths if path.name not in unavailable] or self._suitable(request, paths)[:1])
            if unavailable
            else paths
        )
        escalation = self._escalation(labels.task, chosen, others) if plan.escalates else ()
        return Decision(
            id=decision_id,
            task=labels.task,
            confidence=labels.confidence,
            path=chosen,
            reason=plan.reason if chosen is paths[0] else "availability",
            stage=labels.stage,
            considered=considered_paths(chosen, paths, escalation, plan, unavailable),
            alternatives=tuple(others),
            probabilities=labels.probabilities,
            expected_cost_usd=self._expected_cost.usd(chosen, request),
            vector=labels.vector,
            margin=labels.margin,
            in_distribution_score=labels.in_distribution_score,
            notes=(*labels.notes, *chosen.notes, *self._left_out.notes(request, chosen)),
            generation=self._generation,
            escalation=escalation,
            stream_unvalidated=plan.stream_unvalidated,
        )

    def _suitable(self, request: Request, paths: Sequence[Path]) -> Sequence[Path]:
        return [path for path in paths if not self._why_unsuitable(request, path)]

    def _unsuitable(self, request: Request, paths: Sequence[Path]) -> Mapping[str, str]:
        """Returns the paths whose models cannot take the request's media, with the reason.

        Raises InvalidArgument if that are all of them.
        """
        if not self._suitable(request, paths):
            raise self._no_suitable_path(request, paths[0])
        return {path.name: why for path in paths if (why := self._why_unsuitable(request, path))}

    def _why_unsuitable(self, request: Request, path: Path) -> str:
        """Returns why the path's model cannot take the request's media; empty if it can."""
        inputs = self._model_inputs.get(path.model, TEXT)
        missing = " and no ".join(sorted(request.media.difference(inputs)))
        return f"its model '{path.model}' takes {', '.join(inputs)}, and no {missing}" if missing else ""

    def _no_suitable_path(self, request: Request, path: Path) -> InvalidArgument:
        scope = request.caller.scope
        names = [n for n, p in self._paths.items() if not self._why_unsuitable(request, p) and scope.allows(p)]
        advice = f"send it to {', '.join(PATH_PREFIX + name for name in names)}" if names else "no path takes it"
        if "url" in request.media:
            advice += ', or send the data itself, as a "data:" URL'
        message = f"path '{path.name}' cannot answer this: {self._why_unsuitable(request, path)}; {advice}"
        return InvalidArgument(message, code="unsupported_content", param="messages")

    def _escalation(self, task: str, chosen: Path, others: Sequence[Path]) -> tuple[Path, ...]:
        """Returns the paths of the policy that come after `chosen`."""
        order = self._policies[task].paths
        if chosen.name not in order:
            return ()
        return tuple(path for path in others if path.name in order[order.index(chosen.name) + 1 :])


class _Context:
    """The facts for a policy; without a key, as for previews, adapters are not resolved. Implements `PolicyContext`."""

    def __init__(
        self, router: Router, task: str, request: Request, key: str | None = None, vector: Vector | None = None
    ) -> None:
        self.task, self.request, self.vector = task, request, vector
        self._router, self._key = router, key
        self._resolved: dict[str, Path] = {}

    def candidates(self, paths: Sequence[str]) -> list[Candidate]:
        return [self._candidate(self._path(name)) for name in paths]

    def unavailable(self, paths: Sequence[str]) -> Mapping[str, str]:
        why_not = self._router._availability.why_not
        return {name: why for name in paths if (why := why_not(self._path(name)))}

    def position(self, purpose: str = "") -> float:
        key = self._key or ""
        return hash_to_unit_interval(f"{purpose} {self.task} {key}" if purpose else key)

    def _path(self, name: str) -> Path:
        if self._key is None:
            return self._router._paths[name]
        path = self._resolved.get(name)
        if path is None:
            path = self._resolved[name] = self._router._resolved(name, self._key)
        return path

    def _candidate(self, path: Path) -> Candidate:
        evidence = self._router._evidence.of(self.task, path)
        cost = self._router._expected_cost.usd(path, self.request)
        if cost is None:
            return Candidate(path.name, evidence, inf)
        return Candidate(path.name, evidence, evidence.mean_cost_usd if evidence.answers > 0 else cost)


@lru_cache(maxsize=1024)
def _forced(path: str) -> Plan:
    return Plan((path,), "forced")
