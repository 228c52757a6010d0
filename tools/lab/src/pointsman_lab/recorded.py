"""A decision as the journal has it, and what another configuration makes of it."""

from dataclasses import dataclass

from pointsman_gateway.domain import Decision, Labels, Request


@dataclass(frozen=True, slots=True)
class Recorded:
    id: str
    request: Request
    """Without messages where they were not kept."""
    labels: Labels
    """As they were decided then."""
    path: str
    """The one that was wanted first; what was away then does not count."""
    fingerprint: str
    """Of that path as it was."""
    generation: str
    user_digest: str
    """Of the user, where one was named."""
    expected_cost_usd: float
    answered_by: str = ""
    """The path that answered, and to the end; empty where none did."""
    cost_usd: float = 0.0
    """Of that answer."""

    @property
    def adapter(self) -> str:
        """The one that the request named and got; empty for all others."""
        return self.request.model if self.path == f"adapter:{self.request.model}" else ""

    @property
    def has_text(self) -> bool:
        return any(message.content for message in self.request.messages)


@dataclass(frozen=True, slots=True)
class Replayed:
    recorded: Recorded
    decision: Decision | None
    """What it would be now; None where there would be none."""
    failure: str = ""
    """The error that its sender would get."""
    obstacle: str = ""
    """Why it cannot be said what would be decided."""
    by_chance: bool = False
    """Whether it takes part in a trial hangs on a name that was not kept: it is drawn anew, the same each time."""
    weighed: bool = False
    """It is decided by evidence, which is not what it was then."""

    @property
    def moved(self) -> bool:
        """It takes another path."""
        return self.decision is not None and self.decision.path.name != self.recorded.path

    @property
    def relabelled(self) -> bool:
        """It is of another task, or of one where it was of none."""
        return self.decision is not None and self.decision.task != self.recorded.labels.task

    @property
    def changed(self) -> bool:
        return bool(self.failure) or self.moved or self.relabelled
