"""Receipts of requests, feedback on answers, and the evidence on paths that both add up to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pointsman_gateway.domain.decision import Decision
from pointsman_gateway.domain.request import ANONYMOUS, Caller, Passage
from pointsman_gateway.domain.value import PICODOLLARS, UNPRICED, Usage, round_to_microseconds


@dataclass(slots=True)
class Receipt:
    """What happened to a request that has a decision: tokens, cost, time and outcome.

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
    """The engine's name for what answered, the base model or an adapter version; empty if nothing did."""
    escalated_from: str = ""
    """The path whose answer was refused. The receipt includes its cost."""
    cached: str = ""
    """ "exact" or "semantic" if the answer came from the cache; empty if an engine made it."""
    fault: str = "none"
    request_id: str = ""
    _in_dollars: dict[str, float | None] | None = field(default=None, init=False, repr=False, compare=False)
    _rounded: dict[str, float] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def cost_usd(self) -> float | None:
        """None if a model with an unknown price has worked."""
        picodollars = self.picodollars
        return None if UNPRICED in picodollars else sum(picodollars.values()) / PICODOLLARS

    @property
    def cost_parts_usd(self) -> dict[str, float | None]:
        """Cost by component, None if it is unknown; computed once, since the response and the request log need it."""
        if self._in_dollars is None:
            self._in_dollars = {component: amount / PICODOLLARS for component, amount in self.picodollars.items()}
            if UNPRICED in self._in_dollars:
                self._in_dollars[UNPRICED] = None
        return self._in_dollars

    @property
    def rounded_seconds(self) -> dict[str, float]:
        """Duration by phase, rounded to microseconds; computed once."""
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

    @property
    def cost_usd(self) -> float:
        return sum(self.picodollars.values()) / PICODOLLARS


@dataclass(frozen=True, slots=True)
class Feedback:
    """Feedback on one answer, by its decision's id; at least one of the optional fields is set."""

    decision_id: str
    id: str = ""
    """Identifies this feedback: the same id sent twice counts once. If empty, it is derived from the content."""
    rating: float | None = None
    """0 (bad) to 1 (good)."""
    correction: str = ""
    """A description of what was wrong."""
    right_task: str = ""
    right_answer: str = ""
    tenant: str = ""
    """The tenant of whoever sent it; empty: no tenant, which may rate every answer."""


@dataclass(frozen=True, slots=True)
class PathEvidence:
    """Statistics of a path on one task, from feedback and from receipts."""

    ratings: float = 0.0
    """The number of rated answers."""
    quality: float = 0.0
    """Their mean rating, 0 to 1."""
    answers: float = 0.0
    """The number of answers with a receipt."""
    p95_seconds: float = 0.0
    """From arrival to end."""
    mean_cost_usd: float = 0.0
