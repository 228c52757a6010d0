"""Which Markdown headings a place in a text stands under."""

import re
from bisect import bisect_left
from dataclasses import dataclass
from itertools import islice, pairwise

from markdown_it import MarkdownIt

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Heading:
    start: int  # offsets in the text, in characters
    end: int  # where the line after it begins
    level: int  # 1 to 6
    title: str


def find_headings(text: str) -> list[Heading]:
    """The headings in their order; those inside quotes and lists are part of these, not of the outline."""
    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])  # the blocks alone: nothing inside a line is needed
    tokens = parser.parse(text)
    lines = [0, *(end.end() for end in _LINE_END.finditer(text)), len(text)]
    return [
        Heading(lines[opening.map[0]], lines[opening.map[1]], int(opening.tag[1]), inline.content.strip())
        for opening, inline in pairwise(tokens)
        if opening.type == "heading_open" and opening.level == 0 and opening.map
    ]


def titles_above(headings: list[Heading], starts: list[int]) -> list[tuple[str, ...]]:
    """For each of the ascending offsets the titles above it, outermost first, its own heading not among them."""
    above: list[tuple[str, ...]] = []
    path: list[Heading] = []
    following = 0
    for start in starts:
        while following < len(headings) and headings[following].start < start:
            path = [*_above_level(path, headings[following].level), headings[following]]
            following += 1
        opens_here = following < len(headings) and headings[following].start == start
        here = _above_level(path, headings[following].level) if opens_here else path
        above.append(tuple(heading.title for heading in here))
    return above


def contains_only_headings(text: str, headings: list[Heading], start: int, end: int) -> bool:
    """Whether `text[start:end]` is one heading or several, with nothing under them."""
    first = bisect_left(headings, start, key=lambda heading: heading.start)
    reached = start
    for heading in islice(headings, first, None):
        if heading.start >= end or text[reached : heading.start].strip():
            break
        reached = heading.end
    return reached > start and not text[reached:end].strip()


def _above_level(path: list[Heading], level: int) -> list[Heading]:
    return [heading for heading in path if heading.level < level]
