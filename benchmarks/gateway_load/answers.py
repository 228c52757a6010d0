"""The mock engine's answers, in vLLM's format."""

import json
from typing import Any

IDENTITY = {"id": "chatcmpl-8f2b6c1d9e3a4f5b8c7d6e5f4a3b2c1d", "created": 1764000000, "model": "mock"}
USAGE = {"prompt_tokens": 58, "total_tokens": 67, "completion_tokens": 9}
WORDS = ("Your", " ticket", " is", " valid", " until", " the", " next", " morning")
TICK = " tick"
"""The content of each chunk of a paced stream; clients count its occurrences."""
DONE = b"data: [DONE]\n\n"


def plain() -> bytes:
    """Returns a complete answer, about 250 bytes of JSON."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "".join(WORDS)}, "finish_reason": "stop"}
    return _written({**IDENTITY, "object": "chat.completion", "choices": [choice], "usage": USAGE})


def role() -> bytes:
    return _event(
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}],
        {"prompt_token_ids": None},
    )


def content(text: str) -> bytes:
    return _event([{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}])


def finish() -> bytes:
    choice = {"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    return _event([choice])


def usage() -> bytes:
    return _event([], {"usage": USAGE})


def stream() -> bytes:
    """Returns an answer as a complete stream: role, eight chunks, finish, usage, [DONE]."""
    return b"".join([role(), *map(content, WORDS), finish(), usage(), DONE])


def _event(choices: list[dict[str, Any]], more: dict[str, Any] | None = None) -> bytes:
    chunk = {**IDENTITY, "object": "chat.completion.chunk", "choices": choices, **(more or {})}
    return b"data: " + _written(chunk) + b"\n\n"


def _written(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()
