"""The expected state: all acknowledged changes of adapters, documents, keys and feedback, with their times."""

import time
from dataclasses import dataclass, field

ALIAS_STALENESS_SECONDS = 40.0
"""How long a gateway may use the previous version: the length of a fault of the lora-server, plus the time of its
recovery (see schedule.py)."""
PASSAGE_STALENESS_SECONDS = 0.0
REVOCATION_SECONDS = 1.5
"""How long a revoked key may still be accepted; the documentation says one second."""


@dataclass
class History:
    """The successive values of one setting. Readers may see a value from the time it was sent until the next value is
    acknowledged.
    """

    changes: list[tuple[float, float, str]] = field(default_factory=list)
    """Each change as (time sent, time acknowledged, value); the second is infinite if the outcome is unknown."""

    def allowed(self, begin: float, end: float, staleness: float) -> set[str]:
        """Returns the values that a reader may see between two times. `staleness` is for how many seconds an old value
        may still be seen.
        """
        values = set()
        for number, (sent, _, value) in enumerate(self.changes):
            later = [acknowledged for _, acknowledged, _ in self.changes[number + 1 :]]
            if sent <= end and begin - staleness <= min(later, default=float("inf")):
                values.add(value)
        return values

    @property
    def current(self) -> str:
        """The last acknowledged value; empty if a later change has an unknown outcome."""
        _, acknowledged, value = self.changes[-1]
        return value if acknowledged < float("inf") else ""


@dataclass
class Truth:
    aliases: dict[str, History] = field(default_factory=dict)
    """By adapter, the versions to which NAME@prod pointed."""
    document: History = field(default_factory=History)
    """The revisions of the document that is replaced."""
    notes: list[str] = field(default_factory=list)
    """The documents whose writing was acknowledged."""
    feedback: list[str] = field(default_factory=list)
    """The decisions whose feedback was acknowledged."""
    revoked: dict[str, float] = field(default_factory=dict)
    """By credential, when its revocation was acknowledged."""
    edits: int = 0
    """Number of valid changes of the configuration."""


@dataclass(slots=True)
class Record:
    """One request and its result."""

    protocol: str
    gateway: str
    key: str
    """The id of the request's key."""
    deadline: float
    """The deadline that the client sent, in seconds."""
    sent: float = field(default_factory=time.monotonic)
    wall: float = field(default_factory=time.time)
    ended: float = 0.0
    code: str = ""
    """The error's code; empty for a complete answer."""
    model: str = ""
    text: str = ""
    adapter: str = ""
    """The adapter whose alias the client requested."""
    decision: str = ""
    cost_usd: float | None = None
    prompt: str = ""
    """The prompt, if the client requested the decision and its prompt."""

    @property
    def ok(self) -> bool:
        return not self.code
