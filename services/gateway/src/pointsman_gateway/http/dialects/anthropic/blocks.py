"""Keeps the fields of Anthropic's content blocks that OpenAI's chat messages cannot hold, for engines that have
Anthropic's API.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.codec.media import Part
from pointsman_gateway.domain.blocks import Block, BlockKind, Blocks, find_parts

Converted = tuple[Mapping[str, Any], Sequence[Part]]
"""A content block, and the content parts of the chat message to which it was converted."""

KEPT_FIELDS: Mapping[str, Mapping[str, type]] = {
    "text": {"cache_control": dict, "citations": list},
    "document": {"cache_control": dict, "citations": dict, "title": str, "context": str},
    "search_result": {"cache_control": dict, "citations": dict, "title": str, "source": str},
    "tool_result": {"cache_control": dict, "is_error": bool},
    "thinking": {"signature": str},
    "redacted_thinking": {"data": str},
}
"""The fields that are kept of each type of block, with their Python types."""
HINTS: Mapping[str, type] = {"cache_control": dict}
"""The fields that are kept of blocks whose type `KEPT_FIELDS` does not list, with their Python types."""
_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}


def lay_out(converted: Sequence[Converted], text: str, reasoning: str, where: str) -> Blocks:
    """Returns how a message's text and fields are divided into the content blocks that the client sent. Empty if the
    blocks can be made from the text and the fields without it.

    `converted` has the message's content blocks, each with the parts to which it was converted; of a tool result only
    the media. `text` and `reasoning` are those of the message. `where` is the content's location in the body, for
    errors. Raises InvalidArgument for a field of a wrong type.
    """
    laid_out: list[Block] = []
    spans = _spans(converted, text)
    thoughts = iter(find_parts(reasoning, [block["thinking"] for block, _ in converted if block["type"] == "thinking"]))
    for number, (block, parts) in enumerate(converted):
        place = f"{where}[{number}]"
        match block["type"]:
            case "tool_result":
                laid_out += [Block("moved_media") for _ in parts]
            case "tool_use":
                laid_out.append(Block("tool_use", _kept(block, place)))
            case "thinking":
                fields, span = _kept(block, place), next(thoughts)
                laid_out += [Block("thinking", fields, *span)] if fields else []  # others cannot be sent back
            case "redacted_thinking":
                laid_out.append(Block("whole", {"type": "redacted_thinking", **_kept(block, place)}))
            case _:
                laid_out += _content_blocks(block, parts, spans, place)
    return _if_needed(laid_out)


def lay_out_result(block: Mapping[str, Any], items: Sequence[Converted], text: str, where: str) -> Blocks:
    """Returns how the text of a tool's result is divided into the content blocks that the client sent. Empty if the
    blocks can be made from the text without it.

    `block` is the tool's result, `items` are the blocks of its content, and `text` is the text of the chat message to
    which it was converted. `where` is its location in the body, for errors. Raises InvalidArgument for a field of a
    wrong type.
    """
    laid_out = [Block("tool_result", _kept(block, where))]
    spans = _spans(items, text)
    for number, (item, parts) in enumerate(items):
        found = _content_blocks(item, parts, spans, f"{where}.content[{number}]")
        media = iter([part for part in parts if part["type"] != "text"])
        # The chat message of a result has no media; the block is the whole of them.
        laid_out += [_whole(one, next(media)) if one.kind == "media" else one for one in found]
    return _if_needed(laid_out)


def _spans(converted: Sequence[Converted], text: str) -> Iterator[tuple[int, int]]:
    """Returns an iterator over the start and end of each text part in `text`, which was joined from them."""
    return iter(find_parts(text, [part["text"] for _, parts in converted for part in parts if part["type"] == "text"]))


def _content_blocks(
    block: Mapping[str, Any], parts: Sequence[Part], spans: Iterator[tuple[int, int]], where: str
) -> list[Block]:
    """Returns the `Block`s of one text, medium, document or search result, and takes the spans of its texts from
    `spans`. The last `Block` has the kept fields, or else the one of kind "group". Raises InvalidArgument for a kept
    field of a wrong type.
    """
    content = _content_of(block)
    if content is not None:
        return _group(block, content, parts, spans, where)
    # The title and the context of a document are a line before it.
    kind: BlockKind = "repeated_text" if block["type"] == "document" else "text"
    found = [Block(kind, {}, *next(spans)) if part["type"] == "text" else Block("media") for part in parts]
    if found:
        found[-1] = replace(found[-1], fields=_kept(block, where))
        if found[-1].kind == "repeated_text":
            found[-1] = replace(found[-1], kind="document_text")
    return found


def _content_of(block: Mapping[str, Any]) -> Any:
    """Returns the content of a search result, or of a document that contains blocks; None for all other blocks."""
    if block["type"] == "search_result":
        return block["content"]
    if block["type"] == "document" and block["source"]["type"] == "content":
        return block["source"]["content"]
    return None


def _group(
    block: Mapping[str, Any], content: Any, parts: Sequence[Part], spans: Iterator[tuple[int, int]], where: str
) -> list[Block]:
    """Returns the `Block`s of a document or search result that contains blocks (`content`).

    `parts` are at most one part with its title, source or context, which its fields repeat, and then one part for each
    item of `content`. Raises InvalidArgument for a kept field of a wrong type.
    """
    items = content if isinstance(content, list) else [{"type": "text"}]
    found = [Block("repeated_text", {}, *next(spans)) for _ in parts[: len(parts) - len(items)]]
    required = {name: block[name] for name in ("title", "source")} if block["type"] == "search_result" else {}
    found.append(Block("group", {"type": block["type"], **_kept(block, where), **required}, members=len(items)))
    for number, (item, part) in enumerate(zip(items, parts[len(parts) - len(items) :], strict=True)):
        fields = _kept(item, f"{where}.content[{number}]")
        found.append(Block("text", fields, *next(spans)) if part["type"] == "text" else Block("media", fields))
    return found


def _whole(block: Block, part: Part) -> Block:
    """Converts a medium in a tool's result to a block with the data of `part`, which the chat message does not have."""
    kind, url = (
        ("image", part["image_url"]["url"]) if part["type"] == "image_url" else ("document", part["file"]["file_data"])
    )
    media_type, is_inline, data = url.removeprefix("data:").partition(";base64,")
    source = {"type": "base64", "media_type": media_type, "data": data} if is_inline else {"type": "url", "url": url}
    return Block("whole", {"type": kind, "source": source, **block.fields})


def _kept(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    kept = KEPT_FIELDS.get(block["type"], HINTS)
    return {name: _checked(name, block[name], kind, where) for name, kind in kept.items() if block.get(name)}


def _checked(name: str, value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        message, param = f"{where}.{name} must be {_TYPE_NAMES[kind]}", f"{where}.{name}"
        raise InvalidArgument(message, code="bad_parameter", param=param)
    return value


def _if_needed(blocks: Sequence[Block]) -> Blocks:
    is_needed = any(block.fields or block.kind == "moved_media" for block in blocks)
    return tuple(blocks) if is_needed else ()
