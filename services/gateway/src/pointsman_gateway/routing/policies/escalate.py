"""The policy `escalate`: the first path, and once the next one if a validator refuses its answer."""

from pydantic import Field, model_validator

from pointsman_gateway.config.strict import Strict
from pointsman_gateway.extensions import Plan, Policy, PolicyContext


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
    """Takes the first path. If a validator of the task refuses the answer, the next path answers instead, once."""

    Options = EscalateOptions
    is_constant = True
    needs_validators = True

    def __init__(self, options: EscalateOptions) -> None:
        self._options = options

    @property
    def paths(self) -> tuple[str, ...]:
        return self._options.paths

    def plan(self, context: PolicyContext) -> Plan:
        unvalidated = frozenset(self._options.stream_unvalidated)
        return Plan(self.paths, "policy:escalate", escalates=True, stream_unvalidated=unvalidated)
