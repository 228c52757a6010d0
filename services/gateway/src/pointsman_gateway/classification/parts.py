"""Splits a structured text into parts, such as a prompt that an unknown client has written around a user's words.

The text is split at tags, headings, horizontal lines, blank lines, "label: value" lines, and the fields of JSON and
tables. The names of tags, headings, labels and fields show who wrote the parts.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import TypeVar

from pointsman_gateway.classification.authors import Author, author_of, instructs_model, is_role, within
from pointsman_gateway.classification.blocks import BEFORE_LABEL, Part, Structure, split_into_blocks
from pointsman_gateway.classification.chat_log import TIME
from pointsman_gateway.classification.mail import own_words
from pointsman_gateway.classification.tables import Field, fields_of_json, fields_of_table

MAX_PARTS_PER_END = 24
"""If a text has more than twice this number of parts, only this number of parts at each end is used."""
MAX_SEARCHED = 2_048
"""Number of characters at each end of an unstructured text that are searched for an instruction to a model."""
MAX_PART_CHARACTERS, MAX_WHOLE_CHARACTERS = 600, 2_000
MIN_REPEATED = 3
MIN_ROWS, MIN_LINES = 2, 3
MIN_QUOTED_WORDS, MAX_QUOTATIONS = 3, 8
LONG_CHARACTERS = 240
"""A paragraph of more characters than this is split into its sentences."""

_LINE = re.compile(
    rf"^{BEFORE_LABEL}"
    rf"(?:[\[(]?[\d/., -]{{0,12}}T?{TIME}[\])]?[ \t]{{1,20}}(?:[-–—][ \t])?"
    r"(?P<said_by>[^\n:?!]{1,60}?):[ \t]{1,20}"
    r"|(?P<label>[^\W\d][^\n:：?!]{0,60}?)[ \t*\"']{0,4}(?::[ \t*]{1,20}|：[ \t*]{0,20})"
    r"|(?P<key>[A-Za-z][\w.-]{0,40})[ \t]{0,4}=[ \t]{0,4})"
    r"(?P<value>\S.*)$",
    re.MULTILINE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?:])[\"')\]]*\s+|(?<=[。！？：])|\n")
_QUOTES = " \t\n\"'“”«»„「」"
_QUOTATION = re.compile(
    r"\"([^\"\n]+)\"|[“„]([^“”„\n]+)[”“]|«([^«»\n]+)»|「([^「」\n]+)」|(?<!`)`([^`\n]+)`(?!`)"
    r"|(?<!\w)'((?:[^'\n]|'(?=\w)){1,600})'(?!\w)"
)
_MENTION = re.compile(r"^(?:<?@[\w!&-]{1,40}>?[,:]?[ \t]{1,20})+")
_MARKERS = re.compile(r"^[ \t]{0,20}(?:>|[-*•]|\d{1,2}[.)])[ \t]{1,20}", re.MULTILINE)
_FIELD = re.compile(
    r"(?:[{(,][ \t]{0,8}(?P<name>[A-Za-z_]\w{0,40})[ \t]{0,3}:"
    r"|(?<![\w.-])(?P<label>[A-Za-z_][\w.-]{0,40})[ \t]{0,3}=|[\"'](?P<key>[A-Za-z_][\w.-]{0,40})[\"'][ \t]{0,3}:)"
    r"[ \t]{0,3}(?:\"(?P<value>[^\"\n]*)\"|'(?P<single>[^'\n]{0,600}(?:'(?=\w)[^'\n]{0,600}){0,4})'(?!\w))"
)
_ROW = re.compile(r"[ \t]{0,20}[|│┃║┌├└╔╠╚]|[^|│\n]{1,200}[ \t][|│][ \t]|[ \t]{0,20}-{2,80}\+-")
_JSON = re.compile(r"^[^\n{]{0,200}\{[ \t]{0,20}[\"\n]", re.MULTILINE)

Item = TypeVar("Item")


def split_into_parts(text: str) -> list[Part]:
    """Returns the parts of a text in order, each once. Of too many parts, only those at both ends are returned
    (`MAX_PARTS_PER_END`).

    If people write texts of this structure too, such as "label: value" lines, the whole text is an additional part. A
    text without structure is one part. If it has at least `MIN_LINES` lines, the lines and the whole text are its
    parts. Whole texts of more than `MAX_WHOLE_CHARACTERS` are not added, and their lines are not parts. Long sentences
    and values are cut to `MAX_PART_CHARACTERS`.
    """
    fields = fields_of_json(text) if text[:1] in ("{", "[") else fields_of_table(text)
    if fields is not None:
        return _distinct(_of_fields(fields, Author.UNKNOWN))
    blocks, structure = split_into_blocks(text)
    if structure is Structure.MARKUP:
        return _distinct(part for block in blocks for part in _parts(block))
    whole, is_short = Part(text, Author.UNKNOWN, is_whole=True), len(text) <= MAX_WHOLE_CHARACTERS
    ends = {text[:MAX_SEARCHED], text[-MAX_SEARCHED:]}  # of a short text one
    if structure is Structure.LABELS or _has_structured_lines(text) or any(map(instructs_model, ends)):
        parts = _distinct(part for block in blocks for part in _parts(block))
        return [*parts, whole] if is_short else parts
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < MIN_LINES or not is_short:
        return [whole]
    return [*_distinct(part for line in lines for part in _sentences(Part(line, Author.UNKNOWN))), whole]


def _distinct(parts: Iterable[Part]) -> list[Part]:
    return _both_ends(list(dict.fromkeys(part for part in parts if part.text)))


def _both_ends(items: list[Item]) -> list[Item]:
    return items if len(items) <= 2 * MAX_PARTS_PER_END else items[:MAX_PARTS_PER_END] + items[-MAX_PARTS_PER_END:]


def _has_structured_lines(text: str) -> bool:
    if any(pattern.search(text) for pattern in (_LINE, _FIELD, _JSON)):
        return True
    return sum(map(bool, map(_ROW.match, text.split("\n")))) >= MIN_ROWS


def _parts(block: Part) -> Iterator[Part]:
    """Splits a block into parts: the texts of its JSON, the cells of its tables, its fields and its other text.

    NAME="value" fields are used if there are more than two, or if one is named as the user's; otherwise the block is
    split at "label: value" lines. Text that is long or an instruction to a model is split into sentences.
    """
    text = own_words(block.text) if "\n" in block.text else block.text
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
    fields = [(_name(one), one["value"] or one["single"] or "") for one in _FIELD.finditer(text)]
    if len(fields) > 2 or any(author_of(label) is Author.USER for label, _ in fields):
        for label, value in _both_ends(fields):
            yield Part(value, within(block.author, author_of(label)), label)
        return
    at = 0
    for line in _LINE.finditer(text):
        yield from _sentences(Part(text[at : line.start()], block.author))
        label = _label(line)
        author = author_of(label)
        is_earlier = block.author is Author.HISTORY and is_role(label)
        if author is Author.UNKNOWN or is_earlier or not block.is_below_label:
            author = within(block.author, author)
        yield from _sentences(Part(line["value"], author, label.lower()))
        at = line.end()
    yield from _sentences(Part(text[at:], block.author))


def _name(field: re.Match[str]) -> str:
    return field["label"] or field["key"] or field["name"]


def _label(line: re.Match[str]) -> str:
    return line["label"] or line["key"] or line["said_by"]


def _sentences(part: Part) -> Iterator[Part]:
    """Yields the text of a part without list marks, or its single sentences if it is long or an instruction to a model.

    Also yields the quotations of at least `MIN_QUOTED_WORDS` words within the part.
    """
    text = _MENTION.sub("", _MARKERS.sub("", part.text).strip(_QUOTES))
    if len(text) <= LONG_CHARACTERS and not instructs_model(text):
        yield replace(part, text=text)
    else:
        for sentence in _both_ends(_SENTENCE_END.split(text)):
            yield replace(part, text=sentence[:MAX_PART_CHARACTERS].strip(_QUOTES))
    first, _, rest = part.text.partition("\n")
    if rest and first.rstrip().endswith((":", "：")):  # a line that introduces what follows
        yield replace(part, text=rest[:MAX_PART_CHARACTERS].strip(_QUOTES))
    for quotation in islice(_QUOTATION.finditer(part.text), MAX_QUOTATIONS):
        quoted = quotation[quotation.lastindex or 0].strip()
        if len(quoted.split()) >= MIN_QUOTED_WORDS:
            yield replace(part, text=quoted[:MAX_PART_CHARACTERS])


def _of_fields(fields: Sequence[Field], outer: Author) -> Iterator[Part]:
    """Yields the values of JSON or of a table as parts. `outer` is the author of the text around them.

    If many values have the same name, the name does not show that the user wrote them: such values describe choices, or
    are a list of texts. The exception is a value whose speaker is known.
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
        inner = fields_of_json(field.text) if field.text.startswith(("{", "[")) else None
        if inner:
            yield from _of_fields([one._replace(names=(*field.names, *one.names)) for one in inner], outer)
        elif any(author_of(_label(line)) is Author.USER for line in _LINE.finditer(field.text)):
            yield from _of_lines(Part(field.text, author))
        else:
            yield Part(field.text[:MAX_PART_CHARACTERS].strip(_QUOTES), author, label)
