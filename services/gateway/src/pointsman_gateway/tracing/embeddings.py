"""A span of each request for vectors: what it does is done by the one inside."""

from pointsman_servicekit.tracing.spans import Spans

from pointsman_gateway.embeddings.stage import Embedder
from pointsman_gateway.embeddings.wanted import Embedded, Wanted


class TracedEmbedder:
    """Implements `Embedder`."""

    def __init__(self, inner: Embedder, name: str, provider: str, spans: Spans) -> None:
        """`name` is the model's in the configuration; `provider` as OpenTelemetry names it."""
        self._inner = inner
        self._name = name
        self._provider = provider
        self._spans = spans

    async def embed(self, wanted: Wanted) -> Embedded:
        with self._spans.phase(f"embeddings {self._name}") as span:
            span.set_attribute("gen_ai.operation.name", "embeddings")
            span.set_attribute("gen_ai.provider.name", self._provider)
            span.set_attribute("gen_ai.request.model", self._name)
            embedded = await self._inner.embed(wanted)
            span.set_attribute("gen_ai.usage.input_tokens", embedded.tokens)
            return embedded
