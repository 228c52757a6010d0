"""Receipts: what each request used, what it cost, how long it took, and how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pointsman_gateway.domain.decision import Decision
from pointsman_gateway.domain.request import ANONYMOUS, Caller, Passage
from pointsman_gateway.domain.usage import Usage
from pointsman_gateway.domain.value import PICODOLLARS, UNPRICED, round_to_microseconds

GUARDRAIL_RULINGS = ("passed", "redacted", "unchecked", "unavailable", "blocked")
"""Ordered from the mildest to the severest. If the guardrail fails or times out, the ruling is "unchecked" (the text
passes) or "unavailable".
"""


@dataclass(frozen=True, slots=True)
class GuardrailVerdict:
    """The result of one guardrail at one hook, over all texts of the request."""

    guardrail: str
    """The guardrail's name in the configuration."""
    hook: str
    """ "request", "prompt" or "response"."""
    ruling: str
    """One of `GUARDRAIL_RULINGS`."""
    found: tuple[str, ...] = ()
    """The kinds of the findings, sorted; never the text itself."""

    def __str__(self) -> str:
        found = f": {', '.join(self.found)}" if self.found else ""
        return f"guardrail {self.guardrail}: {self.hook} {self.ruling}{found}"


@dataclass(slots=True)
class Receipt:
    """The tokens, cost, time and outcome of a request that has a decision.

    It is treated as immutable; it is not frozen, because that would triple the time to construct it.
    """

    decision: Decision
    usage: Usage
    picodollars: Mapping[str, int]
    """Cost by component."""
    seconds: Mapping[str, float]
    """Duration by phase, and "first_token" and "total", both since the request's arrival."""
    outcome: str
    """ "ok", "routed", "cancelled" or an error's code; one of `OUTCOMES`."""
    sources: Sequence[Passage] = ()
    model: str = ""
    """The engine's name of the model that answered: the base model or an adapter version; empty if none did."""
    escalated_from: str = ""
    """The path whose answer a validator rejected; empty if none. The receipt includes its cost."""
    cached: str = ""
    """ "exact" or "semantic" if the answer came from the cache; empty if an engine made it."""
    fault: str = "none"
    request_id: str = ""
    guardrails: tuple[GuardrailVerdict, ...] = ()
    """Empty if no guardrail is configured."""
    cost_usd: float | None = field(init=False, repr=False, compare=False)
    """None if a model with an unknown price has worked."""
    _in_dollars: dict[str, float | None] | None = field(default=None, init=False, repr=False, compare=False)
    _rounded: dict[str, float] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        picodollars = self.picodollars
        self.cost_usd = None if UNPRICED in picodollars else sum(picodollars.values()) / PICODOLLARS

    @property
    def cost_parts_usd(self) -> dict[str, float | None]:
        """Returns the dollars by component, None if unknown; computed once for response and request log."""
        if self._in_dollars is None:
            self._in_dollars = {component: amount / PICODOLLARS for component, amount in self.picodollars.items()}
            if UNPRICED in self._in_dollars:
                self._in_dollars[UNPRICED] = None
        return self._in_dollars

    @property
    def rounded_seconds(self) -> dict[str, float]:
        """Returns the duration of each phase in seconds, rounded to microseconds; computed once."""
        if self._rounded is None:
            self._rounded = round_to_microseconds(self.seconds)
        return self._rounded


@dataclass(frozen=True, slots=True)
class UndecidedReceipt:
    """The receipt of a request without a decision: it was rejected, cancelled, or asked for embeddings."""

    request_id: str
    operation: str
    """ "chat", "completion", "route" or "embeddings"."""
    outcome: str
    fault: str
    seconds: Mapping[str, float]
    """As in `Receipt`."""
    caller: Caller = ANONYMOUS
    """The caller, if it was identified."""
    counts_as_request: bool = False
    """Whether the request counts in the usage of the caller's key."""
    model: str = ""
    """The configured name of the embedding model; empty for other operations."""
    usage: Usage = field(default_factory=Usage)
    picodollars: Mapping[str, int] = field(default_factory=dict)
    guardrails: tuple[GuardrailVerdict, ...] = ()
    notes: tuple[str, ...] = ()
    """Remarks, such as on an impossible usage that an engine reported."""

    @property
    def cost_usd(self) -> float:
        return sum(self.picodollars.values()) / PICODOLLARS

    @property
    def cost_parts_usd(self) -> dict[str, float]:
        """Returns the dollars by component."""
        return {component: amount / PICODOLLARS for component, amount in self.picodollars.items()}

    @property
    def rounded_seconds(self) -> dict[str, float]:
        """Returns the duration of each phase in seconds, rounded to microseconds."""
        return round_to_microseconds(self.seconds)
