"""A decision of the journal, as far as lists and figures need it."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pointsman_gateway.domain.outcome import OUTCOMES, ROUTED, Fault
from pointsman_gateway.request_log.store import LogEntry

LONGEST_TEXT = 200
"""Characters of a request that a list shows."""

NOT_OURS = frozenset({Fault.NONE.value, Fault.CALLER.value, Fault.LIMITS.value})


class Record(msgspec.Struct, frozen=True, gc=False):
    place: str
    """In the journal."""
    id: str
    unix_ms: int
    tenant: str
    task: str
    path: str
    kind: str
    reason: str
    confidence: float
    outcome: str
    fault: str
    model: str
    requested: str
    cost_usd: float
    seconds: float
    """Arrival to end; 0 where nothing was answered."""
    first_token: float
    """0 where none came."""
    prompt_tokens: int
    completion_tokens: int
    escalated_from: str
    text: str
    """How the last message of a user begins, where the journal keeps it."""

    @property
    def asked_for_an_answer(self) -> bool:
        return self.outcome != ROUTED

    @property
    def failed(self) -> bool:
        """By our fault: not where the caller was wrong, hung up, or had used up what is theirs."""
        return self.fault not in NOT_OURS


class _Entry(msgspec.Struct):
    """What is read of it; what else it holds is passed over."""

    id: str
    unix_ms: int
    task: str
    path: str
    kind: str
    reason: str
    confidence: float
    outcome: str
    model: str
    requested: str
    cost_usd: float
    seconds: Mapping[str, float]
    usage: Mapping[str, int]
    escalated_from: str
    fault: str = ""
    tenant: str = ""
    """Of entries from before it was kept: none, so that nobody with a key sees them."""
    messages: Sequence[Mapping[str, Any]] | None = None


_decode = msgspec.json.Decoder(_Entry).decode


def to_record(kept: LogEntry) -> Record | None:
    """None where it cannot be read, being of a later version."""
    try:
        entry = _decode(kept.json)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    return Record(
        place=kept.place,
        id=entry.id,
        unix_ms=entry.unix_ms,
        tenant=entry.tenant,
        task=entry.task,
        path=entry.path,
        kind=entry.kind,
        reason=entry.reason,
        confidence=entry.confidence,
        outcome=entry.outcome,
        fault=entry.fault or OUTCOMES.get(entry.outcome, Fault.GATEWAY.value),
        model=entry.model,
        requested=entry.requested,
        cost_usd=entry.cost_usd,
        seconds=entry.seconds.get("total", 0.0),
        first_token=entry.seconds.get("first_token", 0.0),
        prompt_tokens=entry.usage.get("prompt_tokens", 0),
        completion_tokens=entry.usage.get("completion_tokens", 0),
        escalated_from=entry.escalated_from,
        text=_text(entry.messages or ()),
    )


def _text(messages: Sequence[Mapping[str, Any]]) -> str:
    said = [str(message.get("content") or "") for message in messages if message.get("role") == "user"]
    return " ".join(said[-1][: 2 * LONGEST_TEXT].split())[:LONGEST_TEXT] if said else ""
