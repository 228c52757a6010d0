"""Well-formed answers of engines in each dialect: events and objects, which the fuzzer changes at random."""

import json
from collections.abc import Sequence
from typing import Any

from tests.gateway.doubles.engine import chunk, embedded, reranked, text_chunk, usage
from tests.gateway.doubles.raw_engine import HEAD, LAST, in_chunks

Event = dict[str, Any]

TOOL_CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": '}}
MORE_ARGUMENTS = {"index": 0, "function": {"arguments": '"Oslo"}'}}
LOGPROBS = {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}]}

CHAT: Sequence[Event] = (
    chunk("", role="assistant"),
    chunk("Hello"),
    chunk(" there", logprobs=LOGPROBS),
    chunk(None, reasoning_content="I think"),
    chunk(None, tool_calls=[TOOL_CALL]),
    chunk(None, tool_calls=[MORE_ARGUMENTS]),
    chunk(None, refusal="no"),
    chunk(None, reasoning_details=[{"type": "reasoning.text", "signature": "s", "format": "anthropic-claude-v1"}]),
    chunk(None, citations=[{"type": "char_location", "cited_text": "a"}]),
    chunk("", finish="stop"),
    usage(),
)
COMPLETION: Sequence[Event] = (text_chunk("Hello"), text_chunk(" there", finish="stop"), usage())


def _block(index: int, kind: str, *deltas: Event, **more: Any) -> list[Event]:
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


_STARTED = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "content": [],
    "model": "claude",
    "usage": {"input_tokens": 10, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 1},
}
MESSAGES: Sequence[Event] = (
    {"type": "message_start", "message": _STARTED},
    {"type": "ping"},
    *_block(
        0,
        "thinking",
        {"type": "thinking_delta", "thinking": "I think"},
        {"type": "signature_delta", "signature": "s"},
        thinking="",
        signature="",
    ),
    *_block(1, "text", {"type": "text_delta", "text": "Hello"}, {"type": "text_delta", "text": " there"}, text=""),
    *_block(
        2,
        "tool_use",
        {"type": "input_json_delta", "partial_json": '{"city": "Oslo"}'},
        id="toolu_01",
        name="weather",
        input={},
    ),
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 9},
    },
    {"type": "message_stop"},
)
ERROR: Event = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "Overloaded", "code": 529, "param": None},
}
"""The error event of both dialects."""

EMBEDDINGS: Event = json.loads(embedded({"model": "remote", "input": ["Hello", "there"]}))
RERANKING: Event = json.loads(reranked({"model": "reranker", "documents": ["Hello", "there"]}))


def streamed(events: Sequence[Any]) -> bytes:
    """Encodes events as a stream in OpenAI's format; `events` includes the last one."""
    return b"".join(map(_event, events)) + b"data: [DONE]\n\n"


def named(events: Sequence[Any]) -> bytes:
    """Encodes events as a stream in Anthropic's format, in which a line before each event names it."""
    return b"".join(b"event: %b\n%b" % (_name_of(one), _event(one)) for one in events)


def _event(one: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(one).encode()  # in ASCII, since it may have half of a character


def _name_of(one: Any) -> bytes:
    name = one.get("type") if isinstance(one, dict) else None
    return name.encode("utf-8", "replace") if isinstance(name, str) else b"message"


def json_answer(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status.encode(),
        len(body),
        body,
    )


def well_formed(request: bytes) -> list[bytes]:
    """Returns the answer to a request; its path determines the dialect."""
    path = request.split(b" ", 2)[1]
    if path.endswith(b"/embeddings"):
        return [json_answer(embedded(json.loads(request.partition(b"\r\n\r\n")[2])))]
    if path.endswith(b"/rerank"):
        return [json_answer(reranked(json.loads(request.partition(b"\r\n\r\n")[2])))]
    if path.endswith(b"/count_tokens"):
        return [json_answer(b'{"input_tokens": 7}')]
    if path.endswith(b"/messages"):
        return [HEAD, in_chunks([named(MESSAGES)]), LAST]
    events = COMPLETION if path.endswith(b"/completions") and b"/chat/" not in path else CHAT
    return [HEAD, in_chunks([streamed(events)]), LAST]
