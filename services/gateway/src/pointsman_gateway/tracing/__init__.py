"""Tracing: wrappers that `bootstrap` puts around components to create OpenTelemetry spans.

Without tracing there are no wrappers, and OpenTelemetry is not imported: `spans` is imported only when it is needed.
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
    """Wraps the gateway's components so that they create spans, if tracing is on.

    The subclass `SpanInstrumentation` does so. This class is used without tracing: its methods return the components
    unchanged.
    """

    grpc_interceptors: Interceptors = ()
    """Interceptors of gRPC calls to other services."""

    def engine_client(self, client: EngineClient, gen_ai: GenAiMetrics) -> EngineClient:
        return client

    def model_call(
        self, call: Callable[[RequestT], Awaitable[AnswerT]], operation: Operation, name: str, provider: str
    ) -> Callable[[RequestT], Awaitable[AnswerT]]:
        """Returns `call`, the call of an embedding model or a reranker, wrapped so that it creates a span.

        `name` is the model's name in the configuration, and `provider` the value of the attribute
        `gen_ai.provider.name`.
        """
        return call

    def trace_headers(self) -> str:
        """Returns the W3C trace headers of the current span as lines of an HTTP/1 head; empty without tracing."""
        return ""

    def request_log(self, request_log: RequestLog, max_characters: int, redaction: Redaction) -> RequestLog:
        """Returns the request log, wrapped so that it also adds the decision, the receipt and texts to the request's
        span.

        The span gets up to `max_characters` characters of the conversation, and as many of the answer, after
        `redaction`; 0 means no text.
        """
        return request_log

    def stages(self, stages: Stages) -> Stages:
        return stages


def instrument_with(spans: "Spans | None") -> Instrumentation:
    if spans is None:
        return Instrumentation()
    from pointsman_gateway.tracing.spans import SpanInstrumentation

    return SpanInstrumentation(spans)
