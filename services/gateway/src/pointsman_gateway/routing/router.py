"""The router: a forced name, else the task's policy, else the default path; what is not available is passed over."""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from pointsman_servicekit.errors import NotFound

from pointsman_gateway.config.schema import TaskConfig
from pointsman_gateway.domain import AUTO, Considered, Decision, Labels, Path, Request
from pointsman_gateway.routing.policy import choose

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
        generation: str = "",
    ) -> None:
        self._paths = paths
        self._tasks = tasks
        self._default = paths[default_path]
        self._availability = availability
        self._forced = forced
        self._expected_cost = expected_cost
        self._generation = generation

    def decide(self, request: Request, labels: Labels) -> Decision:
        """Raises NotFound where the request names a model, adapter or path that there is not."""
        if request.model != AUTO:
            wanted, reason = [self._named(request.model)], "forced"
        else:
            wanted, reason = self._by_task(request, labels)
        return self._decision(request, labels, wanted, reason)

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

    def _by_task(self, request: Request, labels: Labels) -> tuple[list[Path], str]:
        if labels.abstained:
            return [self._default], "abstained"
        task = self._tasks[labels.task]
        first, reason = choose(task.policy, request.user or secrets.token_hex(8))
        names = list(dict.fromkeys([first, *task.fallback, self._default.name]))
        if labels.stage.startswith("rule:"):
            reason = labels.stage
        return [self._paths[name] for name in names], reason

    def _decision(self, request: Request, labels: Labels, wanted: Sequence[Path], reason: str) -> Decision:
        considered: list[Considered] = []
        usable: list[Path] = []
        for path in wanted:
            why_not = self._availability.why_not(path)
            if why_not:
                considered.append(Considered(path.name, "skipped", why_not))
            else:
                considered.append(
                    Considered(path.name, "fallback" if usable else "chosen", "in reserve" if usable else reason)
                )
                usable.append(path)
        if not usable:  # the first is tried all the same, and its own error says what is wrong
            usable = [wanted[0]]
        chosen, *others = usable
        if chosen is not wanted[0]:
            reason = "availability"
        return Decision(
            id=f"dec_{time.time_ns() // 1_000_000:x}{secrets.token_hex(6)}",
            task=labels.task,
            confidence=labels.confidence,
            path=chosen,
            reason=reason,
            stage=labels.stage,
            considered=tuple(considered),
            alternatives=tuple(others),
            probabilities=labels.probabilities,
            expected_cost_usd=self._expected_cost.usd(chosen, request),
            vector=labels.vector,
            margin=labels.margin,
            familiarity=labels.familiarity,
            notes=labels.notes,
            generation=self._generation,
        )
