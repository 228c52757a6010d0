"""Where no traces are wanted, nothing stands around the parts, and OpenTelemetry is not even imported."""

from typing import TYPE_CHECKING, Protocol

from pointsman_servicekit.grpc_client import Interceptors

from pointsman_gateway.embeddings.stage import Embedder
from pointsman_gateway.engines.engine_client import EngineClient
from pointsman_gateway.metering.gen_ai import GenAiMetrics
from pointsman_gateway.pipeline.pipeline import Line
from pointsman_gateway.pipeline.ports import Journal

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans


class Around(Protocol):
    """What stands around the parts of the house."""

    @property
    def calls(self) -> Interceptors:
        """Around calls to other services."""
        ...

    def client(self, client: EngineClient, gen_ai: GenAiMetrics) -> EngineClient: ...

    def embedder(self, embedder: Embedder, name: str, provider: str) -> Embedder:
        """`name` is the model's in the configuration."""
        ...

    def heads(self) -> str:
        """Lines of an HTTP head that tell an engine where its work belongs."""
        ...

    def journal(self, journal: Journal) -> Journal: ...

    def line(self, line: Line) -> Line: ...


class Nothing:
    """Implements `Around`."""

    calls: Interceptors = ()

    def client(self, client: EngineClient, gen_ai: GenAiMetrics) -> EngineClient:
        return client

    def embedder(self, embedder: Embedder, name: str, provider: str) -> Embedder:
        return embedder

    def heads(self) -> str:
        return ""

    def journal(self, journal: Journal) -> Journal:
        return journal

    def line(self, line: Line) -> Line:
        return line


def traced_by(spans: "Spans | None") -> Around:
    if spans is None:
        return Nothing()
    from pointsman_gateway.tracing.spans import Traced

    return Traced(spans)
