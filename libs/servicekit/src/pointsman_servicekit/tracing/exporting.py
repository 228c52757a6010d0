"""Decides by OpenTelemetry's own environment variables whether and where traces are sent."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN = "http/protobuf"


class OtelSettingsError(ValueError):
    """Traces cannot be sent: a variable of OpenTelemetry has an unsupported value, or its SDK is not installed."""


def is_tracing_enabled(environment: Mapping[str, str]) -> bool:
    """Returns whether traces are sent: whether one of the environment variables `ENDPOINTS` is set.

    Traces are off with OTEL_SDK_DISABLED "true" or OTEL_TRACES_EXPORTER "none". Raises OtelSettingsError if traces
    would be sent with an exporter other than "otlp" or a protocol other than "http/protobuf".
    """
    if _said(environment, "OTEL_SDK_DISABLED") == "true" or not _first(environment, ENDPOINTS):
        return False
    exporter = _said(environment, "OTEL_TRACES_EXPORTER") or "otlp"
    if exporter not in ("otlp", "none"):
        raise OtelSettingsError(f"OTEL_TRACES_EXPORTER is '{exporter}'; known: otlp, none")
    protocol = _first(environment, PROTOCOLS) or SPOKEN
    if exporter == "otlp" and protocol != SPOKEN:
        names = " or ".join(PROTOCOLS)
        raise OtelSettingsError(f"{names} is '{protocol}'; traces are sent by {SPOKEN}, mostly to port 4318")
    return exporter == "otlp"


def traces_endpoint(environment: Mapping[str, str]) -> str:
    """Returns the complete URL to which spans are sent; empty if tracing is off.

    Raises OtelSettingsError if traces would be sent with an exporter or a protocol that is not supported.
    """
    if not is_tracing_enabled(environment):
        return ""
    whole, base = (environment.get(name, "").strip() for name in ENDPOINTS)
    return whole or f"{base.rstrip('/')}/v1/traces"


@contextmanager
def exporting_spans(service: str, environment: Mapping[str, str]) -> Iterator["Spans | None"]:
    """Yields an object that records spans and sends them, for the length of the block; yields None if tracing is off.

    `service` is the service's name, such as "retriever"; the distribution "pointsman-SERVICE" must be installed. Raises
    OtelSettingsError if an exporter or a protocol is not supported, or OpenTelemetry's SDK is not installed.
    """
    if not is_tracing_enabled(environment):
        yield None
        return
    try:
        from pointsman_servicekit.tracing.spans import (
            recording_spans,
        )  # 13 MB that a service without tracing does not load
    except ImportError as error:
        raise OtelSettingsError(
            f"{' or '.join(ENDPOINTS)} asks for traces, and OpenTelemetry's SDK is not installed: "
            f"pip install 'pointsman-{service}[tracing]'"
        ) from error

    with recording_spans(service, environment) as spans:
        yield spans


def tracing_server_interceptors(spans: "Spans | None") -> Sequence[grpc.aio.ServerInterceptor]:
    """Returns the interceptors that trace calls to a gRPC server: one, or none if `spans` is None (tracing is off)."""
    if spans is None:
        return ()
    from pointsman_servicekit.tracing.grpc import TracedServer

    return (TracedServer(spans),)


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next(filter(None, (_said(environment, name) for name in names)), "")


def _said(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name, "").strip().lower()
