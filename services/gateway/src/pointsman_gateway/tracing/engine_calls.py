"""Creates the spans of calls to engines, with the attributes of OpenTelemetry's conventions for generative AI."""

import asyncio
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec.structs
from opentelemetry.trace import Span
from pointsman_servicekit.tracing.spans import Attribute, Spans, record_exception, trace_header_lines

from pointsman_gateway.domain import Chunks, Operation, Usage
from pointsman_gateway.engines.engine_client import EngineClient, EngineRequest, Transfer
from pointsman_gateway.ports import ChunkSink

# Names of github.com/open-telemetry/semantic-conventions/blob/v1.41.0/docs/gen-ai/gen-ai-spans.md
_NAMES: Mapping[Operation, str] = {"chat": "chat", "completion": "text_completion"}


class TracedClient:
    """Wraps an engine client: creates a span for each call of an engine, and sends the span's trace headers to the
    engine.

    Implements `EngineClient`.
    """

    def __init__(self, client: EngineClient, spans: Spans, provider: Callable[[str], str]) -> None:
        """Takes the function `provider`, which returns for a model's name the value of the span's attribute
        `gen_ai.provider.name`.
        """
        self._client = client
        self._spans = spans
        self._provider = provider

    def send(self, request: EngineRequest, sink: ChunkSink) -> "TracedTransfer":
        name = operation_name(request.operation)
        span = self._spans.call(f"{name} {request.model}", _attributes(request, name, self._provider(request.model)))
        traced = msgspec.structs.replace(request, trace_headers=trace_header_lines(span))
        return TracedTransfer(self._client, traced, sink, span)


class TracedTransfer:
    """One call of an engine with its span. The span ends when the answer is complete, when the call fails, or at
    `close`.

    Implements `Transfer`, and `ChunkSink` for the transfer that it wraps.
    """

    def __init__(self, client: EngineClient, request: EngineRequest, sink: ChunkSink, span: Span) -> None:
        self._sink: ChunkSink | None = sink
        self._span: Span | None = span
        try:
            self._transfer: Transfer | None = client.send(request, self)
        except Exception as error:
            self._end(error)
            raise

    @property
    def is_sent(self) -> bool:
        return self._transfer is not None and self._transfer.is_sent

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
    attributes: dict[str, Attribute] = {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
    }
    details = usage.details
    if details is not None:
        written = details.cache_write + details.cache_write_1h
        attributes["gen_ai.usage.cache_creation.input_tokens"] = written  # the name before v0.1.0
        named = {
            "cache_write.input": written,
            "reasoning.output": details.reasoning,
            "audio.input": details.prompt_audio,
            "image.input": details.prompt_image,
            "audio.output": details.completion_audio,
            "image.output": details.completion_image,
        }
        attributes |= {f"gen_ai.usage.{name}_tokens": tokens for name, tokens in named.items() if tokens}
    return attributes
