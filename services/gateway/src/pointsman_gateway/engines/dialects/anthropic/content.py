"""Converts chat messages to the turns of Anthropic's Messages API, which hold blocks of text, media and tool calls."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.codec.choices import ANTHROPIC_THINKING, ENCRYPTED, REASONING_KEYS, SIGNED
from pointsman_gateway.domain import Message
from pointsman_gateway.domain import blocks as domain
from pointsman_gateway.domain.blocks import slice_texts

Block = dict[str, Any]

PDF, PLAIN_TEXT = "application/pdf", "text/plain"


def to_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Returns the messages as alternating user and assistant turns in the format of Anthropic's Messages API.

    Consecutive messages that belong to the same turn are merged. A tool's result becomes part of a user turn; a
    message without text, media and tool calls is left out. Raises InvalidArgument for media that the API does not
    take, and for malformed tool calls.
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
    """Returns the content and the tool calls of one message as content blocks of Anthropic's Messages API.

    A message with a tool's result becomes one block. Raises InvalidArgument for media that the API does not take, and
    for malformed tool calls.
    """
    laid_out = _lay_out(message) if message.blocks else None
    if message.role in ("tool", "function"):
        return [_to_result(message, laid_out)]
    if laid_out is not None:
        return [*_to_thinking(message), *laid_out]
    blocks = [*_to_thinking(message), *_to_texts_and_media(message)]
    return [*blocks, *map(_to_tool_use, _calls(message))]


def _lay_out(message: Message) -> list[Block] | None:
    """Converts `message.blocks`, and what they refer to, to the API's format; None if the message's content has been
    replaced since the blocks were made. Raises InvalidArgument as `to_blocks` does.
    """
    extra = message.extra
    parts = list(extra.get("content") or ())
    texts = [part["text"] for part in parts if part["type"] == "text"] if parts else None
    if texts is None:
        texts = slice_texts(message.content, message.blocks)
    if texts is None:
        return None
    of_text, of_media, of_calls = (
        iter(texts),
        (part for part in parts if part["type"] != "text"),
        iter(_calls(message)),
    )
    into = laid_out = list[Block]()
    members = 0
    try:
        for block in message.blocks:
            into, members = (into, members - 1) if members else (laid_out, 0)
            match block.kind:
                case "text" | "document_text":
                    into += _laid_out_text(next(of_text), block)
                case "repeated_text":
                    next(of_text)
                case "media":
                    into.append({**_to_block(next(of_media)), **block.fields})
                case "moved_media":
                    next(of_media)
                case "tool_use":
                    into.append({**_to_tool_use(next(of_calls)), **block.fields})
                case "thinking":
                    thinking = extra.get("reasoning", "")[block.start : block.end]
                    into.append({"type": "thinking", "thinking": thinking, **block.fields})
                case "whole":
                    into.append(dict(block.fields))
                case "group":
                    group, into = _to_group(block)
                    laid_out.append(group)
                    members = block.members
    except StopIteration:
        return None
    left = [*of_text, *of_media, *of_calls]
    return None if left else laid_out


def _laid_out_text(text: str, block: domain.Block) -> list[Block]:
    if block.kind == "text":
        return [{**_to_text(text), **block.fields}] if text.strip() else []  # the API rejects empty ones
    source = {"type": "text", "media_type": PLAIN_TEXT, "data": text}
    return [{"type": "document", "source": source, **block.fields}]


def _to_group(block: domain.Block) -> tuple[Block, list[Block]]:
    """Returns a document or a search result as a block, and the empty list in the block that is to get its content."""
    content: list[Block] = []
    if block.fields["type"] == "document":
        return {**block.fields, "source": {"type": "content", "content": content}}, content
    return {**block.fields, "content": content}, content


def _to_thinking(message: Message) -> list[Block]:
    """Returns signed and encrypted thinking of an earlier answer, which chat clients repeat as `reasoning_details`."""
    details = message.extra.get("reasoning_details")
    if not isinstance(details, list) or message.role != "assistant":
        return []
    own = [d for d in details if isinstance(d, Mapping) and d.get("format") == ANTHROPIC_THINKING]
    signed = [detail for detail in own if detail.get("type") == SIGNED and isinstance(detail.get("signature"), str)]
    shown = next((text for key in REASONING_KEYS if isinstance(text := message.extra.get(key), str)), "")
    blocks: list[Block] = []
    for detail in own:
        if detail.get("type") == ENCRYPTED:
            blocks.append({"type": "redacted_thinking", "data": detail.get("data")})
        elif detail in signed:
            text = detail.get("text") or (shown if len(signed) == 1 else "")
            blocks.append({"type": "thinking", "thinking": text, "signature": detail["signature"]})
    return blocks


def _to_texts_and_media(message: Message) -> list[Block]:
    refusal = "" if message.content.strip() else message.extra.get("refusal")
    return [_to_text(refusal)] if isinstance(refusal, str) and refusal.strip() else _to_content(message)


def _to_content(message: Message) -> list[Block]:
    parts = message.extra.get("content")
    if parts is None:
        return [_to_text(message.content)] if message.content.strip() else []
    return [_to_block(part) for part in parts if part["type"] != "text" or part["text"].strip()]


def _to_text(text: str) -> Block:
    return {"type": "text", "text": text}


def _to_block(part: Mapping[str, Any]) -> Block:
    """Converts a content part of a chat; raises InvalidArgument for types and data that the API does not take."""
    match part["type"]:
        case "text":
            return _to_text(part["text"])
        case "image_url":
            return {"type": "image", "source": _to_source(part["image_url"]["url"], "image")}
        case "file":
            return _to_document(part["file"])
        case kind:
            raise _unsupported(f"takes text, images, PDF and plain text files, but no part of type '{kind}'")


def _to_document(file: Mapping[str, Any]) -> Block:
    data = file["file_data"]
    title = {"title": file["filename"]} if isinstance(file.get("filename"), str) and file["filename"] else {}
    return {"type": "document", **title, "source": _to_source(data, "file")}


def _to_source(url: str, kind: str) -> Block:
    """Converts a URL, or the data in a `data:` URL, to the source of a block. `kind` is "image" or "file".

    Raises InvalidArgument for a file that is not given as data, for data that is not marked as base64, and for types of
    files that the API does not take. The types of images are not checked.
    """
    if url[:5].lower() != "data:":
        if kind == "image":
            return {"type": "url", "url": url}
        raise _unsupported('takes files only as data: send the data of a file as a "data:" URL')
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


def _to_result(message: Message, laid_out: list[Block] | None) -> Block:
    call_id = message.extra.get("tool_call_id") or message.extra.get("name", "")
    result: Block = {"type": "tool_result", "tool_use_id": call_id}
    if laid_out is not None:
        result["content"] = laid_out
    else:
        result["content"] = message.content if message.extra.get("content") is None else _to_content(message)
    for block in message.blocks:
        if block.kind == "tool_result":
            result |= block.fields
    return result


def _calls(message: Message) -> list[Mapping[str, Any]]:
    """Returns the message's tool calls, including a `function_call` (the older form), whose name becomes its id.

    Raises InvalidArgument unless `tool_calls` is a list of objects.
    """
    given = message.extra.get("tool_calls") or []
    if not isinstance(given, list) or not all(map(_is_call, given)):
        raise InvalidArgument(
            "a message's 'tool_calls' must be a list of objects, each with an object 'function'",
            code="bad_parameter",
            param="messages",
        )
    calls: list[Mapping[str, Any]] = list(given)
    older = message.extra.get("function_call")
    if isinstance(older, Mapping):
        calls.append({"id": older.get("name", ""), "function": older})
    return calls


def _is_call(call: Any) -> bool:
    return isinstance(call, Mapping) and isinstance(call.get("function", {}), Mapping)


def _to_tool_use(call: Mapping[str, Any]) -> Block:
    function = call.get("function", {})
    return {
        "type": "tool_use",
        "id": call.get("id", ""),
        "name": function.get("name", ""),
        "input": _to_input(function.get("arguments")),
    }


def _to_input(arguments: Any) -> dict[str, Any]:
    """Returns a tool call's arguments as an object: {"arguments": TEXT} if they are no JSON object."""
    try:
        decoded = msgspec.json.decode(arguments or "{}") if isinstance(arguments, str) else arguments
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        decoded = None
    return decoded if isinstance(decoded, dict) else {"arguments": arguments}
