"""The content blocks of a message in Anthropic's format, for engines that have this format too.

A message has its text, media and tool calls in the common form, which every engine gets. Its blocks refer to them, and
add what the common form has no place for, such as `cache_control` and the signature of thinking. They hold no copy of a
text that the message has, so that a text which a guardrail has redacted is redacted for every engine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

BlockKind = Literal[
    "text",
    "document_text",
    "repeated_text",
    "media",
    "moved_media",
    "tool_use",
    "tool_result",
    "thinking",
    "whole",
    "group",
]
"""What a block refers to:

text, document_text  a part of the message's text; a document has it as its source
repeated_text        a part of the message's text that the next block's fields say too, as a document's title
media                the message's next image or file
moved_media          the next one too, which is part of a tool's result and not of this message
tool_use             the message's next tool call
tool_result          the message itself, which is a result; the blocks after it are its content
thinking             a part of the message's `reasoning`
whole                nothing: its fields are the whole block
group                nothing: its fields are a block whose content is the next blocks, as many as its `members`
"""

MAX_LINE_BREAKS = 2
"""Between the parts of a text that were joined."""

Move = Callable[[int], int]
"""Returns the position in a changed text for one in the original text."""


@dataclass(frozen=True, slots=True)
class Block:
    """One content block, which refers to a part of its message."""

    kind: BlockKind
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Its fields in addition to type, text, source, call and thinking."""
    start: int = 0
    """Of the part of the text, or of the reasoning, that is the block's."""
    end: int = 0
    members: int = 0

    @property
    def is_text(self) -> bool:
        """Returns whether it refers to a part of the message's text."""
        return self.kind in ("text", "document_text", "repeated_text")


Blocks = tuple[Block, ...]


def move_texts(blocks: Blocks, move: Move) -> Blocks:
    """Returns the blocks after their message's text has changed; `move` converts positions in the text to the
    new ones.
    """
    return tuple([replace(b, start=move(b.start), end=move(b.end)) if b.is_text else b for b in blocks])


def join_blocks(pieces: Sequence[tuple[str, Blocks]], separator: str) -> Blocks:
    """Returns the blocks of (text, blocks) pairs whose texts were joined; a text without blocks becomes a block."""
    joined: list[Block] = []
    offset = 0
    for text, blocks in pieces:
        own = blocks or (Block("text", start=0, end=len(text)),)
        joined += [replace(block, start=block.start + offset, end=block.end + offset) for block in own]
        offset += len(text) + len(separator)
    return tuple(joined)


def find_parts(text: str, parts: Sequence[str]) -> list[tuple[int, int]]:
    """Returns the start and end of each part in the text that was joined of them, with or without line breaks."""
    spans, position = [], 0
    for part in parts:
        start = position
        # Comparing takes less than searching, which first prepares a table of a long part.
        while not text.startswith(part, start) and start < position + MAX_LINE_BREAKS:
            start += 1
        if not text.startswith(part, start):
            start = text.find(part, position)
        position = start + len(part)
        spans.append((start, position))
    return spans


def slice_texts(text: str, blocks: Blocks) -> list[str] | None:
    """Returns the texts of the blocks that refer to a part of the text, in order.

    None if the blocks do not cover the text, because it was replaced after they were made.
    """
    slices, position = [], 0
    for block in blocks:
        if block.is_text:
            if block.start < position or block.end < block.start or text[position : block.start].strip():
                return None
            slices.append(text[block.start : block.end])
            position = block.end
    return None if text[position:].strip() else slices
