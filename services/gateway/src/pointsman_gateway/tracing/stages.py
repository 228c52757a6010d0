"""A span of each phase of a request: what a stage does is done by the one inside."""

from pointsman_servicekit.tracing.spans import Spans

from pointsman_gateway.domain import Decision, Labels, Prompt, Request
from pointsman_gateway.pipeline.ports import Backend, Classifier, OpenAnswer, PromptBuilder


class TracedClassification:
    """Implements `Classifier`."""

    def __init__(self, inner: Classifier, spans: Spans) -> None:
        self._inner = inner
        self._spans = spans

    async def label(self, request: Request) -> Labels:
        with self._spans.phase("classification") as span:
            labels = await self._inner.label(request)
            span.set_attribute("pointsman.stage", labels.stage)
            return labels


class TracedPrompts:
    """Implements `PromptBuilder`; what is looked up for a prompt is a call below its span."""

    def __init__(self, inner: PromptBuilder, spans: Spans) -> None:
        self._inner = inner
        self._spans = spans

    async def build(self, request: Request, decision: Decision) -> Prompt:
        with self._spans.phase("prompt") as span:
            span.set_attribute("pointsman.path", decision.path.name)
            prompt = await self._inner.build(request, decision)
            span.set_attribute("pointsman.passages", len(prompt.passages))
            return prompt


class TracedAnswers:
    """Implements `Backend`: until an answer begins, a wait for its adapter and engines that failed among it."""

    def __init__(self, inner: Backend, spans: Spans) -> None:
        self._inner = inner
        self._spans = spans

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> OpenAnswer:
        with self._spans.phase("first token") as span:
            span.set_attribute("pointsman.path", decision.path.name)
            opened = await self._inner.open(request, decision, prompt)
            span.set_attribute("pointsman.cached", opened.cached)
            return opened
