"""Decides whether and where traces are exported, by OpenTelemetry's own environment variables."""

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
    """An environment variable of OpenTelemetry's has a value that is not supported."""


def is_tracing_enabled(environment: Mapping[str, str]) -> bool:
    """Returns whether an OTLP endpoint is set; without one nothing is recorded.

    Raises OtelSettingsError for an exporter or a protocol that is not supported.
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
    """Returns the URL that spans are sent to, by OpenTelemetry's environment variables; empty if tracing is off.

    For a subprocess that takes the URL as an argument. Raises as `is_tracing_enabled` does.
    """
    if not is_tracing_enabled(environment):
        return ""
    whole, base = (environment.get(name, "").strip() for name in ENDPOINTS)
    return whole or f"{base.rstrip('/')}/v1/traces"


@contextmanager
def exporting_spans(service: str, environment: Mapping[str, str]) -> Iterator["Spans | None"]:
    """Records spans for the length of the block and sends what is left at its end; yields None if tracing is off.

    `service` is the name after "pointsman-" of an installed distribution. Raises as `is_tracing_enabled` does, and
    OtelSettingsError if OpenTelemetry's SDK is not installed.
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
    """Returns the interceptors that trace calls to a gRPC server; none if tracing is off."""
    if spans is None:
        return ()
    from pointsman_servicekit.tracing.grpc import TracedServer

    return (TracedServer(spans),)


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next(filter(None, (_said(environment, name) for name in names)), "")


def _said(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name, "").strip().lower()
