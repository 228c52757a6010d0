"""Tracing: wrappers that the package `bootstrap` puts around components, so that these create OpenTelemetry spans.

Without tracing there are no wrappers, and OpenTelemetry is not imported: the module `spans` is imported only if tracing
is on.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from pointsman_servicekit.grpc_client import Interceptors

from pointsman_gateway.domain import Operation
from pointsman_gateway.engines.engine_client import EngineClient
from pointsman_gateway.metering.gen_ai import GenAiMetrics
from pointsman_gateway.model_calls.call import AnswerT, RequestT
from pointsman_gateway.pipeline.pipeline import Stages
from pointsman_gateway.ports import RequestLog
from pointsman_gateway.redaction import Redaction

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans


class Instrumentation:
    """Wraps the gateway's components for tracing. This class is used if tracing is off: its methods return the
    components unchanged.

    Its subclass `SpanInstrumentation` is used if tracing is on, and wraps the components so that they create spans.
    """

    grpc_interceptors: Interceptors = ()
    """Interceptors for the gateway's gRPC calls to other services; empty without tracing."""

    def engine_client(self, client: EngineClient, gen_ai: GenAiMetrics) -> EngineClient:
        return client

    def model_call(
        self, call: Callable[[RequestT], Awaitable[AnswerT]], operation: Operation, name: str, provider: str
    ) -> Callable[[RequestT], Awaitable[AnswerT]]:
        """Wraps the function that calls an embedding model or a reranker, so that each call creates a span.

        `name` is the model's name in the configuration, and `provider` is the span's attribute `gen_ai.provider.name`.
        """
        return call

    def trace_headers(self) -> str:
        """Returns the current span's W3C trace headers as header lines of an HTTP/1 request; empty without tracing."""
        return ""

    def request_log(self, request_log: RequestLog, max_characters: int, redaction: Redaction) -> RequestLog:
        """Wraps the request log, so that it also adds the decision, the receipt and texts to the request's span.

        The texts are up to `max_characters` characters of the conversation, and as many of the answer, both after
        `redaction`; with 0, no text is added.
        """
        return request_log

    def stages(self, stages: Stages) -> Stages:
        return stages


def instrument_with(spans: "Spans | None") -> Instrumentation:
    if spans is None:
        return Instrumentation()
    from pointsman_gateway.tracing.spans import SpanInstrumentation

    return SpanInstrumentation(spans)
