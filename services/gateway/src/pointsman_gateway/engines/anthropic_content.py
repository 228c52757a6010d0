"""Converts the messages of a chat to turns of Anthropic's Messages API: content blocks of text, media and tools."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.domain import Message

Block = dict[str, Any]

PDF, PLAIN_TEXT = "application/pdf", "text/plain"


def to_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Merges messages into alternating user and assistant turns, as Anthropic requires. A result of a tool is part of a
    user turn. Raises InvalidArgument for media that the API does not take.
    """
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = to_blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def to_blocks(message: Message) -> list[Block]:
    """Converts the content and the tool calls of one message; raises InvalidArgument."""
    if message.role in ("tool", "function"):
        return [_to_result(message)]
    refusal = "" if message.content.strip() else message.extra.get("refusal")
    blocks = [_to_text(refusal)] if isinstance(refusal, str) and refusal.strip() else _to_content(message)
    return [*blocks, *map(_to_tool_use, _calls(message))]


def _to_content(message: Message) -> list[Block]:
    parts = message.extra.get("content")
    if parts is None:
        return [_to_text(message.content)] if message.content.strip() else []
    return [_to_block(part) for part in parts if part["type"] != "text" or part["text"].strip()]


def _to_text(text: str) -> Block:
    return {"type": "text", "text": text}


def _to_block(part: Mapping[str, Any]) -> Block:
    """Converts a content part of a chat; raises InvalidArgument."""
    match part["type"]:
        case "text":
            return _to_text(part["text"])
        case "image_url":
            return {"type": "image", "source": _to_source(part["image_url"]["url"], "image")}
        case "file":
            return _to_document(part["file"])
        case kind:
            raise _unsupported(f"takes text, images, PDF and plain text, and no part of type '{kind}'")


def _to_document(file: Mapping[str, Any]) -> Block:
    data = file["file_data"]
    title = {"title": file["filename"]} if isinstance(file.get("filename"), str) and file["filename"] else {}
    return {"type": "document", **title, "source": _to_source(data, "file")}


def _to_source(url: str, kind: str) -> Block:
    """Converts a URL, or the data in a `data:` URL, to the source of a block."""
    if url[:5].lower() != "data:":
        if kind == "image":
            return {"type": "url", "url": url}
        raise _unsupported('takes the data of a file as a "data:" URL')
    described, comma, data = url[5:].partition(",")
    media_type, _, encoding = described.partition(";")
    if not comma or encoding.rpartition(";")[2].strip().lower() != "base64":
        raise _unsupported(f'takes an {kind} in base64: "data:TYPE;base64,DATA"'.replace("an file", "a file"))
    media_type = media_type.strip().lower()
    if kind == "file" and media_type == PLAIN_TEXT:
        return {"type": "text", "media_type": PLAIN_TEXT, "data": _decode_text(data)}
    if kind == "file" and media_type != PDF:
        raise _unsupported(f"takes files of the types {PDF} and {PLAIN_TEXT}, and no '{media_type[:100]}'")
    return {"type": "base64", "media_type": media_type, "data": data}


def _decode_text(data: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _unsupported(f"takes a {PLAIN_TEXT} file in UTF-8 and base64: {error}") from error


def _unsupported(what: str) -> InvalidArgument:
    return InvalidArgument(f"this model {what}", code="unsupported_content", param="messages")


# -- tools


def _to_result(message: Message) -> Block:
    call_id = message.extra.get("tool_call_id") or message.extra.get("name", "")
    content = message.content if message.extra.get("content") is None else _to_content(message)
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def _calls(message: Message) -> list[Mapping[str, Any]]:
    """Returns the message's tool calls; a call of the older form has its name as id, as its result has."""
    calls = list(message.extra.get("tool_calls") or ())
    older = message.extra.get("function_call")
    if isinstance(older, Mapping):
        calls.append({"id": older.get("name", ""), "function": older})
    return calls


def _to_tool_use(call: Mapping[str, Any]) -> Block:
    function = call.get("function", {})
    return {
        "type": "tool_use",
        "id": call.get("id", ""),
        "name": function.get("name", ""),
        "input": _to_input(function.get("arguments")),
    }


def _to_input(arguments: Any) -> dict[str, Any]:
    """Returns a tool call's arguments as an object. Text that is not a JSON object becomes its only field."""
    try:
        decoded = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
    except ValueError:
        decoded = None
    return decoded if isinstance(decoded, dict) else {"arguments": arguments}
