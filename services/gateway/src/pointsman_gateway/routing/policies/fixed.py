"""The policy `fixed`: always the same path."""

from pointsman_gateway.extensions import Plan, Policy, PolicyContext


class Fixed(Policy):
    """Takes one path for every request."""

    Options = str
    is_constant = True

    def __init__(self, options: str) -> None:
        self._path = options

    @property
    def paths(self) -> tuple[str, ...]:
        return (self._path,)

    def plan(self, context: PolicyContext) -> Plan:
        return Plan(self.paths, "policy:fixed")
