"""`text_completion`, OpenAI's older answer: whole, and as chunks of the same shape."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import Chunk, Chunks, Finished, Started
from pointsman_gateway.http.openai_answers import DONE, error_body, receipt_body, to_event, to_json, usage_body

FINISH_REASONS = ("stop", "length", "content_filter")
"""A conversation can end in others, which this shape does not know."""


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    characters: int = 0
    finish_reason: str | None = None
    logprobs: dict[str, list[Any]] | None = None


class CompletionEncoder:
    """Implements `Encoder`, for engines' completions and for their conversations."""

    def __init__(self, include_usage: bool) -> None:
        """`include_usage`: whether a stream ends with a chunk that has the usage."""
        self._include_usage = include_usage
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}

    def begun(self, started: Started) -> bytes:
        self._head = _head(started)
        return b""

    def chunks(self, chunks: Chunks) -> bytes:
        # Where the usage comes at the end, every other chunk says that it has none.
        beside = {"usage": None} if self._include_usage else {}
        return b"".join(to_event({**self._head, "choices": [self._taken(c)], **beside}) for c in chunks)

    def finished(self, finished: Finished) -> bytes:
        if not self._include_usage:
            return DONE
        receipt = finished.receipt
        usage = {"usage": usage_body(receipt.usage), "pointsman": receipt_body(receipt)}
        return to_event({**self._head, "choices": [], **usage}) + DONE

    def failed(self, error: PointsmanError) -> bytes:
        return to_event(error_body(error))

    def whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        for chunk in chunks:
            self._taken(chunk)
        choices = [
            {
                "index": index,
                "text": "".join(choice.text),
                "finish_reason": choice.finish_reason or "stop",
                "logprobs": choice.logprobs,
            }
            for index, choice in sorted(self._choices.items())
        ]
        receipt = finished.receipt
        usage = {"usage": usage_body(receipt.usage), "pointsman": receipt_body(receipt)}
        return to_json({**_head(started), "choices": choices, **usage})

    def _taken(self, chunk: Chunk) -> dict[str, Any]:
        """The chunk's choice, which is added to what has come before."""
        choice = self._choices.setdefault(chunk.index, _Choice())
        logprobs = _logprobs(chunk.extra.get("logprobs"), choice.characters)
        choice.text.append(chunk.content)
        choice.characters += len(chunk.content)
        reason = chunk.finish_reason
        if reason:
            choice.finish_reason = reason if reason in FINISH_REASONS else "stop"
        if logprobs:
            gathered = choice.logprobs = choice.logprobs or {name: [] for name in logprobs}
            for name, values in logprobs.items():
                gathered.setdefault(name, []).extend(values)
        return {
            "index": chunk.index,
            "text": chunk.content,
            "finish_reason": choice.finish_reason if reason else None,
            "logprobs": logprobs,
        }


def _head(started: Started) -> dict[str, Any]:
    return {
        "id": "cmpl-" + started.decision.id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": started.model,
    }


def _logprobs(told: Any, offset: int) -> dict[str, list[Any]] | None:
    """As they are from an engine's completions, in that shape from its conversations; `offset` in characters."""
    if not isinstance(told, dict):
        return None
    if "content" not in told:
        return {name: values for name, values in told.items() if isinstance(values, list)}
    logprobs: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in told["content"] or ():
        text = token.get("token") or ""
        logprobs["tokens"].append(text)
        logprobs["token_logprobs"].append(token.get("logprob"))
        tops = token.get("top_logprobs") or ()
        logprobs["top_logprobs"].append({top["token"]: top["logprob"] for top in tops})
        logprobs["text_offset"].append(offset)
        offset += len(text)
    return logprobs
