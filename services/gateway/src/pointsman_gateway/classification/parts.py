"""Splits a structured text, such as a prompt that an unknown client has written around a user's words.

It is split at tags, headings, horizontal lines, blank lines, "label: value" lines, and the fields of JSON and tables.
Their names tell the authors of the parts.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TypeVar

from pointsman_gateway.classification.authors import Author, author_of, instructs_model, is_role, within
from pointsman_gateway.classification.tables import Field, fields_of_json, fields_of_table

MAX_PARTS_PER_END = 24
"""If a text has more than twice this many parts, only this many at each end are scored."""
MAX_BOUNDARIES = 400
MAX_SEARCHED = 2_048
"""Characters at each end of an unstructured text that are searched for an instruction to a model."""
MAX_PART_CHARACTERS = 600
MIN_REPEATED = 3
MIN_QUOTED_WORDS, MAX_QUOTATIONS = 3, 8
LONG_CHARACTERS = 240
"""Each sentence of a longer paragraph is a part of its own."""

_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,6})?Z?(?:[ ]?[AaPp]\.?[Mm]\.?)?"
_BOUNDARY = re.compile(
    r"^<(?P<section>[A-Z][\w-]{0,30}(?: [\w-]{1,30}){1,4})>[ \t]{0,20}$"
    r"|<(?P<close>/?)(?P<tag>[A-Za-z_][\w.-]{0,60})(?:\s[^<>]{0,200})?>"
    r"|<\|[^|<>\n]{1,40}\|>"
    r"|^[ \t]{0,20}(?:[-=*_~#]{3,80}(?:[ \t].{1,60}[ \t][-=*_~#]{3,80})?[ \t]{0,20}|`{3}[\w.+-]{0,20}[ \t]{0,20})$"
    r"|`{3}"
    r"|^#{1,6}[ \t]+(?P<heading>.*)$"
    r"|^[ \t]{0,20}\[{1,2}[ \t#]{0,4}(?P<bracketed>[^\W\d][^\[\]\n]{0,160}?)[ \t#]{0,4}\]{1,2}:?[ \t]{0,20}$"
    r"|^[ \t>*-]{0,20}(?P<label>[^\W\d_][^\n:：.?!]{0,40}?)[ \t*]{0,4}[:：][ \t*]{0,20}(?:[|>][+-]?[ \t]{0,20})?$"
    rf"|^(?P<speaker>[A-Za-z][^\n:.?!]{{0,30}}?)[ \t]{{1,20}}{_TIME}[ \t]{{0,20}}$"
    r"|^(?P<underlined>[^\W\d_][\w-]{0,20}(?: [\w-]{1,20}){0,2})\n[=~-]{3,80}[ \t]{0,20}$"
    r"|^(?P<capitals>[A-Z][A-Z_ ]{2,30})$"
    r"|\n[ \t]{0,20}\n",
    re.MULTILINE,
)
_BOUNDARY_MARKS = ("\n", "<", "`")
"""A text without any of them is one line."""
_LINE = re.compile(
    r"^[ \t>*-]{0,20}"
    rf"(?:[\[(]?[\d/., -]{{0,12}}T?{_TIME}[\])]?[ \t]{{1,20}}(?:[-–—][ \t])?"
    r"(?P<said_by>[^\n:?!]{1,60}?):[ \t]{1,20}"
    r"|(?P<label>[^\W\d][^\n:：?!]{0,60}?)[ \t*\"']{0,4}(?::[ \t*]{1,20}|：[ \t*]{0,20})"
    r"|(?P<key>[A-Za-z][\w.-]{0,40})[ \t]{0,4}=[ \t]{0,4})"
    r"(?P<value>\S.*)$",
    re.MULTILINE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?:])[\"')\]]*\s+|(?<=[。！？：])|\n")
_QUOTES = " \t\n\"'“”«»„「」"
_QUOTATION = re.compile(r"\"([^\"\n]+)\"|[“„]([^“”„\n]+)[”“]|«([^«»\n]+)»|「([^「」\n]+)」")
_MENTION = re.compile(r"^(?:<?@[\w!&-]{1,40}>?[,:]?[ \t]{1,20})+")
_MARKERS = re.compile(r"^[ \t]{0,20}(?:>|[-*•]|\d{1,2}[.)])[ \t]{1,20}", re.MULTILINE)
_FIELD = re.compile(r'\b(?P<label>[\w.-]{1,40})="(?P<value>[^"\n]*)"')
_ROW = re.compile(r"^[ \t]{0,20}\|", re.MULTILINE)
_JSON = re.compile(r"^[^\n{]{0,200}\{[ \t]{0,20}[\"\n]", re.MULTILINE)

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Part:
    text: str
    author: Author
    label: str = ""
    """The name of the label or field that the text is the value of; empty if there is none."""
    is_below_label: bool = False
    """Whether `author` comes from a label on a line above the text. A label within the text then replaces it."""


def split_into_parts(text: str) -> list[Part]:
    """Returns the parts of a text in order, each once; of too many, only those at both ends (`MAX_PARTS_PER_END`).

    A text without structure is one part. Blank lines count as structure only if the text instructs a model near its
    beginning or end, since people write paragraphs as well. Long sentences and values are cut to `MAX_PART_CHARACTERS`.
    """
    fields = fields_of_json(text) if text[:1] in ("{", "[") else fields_of_table(text)
    if fields is not None:
        return _distinct(_of_fields(fields, Author.UNKNOWN))
    blocks, is_structured = _blocks(text)
    ends = {text[:MAX_SEARCHED], text[-MAX_SEARCHED:]}  # of a short text one
    if not is_structured and not any(map(instructs_model, ends)):
        return [Part(text, Author.UNKNOWN)]
    return _distinct(part for block in blocks for part in _parts(block))


def _distinct(parts: Iterable[Part]) -> list[Part]:
    return _both_ends(list(dict.fromkeys(part for part in parts if part.text)))


def _both_ends(items: list[Item]) -> list[Item]:
    return items if len(items) <= 2 * MAX_PARTS_PER_END else items[:MAX_PARTS_PER_END] + items[-MAX_PARTS_PER_END:]


def _blocks(text: str) -> tuple[list[Part], bool]:
    """Returns the blocks of a text, which are what its tags, headings, labels, horizontal lines and blank lines
    separate, and whether the text has any structure apart from blank lines. Blocks may be empty.
    """
    boundaries = list(islice(_boundaries(text), MAX_BOUNDARIES))
    closed = _closed_tags(boundaries)
    at, above, is_below_label = 0, Author.UNKNOWN, False
    is_structured = _is_structured(text)
    open_tags: list[Author] = []
    blocks: list[Part] = []
    for boundary in boundaries:
        title = boundary["heading"] or boundary["bracketed"] or boundary["underlined"] or boundary["capitals"]
        name = title or boundary["label"] or boundary["speaker"] or boundary["section"]
        author = author_of(boundary["tag"] or name or "", is_heading=bool(title))
        end = boundary.start()
        if author is Author.UNKNOWN and (boundary["underlined"] or boundary["capitals"]):  # perhaps a text
            end = boundary.end("underlined" if boundary["underlined"] else "capitals")
        blocks.append(_block(text[at:end], open_tags, above, is_below_label))
        if blocks[-1].text.endswith((":", "：")):  # a sentence that introduces what follows
            above = Author.UNKNOWN
        at = boundary.end()
        is_structured = is_structured or bool(boundary[0].strip())
        if boundary.start() in closed:
            if boundary["close"]:
                open_tags.pop()
                above = Author.UNKNOWN  # the heading was about what has ended
            else:  # what is within another's words is another's too, as a tag "text" within "document"
                open_tags.append(within(open_tags[-1], author) if open_tags else author)
        elif name:
            above, is_below_label = author, bool(boundary["label"])
    blocks.append(_block(text[at:], open_tags, above, is_below_label))
    return blocks, is_structured


def _is_structured(text: str) -> bool:
    """Returns whether a text has structure within its lines."""
    return bool(_LINE.search(text) or ('="' in text and _FIELD.search(text)) or _ROW.search(text) or _JSON.search(text))


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
    """Returns the positions of the opening and closing tags that belong together. A tag without a partner is only
    mentioned, for example by an instruction.
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


def _parts(block: Part) -> Iterator[Part]:
    """Splits a block into the texts of its JSON, the cells of its tables, its NAME="value" fields if it has more than
    two, or its "label: value" lines and the rest. If such a line or the rest is long or an instruction, each sentence
    is a part.
    """
    text = block.text
    fields = fields_of_json(text) if "{" in text or text[:1] == "[" else fields_of_table(text)
    if fields is not None:
        yield from _of_fields(fields, block.author)
        return
    for is_table, lines in groupby(text.split("\n"), key=lambda line: bool(_ROW.match(line))):
        some = "\n".join(lines)
        fields = fields_of_table(some) if is_table else None
        yield from _of_lines(replace(block, text=some)) if fields is None else _of_fields(fields, block.author)


def _of_lines(block: Part) -> Iterator[Part]:
    text = block.text
    fields = list(_FIELD.finditer(text))
    if len(fields) > 2:
        for field in _both_ends(fields):
            yield Part(field["value"], within(block.author, author_of(field["label"])), field["label"])
        return
    at = 0
    for line in _LINE.finditer(text):
        yield from _sentences(Part(text[at : line.start()], block.author))
        label = line["label"] or line["key"] or line["said_by"]
        author = author_of(label)
        is_earlier = block.author is Author.HISTORY and is_role(label)
        if author is Author.UNKNOWN or is_earlier or not block.is_below_label:
            author = within(block.author, author)
        yield from _sentences(Part(line["value"], author, label.lower()))
        at = line.end()
    yield from _sentences(Part(text[at:], block.author))


def _sentences(part: Part) -> Iterator[Part]:
    """Yields a part without marks at its beginning, or of a long part or an instruction each sentence; and the
    quotations of at least `MIN_QUOTED_WORDS` words within it.
    """
    text = _MENTION.sub("", _MARKERS.sub("", part.text).strip(_QUOTES))
    if len(text) <= LONG_CHARACTERS and not instructs_model(text):
        yield replace(part, text=text)
    else:
        for sentence in _both_ends(_SENTENCE_END.split(text)):
            yield replace(part, text=sentence[:MAX_PART_CHARACTERS].strip(_QUOTES))
    for quotation in islice(_QUOTATION.finditer(part.text), MAX_QUOTATIONS):
        quoted = quotation[quotation.lastindex or 0].strip()
        if len(quoted.split()) >= MIN_QUOTED_WORDS:
            yield replace(part, text=quoted[:MAX_PART_CHARACTERS])


def _of_fields(fields: Sequence[Field], outer: Author) -> Iterator[Part]:
    """Yields the parts of the values of JSON or of a table. A name that many values have shows no author, unless it is
    known who said them: such values describe choices, or are a list of texts.
    """
    counts = Counter(field.names for field in fields if not field.speaker)
    for field in _both_ends(list(fields)):
        if not field.names:
            yield from _of_lines(Part(field.text, outer))
            continue
        author = within(outer, author_of(field.speaker))
        is_repeated = counts[field.names] >= MIN_REPEATED
        for name in field.names:
            author = within(author, author_of(name))
        if is_repeated and author is Author.USER:
            author = Author.UNKNOWN
        label = "" if is_repeated else f"{'.'.join(field.names)} {field.speaker}"
        yield Part(field.text[:MAX_PART_CHARACTERS].strip(_QUOTES), author, label)
