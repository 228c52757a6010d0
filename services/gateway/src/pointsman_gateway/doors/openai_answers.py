"""OpenAI's answers, chunks and errors, encoded."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import Chunk, Chunks, Decision, Finished, Prompt, Receipt, Started, Usage


def decision_headers(started: Started) -> dict[str, str]:
    decision = started.decision
    return {
        "x-pointsman-decision-id": decision.id,
        "x-pointsman-task": decision.task,
        "x-pointsman-path": decision.path.name,
        "x-pointsman-kind": decision.path.kind.value,
        "x-pointsman-confidence": f"{decision.confidence:.4f}",
        "x-pointsman-reason": decision.reason,
        "x-pointsman-overhead-ms": f"{started.overhead_seconds * 1000:.2f}",
        **({"x-pointsman-cache": started.cached} if started.cached else {}),
    }


def cost_header(receipt: Receipt) -> dict[str, str]:
    return {"x-pointsman-cost-usd": f"{receipt.cost_usd:.9f}"}


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


def to_json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def to_event(data: Any) -> bytes:
    return b"data: " + to_json(data) + b"\n\n"


class ChatEncoder:
    """`chat.completion` and its chunks; each choice's first one carries the role. Implements `Encoder`."""

    def __init__(self, include_usage: bool) -> None:
        """`include_usage`: whether a stream ends with a chunk that has the usage."""
        self._include_usage = include_usage
        self._head: dict[str, Any] = {}
        self._begun: set[int] = set()

    def begun(self, started: Started) -> bytes:
        self._head = {
            "id": "chatcmpl-" + started.decision.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": started.model,
        }
        return b""

    def chunks(self, chunks: Chunks) -> bytes:
        return b"".join(to_event(self._chunk(chunk)) for chunk in chunks)

    def finished(self, finished: Finished) -> bytes:
        return (to_event(self._usage(finished)) if self._include_usage else b"") + DONE

    def failed(self, error: PointsmanError) -> bytes:
        return to_event(error_body(error))

    def whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        return to_json(completion(started, chunks, finished))

    def _chunk(self, chunk: Chunk) -> dict[str, Any]:
        delta: dict[str, Any] = {"content": chunk.content} if chunk.content else {}
        if chunk.index not in self._begun:
            self._begun.add(chunk.index)
            delta = {"role": "assistant", **delta}
        delta.update(chunk.extra.get("delta", {}))
        choice: dict[str, Any] = {"index": chunk.index, "delta": delta, "finish_reason": chunk.finish_reason}
        if "logprobs" in chunk.extra:
            choice["logprobs"] = chunk.extra["logprobs"]
        return {**self._head, "choices": [choice]}

    def _usage(self, finished: Finished) -> dict[str, Any]:
        """The chunk that `stream_options.include_usage` asks for; "pointsman" beside it is ours."""
        receipt = finished.receipt
        return {**self._head, "choices": [], "usage": usage_body(receipt.usage), "pointsman": receipt_body(receipt)}


def completion(started: Started, chunks: Iterable[Chunk], finished: Finished) -> dict[str, Any]:
    """A plain answer: the stream, collected."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        _collect(choices.setdefault(chunk.index, _empty_choice(chunk.index)), chunk)
    for message in (choice["message"] for choice in choices.values()):
        if "tool_calls" in message:
            message["content"] = message["content"] or None
    return {
        "id": "chatcmpl-" + started.decision.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": started.model,
        "choices": [choices[index] for index in sorted(choices)],
        "usage": usage_body(finished.receipt.usage),
        "pointsman": receipt_body(finished.receipt),
    }


def _empty_choice(index: int) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None}


def _collect(choice: dict[str, Any], chunk: Chunk) -> None:
    message = choice["message"]
    message["content"] += chunk.content
    for key, value in chunk.extra.get("delta", {}).items():
        if key == "tool_calls":
            _collect_tool_calls(message.setdefault("tool_calls", []), value)
        elif isinstance(value, str):
            message[key] = message.get(key, "") + value
        else:
            message[key] = value
    logprobs = chunk.extra.get("logprobs")
    if logprobs:
        gathered = choice["logprobs"] or {"content": []}
        gathered["content"] = gathered["content"] + (logprobs.get("content") or [])
        choice["logprobs"] = gathered
    choice["finish_reason"] = chunk.finish_reason or choice["finish_reason"]


def _collect_tool_calls(gathered: list[dict[str, Any]], pieces: Iterable[Mapping[str, Any]]) -> None:
    for piece in pieces:
        while len(gathered) <= piece["index"]:
            gathered.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        call, function = gathered[piece["index"]], piece.get("function") or {}
        call["id"] = piece.get("id") or call["id"]
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""


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
        "cost_parts_usd": dict(receipt.cost_parts_usd),
        "seconds": {phase: round(seconds, 6) for phase, seconds in receipt.seconds.items()},
        "sources": [
            {"document_id": p.document_id, "title": p.title, "score": round(p.score, 4)} for p in receipt.sources
        ],
        "escalated_from": receipt.escalated_from,
        "cached": receipt.cached,
    }


def decision_body(decision: Decision, prompt: Prompt | None) -> dict[str, Any]:
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
        "generation": decision.generation,
    }
    if prompt is not None:
        body["prompt"] = [{"role": m.role, "content": m.content, **m.extra} for m in prompt.messages]
    return body
