"""The events of one answer, independent of the protocol: the decision, the text and the final usage."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ConsideredPath:
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
    considered: tuple[ConsideredPath, ...] = ()
    expected_cost_usd: float | None = None
    margin: float | None = None  # difference between the first and second probability
    in_distribution_score: float | None = None  # below 0: unlike the training examples
    notes: tuple[str, ...] = ()
    generation: str = ""  # the configuration that decided


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A part of the answer's text."""

    content: str


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """Usage and cost of a finished answer; None if the gateway did not report a value."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    path: str = ""  # that answered in the end
    sources: tuple[str, ...] = ()  # titles of the retrieved passages
    escalated_from: str = ""  # the path whose answer failed validation
    cached_tokens: int = 0  # part of prompt_tokens
    cost_parts_usd: Mapping[str, float] = field(default_factory=dict)
    finish_reason: str = ""
    model: str = ""  # the base model or the adapter version


Event = Decision | TextChunk | AnswerEnd
"""An answer is one Decision, any number of TextChunks, and one AnswerEnd."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the user asks, and of which model."""

    text: str
    model: str
    stream: bool = True
