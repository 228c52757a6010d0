"""The policy `split`: a weighted random choice that stays the same for each user."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from pointsman_gateway.extensions import Plan, Policy, PolicyContext

Weights = Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Split(Policy):
    """Distributes users over paths by their weights. A user keeps the path while the weights stay the same."""

    Options = Weights

    def __init__(self, options: Mapping[str, float]) -> None:
        self._weights = options

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._weights)

    def plan(self, context: PolicyContext) -> Plan:
        return Plan((self._path_at(context.position()),), "policy:split")

    def preview(self, context: PolicyContext) -> Plan:
        """Return the path with the largest weight."""
        return Plan((max(self._weights, key=self._weights.__getitem__),), "policy:split")

    def _path_at(self, position: float) -> str:
        total, reached = sum(self._weights.values()), 0.0
        for path, weight in self._weights.items():
            reached += weight / total
            if position < reached:
                return path
        return path  # rounding may leave a small remainder
