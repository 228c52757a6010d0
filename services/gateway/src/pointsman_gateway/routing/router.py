"""Chooses the path of a request: the one that it names, else by the task's policy, else the default path.

Paths that are unavailable, outside the key's scope, or whose model cannot take the request's media are passed over, as
long as another one is left (see `Router.decide`).
"""

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument, NotFound

from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.config.flywheel import StaleConfig
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.domain import AUTO, PATH_PREFIX, UNKNOWN, Decision, Labels, Path, Request
from pointsman_gateway.domain.conversation import ConversationStep, Step
from pointsman_gateway.domain.decision import DECISION_ID_PREFIX
from pointsman_gateway.domain.request import UNRESTRICTED, Scope
from pointsman_gateway.extensions.policy import Plan, Policy
from pointsman_gateway.routing.left_out import LeftOutFields
from pointsman_gateway.routing.path_facts import EMPTY_REQUEST, PathFacts, TaskContext
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
from pointsman_gateway.routing.policy_preview import PolicyPreview, preview_policy

TEXT = ("text",)
MAX_NAMES_IN_ERROR = 20
"""Maximum number of models and adapters that are listed in the error for an unknown model."""
NO_INPUTS: Mapping[str, Collection[str]] = {}
NO_FALLBACKS: Mapping[str, Sequence[Path]] = {}
ALL_SENT = LeftOutFields()
NO_PRICES = UnknownPrices()


class NamedPaths(Protocol):
    """Interface that finds the path for a request that names a model or an adapter; `NamedModels` implements it.

    Such a path has no prompt strategies: the request is sent as it is.
    """

    def path_of(self, model: str) -> Path | None:
        """Returns the path that calls the base model or adapter of this name; None if the name is unknown."""
        ...

    def names(self) -> Sequence[str]:
        """Returns the names of all models and adapters that a request may put into its field `model`."""
        ...


class Router:
    """Decides which path answers a request, by what the request names and by the task that the classifier found."""

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
        revision: str = "",
        freshness: Freshness = ALWAYS_FRESH,
        model_inputs: Mapping[str, Collection[str]] = NO_INPUTS,
        model_fallbacks: Mapping[str, Sequence[Path]] = NO_FALLBACKS,
        left_out: LeftOutFields = ALL_SENT,
        change_prices: ChangePrices = NO_PRICES,
        default_policy: PolicyConfig | None = None,
    ) -> None:
        """Takes in `model_inputs` the kinds of media that each model accepts; a model without an entry accepts only
        text. `model_fallbacks` are the paths to try if a model fails that a request has named, by model. `revision` is
        that of the configuration, which each decision has. `default_policy`, if any, is for requests of no task.
        """
        self._paths = paths
        self._tasks = tasks
        self._default = paths[default_path]
        self._availability = availability
        self._named = named
        self._expected_cost = expected_cost
        self._adapters = adapters
        self._facts = facts = PathFacts(paths, availability, expected_cost, evidence, adapters)
        self._revision = revision
        self._freshness = freshness
        self._model_inputs = model_inputs
        self._model_fallbacks = model_fallbacks
        self._left_out = left_out
        self._abstained = Plan((default_path,), "abstained" if tasks else "no_tasks")
        self._policies: dict[str, Policy] = {name: task.policy.build() for name, task in tasks.items()}
        if default_policy is not None:
            self._policies[UNKNOWN] = default_policy.build()
        self._constant_plans = {
            name: self._with_fallbacks(name, policy.plan(TaskContext(facts, name, EMPTY_REQUEST)))
            for name, policy in self._policies.items()
            if policy.is_constant
        }
        self._keeper = PathKeeper(paths, self._policies, availability, change_prices)

    def decide(self, request: Request, labels: Labels, step: ConversationStep | None = None) -> Decision:
        """Decides which path answers. `step` is the request's place in its conversation; None if the conversation does
        not matter. A path or model that the request names is chosen regardless of the conversation.

        If no path is available, chooses the first that accepts the request's media, since its error says what is wrong.

        Raises NotFound for an unknown model or path, PermissionDenied if the key's scope allows no path, and
        InvalidArgument if none of the paths that may answer takes the request's media.
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
            decision_id, request, labels, [self._facts.resolved(name, random_key) for name in plan.paths], plan
        )
        if step is None or not (step.key or step.notes):
            return decision
        return replace(decision, random_key=step.key, notes=(*step.notes, *decision.notes))

    def _continue(
        self, decision_id: str, request: Request, labels: Labels, plan: Plan, step: ConversationStep, random_key: str
    ) -> Decision:
        """Decides on a further request of a conversation; a note says why the conversation stays on its path or leaves
        it.
        """
        kept, pinned = step.kept, NOT_PINNED
        plan, note = self._keeper.continue_with(plan, step, request, labels.task)
        if step.pins_version or step.kind is Step.TOOL_LOOP:
            pinned = PinnedVersion(kept.version, kept.replaces)
        paths = [
            self._facts.resolved(name, random_key, pinned if name == kept.path else NOT_PINNED) for name in plan.paths
        ]
        decision = self._decision(decision_id, request, labels, paths, plan)
        if plan.paths[0] == kept.path != decision.path.name:
            rows = {row.path: row.reason for row in decision.considered}
            note = f"left {kept.path}: {rows.get(kept.path) or plan.explanations.get(kept.path, 'unavailable')}"
        notes = (*step.notes, note) if note else step.notes
        return replace(decision, random_key=step.key, notes=(*notes, *decision.notes))

    def costs(self, request: Request, decision: Decision) -> Mapping[str, float | None]:
        """Returns the expected dollars of the request by path name: on the chosen path and on each one that was
        considered.

        None for a path whose price is unknown; paths that the configuration does not have are missing.
        """
        names = dict.fromkeys((decision.path.name, *(considered.path for considered in decision.considered)))
        decided = {path.name: path for path in (*decision.alternatives, decision.path)}
        paths = {**self._paths, **decided}
        is_embedded, usd = decision.vector is not None, self._expected_cost.usd
        return {name: usd(paths[name], request, is_embedded=is_embedded) for name in names if name in paths}

    def previews(self) -> list[PolicyPreview]:
        """Returns, for each task, which path its policy would choose now; changes no state."""
        return [
            preview_policy(name, task, self._policies[name], self._default.name, self._facts)
            for name, task in self._tasks.items()
        ]

    def _path_named(self, request: Request) -> Path:
        model, scope = request.model, request.caller.scope
        is_path = model.startswith(PATH_PREFIX)
        path = self._paths.get(model.removeprefix(PATH_PREFIX)) if is_path else self._named.path_of(model)
        if path is None:
            known = ", ".join(PATH_PREFIX + name for name, path in self._paths.items() if scope.allows(path))
            if not is_path:
                known = f"auto, {self._known_models(scope)}path:NAME; GET /v1/models lists all"
            raise NotFound(f"unknown model '{model[:200]}'; known: {known}", code="unknown_model", param="model")
        return path

    def _known_models(self, scope: Scope) -> str:
        """Returns up to `MAX_NAMES_IN_ERROR` models and adapters that a key may use, each followed by a comma."""
        found = ((name, self._named.path_of(name)) for name in self._named.names())
        allowed = (f"{name}, " for name, path in found if path is not None and scope.allows(path))
        return "".join(islice(allowed, MAX_NAMES_IN_ERROR))

    def _plan(self, request: Request, labels: Labels, key: str) -> Plan:
        task = labels.task
        if labels.abstained and UNKNOWN not in self._policies:
            return self._abstained
        plan = self._constant_plans.get(task)
        if plan is None:
            context = TaskContext(self._facts, task, request, key, labels)
            plan = self._with_fallbacks(task, self._policies[task].plan(context))
        if labels.stage.startswith("rule:"):
            plan = replace(plan, reason=labels.stage)
        stale = self._tasks[task].stale if task in self._tasks else None
        return self._avoid_stale(stale, plan, key) if stale else plan

    def _with_fallbacks(self, task: str, plan: Plan) -> Plan:
        fallback = self._tasks[task].fallback if task in self._tasks else ()
        paths = dict.fromkeys([*plan.paths, *fallback, self._default.name])
        return replace(plan, paths=tuple(paths))

    def _avoid_stale(self, stale: StaleConfig, plan: Plan, key: str) -> Plan:
        """Returns the plan with the path `stale.path` in front and the reason "stale", if the plan's first path has an
        adapter and a larger share of documents than `stale.after_changed_share` has changed since its training.
        Otherwise returns the plan as it is.
        """
        path = self._facts.resolved(plan.paths[0], key)
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
        escalation = self._escalation(labels.task, chosen, others, plan) if plan.escalates else ()
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
            expected_cost_usd=self._expected_cost.usd(chosen, request, is_embedded=labels.vector is not None),
            vector=labels.vector,
            margin=labels.margin,
            in_distribution_score=labels.in_distribution_score,
            notes=(*labels.notes, *chosen.notes, *self._left_out.notes(request, chosen)),
            revision=self._revision,
            escalation=escalation,
            stream_unvalidated=plan.stream_unvalidated,
        )

    def _suitable(self, request: Request, paths: Sequence[Path]) -> Sequence[Path]:
        return [path for path in paths if not self._why_unsuitable(request, path)]

    def _unsuitable(self, request: Request, paths: Sequence[Path]) -> Mapping[str, str]:
        """Returns the reason why a path's model cannot take the request's media, by name of the path, for such paths.

        Raises InvalidArgument if none of the paths can.
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

    def _escalation(self, task: str, chosen: Path, others: Sequence[Path], plan: Plan) -> tuple[Path, ...]:
        """Returns the paths among `others` that come after `chosen` in the plan's order, or in that of the policy."""
        order = plan.escalation_order or self._policies[task].paths
        later = order[order.index(chosen.name) + 1 :] if chosen.name in order else ()
        return tuple(path for path in others if path.name in later)


@lru_cache(maxsize=1024)
def _forced(path: str) -> Plan:
    return Plan((path,), "forced")
