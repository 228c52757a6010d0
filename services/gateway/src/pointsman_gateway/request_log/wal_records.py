"""What stands on disk of a receipt until Redis has it: all of it but what the caller wrote, one line of JSON each."""

from collections.abc import Mapping
from typing import cast

import msgspec

from pointsman_gateway.domain import (
    Caller,
    Considered,
    Decision,
    Path,
    Receipt,
    Request,
    Sampling,
    UndecidedReceipt,
    Usage,
)
from pointsman_gateway.domain.request import Operation
from pointsman_gateway.request_log.entry import MAX_PROBABILITIES, PendingEntry, response_format_of


class DecidedRecord(msgspec.Struct, array_like=True, tag="d"):
    """The counterfoil of a receipt, with its decision."""

    position: int
    unix_seconds: float
    requested: str
    operation: str
    response_format: str
    tenant: str
    key: str
    decision_id: str
    generation: str
    task: str
    confidence: float
    margin: float
    familiarity: float
    stage: str
    notes: tuple[str, ...]
    probabilities: tuple[tuple[str, float], ...]
    path: tuple[str, str, str, tuple[str, ...], str]
    """Name, model, adapter, strategies, fingerprint."""
    reason: str
    considered: tuple[Considered, ...]
    expected_cost_usd: float
    request_id: str
    outcome: str
    fault: str
    usage: tuple[int, int, int]
    picodollars: Mapping[str, int]
    seconds: Mapping[str, float]
    model: str
    escalated_from: str
    cached: str

    def noted(self) -> PendingEntry:
        """As it was noted, without what is not here."""
        receipt = self._receipt()
        extra = {"response_format": {"type": self.response_format}} if self.response_format else {}
        asked = Request(
            self.requested,
            (),
            Sampling(extra=extra),
            caller=Caller(self.key, self.tenant),
            operation=cast(Operation, self.operation),
        )
        return PendingEntry(self.unix_seconds, asked, receipt.decision, receipt, position=self.position, recovered=True)

    def _receipt(self) -> Receipt:
        return Receipt(
            self._decision(),
            Usage(*self.usage),
            self.picodollars,
            self.seconds,
            self.outcome,
            model=self.model,
            escalated_from=self.escalated_from,
            cached=self.cached,
            fault=self.fault,
            request_id=self.request_id,
        )

    def _decision(self) -> Decision:
        name, model, adapter, strategies, fingerprint = self.path
        return Decision(
            self.decision_id,
            self.task,
            self.confidence,
            Path(name, model, adapter, strategies, fingerprint=fingerprint),
            self.reason,
            self.stage,
            self.considered,
            (),
            self.probabilities,
            self.expected_cost_usd,
            margin=self.margin,
            familiarity=self.familiarity,
            notes=self.notes,
            generation=self.generation,
        )


class UndecidedRecord(msgspec.Struct, array_like=True, tag="u"):
    """The counterfoil of a receipt without a decision."""

    position: int
    unix_seconds: float
    request_id: str
    operation: str
    outcome: str
    fault: str
    seconds: Mapping[str, float]
    tenant: str
    key: str
    counted: bool
    model: str
    usage: tuple[int, int, int]
    picodollars: Mapping[str, int]

    def receipt(self) -> UndecidedReceipt:
        return UndecidedReceipt(
            self.request_id,
            self.operation,
            self.outcome,
            self.fault,
            self.seconds,
            Caller(self.key, self.tenant),
            self.counted,
            self.model,
            Usage(*self.usage),
            self.picodollars,
        )


class BatchMark(msgspec.Struct, array_like=True, tag="s"):
    """That a batch is about to be sent: once it is written, all up to these positions is done with."""

    number: int
    unix_seconds: float
    decided: int
    undecided: int


Record = DecidedRecord | UndecidedRecord | BatchMark

_encode = msgspec.json.Encoder(enc_hook=float).encode  # what is no float of Python's own is one of NumPy's
_decode = msgspec.json.Decoder(Record).decode


def to_line(counterfoil: Record) -> bytes:
    """Raises ValueError, OverflowError or TypeError where it cannot be written down."""
    return _encode(counterfoil) + b"\n"


def from_line(line: bytes) -> Record:
    """Raises ValueError."""
    return cast(Record, _decode(line))


def decided_record(
    position: int, unix_seconds: float, request: Request, decision: Decision, receipt: Receipt
) -> DecidedRecord:
    path, usage, caller = decision.path, receipt.usage, request.caller
    return DecidedRecord(
        position,
        unix_seconds,
        request.model,
        request.operation,
        response_format_of(request),
        caller.tenant,
        caller.key,
        decision.id,
        decision.generation,
        decision.task,
        decision.confidence,
        decision.margin,
        decision.familiarity,
        decision.stage,
        decision.notes,
        decision.probabilities[:MAX_PROBABILITIES],
        (path.name, path.model, path.adapter, path.strategies, path.fingerprint),
        decision.reason,
        decision.considered,
        decision.expected_cost_usd,
        receipt.request_id,
        receipt.outcome,
        receipt.fault,
        (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
        receipt.picodollars,
        receipt.seconds,
        receipt.model,
        receipt.escalated_from,
        receipt.cached,
    )


def undecided_record(position: int, unix_seconds: float, receipt: UndecidedReceipt) -> UndecidedRecord:
    usage, caller = receipt.usage, receipt.caller
    return UndecidedRecord(
        position,
        unix_seconds,
        receipt.request_id,
        receipt.operation,
        receipt.outcome,
        receipt.fault,
        receipt.seconds,
        caller.tenant,
        caller.key,
        receipt.counts_as_request,
        receipt.model,
        (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
        receipt.picodollars,
    )
