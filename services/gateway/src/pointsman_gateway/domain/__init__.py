"""The nouns that travel down the line; they know the standard library, arrays and msgspec's structs, nothing else."""

from pointsman_gateway.domain.adapters import Aim, Alias, Outcomes
from pointsman_gateway.domain.answer import (
    PICO,
    Answered,
    Chunk,
    Chunks,
    EngineSeconds,
    Event,
    Finished,
    Passage,
    Prompt,
    Receipt,
    Started,
    Undecided,
    Usage,
    to_microseconds,
)
from pointsman_gateway.domain.caller import ANYONE, Caller, Scope
from pointsman_gateway.domain.decision import UNKNOWN, Considered, Decision, Kind, Labels, Path, Vector
from pointsman_gateway.domain.evidence import Feedback, PathEvidence
from pointsman_gateway.domain.request import AUTO, Message, Operation, Request
from pointsman_gateway.domain.sampling import Sampling

__all__ = [
    "ANYONE",
    "AUTO",
    "PICO",
    "UNKNOWN",
    "Aim",
    "Alias",
    "Answered",
    "Caller",
    "Chunk",
    "Chunks",
    "Considered",
    "Decision",
    "EngineSeconds",
    "Event",
    "Feedback",
    "Finished",
    "Kind",
    "Labels",
    "Message",
    "Operation",
    "Outcomes",
    "Passage",
    "Path",
    "PathEvidence",
    "Prompt",
    "Receipt",
    "Request",
    "Sampling",
    "Scope",
    "Started",
    "Undecided",
    "Usage",
    "Vector",
    "to_microseconds",
]
