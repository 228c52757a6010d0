"""An in-memory exporter of ended spans."""

from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pointsman_servicekit.tracing.spans import Spans


class Recorded:
    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.spans = Spans(provider.get_tracer("test"))

    def all(self) -> list[ReadableSpan]:
        """All spans that have ended."""
        return list(self._kept.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def forget(self) -> None:
        self._kept.clear()

    def __len__(self) -> int:
        return len(self.all())


def attributes_of(span: ReadableSpan) -> Mapping[str, Any]:
    """Returns the span's attributes."""
    return span.attributes or {}


def is_below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    above = span.parent
    return above is not None and (above.trace_id, above.span_id) == (parent.context.trace_id, parent.context.span_id)
