"""A span of each question to an engine, which is told where its own work belongs."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from urllib.parse import urlsplit

from opentelemetry.trace import Span
from pointsman_servicekit.tracing.spans import Attribute, Spans, record_exception, trace_header_lines

from pointsman_gateway.backends.call import Call, Client
from pointsman_gateway.domain import Chunks, Operation, Usage

# Names of github.com/open-telemetry/semantic-conventions/blob/v1.41.0/docs/gen-ai/gen-ai-spans.md
_NAMES: Mapping[Operation, str] = {"chat": "chat", "completion": "text_completion"}


class TracedClient:
    """Implements `Client` around another."""

    def __init__(self, client: Client, spans: Spans, provider: Callable[[str], str]) -> None:
        """`provider` of a model as OpenTelemetry names it."""
        self._client = client
        self._spans = spans
        self._provider = provider

    async def stream(self, call: Call) -> AsyncIterator[Chunks]:
        name = operation_name(call.operation)
        span = self._spans.call(f"{name} {call.model}", _asked(call, name, self._provider(call.model)))
        try:
            stream = self._client.stream(replace(call, trace_heads=trace_header_lines(span)))
            async with aclosing(stream) as answer:  # type: ignore[type-var]  # a generator's
                async for chunks in answer:
                    _tell(span, chunks)
                    yield chunks
        except BaseException as error:
            record_exception(span, error)
            raise
        finally:
            span.end()


def operation_name(operation: Operation) -> str:
    return _NAMES[operation]


def _asked(call: Call, name: str, provider: str) -> dict[str, Attribute]:
    server = urlsplit(call.url)
    told: dict[str, Attribute | None] = {
        "gen_ai.operation.name": name,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": call.model,
        "gen_ai.request.max_tokens": call.sampling.max_tokens,
        "gen_ai.request.temperature": call.sampling.temperature,
        "gen_ai.request.top_p": call.sampling.top_p,
        "server.address": server.hostname,
        "server.port": server.port,
        "pointsman.engine": call.engine,
    }
    return {key: value for key, value in told.items() if value is not None}


def _tell(span: Span, chunks: Chunks) -> None:
    last = chunks[-1]
    if last.usage is not None:
        span.set_attributes(used(last.usage))
    reasons = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
    if reasons:
        span.set_attribute("gen_ai.response.finish_reasons", reasons)


def used(usage: Usage) -> dict[str, Attribute]:
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
    }
