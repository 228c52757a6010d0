"""Wrappers of stages and clients that create spans, and `SpanInstrumentation`, which wraps the components in them."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from pointsman_servicekit.tracing.grpc import TracedCalls
from pointsman_servicekit.tracing.spans import Spans, current_span, trace_header_lines

from pointsman_gateway.domain import Decision, Labels, Operation, Prompt, Request
from pointsman_gateway.engines.engine_client import EngineClient
from pointsman_gateway.metering.gen_ai import GenAiMetrics
from pointsman_gateway.model_calls.call import AnswerT, RequestT
from pointsman_gateway.pipeline.pipeline import Stages
from pointsman_gateway.ports import AnswerStream, Backend, CallRecord, Classifier, PromptBuilder, RequestLog
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.tracing import Instrumentation
from pointsman_gateway.tracing.engine_calls import TracedClient
from pointsman_gateway.tracing.request_attributes import TracedRequestLog


class TracedClassification:
    """Wraps a classifier, and creates a span for each classification; implements `Classifier`."""

    def __init__(self, inner: Classifier, spans: Spans) -> None:
        self._inner = inner
        self._spans = spans

    async def label(self, request: Request) -> Labels:
        with self._spans.phase("classification") as span:
            labels = await self._inner.label(request)
            span.set_attribute("pointsman.stage", labels.stage)
            return labels


class TracedPrompts:
    """Wraps a builder of prompts, and creates a span for each prompt. Spans of the prompt's searches are children of
    this span.

    Implements `PromptBuilder`.
    """

    def __init__(self, inner: PromptBuilder, spans: Spans) -> None:
        self._inner = inner
        self._spans = spans

    async def build(self, request: Request, decision: Decision) -> Prompt:
        with self._spans.phase("prompt") as span:
            span.set_attribute("pointsman.path", decision.path.name)
            prompt = await self._inner.build(request, decision)
            span.set_attribute("pointsman.passages", len(prompt.passages))
            return prompt


class TracedBackend:
    """Wraps a backend, and creates a span for the time from the call to the answer's first token; implements `Backend`.

    The time includes loading the adapter, and calls of engines that failed.
    """

    def __init__(self, inner: Backend, spans: Spans) -> None:
        self._inner = inner
        self._spans = spans

    async def call(self, request: Request, decision: Decision, prompt: Prompt, record: CallRecord) -> AnswerStream:
        with self._spans.phase("first token") as span:
            span.set_attribute("pointsman.path", decision.path.name)
            answer = await self._inner.call(request, decision, prompt, record)
            span.set_attribute("pointsman.cached", answer.cached)
            return answer


class SpanInstrumentation(Instrumentation):
    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self.grpc_interceptors = (TracedCalls(spans),)

    def engine_client(self, client: EngineClient, gen_ai: GenAiMetrics) -> EngineClient:
        return TracedClient(client, self._spans, gen_ai.provider)

    def model_call(
        self, call: Callable[[RequestT], Awaitable[AnswerT]], operation: Operation, name: str, provider: str
    ) -> Callable[[RequestT], Awaitable[AnswerT]]:
        async def traced(inputs: RequestT) -> AnswerT:
            with self._spans.phase(f"{operation} {name}") as span:
                span.set_attribute("gen_ai.operation.name", operation)
                span.set_attribute("gen_ai.provider.name", provider)
                span.set_attribute("gen_ai.request.model", name)
                answer = await call(inputs)
                span.set_attribute("gen_ai.usage.input_tokens", answer.charge.tokens)
                return answer

        return traced

    def trace_headers(self) -> str:
        return trace_header_lines(current_span())

    def request_log(self, request_log: RequestLog, max_characters: int, redaction: Redaction) -> RequestLog:
        return TracedRequestLog(request_log, max_characters, redaction)

    def stages(self, stages: Stages) -> Stages:
        return replace(
            stages,
            classification=TracedClassification(stages.classification, self._spans),
            prompts=TracedPrompts(stages.prompts, self._spans),
            backend=TracedBackend(stages.backend, self._spans),
        )
