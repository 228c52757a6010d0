"""Wrappers that add guardrails to stages of a configuration: classification, prompts and metering.

Each wrapper has the interface of the stage that it wraps, so a configuration without guardrails has no extra cost.
`guarded_answer` wraps the backend.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pointsman_servicekit.errors import InvalidArgument, PointsmanError

from pointsman_gateway.codec.choices import REASONING_KEYS
from pointsman_gateway.codec.parts import text_of
from pointsman_gateway.domain import Decision, Labels, Message, Prompt, Receipt, Request, Sampling, UndecidedReceipt
from pointsman_gateway.domain.blocks import Block, move_texts
from pointsman_gateway.extensions import GuardedText, Hook
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.metering.canary_outcomes import CanaryOutcomes
from pointsman_gateway.metering.meter import Meter, Metering
from pointsman_gateway.pipeline.guardrails import (
    GuardrailMetrics,
    Guardrails,
    NotText,
    Span,
    Verdicts,
    Visit,
    current_verdicts,
    map_texts,
    redact,
)
from pointsman_gateway.ports import Classifier, PromptBuilder

AnyReceipt = TypeVar("AnyReceipt", bound=Receipt | UndecidedReceipt)


PARAMETER = "parameter"
"""The value of `GuardedText.role` for texts in a request's parameters, such as the description of a tool."""
UNCHECKED_PARAMETERS = frozenset({"prompt", "tools", "functions", "betas"})
"""Parameters of a request whose texts guardrails do not check. Prompts of a completion are checked as messages."""
DETAILS = "reasoning_details"
"""The field of a message with the signatures of its reasoning."""

_TYPED = NotText({"type"})
_CACHE_CONTROL = NotText({"type", "ttl"})
_MESSAGE = NotText(
    {"tool_call_id"},
    {
        "tool_calls": NotText({"id", "type"}),
        DETAILS: NotText({"id", "type", "data", "signature"}),
        "content": NotText(
            {"type"},
            {
                "input_audio": NotText({"data"}),
                "file": NotText(media={"file_data"}),
                **dict.fromkeys(("image_url", "audio_url", "video_url"), NotText(media={"url"})),
            },
        ),
    },
)
"""The fields of messages that are not checked: if they were redacted by mistake, ids would no longer match each other,
and signed or encrypted data would be worthless."""
_BLOCK = NotText(
    {"type", "data", "signature"},
    {
        "cache_control": _CACHE_CONTROL,
        "citations": NotText({"type", "encrypted_index", "file_id"}),
        "source": NotText({"type", "data", "media_type"}, media={"url"}),
    },
)
"""The fields of Anthropic's content blocks that are not checked."""
_PARAMETERS = NotText(
    within={
        "cache_control": _CACHE_CONTROL,
        "context_management": NotText(within={"edits": _TYPED}),
        "thinking": _TYPED,
    }
)


def _map_message(message: Message, visit: Visit) -> Message:
    extra = map_texts(message.extra, visit, not_text=_MESSAGE) if message.extra else message.extra
    parts = extra.get("content")
    if parts:  # the text of a message with media is in its parts
        changed = replace(message, content=text_of(parts), extra=extra)
    else:
        changed = replace(message, content=map_texts(message.content, visit), extra=extra)
    if message.blocks:
        changed.blocks = tuple([_map_block(block, visit) for block in message.blocks])  # type: ignore[misc]
    return changed


def _map_block(block: Block, visit: Visit) -> Block:
    """Returns the block with `visit` applied to the texts that only the block has, such as a document's title."""
    return replace(block, fields=map_texts(block.fields, visit, ("blocks",), _BLOCK)) if block.fields else block


def _redact_message(message: Message, following: Iterator[Sequence[Span]]) -> Message:
    """Returns the message with its texts redacted; its blocks refer to the same parts in the redacted text.

    `following` yields the spans to redact in each text, in the order in which `_map_message` visits the texts.
    """
    of_content: list[Span] = []

    def rewrite(at: tuple[Any, ...], text: str) -> str:
        spans = next(following)
        if not at:
            of_content.extend(spans)
        return redact(text, spans)

    redacted = _map_message(message, rewrite)
    if of_content and redacted.blocks:
        redacted.blocks = move_texts(redacted.blocks, lambda at: len(redact(message.content[:at], of_content)))  # type: ignore[misc]
    return _without_stale_thinking(message, redacted)


def _without_stale_thinking(message: Message, redacted: Message) -> Message:
    """Returns `redacted` without its signed thinking if any of the reasoning in `message` was redacted, since the
    signatures are those of the original text.
    """
    if all(message.extra.get(key) == redacted.extra.get(key) for key in (*REASONING_KEYS, DETAILS)):
        return redacted
    extra = {name: value for name, value in redacted.extra.items() if name != DETAILS}
    return replace(redacted, extra=extra, blocks=tuple([b for b in redacted.blocks if b.kind != "thinking"]))


def _map_parameters(sampling: Sampling, visit: Visit) -> Sampling:
    extra, native = _map_fields(sampling.extra, visit), sampling.anthropic
    stop = tuple(map_texts(sampling.stop, visit)) if sampling.stop else sampling.stop
    native = _map_fields(native, visit) if native else native
    return replace(sampling, extra=extra, stop=stop, anthropic=native)


def _map_fields(fields: Mapping[str, Any], visit: Visit) -> Mapping[str, Any]:
    return {
        name: value if name in UNCHECKED_PARAMETERS else map_texts(value, visit, (name,), _PARAMETERS.of_field(name))
        for name, value in fields.items()
    }


async def _redacted(
    guardrails: Guardrails, hook: Hook, messages: Sequence[Message], sampling: Sampling
) -> tuple[tuple[Message, ...], Sampling] | None:
    """Has guardrails check the texts of messages and parameters; returns both redacted, or None if nothing is found.

    Raises GuardrailBlocked or GuardrailUnavailable.
    """
    texts: list[GuardedText] = []

    def collector(role: str) -> Visit:
        def collect(at: tuple[Any, ...], text: str) -> str:
            texts.append(GuardedText(role, text))
            return text

        return collect

    for message in messages:
        _map_message(message, collector(message.role))
    _map_parameters(sampling, collector(PARAMETER))
    if not texts:
        return None
    spans = await guardrails.check(hook, texts, current_verdicts.get())
    if not any(spans):
        return None
    following = iter(spans)
    checked = tuple([_redact_message(message, following) for message in messages])
    return checked, _map_parameters(sampling, lambda at, text: redact(text, next(following)))


def _replace_messages(request: Request, messages: tuple[Message, ...]) -> None:
    """Replaces the messages in `request` itself, and a completion's prompts, by the redacted ones.

    So no later step, such as the request log, sees the original text.
    """
    request.messages, request._characters = messages, -1  # type: ignore[misc]
    sampling = request.sampling
    if request.operation == "completion" and "prompt" in sampling.extra:  # the engine reads several prompts there
        extra = {**sampling.extra, "prompt": [message.content for message in messages]}
        request.sampling = replace(sampling, extra=extra)  # type: ignore[misc]


def _reject_token_ids(request: Request) -> None:
    prompt = request.sampling.extra.get("prompt") if request.operation == "completion" else None
    if isinstance(prompt, list) and not isinstance(prompt[0], str):
        raise InvalidArgument(
            "'prompt' holds token ids, which guardrails cannot check; send text",
            code="unsupported_prompt",
            param="prompt",
        )


class GuardedClassification:
    """Wraps the classification, and has guardrails check each request before it; implements `Classifier`."""

    def __init__(self, inner: Classifier, guardrails: Guardrails) -> None:
        self._inner = inner
        self._guardrails = guardrails

    async def label(self, request: Request) -> Labels:
        """Checks the request by guardrails, redacts it in place if necessary, and returns the result of its
        classification.

        Rulings other than "passed" are added to the result's notes. Raises GuardrailBlocked, GuardrailUnavailable, or
        InvalidArgument for a prompt of token ids, which guardrails cannot read.
        """
        _reject_token_ids(request)
        redacted = await _redacted(self._guardrails, "request", request.messages, request.sampling)
        if redacted is not None:
            messages, request.sampling = redacted  # type: ignore[misc]  # as in _replace_messages
            _replace_messages(request, messages)
        labels = await self._inner.label(request)
        notes = [str(verdict) for verdict in current_verdicts.get() if verdict.ruling != "passed"]
        return replace(labels, notes=(*notes, *labels.notes)) if notes else labels


class GuardedPrompts:
    """Wraps the builder of prompts, and has guardrails check each complete prompt, with examples and passages.

    Implements `PromptBuilder`.
    """

    def __init__(self, inner: PromptBuilder, guardrails: Guardrails) -> None:
        self._inner = inner
        self._guardrails = guardrails

    async def build(self, request: Request, decision: Decision) -> Prompt:
        """Builds a prompt, has guardrails check it, and returns it with their findings redacted.

        Findings in the request's parameters, and in the prompts of a completion, are redacted in `request` itself.
        Raises GuardrailBlocked, GuardrailUnavailable, InvalidArgument for a prompt of token ids, and the wrapped
        builder's errors.
        """
        _reject_token_ids(request)
        prompt = await self._inner.build(request, decision)
        redacted = await _redacted(self._guardrails, "prompt", prompt.messages, request.sampling)
        if redacted is None:
            return prompt
        messages, request.sampling = redacted  # type: ignore[misc]  # as in _replace_messages
        if request.operation == "completion":  # the path adds nothing, and the engine reads the request's prompts
            _replace_messages(request, messages)
        return replace(prompt, messages=messages)


class GuardedMetering(Metering):
    """Wraps the metering, so that each receipt contains the verdicts of guardrails on its request."""

    def __init__(self, inner: Metering, metrics: GuardrailMetrics | None) -> None:
        """Takes the metering to wrap. Without `metrics`, verdicts are not counted in Prometheus."""
        super().__init__(inner.pricing, inner.expected_cost, inner.aggregator, inner.canary)
        self.guardrail_metrics = metrics

    def with_counters(self, aggregator: MetricsAggregator, canary: CanaryOutcomes) -> Metering:
        return GuardedMetering(super().with_counters(aggregator, canary), None)

    def start(self, request: Request) -> Meter:
        """Returns the meter of a new request, which adds the verdicts of guardrails to the request's receipt.

        Sets the context variable `current_verdicts` to an empty collection, to which guardrails add their verdicts.
        """
        verdicts = Verdicts()
        current_verdicts.set(verdicts)
        return GuardedMeter(self, request, verdicts)


class GuardedMeter(Meter):
    __slots__ = ("_guardrail_metrics", "_verdicts")

    def __init__(self, metering: GuardedMetering, request: Request, verdicts: Verdicts) -> None:
        super().__init__(metering, request)
        self._guardrail_metrics = metering.guardrail_metrics
        self._verdicts = verdicts

    def finish(self, outcome: str, error: PointsmanError | None = None) -> Receipt | UndecidedReceipt:
        return self._with_verdicts(super().finish(outcome, error))

    def finish_route(self, outcome: str, error: PointsmanError | None = None) -> Receipt | UndecidedReceipt:
        return self._with_verdicts(super().finish_route(outcome, error))

    def _with_verdicts(self, receipt: AnyReceipt) -> AnyReceipt:
        verdicts = tuple(self._verdicts)
        if self._guardrail_metrics is not None:
            for verdict in verdicts:
                self._guardrail_metrics.verdicts.labels(verdict.guardrail, verdict.hook, verdict.ruling).inc()
        receipt = replace(receipt, guardrails=verdicts)
        if isinstance(receipt, Receipt) and receipt.sources:
            # They were checked as parts of the prompt at most, and callers may get only checked text.
            receipt.sources = [replace(passage, text="", heading="") for passage in receipt.sources]
        return receipt
