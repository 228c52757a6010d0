"""Encodes answers of chat completions: `chat.completion` and its chunks."""

import re
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.codec.choices import CollectedChoice, collect_choices
from pointsman_gateway.domain import Chunk, Chunks, Finished, Passage, Started
from pointsman_gateway.http.citations import chat_annotations
from pointsman_gateway.http.dialects.openai.errors import OPENAI_ERRORS, error_body
from pointsman_gateway.http.encoding import (
    DONE,
    receipt_body,
    system_fingerprint,
    to_event,
    to_json,
    usage_body,
)

_ID = re.compile(rb'\{"id": ?"[^"\\]{1,200}"')
"""Matches the beginning of an engine's event, up to its id, if the id is its first field."""
_NO_PREFIX = b"\n"
"""A prefix that no event has, used until the prefix of the engine's events is known."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
# These keep the values undecoded: they are only passed on.
_decode_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_EVENT_FIELDS = frozenset({"id", "object", "created", "model", "choices", "usage"})
_CHOICE_FIELDS = frozenset({"index", "delta", "finish_reason", "logprobs"})


class _LastEvent(msgspec.Struct):
    choices: list[dict[str, msgspec.Raw]]


_decode_last_event = msgspec.json.Decoder(_LastEvent).decode


class ChatEncoder:
    """Encodes one answer as `chat.completion` objects, whole or in chunks; implements `AnswerEncoder`.

    In a stream, the engine's events are passed on with only the answer's id replaced (and `"usage":null` added if
    the client wants the usage). Encoded anew are each choice's first event, to which the role is added, and chunks
    whose engine's event is missing or does not begin with the usual id.
    """

    error_format = OPENAI_ERRORS

    def __init__(self, include_usage: bool) -> None:
        """Takes `include_usage`: whether a stream ends with a chunk that has the usage and the receipt."""
        self._include_usage = include_usage
        self._head: dict[str, Any] = {}
        """The fields that all chunks have in common."""
        self._started: set[int] = set()
        """Indexes of the choices of which a chunk has been encoded."""
        self._engine_prefix, self._own_prefix = _NO_PREFIX, b""
        """The bytes with which the engine's events begin, up to the id, and what replaces them."""

    def encode_start(self, started: Started) -> bytes:
        self._head = {
            "id": "chatcmpl-" + started.decision.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": started.model,
            "system_fingerprint": system_fingerprint(started),
        }
        self._own_prefix = b'data: {"id":' + to_json(self._head["id"])
        return b""

    def encode_chunks(self, chunks: Chunks) -> bytes:
        parts: list[bytes] = []
        for chunk in chunks:
            raw = chunk.raw
            if raw.startswith(self._engine_prefix) and chunk.index in self._started:
                if self._include_usage:
                    raw = _with_null_usage(raw)
                parts += self._own_prefix, raw[len(self._engine_prefix) :], b"\n\n"
            else:
                parts.append(self._encode_anew(chunk))
        return b"".join(parts)

    def encode_end(self, finished: Finished) -> bytes:
        return (to_event(self._usage_chunk(finished)) if self._include_usage else b"") + DONE

    def encode_error(self, error: PointsmanError) -> bytes:
        return to_event(error_body(error))

    def encode_whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        return to_json(completion(started, chunks, finished))

    def _encode_anew(self, chunk: Chunk) -> bytes:
        if chunk.index in self._started:
            return to_event(self._to_body(chunk, {}))
        self._started.add(chunk.index)
        return self._encode_first(chunk)

    def _encode_first(self, chunk: Chunk) -> bytes:
        body = self._to_body(chunk, {"role": "assistant"})
        if not chunk.raw:
            return to_event(body)
        prefix = _ID.match(chunk.raw)
        if prefix:
            self._engine_prefix = prefix.group()
        event = _decode(chunk.raw)
        created = event.get("created")
        if created and isinstance(created, int):
            self._head["created"] = body["created"] = created
        if "system_fingerprint" in event:
            self._head["system_fingerprint"] = event["system_fingerprint"]
        body["choices"][0].update(_unknown_choice_fields(event["choices"]))
        return to_event(body | _unknown_fields(event))

    def _to_body(self, chunk: Chunk, delta: dict[str, Any]) -> dict[str, Any]:
        if chunk.content:
            delta["content"] = chunk.content
        delta.update(chunk.extra.get("delta", {}))
        choice: dict[str, Any] = {"index": chunk.index, "delta": delta, "finish_reason": chunk.finish_reason}
        if "logprobs" in chunk.extra:
            choice["logprobs"] = chunk.extra["logprobs"]
        return {**self._head, "choices": [choice], **({"usage": None} if self._include_usage else {})}

    def _usage_chunk(self, finished: Finished) -> dict[str, Any]:
        """Returns the last chunk with `stream_options.include_usage`; its field "pointsman" is not OpenAI's."""
        receipt = finished.receipt
        return {**self._head, "choices": [], "usage": usage_body(receipt.usage), "pointsman": receipt_body(receipt)}


def _with_null_usage(event: bytes) -> bytes:
    """Returns the engine's event with the field `"usage":null`, or unchanged if it has a field `usage` already.

    When a client requests `include_usage`, every chunk of OpenAI's stream has this field; only in the last one it is
    not null.
    """
    return event if b'"usage":' in event or not event.endswith(b"}") else event[:-1] + b',"usage":null}'


def completion(started: Started, chunks: Sequence[Chunk], finished: Finished) -> dict[str, Any]:
    """Returns the `chat.completion` object of an answer that is not streamed.

    Fields that the gateway does not know are copied from the engine's first event; unknown fields of a choice from the
    choice's last event.
    """
    first = next((chunk.raw for chunk in chunks if chunk.raw), b"")
    return {
        "system_fingerprint": system_fingerprint(started),
        **(_unknown_fields(_decode_top_level(first)) if first else {}),
        "id": "chatcmpl-" + started.decision.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": started.model,
        "choices": [_choice_body(choice, finished.receipt.sources) for choice in collect_choices(chunks)],
        "usage": usage_body(finished.receipt.usage),
        "pointsman": receipt_body(finished.receipt),
    }


def _choice_body(choice: CollectedChoice, sources: Sequence[Passage]) -> dict[str, Any]:
    may_be_null = "tool_calls" in choice.message or "refusal" in choice.message
    cited = chat_annotations(sources, len(choice.content)) if sources and choice.content else []
    return {
        "index": choice.index,
        "message": {
            "role": "assistant",
            "content": (choice.content or None) if may_be_null else choice.content,
            "refusal": None,
            **({"annotations": cited} if cited else {}),
            **choice.message,
        },
        "finish_reason": choice.finish_reason or "stop",
        "logprobs": {"refusal": None, **choice.logprobs} if choice.logprobs else None,
        **(_unknown_choice_fields(_decode_last_event(choice.last_event).choices) if choice.last_event else {}),
    }


def _unknown_fields(event: dict[str, Any]) -> dict[str, Any]:
    if event.keys() <= _EVENT_FIELDS:
        return {}
    return {key: value for key, value in event.items() if key not in _EVENT_FIELDS}


def _unknown_choice_fields(choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (choice,) = choices  # chunks with a raw event have one choice
    if choice.keys() <= _CHOICE_FIELDS:
        return {}
    return {key: value for key, value in choice.items() if key not in _CHOICE_FIELDS}
