"""The content blocks of a message in Anthropic's format, for engines that have this format too.

Every engine gets a message's text, media and tool calls, which are stored with the message. Blocks refer to these by
position, and add what only Anthropic's format has, such as `cache_control` and the signature of thinking. Blocks have
no copy of the message's text, so a text that a guardrail has redacted is redacted for every engine.
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

text           a part of the message's text
document_text  a part of the message's text that is the source of a document
repeated_text  a part of the message's text that the fields of a following block repeat, such as a document's title
media          the message's next image or file
moved_media    the message's next image or file, which belongs to a tool's result and not to this message
tool_use       the message's next tool call
tool_result    the message itself, which is a tool's result; the blocks after this one are the result's content
thinking       a part of the message's `reasoning`
whole          nothing: `fields` are the whole block
group          nothing: `fields` are a block whose content is the next `members` blocks
"""

MAX_LINE_BREAKS = 2
"""Maximum number of characters, usually line breaks, that `find_parts` skips one by one before it searches the whole
text for the next part.
"""

Move = Callable[[int], int]
"""Function that takes a position in a message's original text and returns the position in the changed text, both in
characters.
"""


@dataclass(frozen=True, slots=True)
class Block:
    """One content block of a message in Anthropic's format. It refers to a part of the message instead of copying it.

    `kind` says which part: for example a range of the text, or the next image or tool call.
    """

    kind: BlockKind
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The block's fields that the message does not have; for "whole" and "group" all fields of the block."""
    start: int = 0
    """The position at which the part of the text begins to which the block refers; `end` is the position at which the
    part ends. Both are counted in characters, for "thinking" in the message's reasoning, otherwise in the message's
    text.
    """
    end: int = 0
    members: int = 0
    """For "group": how many of the blocks after this block are this block's content."""

    @property
    def is_text(self) -> bool:
        """Returns whether the block refers to a part of the message's text."""
        return self.kind in ("text", "document_text", "repeated_text")


Blocks = tuple[Block, ...]


def move_texts(blocks: Blocks, move: Move) -> Blocks:
    """Returns the blocks of a message after its text was changed, so that they refer to positions in the changed text.

    `move` converts a position in the original text, in characters, to the position in the changed text. Blocks that do
    not refer to the text are returned unchanged.
    """
    return tuple([replace(b, start=move(b.start), end=move(b.end)) if b.is_text else b for b in blocks])


def join_blocks(pieces: Sequence[tuple[str, Blocks]], separator: str) -> Blocks:
    """Joins the blocks of several texts into the blocks of one text.

    `pieces` are (text, blocks of this text) pairs, and the one text is made by joining the texts with `separator`. A
    text without blocks becomes one block of the kind "text". There must be no block of the kind "thinking", since its
    positions are not in the text.
    """
    joined: list[Block] = []
    offset = 0
    for text, blocks in pieces:
        own = blocks or (Block("text", start=0, end=len(text)),)
        joined += [replace(block, start=block.start + offset, end=block.end + offset) for block in own]
        offset += len(text) + len(separator)
    return tuple(joined)


def find_parts(text: str, parts: Sequence[str]) -> list[tuple[int, int]]:
    """Returns the (start, end) of each of `parts` in `text`, in characters; `text` must contain the parts in their
    order.

    There may be other text between two parts, such as line breaks. Each part is taken where it first occurs after the
    part before it.
    """
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
    """Returns the parts of a message's text to which its blocks refer, in the order of the blocks.

    Blocks that do not refer to the text are skipped. Returns None if the text was replaced after the blocks were made:
    the text blocks overlap, are out of order, or do not cover the text except white space.
    """
    slices, position = [], 0
    for block in blocks:
        if block.is_text:
            if block.start < position or block.end < block.start or text[position : block.start].strip():
                return None
            slices.append(text[block.start : block.end])
            position = block.end
    return None if text[position:].strip() else slices
