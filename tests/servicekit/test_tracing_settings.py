"""OpenTelemetry's environment variables enable tracing; without them no tracing library is imported."""

import os
import subprocess
import sys

import pytest
from pointsman_servicekit.tracing.exporting import OtelSettingsError, is_tracing_enabled, traces_endpoint

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
)
def test_an_endpoint_enables_tracing(environment: dict[str, str], wanted: bool) -> None:
    assert is_tracing_enabled(environment) is wanted


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'; known: otlp, none"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "is 'grpc'; traces are sent by http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "is 'http/json'; traces are sent by http/protobuf"),
    ],
)
def test_unsupported_exporters_are_rejected_by_name(more: dict[str, str], message: str) -> None:
    with pytest.raises(OtelSettingsError, match=message):
        is_tracing_enabled(ENDPOINT | more)


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, ""),
        (ENDPOINT, "http://127.0.0.1:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://agent/Tenant/"}, "http://agent/Tenant/v1/traces"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://other:1/Here"}, "http://other:1/Here"),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, ""),
    ],
)
def test_the_url_for_command_line_arguments_follows_opentelemetrys_rules(environment: dict[str, str], url: str) -> None:
    assert traces_endpoint(environment) == url


@pytest.mark.parametrize("service", ["gateway", "retriever", "lora_server"])
def test_without_them_no_service_imports_tracing_libraries(service: str) -> None:
    program = (
        f"import sys, os, pointsman_{service}.__main__\n"
        "from pointsman_servicekit.tracing.exporting import *\n"
        f"with exporting_spans('{service.replace('_', '-')}', os.environ) as spans:\n"
        "    tracing_server_interceptors(spans)\n"
        "heavy = ('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'pointsman_servicekit.tracing.spans')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
