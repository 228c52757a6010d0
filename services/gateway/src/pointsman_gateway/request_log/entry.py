"""One receipt as the journal keeps it; docs/routing.md says what each field is."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pointsman_gateway.config.schema import LearningConfig
from pointsman_gateway.domain import (
    PICODOLLARS,
    CompletedAnswer,
    Considered,
    Decision,
    Receipt,
    Request,
    UndecidedReceipt,
    Usage,
    round_to_microseconds,
)
from pointsman_gateway.domain.value import value
from pointsman_gateway.redaction import NotRedacted, Redaction
from pointsman_gateway.request_log.evidence import AnswerCounts, answer_counts, evidence_key
from pointsman_gateway.request_log.redis_schema import day_of, hash_to_unit_interval

VERSION = 1
NOTHING_REDACTED = Redaction()
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
MAX_PROBABILITIES = 8
MAX_TEXT_BYTES = 64 * 1024
"""Bytes of a request's messages; longer ones are left out, never cut."""


@dataclass(slots=True)
class PendingEntry:
    """What the pipeline told; what comes of it in Redis is made later, away from the request."""

    unix_seconds: float
    request: Request
    decision: Decision
    receipt: Receipt
    answers: tuple[CompletedAnswer, ...] = ()
    """To be learnt from, in their order: the last one is the caller's. Empty where that is not wanted."""
    position: int = 0
    """Among the counterfoils; 0 where it has none."""
    recovered: bool = False
    """From its counterfoil: the request has no more than what stands there."""
    day: str = field(init=False)
    tally: AnswerCounts | None = field(init=False)

    def __post_init__(self) -> None:
        self.day = day_of(self.unix_seconds)
        self.tally = answer_counts(self.receipt, self.day)


@value
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
    tally: AnswerCounts | None = None
    """What it counts for; None where nothing does."""
    position: int = 0
    """As it was noted."""

    @property
    def size(self) -> int:
        """In bytes, next to enough."""
        return len(self.json) + len(self.lesson) + len(self.cell) + 64


class _Body(msgspec.Struct, gc=False):
    """What is written, but for its name: a field of `entry`."""

    v: int
    id: str
    unix_ms: int
    generation: str
    task: str
    confidence: float
    margin: float
    familiarity: float
    stage: str
    notes: tuple[str, ...]
    probabilities: list[tuple[str, float]]
    path: str
    kind: str
    fingerprint: str
    reason: str
    considered: tuple[Considered, ...]
    expected_cost_usd: float
    requested: str
    metadata: dict[str, str]
    response_format: str
    inputs: str
    user_digest: str
    text: str
    messages: list[dict[str, Any]] | None
    user: str | None
    tenant: str
    key: str
    request_id: str
    outcome: str
    fault: str
    usage: dict[str, int]
    cost_usd: float
    cost_parts_usd: dict[str, float]
    seconds: dict[str, float]
    model: str
    escalated_from: str
    cached: str


def to_entry(noted: PendingEntry, keep_text: bool, redaction: Redaction = NOTHING_REDACTED) -> Entry:
    request, decision, receipt = noted.request, noted.decision, noted.receipt
    text, messages, user = _kept(request, redaction) if keep_text and not noted.recovered else ("not kept", None, None)
    if noted.recovered:
        text = "lost"
    path = decision.path
    body = _Body(
        v=VERSION,
        id=decision.id,
        unix_ms=round(noted.unix_seconds * 1000),
        generation=decision.generation,
        task=decision.task,
        confidence=six_digits(decision.confidence),
        margin=six_digits(decision.margin),
        familiarity=six_digits(decision.familiarity),
        stage=decision.stage,
        notes=decision.notes,
        probabilities=[(task, six_digits(p)) for task, p in decision.probabilities[:MAX_PROBABILITIES]],
        path=path.name,
        kind=path.kind.value,
        fingerprint=path.fingerprint,
        reason=decision.reason,
        considered=decision.considered,
        expected_cost_usd=decision.expected_cost_usd,
        requested=request.model,
        metadata={name: redaction.or_nothing(value) for name, value in request.metadata.items()},
        response_format=response_format_of(request),
        inputs="" if noted.recovered else _digest(request),
        user_digest=hashlib.blake2b(request.user.encode(), digest_size=8).hexdigest() if request.user else "",
        text=text,
        messages=messages,
        user=user,
        tenant=request.caller.tenant,
        key=request.caller.key,
        request_id=receipt.request_id,
        outcome=receipt.outcome,
        fault=receipt.fault,
        usage=_counted(receipt.usage),
        cost_usd=receipt.cost_usd,
        cost_parts_usd=receipt.cost_parts_usd,
        seconds=receipt.rounded_seconds,
        model=receipt.model,
        escalated_from=receipt.escalated_from,
        cached=receipt.cached,
    )
    counted = noted.tally.cell if noted.tally is not None else evidence_key(receipt)
    cell = str(counted) if receipt.model else ""
    return Entry(decision.id, cell, noted.day, _encode(body).decode(), tally=noted.tally, position=noted.position)


def empty_entry(noted: PendingEntry) -> Entry:
    """Stands in its place where it cannot be written."""
    return Entry(noted.decision.id, "", "", "", tally=noted.tally, position=noted.position)


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
    if request.characters > MAX_TEXT_BYTES:
        return None
    messages = [{"role": m.role, "content": m.content, **m.extra} for m in request.messages]
    return messages if len(_encode(messages)) <= MAX_TEXT_BYTES else None


def response_format_of(request: Request) -> str:
    asked = request.sampling.extra.get("response_format")
    if not isinstance(asked, Mapping):
        return "" if asked is None else "other"
    return str(asked.get("type", "other"))[:64]


def six_digits(number: float) -> float:
    """Behind the point, as a float of Python's own. `round` takes three times as long for that."""
    return round(float(number) * 1e6) / 1e6


def _digest(request: Request) -> str:
    """Of what decides and what is answered. Fast, since a text may have millions of characters."""
    response_format = request.sampling.extra.get("response_format")
    beside = (request.model, sorted(request.metadata.items()), request.user, response_format)
    messages = [(message.role, message.content, message.extra) for message in request.messages]
    return hashlib.blake2b(_encode_sorted((beside, messages)), digest_size=16).hexdigest()


def _counted(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
    }


def to_undecided_json(receipt: UndecidedReceipt, unix_seconds: float) -> str:
    """The receipt of a request that came to no decision."""
    body = {
        "v": VERSION,
        "unix_ms": round(unix_seconds * 1000),
        "operation": receipt.operation,
        "model": receipt.model,
        "tenant": receipt.caller.tenant,
        "key": receipt.caller.key,
        "counted": receipt.counts_as_request,
        "request_id": receipt.request_id,
        "outcome": receipt.outcome,
        "fault": receipt.fault,
        "usage": _counted(receipt.usage),
        "cost_usd": receipt.cost_usd,
        "cost_parts_usd": {component: amount / PICODOLLARS for component, amount in receipt.picodollars.items()},
        "seconds": round_to_microseconds(receipt.seconds),
    }
    return _encode(body).decode()


SAMPLE_VERSION = 1


def keeps_answers_of(config: LearningConfig | None, request: Request, decision: Decision) -> bool:
    """Whether the answers to this request are to be kept. Costs next to nothing where nobody consents."""
    if config is None or decision.task not in config.tasks:
        return False
    if not (request.caller.consents_to(decision.task) or (config.without_keys and not request.caller.tenant)):
        return False
    return config.share >= 1 or hash_to_unit_interval(decision.id) < config.share


def to_training_sample(noted: PendingEntry, redaction: Redaction) -> str:
    """JSON, as docs/flywheel.md says; empty where there is nothing that may be kept."""
    receipt = noted.receipt
    if not noted.answers or receipt.outcome != "ok" or receipt.cached:
        return ""
    messages = messages_of(noted.request)
    if messages is None or sum(len(answer.text) for answer in noted.answers) > MAX_TEXT_BYTES:
        return ""
    try:
        kept = redaction.everywhere(messages)
        answers = [_answer_of_sample(answer, redaction) for answer in noted.answers]
    except NotRedacted:
        return ""
    path = receipt.decision.path
    body = {
        "v": SAMPLE_VERSION,
        "decision": noted.decision.id,
        "unix_ms": round(noted.unix_seconds * 1000),
        "tenant": noted.request.caller.tenant,
        "task": receipt.decision.task,
        "kind": path.kind.value,
        "model": receipt.model,
        "collections": path.collections,
        "messages": kept,
        "answers": answers,
    }
    return _encode(body).decode()


def _answer_of_sample(answer: CompletedAnswer, redaction: Redaction) -> dict[str, object]:
    verdicts = [(validator, ruling, redaction.text(why)) for validator, ruling, why in answer.verdicts]
    return {"path": answer.path, "text": redaction.text(answer.text), "verdicts": verdicts}
