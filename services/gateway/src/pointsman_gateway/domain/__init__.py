"""Value objects of the request path. They use only the standard library, NumPy's array type and msgspec's structs."""

from pointsman_gateway.domain.answer import Chunk, Chunks, CompletedAnswer, Event, Finished, Started
from pointsman_gateway.domain.decision import UNKNOWN, Considered, Decision, Labels
from pointsman_gateway.domain.evidence import Feedback, PathEvidence, PathScore
from pointsman_gateway.domain.path import Alias, Kind, Path, ResolvedAdapter, Sampling
from pointsman_gateway.domain.receipt import AttemptCharge, GuardrailVerdict, Receipt, UndecidedReceipt
from pointsman_gateway.domain.request import (
    ANONYMOUS,
    AUTO,
    PATH_PREFIX,
    Caller,
    Message,
    Operation,
    Passage,
    Prompt,
    Request,
    Scope,
)
from pointsman_gateway.domain.usage import EngineSeconds, TokenDetails, Usage
from pointsman_gateway.domain.value import (
    PICODOLLARS,
    UNPRICED,
    Overflow,
    Vector,
    round_to_microseconds,
)

__all__ = [
    "ANONYMOUS",
    "AUTO",
    "PATH_PREFIX",
    "PICODOLLARS",
    "UNKNOWN",
    "UNPRICED",
    "Alias",
    "AttemptCharge",
    "Caller",
    "Chunk",
    "Chunks",
    "CompletedAnswer",
    "Considered",
    "Decision",
    "EngineSeconds",
    "Event",
    "Feedback",
    "Finished",
    "GuardrailVerdict",
    "Kind",
    "Labels",
    "Message",
    "Operation",
    "Overflow",
    "Passage",
    "Path",
    "PathEvidence",
    "PathScore",
    "Prompt",
    "Receipt",
    "Request",
    "ResolvedAdapter",
    "Sampling",
    "Scope",
    "Started",
    "TokenDetails",
    "UndecidedReceipt",
    "Usage",
    "Vector",
    "round_to_microseconds",
]
