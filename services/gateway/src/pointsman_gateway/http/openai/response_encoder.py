"""A response of the Responses API: as a stream of numbered events, and as a whole."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import Chunk, Chunks, Finished, Started, Usage
from pointsman_gateway.http.openai.chat_encoder import receipt_body, to_json
from pointsman_gateway.http.openai.response_output import REASONING, REFUSAL, TEXT, Call, Content, Event, Item, PartKind

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""By how an engine's answer ended."""
MOST_CALLS = 1024
"""In one response; an engine that numbers them higher is not believed."""
ERRORS = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""OpenAI's words for what went wrong, by status; everything else is a server's error."""
REASONING_KEYS = ("reasoning", "reasoning_content")
"""How engines call the thoughts that they send beside the text."""


class ResponseEncoder:
    """Implements `Encoder`; the whole response is the stream's end, without its events."""

    def __init__(self, echoed: Mapping[str, Any], wants_logprobs: bool) -> None:
        """`echoed` is what a response says of its request."""
        self._echoed = echoed
        self._wants_logprobs = wants_logprobs
        self._head: dict[str, Any] = {}
        self._decision = ""
        self._sent = 0
        self._items: list[Item] = []
        self._open: Content | None = None
        self._calls: dict[int, Call] = {}
        self._finish_reason = ""

    # -- as a stream

    def begun(self, started: Started) -> bytes:
        self._begin(started)
        response = self._response("in_progress")
        return self._written([{"type": f"response.{e}", "response": response} for e in ("created", "in_progress")])

    def chunks(self, chunks: Chunks) -> bytes:
        return self._written(event for chunk in chunks for event in self._taken(chunk))

    def finished(self, finished: Finished) -> bytes:
        ending = list(self._ended())
        response = self._finished_response(finished)
        return self._written([*ending, {"type": f"response.{response['status']}", "response": response}])

    def failed(self, error: PointsmanError) -> bytes:
        told = {"code": error.code, "message": error.message, "param": error.param}
        code = ERRORS.get(error.http_status, "server_error")
        failure = {"error": {"code": code, "message": error.message}, "output": self._output("incomplete")}
        response = {**self._response("failed"), **failure}
        return self._written([{"type": "error", **told}, {"type": "response.failed", "response": response}])

    # -- as a whole

    def whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        self._begin(started)
        for chunk in chunks:
            for _ in self._taken(chunk):
                pass
        for _ in self._ended():
            pass
        return to_json(self._finished_response(finished))

    # -- what comes

    def _begin(self, started: Started) -> None:
        self._decision = started.decision.id
        self._head = {
            "id": "resp_" + self._decision,
            "object": "response",
            "created_at": int(time.time()),
            "model": started.model,
        }

    def _taken(self, chunk: Chunk) -> Iterator[Event]:
        """One answer is all that there is room for; `n` was not asked for."""
        if chunk.index:
            return
        delta = chunk.extra.get("delta") or {}
        for key in REASONING_KEYS:
            if isinstance(delta.get(key), str):
                yield from self._text(REASONING, delta[key], [])
                break
        if isinstance(delta.get("refusal"), str):
            yield from self._text(REFUSAL, delta["refusal"], [])
        logprobs = _logprobs(chunk) if self._wants_logprobs else []
        if chunk.content:
            yield from self._text(TEXT, chunk.content, logprobs)
        for piece in delta.get("tool_calls") or ():
            yield from self._called(piece)
        self._finish_reason = chunk.finish_reason or self._finish_reason

    def _text(self, kind: PartKind, text: str, logprobs: list[Any]) -> Iterator[Event]:
        if not text:
            return
        if self._open is None or self._open.kind != kind.item:
            yield from self._closed()
            prefix = "msg" if kind.item == "message" else "rs"
            self._open = Content(self._id(prefix), len(self._items), kind.item)
            self._items.append(self._open)
            yield from self._open.opened()
        yield from self._open.add(kind, text, logprobs)

    def _called(self, piece: Mapping[str, Any]) -> Iterator[Event]:
        """A call stays open until the end: engines may work at several by turns."""
        number, function = min(piece.get("index", 0), MOST_CALLS - 1), piece.get("function") or {}
        call = self._calls.get(number)
        if call is None:
            yield from self._closed()
            call_id = piece.get("id") or self._id("call")
            call = Call(self._id("fc"), len(self._items), call_id, function.get("name") or "")
            self._calls[number] = call
            self._items.append(call)
            yield from call.opened()
        yield from call.add(function.get("arguments") or "")

    def _closed(self, status: str = "completed") -> Iterator[Event]:
        if self._open is not None:
            yield from self._open.closed(status)
            self._open = None

    def _ended(self) -> Iterator[Event]:
        status = "incomplete" if self._finish_reason in INCOMPLETE else "completed"
        if not self._items:  # an empty answer is an answer
            self._open = Content(self._id("msg"), 0, "message")
            self._items.append(self._open)
            yield from self._open.opened()
            yield from self._open.add(TEXT, "", [])
        yield from self._closed(status)
        for call in self._calls.values():
            yield from call.closed(self._status(call, status))

    # -- what is told

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._decision}_{len(self._items)}"

    def _output(self, status: str) -> list[dict[str, Any]]:
        return [item.body(self._status(item, status)) for item in self._items]

    def _status(self, item: Item, status: str) -> str:
        """Only the last one was still growing when the answer was cut short."""
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

    def _written(self, events: Iterable[Event]) -> bytes:
        written = []
        for event in events:
            data = to_json({**event, "sequence_number": self._sent})
            written.append(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data))
            self._sent += 1
        return b"".join(written)


def _logprobs(chunk: Chunk) -> list[dict[str, Any]]:
    told = chunk.extra.get("logprobs")
    tokens = (told.get("content") or ()) if isinstance(told, dict) else ()
    return [{**_token(token), "top_logprobs": [_token(t) for t in token.get("top_logprobs") or ()]} for token in tokens]


def _token(told: Mapping[str, Any]) -> dict[str, Any]:
    text = told.get("token") or ""
    spelt = told.get("bytes")
    return {
        "token": text,
        "logprob": told.get("logprob") or 0.0,
        "bytes": list(text.encode()) if spelt is None else spelt,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    """What engines do not tell (tokens of thought, tokens written to the cache) is 0."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
