"""The ids by which the log, the traces and the metrics of one request find each other."""

from contextvars import ContextVar
from dataclasses import dataclass

NONE = "-"

request_id: ContextVar[str] = ContextVar("request_id", default=NONE)
decision_id: ContextVar[str] = ContextVar("decision_id", default=NONE)


@dataclass(frozen=True, slots=True)
class TraceIds:
    """Which span of which trace the work belongs to, as lowercase hexadecimal digits."""

    trace_id: str
    span_id: str
    sampled: bool
    """Whether anybody records it."""


trace: ContextVar[TraceIds | None] = ContextVar("trace", default=None)
"""None where nobody traces."""


def recorded_trace() -> str:
    """The id of the trace, for an exemplar; empty where none is recorded."""
    ids = trace.get()
    return ids.trace_id if ids is not None and ids.sampled else ""


Metadata = tuple[tuple[str, str], ...]


def call_metadata() -> Metadata:
    """The ids of request and decision for a gRPC call to another service, which logs them."""
    return (("x-request-id", request_id.get()), ("x-pointsman-decision-id", decision_id.get()))
