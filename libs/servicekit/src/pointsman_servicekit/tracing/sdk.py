"""OpenTelemetry's SDK as the services use it; the only module that imports it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from threading import Thread

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from pointsman_servicekit.tracing.spans import Spans

LAST_SPANS = 5.0
"""Seconds in which what is not sent yet may still go; the exporter's own patience is longer than a service has."""


@contextmanager
def recording(service: str, environment: Mapping[str, str]) -> Iterator[Spans]:
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
