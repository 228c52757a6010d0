"""Wrappers that create spans: for engine calls, for the phases of a request, and for embeddings."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

import msgspec.structs
from opentelemetry.trace import Span
from pointsman_servicekit.tracing.grpc import TracedCalls
from pointsman_servicekit.tracing.spans import Attribute, Spans, current_span, record_exception, trace_header_lines

from pointsman_gateway.domain import (
    Chunks,
    CompletedAnswer,
    Decision,
    Labels,
    Operation,
    Prompt,
    Receipt,
    Request,
    UndecidedReceipt,
    Usage,
)
from pointsman_gateway.embeddings.stage import Embedder, EmbeddingRequest, EncodedEmbeddings
from pointsman_gateway.engines.engine_client import EngineClient, EngineRequest, Transfer
from pointsman_gateway.metering.gen_ai import GenAiMetrics
from pointsman_gateway.pipeline.pipeline import Stages
from pointsman_gateway.ports import Backend, ChunkSink, Classifier, OpenAnswer, PromptBuilder, RequestLog
from pointsman_gateway.redaction import NotRedacted, Redaction
from pointsman_gateway.tracing import Instrumentation

# Names of github.com/open-telemetry/semantic-conventions/blob/v1.41.0/docs/gen-ai/gen-ai-spans.md
_NAMES: Mapping[Operation, str] = {"chat": "chat", "completion": "text_completion"}


class TracedClient:
    """Creates one span per engine call, whose context is sent to the engine; implements `EngineClient`."""

    def __init__(self, client: EngineClient, spans: Spans, provider: Callable[[str], str]) -> None:
        """Takes `provider`, which returns the `gen_ai.provider.name` of a model."""
        self._client = client
        self._spans = spans
        self._provider = provider

    def send(self, request: EngineRequest, sink: ChunkSink) -> "TracedTransfer":
        name = operation_name(request.operation)
        span = self._spans.call(f"{name} {request.model}", _attributes(request, name, self._provider(request.model)))
        traced = msgspec.structs.replace(request, trace_headers=trace_header_lines(span))
        return TracedTransfer(self._client, traced, sink, span)


class TracedTransfer:
    """Ends the span of a call with its answer; implements `Transfer`, and `ChunkSink` for the inner one."""

    def __init__(self, client: EngineClient, request: EngineRequest, sink: ChunkSink, span: Span) -> None:
        self._sink: ChunkSink | None = sink
        self._span: Span | None = span
        try:
            self._transfer: Transfer | None = client.send(request, self)
        except Exception as error:
            self._end(error)
            raise

    def pause(self) -> None:
        if self._transfer is not None:
            self._transfer.pause()

    def resume(self) -> None:
        if self._transfer is not None:
            self._transfer.resume()

    def close(self) -> None:
        transfer, self._transfer, self._sink = self._transfer, None, None
        if transfer is not None:
            transfer.close()
        self._end(asyncio.CancelledError())

    def chunks(self, chunks: Chunks, last: bool) -> None:
        if self._span is not None:
            _record_chunks(self._span, chunks)
        if self._sink is not None:
            self._sink.chunks(chunks, last)

    def ended(self, error: Exception | None) -> None:
        sink, self._sink = self._sink, None
        try:
            self._end(error)
        finally:
            if sink is not None:
                sink.ended(error)

    def _end(self, error: BaseException | None) -> None:
        span, self._span = self._span, None
        if span is not None:
            if error is not None:
                record_exception(span, error)
            span.end()


def operation_name(operation: Operation) -> str:
    return _NAMES[operation]


def _attributes(request: EngineRequest, name: str, provider: str) -> dict[str, Attribute]:
    server = urlsplit(request.url)
    attributes: dict[str, Attribute | None] = {
        "gen_ai.operation.name": name,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": request.model,
        "gen_ai.request.max_tokens": request.sampling.max_tokens,
        "gen_ai.request.temperature": request.sampling.temperature,
        "gen_ai.request.top_p": request.sampling.top_p,
        "server.address": server.hostname,
        "server.port": server.port,
        "pointsman.engine": request.engine,
    }
    return {key: value for key, value in attributes.items() if value is not None}


def _record_chunks(span: Span, chunks: Chunks) -> None:
    last = chunks[-1]
    if last.usage is not None:
        span.set_attributes(usage_attributes(last.usage))
    reasons = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
    if reasons:
        span.set_attribute("gen_ai.response.finish_reasons", reasons)


def usage_attributes(usage: Usage) -> dict[str, Attribute]:
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
    }


class TracedClassification:
    """Creates a span for each classification; implements `Classifier`."""

    def __init__(self, inner: Classifier, spans: Spans) -> None:
        self._inner = inner
        self._spans = spans

    async def label(self, request: Request) -> Labels:
        with self._spans.phase("classification") as span:
            labels = await self._inner.label(request)
            span.set_attribute("pointsman.stage", labels.stage)
            return labels


class TracedPrompts:
    """Creates a span for each prompt, with those of its searches as children; implements `PromptBuilder`."""

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
    """Creates a span up to the first token, with adapter loads and failed engines; implements `Backend`."""

    def __init__(self, inner: Backend, spans: Spans) -> None:
        self._inner = inner
        self._spans = spans

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> OpenAnswer:
        with self._spans.phase("first token") as span:
            span.set_attribute("pointsman.path", decision.path.name)
            opened = await self._inner.open(request, decision, prompt)
            span.set_attribute("pointsman.cached", opened.cached)
            return opened


class TracedEmbedder:
    """Creates a span for each call of an embedding model; implements `Embedder`."""

    def __init__(self, inner: Embedder, name: str, provider: str, spans: Spans) -> None:
        """Takes the model's name in the configuration, and its `gen_ai.provider.name`."""
        self._inner = inner
        self._name = name
        self._provider = provider
        self._spans = spans

    async def embed(self, inputs: EmbeddingRequest) -> EncodedEmbeddings:
        with self._spans.phase(f"embeddings {self._name}") as span:
            span.set_attribute("gen_ai.operation.name", "embeddings")
            span.set_attribute("gen_ai.provider.name", self._provider)
            span.set_attribute("gen_ai.request.model", self._name)
            result = await self._inner.embed(inputs)
            span.set_attribute("gen_ai.usage.input_tokens", result.tokens)
            return result


class TracedRequestLog:
    """Sets decision and receipt as attributes of the request's span, and the text if `max_characters` is not 0."""

    def __init__(self, inner: RequestLog, max_characters: int, redaction: Redaction) -> None:
        self._inner = inner
        self._max_characters = max_characters
        self._redaction = redaction

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        records_text = self._max_characters > 0 and current_span().is_recording()
        return records_text or self._inner.wants_answers(request, decision)

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        span = current_span()
        if span.is_recording():
            span.set_attributes(_decision_attributes(decision) | _receipt_attributes(request, receipt))
            if self._max_characters:
                with suppress(NotRedacted):  # then the text is left out
                    span.set_attributes(self._text_attributes(request, answers))
        stored = answers if answers and self._inner.wants_answers(request, decision) else ()
        self._inner.note(request, decision, receipt, stored)

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        span = current_span()
        if span.is_recording():
            span.set_attributes({"pointsman.outcome": receipt.outcome, "pointsman.fault": receipt.fault})
        self._inner.note_undecided(receipt)

    def _text_attributes(self, request: Request, answers: tuple[CompletedAnswer, ...]) -> dict[str, Attribute]:
        """Returns messages and answer as OpenTelemetry's and OpenInference's attributes; raises NotRedacted."""
        left, messages = self._max_characters, list[tuple[str, str]]()
        for message in reversed(request.messages):
            text = _cut(self._redaction.text(message.content), left)
            messages.insert(0, (message.role, text))
            left -= len(text)
            if left <= 0:
                break
        attributes: dict[str, Attribute] = {
            "openinference.span.kind": "LLM",
            "gen_ai.input.messages": _messages_json(messages),
            "input.value": "\n\n".join([f"{role}: {text}" for role, text in messages]),
        }
        if answers:
            text = _cut(self._redaction.text(answers[-1].text), self._max_characters)
            attributes["gen_ai.output.messages"] = _messages_json([("assistant", text)])
            attributes["output.value"] = text
        return attributes


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]}… ({len(text)} characters)"


def _messages_json(messages: Sequence[tuple[str, str]]) -> str:
    """Returns the messages in the schema of OpenTelemetry's conventions for generative AI."""
    parts = [{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in messages]
    return json.dumps(parts, ensure_ascii=False)


def _decision_attributes(decision: Decision) -> dict[str, Attribute]:
    return {
        "pointsman.decision_id": decision.id,
        "pointsman.task": decision.task,
        "pointsman.path": decision.path.name,
        "pointsman.kind": decision.path.kind.value,
        "pointsman.reason": decision.reason,
        "pointsman.confidence": decision.confidence,
        "pointsman.generation": decision.generation,
    }


def _receipt_attributes(request: Request, receipt: Receipt) -> dict[str, Attribute]:
    return {
        "gen_ai.operation.name": operation_name(request.operation),
        "gen_ai.provider.name": "pointsman",
        "gen_ai.request.model": request.model,
        "gen_ai.response.model": receipt.model,
        **usage_attributes(receipt.usage),
        "pointsman.outcome": receipt.outcome,
        **({} if (cost := receipt.cost_usd) is None else {"pointsman.cost_usd": cost}),
        "pointsman.cached": receipt.cached,
        "pointsman.escalated_from": receipt.escalated_from,
        **{f"pointsman.seconds.{phase}": seconds for phase, seconds in receipt.seconds.items()},
    }


class SpanInstrumentation(Instrumentation):
    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self.grpc_interceptors = (TracedCalls(spans),)

    def engine_client(self, client: EngineClient, gen_ai: GenAiMetrics) -> EngineClient:
        return TracedClient(client, self._spans, gen_ai.provider)

    def embedder(self, embedder: Embedder, name: str, provider: str) -> Embedder:
        return TracedEmbedder(embedder, name, provider, self._spans)

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
