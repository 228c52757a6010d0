"""Reads `cache_control` (where Anthropic's prompt cache may end a cached prefix) in a message or content part of
chat completions.

OpenAI's API has no such field. OpenRouter and LiteLLM accept it at these places, so their clients send it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pointsman_gateway.domain.blocks import Block, Blocks, find_parts
from pointsman_gateway.http.fields import bad_parameter

Parts = Sequence[Mapping[str, Any]]


def blocks_of(
    role: str, parts: Parts | None, *, texts: Sequence[str | None], text: str, calls: int, of_message: Any, where: str
) -> Blocks:
    """Returns how a message is divided into content blocks, with the `cache_control` of each; empty if neither the
    message nor a part of it has a `cache_control`.

    `parts` are its content parts (None if the content is a string), and `texts` has the text of each, None for media.
    `text` is the message's whole text, `calls` the number of its tool calls, `of_message` the message's own
    `cache_control`, and `where` its location in the body. Raises InvalidArgument if a `cache_control` is not an object.
    """
    fields = [_cache_control(part, f"{where}.content[{number}]") for number, part in enumerate(parts or ())]
    own = _cache_control({"cache_control": of_message}, where)
    if not own and not any(fields):
        return ()
    if parts is None:
        texts, fields = [text], [{}]
    spans = iter(find_parts(text, [one for one in texts if one is not None]))
    of_content = [
        Block("media", given) if one is None else Block("text", given, *next(spans))
        for one, given in zip(texts, fields, strict=True)
    ]
    blocks = [*of_content, *[Block("tool_use")] * calls]
    if role in ("tool", "function"):
        blocks.insert(0, Block("tool_result", own))
    elif own and blocks:
        blocks[-1] = replace(blocks[-1], fields=own)
    return tuple(blocks)


def _cache_control(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    value = part.get("cache_control")
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise bad_parameter(f"{where}.cache_control must be an object", f"{where}.cache_control")
    return {"cache_control": value}
