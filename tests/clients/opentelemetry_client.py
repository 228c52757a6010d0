"""OpenAI's client, traced by the instrumentation of OpenLLMetry: spans have the answer's model and usage."""

import openai
from checks import BASE_MODEL, CHAT, EMBEDDING_MODEL, EMBEDDINGS, PLAIN, QUESTION, STREAMING, run
from opentelemetry.instrumentation.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

EXPORTER = InMemorySpanExporter()
CAPITAL = {"model": BASE_MODEL, "temperature": 0, "max_tokens": 12, "messages": [{"role": "user", "content": QUESTION}]}


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def assert_span(model: str, *counts: str) -> None:
    """Checks that exactly one span has finished, with this model and these token counts."""
    (span,) = EXPORTER.get_finished_spans()
    EXPORTER.clear()
    attributes = dict(span.attributes or {})
    assert attributes["gen_ai.request.model"] == model, attributes
    assert all(int(str(attributes[f"gen_ai.usage.{name}"])) > 0 for name in counts), attributes


def plain(url: str) -> None:
    client(url).chat.completions.create(**CAPITAL)
    assert_span(BASE_MODEL, "input_tokens", "output_tokens")


def streaming(url: str) -> None:
    for _ in client(url).chat.completions.create(**CAPITAL, stream=True, stream_options={"include_usage": True}):
        pass
    assert_span(BASE_MODEL, "input_tokens", "output_tokens")


def embeddings(url: str) -> None:
    client(url).embeddings.create(model=EMBEDDING_MODEL, input=QUESTION)
    assert_span(EMBEDDING_MODEL, "input_tokens")


if __name__ == "__main__":
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    OpenAIInstrumentor().instrument(tracer_provider=provider)
    run({CHAT: {PLAIN: plain, STREAMING: streaming}, EMBEDDINGS: {PLAIN: embeddings}})
