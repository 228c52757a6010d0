"""Receipts: what each request used, what it cost, how long it took, and how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pointsman_gateway.domain.decision import Decision
from pointsman_gateway.domain.request import ANONYMOUS, Caller, Passage
from pointsman_gateway.domain.usage import Usage
from pointsman_gateway.domain.value import PICODOLLARS, UNPRICED, round_to_microseconds

GUARDRAIL_RULINGS = ("passed", "redacted", "unchecked", "unavailable", "blocked")
"""The rulings of guardrails, from the mildest to the most severe.

If a guardrail fails or times out, its ruling is "unchecked" (the text passes) or "unavailable" (the request fails), as
its `fail` in the configuration says.
"""


@dataclass(frozen=True, slots=True)
class GuardrailVerdict:
    """What one guardrail (a check of texts) found in one request at one hook: the request, the prompt or the answer.

    If the guardrail checked several texts there, the verdict has the most severe ruling.
    """

    guardrail: str
    """The guardrail's name in the configuration."""
    hook: str
    """The hook that was checked: "request", "prompt" or "response", as explained at `Hook`."""
    ruling: str
    """The result of the check, one of `GUARDRAIL_RULINGS`."""
    found: tuple[str, ...] = ()
    """The kinds of the findings, such as "EMAIL_ADDRESS", each once and sorted; never the text itself."""

    def __str__(self) -> str:
        found = f": {', '.join(self.found)}" if self.found else ""
        return f"guardrail {self.guardrail}: {self.hook} {self.ruling}{found}"


def cost_parts_usd(picodollars: Mapping[str, int]) -> dict[str, float | None]:
    """Converts costs from picodollars (1e-12 dollars) to dollars: component of the cost, such as "prompt" -> dollars.

    The value of `UNPRICED`, the component that stands for costs at unknown prices, becomes None.
    """
    parts: dict[str, float | None] = {component: amount / PICODOLLARS for component, amount in picodollars.items()}
    if UNPRICED in parts:
        parts[UNPRICED] = None
    return parts


@dataclass(frozen=True, slots=True)
class AttemptCharge:
    """The tokens and the cost of one engine's answer, for a request that is charged for the answers of more than one
    engine.
    """

    engine: str
    """The engine, named as in `Receipt.engine`."""
    model: str
    """The model, named as in `Receipt.model`."""
    usage: Usage
    picodollars: Mapping[str, int]
    """The cost by component, as in `Receipt.picodollars`."""

    def as_fields(self) -> dict[str, object]:
        """Returns the charge for an entry of the request log, by name: "engine", "model", "usage", "cost_parts_usd"
        (dollars).

        "token_details" is added if the answer has tokens of special kinds.
        """
        details = self.usage.details_by_name
        return {
            "engine": self.engine,
            "model": self.model,
            "usage": self.usage.counts_by_name,
            "cost_parts_usd": cost_parts_usd(self.picodollars),
            **({} if details is None else {"token_details": details}),
        }


@dataclass(slots=True)
class Receipt:
    """The tokens, cost, time and outcome of one request that has a routing decision, over all paths that it tried.

    It is treated as immutable, but not frozen, because that would triple the time to construct it.
    """

    decision: Decision
    usage: Usage
    picodollars: Mapping[str, int]
    """Cost in picodollars by component, such as "prompt"; with the key `UNPRICED` if a part is unknown."""
    seconds: Mapping[str, float]
    """Seconds by phase, such as "admission"; "first_token" and "total" are counted from the request's arrival."""
    outcome: str
    """How the request ended: "ok", "routed" (only the decision was requested), "cancelled" or an error's code; one of
    `OUTCOMES`."""
    sources: Sequence[Passage] = ()
    """The passages of documents in the prompt, the one with the highest score first."""
    model: str = ""
    """The engine's name of the model that answered (the base model or an adapter version); empty if none answered."""
    escalated_from: str = ""
    """The path whose answer a validator rejected, so that another path answered; empty if there is none."""
    cached: str = ""
    """How the cache answered: "exact" or "semantic"; empty if an engine made the answer."""
    fault: str = "none"
    """The component at fault, a value of `Fault`."""
    request_id: str = ""
    guardrails: tuple[GuardrailVerdict, ...] = ()
    """The verdicts of guardrails; empty if none is configured."""
    engine: str = ""
    """The name in the configuration of the engine that answered, on whose invoice the answer is; empty if none did."""
    attempts: tuple[AttemptCharge, ...] = ()
    """What each engine's answer used and cost, if the request is charged for several answers; together they are `usage`
    and `picodollars`. Empty if there is only the answer of `engine`.
    """
    default_max_tokens: int | None = None
    """The maximum number of tokens that the gateway set for the answer, because neither the request nor its path set
    `max_tokens`; None if the gateway set no maximum.
    """
    cost_usd: float | None = field(init=False, repr=False, compare=False)
    """Total cost in dollars; None if a model with an unknown price was used."""
    _in_dollars: dict[str, float | None] | None = field(default=None, init=False, repr=False, compare=False)
    _rounded: dict[str, float] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        picodollars = self.picodollars
        self.cost_usd = None if UNPRICED in picodollars else sum(picodollars.values()) / PICODOLLARS

    @property
    def attempts_by_name(self) -> list[dict[str, object]] | None:
        """Returns `attempts` as dicts for the request log (see `AttemptCharge.as_fields`); None if there are none."""
        return [charge.as_fields() for charge in self.attempts] if self.attempts else None

    @property
    def cost_parts_usd(self) -> dict[str, float | None]:
        """Returns the cost by component: name of the component, such as "prompt" -> dollars, or None for costs at
        unknown prices (the component `UNPRICED`).

        The result is computed once.
        """
        if self._in_dollars is None:
            self._in_dollars = cost_parts_usd(self.picodollars)
        return self._in_dollars

    @property
    def rounded_seconds(self) -> dict[str, float]:
        """Returns the seconds by phase, such as "admission" and "total", rounded to microseconds. They are computed
        once.
        """
        if self._rounded is None:
            self._rounded = round_to_microseconds(self.seconds)
        return self._rounded


@dataclass(frozen=True, slots=True)
class UndecidedReceipt:
    """The receipt of a request without a routing decision: one for embeddings or reranking, or one that ended before a
    path was chosen, such as a rejected one.
    """

    request_id: str
    operation: str
    """What was requested: "chat", "completion", "route", "embeddings" or "rerank"."""
    outcome: str
    fault: str
    seconds: Mapping[str, float]
    """Seconds by phase, such as "admission", and "total" from the request's arrival."""
    caller: Caller = ANONYMOUS
    """The caller; `ANONYMOUS` if the request ended before its key was checked."""
    counts_as_request: bool = False
    """Whether the request was admitted, so that it counts as a request in the usage of the caller's key."""
    model: str = ""
    """The name of the embedding model or reranker in the configuration; empty for other operations."""
    usage: Usage = field(default_factory=Usage)
    picodollars: Mapping[str, int] = field(default_factory=dict)
    guardrails: tuple[GuardrailVerdict, ...] = ()
    notes: tuple[str, ...] = ()
    """Remarks, for example that an engine reported an impossible number of tokens."""

    @property
    def cost_usd(self) -> float:
        return sum(self.picodollars.values()) / PICODOLLARS

    @property
    def cost_parts_usd(self) -> dict[str, float]:
        """Returns the dollars by component of the cost, such as "embedding"."""
        return {component: amount / PICODOLLARS for component, amount in self.picodollars.items()}

    @property
    def rounded_seconds(self) -> dict[str, float]:
        """Returns the seconds by phase, such as "admission" and "total", rounded to microseconds."""
        return round_to_microseconds(self.seconds)
