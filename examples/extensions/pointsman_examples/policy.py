"""A policy that sends long requests to another path."""

from pointsman_gateway.extensions import Plan, Policy, PolicyContext
from pydantic import BaseModel, Field


class ByLengthOptions(BaseModel):
    short: str
    long: str
    max_characters: int = Field(default=500, ge=1)


class ByLength(Policy):
    Options = ByLengthOptions

    def __init__(self, options: ByLengthOptions) -> None:
        self._options = options

    @property
    def paths(self) -> tuple[str, ...]:
        return (self._options.short, self._options.long)

    def plan(self, context: PolicyContext) -> Plan:
        is_long = len(context.request.query) > self._options.max_characters
        return Plan((self._options.long if is_long else self._options.short,), "policy:by_length")
