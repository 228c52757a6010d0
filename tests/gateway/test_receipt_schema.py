"""Every field of a receipt reaches every encoder, or the encoder states why it omits the field."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pointsman.v1 import gateway_pb2
from pointsman_gateway.console.decisions import to_row
from pointsman_gateway.domain import (
    AttemptCharge,
    Caller,
    Finished,
    GuardrailVerdict,
    Passage,
    Receipt,
    Started,
    TokenDetails,
    UndecidedReceipt,
    Usage,
)
from pointsman_gateway.domain.receipt_fields import RECEIPT_FIELDS, Encoding, FieldReader, ReceiptField
from pointsman_gateway.domain.request import Operation
from pointsman_gateway.grpc.response_messages import whole_response
from pointsman_gateway.http.dialects.openai.chat_encoder import completion
from pointsman_gateway.request_log.entry import PendingEntry, to_entry, to_undecided_json
from pointsman_gateway.request_log.store import LogEntry
from pointsman_gateway.request_log.wal_records import (
    DecidedRecord,
    UndecidedRecord,
    decided_record,
    from_line,
    to_line,
    undecided_record,
)

from tests.gateway.doubles.request_logs import REQUEST, decision

ROOT = Path(__file__).parents[2]
OPERATIONS = set(get_args(Operation))
NOW = 1_700_000_000.0
DECISION = decision()

RECEIPT = Receipt(DECISION, Usage(20, 2, 5), {"prompt": 1_000_000}, {"total": 0.5}, "ok", model="tiny")
CHANGED: Mapping[str, object] = {
    "decision": replace(DECISION, id="d2", task="triage"),
    "usage": Usage(21, 3, 6),
    "usage.prompt_tokens": Usage(21, 2, 5),
    "usage.completion_tokens": Usage(20, 3, 5),
    "usage.cached_tokens": Usage(20, 2, 6),
    "usage.details": Usage(20, 2, 5, details=TokenDetails(cache_write=3, service_tier="flex", is_estimate=True)),
    "picodollars": {"prompt": 2_000_000},
    "seconds": {"total": 0.75, "queue": 0.25},
    "outcome": "engine_error",
    "sources": (Passage("handbook", "Leave", "Ask your lead.", 0.9),),
    "model": "triage@3f9a1c",
    "escalated_from": "triage_few_shot",
    "cached": "exact",
    "fault": "engine",
    "request_id": "r2",
    "guardrails": (GuardrailVerdict("pii", "request", "redacted", ("EMAIL_ADDRESS",)),),
    "engine": "local",
    "attempts": (AttemptCharge("local", "tiny", Usage(10, 1), {"prompt": 500_000}),),
    "default_max_tokens": 256,
}
"""A different value for each field of `RECEIPT`."""

UNDECIDED = UndecidedReceipt("r1", "embeddings", "ok", "none", {"total": 0.5}, usage=Usage(20, 2, 5))
UNDECIDED_CHANGED: Mapping[str, object] = {
    "request_id": "r2",
    "operation": "chat",
    "outcome": "unknown_model",
    "fault": "caller",
    "seconds": {"total": 0.75},
    "caller": Caller("key-1", "acme"),
    "counts_as_request": True,
    "model": "minilm",
    "usage": Usage(21, 3, 6),
    "usage.prompt_tokens": Usage(21, 2, 5),
    "usage.completion_tokens": Usage(20, 3, 5),
    "usage.cached_tokens": Usage(20, 2, 6),
    "usage.details": Usage(20, 2, 5, details=TokenDetails(cache_write=3, service_tier="flex", is_estimate=True)),
    "picodollars": {"embedding": 2_000_000},
    "guardrails": (GuardrailVerdict("pii", "request", "blocked", ("EMAIL_ADDRESS",)),),
    "notes": ("usage capped: ...",),
}


def encode_for_wal(receipt: Receipt) -> object:
    """Returns the receipt as another process reads it from the write-ahead log."""
    record = from_line(to_line(decided_record(1, NOW, REQUEST, receipt.decision, receipt)))
    assert isinstance(record, DecidedRecord)
    return encode_for_request_log(record.to_pending_entry().receipt)


def encode_for_request_log(receipt: Receipt) -> object:
    return to_entry(PendingEntry(NOW, REQUEST, receipt.decision, receipt), store_messages=False).json


def encode_for_console(receipt: Receipt) -> object:
    row = to_row(LogEntry("1-0", str(encode_for_request_log(receipt))))
    assert row is not None
    return row


def encode_for_http(receipt: Receipt) -> object:
    body = completion(Started(receipt.decision, receipt.model, 0.0), (), Finished("stop", receipt))
    return {key: value for key, value in body.items() if key != "created"}


def encode_for_grpc(receipt: Receipt) -> object:
    started = Started(receipt.decision, receipt.model, 0.0)
    return whole_response(started, (), Finished("stop", receipt)).SerializeToString(deterministic=True)


FOR_OPERATORS = "engines are of no concern to callers; the request log has them"
ONLY_OK = "the API reports other outcomes as errors, which have no receipt"
STORED_NOWHERE = "passages are the documents' text, which the request log does not store"

ENCODERS: Mapping[Callable[[Receipt], object], Mapping[str, str]] = {
    encode_for_wal: {"sources": STORED_NOWHERE},
    encode_for_request_log: {"sources": STORED_NOWHERE},
    encode_for_console: {
        "sources": STORED_NOWHERE,
        "usage.cached_tokens": "the list shows it in the whole entry",
        "usage.details": "the list shows it in the whole entry",
        "cached": "the list shows it in the whole entry",
        "request_id": "the list shows it in the whole entry",
        "guardrails": "the list shows it in the whole entry",
        "engine": "the list shows it in the whole entry",
        "default_max_tokens": "the list shows it in the whole entry",
        "attempts": "the list shows it in the whole entry",
    },
    encode_for_http: {
        "outcome": ONLY_OK,
        "fault": ONLY_OK,
        "request_id": "sent as the header x-request-id",
        "engine": FOR_OPERATORS,
        "attempts": FOR_OPERATORS,
    },
    encode_for_grpc: {
        "fault": ONLY_OK,
        "request_id": "sent as metadata",
        "engine": FOR_OPERATORS,
        "attempts": FOR_OPERATORS,
    },
}
"""The encoders of receipts, each with the fields that it omits and the reason."""


def test_every_field_of_a_receipt_has_another_value_to_test_with() -> None:
    assert set(CHANGED) == names_of(Receipt) | names_of_usage()
    assert set(UNDECIDED_CHANGED) == names_of(UndecidedReceipt) | names_of_usage()


def names_of(receipt_type: Any) -> set[str]:
    return {one.name for one in fields(receipt_type) if one.init}


def names_of_usage() -> set[str]:
    return {f"usage.{one.name}" for one in fields(Usage) if one.compare}


@pytest.mark.parametrize("encode", ENCODERS, ids=lambda encode: encode.__name__)
def test_an_encoder_encodes_exactly_the_fields_that_it_does_not_omit(encode: Callable[[Receipt], object]) -> None:
    encoded = {name for name in CHANGED if encode(changed(RECEIPT, CHANGED, name)) != encode(RECEIPT)}
    assert set(CHANGED) - encoded == set(ENCODERS[encode])


def encode_undecided_for_wal(receipt: UndecidedReceipt) -> object:
    record = from_line(to_line(undecided_record(1, NOW, receipt)))
    assert isinstance(record, UndecidedRecord)
    return record.receipt()


def encode_undecided_for_request_log(receipt: UndecidedReceipt) -> object:
    return to_undecided_json(receipt, NOW)


@pytest.mark.parametrize("encode", [encode_undecided_for_wal, encode_undecided_for_request_log])
def test_every_field_of_a_receipt_without_a_decision_is_encoded(encode: Callable[[UndecidedReceipt], object]) -> None:
    encoded = {
        name for name in UNDECIDED_CHANGED if encode(changed(UNDECIDED, UNDECIDED_CHANGED, name)) != encode(UNDECIDED)
    }
    assert encoded == set(UNDECIDED_CHANGED)


def test_the_description_of_the_api_has_the_fields_that_answers_have() -> None:
    schemas = yaml.safe_load((ROOT / "services/gateway/src/pointsman_gateway/http/openapi.yaml").read_text())
    described = schemas["schemas"]["Receipt"]["properties"]
    assert set(described) == set(FieldReader(Encoding.ANSWER, Receipt).names)


def test_the_message_has_the_fields_of_the_table() -> None:
    described = gateway_pb2.Receipt.DESCRIPTOR.fields_by_name
    assert set(described) == set(FieldReader(Encoding.GRPC, Receipt).names)


@pytest.mark.parametrize("receipt_type", [Receipt, UndecidedReceipt])
@pytest.mark.parametrize("encoding", Encoding)
def test_no_encoding_has_two_fields_of_one_name(encoding: Encoding, receipt_type: Any) -> None:
    assert max(Counter(FieldReader(encoding, receipt_type).names).values()) == 1


@pytest.mark.parametrize("row", RECEIPT_FIELDS, ids=lambda row: f"{row.name}-{row.attribute}")
def test_every_row_of_the_table_applies_to_a_kind_of_receipt(row: ReceiptField) -> None:
    encoded = {
        name
        for receipt_type in (Receipt, UndecidedReceipt)
        for encoding in row.encodings
        for name in FieldReader(encoding, receipt_type).names
    }
    assert row.name in encoded


def test_the_page_on_the_request_log_describes_every_field_of_an_entry() -> None:
    chapter = (ROOT / "docs/request_log.md").read_text().split("\n## Entries\n")[1].split("\n## ")[0]
    table, undecided = chapter.split("Requests without a decision")
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == names_in(encode_for_request_log(RECEIPT))
    listed = undecided.split("The `entry` in `{pointsman}:undecided` has ")[1].split("\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) - OPERATIONS == names_in(to_undecided_json(UNDECIDED, NOW))


def names_in(entry: object) -> set[str]:
    return set(json.loads(str(entry)))


def changed(receipt: Any, values: Mapping[str, object], name: str) -> Any:
    return replace(receipt, **{name.partition(".")[0]: values[name]})
