"""Validates answers strictly against the types of the installed `anthropic` package, as `openai_shapes` does."""

from collections.abc import Mapping
from typing import Any, cast

import httpx
from anthropic.types import ErrorResponse, Message, MessageTokensCount, RawMessageStreamEvent

from tests.gateway.doubles.openai_shapes import checked, events

REQUIRED = ("stop_reason", "stop_sequence")
"""Fields of a message that are required but may be null; the package's types do not say so."""


def message(data: Any) -> Message:
    assert data.keys() >= set(REQUIRED)
    return cast(Message, checked(Message, data))


def stream(text: str) -> list[Any]:
    """Returns the validated data of a stream's events; in the text, each event is preceded by its name."""
    found = events(text)
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in found]
    return [event if event["type"] in ("ping", "error") else checked(RawMessageStreamEvent, event) for event in found]


def token_count(data: Any) -> MessageTokensCount:
    return cast(MessageTokensCount, checked(MessageTokensCount, data))


def error(answer: httpx.Response) -> Mapping[str, Any]:
    """Validates an error body, and returns its error."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["type"] == "error"
    error: dict[str, Any] = body["error"]
    if error["type"] != "request_too_large":  # documented, but not among the types
        ErrorResponse.model_validate_json(answer.text, strict=True)
    assert error.keys() - {"details"} == {"type", "message", "code", "param"}
    assert error["message"]
    return error


_JOINED = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


def joined(text: str) -> dict[str, Any]:
    """Returns the message that the events of a stream add up to, without the arguments of tools."""
    stream(text)
    received: dict[str, Any] = {}
    for event in events(text):
        match event["type"]:
            case "message_start":
                received = dict(event["message"])
            case "content_block_start":
                received["content"].append(event["content_block"])
            case "content_block_delta":
                block, delta = received["content"][event["index"]], event["delta"]
                if delta["type"] == "citations_delta":
                    block.setdefault("citations", []).append(delta["citation"])
                elif delta["type"] in _JOINED:
                    name = _JOINED[delta["type"]]
                    block[name] = block.get(name, "") + delta[name]
            case "message_delta":
                received |= event["delta"]
    return received
