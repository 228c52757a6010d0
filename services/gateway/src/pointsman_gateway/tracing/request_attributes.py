"""Adds attributes to a request's span: the decision, the receipt and, if configured, texts."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

from pointsman_servicekit.tracing.spans import Attribute, current_span

from pointsman_gateway.domain import CompletedAnswer, Decision, Receipt, Request, UndecidedReceipt
from pointsman_gateway.domain.receipt_fields import Encoding, FieldReader
from pointsman_gateway.ports import RequestLog
from pointsman_gateway.redaction import NotRedacted, Redaction
from pointsman_gateway.tracing.engine_calls import operation_name, usage_attributes

_RECEIPT_FIELDS = FieldReader(Encoding.SPAN, Receipt)
_UNDECIDED_FIELDS = FieldReader(Encoding.UNDECIDED_SPAN, UndecidedReceipt)


class TracedRequestLog:
    """Wraps a request log, and also sets attributes of the request's span: decision, receipt and redacted texts.

    Implements `RequestLog`. The texts are up to `max_characters` characters of the conversation, and as many of the
    answer. They are left out if `max_characters` is 0, or if the redaction fails.
    """

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
            span.set_attributes(_prefixed(_UNDECIDED_FIELDS.read(receipt)))
        self._inner.note_undecided(receipt)

    def _text_attributes(self, request: Request, answers: tuple[CompletedAnswer, ...]) -> dict[str, Attribute]:
        """Returns span attributes with the end of the conversation and the beginning of the answer, both redacted.

        The names of the attributes follow the conventions of OpenTelemetry and OpenInference. Raises NotRedacted if the
        redaction fails.
        """
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
    """Returns (role, text) messages as JSON in the schema of OpenTelemetry's conventions for generative AI."""
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
        "pointsman.revision": decision.revision,
    }


def _receipt_attributes(request: Request, receipt: Receipt) -> dict[str, Attribute]:
    fields = _RECEIPT_FIELDS.read(receipt)
    seconds = {f"seconds.{phase}": value for phase, value in fields.pop("seconds").items()}
    return {
        "gen_ai.operation.name": operation_name(request.operation),
        "gen_ai.provider.name": "pointsman",
        "gen_ai.request.model": request.model,
        "gen_ai.response.model": receipt.model,
        **usage_attributes(receipt.usage),
        **_prefixed(fields | seconds),
    }


def _prefixed(fields: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {f"pointsman.{name}": value for name, value in fields.items()}
