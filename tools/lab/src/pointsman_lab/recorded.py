"""A recorded decision, and the decision that another configuration makes for the same request."""

from dataclasses import dataclass

from pointsman_gateway.domain import Decision, Labels, Request


@dataclass(frozen=True, slots=True)
class Recorded:
    id: str
    request: Request
    """The request, without messages if these were not stored."""
    labels: Labels
    """The classifier's labels at the time."""
    path: str
    """The path that the policy wanted first, even if it was unavailable."""
    fingerprint: str
    """Fingerprint of that path's configuration at the time."""
    generation: str
    user_digest: str
    """Digest of the request's user, if it named one."""
    expected_cost_usd: float
    answered_by: str = ""
    """The path that completed the answer; empty if none did."""
    cost_usd: float = 0.0
    """Cost of that answer."""

    @property
    def adapter(self) -> str:
        """The adapter that the request named and received; otherwise empty."""
        return self.request.model if self.path == f"adapter:{self.request.model}" else ""

    @property
    def has_text(self) -> bool:
        return any(message.content for message in self.request.messages)


@dataclass(frozen=True, slots=True)
class Replayed:
    recorded: Recorded
    decision: Decision | None
    """The new decision; None if there would be none."""
    failure: str = ""
    """The error that the client would receive."""
    obstacle: str = ""
    """Why the new decision cannot be determined."""
    by_chance: bool = False
    """Whether exploration depends on a user name that was not stored. The sample is then drawn from the decision id,
    reproducibly."""
    weighed: bool = False
    """Whether the decision depends on evidence, which has changed since the request."""

    @property
    def moved(self) -> bool:
        """Whether the request takes another path."""
        return self.decision is not None and self.decision.path.name != self.recorded.path

    @property
    def relabelled(self) -> bool:
        """Whether the request gets another task, or one instead of none."""
        return self.decision is not None and self.decision.task != self.recorded.labels.task

    @property
    def changed(self) -> bool:
        return bool(self.failure) or self.moved or self.relabelled
