"""Splits a text into blocks, at tags, headings, horizontal lines, blank lines and labels on lines of their own.

The names of tags, headings and labels show who wrote the blocks: the user or others.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from itertools import islice

from pointsman_gateway.classification.authors import Author, author_of, within
from pointsman_gateway.classification.chat_log import TIME
from pointsman_gateway.classification.html_text import OTHERS_TAG
from pointsman_gateway.classification.wrappers import labels_file

MAX_BOUNDARIES = 400
MAX_PAIRED = 40

BEFORE_LABEL = r"[ \t>*-]{0,20}(?:[^\w\s\x00-\x7f]{1,4}[ \t]{1,4})?"
_BOUNDARY = re.compile(
    r"^<(?P<section>[A-Z][\w-]{0,30}(?: [\w-]{1,30}){1,4})>[ \t]{0,20}$"
    r"|<(?P<close>/?)(?P<tag>[A-Za-z_][\w.:-]{0,60})(?:\s[^<>]{0,200})?>"
    r"|<\|[^|<>\n]{1,40}\|>"
    r"|^[ \t]{0,20}(?:[-=*_~#]{3,80}(?:[ \t](?P<ruled>.{1,60})[ \t][-=*_~#]{3,80})?[ \t]{0,20}"
    r"|`{3}[\w.+-]{0,20}[ \t]{0,20})$"
    r"|`{3}"
    r"|^[#=]{1,6}[ \t]+(?P<heading>.*)$"
    r"|^[ \t]{0,20}\[{1,2}[ \t#]{0,4}(?P<bracketed>[^\W\d][^\[\]\n]{0,160}?)[ \t#]{0,4}\]{1,2}:?[ \t]{0,20}$"
    rf"|^{BEFORE_LABEL}"
    r"(?P<label>[^\W\d_][^\n:：.?!]{0,40}?)[ \t*]{0,4}[:：][ \t*]{0,20}(?:[|>][+-]?[ \t]{0,20})?$"
    rf"|^(?P<speaker>[A-Za-z][^\n:.?!]{{0,30}}?)[ \t]{{1,20}}{TIME}[ \t]{{0,20}}$"
    r"|^(?P<underlined>[^\W\d_][\w-]{0,20}(?: [\w-]{1,20}){0,2})\n[=~-]{3,80}[ \t]{0,20}$"
    r"|^(?P<capitals>[A-Z][A-Z_ ]{2,30})$"
    r"|^(?:\d{1,2}|[A-Z])[.)][ \t]{1,8}(?P<numbered>[^\W\d_][^\n:：.?!,]{0,40})$"
    r"|^\*\*(?P<bold>[^*\n]{1,60})\*\*:?$"
    r"|\n[ \t]{0,20}\n",
    re.MULTILINE,
)
_TITLES = ("heading", "bracketed", "ruled", "underlined", "capitals", "numbered", "bold")
_UNSURE_TITLES = ("underlined", "capitals", "numbered", "bold")
"""Groups of `_BOUNDARY` that count as titles only if they name an author; otherwise their text belongs to a block."""
_PAIRED = re.compile(r"(?P<open>\[%?|\{\{ ?)/(?P<name>[A-Za-z][\w.-]{0,40})(?P<close>%?\]| ?\}\})")
"""A closing tag such as [/QUESTION], {{/question}} or [%/QUESTION%]."""
_ATTRIBUTES = re.compile(
    r"<(?P<tag>[A-Za-z_][\w.:-]{0,60})(?P<attributes>(?:\s{1,8}[\w.:-]{1,60}=\"[^\"<>]{0,4000}\"){1,30})\s{0,8}/>"
)
_ATTRIBUTE = re.compile(r"(?P<name>[\w.:-]{1,60})=\"(?P<value>[^\"]*)\"")
_TAG_ATTRIBUTES = r"(?:[ \t=][^\n\[\]{}]{0,200})?"
_QUOTED = frozenset(labels_file()["html"]["quoted"])
_BOUNDARY_MARKS = ("\n", "<", "`")
"""Characters that a boundary within a text contains. In a text without them, only a boundary at its beginning is
possible.
"""


@dataclass(frozen=True, slots=True)
class Part:
    text: str
    author: Author
    label: str = ""
    """The name of the label or field whose value the text is; empty if there is none."""
    is_below_label: bool = False
    """Whether `author` comes from a label on a line above the text. A label within the text then replaces this
    author.
    """
    is_whole: bool = False
    """Whether the part is the whole text, unsplit: a person may have written all of it."""


class Structure(IntEnum):
    NONE = auto()
    """No structure but blank lines."""
    LABELS = auto()
    """Labels, horizontal lines or fences, which both people and programs write."""
    MARKUP = auto()
    """Tags, headings, JSON or a table, which mostly programs write."""


def split_into_blocks(text: str) -> tuple[list[Part], Structure]:
    """Returns the blocks of a text in order, and the kind of structure that separates them.

    Tags, headings, labels, horizontal lines and blank lines separate blocks. A block's text may be empty.
    """
    text = _with_angle_tags(text)
    boundaries = list(islice(_boundaries(text), MAX_BOUNDARIES))
    closed = _closed_tags(boundaries)
    at, above, is_below_label = 0, Author.UNKNOWN, False
    structure = Structure.MARKUP if closed else Structure.NONE
    open_tags: list[Author] = []
    blocks: list[Part] = []
    for boundary in boundaries:
        title = next(filter(None, map(boundary.group, _TITLES)), "")
        name = title or boundary["label"] or boundary["speaker"] or boundary["section"]
        author = author_of(boundary["tag"] or name or "", is_heading=bool(title))
        end = boundary.start()
        unsure = next(filter(boundary.group, _UNSURE_TITLES), None)
        if unsure and author is Author.UNKNOWN:
            end = boundary.end(unsure)
        elif title or boundary["section"]:
            structure = Structure.MARKUP
        elif boundary[0].strip():
            structure = max(structure, Structure.LABELS)
        blocks.append(_block(text[at:end], open_tags, above, is_below_label))
        if blocks[-1].text.endswith((":", "：")):  # a sentence that introduces what follows
            above = Author.UNKNOWN
        at = boundary.end()
        if boundary.start() in closed:
            if boundary["close"]:
                open_tags.pop()
                above = Author.UNKNOWN  # the heading was about what has ended
            else:  # what is within another's words is another's too, as a tag "text" within "document"
                open_tags.append(within(open_tags[-1], author) if open_tags else author)
        elif name:
            above, is_below_label = author, bool(boundary["label"])
    blocks.append(_block(text[at:], open_tags, above, is_below_label))
    return blocks, structure


def _with_angle_tags(text: str) -> str:
    """Returns the text with tags in other brackets, such as [QUESTION], rewritten as tags in angle brackets.

    Only pairs of tags whose names show an author are rewritten. Attributes of empty XML elements whose values may be
    sentences become elements.
    """
    if "/>" in text:
        text = _ATTRIBUTES.sub(_with_elements, text)
    pairs = {(tag["open"], tag["name"], tag["close"]) for tag in islice(_PAIRED.finditer(text), MAX_PAIRED)}
    for before, name, after in sorted(pairs):
        if author_of(name) is not Author.UNKNOWN:
            opening = f"{re.escape(before + name)}{_TAG_ATTRIBUTES}{re.escape(after)}"
            shown = OTHERS_TAG if name.lower() in _QUOTED else name  # in forums, what somebody else has said
            text = re.sub(opening, f"<{shown}>", text).replace(f"{before}/{name}{after}", f"</{shown}>")
    return text


def _with_elements(empty: re.Match[str]) -> str:
    """Returns an empty XML element as an element that contains its long attributes as elements.

    Long are attributes whose value has two spaces or more; without such attributes the element stays as it is.
    """
    attributes = _ATTRIBUTE.finditer(empty["attributes"])
    inner = [f"<{name}>{value}</{name}>" for name, value in map(re.Match.groups, attributes) if value.count(" ") >= 2]
    return f"<{empty['tag']}>{''.join(inner)}</{empty['tag']}>" if inner else empty[0]


def _boundaries(text: str) -> Iterator[re.Match[str]]:
    if any(map(text.__contains__, _BOUNDARY_MARKS)):
        return _BOUNDARY.finditer(text)
    whole = _BOUNDARY.match(text)  # only a whole line can be one
    return iter([whole] if whole else [])


def _block(text: str, open_tags: Sequence[Author], above: Author, is_below_label: bool) -> Part:
    if open_tags:
        return Part(text.strip(), open_tags[-1])
    return Part(text.strip(), above, is_below_label=is_below_label)


def _closed_tags(boundaries: Sequence[re.Match[str]]) -> set[int]:
    """Returns the positions of all opening and closing tags that form pairs.

    A tag without a partner is only mentioned in the text, for example by an instruction, and so separates nothing.
    """
    found: set[int] = set()
    waiting: dict[str, list[int]] = {}
    for boundary in boundaries:
        tag = boundary["tag"]
        if tag and not boundary["close"]:
            waiting.setdefault(tag, []).append(boundary.start())
        elif tag and waiting.get(tag):
            found |= {waiting[tag].pop(), boundary.start()}
    return found
