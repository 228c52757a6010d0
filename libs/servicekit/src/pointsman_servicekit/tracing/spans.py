"""Spans as the services need them: of a door, of a phase, of a call; each failure told by its code, never by its text.

Context travels as W3C says (`traceparent`, `tracestate`): https://www.w3.org/TR/trace-context/.
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

Attribute: TypeAlias = str | int | float | bool | tuple[str, ...]
Attributes: TypeAlias = Mapping[str, Attribute]

_w3c = TraceContextTextMapPropagator()


class Spans:
    """Begins spans. Whether one is recorded says the sampler, at the trace's root or by the caller's own flag.

    Below a span of ours that is not recorded none is made: no sampler of OpenTelemetry's would record it.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def serve(self, name: str, sent: Mapping[str, str], attributes: Attributes) -> Span:
        """Of a request with the headers `sent`, in lower case; it is the current one of this task from now on."""
        span = self._tracer.start_span(name, _w3c.extract(sent), SpanKind.SERVER, attributes)
        context.attach(set_span_in_context(span))  # the task is the request's own, and ends with it
        current_trace.set(ids_of(span))
        return span

    def call(self, name: str, attributes: Attributes) -> Span:
        """Of a call to another service, below the current span."""
        above = get_current_span()
        return above if _is_left_out(above) else self._tracer.start_span(name, None, SpanKind.CLIENT, attributes)

    @contextmanager
    def phase(self, name: str) -> Iterator[Span]:
        """Below the current span, and the current one for the block's length."""
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
    """One that records nothing, where there is none."""
    return get_current_span()


def is_in_trace() -> bool:
    return get_current_span().get_span_context().is_valid


def _is_left_out(span: Span) -> bool:
    return span.get_span_context().is_valid and not span.is_recording()


def trace_headers(span: Span) -> dict[str, str]:
    """What tells another service that its work belongs below `span`."""
    headers: dict[str, str] = {}
    _w3c.inject(headers, set_span_in_context(span))
    return headers


def trace_header_lines(span: Span) -> str:
    """The same as lines of an HTTP head, each with its end."""
    return "".join(f"{name}: {value}\r\n" for name, value in trace_headers(span).items())


def ids_of(span: Span) -> TraceIds:
    told = span.get_span_context()
    return TraceIds(format_trace_id(told.trace_id), format_span_id(told.span_id), told.trace_flags.sampled)


def record_exception(span: Span, error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        span.set_attribute("error.type", "cancelled")  # nobody's failure
    else:
        record_error_code(span, error.code if isinstance(error, PointsmanError) else type(error).__qualname__)


def record_error_code(span: Span, code: str) -> None:
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR, code))


LAST_SPANS = 5.0
"""Seconds in which what is not sent yet may still go; the exporter's own patience is longer than a service has."""


@contextmanager
def recording_spans(service: str, environment: Mapping[str, str]) -> Iterator[Spans]:
    """Sampler, queue, batches, endpoint, headers and timeouts are as OTEL_* says, which the SDK reads by itself."""
    provider = TracerProvider(resource=_resource(service, environment), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield Spans(provider.get_tracer("pointsman", version(f"pointsman-{service}")))
    finally:
        ending = Thread(target=provider.shutdown, daemon=True, name="last spans")
        ending.start()
        ending.join(LAST_SPANS)


def _resource(service: str, environment: Mapping[str, str]) -> Resource:
    """What the environment says goes before what we say."""
    ours = {"service.namespace": "pointsman", "service.name": f"pointsman-{service}"}
    said = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if environment.get("OTEL_SERVICE_NAME") or "service.name=" in said:
        del ours["service.name"]
    return Resource.create({**ours, "service.version": version(f"pointsman-{service}")})
