"""Records spans of requests, of their phases, and of calls to other services.

A failure is recorded by its code, or by the name of its class, never by its message, which may quote a request. The ids
of a trace are sent in the W3C headers `traceparent` and `tracestate`: https://www.w3.org/TR/trace-context/.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from threading import Thread
from typing import TypeAlias

from opentelemetry import context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import TraceIds, current_trace
from pointsman_servicekit.tracing.reporting_exporter import ReportingExporter

Attribute: TypeAlias = str | int | float | bool | tuple[str, ...]
Attributes: TypeAlias = Mapping[str, Attribute]

_w3c = TraceContextTextMapPropagator()

LAST_SPANS = 5.0
"""Seconds at shutdown in which the last spans must be sent; the exporter's own timeout would be too long."""


class Spans:
    """Starts spans. OpenTelemetry's sampler decides for each request whether its spans are recorded.

    By default the sampler follows the caller's sampled flag. If a request's own span is not recorded, no further spans
    are made for the request, because no sampler of OpenTelemetry would record them.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def serve(self, name: str, sent: Mapping[str, str], attributes: Attributes) -> Span:
        """Starts the span of a request, and makes it the current span of the running task; the caller ends it.

        `sent` are the request's headers, with names in lower case. The span continues the trace in these headers, if
        there is one.
        """
        span = self._tracer.start_span(name, _w3c.extract(sent), SpanKind.SERVER, attributes)
        context.attach(set_span_in_context(span))  # never detached: the task serves this request only
        current_trace.set(ids_of(span))
        return span

    def call(self, name: str, attributes: Attributes) -> Span:
        """Starts a span of a call to another service, as a child of the current span; the caller ends it.

        If the current span is not recorded, returns the current span itself. Without a current span, begins a new
        trace.
        """
        above = get_current_span()
        return above if _is_left_out(above) else self._tracer.start_span(name, None, SpanKind.CLIENT, attributes)

    @contextmanager
    def phase(self, name: str) -> Iterator[Span]:
        """Yields a new child of the current span; the child is the current span for the length of the block.

        An exception that the block raises is recorded by its code. If the current span is not recorded, yields the
        current span itself.
        """
        above = get_current_span()
        if _is_left_out(above):
            yield above
            return
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ) as span:  # an exception's text may quote the request
            token = current_trace.set(ids_of(span))
            try:
                yield span
            except BaseException as error:
                record_exception(span, error)
                raise
            finally:
                current_trace.reset(token)


def current_span() -> Span:
    """Returns the current span; outside a trace, a span that records nothing."""
    return get_current_span()


def is_in_trace() -> bool:
    return get_current_span().get_span_context().is_valid


def _is_left_out(span: Span) -> bool:
    return span.get_span_context().is_valid and not span.is_recording()


def trace_headers(span: Span) -> dict[str, str]:
    """Returns the headers by which another service makes its spans children of `span`; empty if `span` has no trace.

    They are `traceparent` and, if the trace has one, `tracestate`.
    """
    headers: dict[str, str] = {}
    _w3c.inject(headers, set_span_in_context(span))
    return headers


def trace_header_lines(span: Span) -> str:
    """Returns the headers of `trace_headers` as lines of an HTTP/1 head, each with its line end."""
    return "".join(f"{name}: {value}\r\n" for name, value in trace_headers(span).items())


def ids_of(span: Span) -> TraceIds:
    context = span.get_span_context()
    return TraceIds(format_trace_id(context.trace_id), format_span_id(context.span_id), context.trace_flags.sampled)


def record_exception(span: Span, error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        span.set_attribute("error.type", "cancelled")  # not a failure
    else:
        record_error_code(span, error.code if isinstance(error, PointsmanError) else type(error).__qualname__)


def record_error_code(span: Span, code: str) -> None:
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR, code))


@contextmanager
def recording_spans(service: str, environment: Mapping[str, str]) -> Iterator[Spans]:
    """Yields `Spans` that send what they record by OTLP over HTTP, for the service "pointsman-SERVICE".

    The SDK reads its settings from the process's OTEL_* variables; `environment` is read for the service's name only.
    At the block's end the remaining spans are sent within `LAST_SPANS` seconds.
    """
    provider = TracerProvider(resource=_resource(service, environment), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(ReportingExporter(OTLPSpanExporter())))
    try:
        yield Spans(provider.get_tracer("pointsman", version(f"pointsman-{service}")))
    finally:
        ending = Thread(target=provider.shutdown, daemon=True, name="last spans")
        ending.start()
        ending.join(LAST_SPANS)


def _resource(service: str, environment: Mapping[str, str]) -> Resource:
    """Returns the attributes that describe this service; a name of the service in the environment replaces ours."""
    ours = {"service.namespace": "pointsman", "service.name": f"pointsman-{service}"}
    attributes = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if environment.get("OTEL_SERVICE_NAME") or "service.name=" in attributes:
        del ours["service.name"]
    return Resource.create({**ours, "service.version": version(f"pointsman-{service}")})
