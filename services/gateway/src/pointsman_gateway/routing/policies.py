"""Three policies that choose a path without ratings or costs: `fixed`, `split` and `escalate`."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from pointsman_gateway.config.field_types import Strict
from pointsman_gateway.extensions import Plan, Policy, PolicyContext
from pointsman_gateway.routing.wording import percent

Weights = Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Fixed(Policy):
    """Sends every request along the path that its option names."""

    Options = str
    is_constant = True

    def __init__(self, options: str) -> None:
        self._path = options

    @property
    def paths(self) -> tuple[str, ...]:
        return (self._path,)

    def plan(self, context: PolicyContext) -> Plan:
        return Plan(self.paths, "policy:fixed")


class Split(Policy):
    """Distributes users over paths by weight; a user stays on one path while the weights do not change.

    A request without a user is distributed by its conversation, or on its own if it belongs to no conversation.
    """

    Options = Weights

    @classmethod
    def summary(cls, options: Mapping[str, float]) -> str:
        total = sum(options.values())
        return ", ".join(f"{path} {percent(weight / total)}" for path, weight in options.items())

    def __init__(self, options: Mapping[str, float]) -> None:
        self._weights = options

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._weights)

    def plan(self, context: PolicyContext) -> Plan:
        return Plan((self._path_at(context.position()),), "policy:split")

    def preview(self, context: PolicyContext) -> Plan:
        """Returns the plan whose first path is the one with the largest weight, instead of a random choice."""
        return Plan((max(self._weights, key=self._weights.__getitem__),), "policy:split")

    def _path_at(self, position: float) -> str:
        total, reached = sum(self._weights.values()), 0.0
        for path, weight in self._weights.items():
            reached += weight / total
            if position < reached:
                return path
        return path  # rounding may leave a small remainder


class EscalateOptions(Strict):
    paths: tuple[str, ...] = Field(min_length=2)
    stream_unvalidated: tuple[str, ...] = Field(
        default=(),
        description="paths whose answers are streamed before they are validated, and so cannot be escalated",
    )

    @model_validator(mode="after")
    def _can_escalate(self) -> "EscalateOptions":
        for path in self.stream_unvalidated:
            if path not in self.paths:
                raise ValueError(f"stream_unvalidated names '{path}'; known: {', '.join(sorted(self.paths))}")
        if set(self.paths[:-1]) <= set(self.stream_unvalidated):
            raise ValueError("nothing would ever escalate; a path before the last must not be in stream_unvalidated")
        return self


class Escalate(Policy):
    """Sends every request along the first path; if a validator rejects the answer, the next path answers instead, once.

    Paths in `stream_unvalidated` stream their answers before validation, so these answers are never replaced.
    """

    Options = EscalateOptions
    is_constant = True
    needs_validators = True

    @classmethod
    def summary(cls, options: EscalateOptions) -> str:
        return "if a validator rejects its answer, the next path answers, once"

    def __init__(self, options: EscalateOptions) -> None:
        self._options = options

    @property
    def paths(self) -> tuple[str, ...]:
        return self._options.paths

    def plan(self, context: PolicyContext) -> Plan:
        unvalidated = frozenset(self._options.stream_unvalidated)
        return Plan(self.paths, "policy:escalate", escalates=True, stream_unvalidated=unvalidated)
