"""Encodes answers of the Responses API as a stream of numbered events, or as one JSON object."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.codec.choices import MAX_TOOL_CALLS, REASONING_KEYS
from pointsman_gateway.domain import Chunk, Chunks, Finished, Passage, Started, Usage
from pointsman_gateway.domain.usage import NO_DETAILS
from pointsman_gateway.engines.engine_client import UNAVAILABLE, EngineFailed
from pointsman_gateway.http.dialects.openai.errors import OpenAIErrors
from pointsman_gateway.http.dialects.openai.response_conversion import ToolName
from pointsman_gateway.http.dialects.openai.response_output import (
    REASONING,
    REFUSAL,
    TEXT,
    Content,
    CustomToolCall,
    Event,
    FunctionCall,
    Item,
    PartKind,
)
from pointsman_gateway.http.encoding import receipt_body, to_json

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Reasons of an incomplete response, by the finish reason of the engine."""
ERRORS = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""OpenAI's error codes by HTTP status; all others are "server_error"."""
MAX_CHARACTERS = 4 * 1024 * 1024
"""Maximum number of characters of texts and arguments in one stream, whose last events repeat them four times. It is
about the length of a million tokens."""


class ResponseEncoder:
    """Encodes one answer of OpenAI's Responses API; implements `AnswerEncoder`.

    The JSON body of an answer that is not streamed is the object which a stream would have in its last event.
    """

    error_format = OpenAIErrors("input")

    def __init__(self, echoed: Mapping[str, Any], wants_logprobs: bool, tool_names: Mapping[str, ToolName]) -> None:
        """Takes the fields of the request that the response repeats (`echoed`), whether the response has
        log-probabilities, and the tools' names, by their names for the engine.
        """
        self._tool_names = tool_names
        self._echoed = echoed
        self._wants_logprobs = wants_logprobs
        self._head: dict[str, Any] = {}
        self._decision = ""
        self._sequence_number = self._characters = 0
        self._is_streamed = False
        self._items: list[Item] = []
        self._item: Content | None = None
        self._calls: dict[int, FunctionCall] = {}
        self._finish_reason = ""

    def encode_start(self, started: Started) -> bytes:
        self._set_head(started)
        self._is_streamed = True
        response = self._response("in_progress")
        return self._encode_events(
            [{"type": f"response.{e}", "response": response} for e in ("created", "in_progress")]
        )

    def encode_chunks(self, chunks: Chunks) -> bytes:
        return self._encode_events(event for chunk in chunks for event in self._add_chunk(chunk))

    def encode_end(self, finished: Finished) -> bytes:
        ending = list(self._end_items(finished.receipt.sources))
        response = self._finished_response(finished)
        return self._encode_events([*ending, {"type": f"response.{response['status']}", "response": response}])

    def encode_error(self, error: PointsmanError) -> bytes:
        data = {"code": error.code, "message": error.message, "param": error.param}
        code = ERRORS.get(error.http_status, "server_error")
        failure = {"error": {"code": code, "message": error.message}, "output": self._output("incomplete")}
        response = {**self._response("failed"), **failure}
        return self._encode_events([{"type": "error", **data}, {"type": "response.failed", "response": response}])

    def encode_whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        self._set_head(started)
        for chunk in chunks:
            for _ in self._add_chunk(chunk):
                pass
        for _ in self._end_items(finished.receipt.sources):
            pass
        return to_json(self._finished_response(finished))

    # -- collecting

    def _set_head(self, started: Started) -> None:
        self._decision = started.decision.id
        self._head = {
            "id": "resp_" + self._decision,
            "object": "response",
            "created_at": int(time.time()),
            "model": started.model,
        }

    def _add_chunk(self, chunk: Chunk) -> Iterator[Event]:
        """Adds a chunk to the output items, and yields its events. Chunks of all choices but the first are ignored,
        since a response is one answer.

        Raises EngineFailed as `_count` does.
        """
        if chunk.index:
            return
        delta = chunk.extra.get("delta") or {}
        for key in REASONING_KEYS:
            if isinstance(delta.get(key), str):
                yield from self._add_text(REASONING, delta[key], [])
                break
        if isinstance(delta.get("refusal"), str):
            yield from self._add_text(REFUSAL, delta["refusal"], [])
        logprobs = _logprobs(chunk) if self._wants_logprobs else []
        if chunk.content:
            yield from self._add_text(TEXT, chunk.content, logprobs)
        for delta_of_call in delta.get("tool_calls") or ():
            yield from self._add_call(delta_of_call)
        self._finish_reason = chunk.finish_reason or self._finish_reason

    def _add_text(self, kind: PartKind, text: str, logprobs: list[Any]) -> Iterator[Event]:
        if not text:
            return
        self._count(text)
        if self._item is None or self._item.kind != kind.item:
            yield from self._close_item()
            prefix = "msg" if kind.item == "message" else "rs"
            self._item = Content(self._new_id(prefix), len(self._items), kind.item)
            self._items.append(self._item)
            yield from self._item.start_events()
        yield from self._item.add(kind, text, logprobs)

    def _add_call(self, delta_of_call: Mapping[str, Any]) -> Iterator[Event]:
        """Adds a piece of a tool call, and yields its events. No call is ended before the end of the answer, because
        engines may interleave calls.
        """
        number, function = min(delta_of_call.get("index", 0), MAX_TOOL_CALLS - 1), delta_of_call.get("function") or {}
        call = self._calls.get(number)
        if call is None:
            yield from self._close_item()
            call_id = delta_of_call.get("id") or self._new_id("call")
            called = function.get("name") or ""
            name = self._tool_names.get(called) or ToolName(called)
            if name.is_custom:
                call = CustomToolCall(self._new_id("ctc"), len(self._items), call_id, name)
            else:
                call = FunctionCall(self._new_id("fc"), len(self._items), call_id, name)
            self._calls[number] = call
            self._items.append(call)
            yield from call.start_events()
        arguments = function.get("arguments") or ""
        self._count(arguments)
        yield from call.add(arguments)

    def _count(self, text: str) -> None:
        """Counts the characters that are kept; raises EngineFailed if a stream has more than `MAX_CHARACTERS`."""
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS and self._is_streamed:
            message = f"the engine failed: its answer has more than {MAX_CHARACTERS:,} characters"
            raise EngineFailed(message, code=UNAVAILABLE, retry_after=1.0)

    def _close_item(self, status: str = "completed") -> Iterator[Event]:
        if self._item is not None:
            yield from self._item.end_events(status)
            self._item = None

    def _end_items(self, sources: Sequence[Passage]) -> Iterator[Event]:
        status = "incomplete" if self._finish_reason in INCOMPLETE else "completed"
        if not self._items:  # an empty answer still has a message
            self._item = Content(self._new_id("msg"), 0, "message")
            self._items.append(self._item)
            yield from self._item.start_events()
            yield from self._item.add(TEXT, "", [])
        if sources and self._item is not None:
            yield from self._item.cite(sources)
        yield from self._close_item(status)
        for call in self._calls.values():
            yield from call.end_events(self._status(call, status))

    # -- encoding

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{self._decision}_{len(self._items)}"

    def _output(self, status: str) -> list[dict[str, Any]]:
        return [item.body(self._status(item, status)) for item in self._items]

    def _status(self, item: Item, status: str) -> str:
        """Returns the status of an item, where `status` is that of the answer: only the last item can be incomplete."""
        return status if item is self._items[-1] else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        unknown: dict[str, Any] = {"error": None, "incomplete_details": None, "usage": None, "output": []}
        return {**self._head, "status": status, **self._echoed, **unknown}

    def _finished_response(self, finished: Finished) -> dict[str, Any]:
        reason = INCOMPLETE.get(self._finish_reason)
        status = "incomplete" if reason else "completed"
        return {
            **self._response(status),
            "incomplete_details": {"reason": reason} if reason else None,
            "output": self._output(status),
            "usage": _usage(finished.receipt.usage),
            "pointsman": receipt_body(finished.receipt),
            **({} if reason else {"completed_at": int(time.time())}),
        }

    def _encode_events(self, events: Iterable[Event]) -> bytes:
        encoded = []
        for event in events:
            data = to_json({**event, "sequence_number": self._sequence_number})
            encoded.append(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data))
            self._sequence_number += 1
        return b"".join(encoded)


def _logprobs(chunk: Chunk) -> list[dict[str, Any]]:
    data = chunk.extra.get("logprobs")
    tokens = (data.get("content") or ()) if isinstance(data, dict) else ()
    return [{**_token(token), "top_logprobs": [_token(t) for t in token.get("top_logprobs") or ()]} for token in tokens]


def _token(data: Mapping[str, Any]) -> dict[str, Any]:
    text = data.get("token") or ""
    encoded = data.get("bytes")
    return {
        "token": text,
        "logprob": data.get("logprob") or 0.0,
        "bytes": list(text.encode()) if encoded is None else encoded,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    details = usage.details or NO_DETAILS
    written = details.cache_write + details.cache_write_1h
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": written},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": details.reasoning},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
