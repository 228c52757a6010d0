"""All that tracing puts around the gateway's parts."""

from dataclasses import replace

from pointsman_servicekit.grpc_client import Interceptors
from pointsman_servicekit.tracing.grpc import TracedCalls
from pointsman_servicekit.tracing.spans import Spans, current_span, trace_header_lines

from pointsman_gateway.embeddings.stage import Embedder
from pointsman_gateway.engines.request import EngineClient
from pointsman_gateway.line import Line
from pointsman_gateway.metering.gen_ai import GenAiMetrics
from pointsman_gateway.pipeline.ports import Journal
from pointsman_gateway.tracing.embeddings import TracedEmbedder
from pointsman_gateway.tracing.engines import TracedClient
from pointsman_gateway.tracing.journal import TracedJournal
from pointsman_gateway.tracing.stages import TracedAnswers, TracedClassification, TracedPrompts


class Traced:
    """Implements the wiring's `Around`."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    @property
    def calls(self) -> Interceptors:
        return (TracedCalls(self._spans),)

    def client(self, client: EngineClient, gen_ai: GenAiMetrics) -> EngineClient:
        return TracedClient(client, self._spans, gen_ai.provider)

    def embedder(self, embedder: Embedder, name: str, provider: str) -> Embedder:
        return TracedEmbedder(embedder, name, provider, self._spans)

    def heads(self) -> str:
        return trace_header_lines(current_span())

    def journal(self, journal: Journal) -> Journal:
        return TracedJournal(journal)

    def line(self, line: Line) -> Line:
        return replace(
            line,
            classification=TracedClassification(line.classification, self._spans),
            prompts=TracedPrompts(line.prompts, self._spans),
            answers=TracedAnswers(line.answers, self._spans),
        )
