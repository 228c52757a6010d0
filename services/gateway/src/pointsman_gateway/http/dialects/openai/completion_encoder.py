"""Encodes answers of `POST /v1/completions`: `text_completion`, whole or in chunks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import Chunk, Chunks, Finished, Started
from pointsman_gateway.http.dialects.openai.errors import OpenAIErrors, error_body
from pointsman_gateway.http.encoding import DONE, receipt_body, system_fingerprint, to_event, to_json, usage_body
from pointsman_gateway.pipeline.batch import BatchFinished

FINISH_REASONS = ("stop", "length", "content_filter")
"""The finish reasons of completions; any other one of a conversation, such as "tool_calls", is reported as "stop"."""


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    characters: int = 0
    finish_reason: str | None = None
    logprobs: dict[str, list[Any]] | None = None


class CompletionEncoder:
    """Encodes one answer as `text_completion` objects, whole or in chunks; implements `AnswerEncoder`."""

    error_format = OpenAIErrors("prompt")

    def __init__(self, include_usage: bool) -> None:
        """Takes `include_usage`: whether a stream ends with a chunk that has the usage and the receipt."""
        self._include_usage = include_usage
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}

    def encode_start(self, started: Started) -> bytes:
        self._head = _head(started)
        return b""

    def encode_chunks(self, chunks: Chunks) -> bytes:
        # As OpenAI does, every chunk before the one with the usage has `"usage": null`.
        usage = {"usage": None} if self._include_usage else {}
        return b"".join(to_event({**self._head, "choices": [self._add(c)], **usage}) for c in chunks)

    def encode_end(self, finished: Finished) -> bytes:
        if not self._include_usage:
            return DONE
        return to_event({**self._head, "choices": [], **_usage(finished)}) + DONE

    def encode_error(self, error: PointsmanError) -> bytes:
        return to_event(error_body(error))

    def encode_whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        for chunk in chunks:
            self._add(chunk)
        choices = [
            {
                "index": index,
                "text": "".join(choice.text),
                "finish_reason": choice.finish_reason or "stop",
                "logprobs": choice.logprobs,
            }
            for index, choice in sorted(self._choices.items())
        ]
        return to_json({**_head(started), "choices": choices, **_usage(finished)})

    def _add(self, chunk: Chunk) -> dict[str, Any]:
        """Adds a chunk to its choice, and returns the chunk as an entry of `choices`."""
        choice = self._choices.setdefault(chunk.index, _Choice())
        logprobs = _logprobs(chunk.extra.get("logprobs"), choice.characters)
        choice.text.append(chunk.content)
        choice.characters += len(chunk.content)
        reason = chunk.finish_reason
        if reason:
            choice.finish_reason = reason if reason in FINISH_REASONS else "stop"
        if logprobs:
            collected = choice.logprobs = choice.logprobs or {name: [] for name in logprobs}
            for name, values in logprobs.items():
                collected.setdefault(name, []).extend(values)
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
        "system_fingerprint": system_fingerprint(started),
    }


def _usage(finished: Finished) -> dict[str, Any]:
    """Returns the fields `usage` and `pointsman` (the receipt, see `receipt_body`) of an answer.

    If each prompt was a request of its own (`BatchFinished`), `pointsman` has a list `prompts` in addition, with the
    `decision_id` and the receipt of each.
    """
    receipt = receipt_body(finished.receipt)
    if isinstance(finished, BatchFinished):
        receipt["prompts"] = [{"decision_id": part.decision.id, **receipt_body(part)} for part in finished.parts]
    return {"usage": usage_body(finished.receipt.usage), "pointsman": receipt}


def _logprobs(engine_logprobs: Any, offset: int) -> dict[str, list[Any]] | None:
    """Converts a chunk's log-probabilities, in the format of chats or of completions, to the format of completions.

    Returns None if there are none. Leaves out alternatives without a log-probability. `offset` is the number of
    characters of the choice before the chunk.
    """
    if not isinstance(engine_logprobs, dict):
        return None
    if "content" not in engine_logprobs:
        return {name: values for name, values in engine_logprobs.items() if isinstance(values, list)}
    logprobs: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in engine_logprobs["content"] or ():
        text = token.get("token") or ""
        logprobs["tokens"].append(text)
        logprobs["token_logprobs"].append(token.get("logprob"))
        tops = token.get("top_logprobs") or ()
        logprobs["top_logprobs"].append({t["token"]: t["logprob"] for t in tops if t.get("logprob") is not None})
        logprobs["text_offset"].append(offset)
        offset += len(text)
    return logprobs
