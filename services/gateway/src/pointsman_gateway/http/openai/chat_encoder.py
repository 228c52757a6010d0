"""OpenAI's answers, chunks and errors, encoded."""

import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.codec.choices import Choice, collected
from pointsman_gateway.domain import Chunk, Chunks, Decision, Finished, Prompt, Receipt, Started, Usage

Headers = list[tuple[bytes, bytes]]


def decision_headers(started: Started) -> Headers:
    decision, path = started.decision, started.decision.path
    headers = [
        (b"x-pointsman-decision-id", decision.id.encode()),
        *_of_its_sort(decision.task, path.name, path.kind, decision.reason),
        (b"x-pointsman-confidence", b"%.4f" % decision.confidence),
        (b"x-pointsman-overhead-ms", b"%.2f" % (started.overhead_seconds * 1000)),
    ]
    if decision.path.adapter:
        headers.append((b"x-pointsman-adapter", started.model.encode()))
    if started.cached:
        headers.append((b"x-pointsman-cache", started.cached.encode()))
    return headers


@lru_cache(maxsize=1024)
def _of_its_sort(task: str, path: str, kind: str, reason: str) -> Headers:
    """Decisions that differ in nothing of this come again and again."""
    return [
        (b"x-pointsman-task", task.encode()),
        (b"x-pointsman-path", path.encode("latin-1")),
        (b"x-pointsman-kind", kind.encode()),
        (b"x-pointsman-reason", reason.encode("latin-1")),
    ]


def cost_header(receipt: Receipt) -> tuple[bytes, bytes]:
    return b"x-pointsman-cost-usd", b"%.9f" % receipt.cost_usd


def error_body(error: PointsmanError) -> dict[str, Any]:
    callers = dict.fromkeys((400, 403, 404, 409), "invalid_request_error")
    kind = callers | {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return {
        "error": {
            "message": error.message,
            "type": kind.get(error.http_status, "server_error"),
            "param": error.param,
            "code": error.code,
        }
    }


def error_headers(error: PointsmanError) -> dict[str, str]:
    return {"retry-after": str(max(1, round(error.retry_after)))} if error.retry_after is not None else {}


DONE = b"data: [DONE]\n\n"


to_json = msgspec.json.Encoder().encode

_ID = re.compile(rb'\{"id": ?"[^"\\]{1,200}"')
"""How an engine's event begins where it begins with its id."""


_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Ended(msgspec.Struct):
    choices: list[dict[str, msgspec.Raw]]


_decode_top = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_ended = msgspec.json.Decoder(_Ended).decode
"""Of events of which only what is not known here is of use, and sent on as it came."""

_KNOWN = frozenset({"id", "object", "created", "model", "choices", "usage"})
_KNOWN_OF_A_CHOICE = frozenset({"index", "delta", "finish_reason", "logprobs"})


def to_event(data: Any) -> bytes:
    return b"data: " + to_json(data) + b"\n\n"


class ChatEncoder:
    """`chat.completion` and its chunks. Implements `Encoder`.

    The engine's own events are sent on as they came, but for the answer's id; each choice's first one is made anew,
    with the role and with whatever the engine's holds that is not known here.
    """

    def __init__(self, include_usage: bool) -> None:
        """`include_usage`: whether a stream ends with a chunk that has the usage."""
        self._include_usage = include_usage
        self._head: dict[str, Any] = {}
        self._begun: set[int] = set()
        self._theirs = self._ours = b""
        """How the engine's events begin, and ours."""

    def begun(self, started: Started) -> bytes:
        self._head = {
            "id": "chatcmpl-" + started.decision.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": started.model,
        }
        self._ours = b'{"id":' + to_json(self._head["id"])
        return b""

    def chunks(self, chunks: Chunks) -> bytes:
        return b"".join([self._event(chunk) for chunk in chunks])

    def finished(self, finished: Finished) -> bytes:
        return (to_event(self._usage(finished)) if self._include_usage else b"") + DONE

    def failed(self, error: PointsmanError) -> bytes:
        return to_event(error_body(error))

    def whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        return to_json(completion(started, chunks, finished))

    def _event(self, chunk: Chunk) -> bytes:
        if chunk.index not in self._begun:
            self._begun.add(chunk.index)
            return self._first(chunk)
        if chunk.raw and self._theirs and chunk.raw.startswith(self._theirs):
            return b"data: " + self._ours + self._with_usage(chunk.raw[len(self._theirs) :]) + b"\n\n"
        return to_event(self._anew(chunk, {}))

    def _first(self, chunk: Chunk) -> bytes:
        if not chunk.raw:
            return to_event(self._anew(chunk, {"role": "assistant"}))
        id_of_theirs = _ID.match(chunk.raw)
        if id_of_theirs:
            self._theirs = id_of_theirs.group()
        event = _decode(chunk.raw)
        created = event.get("created")
        self._head["created"] = created if created and isinstance(created, int) else self._head["created"]
        first = self._anew(chunk, {"role": "assistant"})
        first["choices"][0].update(_unknown_of_a_choice(event["choices"]))
        return to_event(first | _unknown(event))

    def _anew(self, chunk: Chunk, delta: dict[str, Any]) -> dict[str, Any]:
        if chunk.content:
            delta["content"] = chunk.content
        delta.update(chunk.extra.get("delta", {}))
        choice: dict[str, Any] = {"index": chunk.index, "delta": delta, "finish_reason": chunk.finish_reason}
        if "logprobs" in chunk.extra:
            choice["logprobs"] = chunk.extra["logprobs"]
        return {**self._head, "choices": [choice], **({"usage": None} if self._include_usage else {})}

    def _with_usage(self, event: bytes) -> bytes:
        """OpenAI says of every chunk before the one with the usage that it has none."""
        if not self._include_usage or b'"usage":' in event or not event.endswith(b"}"):
            return event
        return event[:-1] + b',"usage":null}'

    def _usage(self, finished: Finished) -> dict[str, Any]:
        """The chunk that `stream_options.include_usage` asks for; "pointsman" beside it is ours."""
        receipt = finished.receipt
        return {**self._head, "choices": [], "usage": usage_body(receipt.usage), "pointsman": receipt_body(receipt)}


def completion(started: Started, chunks: Sequence[Chunk], finished: Finished) -> dict[str, Any]:
    """A plain answer: the stream, collected; what is not known here, from its first event and each choice's last."""
    first = b""
    for chunk in chunks:
        if chunk.raw:
            first = chunk.raw
            break
    return {
        **(_unknown(_decode_top(first)) if first else {}),
        "id": "chatcmpl-" + started.decision.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": started.model,
        "choices": [_choice(choice) for choice in collected(chunks)],
        "usage": usage_body(finished.receipt.usage),
        "pointsman": receipt_body(finished.receipt),
    }


def _unknown(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in _KNOWN}


def _unknown_of_a_choice(choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """An event that is sent on raw holds one choice."""
    (choice,) = choices
    return {key: value for key, value in choice.items() if key not in _KNOWN_OF_A_CHOICE}


def _choice(choice: Choice) -> dict[str, Any]:
    instead = "tool_calls" in choice.message or "refusal" in choice.message
    return {
        "index": choice.index,
        "message": {
            "role": "assistant",
            "content": (choice.content or None) if instead else choice.content,
            "refusal": None,
            **choice.message,
        },
        "finish_reason": choice.finish_reason or "stop",
        "logprobs": {"refusal": None, **choice.logprobs} if choice.logprobs else None,
        **(_unknown_of_a_choice(_decode_ended(choice.ended).choices) if choice.ended else {}),
    }


def usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def receipt_body(receipt: Receipt) -> dict[str, Any]:
    return {
        "path": receipt.decision.path.name,
        "kind": receipt.decision.path.kind.value,
        "cost_usd": receipt.cost_usd,
        "cost_parts_usd": receipt.cost_parts_usd,
        "seconds": receipt.rounded_seconds,
        "sources": [
            {"document_id": p.document_id, "title": p.title, "score": round(p.score, 4)} for p in receipt.sources
        ],
        "escalated_from": receipt.escalated_from,
        "cached": receipt.cached,
    }


def decision_body(decision: Decision, costs_usd: Mapping[str, float], prompt: Prompt | None) -> dict[str, Any]:
    """`costs_usd` by path: what the request is likely to cost there."""
    body: dict[str, Any] = {
        "id": decision.id,
        "task": decision.task,
        "confidence": decision.confidence,
        "path": decision.path.name,
        "kind": decision.path.kind.value,
        "reason": decision.reason,
        "stage": decision.stage,
        "margin": decision.margin,
        "familiarity": decision.familiarity,
        "notes": list(decision.notes),
        "considered": [{"path": c.path, "outcome": c.outcome, "reason": c.reason} for c in decision.considered],
        "probabilities": dict(decision.probabilities),
        "expected_cost_usd": decision.expected_cost_usd,
        "costs_usd": dict(costs_usd),
        "generation": decision.generation,
    }
    if prompt is not None:
        body["prompt"] = [{"role": m.role, "content": m.content, **m.extra} for m in prompt.messages]
    return body
