"""The router: a forced name, else the task's policy, else the default path; what is not available is passed over."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from pointsman_servicekit.errors import NotFound, PermissionDenied

from pointsman_gateway.config.schema import BestValueConfig, PolicyConfig, StaleConfig, TaskConfig
from pointsman_gateway.domain import AUTO, Considered, Decision, Labels, Message, Path, Request
from pointsman_gateway.domain.caller import UNRESTRICTED, Scope
from pointsman_gateway.domain.decision import planned_escalation
from pointsman_gateway.routing.aiming import Adapters, aimed
from pointsman_gateway.routing.best_value import BestValuePolicy, Candidate
from pointsman_gateway.routing.evidence import Evidence
from pointsman_gateway.routing.outlook import Outlook, Prospect
from pointsman_gateway.routing.policy import Plan, plan, point

PATH_PREFIX = "path:"

NOTHING_ASKED = Request(AUTO, (Message("user", ""),))
"""For what a path costs before anything is known of the request."""


class Availability(Protocol):
    """Knows whether a path could answer now."""

    def why_not(self, path: Path) -> str | None:
        """The reason why the path cannot be used now, or None."""
        ...


class ForcedModels(Protocol):
    """Finds the plain path for a model or adapter that a request names."""

    def path_of(self, model: str) -> Path | None: ...


class ExpectedCost(Protocol):
    """Estimates dollars before they are spent."""

    def usd(self, path: Path, request: Request) -> float: ...


class Freshness(Protocol):
    """Knows what has changed since adapters were trained; reading it costs nothing."""

    def changed_share(self, version: str) -> float:
        """Of the documents of its topic, 0 to 1; 0 where nothing is known."""
        ...


class AlwaysFresh:
    """Where nobody looks."""

    def changed_share(self, version: str) -> float:
        """Implements `Freshness`."""
        return 0.0


ALWAYS_FRESH = AlwaysFresh()


class Router:
    """Request and Labels in, Decision out."""

    def __init__(
        self,
        paths: Mapping[str, Path],
        tasks: Mapping[str, TaskConfig],
        default_path: str,
        availability: Availability,
        forced: ForcedModels,
        expected_cost: ExpectedCost,
        evidence: Evidence,
        adapters: Adapters,
        generation: str = "",
        freshness: Freshness = ALWAYS_FRESH,
    ) -> None:
        self._paths = paths
        self._tasks = tasks
        self._default = paths[default_path]
        self._availability = availability
        self._forced = forced
        self._expected_cost = expected_cost
        self._evidence = evidence
        self._adapters = adapters
        self._best_value = BestValuePolicy()
        self._generation = generation
        self._freshness = freshness
        self._abstained = Plan((default_path,), "abstained")
        self._fixed = {
            name: self._with_reserves(task, plan(task.policy, "")) for name, task in tasks.items() if task.policy.fixed
        }
        """Plans that are the same for every request of their task."""

    def decide(self, request: Request, labels: Labels) -> Decision:
        """Raises NotFound where the request names a model, adapter or path that there is not."""
        number = f"dec_{time.time_ns() // 1_000_000:x}{os.urandom(6).hex()}"
        # Who names no user draws by the decision's id, so that a replay can draw the same again.
        key = request.user or number
        if request.model != AUTO:
            path = aimed(self._named(request.model), key, self._adapters)
            return self._decision(number, request, labels, [path], _forced(path.name))
        wanted = self._by_task(request, labels, key)
        return self._decision(number, request, labels, [self._path(name, key) for name in wanted.paths], wanted)

    def costs(self, request: Request, decision: Decision) -> Mapping[str, float]:
        """Dollars by path, of those that were considered: what the request is likely to cost there."""
        names = dict.fromkeys((decision.path.name, *(considered.path for considered in decision.considered)))
        paths = {decision.path.name: decision.path, **self._paths}
        return {name: self._expected_cost.usd(paths[name], request) for name in names if name in paths}

    def outlooks(self) -> list[Outlook]:
        """How each task stands now, whoever asks; looking changes nothing."""
        return [self._outlook(name) for name in self._tasks]

    def _outlook(self, name: str) -> Outlook:
        policy = self._tasks[name].policy
        roles = self._roles(name)
        paths = {path: self._paths[path] for path in roles}
        away = {path: why for path in roles if (why := self._availability.why_not(paths[path]))}
        known = {path: self._candidate(NOTHING_ASKED, name, paths[path]) for path in roles}
        wanted = self._leaning(name, policy, known, away)
        order = (*wanted.paths, *self._tasks[name].fallback, self._default.name)
        choice = next((path for path in order if path not in away), wanted.paths[0])
        prospects = [
            Prospect(paths[path], role, known[path], away.get(path, ""), wanted.said.get(path, ""))
            for path, role in roles.items()
        ]
        return Outlook(name, policy, choice, wanted.reason if choice == wanted.paths[0] else "availability", prospects)

    def _roles(self, task: str) -> dict[str, str]:
        """What each path is to the task that a request of it may take."""
        of = self._tasks[task]
        roles: dict[str, str] = {}
        for role, paths in (("policy", of.policy.paths), ("fallback", of.fallback), ("default", (self._default.name,))):
            for path in paths:
                roles.setdefault(path, role)
        return roles

    def _leaning(
        self, task: str, policy: PolicyConfig, known: Mapping[str, Candidate], away: Mapping[str, str]
    ) -> Plan:
        if policy.best_value:
            rivals = [known[path] for path in policy.paths]
            gone = {path: away[path] for path in policy.paths if path in away}
            return self._best_value.leaning(task, policy.best_value, rivals, gone)
        if policy.split:
            return Plan((max(policy.split, key=lambda path: policy.split[path]),), "policy:split")
        return plan(policy, "")

    def _path(self, name: str, key: str) -> Path:
        """With the version of its adapter that the request means. Nothing moves while a request is decided."""
        path = self._paths[name]
        return aimed(path, key, self._adapters) if path.adapter else path

    def _named(self, model: str) -> Path:
        named = model.startswith(PATH_PREFIX)
        path = self._paths.get(model.removeprefix(PATH_PREFIX)) if named else self._forced.path_of(model)
        if path is None:
            known = "auto, a model, an adapter's alias or version, or path:NAME; GET /v1/models lists them"
            if named:
                known = ", ".join(PATH_PREFIX + name for name in self._paths)
            raise NotFound(f"unknown model '{model[:200]}'; known: {known}", code="unknown_model", param="model")
        return path

    def _by_task(self, request: Request, labels: Labels, key: str) -> Plan:
        if labels.abstained:
            return self._abstained
        task = self._tasks[labels.task]
        wanted = self._fixed.get(labels.task)
        if wanted is None and task.policy.best_value:
            wanted = self._with_reserves(task, self._weighed(request, labels.task, task.policy.best_value, key))
        elif wanted is None:
            wanted = self._with_reserves(task, plan(task.policy, key))
        if labels.stage.startswith("rule:"):
            wanted = replace(wanted, reason=labels.stage)
        return self._refreshed(task.stale, wanted, key) if task.stale else wanted

    def _with_reserves(self, task: TaskConfig, wanted: Plan) -> Plan:
        return replace(wanted, paths=tuple(dict.fromkeys([*wanted.paths, *task.fallback, self._default.name])))

    def _refreshed(self, stale: StaleConfig, wanted: Plan, key: str) -> Plan:
        """First the path that looks things up, where too much has changed since the wanted adapter was trained."""
        path = self._path(wanted.paths[0], key)
        if path.resolved_adapter is None or path.name == stale.path:
            return wanted
        version = path.resolved_adapter.version
        share = self._freshness.changed_share(version)
        if share <= stale.after_changed_share:
            return wanted
        said = f"{share * 100:.0f} % of its topic's documents have changed since {version} was trained"
        paths = tuple(dict.fromkeys((stale.path, *wanted.paths)))
        return replace(wanted, paths=paths, reason="stale", said={**wanted.said, path.name: said})

    def _weighed(self, request: Request, task: str, terms: BestValueConfig, key: str) -> Plan:
        paths = [self._path(name, key) for name in terms.paths]
        away = {path.name: why for path in paths if (why := self._availability.why_not(path))}
        candidates = [self._candidate(request, task, path) for path in paths]
        # Another hash than a split's: who is on its small side should not be the one to try paths as well.
        wanted = self._best_value.plan(task, terms, candidates, away, point(f"trial {task} {key}"))
        return replace(wanted, said={**wanted.said, **away})

    def _candidate(self, request: Request, task: str, path: Path) -> Candidate:
        evidence = self._evidence.of(task, path)
        cost = evidence.mean_cost_usd if evidence.answers > 0 else self._expected_cost.usd(path, request)
        return Candidate(path.name, evidence, cost)

    def _decision(self, number: str, request: Request, labels: Labels, wanted: Sequence[Path], how: Plan) -> Decision:
        if request.caller.scope is not UNRESTRICTED:
            wanted, how = _within(request.caller.scope, labels.task, wanted, how)
        away = {path.name: why for path in wanted if (why := self._availability.why_not(path))}
        # Where nothing can be used, the first is tried all the same, and its own error says what is wrong.
        chosen, *others = ([path for path in wanted if path.name not in away] or wanted[:1]) if away else wanted
        escalation = self._escalation(labels.task, chosen, others) if how.escalates else ()
        return Decision(
            id=number,
            task=labels.task,
            confidence=labels.confidence,
            path=chosen,
            reason=how.reason if chosen is wanted[0] else "availability",
            stage=labels.stage,
            considered=_considered(chosen, wanted, escalation, how, away),
            alternatives=tuple(others),
            probabilities=labels.probabilities,
            expected_cost_usd=self._expected_cost.usd(chosen, request),
            vector=labels.vector,
            margin=labels.margin,
            familiarity=labels.familiarity,
            notes=(*labels.notes, *chosen.notes) if chosen.resolved_adapter is not None else labels.notes,
            generation=self._generation,
            escalation=escalation,
            streams_freely=how.streams_freely,
        )

    def _escalation(self, task: str, chosen: Path, others: Sequence[Path]) -> tuple[Path, ...]:
        """Those of the policy that come after `chosen`."""
        ladder = self._tasks[task].policy.paths
        if chosen.name not in ladder:
            return ()
        return tuple(path for path in others if path.name in ladder[ladder.index(chosen.name) + 1 :])


def _within(scope: Scope, task: str, wanted: Sequence[Path], how: Plan) -> tuple[Sequence[Path], Plan]:
    """The paths that the key is for, and the plan with what is to be said of the others. Raises PermissionDenied."""
    closed = {path.name: why for path in wanted if (why := scope.denial_reason(task, path))}
    if not closed:
        return wanted, how
    left = [path for path in wanted if path.name not in closed]
    if not left:
        raise PermissionDenied(closed[wanted[0].name], code="not_in_scope", param="model")
    reason = how.reason if left[0] is wanted[0] else "scope"
    return left, replace(how, reason=reason, said={**how.said, **closed})


def _considered(
    chosen: Path, wanted: Sequence[Path], escalation: Sequence[Path], how: Plan, away: Mapping[str, str]
) -> tuple[Considered, ...]:
    """Every path that was looked at, and why it was taken or not; those that may not stand in for another last."""
    if not (away or how.said or escalation):
        return _in_order(tuple([path.name for path in wanted]), how.reason)
    rows = dict.fromkeys(path.name for path in wanted)
    told = {name: Considered(name, "skipped", how.said[name]) for name in how.said if name not in rows}
    for name in rows:
        if name in away:
            told[name] = Considered(name, "skipped", away[name])
        elif name == chosen.name:
            told[name] = Considered(name, "chosen", how.said.get(name, how.reason))
        else:
            told[name] = Considered(name, "fallback", how.said.get(name, "in reserve"))
    told |= {row.path: row for row in planned_escalation(chosen, escalation, how.streams_freely)}
    return tuple(told[name] for name in [*rows, *(name for name in told if name not in rows)])


@lru_cache(maxsize=1024)
def _forced(path: str) -> Plan:
    return Plan((path,), "forced")


@lru_cache(maxsize=1024)
def _in_order(paths: tuple[str, ...], reason: str) -> tuple[Considered, ...]:
    """The first is taken, the others are in reserve."""
    chosen, *others = dict.fromkeys(paths)
    return (Considered(chosen, "chosen", reason), *[Considered(path, "fallback", "in reserve") for path in others])
