"""Tracing: wrappers that `bootstrap` puts around components to create OpenTelemetry spans.

Without tracing there are no wrappers, and OpenTelemetry is not imported: `spans` is imported only when it is needed.
"""

from typing import TYPE_CHECKING

from pointsman_servicekit.grpc_client import Interceptors

from pointsman_gateway.embeddings.stage import Embedder
from pointsman_gateway.engines.engine_client import EngineClient
from pointsman_gateway.metering.gen_ai import GenAiMetrics
from pointsman_gateway.pipeline.pipeline import Stages
from pointsman_gateway.ports import RequestLog
from pointsman_gateway.redaction import Redaction

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans


class Instrumentation:
    """Wraps components so that they create spans; without tracing, each method returns the component itself."""

    grpc_interceptors: Interceptors = ()
    """For calls to other services."""

    def engine_client(self, client: EngineClient, gen_ai: GenAiMetrics) -> EngineClient:
        return client

    def embedder(self, embedder: Embedder, name: str, provider: str) -> Embedder:
        """Wraps an embedder; `name` is the model's in the configuration, `provider` its `gen_ai.provider.name`."""
        return embedder

    def trace_headers(self) -> str:
        """Returns HTTP header lines (W3C `traceparent`) for the current span; empty without tracing."""
        return ""

    def request_log(self, request_log: RequestLog, max_characters: int, redaction: Redaction) -> RequestLog:
        """Wraps a log, so that the request's span also gets decision, receipt, and redacted texts.

        Of the conversation and of the answer, `max_characters` each; 0 means no text.
        """
        return request_log

    def stages(self, stages: Stages) -> Stages:
        return stages


def instrument_with(spans: "Spans | None") -> Instrumentation:
    if spans is None:
        return Instrumentation()
    from pointsman_gateway.tracing.spans import SpanInstrumentation

    return SpanInstrumentation(spans)
