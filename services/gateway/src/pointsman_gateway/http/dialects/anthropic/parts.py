"""Converts content blocks of Anthropic's Messages API to content parts of chat completions."""

from collections.abc import Iterable, Mapping
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.codec.media import Part, reject_unknown_fields, to_media_part
from pointsman_gateway.codec.parts import join_texts
from pointsman_gateway.http.fields import bad_parameter, string_in

Block = Mapping[str, Any]

_NO_FIELDS: Mapping[str, Any] = {}


def to_parts(block: Any, where: str) -> list[Part]:
    """Converts one content block (a text, an image, a document or a search result) to content parts of chat
    completions.

    `where` is the block's location in the body, such as "messages[0].content[1]", for errors. Raises InvalidArgument
    for a block of another type, and for a field that is missing or wrong.
    """
    block = block if isinstance(block, dict) else _NO_FIELDS
    source = block.get("source")
    source = source if isinstance(source, dict) else _NO_FIELDS
    match block.get("type"), source.get("type"):
        case "text", _:
            return [_text(block.get("text"), block, where)]
        case "image", "base64" | "url":
            return [to_media_part("image_url", {"url": _to_url(source, f"{where}.source")}, where)]
        case "document", _:
            return _to_document(block, source, where)
        case "search_result", _:
            head = [string_in(block, "title", where), string_in(block, "source", where)]
            return _head(head) + _to_texts(block.get("content"), f"{where}.content")
        case "container_upload", _:
            raise _unsupported(
                f"{where} has type 'container_upload'; the gateway runs no code and keeps no files", where
            )
    raise _unknown(block, source, where)


def _to_document(block: Block, source: Block, where: str) -> list[Part]:
    """Converts a document to a text part with its title and context, followed by the parts of its source.

    The source is a file, a text, or blocks; the title of a file becomes the file's name instead. Raises InvalidArgument
    for another source, and for a field that is missing or wrong.
    """
    title, context = _optional_text(block, "title", where), _optional_text(block, "context", where)
    match source.get("type"):
        case "base64" | "url":
            file = {"filename": title or "document", "file_data": _to_url(source, f"{where}.source")}
            return [*_head([context]), to_media_part("file", file, where)]
        case "text":
            return [*_head([title, context]), _text(source.get("data"), block, where)]
        case "content":
            return _head([title, context]) + _to_texts(source.get("content"), f"{where}.source.content")
    raise _unknown(block, source, where)


def _to_texts(content: Any, where: str) -> list[Part]:
    """Converts the content of a document or a search result: a string, or a list of text and image blocks.

    Raises InvalidArgument for anything else.
    """
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise bad_parameter(f"{where} is neither a text nor a list of blocks", where)
    parts: list[Part] = []
    for number, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in ("text", "image"):
            message = f'{where}[{number}] has type {str(kind)[:50]!r}; known: "text" and "image"'
            raise _unsupported(message, f"{where}[{number}]")
        parts += to_parts(block, f"{where}[{number}]")
    return parts


def _head(lines: Iterable[str]) -> list[Part]:
    text = join_texts([line for line in lines if line])
    return [{"type": "text", "text": text}] if text else []


def _optional_text(block: Block, name: str, where: str) -> str:
    return "" if block.get(name) is None else string_in(block, name, where)


def _text(text: Any, block: Block, where: str) -> Part:
    if not isinstance(text, str):
        raise _unknown(block, _NO_FIELDS, where)
    return {"type": "text", "text": text}


def _to_url(source: Block, where: str) -> str:
    """Returns the URL of a source of type "url", or a `data:` URL with the data of a "base64" source.

    Raises InvalidArgument for a field that is missing, unknown or not a string.
    """
    if source["type"] == "url":
        reject_unknown_fields(source, ("type", "url"), where)
        return string_in(source, "url", where)
    reject_unknown_fields(source, ("type", "media_type", "data"), where)
    return f"data:{string_in(source, 'media_type', where)};base64,{string_in(source, 'data', where)}"


def _unknown(block: Block, source: Block, where: str) -> InvalidArgument:
    if source.get("type") == "file":
        return _unsupported(f'{where} names a file; no files are kept, so send its data with a "base64" source', where)
    return _unsupported(
        f"{where} has type {str(block.get('type'))[:50]!r}, which is not known here, or is incomplete; known: "
        '"text", "image" (base64, url), "document" (base64, url, text, content) and "search_result", from a user also '
        '"tool_result", from an assistant "tool_use" and "thinking"',
        where,
    )


def _unsupported(message: str, where: str) -> InvalidArgument:
    return InvalidArgument(message, code="unsupported_content", param=where)
