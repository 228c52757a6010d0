"""The router: a forced name, else the task's policy, else the default path; what is not available is passed over."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from pointsman_servicekit.errors import NotFound

from pointsman_gateway.config.schema import BestValue, TaskConfig
from pointsman_gateway.domain import AUTO, Considered, Decision, Labels, Path, Request
from pointsman_gateway.routing.best_value import BestValuePolicy, Candidate
from pointsman_gateway.routing.evidence import Evidence
from pointsman_gateway.routing.policy import Plan, plan, point

PATH_PREFIX = "path:"


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
        generation: str = "",
    ) -> None:
        self._paths = paths
        self._tasks = tasks
        self._default = paths[default_path]
        self._availability = availability
        self._forced = forced
        self._expected_cost = expected_cost
        self._evidence = evidence
        self._best_value = BestValuePolicy()
        self._generation = generation

    def decide(self, request: Request, labels: Labels) -> Decision:
        """Raises NotFound where the request names a model, adapter or path that there is not."""
        number = f"dec_{time.time_ns() // 1_000_000:x}{secrets.token_hex(6)}"
        if request.model != AUTO:
            path = self._named(request.model)
            return self._decision(number, request, labels, [path], Plan((path.name,), "forced"))
        # Who names no user draws by the decision's id, so that a replay can draw the same again.
        wanted = self._by_task(request, labels, request.user or number)
        return self._decision(number, request, labels, [self._paths[name] for name in wanted.paths], wanted)

    def _named(self, model: str) -> Path:
        if model.startswith(PATH_PREFIX):
            path = self._paths.get(model.removeprefix(PATH_PREFIX))
            known = ", ".join(PATH_PREFIX + name for name in self._paths)
        else:
            path = self._forced.path_of(model)
            known = "auto, a model, an adapter alias, or path:NAME; GET /v1/models lists them"
        if path is None:
            raise NotFound(f"unknown model '{model[:200]}'; known: {known}", code="unknown_model", param="model")
        return path

    def _by_task(self, request: Request, labels: Labels, key: str) -> Plan:
        if labels.abstained:
            return Plan((self._default.name,), "abstained")
        task = self._tasks[labels.task]
        if task.policy.best_value:
            wanted = self._weighed(request, labels.task, task.policy.best_value, key)
        else:
            wanted = plan(task.policy, key)
        names = tuple(dict.fromkeys([*wanted.paths, *task.fallback, self._default.name]))
        rule = labels.stage.startswith("rule:")
        return replace(wanted, paths=names, reason=labels.stage if rule else wanted.reason)

    def _weighed(self, request: Request, task: str, terms: BestValue, key: str) -> Plan:
        paths = [self._paths[name] for name in terms.paths]
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
        away = {path.name: why for path in wanted if (why := self._availability.why_not(path))}
        # Where nothing can be used, the first is tried all the same, and its own error says what is wrong.
        chosen, *others = [path for path in wanted if path.name not in away] or wanted[:1]
        decision = Decision(
            id=number,
            task=labels.task,
            confidence=labels.confidence,
            path=chosen,
            reason=how.reason if chosen is wanted[0] else "availability",
            stage=labels.stage,
            considered=(),
            alternatives=tuple(others),
            probabilities=labels.probabilities,
            expected_cost_usd=self._expected_cost.usd(chosen, request),
            vector=labels.vector,
            margin=labels.margin,
            familiarity=labels.familiarity,
            notes=labels.notes,
            generation=self._generation,
            escalation=self._escalation(labels.task, chosen, others) if how.escalates else (),
            streams_freely=how.streams_freely,
        )
        return replace(decision, considered=_considered(decision, wanted, how, away))

    def _escalation(self, task: str, chosen: Path, others: Sequence[Path]) -> tuple[Path, ...]:
        """Those of the policy that come after `chosen`."""
        ladder = self._tasks[task].policy.paths
        if chosen.name not in ladder:
            return ()
        return tuple(path for path in others if path.name in ladder[ladder.index(chosen.name) + 1 :])


def _considered(
    decision: Decision, wanted: Sequence[Path], how: Plan, away: Mapping[str, str]
) -> tuple[Considered, ...]:
    """Every path that was looked at, and why it was taken or not; those that may not stand in for another last."""
    rows = dict.fromkeys(path.name for path in wanted)
    told = {name: Considered(name, "skipped", how.said[name]) for name in how.said if name not in rows}
    for name in rows:
        if name in away:
            told[name] = Considered(name, "skipped", away[name])
        elif name == decision.path.name:
            told[name] = Considered(name, "chosen", how.said.get(name, how.reason))
        else:
            told[name] = Considered(name, "fallback", how.said.get(name, "in reserve"))
    told |= {row.path: row for row in decision.in_case()}
    return tuple(told[name] for name in [*rows, *(name for name in told if name not in rows)])
