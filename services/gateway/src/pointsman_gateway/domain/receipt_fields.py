"""The table of a receipt's fields: each field's name, the attribute with its value, and the formats that include it.

Every encoder of receipts takes its fields from this table, and converts only values that its format cannot hold.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

from pointsman_gateway.domain.receipt import Receipt, UndecidedReceipt


class Encoding(Flag):
    """The formats in which receipts are written, such as the request log and the gRPC API."""

    ANSWER = auto()
    """The object `pointsman` in answers over HTTP."""
    GRPC = auto()
    """The message `Receipt` of the gRPC API."""
    LOG = auto()
    """An entry of the request log, for both kinds of receipts."""
    WAL = auto()
    """A record of the write-ahead log, for both kinds of receipts."""
    SPAN = auto()
    """Attributes of a trace's span, with the prefix "pointsman."."""
    UNDECIDED_SPAN = auto()
    """Attributes of a trace's span for an `UndecidedReceipt`, with the prefix "pointsman."."""
    SERIES = auto()
    """The fields whose values select the time series of metrics that a receipt updates: its decision, phases and cost
    components.
    """


ANSWER, GRPC, LOG, WAL = Encoding.ANSWER, Encoding.GRPC, Encoding.LOG, Encoding.WAL
SPAN, UNDECIDED_SPAN, SERIES = Encoding.SPAN, Encoding.UNDECIDED_SPAN, Encoding.SERIES
NONE = Encoding(0)


@dataclass(frozen=True, slots=True)
class ReceiptField:
    """One field of receipts in the table: its name, the attribute of a receipt with its value, and the formats that
    have it.

    A class of receipts without this attribute lacks the field in all formats.
    """

    name: str
    """The field's name in the encodings."""
    attribute: str
    """The path to the value from the receipt, such as "decision.path.name"."""
    encodings: Encoding
    omitted_if_none: Encoding = NONE
    """The encodings that do not have the field if its value is None."""


RECEIPT_FIELDS = (
    ReceiptField("operation", "operation", LOG | WAL),
    ReceiptField("tenant", "caller.tenant", LOG | WAL),
    ReceiptField("key", "caller.key", LOG | WAL),
    ReceiptField("counted", "counts_as_request", LOG),
    ReceiptField("counts_as_request", "counts_as_request", WAL),
    ReceiptField("request_id", "request_id", LOG | WAL),
    ReceiptField("outcome", "outcome", GRPC | LOG | WAL | SPAN | UNDECIDED_SPAN | SERIES),
    ReceiptField("fault", "fault", LOG | WAL | UNDECIDED_SPAN | SERIES),
    ReceiptField("model", "model", LOG | WAL | SERIES),
    ReceiptField("path", "decision.path.name", ANSWER | GRPC),
    ReceiptField("kind", "decision.path.kind.value", ANSWER),
    ReceiptField("usage", "usage", GRPC),
    ReceiptField("usage", "usage.counts_by_name", LOG),
    ReceiptField("usage", "usage.counts", WAL),
    ReceiptField("picodollars", "picodollars", WAL),
    ReceiptField("cost_usd", "cost_usd", ANSWER | GRPC | LOG | SPAN, omitted_if_none=SPAN),
    ReceiptField("cost_parts_usd", "cost_parts_usd", ANSWER | GRPC | LOG),
    ReceiptField("seconds", "rounded_seconds", ANSWER | LOG),
    ReceiptField("seconds", "seconds", GRPC | WAL | SPAN),
    ReceiptField("sources", "sources", ANSWER | GRPC),
    ReceiptField("escalated_from", "escalated_from", ANSWER | GRPC | LOG | WAL | SPAN),
    ReceiptField("cached", "cached", ANSWER | GRPC | LOG | WAL | SPAN | SERIES),
    ReceiptField("guardrails", "guardrails", ANSWER | GRPC | LOG | WAL),
    ReceiptField("token_details", "usage.details_by_name", ANSWER | LOG, omitted_if_none=ANSWER | LOG),
    ReceiptField("token_details", "usage.details", WAL),
    ReceiptField(
        "default_max_tokens", "default_max_tokens", ANSWER | GRPC | LOG | WAL, omitted_if_none=ANSWER | GRPC | LOG
    ),
    ReceiptField("engine", "engine", LOG | WAL),
    ReceiptField("attempts", "attempts_by_name", LOG, omitted_if_none=LOG),
    ReceiptField("attempts", "attempts", WAL),
    ReceiptField("notes", "notes", LOG | WAL),
)


class FieldReader:
    """Reads from receipts of one class the fields that they have in one format, such as the request log."""

    def __init__(self, encoding: Encoding, receipt_type: type[Receipt] | type[UndecidedReceipt]) -> None:
        fields = [
            field
            for field in RECEIPT_FIELDS
            if encoding in field.encodings and hasattr(receipt_type, field.attribute.partition(".")[0])
        ]
        self.names = tuple(field.name for field in fields)
        """The names of the fields, in the order of `RECEIPT_FIELDS`."""
        self._omitted_if_none = tuple(field.name for field in fields if encoding in field.omitted_if_none)
        self._values = _by_name(fields)

    def read(self, receipt: Receipt | UndecidedReceipt) -> dict[str, Any]:
        """Returns the values of the receipt's fields by field name. A field with the value None is left out if
        `omitted_if_none` of the field includes the format.
        """
        values = self._values(receipt)
        for name in self._omitted_if_none:
            if values[name] is None:
                del values[name]
        return values


def _by_name(fields: Iterable[ReceiptField]) -> Callable[[Receipt | UndecidedReceipt], dict[str, Any]]:
    """Returns a function from a receipt to the values of these fields: field name -> value.

    It is compiled, as the methods of dataclasses are, because every request needs it: reading the attributes in a loop
    takes three times as long.
    """
    items = [f"{field.name!r}: receipt.{field.attribute}" for field in fields]
    function: Callable[[Receipt | UndecidedReceipt], dict[str, Any]]
    function = eval(f"lambda receipt: {{{', '.join(items)}}}")  # it is made of constants of this file
    return function
