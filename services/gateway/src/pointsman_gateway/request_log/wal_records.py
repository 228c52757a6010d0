"""Records of the write-ahead log: receipts, batch marks and feedback, each one line of JSON, and their offsets.

Receipts with and without a decision are numbered separately, from 1; such a number is an offset.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from pointsman_gateway.domain import (
    AttemptCharge,
    Caller,
    Considered,
    Decision,
    Feedback,
    GuardrailVerdict,
    Path,
    Receipt,
    Request,
    Sampling,
    TokenDetails,
    UndecidedReceipt,
    Usage,
)
from pointsman_gateway.domain.receipt_fields import Encoding, FieldReader
from pointsman_gateway.domain.request import Operation
from pointsman_gateway.request_log.entry import MAX_PROBABILITIES, PendingEntry, response_format_of

T = TypeVar("T")

_RECEIPT_FIELDS = FieldReader(Encoding.WAL, Receipt)
_UNDECIDED_FIELDS = FieldReader(Encoding.WAL, UndecidedReceipt)
_encode = msgspec.json.Encoder(enc_hook=float).encode  # a value that is not a Python float is one of NumPy's


class DecidedRecord(msgspec.Struct, array_like=True, tag="d"):
    """The receipt of a request with a decision, as the write-ahead log holds it."""

    offset: int
    unix_seconds: float
    requested: str
    operation: str
    response_format: str
    tenant: str
    key: str
    decision_id: str
    revision: str
    task: str
    confidence: float
    margin: float
    in_distribution_score: float
    stage: str
    notes: tuple[str, ...]
    probabilities: tuple[tuple[str, float], ...]
    path: tuple[str, str, str, tuple[str, ...], str]
    """The path's name, model, adapter, strategies and fingerprint."""
    reason: str
    considered: tuple[Considered, ...]
    expected_cost_usd: float | None
    request_id: str
    outcome: str
    fault: str
    usage: tuple[int, int, int]
    """The numbers of tokens, as `Usage.counts` returns them."""
    picodollars: Mapping[str, int]
    seconds: Mapping[str, float]
    model: str
    escalated_from: str
    cached: str
    guardrails: tuple[GuardrailVerdict, ...] = ()
    tuned_from: str = ""
    random_key: str = ""
    token_details: TokenDetails | None = None
    engine: str = ""
    attempts: tuple[AttemptCharge, ...] = ()
    default_max_tokens: int | None = None

    def to_pending_entry(self) -> PendingEntry:
        """Returns the request log's entry for this record, which the process that recovers the log writes.

        The entry has no texts of the caller, because the record has none.
        """
        receipt = self._receipt()
        extra = {"response_format": {"type": self.response_format}} if self.response_format else {}
        request = Request(
            self.requested,
            (),
            Sampling(extra=extra),
            caller=Caller(self.key, self.tenant),
            operation=cast(Operation, self.operation),
        )
        return PendingEntry(
            self.unix_seconds, request, receipt.decision, receipt, wal_offset=self.offset, recovered=True
        )

    def _receipt(self) -> Receipt:
        name, model, adapter, strategies, fingerprint = self.path
        path = Path(name, model, adapter, strategies, fingerprint=fingerprint, tuned_from=self.tuned_from)
        decision = _restored(Decision, self, id=self.decision_id, path=path, alternatives=())
        return _restored(Receipt, self, decision=decision, usage=Usage(*self.usage, details=self.token_details))


class UndecidedRecord(msgspec.Struct, array_like=True, tag="u"):
    """The receipt of a request without a decision, as the write-ahead log holds it."""

    offset: int
    unix_seconds: float
    request_id: str
    operation: str
    outcome: str
    fault: str
    seconds: Mapping[str, float]
    tenant: str
    key: str
    counts_as_request: bool
    model: str
    usage: tuple[int, int, int]
    picodollars: Mapping[str, int]
    guardrails: tuple[GuardrailVerdict, ...] = ()
    notes: tuple[str, ...] = ()
    token_details: TokenDetails | None = None

    def receipt(self) -> UndecidedReceipt:
        usage = Usage(*self.usage, details=self.token_details)
        return _restored(UndecidedReceipt, self, caller=Caller(self.key, self.tenant), usage=usage)


class BatchMark(msgspec.Struct, array_like=True, tag="b"):
    """A record that is written before a batch is sent: if Redis has the batch `number`, it has all receipts up to the
    offsets `decided` and `undecided`.
    """

    number: int
    unix_seconds: float
    decided: int
    undecided: int


class FeedbackRecord(msgspec.Struct, array_like=True, tag="f", frozen=True):
    """Feedback on an answer, as the write-ahead log holds it while Redis is unavailable, with the time (Unix
    milliseconds) and id of its API call.
    """

    feedback: Feedback
    unix_ms: int
    """When the feedback was accepted, in Unix milliseconds."""
    call_id: str
    """Identifies the API call, so that sending the record again is idempotent."""


Record = DecidedRecord | UndecidedRecord | BatchMark | FeedbackRecord

_decode = msgspec.json.Decoder(Record).decode


def to_line(record: Record) -> bytes:
    """Encodes a record as a line of JSON; raises ValueError, OverflowError or TypeError if it cannot be encoded."""
    return _encode(record) + b"\n"


def from_line(line: bytes) -> Record:
    """Decodes a line of the write-ahead log. Raises ValueError if it is not a record."""
    record: Record = _decode(line)  # msgspec before 0.23 declares no type
    return record


def decided_record(
    offset: int, unix_seconds: float, request: Request, decision: Decision, receipt: Receipt
) -> DecidedRecord:
    """Returns the record of a receipt with a decision; `offset` is the record's number in the log."""
    path, caller = decision.path, request.caller
    return DecidedRecord(
        offset,
        unix_seconds,
        request.model,
        request.operation,
        response_format_of(request),
        caller.tenant,
        caller.key,
        decision.id,
        decision.revision,
        decision.task,
        decision.confidence,
        decision.margin,
        decision.in_distribution_score,
        decision.stage,
        decision.notes,
        decision.probabilities[:MAX_PROBABILITIES],
        (path.name, path.model, path.adapter, path.strategies, path.fingerprint),
        decision.reason,
        decision.considered,
        decision.expected_cost_usd,
        **_RECEIPT_FIELDS.read(receipt),
        tuned_from=path.tuned_from,
        random_key=decision.random_key,
    )


def undecided_record(offset: int, unix_seconds: float, receipt: UndecidedReceipt) -> UndecidedRecord:
    return UndecidedRecord(offset, unix_seconds, **_UNDECIDED_FIELDS.read(receipt))


def _restored(value_type: type[T], record: DecidedRecord | UndecidedRecord, **others: object) -> T:
    """Returns a `value_type`, made of `others` and of the record's fields that have the names of its other fields."""
    names = {field.name for field in fields(cast(Any, value_type)) if field.init}
    same = names.intersection(record.__struct_fields__) - others.keys()
    return value_type(**{name: getattr(record, name) for name in same}, **others)


class Offsets(NamedTuple):
    """A position in the write-ahead log: the numbers of the last record with a decision and of the last one without."""

    decided: int = 0
    undecided: int = 0

    def covers(self, other: "Offsets") -> bool:
        return other.decided <= self.decided and other.undecided <= self.undecided

    def and_decided(self, offset: int) -> "Offsets":
        return Offsets(max(self.decided, offset), self.undecided)

    def and_undecided(self, offset: int) -> "Offsets":
        return Offsets(self.decided, max(self.undecided, offset))


NO_OFFSETS = Offsets()
