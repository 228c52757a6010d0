"""What the gateway decided and answered, whichever door it came through."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Considered:
    path: str
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    id: str
    task: str
    confidence: float
    path: str
    kind: str
    reason: str
    stage: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)  # by task, most likely first
    considered: tuple[Considered, ...] = ()
    expected_cost_usd: float | None = None
    margin: float | None = None  # from the first probability to the second
    familiarity: float | None = None  # below 0: it is like nothing known
    notes: tuple[str, ...] = ()
    generation: str = ""  # the configuration that decided


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer."""

    content: str


@dataclass(frozen=True, slots=True)
class Ending:
    """What it came to; None where the gateway did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    path: str = ""  # that really answered
    sources: tuple[str, ...] = ()  # titles of the passages it was given
    escalated_from: str = ""  # the path whose answer was not accepted
    cached_tokens: int = 0  # of the prompt's
    cost_parts_usd: Mapping[str, float] = field(default_factory=dict)
    finish_reason: str = ""
    model: str = ""  # the base model, or the adapter's version


Event = Decision | Text | Ending
"""One answer is one `Decision`, any number of `Text`, one `Ending`."""


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    model: str
    stream: bool = True
