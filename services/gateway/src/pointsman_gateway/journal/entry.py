"""One receipt as the journal keeps it; docs/routing.md says what each field is."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from pointsman_gateway.domain import (
    PICO,
    Answered,
    Caller,
    Decision,
    Receipt,
    Request,
    Undecided,
    Usage,
    to_microseconds,
)
from pointsman_gateway.domain.noun import noun
from pointsman_gateway.journal.evidence import Tally, cell_of, tally_of
from pointsman_gateway.journal.keys import day_of
from pointsman_gateway.redaction import NotRedacted, Redaction

VERSION = 1
NOTHING_REDACTED = Redaction()
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
MOST_PROBABILITIES = 8
LONGEST_TEXT = 64 * 1024
"""Bytes of a request's messages; longer ones are left out, never cut."""


@noun
class Noted:
    """What the pipeline told; what comes of it in Redis is made later, away from the request."""

    unix_seconds: float
    request: Request
    decision: Decision
    receipt: Receipt
    answers: tuple[Answered, ...] = ()
    """To be learnt from, in their order: the last one is the caller's. Empty where that is not wanted."""
    position: int = 0
    """Among the counterfoils; 0 where it has none."""
    recovered: bool = False
    """From its counterfoil: the request has no more than what stands there."""

    @property
    def tally(self) -> Tally | None:
        return tally_of(self.receipt, day_of(self.unix_seconds))


@noun
class Entry:
    decision_id: str
    cell: str
    """What a rating counts for; empty where nothing was answered."""
    day: str
    json: str
    """Empty where it cannot be written."""
    tenant: str = ""
    lesson: str = ""
    """What is kept to learn from, JSON; empty where nothing is."""
    tally: Tally | None = None
    """What it counts for; None where nothing does."""
    position: int = 0
    """As it was noted."""

    @property
    def size(self) -> int:
        """In characters."""
        return len(self.json) + len(self.lesson) + len(self.cell) + 64


def to_entry(noted: Noted, keep_text: bool, redaction: Redaction = NOTHING_REDACTED) -> Entry:
    receipt = noted.receipt
    decision = noted.decision
    asked = _lost(noted.request) if noted.recovered else _asked(noted.request, keep_text, redaction)
    body = {
        "v": VERSION,
        "id": decision.id,
        "unix_ms": round(noted.unix_seconds * 1000),
        **_decided(decision),
        **asked,
        **_caller(noted.request.caller),
        **_came_of_it(receipt),
        "model": receipt.model,
        "escalated_from": receipt.escalated_from,
        "cached": receipt.cached,
    }
    return Entry(
        decision.id,
        str(cell_of(receipt)) if receipt.model else "",
        day_of(noted.unix_seconds),
        _encode(body).decode(),
        tally=noted.tally,
        position=noted.position,
    )


def nothing_of(noted: Noted) -> Entry:
    """Stands in its place where it cannot be written."""
    return Entry(noted.decision.id, "", "", "", tally=noted.tally, position=noted.position)


def _decided(decision: Decision) -> dict[str, Any]:
    return {
        "generation": decision.generation,
        "task": decision.task,
        "confidence": round(float(decision.confidence), 6),
        "margin": round(float(decision.margin), 6),
        "familiarity": round(float(decision.familiarity), 6),
        "stage": decision.stage,
        "notes": decision.notes,
        "probabilities": [(task, round(float(p), 6)) for task, p in decision.probabilities[:MOST_PROBABILITIES]],
        "path": decision.path.name,
        "kind": decision.path.kind.value,
        "fingerprint": decision.path.fingerprint,
        "reason": decision.reason,
        "considered": decision.considered,
        "expected_cost_usd": decision.expected_cost_usd,
    }


def _asked(request: Request, keep_text: bool, redaction: Redaction) -> dict[str, Any]:
    text, messages, user = _kept(request, redaction) if keep_text else ("not kept", None, None)
    return {
        "requested": request.model,
        "metadata": {name: redaction.or_nothing(value) for name, value in request.metadata.items()},
        "response_format": response_format_of(request),
        "inputs": _digest(request),
        "user_digest": hashlib.blake2b(request.user.encode(), digest_size=8).hexdigest() if request.user else "",
        "text": text,
        "messages": messages,
        "user": user,
    }


def _lost(request: Request) -> dict[str, Any]:
    """Of a request whose gateway was killed before it could be written."""
    asked = {"requested": request.model, "metadata": {}, "response_format": response_format_of(request)}
    return asked | {"inputs": "", "user_digest": "", "text": "lost", "messages": None, "user": None}


def _kept(request: Request, redaction: Redaction) -> tuple[str, list[dict[str, Any]] | None, str | None]:
    """How it went; messages and user as they may be kept, None where they are too long or the redaction fails."""
    messages = messages_of(request)
    if messages is None:
        return "too long", None, None
    try:
        return "kept", redaction.everywhere(messages), redaction.text(request.user)
    except NotRedacted:
        return "not redacted", None, None


def messages_of(request: Request) -> list[dict[str, Any]] | None:
    """As they were sent; None where they are too long."""
    if sum(len(message.content) for message in request.messages) > LONGEST_TEXT:
        return None
    messages = [{"role": m.role, "content": m.content, **m.extra} for m in request.messages]
    return messages if len(_encode(messages)) <= LONGEST_TEXT else None


def response_format_of(request: Request) -> str:
    asked = request.sampling.extra.get("response_format")
    if not isinstance(asked, Mapping):
        return "" if asked is None else "other"
    return str(asked.get("type", "other"))[:64]


def _digest(request: Request) -> str:
    """Of what decides and what is answered. Fast, since a text may have millions of characters."""
    response_format = request.sampling.extra.get("response_format")
    beside = (request.model, sorted(request.metadata.items()), request.user, response_format)
    messages = [(message.role, message.content, message.extra) for message in request.messages]
    return hashlib.blake2b(_encode_sorted((beside, messages)), digest_size=16).hexdigest()


def _caller(caller: Caller) -> dict[str, Any]:
    return {"tenant": caller.tenant, "key": caller.key}


def _came_of_it(receipt: Receipt | Undecided) -> dict[str, Any]:
    return {
        "request_id": receipt.request_id,
        "outcome": receipt.outcome,
        "fault": receipt.fault,
        "usage": _counted(receipt.usage),
        "cost_usd": receipt.cost_usd,
        "cost_parts_usd": {component: amount / PICO for component, amount in receipt.picodollars.items()},
        "seconds": to_microseconds(receipt.seconds),
    }


def _counted(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
    }


def to_undecided_json(receipt: Undecided, unix_seconds: float) -> str:
    """The receipt of a request that came to no decision."""
    body = {"v": VERSION, "unix_ms": round(unix_seconds * 1000), "operation": receipt.operation, "model": receipt.model}
    body |= _caller(receipt.caller) | {"counted": receipt.counted} | _came_of_it(receipt)
    return _encode(body).decode()
