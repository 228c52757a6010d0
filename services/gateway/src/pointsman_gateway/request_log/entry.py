"""Makes the entries of the request log: each is a decision with its receipt, as JSON. docs/request_log.md describes
the fields.

A training sample (the request with its answers) is added if the task and the caller allow it.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from pointsman_gateway.config.flywheel import LearningConfig
from pointsman_gateway.domain import (
    CompletedAnswer,
    Decision,
    Receipt,
    Request,
    UndecidedReceipt,
)
from pointsman_gateway.domain.receipt_fields import Encoding, FieldReader
from pointsman_gateway.redaction import NotRedacted, Redaction
from pointsman_gateway.request_log.evidence import AnswerCounts, answer_counts, evidence_key
from pointsman_gateway.request_log.redis_schema import day_of, hash_to_unit_interval
from pointsman_gateway.request_log.spending import SpendingCharge, charge_of

VERSION = 1
SAMPLE_VERSION = 1
NO_REDACTION = Redaction()
_RECEIPT_FIELDS = FieldReader(Encoding.LOG, Receipt)
_UNDECIDED_FIELDS = FieldReader(Encoding.LOG, UndecidedReceipt)
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
MAX_PROBABILITIES = 8
MAX_TEXT_BYTES = 64 * 1024
"""Maximum number of bytes of a request's messages, and of its answers, that are stored; longer ones are left out, never
cut."""


class PendingEntry(msgspec.Struct):
    """A finished request that waits to be logged. It is converted to an `Entry` in the background, so that the
    request need not wait.
    """

    unix_seconds: float
    request: Request
    decision: Decision
    receipt: Receipt
    answers: tuple[CompletedAnswer, ...] = ()
    """The answers to the request; the last one is the answer that the caller got. Empty if none is to be stored."""
    wal_offset: int = 0
    """The receipt's offset in the write-ahead log; 0 if it is not in the log."""
    recovered: bool = False
    """Whether the entry was restored from the write-ahead log, which does not hold the caller's texts."""
    day: str = ""
    """The UTC day of `unix_seconds`, YYYYMMDD."""
    counts: AnswerCounts | None = None
    """The amounts that the answer adds to the evidence on its path (ratings, costs, latencies); None if it adds
    none."""

    def __post_init__(self) -> None:
        self.day = day_of(self.unix_seconds)
        self.counts = answer_counts(self.receipt, self.day)


class Entry(msgspec.Struct):
    decision_id: str
    evidence_key: str
    """The key of the evidence (ratings, costs, latencies) to which a rating of the answer is added; empty if there was
    no answer."""
    day: str
    """The day of the evidence to which a rating is added, YYYYMMDD in UTC."""
    json: str
    """The entry as JSON; empty if it cannot be encoded."""
    tenant: str = ""
    """The tenant of the training sample; empty without a sample."""
    sample: str = ""
    """A training sample as JSON; empty if none is stored."""
    counts: AnswerCounts | None = None
    """The amounts that the answer adds to the evidence on its path (ratings, costs, latencies); None if it adds
    none."""
    charge: SpendingCharge | None = None
    """The amounts that the request adds to the day's spending (requests, tokens, dollars); None if it adds none."""
    wal_offset: int = 0

    size: int = 0
    """The approximate size in bytes; set when the entry is queued."""

    @property
    def exported(self) -> str:
        """Returns the entry as a line for the export log: its JSON, a tab, and the key under which ratings of the
        answer are counted.
        """
        return f"{self.json}\t{self.evidence_key}"


def to_entry(
    pending: PendingEntry, store_messages: bool, redaction: Redaction = NO_REDACTION, store_answers: bool = False
) -> Entry:
    request, decision, receipt = pending.request, pending.decision, pending.receipt
    text, messages, user = ("not stored", None, None)
    if pending.recovered:
        text = "lost"
    elif store_messages:
        text, messages, user = _stored_text(request, redaction)
    path = decision.path
    fields = {
        "v": VERSION,
        "id": decision.id,
        "unix_ms": round(pending.unix_seconds * 1000),
        "revision": decision.revision,
        "task": decision.task,
        "confidence": six_digits(decision.confidence),
        "margin": six_digits(decision.margin),
        "in_distribution_score": six_digits(decision.in_distribution_score),
        "stage": decision.stage,
        "notes": decision.notes,
        "probabilities": [(task, six_digits(p)) for task, p in decision.probabilities[:MAX_PROBABILITIES]],
        "path": path.name,
        "kind": path.kind.value,
        "fingerprint": path.fingerprint,
        "reason": decision.reason,
        "considered": decision.considered,
        "expected_cost_usd": decision.expected_cost_usd,
        "requested": request.model,
        "metadata": {name: redaction.or_nothing(value) for name, value in request.metadata.items()},
        "response_format": response_format_of(request),
        "inputs": "" if pending.recovered else _digest(request),
        "user_digest": hashlib.blake2b(request.user.encode(), digest_size=8).hexdigest() if request.user else "",
        "random_key": decision.random_key,
        "text": text,
        "messages": messages,
        "user": user,
        "answer": _stored_answer(pending, redaction) if store_answers else None,
        "tenant": request.caller.tenant,
        "key": request.caller.key,
        **_RECEIPT_FIELDS.read(receipt),
    }
    counted = pending.counts.key if pending.counts is not None else evidence_key(receipt)
    key = str(counted) if receipt.model else ""
    json = _encode(fields).decode()
    charge = charge_of(request, receipt, pending.day)
    return Entry(
        decision.id, key, pending.day, json, counts=pending.counts, charge=charge, wal_offset=pending.wal_offset
    )


def empty_entry(pending: PendingEntry) -> Entry:
    """Returns an entry without JSON, for a receipt that cannot be encoded, so that its counts are not lost."""
    charge = charge_of(pending.request, pending.receipt, pending.day)
    return Entry(pending.decision.id, "", "", "", counts=pending.counts, charge=charge, wal_offset=pending.wal_offset)


def _stored_text(request: Request, redaction: Redaction) -> tuple[str, list[dict[str, Any]] | None, str | None]:
    """Returns "stored", "too long" (also for media) or "not redacted"; then the redacted messages and user, which are
    None unless "stored".
    """
    messages = messages_of(request)
    if messages is None:
        return "too long", None, None
    try:
        return "stored", redaction.everywhere(messages), redaction.text(request.user)
    except NotRedacted:
        return "not redacted", None, None


def _stored_answer(pending: PendingEntry, redaction: Redaction) -> str | None:
    """Returns the redacted text of the answer that the caller got; None if it is unknown (as of an answer that calls
    tools or was not completed), too long, or its redaction fails.
    """
    if not pending.answers or len(pending.answers[-1].text) > MAX_TEXT_BYTES:
        return None
    try:
        return redaction.text(pending.answers[-1].text)
    except NotRedacted:
        return None


def messages_of(request: Request) -> list[dict[str, Any]] | None:
    """Returns the messages of the client in OpenAI's chat format; None if they have images or other media, or are
    longer than `MAX_TEXT_BYTES` as JSON.
    """
    if request.media or request.characters > MAX_TEXT_BYTES:
        return None
    messages = [{"role": m.role, "content": m.content, **m.extra} for m in request.messages]
    return messages if len(_encode(messages)) <= MAX_TEXT_BYTES else None


def response_format_of(request: Request) -> str:
    if not request.sampling.extra:
        return ""
    response_format = request.sampling.extra.get("response_format")
    if not isinstance(response_format, Mapping):
        return "" if response_format is None else "other"
    return str(response_format.get("type", "other"))[:64]


def six_digits(number: float) -> float:
    """Returns the number rounded to six decimals, as a Python float; `round` with digits takes three times as long."""
    return round(float(number) * 1e6) / 1e6


def _digest(request: Request) -> str:
    """Returns a hex hash of the request's model, metadata, user, response format and messages. Other parameters, such
    as the temperature, do not count.
    """
    response_format = request.sampling.extra.get("response_format")
    parameters = (request.model, sorted(request.metadata.items()), request.user, response_format)
    return hashlib.blake2b(_encode_sorted((parameters, request.messages)), digest_size=16).hexdigest()


def to_undecided_json(receipt: UndecidedReceipt, unix_seconds: float) -> str:
    """Returns the log entry of a request for which no path was chosen, as JSON. `unix_seconds` is when the request
    ended.
    """
    fields = {"v": VERSION, "unix_ms": round(unix_seconds * 1000), **_UNDECIDED_FIELDS.read(receipt)}
    return _encode(fields).decode()


def stores_answers(config: LearningConfig | None, request: Request, decision: Decision) -> bool:
    """Returns whether the answers to this request may be stored as training samples.

    The configuration must list the task, the caller's tenant must consent (without a tenant, the configuration), and
    the decision must be in the configured random sample. Answers in a form that the client demanded, such as JSON,
    are not stored, because an adapter would learn that form.
    """
    if config is None or decision.task not in config.tasks or request.sampling.requires_form:
        return False
    if not (request.caller.consents_to(decision.task) or (config.anonymous_consent and not request.caller.tenant)):
        return False
    return config.share >= 1 or hash_to_unit_interval(decision.id) < config.share


def to_training_sample(pending: PendingEntry, redaction: Redaction) -> str:
    """Returns a training sample (the request and its answers) as JSON; docs/flywheel.md describes the fields.

    Returns "" if there are no answers to store, the outcome is not "ok", the answer came from the cache, the
    messages have media, the messages or the answers are longer than `MAX_TEXT_BYTES`, or a redaction fails.
    """
    receipt = pending.receipt
    if not pending.answers or receipt.outcome != "ok" or receipt.cached:
        return ""
    messages = messages_of(pending.request)
    if messages is None or sum(len(answer.text) for answer in pending.answers) > MAX_TEXT_BYTES:
        return ""
    try:
        redacted = redaction.everywhere(messages)
        answers = [_answer_fields(answer, redaction) for answer in pending.answers]
    except NotRedacted:
        return ""
    path = receipt.decision.path
    fields = {
        "v": SAMPLE_VERSION,
        "decision": pending.decision.id,
        "unix_ms": round(pending.unix_seconds * 1000),
        "tenant": pending.request.caller.tenant,
        "task": receipt.decision.task,
        "kind": path.kind.value,
        "model": receipt.model,
        "collections": path.collections,
        "messages": redacted,
        "answers": answers,
    }
    return _encode(fields).decode()


def _answer_fields(answer: CompletedAnswer, redaction: Redaction) -> dict[str, object]:
    verdicts = [(validator, ruling, redaction.text(why)) for validator, ruling, why in answer.verdicts]
    return {"path": answer.path, "text": redaction.text(answer.text), "verdicts": verdicts}
